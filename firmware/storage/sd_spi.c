/*
 * An SD card over SPI: SD Physical Layer Simplified Specification, chapter 7. Cards of versions 1 and 2, SDHC and SDXC.
 *
 * A card reads and writes blocks of 512 bytes. One of them is cached, so that any address and length works;
 * whole blocks go past the cache, several in one command. The card corrects its own bits and says when it no
 * longer can, so that nothing is read back.
 */
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "poet/bytes.h"
#include "poet/hal.h"
#include "poet/spi.h"
#include "poet/storage.h"

/* No more of the card than this is ours; also the most whole blocks that an address can name. */
#ifndef POET_STORAGE_BYTES
#define POET_STORAGE_BYTES 0xFFFFFE00u
#endif
/* Default speed, which every card does without being asked. */
#ifndef POET_SPI_HZ
#define POET_SPI_HZ 25000000u
#endif

#define IDENTIFY_HZ 400000u
#define WAKE_UP_BYTES 10u /* 74 clocks or more */
#define BLOCK_BYTES 512u
#define NO_BLOCK 0xFFFFFFFFu
#define TRIES 3u

/* The specification's limits, with room: 1 s to initialise, 100 ms to begin reading, 500 ms to write. */
#define INIT_MS 1500u
#define READ_MS 250u
#define WRITE_MS 1000u

enum {
    GO_IDLE_STATE = 0,
    SEND_IF_COND = 8,
    SEND_CSD = 9,
    STOP_TRANSMISSION = 12,
    SEND_STATUS = 13,
    SET_BLOCKLEN = 16,
    READ_SINGLE_BLOCK = 17,
    READ_MULTIPLE_BLOCK = 18,
    WRITE_BLOCK = 24,
    WRITE_MULTIPLE_BLOCK = 25,
    SD_SEND_OP_COND = 41, /* after APP_CMD */
    APP_CMD = 55,
    READ_OCR = 58,
    CRC_ON_OFF = 59,
};

#define R1_IDLE 0x01u
#define R1_ILLEGAL 0x04u
#define R1_ADDRESS 0x60u /* address or parameter error */
#define R1_NONE 0xFFu    /* no answer at all */

#define TOKEN_BLOCK 0xFEu
#define TOKEN_MULTIPLE 0xFCu /* before each block of WRITE_MULTIPLE_BLOCK */
#define TOKEN_STOP 0xFDu
#define READ_ERROR_ECC 0x04u
#define READ_ERROR_RANGE 0x08u
#define WRITE_ANSWER_MASK 0x1Fu
#define WRITE_ACCEPTED 0x05u
#define WRITE_BAD_CRC 0x0Bu

/* The second byte of SEND_STATUS. */
#define STATUS_ECC 0x10u
#define STATUS_PROTECTED 0x21u /* written where it is protected, or locked */
#define STATUS_RANGE 0x80u

#define CSD_BYTES 16u
#define CSD_PROTECTED 0x30u /* in byte 14: for good, or for now */

static poet_storage_info_t info = {.name = "SD card over SPI", .erase_bytes = 1, .write_bytes = BLOCK_BYTES};

static struct {
    poet_status_t status; /* POET_OK when the card is up */
    bool counts_blocks;   /* SDHC and SDXC take block numbers, older cards byte addresses */
    bool protected;
    bool dirty; /* the cached block is not on the card yet */
    uint32_t cached;
    uint8_t block[BLOCK_BYTES];
} card = {.status = POET_ERR_NO_DEVICE};

const poet_storage_info_t *poet_storage_info(void)
{
    return &info;
}

/* ---- Bytes and commands ---- */

static uint64_t deadline_in(uint32_t time_ms)
{
    return poet_hal_ticks() + (uint64_t)time_ms * poet_hal_tick_hz() / 1000u;
}

static void move(const void *out, void *in, uint32_t size_bytes)
{
    const poet_spi_part_t part = {out, in, size_bytes};
    poet_spi_transfer(&part, 1, POET_SPI_HOLD);
}

static uint8_t receive(void)
{
    uint8_t byte;
    move(NULL, &byte, 1);
    return byte;
}

/* Chip select goes high, and the card lets go of its line a byte later. */
static void release(void)
{
    poet_spi_transfer(NULL, 0, POET_SPI_RELEASE);
    poet_spi_clock(1);
}

/* CRC-7 of x^7 + x^3 + 1, behind a command; with the end bit. */
static uint8_t crc7(const uint8_t *data, uint32_t size_bytes)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < size_bytes * 8u; i++) {
        const uint32_t bit = ((uint32_t)data[i / 8u] >> (7u - i % 8u)) & 1u;
        crc = ((crc << 1) ^ ((((crc >> 6) ^ bit) & 1u) * 0x09u)) & 0x7Fu;
    }
    return (uint8_t)((crc << 1) | 1u);
}

/* CRC-16 of x^16 + x^12 + x^5 + 1, behind a block. */
static uint16_t crc16(const uint8_t *data, uint32_t size_bytes)
{
    uint32_t crc = 0;
    for (uint32_t i = 0; i < size_bytes; i++) {
        crc = ((crc >> 8) | (crc << 8)) & 0xFFFFu;
        crc ^= data[i];
        crc ^= (crc & 0xFFu) >> 4;
        crc ^= (crc << 12) & 0xFFFFu;
        crc ^= (crc & 0xFFu) << 5;
    }
    return (uint16_t)crc;
}

/* A busy card holds its line low. */
static poet_status_t wait_ready(uint32_t time_ms)
{
    const uint64_t deadline = deadline_in(time_ms);
    while (receive() != 0xFFu) {
        if (poet_hal_ticks() >= deadline) {
            return POET_ERR_TIMEOUT;
        }
    }
    return POET_OK;
}

/* Send a command; returns R1. The card stays selected, for what follows. */
static uint8_t command(uint8_t index, uint32_t argument)
{
    uint8_t frame[7] = {0xFF, (uint8_t)(0x40u | index), (uint8_t)(argument >> 24), (uint8_t)(argument >> 16),
                        (uint8_t)(argument >> 8), (uint8_t)argument, 0};
    frame[6] = crc7(frame + 1, 5);
    move(frame, NULL, sizeof frame);
    if (index == STOP_TRANSMISSION) {
        (void)receive(); /* a byte of the block that was cut short */
    }
    uint8_t answer = R1_NONE;
    for (uint32_t i = 0; i < 10u && (answer & 0x80u); i++) {
        answer = receive();
    }
    return answer;
}

static uint8_t app_command(uint8_t index, uint32_t argument)
{
    const uint8_t answer = command(APP_CMD, 0);
    release();
    return answer & R1_ILLEGAL ? answer : command(index, argument);
}

/* What an answer that is not 0 means, of a card that is up. */
static poet_status_t explain(uint8_t answer)
{
    if (answer & 0x80u) {
        return POET_ERR_NO_DEVICE;
    }
    if (answer & R1_IDLE) {
        return POET_ERR_NO_DEVICE; /* it lost power, or was changed, and has to be initialised */
    }
    return answer & R1_ADDRESS ? POET_ERR_STORAGE_FULL : answer != 0 ? POET_ERR_STORAGE : POET_OK;
}

/* Send a command that must be accepted. */
static poet_status_t begin(uint8_t index, uint32_t argument)
{
    POET_TRY(wait_ready(WRITE_MS));
    return explain(command(index, argument));
}

/* ---- Blocks ---- */

static uint32_t block_argument(uint32_t block)
{
    return card.counts_blocks ? block : block * BLOCK_BYTES;
}

/* Receive a block behind its token. POET_ERR_CORRUPT: it came with a wrong CRC. */
static poet_status_t receive_block(void *data, uint32_t size_bytes)
{
    const uint64_t deadline = deadline_in(READ_MS);
    uint8_t token = receive();
    while (token == 0xFFu && poet_hal_ticks() < deadline) {
        token = receive();
    }
    if (token == 0xFFu) {
        return POET_ERR_TIMEOUT;
    }
    if (token != TOKEN_BLOCK) {
        return token & READ_ERROR_ECC     ? POET_ERR_WORN
               : token & READ_ERROR_RANGE ? POET_ERR_STORAGE_FULL
                                          : POET_ERR_STORAGE;
    }
    uint8_t crc[2];
    const poet_spi_part_t parts[] = {{NULL, data, size_bytes}, {NULL, crc, sizeof crc}};
    poet_spi_transfer(parts, 2, POET_SPI_HOLD);
    return crc16(data, size_bytes) == ((uint32_t)crc[0] << 8 | crc[1]) ? POET_OK : POET_ERR_CORRUPT;
}

static poet_status_t receive_blocks(uint32_t block, uint8_t *data, uint32_t count)
{
    POET_TRY(begin(count > 1u ? READ_MULTIPLE_BLOCK : READ_SINGLE_BLOCK, block_argument(block)));
    poet_status_t status = POET_OK;
    for (uint32_t i = 0; i < count && status == POET_OK; i++) {
        status = receive_block(data + i * BLOCK_BYTES, BLOCK_BYTES);
    }
    if (count > 1u) {
        (void)command(STOP_TRANSMISSION, 0);
        const poet_status_t ready = wait_ready(READ_MS);
        status = status == POET_OK ? ready : status;
    }
    return status;
}

static poet_status_t read_blocks(uint32_t block, uint8_t *data, uint32_t count)
{
    poet_status_t status = POET_ERR_CORRUPT;
    for (uint32_t i = 0; i < TRIES && status == POET_ERR_CORRUPT; i++) {
        status = receive_blocks(block, data, count);
        release();
    }
    /* The bits that came were wrong each time: the line is bad, not a page. */
    return status == POET_ERR_CORRUPT ? POET_ERR_STORAGE : status;
}

/* Send a block behind its token. POET_ERR_CORRUPT: the card got it with a wrong CRC. */
static poet_status_t send_block(uint8_t token, const uint8_t *data)
{
    const uint8_t head[] = {0xFF, token};
    const uint16_t sum = crc16(data, BLOCK_BYTES);
    const uint8_t crc[] = {(uint8_t)(sum >> 8), (uint8_t)sum};
    uint8_t answer;
    const poet_spi_part_t parts[] = {
        {head, NULL, sizeof head}, {data, NULL, BLOCK_BYTES}, {crc, NULL, sizeof crc}, {NULL, &answer, 1}};
    poet_spi_transfer(parts, 4, POET_SPI_HOLD);
    answer &= WRITE_ANSWER_MASK;
    if (answer == WRITE_BAD_CRC) {
        return POET_ERR_CORRUPT;
    }
    POET_TRY(wait_ready(WRITE_MS));
    return answer == WRITE_ACCEPTED ? POET_OK : POET_ERR_STORAGE;
}

/* How programming went: a card says so only when asked. */
static poet_status_t ask_status(void)
{
    const poet_status_t status = explain(command(SEND_STATUS, 0));
    const uint8_t flags = receive();
    if (status == POET_ERR_NO_DEVICE || status == POET_ERR_STORAGE_FULL) {
        return status;
    }
    if (flags & STATUS_PROTECTED) {
        return POET_ERR_READ_ONLY;
    }
    if (flags & STATUS_RANGE) {
        return POET_ERR_STORAGE_FULL;
    }
    return flags & STATUS_ECC ? POET_ERR_WORN : flags != 0 ? POET_ERR_STORAGE : status;
}

static poet_status_t send_blocks(uint32_t block, const uint8_t *data, uint32_t count)
{
    const bool several = count > 1u;
    POET_TRY(begin(several ? WRITE_MULTIPLE_BLOCK : WRITE_BLOCK, block_argument(block)));
    poet_status_t status = POET_OK;
    for (uint32_t i = 0; i < count && status == POET_OK; i++) {
        status = send_block(several ? TOKEN_MULTIPLE : TOKEN_BLOCK, data + i * BLOCK_BYTES);
    }
    if (several && status != POET_ERR_TIMEOUT) {
        /* After the token the card needs a byte before it shows that it is busy. */
        const uint8_t stop[] = {TOKEN_STOP, 0xFF};
        move(stop, NULL, sizeof stop);
        const poet_status_t ready = wait_ready(WRITE_MS);
        status = ready != POET_OK ? ready : status;
    }
    return status;
}

static poet_status_t write_blocks(uint32_t block, const uint8_t *data, uint32_t count)
{
    poet_status_t status = POET_ERR_CORRUPT;
    for (uint32_t i = 0; i < TRIES && status == POET_ERR_CORRUPT; i++) {
        status = send_blocks(block, data, count);
        release();
        if (status == POET_OK || status == POET_ERR_STORAGE) {
            const poet_status_t why = ask_status();
            release();
            status = why != POET_OK ? why : status;
        }
    }
    return status == POET_ERR_CORRUPT ? POET_ERR_STORAGE : status;
}

/* ---- What card it is ---- */

/* CMD0, until the card is in SPI mode and idle. */
static poet_status_t reset_card(void)
{
    poet_spi_clock(WAKE_UP_BYTES);
    /* One that was writing when the board was reset still is. Whether it is one, only CMD0 tells. */
    (void)wait_ready(WRITE_MS);
    release();
    for (uint32_t i = 0; i < TRIES; i++) {
        poet_spi_clock(WAKE_UP_BYTES);
        const uint8_t answer = command(GO_IDLE_STATE, 0);
        release();
        if (answer == R1_IDLE) {
            return POET_OK;
        }
    }
    return POET_ERR_NO_DEVICE;
}

/* Whether the card is of version 2: it echoes the voltage and the pattern of CMD8. */
static poet_status_t ask_version(bool *second)
{
    const uint8_t answer = command(SEND_IF_COND, 0x1AAu);
    uint8_t echo[4];
    move(NULL, echo, sizeof echo);
    release();
    *second = !(answer & R1_ILLEGAL);
    return !*second || (echo[2] == 0x01u && echo[3] == 0xAAu) ? POET_OK : POET_ERR_WRONG_DEVICE;
}

static poet_status_t initialise(bool second)
{
    const uint64_t deadline = deadline_in(INIT_MS);
    for (;;) {
        const uint8_t answer = app_command(SD_SEND_OP_COND, second ? 1u << 30 : 0u);
        release();
        if (answer == 0) {
            return POET_OK;
        }
        if (answer & R1_ILLEGAL) {
            return POET_ERR_WRONG_DEVICE; /* a MultiMediaCard */
        }
        if (poet_hal_ticks() >= deadline) {
            return POET_ERR_TIMEOUT;
        }
    }
}

/* Capacity in blocks, from either layout of the CSD register. */
static uint32_t capacity(const uint8_t *csd)
{
    if (csd[0] >> 6 != 0) {
        const uint32_t size = ((csd[7] & 0x3Fu) << 16) | ((uint32_t)csd[8] << 8) | csd[9];
        return (size + 1u) << 10;
    }
    const uint32_t size = ((csd[6] & 3u) << 10) | ((uint32_t)csd[7] << 2) | (csd[8] >> 6);
    const uint32_t multiplier = ((csd[9] & 3u) << 1) | (csd[10] >> 7);
    const uint32_t block_length = csd[5] & 0xFu;
    return (size + 1u) << (multiplier + 2u + block_length - 9u);
}

static poet_status_t read_csd(void)
{
    uint8_t csd[CSD_BYTES];
    poet_status_t status = begin(SEND_CSD, 0);
    if (status == POET_OK) {
        status = receive_block(csd, sizeof csd);
    }
    release();
    POET_TRY(status);
    const uint32_t blocks = capacity(csd);
    const uint32_t most = POET_STORAGE_BYTES / BLOCK_BYTES;
    info.size_bytes = (blocks < most ? blocks : most) * BLOCK_BYTES;
    card.protected = (csd[14] & CSD_PROTECTED) != 0;
    return POET_OK;
}

static poet_status_t bring_up(void)
{
    bool second;
    uint8_t ocr[4];
    poet_spi_init(IDENTIFY_HZ);
    POET_TRY(reset_card());
    POET_TRY(ask_version(&second));
    /* Not every card can check CRCs; they are sent to all. */
    (void)command(CRC_ON_OFF, 1);
    release();
    POET_TRY(initialise(second));
    (void)command(READ_OCR, 0);
    move(NULL, ocr, sizeof ocr);
    release();
    card.counts_blocks = second && (ocr[0] & 0x40u);
    if (!card.counts_blocks) {
        const poet_status_t status = begin(SET_BLOCKLEN, BLOCK_BYTES);
        release();
        POET_TRY(status);
    }
    poet_spi_init(POET_SPI_HZ);
    return read_csd();
}

poet_status_t poet_storage_init(void)
{
    card.cached = NO_BLOCK;
    card.dirty = false;
    card.status = bring_up();
    return card.status;
}

/* ---- Any address and length, through a cached block ---- */

static poet_status_t check(uint32_t address, uint32_t size_bytes)
{
    POET_TRY(card.status);
    return poet_bytes_in_range(address, size_bytes, info.size_bytes) ? POET_OK : POET_ERR_STORAGE_FULL;
}

/* Write the cached block. One that the card does not take is given up, so that others can still be read. */
static poet_status_t flush(void)
{
    if (!card.dirty) {
        return POET_OK;
    }
    card.dirty = false;
    const poet_status_t status = write_blocks(card.cached, card.block, 1);
    if (status != POET_OK) {
        card.cached = NO_BLOCK;
    }
    return status;
}

static poet_status_t cache(uint32_t block)
{
    if (card.cached == block) {
        return POET_OK;
    }
    POET_TRY(flush());
    card.cached = NO_BLOCK;
    POET_TRY(read_blocks(block, card.block, 1));
    card.cached = block;
    return POET_OK;
}

/* How much of a transfer goes through the cache: the part before the next whole block, or 0 when one begins here. */
static uint32_t partial(uint32_t address, uint32_t size_bytes)
{
    const uint32_t offset = address % BLOCK_BYTES;
    const uint32_t left = BLOCK_BYTES - offset;
    if (offset == 0 && size_bytes >= BLOCK_BYTES) {
        return 0;
    }
    return size_bytes < left ? size_bytes : left;
}

static bool holds_cached(uint32_t block, uint32_t count)
{
    return card.cached - block < count;
}

poet_status_t poet_storage_read(uint32_t address, void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    uint8_t *to = data;
    while (size_bytes > 0) {
        const uint32_t block = address / BLOCK_BYTES;
        uint32_t part = partial(address, size_bytes);
        if (part > 0) {
            POET_TRY(cache(block));
            memcpy(to, card.block + address % BLOCK_BYTES, part);
        } else {
            part = size_bytes - size_bytes % BLOCK_BYTES;
            if (holds_cached(block, part / BLOCK_BYTES)) {
                POET_TRY(flush());
            }
            POET_TRY(read_blocks(block, to, part / BLOCK_BYTES));
        }
        address += part;
        to += part;
        size_bytes -= part;
    }
    return POET_OK;
}

poet_status_t poet_storage_write(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(check(address, size_bytes));
    if (card.protected) {
        return POET_ERR_READ_ONLY;
    }
    const uint8_t *from = data;
    while (size_bytes > 0) {
        const uint32_t block = address / BLOCK_BYTES;
        uint32_t part = partial(address, size_bytes);
        if (part > 0) {
            POET_TRY(cache(block));
            memcpy(card.block + address % BLOCK_BYTES, from, part);
            card.dirty = true;
        } else {
            part = size_bytes - size_bytes % BLOCK_BYTES;
            if (holds_cached(block, part / BLOCK_BYTES)) {
                card.cached = NO_BLOCK;
                card.dirty = false;
            }
            POET_TRY(write_blocks(block, from, part / BLOCK_BYTES));
        }
        address += part;
        from += part;
        size_bytes -= part;
    }
    return POET_OK;
}

poet_status_t poet_storage_erase(uint32_t address, uint32_t size_bytes)
{
    return check(address, size_bytes);
}

poet_status_t poet_storage_sync(void)
{
    POET_TRY(card.status);
    return flush();
}
