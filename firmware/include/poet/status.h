#ifndef POET_STATUS_H
#define POET_STATUS_H

/*
 * Status of every call that can fail: POET_OK is 0, errors are negative, nothing else is used.
 * The numbers are part of the serial protocol (protocol.h): add at the end, never renumber.
 */
typedef enum {
    POET_OK = 0,
    POET_ERR_UNKNOWN_COMMAND = -1, /* a well-formed frame asks for something this firmware does not know */
    POET_ERR_ABI = -2,             /* the frame was made for another protocol version */
    POET_ERR_LENGTH = -3,          /* a payload of the wrong length for its command */
    POET_ERR_RANGE = -4,           /* an index, offset or length outside its object */
    POET_ERR_LABEL = -5,           /* the label is not a class of the model */
    POET_ERR_STORAGE = -6,         /* the storage device failed to read, write or erase */
    POET_ERR_STORAGE_FULL = -7,    /* the storage device is smaller than the schedule needs */
    POET_ERR_CORRUPT = -8,         /* a page came back with a wrong CRC; it was not used */
    POET_ERR_NOT_FINITE = -9,      /* the loss is NaN or infinite; the step changed nothing */
    POET_ERR_NO_CHECKPOINT = -10,  /* there is no checkpoint to restore */
    POET_ERR_NOT_READY = -11,      /* parameters were not initialised, or input was not written */
    POET_ERR_INPUT = -12,          /* an input's value is no row of the table that it picks from */
    POET_ERR_NO_DEVICE = -13,      /* no storage device answers */
    POET_ERR_WRONG_DEVICE = -14,   /* another storage device answers than the driver or the board expects */
    POET_ERR_READ_ONLY = -15,      /* the storage device is write-protected */
    POET_ERR_TIMEOUT = -16,        /* the storage device took longer than its kind ever may */
    POET_ERR_WORN = -17,           /* the storage device did not keep what it erased or programmed */
} poet_status_t;

/* Return early with the first error. The only macro in this code base that hides control flow. */
#define POET_TRY(call)                                \
    do {                                              \
        const poet_status_t poet_try_status = (call); \
        if (poet_try_status != POET_OK) {             \
            return poet_try_status;                   \
        }                                             \
    } while (0)

#endif
