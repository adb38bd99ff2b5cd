#ifndef POET_STORAGE_H
#define POET_STORAGE_H

/*
 * One block interface over every storage device (firmware/storage/ has one driver a kind; a build links
 * exactly one). Addresses and sizes are in bytes. read and write take any address and length; a driver whose
 * device has blocks hides them. erase makes [address, address + size) writable where the device needs that,
 * else it does nothing; both are then multiples of erase_bytes.
 */
#include <stdint.h>

#include "poet/status.h"

typedef struct {
    const char *name;          /* for messages: "semihosting file" */
    uint32_t size_bytes;       /* capacity */
    uint32_t erase_bytes;      /* erase unit; 1 where no erase is needed */
    uint32_t endurance_erases; /* erases a unit survives; 0 where unlimited or unknown */
} poet_storage_info_t;

/* Bring the device up. Returns POET_ERR_STORAGE when there is none or it does not answer. */
poet_status_t poet_storage_init(void);

const poet_storage_info_t *poet_storage_info(void);

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes);
poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes);
poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes);

/* All writes so far are on the medium when this returns. */
poet_status_t poet_storage_sync(void);

#endif
