#include "poet/page.h"

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/erase.h"
#include "poet/model.h"
#include "poet/storage.h"

/*
 * A page: u32 CRC of the data, u32 size_bytes, u32 turn, u32 CRC of what is before and of the page's place on the
 * device; then the data. Turns count training steps: over the device's life where the window moves, else since boot.
 */
#define TURN_AT 8u
#define HEADER_CRC_AT 12u

static struct {
    poet_page_version_t now;
    uint32_t before_place; /* of the parameters' pages that the running step reads */
    uint32_t ahead_unit;   /* of the next turn's window: where erasing ahead goes on */
    poet_page_counts_t counts;
} state;

/* The unit of the ring where a unit of the window lies at `turn`. */
static uint32_t ring_unit(uint32_t unit, uint32_t turn)
{
    const uint32_t units = poet_model.page_units;
    return (unit % units + units - turn * poet_model.page_stride % units) % units;
}

/* Units of a page. */
static uint32_t span(uint32_t size_bytes)
{
    return (POET_PAGE_HEADER_BYTES + size_bytes + poet_model.page_unit_bytes - 1u) /
           poet_model.page_unit_bytes;
}

/* Where nothing is erased: the first place of a parameter's page, or the second, a swap behind it. */
static uint32_t swapped_unit(uint32_t unit)
{
    const uint32_t swap = poet_model.page_swap_units;
    if (unit < poet_model.page_homes_unit || swap == 0u) {
        return unit;
    }
    const bool is_new = unit < poet_model.page_homes_unit + swap;
    return (is_new ? unit : unit - swap) + (is_new ? state.now.place : state.before_place) * swap;
}

/* A frozen parameter's page, which lies at its address, in one piece, whatever moves before it. */
static bool is_frozen(uint32_t address)
{
    return poet_model.frozen_at > 0u && address >= poet_model.frozen_at;
}

static uint32_t place_of(uint32_t address)
{
    if (is_frozen(address)) {
        return address;
    }
    const uint32_t unit_bytes = poet_model.page_unit_bytes;
    const uint32_t unit = address / unit_bytes;
    const uint32_t there = poet_model.page_stride == 0u ? swapped_unit(unit) : ring_unit(unit, state.now.turn);
    return there * unit_bytes + address % unit_bytes;
}

/* How many bytes from `address` on lie in one piece on the device: the ring ends somewhere. */
static uint32_t piece(uint32_t address, uint32_t left)
{
    if (is_frozen(address)) {
        return left;
    }
    const uint32_t most = poet_model.page_units * poet_model.page_unit_bytes - place_of(address);
    return left < most ? left : most;
}

static poet_status_t read_at(uint32_t address, void *data, uint32_t size_bytes)
{
    uint8_t *to = data;
    while (size_bytes > 0u) {
        const uint32_t part = piece(address, size_bytes);
        POET_TRY(poet_storage_read(place_of(address), to, part));
        address += part;
        to += part;
        size_bytes -= part;
    }
    return POET_OK;
}

static poet_status_t write_at(uint32_t address, const void *data, uint32_t size_bytes)
{
    const uint8_t *from = data;
    while (size_bytes > 0u) {
        const uint32_t part = piece(address, size_bytes);
        POET_TRY(poet_storage_write(place_of(address), from, part));
        address += part;
        from += part;
        size_bytes -= part;
    }
    return POET_OK;
}

/*
 * Which units are known to be erased: a bit for each unit of the next turn's window, and for those above it, where
 * this turn's window ends.
 */
static uint32_t clean_bits(void)
{
    return poet_model.page_window_units + poet_model.page_stride;
}

static bool is_clean(uint32_t bit)
{
    return (poet_model.page_clean[bit / 8u] & (1u << (bit % 8u))) != 0u;
}

static void set_clean(uint32_t bit, bool clean)
{
    const uint8_t mask = (uint8_t)(1u << (bit % 8u));
    uint8_t *byte = &poet_model.page_clean[bit / 8u];
    *byte = (uint8_t)(clean ? *byte | mask : *byte & ~mask);
}

poet_status_t poet_page_begin(uint32_t address, uint32_t size_bytes)
{
    if (poet_model.page_stride == 0u) {
        return POET_OK;
    }
    state.ahead_unit = 0;
    const uint32_t first = address / poet_model.page_unit_bytes;
    for (uint32_t unit = first; unit < first + span(size_bytes); unit++) {
        const uint32_t bit = unit + poet_model.page_stride;
        if (!is_clean(bit)) {
            POET_TRY(poet_erase(place_of(unit * poet_model.page_unit_bytes), poet_model.page_unit_bytes));
        }
        set_clean(bit, false);
        if (bit >= poet_model.page_units) {
            /* In a ring that the window nearly fills, where it ends now is where it begins in the next turn. */
            set_clean(bit - poet_model.page_units, false);
        }
    }
    return POET_OK;
}

static uint32_t header_crc(const uint8_t *header, uint32_t place)
{
    uint8_t place_bytes[4];
    poet_bytes_put_u32(place_bytes, place);
    return poet_crc32(poet_crc32(0, header, HEADER_CRC_AT), place_bytes, sizeof place_bytes);
}

static bool is_header(const uint8_t *header, uint32_t place)
{
    return poet_bytes_get_u32(header + HEADER_CRC_AT) == header_crc(header, place);
}

poet_status_t poet_page_init(void)
{
    const poet_storage_info_t *info = poet_storage_info();
    state.now = (poet_page_version_t){0, 0, false};
    state.before_place = 0;
    if (poet_model.storage_bytes > info->size_bytes) {
        return POET_ERR_STORAGE_FULL;
    }
    if (poet_model.page_stride == 0u) {
        return info->erase_bytes > 1u && poet_model.page_units > 0u ? POET_ERR_WRONG_DEVICE : POET_OK;
    }
    if (poet_model.page_unit_bytes % info->erase_bytes != 0u) {
        return POET_ERR_WRONG_DEVICE;
    }
    /* Pages begin with units, and those of the newest turn are on the device. */
    for (uint32_t unit = 0; unit < poet_model.page_units; unit++) {
        const uint32_t place = unit * poet_model.page_unit_bytes;
        uint8_t header[POET_PAGE_HEADER_BYTES];
        POET_TRY(poet_storage_read(place, header, sizeof header));
        const uint32_t turn = poet_bytes_get_u32(header + TURN_AT);
        if (turn > state.now.turn && is_header(header, place)) {
            state.now.turn = turn;
        }
    }
    poet_page_turn();
    /* A unit whose erase was cut may look erased. */
    for (uint32_t bit = 0; bit < clean_bits(); bit++) {
        set_clean(bit, false);
    }
    return POET_OK;
}

void poet_page_turn(void)
{
    state.now.turn++;
    state.ahead_unit = 0;
    if (poet_model.page_stride == 0u) {
        state.before_place = state.now.place;
        if (state.now.held && poet_model.page_swap_units > 0u) {
            state.now.place = 1u - state.now.place;
        }
        state.now.held = false;
        return;
    }
    for (uint32_t bit = clean_bits(); bit-- > 0u;) {
        set_clean(bit, bit >= poet_model.page_stride && is_clean(bit - poet_model.page_stride));
    }
}

/* Whether a unit of the next turn's window is part of a parameter's page, which is read then. */
static bool is_live(uint32_t unit)
{
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        const poet_param_t *param = &poet_model.params[i];
        if (param->home != POET_HOME_STORAGE) {
            continue;
        }
        const uint32_t first = param->at / poet_model.page_unit_bytes + poet_model.page_stride;
        if (unit >= first && unit < first + span(param->size_bytes)) {
            return true;
        }
    }
    return false;
}

bool poet_page_erase_ahead(void)
{
    if (poet_model.page_stride == 0u) {
        return false;
    }
    for (; state.ahead_unit < poet_model.page_window_units; state.ahead_unit++) {
        const uint32_t unit = state.ahead_unit;
        if (is_clean(unit) || is_live(unit)) {
            continue;
        }
        const uint32_t place = ring_unit(unit, state.now.turn + 1u) * poet_model.page_unit_bytes;
        if (poet_erase(place, poet_model.page_unit_bytes) != POET_OK) {
            state.ahead_unit = poet_model.page_window_units;
            return false;
        }
        set_clean(unit, true);
        return true;
    }
    return false;
}

poet_status_t poet_page_write(uint32_t address, uint32_t offset, const void *data, uint32_t size_bytes)
{
    return write_at(address + POET_PAGE_HEADER_BYTES + offset, data, size_bytes);
}

poet_status_t poet_page_seal(uint32_t address, uint32_t size_bytes, uint32_t crc)
{
    uint8_t header[POET_PAGE_HEADER_BYTES];
    poet_bytes_put_u32(header, crc);
    poet_bytes_put_u32(header + 4, size_bytes);
    poet_bytes_put_u32(header + TURN_AT, state.now.turn);
    poet_bytes_put_u32(header + HEADER_CRC_AT, header_crc(header, place_of(address)));
    return write_at(address, header, sizeof header);
}

/* What is older than `most_age` turns is what a write should have replaced. */
static poet_status_t crc_of(uint32_t address, uint32_t size_bytes, uint32_t most_age, uint32_t *crc)
{
    uint8_t header[POET_PAGE_HEADER_BYTES];
    POET_TRY(read_at(address, header, sizeof header));
    const uint32_t age = state.now.turn - poet_bytes_get_u32(header + TURN_AT);
    const bool is_old = age > most_age && !is_frozen(address);
    if (!is_header(header, place_of(address)) || poet_bytes_get_u32(header + 4) != size_bytes || is_old) {
        return POET_ERR_CORRUPT;
    }
    *crc = poet_bytes_get_u32(header);
    return POET_OK;
}

/* Whether a step finds at `address` a parameter as the step before left it. */
static bool is_from_before(uint32_t address)
{
    const uint32_t moved = (poet_model.page_stride + poet_model.page_swap_units) * poet_model.page_unit_bytes;
    for (uint32_t i = 0; i < poet_model.param_count; i++) {
        const poet_param_t *param = &poet_model.params[i];
        if (param->home == POET_HOME_STORAGE && param->at + moved == address) {
            return true;
        }
    }
    return false;
}

/* Whether the host wrote it, whenever that was. */
static bool is_input(uint32_t address)
{
    for (uint32_t i = 0; i < poet_model.input_count; i++) {
        if (poet_model.inputs[i].data == NULL && poet_model.inputs[i].at == address) {
            return true;
        }
    }
    return false;
}

poet_status_t poet_page_crc(uint32_t address, uint32_t size_bytes, uint32_t *crc)
{
    const uint32_t most_age = is_input(address) ? UINT32_MAX : is_from_before(address) ? 1u : 0u;
    return crc_of(address, size_bytes, most_age, crc);
}

poet_status_t poet_page_crc_of_turn(uint32_t address, uint32_t size_bytes, uint32_t *crc)
{
    return crc_of(address, size_bytes, 0u, crc);
}

poet_status_t poet_page_read(uint32_t address, uint32_t offset, void *data, uint32_t size_bytes)
{
    return read_at(address + POET_PAGE_HEADER_BYTES + offset, data, size_bytes);
}

poet_status_t poet_page_start(uint32_t address, uint32_t offset, void *data, uint32_t run_bytes, uint32_t runs,
                              uint32_t stride_bytes)
{
    const poet_storage_ahead_t *ahead = poet_storage_info()->ahead;
    const uint32_t first = address + POET_PAGE_HEADER_BYTES + offset;
    const uint32_t whole = (runs - 1u) * stride_bytes + run_bytes;
    uint8_t *to = data;
    if (ahead != NULL && piece(first, whole) == whole) {
        const poet_storage_runs_t there = {place_of(first), run_bytes, runs, stride_bytes, to};
        return ahead->start(&there);
    }
    for (uint32_t i = 0; i < runs; i++) {
        POET_TRY(read_at(first + i * stride_bytes, to + i * run_bytes, run_bytes));
    }
    return POET_OK;
}

poet_status_t poet_page_wait(void)
{
    const poet_storage_ahead_t *ahead = poet_storage_info()->ahead;
    return ahead == NULL ? POET_OK : ahead->wait();
}

uint32_t poet_page_row(int32_t index, uint32_t rows)
{
    const int32_t row = index < 0 ? index + (int32_t)rows : index;
    return row < 0 ? 0u : (uint32_t)row < rows ? (uint32_t)row : rows - 1u;
}

poet_status_t poet_page_rows(uint32_t address, uint32_t rows, uint32_t row_bytes, const int32_t *index, uint32_t count,
                             void *data)
{
    uint8_t *to = data;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t row = poet_page_row(index[i], rows);
        uint8_t sealed[4];
        uint8_t number[4];
        POET_TRY(poet_page_read(address, row * row_bytes, to, row_bytes));
        POET_TRY(poet_page_read(address, rows * row_bytes + row * (uint32_t)sizeof sealed, sealed, sizeof sealed));
        poet_bytes_put_u32(number, row);
        if (poet_crc32(poet_crc32(0, to, row_bytes), number, sizeof number) != poet_bytes_get_u32(sealed)) {
            return POET_ERR_CORRUPT;
        }
        to += row_bytes;
    }
    return POET_OK;
}

poet_status_t poet_page_keep(uint32_t from, uint32_t to, uint32_t size_bytes)
{
    uint32_t crc;
    POET_TRY(poet_page_crc(from, size_bytes, &crc));
    if (place_of(from) != place_of(to)) {
        POET_TRY(poet_page_begin(to, size_bytes));
        uint8_t chunk[256];
        for (uint32_t done = 0; done < size_bytes; done += (uint32_t)sizeof chunk) {
            const uint32_t left = size_bytes - done;
            const uint32_t part = left < sizeof chunk ? left : (uint32_t)sizeof chunk;
            POET_TRY(poet_page_read(from, done, chunk, part));
            POET_TRY(poet_page_write(to, done, chunk, part));
        }
    }
    return poet_page_seal(to, size_bytes, crc);
}

poet_status_t poet_page_out(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(poet_page_begin(address, size_bytes));
    POET_TRY(poet_page_seal(address, size_bytes, poet_crc32(0, data, size_bytes)));
    POET_TRY(poet_page_write(address, 0u, data, size_bytes));
    state.counts.outs++;
    return POET_OK;
}

poet_status_t poet_page_zero(uint32_t address, uint32_t size_bytes)
{
    static const uint8_t zeros[64];
    return poet_page_zero_from(address, size_bytes, zeros, (uint32_t)sizeof zeros);
}

poet_status_t poet_page_zero_from(uint32_t address, uint32_t size_bytes, const void *zeros, uint32_t zero_bytes)
{
    POET_TRY(poet_page_begin(address, size_bytes));
    uint32_t crc = 0;
    for (uint32_t done = 0; done < size_bytes; done += zero_bytes) {
        const uint32_t left = size_bytes - done;
        const uint32_t part = left < zero_bytes ? left : zero_bytes;
        POET_TRY(poet_page_write(address, done, zeros, part));
        crc = poet_crc32(crc, zeros, part);
    }
    return poet_page_seal(address, size_bytes, crc);
}

poet_status_t poet_page_in(uint32_t address, void *data, uint32_t size_bytes)
{
    uint32_t crc;
    POET_TRY(poet_page_crc(address, size_bytes, &crc));
    POET_TRY(poet_page_read(address, 0u, data, size_bytes));
    if (poet_crc32(0, data, size_bytes) != crc) {
        return POET_ERR_CORRUPT;
    }
    state.counts.ins++;
    return POET_OK;
}

poet_page_version_t poet_page_version(void)
{
    return state.now;
}

void poet_page_use(poet_page_version_t version)
{
    state.now = version;
}

poet_page_counts_t poet_page_counts(void)
{
    return state.counts;
}
