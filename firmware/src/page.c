#include "poet/page.h"

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/storage.h"

static poet_page_counts_t counts;

/* The device erases whole units; a page owns the units it begins in. */
static uint32_t erase_span(uint32_t size_bytes)
{
    const uint32_t unit = poet_storage_info()->erase_bytes;
    return (size_bytes + POET_PAGE_TRAILER_BYTES + unit - 1u) / unit * unit;
}

poet_status_t poet_page_erase(uint32_t address, uint32_t size_bytes)
{
    return poet_storage_erase(address, erase_span(size_bytes));
}

poet_status_t poet_page_seal(uint32_t address, uint32_t size_bytes, uint32_t crc)
{
    uint8_t trailer[POET_PAGE_TRAILER_BYTES];
    poet_bytes_put_u32(trailer, crc);
    poet_bytes_put_u32(trailer + 4, size_bytes);
    return poet_storage_write(address + size_bytes, trailer, sizeof trailer);
}

poet_status_t poet_page_crc(uint32_t address, uint32_t size_bytes, uint32_t *crc)
{
    uint8_t trailer[POET_PAGE_TRAILER_BYTES];
    POET_TRY(poet_storage_read(address + size_bytes, trailer, sizeof trailer));
    if (poet_bytes_get_u32(trailer + 4) != size_bytes) {
        return POET_ERR_CORRUPT;
    }
    *crc = poet_bytes_get_u32(trailer);
    return POET_OK;
}

poet_status_t poet_page_out(uint32_t address, const void *data, uint32_t size_bytes)
{
    POET_TRY(poet_page_erase(address, size_bytes));
    POET_TRY(poet_storage_write(address, data, size_bytes));
    POET_TRY(poet_page_seal(address, size_bytes, poet_crc32(0, data, size_bytes)));
    counts.outs++;
    return POET_OK;
}

poet_status_t poet_page_zero(uint32_t address, uint32_t size_bytes)
{
    static const uint8_t zeros[64];
    POET_TRY(poet_page_erase(address, size_bytes));
    uint32_t crc = 0;
    for (uint32_t done = 0; done < size_bytes; done += (uint32_t)sizeof zeros) {
        const uint32_t left = size_bytes - done;
        const uint32_t part = left < sizeof zeros ? left : (uint32_t)sizeof zeros;
        POET_TRY(poet_storage_write(address + done, zeros, part));
        crc = poet_crc32(crc, zeros, part);
    }
    return poet_page_seal(address, size_bytes, crc);
}

poet_status_t poet_page_in(uint32_t address, void *data, uint32_t size_bytes)
{
    uint32_t crc;
    POET_TRY(poet_storage_read(address, data, size_bytes));
    POET_TRY(poet_page_crc(address, size_bytes, &crc));
    if (poet_crc32(0, data, size_bytes) != crc) {
        return POET_ERR_CORRUPT;
    }
    counts.ins++;
    return POET_OK;
}

poet_page_counts_t poet_page_counts(void)
{
    return counts;
}
