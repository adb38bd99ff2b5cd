#include "poet/erase.h"

#include "poet/storage.h"

static uint32_t erased_units;

uint32_t poet_erase_round(uint32_t size_bytes)
{
    const poet_storage_info_t *info = poet_storage_info();
    const uint32_t unit = info->erase_bytes > info->write_bytes ? info->erase_bytes : info->write_bytes;
    return (size_bytes + unit - 1u) / unit * unit;
}

poet_status_t poet_erase(uint32_t address, uint32_t size_bytes)
{
    const uint32_t unit = poet_storage_info()->erase_bytes;
    if (unit > 1u) {
        erased_units += size_bytes / unit;
    }
    return poet_storage_erase(address, size_bytes);
}

uint32_t poet_erase_count(void)
{
    return erased_units;
}
