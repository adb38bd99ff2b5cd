/*
 * A serial NOR flash chip behind poet/spi.h: one of several, as their data sheets have them. What no driver may do ends
 * the program with a message.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"
#include "poet/spi.h"

/* Ways to go wrong; those with a parameter say what it is. */
enum {
    FINE,
    MISSING,        /* the line reads as parameter: 0xFF or 0x00 */
    CHIP,           /* index of another chip */
    BUSY_FOR_EVER,  /* after a program or an erase */
    PROTECTED,      /* block protection bits are set */
    LOCKED,         /* cannot be enabled for writing */
    STUCK_BIT,      /* address: a bit that stays 1 */
    ERASE_FAILS,    /* address: a bit that stays 0 */
    SAYS_IT_FAILED, /* status bits of Spansion, and busy until they are cleared */
    ASLEEP,         /* in deep power-down */
    ERASING,        /* so many microseconds: the board was reset, the chip goes on */
};

typedef struct {
    const char *name;
    uint8_t id[5];
    uint32_t size_bytes;
    const uint32_t *sfdp; /* basic table, 16 dwords; NULL: none */
    uint8_t erase[3];     /* commands, of three bytes of address */
    uint32_t erase_bytes[3];
    bool four_byte_commands;
} chip_t;

/* Size, then types 4 KB, 32 KB, 64 KB, then page and the ways to four bytes of address. */
#define TABLE(bits, dword16)                                                                                  \
    {                                                                                                         \
        0xFFF120E5u, (bits)-1u, 0x6B08EB44u, 0xBB043B08u, 0xFFFFFFEEu, 0x0000FF00u, 0x0000FF00u, 0x520F200Cu, \
            0xFF00D810u, 0x00000000u, 0x00000080u, 0, 0, 0, 0, (dword16)                                      \
    }
static const uint32_t mx25r6435f[16] = TABLE(64u << 20, 0);
static const uint32_t mx25l51245g[16] = TABLE(512u << 20, 1u << 29);
static const uint32_t w25q256fv[16] = TABLE(256u << 20, 1u << 24);

static const chip_t chips[] = {
    {"S25SL12801", {0x01, 0x20, 0x18, 0x03, 0x01}, 16u << 20, NULL, {0xD8}, {64u << 10}, false},
    {"MX25R6435F", {0xC2, 0x28, 0x17}, 8u << 20, mx25r6435f, {0x20, 0x52, 0xD8}, {4096, 32768, 65536}, false},
    {"MX25L51245G", {0xC2, 0x20, 0x1A}, 64u << 20, mx25l51245g, {0x20, 0x52, 0xD8}, {4096, 32768, 65536}, true},
    {"W25Q256FV", {0xEF, 0x40, 0x19}, 32u << 20, w25q256fv, {0x20, 0x52, 0xD8}, {4096, 32768, 65536}, false},
    {"S25FL128P, sectors of 256 KB", {0x01, 0x20, 0x18, 0x03, 0x00}, 16u << 20, NULL, {0xD8}, {256u << 10}, false},
    {"of an unknown maker", {0x37, 0x13, 0x14}, 1u << 20, NULL, {0xD8}, {64u << 10}, false},
};

static uint8_t inverted[64u << 20]; /* so that memory begins erased */

static const chip_t *chip = &chips[0];
static uint32_t how;
static uint32_t parameter;
static bool asleep;
static bool write_enabled;
static bool four_byte_mode;
static uint8_t failed; /* status bits */
static uint64_t busy_until;

static void forbid(bool wrong, const char *what)
{
    if (wrong) {
        (void)fprintf(stderr, "nor_flash: %s: %s\n", chip->name, what);
        exit(3);
    }
}

void model_go_wrong(uint32_t way, uint32_t with)
{
    how = way;
    parameter = with;
    if (way == CHIP) {
        chip = &chips[with];
        memset(inverted, 0, sizeof inverted);
    }
    asleep = way == ASLEEP;
    busy_until = way == ERASING ? model_time() + with : 0;
}

static uint8_t status(void)
{
    const uint8_t busy = busy_until > model_time() || failed != 0;
    return (uint8_t)(busy | write_enabled << 1 | (how == PROTECTED ? 0x1C : 0) | failed);
}

static void be_busy(uint32_t time_us)
{
    write_enabled = false;
    busy_until = how == BUSY_FOR_EVER ? UINT64_MAX : model_time() + time_us;
}

static bool refuses(void)
{
    if (how == SAYS_IT_FAILED) {
        failed = 0x20;
        write_enabled = false;
    }
    return how == PROTECTED || how == SAYS_IT_FAILED || !write_enabled;
}

static void program(uint32_t address, const uint8_t *data, uint32_t size)
{
    forbid(size > 256u || address / 256u != (address + size - 1u) / 256u, "a program over the end of its page");
    forbid(address + size > chip->size_bytes, "a program over the end of the chip");
    if (refuses()) {
        be_busy(5);
        return;
    }
    for (uint32_t i = 0; i < size; i++) {
        const bool stuck = how == STUCK_BIT && address + i == parameter;
        inverted[address + i] |= (uint8_t)(~data[i] & (stuck ? 0xFB : 0xFF));
    }
    be_busy(700);
}

static void erase(uint32_t address, uint32_t size)
{
    forbid(address % size != 0, "an erase that does not begin with its sector");
    forbid(address + size > chip->size_bytes, "an erase over the end of the chip");
    if (refuses()) {
        be_busy(5);
        return;
    }
    memset(inverted + address, 0, size);
    if (how == ERASE_FAILS && parameter - address < size) {
        inverted[parameter] |= 0x10u;
    }
    be_busy(500000u);
}

/* One transaction: what goes out decides what comes in. */
static void transact(const uint8_t *out, uint8_t *in, uint32_t size)
{
    const uint8_t command = out[0];
    const uint32_t address_bytes = four_byte_mode || command == 0x12 || command == 0x13 || command == 0x21 ||
                                           command == 0x5C || command == 0xDC
                                       ? 4u
                                       : 3u;
    uint32_t address = 0;
    for (uint32_t i = 1; i <= address_bytes && i < size; i++) {
        address = address << 8 | out[i];
    }
    const uint32_t head = 1u + address_bytes;
    if (asleep && command != 0xAB) {
        return;
    }
    const bool is_busy = busy_until > model_time();
    if (is_busy && (command == 0x9F || command == 0xAB)) {
        return;
    }
    forbid(is_busy && command != 0x05 && command != 0x30, "a command to a busy chip");
    forbid((command == 0x12 || command == 0x13 || command == 0x21 || command == 0x5C || command == 0xDC) &&
               !chip->four_byte_commands,
           "a command with four bytes of address, which it does not have");
    switch (command) {
    case 0x9F:
        for (uint32_t i = 1; i < size; i++) {
            in[i] = i <= sizeof chip->id ? chip->id[i - 1u] : 0;
        }
        return;
    case 0x05:
        memset(in, status(), size);
        return;
    case 0x06:
        write_enabled = how != LOCKED;
        return;
    case 0x30:
        failed = 0;
        return;
    case 0xAB:
        asleep = false;
        return;
    case 0xB7:
        forbid(chip->size_bytes <= 16u << 20, "four bytes of address, which it does not have");
        four_byte_mode = true;
        return;
    case 0x5A:
        for (uint32_t i = 5; i < size && chip->sfdp != NULL; i++) {
            static const uint8_t header[] = {'S', 'F', 'D', 'P', 6, 1, 0, 0xFF, 0, 6, 1, 16, 0x30, 0, 0, 0xFF};
            const uint32_t at = ((uint32_t)out[1] << 16 | (uint32_t)out[2] << 8 | out[3]) + i - 5u;
            in[i] = at < sizeof header ? header[at] : 0xFF;
            if (at >= 0x30 && at < 0x30 + 64u) {
                in[i] = (uint8_t)(chip->sfdp[(at - 0x30u) / 4u] >> (8u * (at % 4u)));
            }
        }
        return;
    case 0x03:
    case 0x13:
        for (uint32_t i = head; i < size; i++) {
            in[i] = (uint8_t)~inverted[(address + i - head) % chip->size_bytes];
        }
        return;
    case 0x02:
    case 0x12:
        program(address, out + head, size - head);
        return;
    default:
        break;
    }
    for (uint32_t i = 0; i < 3u; i++) {
        const uint8_t four = chip->erase[i] == 0x20 ? 0x21 : chip->erase[i] == 0x52 ? 0x5C : 0xDC;
        if (chip->erase[i] != 0 && (command == chip->erase[i] || (chip->four_byte_commands && command == four))) {
            erase(address, chip->erase_bytes[i]);
            return;
        }
    }
    forbid(true, "a command that it does not know");
}

void poet_spi_init(uint32_t hz)
{
    forbid(hz > 33000000u, "too fast for plain reading");
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    static uint8_t out[POET_SPI_MOST_BYTES];
    static uint8_t in[POET_SPI_MOST_BYTES];
    uint32_t size = 0;
    forbid(end != POET_SPI_RELEASE, "chip select held");
    for (uint32_t i = 0; i < part_count; i++) {
        forbid(size + parts[i].size_bytes > POET_SPI_MOST_BYTES, "a transaction that is too long");
        if (parts[i].out != NULL) {
            memcpy(out + size, parts[i].out, parts[i].size_bytes);
        } else {
            memset(out + size, 0xFF, parts[i].size_bytes);
        }
        size += parts[i].size_bytes;
    }
    memset(in, how == MISSING ? (int)parameter : 0xFF, size);
    model_time_passes(size);
    if (how != MISSING) {
        transact(out, in, size);
    }
    size = 0;
    for (uint32_t i = 0; i < part_count; i++) {
        if (parts[i].in != NULL) {
            memcpy(parts[i].in, in + size, parts[i].size_bytes);
        }
        size += parts[i].size_bytes;
    }
}

void poet_spi_clock(uint32_t size_bytes)
{
    (void)size_bytes;
}
