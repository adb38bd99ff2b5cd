#include "poet/input.h"

#include "poet/bytes.h"
#include "poet/crc32.h"
#include "poet/model.h"
#include "poet/page.h"

/* The input that is being written. */
static struct {
    uint32_t index;
    uint32_t done_bytes;
    uint32_t crc;
} running;

poet_status_t poet_input_write(uint32_t index, uint32_t offset, const void *data, uint32_t size_bytes, bool *whole)
{
    const poet_input_t *input = &poet_model.inputs[index];
    *whole = false;
    if (offset == 0u) {
        running.index = index;
        running.done_bytes = 0;
        running.crc = 0;
    }
    if (index != running.index || offset != running.done_bytes ||
        !poet_bytes_in_range(offset, size_bytes, input->size_bytes)) {
        return POET_ERR_RANGE;
    }
    POET_TRY(poet_page_write(input->at, offset, data, size_bytes));
    running.done_bytes += size_bytes;
    running.crc = poet_crc32(running.crc, data, size_bytes);
    *whole = running.done_bytes == input->size_bytes;
    return *whole ? poet_page_seal(input->at, input->size_bytes, running.crc) : POET_OK;
}
