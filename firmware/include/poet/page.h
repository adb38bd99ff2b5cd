#ifndef POET_PAGE_H
#define POET_PAGE_H

/*
 * Pages: tensors on storage, each behind a header with CRCs, so that a flipped bit, a page that is not where it
 * should be, or an old one is an error and never a wrong gradient.
 *
 * Addresses come from the schedule; they lie in a window of poet_model.page_window_units units, and a page begins
 * with a unit. Where the device has to be erased, poet_step() moves the window down by poet_model.page_stride units each
 * time, around a ring of poet_model.page_units units, so that all of them wear alike: in as many steps as there are
 * units each is erased equally often. So a parameter's page of the step before is a stride above its new one.
 *
 * Where nothing is erased, the window stays, and each parameter's page has two places, poet_model.page_swap_units apart.
 * Those that a checkpoint holds are not written over: the step after it reads them and writes to the other places. Steps
 * after that write over the pages that they read, until there is a checkpoint again.
 */
#include <stdbool.h>
#include <stdint.h>

#include "poet/status.h"

#define POET_PAGE_HEADER_BYTES 16u

/*
 * At boot, after poet_storage_init(): find out where the window was, and go on from there. POET_ERR_STORAGE_FULL when
 * the device is too small, POET_ERR_WRONG_DEVICE when its erase unit is not the one that the schedule was made for.
 */
poet_status_t poet_page_init(void);

/* A training step begins: the window moves on. */
void poet_page_turn(void);

/* Write a tensor. */
poet_status_t poet_page_out(uint32_t address, const void *data, uint32_t size_bytes);

/* A parameter that a step leaves as it is: its page of the step before becomes the new one. */
poet_status_t poet_page_keep(uint32_t from, uint32_t to, uint32_t size_bytes);

/* A tensor that a step does not compute, but reads: zeros, from no memory of its size. */
poet_status_t poet_page_zero(uint32_t address, uint32_t size_bytes);

/* The same, `zero_bytes` at a time from a buffer of zeros. */
poet_status_t poet_page_zero_from(uint32_t address, uint32_t size_bytes, const void *zeros, uint32_t zero_bytes);

/* Read a tensor back. POET_ERR_CORRUPT when a CRC differs; `data` is then not to be used. */
poet_status_t poet_page_in(uint32_t address, void *data, uint32_t size_bytes);

/*
 * A page in pieces: begin (its old data are gone), write all of it, seal with the CRC of the data. It is corrupt until
 * it is sealed.
 */
poet_status_t poet_page_begin(uint32_t address, uint32_t size_bytes);
poet_status_t poet_page_write(uint32_t address, uint32_t offset, const void *data, uint32_t size_bytes);
poet_status_t poet_page_seal(uint32_t address, uint32_t size_bytes, uint32_t crc);

/*
 * The CRC in a page's header. POET_ERR_CORRUPT when the header is not that of this page, at this size, or not of this
 * turn; where a step finds a parameter, it may be of the turn before, and a frozen parameter's or an input's page may be
 * of any.
 */
poet_status_t poet_page_crc(uint32_t address, uint32_t size_bytes, uint32_t *crc);

/* The same between two steps, when parameters are of this turn, too. */
poet_status_t poet_page_crc_of_turn(uint32_t address, uint32_t size_bytes, uint32_t *crc);

/* Part of a page's data, unchecked. */
poet_status_t poet_page_read(uint32_t address, uint32_t offset, void *data, uint32_t size_bytes);

/*
 * Begin to read `runs` parts of a page's data, `stride_bytes` apart, into `data`, where they lie behind each other. They
 * are there, unchecked, after poet_page_wait(), and nothing else may use `data` before. A driver that moves all bytes
 * itself reads at once.
 */
poet_status_t poet_page_start(uint32_t address, uint32_t offset, void *data, uint32_t run_bytes, uint32_t runs,
                              uint32_t stride_bytes);

/* What was started is there, all of it. After an error nothing is under way. */
poet_status_t poet_page_wait(void);

/*
 * The row of a table of `rows` rows that an index means, as gather kernels have it: negative ones count from the end, and
 * one outside the table takes the nearest row.
 */
uint32_t poet_page_row(int32_t index, uint32_t rows);

/*
 * Read `count` rows of a frozen table of `rows` rows, by index. Behind the page's data lies a CRC for each row, of its
 * bytes and its number (u32): POET_ERR_CORRUPT where one does not fit.
 */
poet_status_t poet_page_rows(uint32_t address, uint32_t rows, uint32_t row_bytes, const int32_t *index, uint32_t count,
                             void *data);

/* Which pages of parameters are meant between two steps. Only `turn` moves where storage is erased. */
typedef struct {
    uint32_t turn;  /* that they were sealed in */
    uint32_t place; /* 0 or 1: which of their two places */
    bool held;      /* by a checkpoint: the next step writes to the other place */
} poet_page_version_t;

poet_page_version_t poet_page_version(void);

/* Where nothing is erased: parameters are these from now on. */
void poet_page_use(poet_page_version_t version);

/*
 * Erase one unit that the next training step writes and that holds nothing any more; false when there is none left, or
 * when it cannot be erased, which the step will then find. Called while there is nothing else to do.
 */
bool poet_page_erase_ahead(void);

typedef struct {
    uint32_t outs;
    uint32_t ins;
} poet_page_counts_t;

/* Tensors written and read since boot. */
poet_page_counts_t poet_page_counts(void);

#endif
