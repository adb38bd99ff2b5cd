/*
 * A storage driver on its own, for tests: calls come over the UART and go to the driver as they are.
 *
 * A request is u32 length (of what follows), u8 operation, u32 address, u32 size, then data; an answer u32 length,
 * i32 status, then data. All little-endian. An answer of no bytes says that the program is up. Operations:
 *
 *     'I' init   'N' info: four u32 and the name   'R' read   'W' write   'E' erase   'S' sync
 *     'F' to the device's model: go wrong in way `address`, with parameter `size`   'X' reset
 */
#include "model.h"
#include "poet/bytes.h"
#include "poet/hal.h"
#include "poet/storage.h"

#define MOST_DATA_BYTES 3072u
#define HEAD_BYTES 9u

static uint8_t request[HEAD_BYTES + MOST_DATA_BYTES];
static uint8_t answer[4u + MOST_DATA_BYTES];

static void take(uint8_t *to, size_t size)
{
    size_t done = 0;
    while (done < size) {
        const size_t some = poet_hal_uart_read(to + done, size - done);
        done += some;
        if (some == 0) {
            poet_hal_idle();
        }
    }
}

static uint32_t put_info(void)
{
    const poet_storage_info_t *info = poet_storage_info();
    uint32_t at = 4u;
    poet_bytes_put_u32(answer + at, info->size_bytes);
    poet_bytes_put_u32(answer + at + 4, info->erase_bytes);
    poet_bytes_put_u32(answer + at + 8, info->write_bytes);
    poet_bytes_put_u32(answer + at + 12, info->endurance_erases);
    at += 16u;
    const size_t length = strlen(info->name);
    memcpy(answer + at, info->name, length);
    return at + (uint32_t)length;
}

static uint32_t respond(uint8_t operation, uint32_t address, uint32_t size)
{
    uint32_t length = 4u;
    poet_status_t status = POET_OK;
    switch (operation) {
    case 'I':
        status = poet_storage_init();
        break;
    case 'N':
        length = put_info();
        break;
    case 'R':
        status = poet_storage_read(address, answer + 4, size);
        length += size;
        break;
    case 'W':
        status = poet_storage_write(address, request + HEAD_BYTES, size);
        break;
    case 'E':
        status = poet_storage_erase(address, size);
        break;
    case 'S':
        status = poet_storage_sync();
        break;
    case 'F':
        model_go_wrong(address, size);
        break;
    default:
        status = POET_ERR_UNKNOWN_COMMAND;
    }
    poet_bytes_put_u32(answer, (uint32_t)status);
    return length;
}

int main(int argc, char **argv)
{
    poet_hal_arguments(argc, argv);
    poet_hal_init();
    uint8_t prefix[4] = {0};
    poet_hal_uart_write(prefix, sizeof prefix);
    for (;;) {
        take(prefix, sizeof prefix);
        take(request, poet_bytes_get_u32(prefix));
        if (request[0] == 'X') {
            poet_hal_reset();
        }
        const uint32_t length =
            respond(request[0], poet_bytes_get_u32(request + 1), poet_bytes_get_u32(request + 5));
        poet_bytes_put_u32(prefix, length);
        poet_hal_uart_write(prefix, sizeof prefix);
        poet_hal_uart_write(answer, length);
    }
}
