#include "poet/device.h"

#include "poet/commands.h"
#include "poet/hal.h"
#include "poet/link.h"
#include "poet/page.h"
#include "poet/paint.h"
#include "poet/run.h"
#include "poet/storage.h"

void poet_run(void)
{
    poet_paint_stack();
    poet_hal_init();
    poet_link_init();
    poet_paint_arena();
    /* A device that cannot train still answers, and says why. */
    poet_commands_note(poet_run_start());

    for (;;) {
        poet_frame_t request;
        if (!poet_link_receive(&request)) {
            /* While the host is awaited. */
            if (poet_storage_info()->stalls_core || !poet_page_erase_ahead()) {
                poet_hal_idle();
            }
            continue;
        }
        if (poet_link_repeat(&request)) {
            continue;
        }
        if (poet_commands_execute(&request)) {
            poet_hal_reset();
        }
    }
}
