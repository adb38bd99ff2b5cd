#ifndef POET_PAGE_H
#define POET_PAGE_H

/*
 * Pages: tensors on storage, each followed by a trailer with a CRC, so that a flipped bit is an error and
 * never a wrong gradient. A page's address comes from the schedule; size_bytes is the tensor's size, the
 * trailer is extra (POET_PAGE_TRAILER_BYTES, which the code generator leaves room for).
 */
#include <stdint.h>

#include "poet/status.h"

#define POET_PAGE_TRAILER_BYTES 8u

/* Write a tensor. */
poet_status_t poet_page_out(uint32_t address, const void *data, uint32_t size_bytes);

/* Write a tensor of zeros, from no memory of its size. */
poet_status_t poet_page_zero(uint32_t address, uint32_t size_bytes);

/* Read a tensor back. POET_ERR_CORRUPT when the CRC differs; `data` is then not to be used. */
poet_status_t poet_page_in(uint32_t address, void *data, uint32_t size_bytes);

/* The CRC in a page's trailer. POET_ERR_CORRUPT when the trailer is not that of a page of this size. */
poet_status_t poet_page_crc(uint32_t address, uint32_t size_bytes, uint32_t *crc);

/* Make a page writable, before its data are written piece by piece. */
poet_status_t poet_page_erase(uint32_t address, uint32_t size_bytes);

/* Write a page's trailer, after its data were written piece by piece. */
poet_status_t poet_page_seal(uint32_t address, uint32_t size_bytes, uint32_t crc);

typedef struct {
    uint32_t outs;
    uint32_t ins;
} poet_page_counts_t;

/* Tensors written and read since boot. */
poet_page_counts_t poet_page_counts(void);

#endif
