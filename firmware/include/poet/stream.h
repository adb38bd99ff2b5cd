#ifndef POET_STREAM_H
#define POET_STREAM_H

/*
 * Tensors on storage, read and written a tile at a time by an op that never has them whole in RAM. They are ordinary
 * pages (page.h): what was streamed out can be paged in whole, and the other way round.
 *
 * A tile is a number of runs of equal length at equal distances: rows of an image in every channel, or a single run.
 * All tiles of one pass cover the tensor; the page's CRC is put together from theirs in whatever order they come, and
 * checked, or written, when the last one of a pass was there. The next tile then begins another pass.
 */
#include <stdint.h>

#include "poet/status.h"

typedef struct {
    uint32_t run_bytes;    /* of one run, in the tile and on storage */
    uint32_t runs;         /* they lie behind each other in the tile */
    uint32_t stride_bytes; /* from the start of one run to that of the next on storage */
    uint32_t again_bytes;  /* so many bytes at the start of each run were in an earlier tile of this pass, too */
} poet_tile_t;

typedef struct {
    uint32_t address;        /* of the page */
    uint32_t size_bytes;     /* of the tensor */
    uint32_t begun_bytes;    /* of the running pass, read or about to be */
    uint32_t sealed_crc;     /* that what is read must have */
    uint32_t seen_bytes;     /* of the running pass, read and counted, or written */
    uint32_t in_order_bytes; /* of those, from the tensor's start on without a gap */
    uint32_t in_order_crc;   /* of these bytes */
    uint32_t crc;            /* what all other tiles contribute to the tensor's */
} poet_stream_t;

/* The tensor in the page at `address`, before a pass. */
poet_stream_t poet_stream(uint32_t address, uint32_t size_bytes);

/*
 * Read the tile whose first run begins `offset` bytes into the tensor. POET_ERR_CORRUPT at the end of a pass whose
 * bytes are not those that were written; what was computed from them is then not to be used.
 */
poet_status_t poet_stream_read(poet_stream_t *stream, void *tile, uint32_t offset, const poet_tile_t *shape);

/*
 * The same in two halves: begin to read; then, after a poet_page_wait() (page.h) behind it, let the tile count, as
 * poet_stream_read() does. Between the start and the wait nothing else uses the tile; the next one may be started before
 * this one counts, so that the device reads while the core computes. After an error nothing is under way.
 */
poet_status_t poet_stream_start(poet_stream_t *stream, void *tile, uint32_t offset, const poet_tile_t *shape);
poet_status_t poet_stream_check(poet_stream_t *stream, const void *tile, uint32_t offset, const poet_tile_t *shape);

/*
 * Write a tile; none of its bytes may be written again in the same pass. The first tile of a pass erases the page, on
 * devices that need that.
 */
poet_status_t poet_stream_write(poet_stream_t *stream, const void *tile, uint32_t offset, const poet_tile_t *shape);

/* Copy a tile out of a tensor in RAM, or back into it. */
void poet_tile_gather(void *tile, const void *tensor, const poet_tile_t *shape);
void poet_tile_scatter(void *tensor, const void *tile, const poet_tile_t *shape);

/* Copy `count` rows of a table of `rows` rows by index, as poet_page_rows() does from storage (page.h). */
void poet_tile_rows(void *tile, const void *table, uint32_t rows, uint32_t row_bytes, const int32_t *index,
                    uint32_t count);

#endif
