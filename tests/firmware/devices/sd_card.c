/*
 * An SD card behind poet/spi.h, byte by byte: SD Physical Layer Simplified Specification, chapter 7. What no driver may
 * do ends the program with a message.
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
    MISSING,
    NEVER_READY,     /* stays in its initialisation */
    MULTIMEDIA_CARD, /* knows no CMD8 and no CMD55 */
    WRONG_ECHO,      /* of CMD8 */
    LOCK_IN_CSD,     /* write-protected, and says so */
    LOCKED,          /* write-protected: refuses when it is written to */
    BUSY_FOR_EVER,   /* after a write */
    NEVER_READS,     /* no token ever */
    UNREADABLE,      /* block: its bits are beyond repair */
    WORN,            /* block: does not take what is written */
    NOISE_IN,        /* how many blocks come with a flipped bit */
    NOISE_OUT,       /* how many blocks arrive with a flipped bit */
    BYTE_ADDRESSED,  /* 1 or 2: an older card of that version */
    KILOBYTES,       /* capacity */
    POWER_CYCLED,    /* out and in again */
    WRITE_ERROR,     /* refuses a block without a reason */
    WRITING,         /* so many microseconds: the board was reset, the card goes on */
};

#define BLOCK 512u
#define MEMORY_BYTES (8u << 20)

static uint8_t memory[MEMORY_BYTES];

static uint32_t how;
static uint32_t parameter;
static uint32_t blocks = MEMORY_BYTES / BLOCK;
static bool counts_blocks = true;
static uint32_t version = 2;

static bool selected;
static uint32_t clock_hz;
static uint32_t wake_up_bytes;
static bool awake;
static bool idle = true;
static bool application; /* CMD55 came before */
static bool checks_crc;
static uint32_t initialising;
static uint8_t status_flags;

static uint8_t frame[6];
static uint32_t frame_bytes;
static uint8_t out[BLOCK + 32u];
static uint32_t out_bytes;
static uint32_t out_done;
static bool reading; /* READ_MULTIPLE goes on until it is stopped */
static uint32_t read_block;
static enum { NOT_WRITING, TOKEN, DATA, ANSWER } writing;
static bool writing_several;
static uint32_t write_block;
static uint8_t in[BLOCK + 2u];
static uint32_t in_bytes;
static uint64_t busy_until;

static void forbid(bool wrong, const char *what)
{
    if (wrong) {
        (void)fprintf(stderr, "sd_card: %s\n", what);
        exit(3);
    }
}

static void power_on(void)
{
    wake_up_bytes = 0;
    awake = reading = application = checks_crc = false;
    idle = true;
    initialising = 3;
    status_flags = 0;
    frame_bytes = out_bytes = out_done = in_bytes = 0;
    writing = NOT_WRITING;
    busy_until = 0;
}

void model_go_wrong(uint32_t way, uint32_t with)
{
    how = way;
    parameter = with;
    if (way == BYTE_ADDRESSED) {
        counts_blocks = false;
        version = with;
    } else if (way == KILOBYTES) {
        blocks = with * 2u;
    } else if (way == POWER_CYCLED) {
        power_on();
    } else if (way == WRITING) {
        busy_until = model_time() + with;
    }
}

static uint8_t crc7(const uint8_t *data, uint32_t size)
{
    uint8_t crc = 0;
    for (uint32_t i = 0; i < size; i++) {
        for (uint32_t mask = 0x80u; mask != 0; mask >>= 1) {
            const bool top = (crc & 0x40u) != 0;
            crc = (uint8_t)(((uint32_t)crc << 1) & 0x7Fu);
            if (top != ((data[i] & mask) != 0)) {
                crc ^= 0x09u;
            }
        }
    }
    return crc;
}

static uint16_t crc16(const uint8_t *data, uint32_t size)
{
    uint16_t crc = 0;
    for (uint32_t i = 0; i < size; i++) {
        for (uint32_t mask = 0x80u; mask != 0; mask >>= 1) {
            const bool top = (crc & 0x8000u) != 0;
            crc = (uint16_t)(crc << 1);
            if (top != ((data[i] & mask) != 0)) {
                crc ^= 0x1021u;
            }
        }
    }
    return crc;
}

static void say(uint8_t byte)
{
    out[out_bytes++] = byte;
}

/* Data behind their token, after a while. */
static void say_data(const uint8_t *data, uint32_t size)
{
    say(0xFF);
    say(0xFF);
    say(0xFE);
    memcpy(out + out_bytes, data, size);
    uint16_t crc = crc16(data, size);
    if (how == NOISE_IN && parameter > 0) {
        parameter--;
        out[out_bytes + size / 3u] ^= 0x20u;
    }
    out_bytes += size;
    say((uint8_t)(crc >> 8));
    say((uint8_t)crc);
}

static void say_block(void)
{
    if (how == NEVER_READS) {
        return;
    }
    if (how == UNREADABLE && read_block == parameter) {
        say(0xFF);
        say(0x04);
        reading = false;
        return;
    }
    if (read_block >= blocks) {
        say(0x08);
        reading = false;
        return;
    }
    say_data(memory + read_block * BLOCK, BLOCK);
    read_block++;
}

static void say_csd(void)
{
    uint8_t csd[16] = {0};
    if (counts_blocks) {
        const uint32_t size = blocks / 1024u - 1u;
        csd[0] = 0x40;
        csd[7] = (uint8_t)(size >> 16);
        csd[8] = (uint8_t)(size >> 8);
        csd[9] = (uint8_t)size;
    } else {
        /* (size + 1) x 2^(7 + 2) blocks of 2^9 bytes. */
        const uint32_t size = blocks / 512u - 1u;
        csd[5] = 9;
        csd[6] = (uint8_t)(size >> 10);
        csd[7] = (uint8_t)(size >> 2);
        csd[8] = (uint8_t)(size << 6);
        csd[9] = 3;
        csd[10] = 0x80;
    }
    csd[14] = how == LOCK_IN_CSD ? 0x10 : 0;
    csd[15] = (uint8_t)((uint32_t)crc7(csd, 15) << 1 | 1u);
    say_data(csd, sizeof csd);
}

static bool block_of(uint32_t argument, uint32_t *block)
{
    forbid(!counts_blocks && argument % BLOCK != 0, "an address within a block");
    *block = counts_blocks ? argument : argument / BLOCK;
    if (*block >= blocks) {
        say(counts_blocks ? 0x40 : 0x20);
        return false;
    }
    say(0x00);
    return true;
}

static void answer_app(uint32_t index, uint32_t argument)
{
    forbid(index != 41, "an application command that this card does not know");
    forbid(version == 2 && !(argument & 1u << 30) && counts_blocks, "ACMD41 without HCS");
    if (how != NEVER_READY && initialising > 0) {
        initialising--;
    }
    idle = initialising > 0;
    say(idle);
}

static void answer(uint32_t index, uint32_t argument)
{
    const bool app = application;
    application = false;
    say(0xFF);
    if ((index == 0 || index == 8 || checks_crc) && (crc7(frame, 5) << 1 | 1) != frame[5]) {
        say(0x08u | idle);
        return;
    }
    if (app) {
        answer_app(index, argument);
        return;
    }
    forbid(idle && index != 0 && index != 8 && index != 55 && index != 58 && index != 59 && index != 13 && index != 9 &&
               index != 17 && index != 18 && index != 24 && index != 25,
           "a command while idle");
    if (idle && index != 0 && index != 8 && index != 55 && index != 58 && index != 59) {
        say(0x05); /* illegal here */
        return;
    }
    switch (index) {
    case 0:
        idle = true;
        initialising = 3;
        checks_crc = false;
        say(0x01);
        break;
    case 8:
        if (version == 1 || how == MULTIMEDIA_CARD) {
            say(0x05);
            break;
        }
        say(0x01);
        say(0);
        say(0);
        say((uint8_t)(argument >> 8) & 0xFu);
        say(how == WRONG_ECHO ? 0x55 : (uint8_t)argument);
        break;
    case 9:
        say(0x00);
        say_csd();
        break;
    case 12:
        reading = false;
        say(0x00);
        break;
    case 13:
        say(0x00);
        say(status_flags);
        status_flags = 0;
        break;
    case 16:
        forbid(argument != BLOCK, "a block length other than 512");
        say(0x00);
        break;
    case 17:
    case 18:
        if (block_of(argument, &read_block)) {
            reading = index == 18;
            say_block();
        }
        break;
    case 24:
    case 25:
        if (block_of(argument, &write_block)) {
            writing = TOKEN;
            writing_several = index == 25;
        }
        break;
    case 55:
        application = how != MULTIMEDIA_CARD;
        say(how == MULTIMEDIA_CARD ? 0x05 : idle);
        break;
    case 58:
        say(idle);
        say(counts_blocks && !idle ? 0xC0 : 0x80);
        say(0xFF);
        say(0x80);
        say(0x00);
        break;
    case 59:
        checks_crc = argument & 1u;
        say(idle);
        break;
    default:
        forbid(true, "a command that this card does not know");
    }
}

/* A block arrived; returns the card's answer to it. */
static uint8_t take_block(void)
{
    if (how == NOISE_OUT && parameter > 0) {
        parameter--;
        in[100] ^= 0x01u;
    }
    if (checks_crc && crc16(in, BLOCK) != (in[BLOCK] << 8 | in[BLOCK + 1u])) {
        return 0x0B;
    }
    if (how == LOCKED || how == WRITE_ERROR) {
        status_flags = how == LOCKED ? 0x20 : 0x04;
        return 0x0D;
    }
    if (write_block >= blocks) {
        status_flags = 0x80;
        return 0x0D;
    }
    if (how == WORN && write_block == parameter) {
        status_flags = 0x10;
    } else {
        memcpy(memory + write_block * BLOCK, in, BLOCK);
    }
    write_block++;
    busy_until = how == BUSY_FOR_EVER ? UINT64_MAX : model_time() + 900u;
    return 0x05;
}

/* A byte while a block is written. */
static uint8_t write_byte(uint8_t byte)
{
    if (writing == TOKEN) {
        if (byte == 0xFFu) {
            return 0xFF;
        }
        if (writing_several && byte == 0xFDu) {
            writing = NOT_WRITING;
            busy_until = model_time() + 500u;
            return 0xFF;
        }
        forbid(byte != (writing_several ? 0xFCu : 0xFEu), "a wrong token before a block");
        writing = DATA;
        in_bytes = 0;
        return 0xFF;
    }
    if (writing == DATA) {
        in[in_bytes++] = byte;
        writing = in_bytes == sizeof in ? ANSWER : DATA;
        return 0xFF;
    }
    writing = writing_several ? TOKEN : NOT_WRITING;
    return take_block();
}

static uint8_t exchange(uint8_t byte)
{
    if (busy_until > model_time()) {
        forbid(byte != 0xFFu && writing != TOKEN, "a command to a busy card");
        return 0x00;
    }
    if (writing != NOT_WRITING && out_done == out_bytes) {
        return write_byte(byte);
    }
    /* A command may come while blocks are being read, to stop that. */
    if (frame_bytes > 0 || (byte & 0xC0u) == 0x40u) {
        frame[frame_bytes++] = byte;
        if (frame_bytes == sizeof frame) {
            frame_bytes = 0;
            out_bytes = out_done = 0;
            answer(frame[0] & 0x3Fu,
                   (uint32_t)frame[1] << 24 | (uint32_t)frame[2] << 16 | (uint32_t)frame[3] << 8 | frame[4]);
            return 0xFF;
        }
        return out_done < out_bytes ? out[out_done++] : 0xFF;
    }
    if (out_done == out_bytes && reading) {
        out_bytes = out_done = 0;
        say_block();
    }
    return out_done < out_bytes ? out[out_done++] : 0xFF;
}

static uint8_t on_line(uint8_t byte)
{
    model_time_passes(8000000u / clock_hz + 1u);
    if (!selected) {
        wake_up_bytes++;
        return 0xFF;
    }
    awake = awake || wake_up_bytes >= 10u;
    if (how == MISSING || !awake) {
        return 0xFF;
    }
    forbid(idle && clock_hz > 400000u && how != POWER_CYCLED, "more than 400 kHz before the card is initialised");
    return exchange(byte);
}

void poet_spi_init(uint32_t hz)
{
    forbid(hz > 25000000u, "more than 25 MHz");
    clock_hz = hz;
}

void poet_spi_transfer(const poet_spi_part_t *parts, uint32_t part_count, poet_spi_end_t end)
{
    uint32_t total = 0;
    selected = true;
    for (uint32_t i = 0; i < part_count; i++) {
        for (uint32_t j = 0; j < parts[i].size_bytes; j++) {
            const uint8_t byte = on_line(parts[i].out != NULL ? ((const uint8_t *)parts[i].out)[j] : 0xFFu);
            if (parts[i].in != NULL) {
                ((uint8_t *)parts[i].in)[j] = byte;
            }
        }
        total += parts[i].size_bytes;
    }
    forbid(total > POET_SPI_MOST_BYTES, "a transaction that is too long");
    selected = end == POET_SPI_HOLD;
}

void poet_spi_clock(uint32_t size_bytes)
{
    forbid(selected, "waking up a card that is selected");
    for (uint32_t i = 0; i < size_bytes; i++) {
        (void)on_line(0xFF);
    }
}
