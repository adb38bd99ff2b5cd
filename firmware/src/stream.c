#include "poet/stream.h"

#include <string.h>

#include "poet/crc32.h"
#include "poet/page.h"

poet_stream_t poet_stream(uint32_t address, uint32_t size_bytes)
{
    const poet_stream_t stream = {address, size_bytes, 0, 0};
    return stream;
}

/* The CRC of a message is the exclusive or of its parts' CRCs, each as if zeros that change nothing followed it. */
static void count(poet_stream_t *stream, const uint8_t *data, uint32_t offset, uint32_t size_bytes)
{
    const uint32_t after = stream->size_bytes - offset - size_bytes;
    stream->crc ^= poet_crc32_shift(poet_crc32(0, data, size_bytes), after);
    stream->seen_bytes += size_bytes;
}

static poet_status_t end_of_read(poet_stream_t *stream)
{
    uint32_t sealed_crc;
    POET_TRY(poet_page_crc(stream->address, stream->size_bytes, &sealed_crc));
    const uint32_t crc = stream->crc;
    stream->seen_bytes = 0;
    stream->crc = 0;
    return crc == sealed_crc ? POET_OK : POET_ERR_CORRUPT;
}

poet_status_t poet_stream_read(poet_stream_t *stream, void *tile, uint32_t offset, const poet_tile_t *shape)
{
    uint8_t *run = tile;
    for (uint32_t i = 0; i < shape->runs; i++) {
        POET_TRY(poet_page_read(stream->address, offset, run, shape->run_bytes));
        count(stream, run + shape->again_bytes, offset + shape->again_bytes, shape->run_bytes - shape->again_bytes);
        run += shape->run_bytes;
        offset += shape->stride_bytes;
    }
    return stream->seen_bytes < stream->size_bytes ? POET_OK : end_of_read(stream);
}

poet_status_t poet_stream_write(poet_stream_t *stream, const void *tile, uint32_t offset, const poet_tile_t *shape)
{
    if (stream->seen_bytes == 0) {
        POET_TRY(poet_page_begin(stream->address, stream->size_bytes));
    }
    const uint8_t *run = tile;
    for (uint32_t i = 0; i < shape->runs; i++) {
        POET_TRY(poet_page_write(stream->address, offset, run, shape->run_bytes));
        count(stream, run, offset, shape->run_bytes);
        run += shape->run_bytes;
        offset += shape->stride_bytes;
    }
    if (stream->seen_bytes < stream->size_bytes) {
        return POET_OK;
    }
    const uint32_t crc = stream->crc;
    stream->seen_bytes = 0;
    stream->crc = 0;
    return poet_page_seal(stream->address, stream->size_bytes, crc);
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
