#ifndef POET_COMMANDS_H
#define POET_COMMANDS_H

/*
 * What each request does: one function a command, one table.
 */
#include <stdbool.h>

#include "poet/link.h"
#include "poet/status.h"

/* Note a status for STATUS: last_error and storage_errors. */
void poet_commands_note(poet_status_t status);

/* Execute a request and answer it. True when the device is to reset now. */
bool poet_commands_execute(const poet_frame_t *request);

#endif
