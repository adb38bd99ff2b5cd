#ifndef POET_PAGE_H
#define POET_PAGE_H

/*
 * Pages: tensors on storage, each followed by a trailer with a CRC, so that a flipped bit is an error and never a
 * wrong gradient. A page's address comes from the schedule; size_bytes is the tensor's size, the trailer is extra
 * (POET_PAGE_TRAILER_BYTES, which the code generator leaves room for).
 */
#include <stdint.h>

#include "poet/status.h"

#define POET_PAGE_TRAILER_BYTES 8u

/* Write a tensor. */
poet_status_t poet_page_out(uint32_t address, const void *data, uint32_t size_bytes);

/* Read a tensor back. POET_ERR_CORRUPT when the CRC differs; `data` is then not to be used. */
poet_status_t poet_page_in(uint32_t address, void *data, uint32_t size_bytes);

#endif
