/*
 * Training from a loop of your own: no host, no protocol. This program draws its samples itself; yours takes them from a
 * sensor. It tells each loss on the serial line, commits a checkpoint every ten steps, and after a reset or a power cut
 * goes on from the newest one.
 */
#include <string.h>

#include "poet/checkpoint.h"
#include "poet/hal.h"
#include "poet/page.h"
#include "poet/run.h"
#include "poet_generated.h"

#define STEPS 40u
#define INPUTS (sizeof poet_input_image / sizeof poet_input_image[0])
#define CLASSES 10u

static void say(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0') {
        length++;
    }
    poet_hal_uart_write((const uint8_t *)text, length);
}

static void say_number(uint32_t number, uint32_t base, uint32_t least_digits)
{
    char digits[11];
    size_t at = sizeof digits - 1u;
    digits[at] = '\0';
    for (uint32_t written = 0; number != 0u || written < least_digits; written++) {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    }
    say(digits + at);
}

/* The loss to three places, and its bits, which are those of any other machine. */
static void say_loss(uint32_t step)
{
    uint32_t bits;
    memcpy(&bits, &poet_loss, sizeof bits);
    say("step ");
    say_number(step, 10u, 1u);
    say(" loss ");
    say_number((uint32_t)poet_loss, 10u, 1u);
    say(".");
    say_number((uint32_t)(poet_loss * 1000.0f) % 1000u, 10u, 3u);
    say(" ");
    say_number(bits, 16u, 8u);
    say("\r\n");
}

static void take_sample(uint32_t step)
{
    for (uint32_t i = 0; i < INPUTS; i++) {
        poet_input_image[i] = (float)((step * 7u + i * 3u) % 17u) / 16.0f;
    }
    poet_label[0] = (int32_t)(step % CLASSES);
}

static poet_status_t train(void)
{
    POET_TRY(poet_run_start());
    for (uint32_t step = poet_run_steps_done(); step < STEPS; step++) {
        take_sample(step);
        poet_learning_rate = 0.02f;
        poet_step_index = (int32_t)step;
        POET_TRY(poet_step());
        say_loss(step);
        if ((step + 1u) % 10u == 0u) {
            poet_checkpoint_t committed;
            POET_TRY(poet_checkpoint_commit(step + 1u, &committed));
        }
        /* On flash that has to be erased, some of the next step's work; call it whenever there is time. */
        while (poet_page_erase_ahead()) {
        }
    }
    return POET_OK;
}

int main(void)
{
    poet_hal_init();
    uint8_t key;
    while (poet_hal_uart_read(&key, 1) == 0u) {
        poet_hal_idle();
    }
    const poet_status_t status = train();
    say(status == POET_OK ? "done\r\n" : "stopped, status -");
    if (status != POET_OK) {
        say_number((uint32_t)-status, 10u, 1u);
        say("\r\n");
    }
    for (;;) {
        poet_hal_idle();
    }
}
