#ifndef POET_STORAGE_H
#define POET_STORAGE_H

/*
 * One block interface over every storage device (firmware/storage/ has one driver a kind; a build links
 * exactly one). Addresses and sizes are in bytes; address 0 is the first byte that is ours.
 *
 * read and write take any address and length; a driver whose device has blocks hides them. Where the device must be
 * erased (erase_bytes > 1), bytes read as POET_STORAGE_ERASED after an erase and may then be written once; what was
 * written since its erase must not be written again. A write that covers a unit of write_bytes in part leaves the
 * unit's rest erased, to be written later; no unit takes part in more than two writes between erases. Where nothing
 * is erased (erase_bytes == 1), bytes may be written over at any time, and erase does nothing.
 *
 * Between two syncs writes may reach the medium in any order. Power that goes during a write, or before the sync
 * after it, leaves whole units of write_bytes undefined, those that the write touches: what must survive it lies in
 * other units, or other erase units while one is erased.
 *
 * Every call may return: POET_ERR_STORAGE_FULL, the bytes are not all on the device; POET_ERR_NO_DEVICE, _WRONG_DEVICE,
 * _READ_ONLY, _TIMEOUT and _WORN as status.h explains them; POET_ERR_STORAGE for all else. Drivers verify what they
 * program where a worn device would not tell by itself.
 */
#include <stdbool.h>
#include <stdint.h>

#include "poet/status.h"

#define POET_STORAGE_ERASED 0xFFu

/* Reads of equal length at equal distances. */
typedef struct {
    uint32_t address;      /* of the first */
    uint32_t run_bytes;    /* of each */
    uint32_t runs;         /* what they read lies behind each other in `data` */
    uint32_t stride_bytes; /* from the start of one to that of the next, on the device */
    uint8_t *data;
} poet_storage_runs_t;

/* No more starts than this come before a wait. */
#define POET_STORAGE_AHEAD_MOST 8u

/*
 * What a driver has, beside all others below, whose device brings bytes to RAM while the core computes (DMA). A board's
 * schedule counts on it where its file says `overlaps`; then POET_STORAGE_OVERLAPS is defined. All others do without.
 */
typedef struct {
    /* Begin to read. Until the wait, `data` is the device's: nobody else looks at it, or writes there. */
    poet_status_t (*start)(const poet_storage_runs_t *runs);
    /* All that was begun is there when this returns, in the order of the starts; at once where nothing was. */
    poet_status_t (*wait)(void);
    /*
     * Any other call does this wait first, and returns its error, as a start does that finds the device at fault. After
     * an error nothing is under way any more.
     */
} poet_storage_ahead_t;

typedef struct {
    const char *name;          /* for messages: "semihosting file" */
    uint32_t size_bytes;       /* capacity; some drivers find it in poet_storage_init() */
    uint32_t erase_bytes;      /* erase unit; 1 where no erase is needed; found like size_bytes */
    uint32_t endurance_erases; /* erases a unit survives; 0 where unlimited or unknown */
    uint32_t write_bytes;      /* what the device programs at once: 1; 4 for a word; 512 for an SD card */
    bool stalls_core;          /* the core stands still while it erases (its own flash), and receives nothing */
    const poet_storage_ahead_t *ahead; /* NULL: the core itself moves all bytes, and waits for them */
} poet_storage_info_t;

/*
 * Bring the device up. May be called again, to try again. The first call of all; after an error the others return that
 * error or POET_ERR_NO_DEVICE.
 */
poet_status_t poet_storage_init(void);

/* Never NULL, and its name is always there; the figures are those of the device once it is up. */
const poet_storage_info_t *poet_storage_info(void);

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes);
poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes);

/* Make [address, address + size_bytes) writable; both are multiples of erase_bytes, else POET_ERR_RANGE. */
poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes);

/* All writes so far are on the medium when this returns. */
poet_status_t poet_storage_sync(void);

#endif
