/*
 * Storage in a plain file, for the host build; its path is in the environment variable POET_STORAGE, else
 * poet_storage.bin. It grows as it is written, and reads as zeros behind its end.
 *
 * POET_STORAGE_FAULT makes it go wrong at one write, for tests; writes are counted from 1 since boot:
 *
 *     fail@N   write N and all after it report an error
 *     cut@N    the power goes before write N: the process ends with exit code 42
 *     tear@N   the power goes in the middle of write N
 *     flip@N   one bit of write N is stored wrong
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "poet/bytes.h"
#include "poet/storage.h"

#ifndef POET_STORAGE_BYTES
#define POET_STORAGE_BYTES 0x04000000u
#endif

#define POWER_CUT_EXIT_CODE 42

typedef enum { FAULT_NONE, FAULT_FAIL, FAULT_CUT, FAULT_TEAR, FAULT_FLIP } fault_t;

static const struct {
    const char *name;
    fault_t fault;
} fault_names[] = {{"fail@", FAULT_FAIL}, {"cut@", FAULT_CUT}, {"tear@", FAULT_TEAR}, {"flip@", FAULT_FLIP}};

static const poet_storage_info_t info = {
    .name = "host file", .size_bytes = POET_STORAGE_BYTES, .erase_bytes = 1, .write_bytes = 1};

static FILE *file;
static fault_t fault;
static unsigned long fault_at;
static unsigned long writes;

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

static void read_fault(void)
{
    const char *text = getenv("POET_STORAGE_FAULT");
    fault = FAULT_NONE;
    for (size_t i = 0; text != NULL && i < sizeof fault_names / sizeof fault_names[0]; i++) {
        const size_t length = strlen(fault_names[i].name);
        if (strncmp(text, fault_names[i].name, length) == 0) {
            fault = fault_names[i].fault;
            fault_at = strtoul(text + length, NULL, 10);
        }
    }
}

poet_status_t poet_storage_init(void)
{
    const char *path = getenv("POET_STORAGE");
    if (path == NULL) {
        path = "poet_storage.bin";
    }
    file = fopen(path, "r+b");
    if (file == NULL) {
        file = fopen(path, "w+b");
    }
    if (file == NULL) {
        return POET_ERR_STORAGE;
    }
    /* What was written is in the file even when the process is killed. */
    (void)setvbuf(file, NULL, _IONBF, 0);
    read_fault();
    return POET_OK;
}

static poet_status_t seek(uint32_t address, uint32_t size_bytes)
{
    if (file == NULL) {
        return POET_ERR_STORAGE;
    }
    if (!poet_bytes_in_range(address, size_bytes, info.size_bytes)) {
        return POET_ERR_STORAGE_FULL;
    }
    return fseek(file, (long)address, SEEK_SET) == 0 ? POET_OK : POET_ERR_STORAGE;
}

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes)
{
    POET_TRY(seek(address, size_bytes));
    const size_t there = fread(data, 1, size_bytes, file);
    memset((uint8_t *)data + there, 0, size_bytes - there);
    return ferror(file) ? POET_ERR_STORAGE : POET_OK;
}

static poet_status_t write_faulty(const uint8_t *data, uint32_t size_bytes)
{
    if (fault == FAULT_CUT || fault == FAULT_TEAR) {
        if (fault == FAULT_TEAR) {
            (void)fwrite(data, 1, size_bytes / 2u, file);
        }
        _Exit(POWER_CUT_EXIT_CODE);
    }
    if (fault == FAULT_FLIP && size_bytes > 0) {
        const uint8_t flipped = data[0] ^ 0x10u;
        const size_t done = fwrite(&flipped, 1, 1, file) + fwrite(data + 1, 1, size_bytes - 1u, file);
        return done == size_bytes ? POET_OK : POET_ERR_STORAGE;
    }
    return POET_ERR_STORAGE;
}

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(seek(address, size_bytes));
    writes++;
    if (fault != FAULT_NONE && (writes == fault_at || (fault == FAULT_FAIL && writes > fault_at))) {
        return write_faulty(data, size_bytes);
    }
    return fwrite(data, 1, size_bytes, file) == size_bytes ? POET_OK : POET_ERR_STORAGE;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    return seek(address, size_bytes);
}

poet_status_t poet_storage_sync(void)
{
    return file != NULL && fflush(file) == 0 ? POET_OK : POET_ERR_STORAGE;
}
