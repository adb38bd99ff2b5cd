/*
 * Storage in a plain file, for the host build; its path is in the environment variable POET_STORAGE, else
 * poet_storage.bin. It grows as it is written; bytes behind its end read as zeros. Reads that are started are put off
 * until they are waited for (deferred.h).
 *
 * POET_STORAGE_LIKE=nor:UNIT or nor:UNIT:ENDURANCE makes it behave like NOR flash with erase units of so many bytes:
 * bytes behind the end read as erased, an erase sets a unit's bits, a write only clears bits, and a bit that it should
 * have set is POET_ERR_WORN, as is an erase beyond ENDURANCE, which leaves a bit cleared. How often each unit was
 * erased is in the file PATH.erases, u32 each. nvmc: is the same, as a microcontroller's own flash that stalls the core.
 *
 * POET_STORAGE_FAULT makes it go wrong at one operation, for tests. Writes, and in NOR flash erases of a unit, are counted
 * from 1 since boot:
 *
 *     fail@N   operation N and all after it report an error
 *     cut@N    the power goes before operation N: the process ends with exit code 42
 *     tear@N   the power goes in the middle of operation N: half of it is done
 *     noise@N  the same, and bits of the other half are flipped
 *     flip@N   one bit of operation N comes out wrong, and nobody notices
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "poet/bytes.h"
#include "poet/deferred.h"
#include "poet/storage.h"

#ifndef POET_STORAGE_BYTES
#define POET_STORAGE_BYTES 0x40000000u
#endif

#define POWER_CUT_EXIT_CODE 42
#define MOST_PATH 4096u
#define PIECE_BYTES 256u
#define GAP_BYTES 65536u

typedef enum { FAULT_NONE, FAULT_FAIL, FAULT_CUT, FAULT_TEAR, FAULT_NOISE, FAULT_FLIP } fault_t;

static const struct {
    const char *name;
    fault_t fault;
} fault_names[] = {{"fail@", FAULT_FAIL}, {"cut@", FAULT_CUT},     {"tear@", FAULT_TEAR},
                   {"noise@", FAULT_NOISE}, {"flip@", FAULT_FLIP}};

static poet_storage_info_t info = {
    .name = "host file", .size_bytes = POET_STORAGE_BYTES, .erase_bytes = 1, .write_bytes = 1,
    .ahead = &poet_deferred};

static FILE *file;
static FILE *erases;
static fault_t fault;
static unsigned long fault_at;
static unsigned long operations;

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

static bool is_nor(void)
{
    return info.erase_bytes > 1u;
}

static void read_fault(void)
{
    const char *text = getenv("POET_STORAGE_FAULT");
    fault = FAULT_NONE;
    operations = 0;
    for (size_t i = 0; text != NULL && i < sizeof fault_names / sizeof fault_names[0]; i++) {
        const size_t length = strlen(fault_names[i].name);
        if (strncmp(text, fault_names[i].name, length) == 0) {
            fault = fault_names[i].fault;
            fault_at = strtoul(text + length, NULL, 10);
        }
    }
}

static FILE *open_file(const char *path)
{
    FILE *opened = fopen(path, "r+b");
    if (opened == NULL) {
        opened = fopen(path, "w+b");
    }
    if (opened != NULL) {
        /* What was written is in the file even when the process is killed. */
        (void)setvbuf(opened, NULL, _IONBF, 0);
    }
    return opened;
}

static poet_status_t be_like(const char *like, const char *path)
{
    unsigned erase_bytes = 0;
    unsigned endurance = 0;
    char kind[5];
    char beside[MOST_PATH];
    if (sscanf(like, "%4[a-z]:%u:%u", kind, &erase_bytes, &endurance) < 2 || erase_bytes < 2u ||
        snprintf(beside, sizeof beside, "%s.erases", path) >= (int)sizeof beside) {
        return POET_ERR_WRONG_DEVICE;
    }
    info.name = "host file like NOR";
    info.erase_bytes = erase_bytes;
    info.endurance_erases = endurance;
    info.stalls_core = strcmp(kind, "nvmc") == 0;
    erases = open_file(beside);
    return erases == NULL ? POET_ERR_STORAGE : POET_OK;
}

poet_status_t poet_storage_init(void)
{
    const char *path = getenv("POET_STORAGE");
    const char *like = getenv("POET_STORAGE_LIKE");
    if (path == NULL) {
        path = "poet_storage.bin";
    }
    file = open_file(path);
    if (file == NULL) {
        return POET_ERR_STORAGE;
    }
    read_fault();
    return like == NULL ? POET_OK : be_like(like, path);
}

static poet_status_t check(uint32_t address, uint32_t size_bytes)
{
    if (file == NULL) {
        return POET_ERR_STORAGE;
    }
    POET_TRY(poet_deferred_wait());
    return poet_bytes_in_range(address, size_bytes, info.size_bytes) ? POET_OK : POET_ERR_STORAGE_FULL;
}

static poet_status_t get(uint32_t address, uint8_t *data, uint32_t size_bytes)
{
    if (fseek(file, (long)address, SEEK_SET) != 0) {
        return POET_ERR_STORAGE;
    }
    const size_t there = fread(data, 1, size_bytes, file);
    memset(data + there, is_nor() ? POET_STORAGE_ERASED : 0, size_bytes - there);
    return ferror(file) ? POET_ERR_STORAGE : POET_OK;
}

/* Bytes of the file between its end and `address` must read as before. */
static poet_status_t extend_to(uint32_t address)
{
    if (fseek(file, 0, SEEK_END) != 0) {
        return POET_ERR_STORAGE;
    }
    static uint8_t erased[GAP_BYTES];
    memset(erased, POET_STORAGE_ERASED, sizeof erased);
    for (long end = ftell(file); is_nor() && end < (long)address; end = ftell(file)) {
        const size_t gap = (size_t)((long)address - end);
        const size_t part = gap < sizeof erased ? gap : sizeof erased;
        if (fwrite(erased, 1, part, file) != part) {
            return POET_ERR_STORAGE;
        }
    }
    return fseek(file, (long)address, SEEK_SET) == 0 ? POET_OK : POET_ERR_STORAGE;
}

static poet_status_t put(uint32_t address, const uint8_t *data, uint32_t size_bytes)
{
    POET_TRY(extend_to(address));
    return fwrite(data, 1, size_bytes, file) == size_bytes ? POET_OK : POET_ERR_STORAGE;
}

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    return get(address, data, size_bytes);
}

/* What a write of `data` leaves there: NOR flash only clears bits. */
static poet_status_t program(uint32_t address, const uint8_t *data, uint32_t size_bytes)
{
    if (!is_nor()) {
        return put(address, data, size_bytes);
    }
    poet_status_t status = POET_OK;
    for (uint32_t done = 0; done < size_bytes; done += PIECE_BYTES) {
        const uint32_t left = size_bytes - done;
        const uint32_t part = left < PIECE_BYTES ? left : PIECE_BYTES;
        uint8_t cells[PIECE_BYTES];
        POET_TRY(get(address + done, cells, part));
        for (uint32_t i = 0; i < part; i++) {
            cells[i] &= data[done + i];
            status = cells[i] == data[done + i] ? status : POET_ERR_WORN;
        }
        POET_TRY(put(address + done, cells, part));
    }
    return status;
}

/* Flip a bit of each byte, as a cell does that was on its way. */
static poet_status_t garble(uint32_t address, uint32_t size_bytes)
{
    for (uint32_t i = 0; i < size_bytes; i++) {
        uint8_t cell;
        POET_TRY(get(address + i, &cell, 1));
        cell ^= (uint8_t)(1u << ((address + 5u * i) % 8u));
        POET_TRY(put(address + i, &cell, 1));
    }
    return POET_OK;
}

/* Whether this is the operation that goes wrong. */
static bool is_faulty(void)
{
    operations++;
    return fault != FAULT_NONE && (operations == fault_at || (fault == FAULT_FAIL && operations > fault_at));
}

static poet_status_t write_faulty(uint32_t address, const uint8_t *data, uint32_t size_bytes)
{
    const uint32_t half = size_bytes / 2u;
    if (fault == FAULT_FAIL) {
        return POET_ERR_STORAGE;
    }
    if (fault == FAULT_FLIP) {
        POET_TRY(program(address, data, size_bytes));
        return garble(address, size_bytes > 0u ? 1u : 0u);
    }
    if (fault != FAULT_CUT) {
        (void)program(address, data, half);
    }
    if (fault == FAULT_NOISE) {
        (void)garble(address + half, size_bytes - half);
    }
    _Exit(POWER_CUT_EXIT_CODE);
}

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    return is_faulty() ? write_faulty(address, data, size_bytes) : program(address, data, size_bytes);
}

static poet_status_t set_all_bits(uint32_t address, uint32_t size_bytes)
{
    uint8_t cells[PIECE_BYTES];
    memset(cells, POET_STORAGE_ERASED, sizeof cells);
    for (uint32_t done = 0; done < size_bytes; done += PIECE_BYTES) {
        const uint32_t left = size_bytes - done;
        POET_TRY(put(address + done, cells, left < PIECE_BYTES ? left : PIECE_BYTES));
    }
    return POET_OK;
}

static poet_status_t count_erase(uint32_t unit, uint32_t *count)
{
    uint8_t field[4] = {0};
    (void)fseek(erases, (long)(unit * sizeof field), SEEK_SET);
    (void)fread(field, 1, sizeof field, erases);
    *count = poet_bytes_get_u32(field) + 1u;
    poet_bytes_put_u32(field, *count);
    (void)fseek(erases, (long)(unit * sizeof field), SEEK_SET);
    return fwrite(field, 1, sizeof field, erases) == sizeof field ? POET_OK : POET_ERR_STORAGE;
}

static poet_status_t erase_faulty(uint32_t address)
{
    const uint32_t half = info.erase_bytes / 2u;
    if (fault == FAULT_FAIL) {
        return POET_ERR_STORAGE;
    }
    if (fault == FAULT_FLIP) {
        POET_TRY(set_all_bits(address, info.erase_bytes));
        return garble(address, 1);
    }
    if (fault != FAULT_CUT) {
        (void)set_all_bits(address, half);
    }
    if (fault == FAULT_NOISE) {
        (void)garble(address + half, half);
    }
    _Exit(POWER_CUT_EXIT_CODE);
}

static poet_status_t erase_unit(uint32_t address)
{
    uint32_t count;
    POET_TRY(count_erase(address / info.erase_bytes, &count));
    if (is_faulty()) {
        return erase_faulty(address);
    }
    POET_TRY(set_all_bits(address, info.erase_bytes));
    if (info.endurance_erases == 0u || count <= info.endurance_erases) {
        return POET_OK;
    }
    POET_TRY(garble(address, 1));
    return POET_ERR_WORN;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    if (!is_nor()) {
        return POET_OK;
    }
    if (address % info.erase_bytes != 0u || size_bytes % info.erase_bytes != 0u) {
        return POET_ERR_RANGE;
    }
    for (uint32_t done = 0; done < size_bytes; done += info.erase_bytes) {
        POET_TRY(erase_unit(address + done));
    }
    return POET_OK;
}

poet_status_t poet_storage_sync(void)
{
    POET_TRY(check(0, 0));
    return fflush(file) == 0 ? POET_OK : POET_ERR_STORAGE;
}
