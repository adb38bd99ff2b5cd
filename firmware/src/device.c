#include "poet/device.h"

#include "poet/checkpoint.h"
#include "poet/commands.h"
#include "poet/hal.h"
#include "poet/link.h"
#include "poet/model.h"
#include "poet/paint.h"
#include "poet/run.h"
#include "poet/storage.h"

static poet_status_t boot_storage(void)
{
    const poet_status_t status = poet_storage_init();
    poet_checkpoint_init();
    /* A model that pages nothing runs without storage; only checkpoints will fail then. */
    if (poet_model.storage_bytes == 0) {
        return POET_OK;
    }
    POET_TRY(status);
    return poet_model.storage_bytes <= poet_storage_info()->size_bytes ? POET_OK : POET_ERR_STORAGE_FULL;
}

static poet_status_t boot_model(void)
{
    poet_paint_arena();
    POET_TRY(boot_storage());
    return poet_run_init();
}

void poet_run(void)
{
    poet_paint_stack();
    poet_hal_init();
    poet_link_init();
    /* A device that cannot train still answers, and says why. */
    poet_commands_note(boot_model());

    for (;;) {
        poet_frame_t request;
        if (!poet_link_receive(&request)) {
            poet_hal_idle();
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
