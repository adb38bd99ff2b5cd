/*
 * Storage in a file of the machine that runs the debugger or emulator (Arm semihosting). The file
 * poet_storage.bin is in that program's working directory; it grows as it is written, and reads as zeros
 * behind its end. Nothing comes while the core computes: where the board's file says `overlaps`, reads are put off, so
 * that code for devices that do that can be tried.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "poet/bytes.h"
#include "poet/deferred.h"
#include "poet/hal.h"
#include "poet/storage.h"

#ifndef POET_STORAGE_BYTES
#define POET_STORAGE_BYTES 0x04000000u
#endif

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_SEEK = 0x0A, SYS_FLEN = 0x0C };
enum { MODE_READ_WRITE = 3, MODE_CREATE = 7 }; /* "r+b", "w+b" */

static const poet_storage_info_t info = {
    .name = "semihosting file", .size_bytes = POET_STORAGE_BYTES, .erase_bytes = 1, .write_bytes = 1,
#ifdef POET_STORAGE_OVERLAPS
    .ahead = &poet_deferred,
#endif
};
static const char path[] = "poet_storage.bin";

static bool open;
static uintptr_t handle;
static uint32_t file_bytes;

static int32_t call(int32_t operation, const uintptr_t *arguments)
{
    /* The probe works on RAM behind the core's caches. */
    poet_hal_sync_memory();
    register int32_t r0 __asm("r0") = operation;
    register const uintptr_t *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    const int32_t result = r0;
    poet_hal_sync_memory();
    return result;
}

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

poet_status_t poet_storage_init(void)
{
    open = false;
    const uintptr_t existing[] = {(uintptr_t)path, MODE_READ_WRITE, sizeof path - 1u};
    int32_t opened = call(SYS_OPEN, existing);
    if (opened < 0) {
        const uintptr_t created[] = {(uintptr_t)path, MODE_CREATE, sizeof path - 1u};
        opened = call(SYS_OPEN, created);
    }
    if (opened < 0) {
        return POET_ERR_STORAGE;
    }
    handle = (uintptr_t)opened;
    const int32_t length = call(SYS_FLEN, &handle);
    if (length < 0) {
        return POET_ERR_STORAGE;
    }
    file_bytes = (uint32_t)length;
    open = true;
    return POET_OK;
}

static poet_status_t transfer(int32_t operation, uint32_t address, const void *data, uint32_t size_bytes)
{
    const uintptr_t seek[] = {handle, address};
    if (call(SYS_SEEK, seek) != 0) {
        return POET_ERR_STORAGE;
    }
    /* Both calls answer with the number of bytes they did not do. */
    const uintptr_t arguments[] = {handle, (uintptr_t)data, size_bytes};
    return call(operation, arguments) == 0 ? POET_OK : POET_ERR_STORAGE;
}

static poet_status_t check(uint32_t address, uint32_t size_bytes)
{
    if (!open) {
        return POET_ERR_STORAGE;
    }
    POET_TRY(info.ahead == NULL ? POET_OK : info.ahead->wait());
    return poet_bytes_in_range(address, size_bytes, info.size_bytes) ? POET_OK : POET_ERR_STORAGE_FULL;
}

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    uint32_t there = 0;
    if (address < file_bytes) {
        const uint32_t left = file_bytes - address;
        there = left < size_bytes ? left : size_bytes;
    }
    memset((uint8_t *)data + there, 0, size_bytes - there);
    return there == 0 ? POET_OK : transfer(SYS_READ, address, data, there);
}

/* What a seek behind the end does is undefined, so fill the gap. */
static poet_status_t extend_to(uint32_t address)
{
    static const uint8_t zeros[64];
    while (file_bytes < address) {
        const uint32_t gap = address - file_bytes;
        const uint32_t part = gap < sizeof zeros ? gap : (uint32_t)sizeof zeros;
        POET_TRY(transfer(SYS_WRITE, file_bytes, zeros, part));
        file_bytes += part;
    }
    return POET_OK;
}

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    POET_TRY(extend_to(address));
    POET_TRY(transfer(SYS_WRITE, address, data, size_bytes));
    if (address + size_bytes > file_bytes) {
        file_bytes = address + size_bytes;
    }
    return POET_OK;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    return check(address, size_bytes);
}

poet_status_t poet_storage_sync(void)
{
    return check(0, 0);
}
