/*
 * Serial NOR flash over SPI: commands as all makers have them, geometry from the chip's own tables (SFDP, JEDEC
 * JESD216) or, for older chips, from a list by JEDEC id.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "poet/bytes.h"
#include "poet/hal.h"
#include "poet/spi.h"
#include "poet/storage.h"

/* No more of the chip than this is ours. */
#ifndef POET_STORAGE_BYTES
#define POET_STORAGE_BYTES 0xFFFF0000u
#endif
/* What plain reading (command 03h) allows on the slowest of these chips is 20 MHz. */
#ifndef POET_SPI_HZ
#define POET_SPI_HZ 20000000u
#endif
/* The JEDEC id that the board's chip has; 0: any chip that is understood. */
#ifndef POET_NOR_JEDEC_ID
#define POET_NOR_JEDEC_ID 0u
#endif

/* Limits of the slowest chips (S25FL, N25Q), with room; erase: 64 KB and less, larger ones in proportion. */
#define PROGRAM_MS 20u
#define ERASE_MS 5000u
#define WAKE_UP_US 100u

#define ENDURANCE_ERASES 100000u
#define VERIFY_BYTES 64u
#define READ_BYTES 16384u /* in one transaction */
#define ERASE_TYPES 4u

enum {
    PAGE_PROGRAM = 0x02,
    READ = 0x03,
    READ_STATUS = 0x05,
    WRITE_ENABLE = 0x06,
    PAGE_PROGRAM_4 = 0x12, /* the same with addresses of four bytes */
    READ_4 = 0x13,
    CLEAR_STATUS = 0x30, /* Spansion */
    READ_SFDP = 0x5A,
    READ_ID = 0x9F,
    RELEASE_POWER_DOWN = 0xAB,
    ENTER_4_BYTE = 0xB7,
};

#define STATUS_BUSY 0x01u
#define STATUS_WRITE_ENABLED 0x02u
#define STATUS_PROTECTED 0x1Cu       /* BP0 to BP2 */
#define STATUS_SPANSION_FAILED 0x60u /* erase or program failed; the chip stays busy until that is cleared */
#define MAKER_SPANSION 0x01u

#define SFDP_SIGNATURE 0x50444653u
#define BASIC_TABLE 0xFF00u
#define BASIC_DWORDS 16u /* of those that are of use here */

typedef struct {
    uint32_t size_bytes; /* 0: no such type */
    uint8_t command;
} erase_t;

typedef struct {
    uint32_t size_bytes;
    uint32_t page_bytes;
    erase_t erases[ERASE_TYPES]; /* smallest first */
    bool four_byte_commands;     /* needed for more than 16 MB: commands of their own, or the mode of the old ones */
} geometry_t;

/* Chips without SFDP. The extended id tells sectors of 64 KB from those of 256 KB; 0: it does not matter. */
static const struct {
    uint32_t id;
    uint16_t extended;
    uint16_t erase_kilobytes;
    uint8_t erase_command;
    uint32_t size_bytes;
} known_chips[] = {
    {0x010215u, 0, 64, 0xD8, 4u << 20},        /* S25FL032P */
    {0x010216u, 0, 64, 0xD8, 8u << 20},        /* S25FL064P */
    {0x012018u, 0x0300u, 256, 0xD8, 16u << 20}, /* S25FL128P, S25SL12800 */
    {0x012018u, 0x0301u, 64, 0xD8, 16u << 20},  /* S25FL128P, S25SL12801 */
    {0x202017u, 0, 64, 0xD8, 8u << 20},        /* M25P64 */
    {0x202018u, 0, 256, 0xD8, 16u << 20},      /* M25P128 */
    {0xC22017u, 0, 4, 0x20, 8u << 20},         /* MX25L6405D */
    {0xEF4016u, 0, 4, 0x20, 4u << 20},         /* W25Q32BV */
    {0xEF4017u, 0, 4, 0x20, 8u << 20},         /* W25Q64BV */
    {0xEF4018u, 0, 4, 0x20, 16u << 20},        /* W25Q128BV */
};

static poet_storage_info_t info = {
    .name = "SPI NOR flash", .erase_bytes = 1, .endurance_erases = ENDURANCE_ERASES, .write_bytes = 1};

static struct {
    poet_status_t status; /* POET_OK when the chip is up */
    uint32_t id;          /* maker, type, capacity */
    uint32_t address_bytes;
    uint8_t read;
    uint8_t program;
    geometry_t geometry;
} chip = {.status = POET_ERR_NO_DEVICE};

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

static uint64_t deadline_in(uint64_t time_us)
{
    return poet_hal_ticks() + time_us * poet_hal_tick_hz() / 1000000u;
}

static void transact(const void *command, uint32_t command_bytes, const void *out, void *in, uint32_t size_bytes)
{
    const poet_spi_part_t parts[] = {{command, NULL, command_bytes}, {out, in, size_bytes}};
    poet_spi_transfer(parts, 2, POET_SPI_RELEASE);
}

static void send(uint8_t command)
{
    transact(&command, 1, NULL, NULL, 0);
}

static void receive(uint8_t command, void *in, uint32_t size_bytes)
{
    transact(&command, 1, NULL, in, size_bytes);
}

static uint8_t read_status(void)
{
    uint8_t status;
    receive(READ_STATUS, &status, 1);
    return status;
}

/* A command with an address; returns its length. */
static uint32_t address_command(uint8_t *to, uint8_t command, uint32_t address)
{
    to[0] = command;
    for (uint32_t i = 0; i < chip.address_bytes; i++) {
        to[1u + i] = (uint8_t)(address >> (8u * (chip.address_bytes - 1u - i)));
    }
    return 1u + chip.address_bytes;
}

static void read_memory(uint32_t address, void *data, uint32_t size_bytes)
{
    uint8_t command[5];
    const uint32_t command_bytes = address_command(command, chip.read, address);
    transact(command, command_bytes, NULL, data, size_bytes);
}

static poet_status_t wait_done(uint32_t time_ms)
{
    const uint64_t deadline = deadline_in((uint64_t)time_ms * 1000u);
    for (;;) {
        const uint8_t status = read_status();
        if ((chip.id >> 16) == MAKER_SPANSION && (status & STATUS_SPANSION_FAILED)) {
            send(CLEAR_STATUS);
            return POET_ERR_WORN;
        }
        if (!(status & STATUS_BUSY)) {
            return POET_OK;
        }
        if (status == 0xFFu) {
            return POET_ERR_NO_DEVICE; /* no chip has all of these bits set */
        }
        if (poet_hal_ticks() >= deadline) {
            return POET_ERR_TIMEOUT;
        }
    }
}

static poet_status_t enable_writing(void)
{
    send(WRITE_ENABLE);
    const uint8_t status = read_status();
    if (status == 0xFFu) {
        return POET_ERR_NO_DEVICE;
    }
    return status & STATUS_WRITE_ENABLED ? POET_OK : POET_ERR_READ_ONLY;
}

/* Compare memory with `data`, or with erased bytes where that is NULL. */
static poet_status_t verify(uint32_t address, const uint8_t *data, uint32_t size_bytes)
{
    uint8_t there[VERIFY_BYTES];
    for (uint32_t done = 0; done < size_bytes; done += VERIFY_BYTES) {
        const uint32_t left = size_bytes - done;
        const uint32_t part = left < VERIFY_BYTES ? left : VERIFY_BYTES;
        read_memory(address + done, there, part);
        for (uint32_t i = 0; i < part; i++) {
            if (there[i] != (data != NULL ? data[done + i] : POET_STORAGE_ERASED)) {
                return read_status() & STATUS_PROTECTED ? POET_ERR_READ_ONLY : POET_ERR_WORN;
            }
        }
    }
    return POET_OK;
}

/* ---- What chip it is ---- */

static void read_sfdp(uint32_t address, void *data, uint32_t size_bytes)
{
    /* Three bytes of address in all chips, and a byte of waiting. */
    const uint8_t command[] = {READ_SFDP, (uint8_t)(address >> 16), (uint8_t)(address >> 8), (uint8_t)address, 0};
    transact(command, sizeof command, NULL, data, size_bytes);
}

/* Read the basic table's first dwords; those that it does not have are 0. False without SFDP. */
static bool read_basic_table(uint32_t *dwords)
{
    uint8_t header[16]; /* that of SFDP, then the first table's, which is the basic one */
    read_sfdp(0, header, sizeof header);
    const uint32_t id = header[8] | ((uint32_t)header[15] << 8);
    const uint32_t count = header[11] < BASIC_DWORDS ? header[11] : BASIC_DWORDS;
    if (poet_bytes_get_u32(header) != SFDP_SIGNATURE || id != BASIC_TABLE || count < 9u) {
        return false;
    }
    uint8_t bytes[4u * BASIC_DWORDS];
    read_sfdp(poet_bytes_get_u32(header + 12) & 0xFFFFFFu, bytes, 4u * count);
    for (uint32_t i = 0; i < BASIC_DWORDS; i++) {
        dwords[i] = i < count ? poet_bytes_get_u32(bytes + 4u * i) : 0;
    }
    return true;
}

static void add_erase(geometry_t *geometry, uint32_t size_bytes, uint8_t command)
{
    uint32_t at = ERASE_TYPES - 1u;
    /* Those that are not there sort as the largest. */
    while (at > 0 && (geometry->erases[at - 1u].size_bytes == 0 || geometry->erases[at - 1u].size_bytes > size_bytes)) {
        geometry->erases[at] = geometry->erases[at - 1u];
        at--;
    }
    geometry->erases[at] = (erase_t){size_bytes, command};
}

/* From dwords 2 (density), 8 and 9 (erase types), 11 (page) and 16 (addresses of four bytes); JESD216B 6.4. */
static bool parse_basic_table(const uint32_t *dwords, geometry_t *geometry)
{
    const uint32_t density = dwords[1];
    if (density & 0x80000000u) {
        const uint32_t power = density & 0x7FFFFFFFu; /* of 2, in bits */
        geometry->size_bytes = power < 35u && power > 3u ? 1u << (power - 3u) : 0x80000000u;
    } else {
        geometry->size_bytes = (density >> 3) + 1u;
    }
    for (uint32_t i = 0; i < ERASE_TYPES; i++) {
        const uint32_t type = dwords[7u + i / 2u] >> (16u * (i % 2u));
        if ((type & 0xFFu) >= 8u && (type & 0xFFu) <= 24u) {
            add_erase(geometry, 1u << (type & 0xFFu), (uint8_t)(type >> 8));
        }
    }
    const uint32_t page_power = (dwords[10] >> 4) & 0xFu;
    geometry->page_bytes = page_power >= 4u ? 1u << page_power : 256u;
    geometry->four_byte_commands = (dwords[15] & (1u << 29)) || dwords[15] == 0;
    return geometry->size_bytes > 0 && geometry->erases[0].size_bytes > 0;
}

static bool look_up(uint32_t id, uint16_t extended, geometry_t *geometry)
{
    for (uint32_t i = 0; i < sizeof known_chips / sizeof known_chips[0]; i++) {
        if (known_chips[i].id == id && (known_chips[i].extended == 0 || known_chips[i].extended == extended)) {
            geometry->size_bytes = known_chips[i].size_bytes;
            geometry->page_bytes = 256;
            add_erase(geometry, known_chips[i].erase_kilobytes * 1024u, known_chips[i].erase_command);
            return true;
        }
    }
    return false;
}

/* Commands with three bytes of address reach 16 MB. */
static poet_status_t choose_commands(void)
{
    chip.read = READ;
    chip.program = PAGE_PROGRAM;
    chip.address_bytes = 3;
    if (chip.geometry.size_bytes <= 1u << 24) {
        return POET_OK;
    }
    chip.address_bytes = 4;
    if (!chip.geometry.four_byte_commands) {
        POET_TRY(enable_writing());
        send(ENTER_4_BYTE);
        return POET_OK;
    }
    chip.read = READ_4;
    chip.program = PAGE_PROGRAM_4;
    for (uint32_t i = 0; i < ERASE_TYPES; i++) {
        erase_t *erase = &chip.geometry.erases[i];
        erase->command = erase->command == 0x20u   ? 0x21u
                         : erase->command == 0x52u ? 0x5Cu
                         : erase->command == 0xD8u ? 0xDCu
                                                   : erase->command;
    }
    return POET_OK;
}

static void wake_up(void)
{
    send(RELEASE_POWER_DOWN);
    const uint64_t deadline = deadline_in(WAKE_UP_US);
    while (poet_hal_ticks() < deadline) {
    }
}

static poet_status_t bring_up(void)
{
    uint8_t id[5];
    uint32_t dwords[BASIC_DWORDS];
    poet_spi_init(POET_SPI_HZ);
    wake_up();
    /* What was going on when the board was reset goes on, and a busy chip answers to its status alone. */
    const poet_status_t ready = wait_done(ERASE_MS);
    receive(READ_ID, id, sizeof id);
    chip.id = ((uint32_t)id[0] << 16) | ((uint32_t)id[1] << 8) | id[2];
    if (chip.id == 0 || chip.id == 0xFFFFFFu) {
        return ready == POET_ERR_TIMEOUT ? ready : POET_ERR_NO_DEVICE;
    }
    if (POET_NOR_JEDEC_ID != 0 && chip.id != POET_NOR_JEDEC_ID) {
        return POET_ERR_WRONG_DEVICE;
    }
    memset(&chip.geometry, 0, sizeof chip.geometry);
    const bool understood = read_basic_table(dwords)
                                ? parse_basic_table(dwords, &chip.geometry)
                                : look_up(chip.id, (uint16_t)((id[3] << 8) | id[4]), &chip.geometry);
    if (!understood) {
        return POET_ERR_WRONG_DEVICE;
    }
    /* Now that its maker is known: whether the last erase or program went wrong. */
    POET_TRY(wait_done(ERASE_MS));
    POET_TRY(choose_commands());
    info.erase_bytes = chip.geometry.erases[0].size_bytes;
    const uint32_t size_bytes =
        chip.geometry.size_bytes < POET_STORAGE_BYTES ? chip.geometry.size_bytes : POET_STORAGE_BYTES;
    info.size_bytes = size_bytes / info.erase_bytes * info.erase_bytes;
    return POET_OK;
}

poet_status_t poet_storage_init(void)
{
    chip.status = bring_up();
    return chip.status;
}

/* ---- Data ---- */

static poet_status_t check(uint32_t address, uint32_t size_bytes)
{
    POET_TRY(chip.status);
    return poet_bytes_in_range(address, size_bytes, info.size_bytes) ? POET_OK : POET_ERR_STORAGE_FULL;
}

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    uint8_t *to = data;
    for (uint32_t done = 0; done < size_bytes; done += READ_BYTES) {
        const uint32_t left = size_bytes - done;
        read_memory(address + done, to + done, left < READ_BYTES ? left : READ_BYTES);
    }
    return POET_OK;
}

/* Program bytes of one page. */
static poet_status_t program(uint32_t address, const uint8_t *data, uint32_t size_bytes)
{
    uint8_t command[5];
    POET_TRY(enable_writing());
    const uint32_t command_bytes = address_command(command, chip.program, address);
    transact(command, command_bytes, data, NULL, size_bytes);
    POET_TRY(wait_done(PROGRAM_MS));
    return verify(address, data, size_bytes);
}

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    const uint8_t *from = data;
    while (size_bytes > 0) {
        const uint32_t room = chip.geometry.page_bytes - address % chip.geometry.page_bytes;
        const uint32_t part = size_bytes < room ? size_bytes : room;
        POET_TRY(program(address, from, part));
        address += part;
        from += part;
        size_bytes -= part;
    }
    return POET_OK;
}

/* The largest type that begins at `address` and is no longer than `size_bytes`. */
static const erase_t *largest_erase(uint32_t address, uint32_t size_bytes)
{
    const erase_t *best = &chip.geometry.erases[0];
    for (uint32_t i = 1; i < ERASE_TYPES; i++) {
        const erase_t *erase = &chip.geometry.erases[i];
        if (erase->size_bytes > 0 && erase->size_bytes <= size_bytes && address % erase->size_bytes == 0) {
            best = erase;
        }
    }
    return best;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    if (address % info.erase_bytes != 0 || size_bytes % info.erase_bytes != 0) {
        return POET_ERR_RANGE;
    }
    while (size_bytes > 0) {
        uint8_t command[5];
        const erase_t *erase = largest_erase(address, size_bytes);
        const uint32_t sectors = (erase->size_bytes + 0xFFFFu) >> 16;
        POET_TRY(enable_writing());
        const uint32_t command_bytes = address_command(command, erase->command, address);
        transact(command, command_bytes, NULL, NULL, 0);
        POET_TRY(wait_done(ERASE_MS * sectors));
        POET_TRY(verify(address, NULL, erase->size_bytes));
        address += erase->size_bytes;
        size_bytes -= erase->size_bytes;
    }
    return POET_OK;
}

/* Every write has waited for the chip. */
poet_status_t poet_storage_sync(void)
{
    return chip.status;
}
