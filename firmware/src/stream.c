#include "poet/stream.h"

#include <string.h>

#include "poet/crc32.h"
#include "poet/page.h"

poet_stream_t poet_stream(uint32_t address, uint32_t size_bytes)
{
    const poet_stream_t stream = {.address = address, .size_bytes = size_bytes};
    return stream;
}

/*
 * Takes the CRC of the tile into that of the pass. A tile that goes on where the one before ended is counted as usual; for
 * others, the CRC of a message is the exclusive or of its parts' CRCs, each as if zeros that change nothing followed it.
 */
static void count(poet_stream_t *stream, const uint8_t *tile, uint32_t offset, const poet_tile_t *shape)
{
    const uint32_t fresh_bytes = shape->run_bytes - shape->again_bytes;
    const uint8_t *run = tile + shape->again_bytes;
    const uint32_t first = offset + shape->again_bytes;
    if (shape->runs == 1u && stream->in_order_bytes == first) {
        stream->in_order_crc = poet_crc32(stream->in_order_crc, run, fresh_bytes);
        stream->in_order_bytes += fresh_bytes;
    } else {
        const uint32_t step = shape->runs > 1u ? poet_crc32_power(shape->stride_bytes) : 0u;
        uint32_t crc = poet_crc32(0, run, fresh_bytes);
        for (uint32_t i = 1; i < shape->runs; i++) {
            run += shape->run_bytes;
            crc = poet_crc32_multiply(crc, step) ^ poet_crc32(0, run, fresh_bytes);
        }
        const uint32_t end = first + (shape->runs - 1u) * shape->stride_bytes + fresh_bytes;
        stream->crc ^= poet_crc32_multiply(crc, poet_crc32_power(stream->size_bytes - end));
    }
    stream->seen_bytes += shape->runs * fresh_bytes;
}

/* The CRC of the whole tensor; the next tile that is seen begins another pass. */
static uint32_t end_of_pass(poet_stream_t *stream)
{
    const uint32_t after = stream->size_bytes - stream->in_order_bytes;
    const uint32_t crc = stream->crc ^ poet_crc32_multiply(stream->in_order_crc, poet_crc32_power(after));
    stream->seen_bytes = 0;
    stream->in_order_bytes = 0;
    stream->in_order_crc = 0;
    stream->crc = 0;
    return crc;
}

/* A tile of a pass is about to be read. With the first one comes what the page's header says. */
static poet_status_t begin(poet_stream_t *stream, const poet_tile_t *shape)
{
    const uint32_t fresh_bytes = (shape->run_bytes - shape->again_bytes) * shape->runs;
    if (stream->begun_bytes == 0u && fresh_bytes > 0u) {
        POET_TRY(poet_page_crc(stream->address, stream->size_bytes, &stream->sealed_crc));
    }
    stream->begun_bytes += fresh_bytes;
    if (stream->begun_bytes == stream->size_bytes) {
        stream->begun_bytes = 0;
    }
    return POET_OK;
}

/* A tile is there. The last one of a pass tells whether all of them are what was written. */
static poet_status_t end(poet_stream_t *stream, const uint8_t *tile, uint32_t offset, const poet_tile_t *shape)
{
    count(stream, tile, offset, shape);
    if (stream->seen_bytes < stream->size_bytes) {
        return POET_OK;
    }
    return end_of_pass(stream) == stream->sealed_crc ? POET_OK : POET_ERR_CORRUPT;
}

poet_status_t poet_stream_read(poet_stream_t *stream, void *tile, uint32_t offset, const poet_tile_t *shape)
{
    POET_TRY(begin(stream, shape));
    uint8_t *run = tile;
    for (uint32_t i = 0; i < shape->runs; i++) {
        POET_TRY(poet_page_read(stream->address, offset + i * shape->stride_bytes, run, shape->run_bytes));
        run += shape->run_bytes;
    }
    return end(stream, tile, offset, shape);
}

poet_status_t poet_stream_start(poet_stream_t *stream, void *tile, uint32_t offset, const poet_tile_t *shape)
{
    poet_status_t status = begin(stream, shape);
    if (status == POET_OK) {
        status = poet_page_start(stream->address, offset, tile, shape->run_bytes, shape->runs, shape->stride_bytes);
    }
    if (status != POET_OK) {
        (void)poet_page_wait();
    }
    return status;
}

poet_status_t poet_stream_check(poet_stream_t *stream, const void *tile, uint32_t offset, const poet_tile_t *shape)
{
    const poet_status_t status = end(stream, tile, offset, shape);
    if (status != POET_OK) {
        (void)poet_page_wait();
    }
    return status;
}

poet_status_t poet_stream_write(poet_stream_t *stream, const void *tile, uint32_t offset, const poet_tile_t *shape)
{
    if (stream->seen_bytes == 0) {
        POET_TRY(poet_page_begin(stream->address, stream->size_bytes));
    }
    const uint8_t *run = tile;
    for (uint32_t i = 0; i < shape->runs; i++) {
        POET_TRY(poet_page_write(stream->address, offset + i * shape->stride_bytes, run, shape->run_bytes));
        run += shape->run_bytes;
    }
    count(stream, tile, offset, shape);
    if (stream->seen_bytes < stream->size_bytes) {
        return POET_OK;
    }
    return poet_page_seal(stream->address, stream->size_bytes, end_of_pass(stream));
}

void poet_tile_gather(void *tile, const void *tensor, const poet_tile_t *shape)
{
    for (uint32_t i = 0; i < shape->runs; i++) {
        memcpy((uint8_t *)tile + i * shape->run_bytes, (const uint8_t *)tensor + i * shape->stride_bytes,
               shape->run_bytes);
    }
}

void poet_tile_scatter(void *tensor, const void *tile, const poet_tile_t *shape)
{
    for (uint32_t i = 0; i < shape->runs; i++) {
        memcpy((uint8_t *)tensor + i * shape->stride_bytes, (const uint8_t *)tile + i * shape->run_bytes,
               shape->run_bytes);
    }
}

void poet_tile_rows(void *tile, const void *table, uint32_t rows, uint32_t row_bytes, const int32_t *index,
                    uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        memcpy((uint8_t *)tile + i * row_bytes, (const uint8_t *)table + poet_page_row(index[i], rows) * row_bytes,
               row_bytes);
    }
}
