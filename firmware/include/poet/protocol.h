#ifndef POET_PROTOCOL_H
#define POET_PROTOCOL_H

/*
 * The serial protocol. This file is the authority; poet_hil/protocol.py follows it, and a test compares the
 * two.
 *
 * A frame on the wire is COBS(body) and one 0x00. Everything is little-endian; floats are IEEE 754 binary32.
 *
 *     body = header, payload, CRC-32 of header and payload (zlib's polynomial, u32)
 *     header = u8 abi, u8 type, u16 seq, i16 status (0 in requests)
 *
 * - A frame with bad COBS, a bad CRC, a body shorter than header and CRC, or a payload above
 *   POET_LINK_PAYLOAD_BYTES is dropped and counted: its seq cannot be trusted. The host asks again.
 * - Every other frame is answered: type | 0x80, the same seq, a status, and a payload that is empty unless
 * status is POET_OK. Another abi is answered with POET_ERR_ABI, an unknown type with
 * POET_ERR_UNKNOWN_COMMAND.
 * - A frame that repeats seq and CRC of the one before is answered with the same bytes again and not executed
 * again, so a TRAIN that was asked twice trains once. HELLO is always executed, and forgets the response
 * before it.
 * - Empty frames (0x00 alone) are ignored; a host may send one to end whatever was half sent before.
 */

#define POET_PROTOCOL_ABI 3u

#define POET_LINK_HEADER_BYTES 6u
#define POET_LINK_CRC_BYTES 4u
#define POET_LINK_PAYLOAD_BYTES 512u
#define POET_LINK_BODY_BYTES (POET_LINK_HEADER_BYTES + POET_LINK_PAYLOAD_BYTES + POET_LINK_CRC_BYTES)

#define POET_LINK_RESPONSE 0x80u /* set in the type of a response */

/* The device sends a heartbeat when it has sent nothing for this long while a command runs. */
#define POET_HEARTBEAT_MS 250u

typedef enum {
    /* {} -> {u8 model_digest[16], u8 schedule_digest[16], u32 payload_max, u32 arena_bytes, u32 input_bytes,
     *        u32 label_bytes, u32 output_bytes, u32 param_count, u32 schedule_steps, u32 steps_done,
     *        u32 tick_hz, char board[32], char tool_version[16], char port[16], char storage[24],
     *        u32 resumed_sequence}
     * input_bytes: of all inputs together. resumed_sequence: of the checkpoint that was restored last, at boot or since;
     * 0: none, the device began with initial parameters. Strings are padded with NUL, and cut where they are too long (then without NUL). */
    POET_CMD_HELLO = 0x01,

    /* {u32 index, u32 offset, bytes} -> {}. POET_ERR_RANGE: no such input, or a part outside it; of an input that is
     * on storage also parts that do not come in order from offset 0 on. */
    POET_CMD_WRITE_INPUT = 0x02,

    /* {u32 offset, bytes} -> {}. int32 classes, which TRAIN checks, or float32 targets. POET_ERR_RANGE outside. */
    POET_CMD_WRITE_LABEL = 0x03,

    /* {f32 learning_rate} -> {f32 loss, u32 steps_done, u64 ticks}
     * POET_ERR_RANGE: the learning rate is not finite. POET_ERR_NOT_READY: an input or the label was never
     * written, or the parameters are not to be trusted since a run failed (RESTORE or RESET). POET_ERR_LABEL,
     * POET_ERR_INPUT: nothing ran. POET_ERR_NOT_FINITE: the loss is NaN or infinite; the step does not count, and parameters and
     * state are as they were before it. Other errors: the step stopped half way, does not count, and the parameters are not to be
     * trusted. */
    POET_CMD_TRAIN = 0x04,

    /* {} -> {u64 ticks}
     * POET_ERR_NOT_READY and POET_ERR_INPUT as for TRAIN. Other errors: the parameters are not to be trusted. */
    POET_CMD_INFER = 0x05,

    /* {u32 offset, u32 length} -> {bytes} */
    POET_CMD_READ_OUTPUT = 0x06,

    /* {u32 index, u32 offset, u32 length} -> {bytes}
     * POET_ERR_CORRUPT: its page on storage has a wrong CRC. */
    POET_CMD_READ_PARAM = 0x07,

    /* {u32 index, u32 offset, bytes} -> {}
     * POET_ERR_RANGE also for a parameter in ROM. Writing part of a page that is corrupt leaves it corrupt;
     * writing all of it in one frame repairs it. On storage that has to be erased, parts come in order from offset 0
     * on, else POET_ERR_RANGE, and the page is corrupt until the last of them. */
    POET_CMD_WRITE_PARAM = 0x08,

    /* {} -> {u32 steps_done, u32 page_outs, u32 page_ins, u32 recomputes, u32 storage_errors,
     *        u32 frames_dropped, u32 arena_high_water_bytes, u32 stack_high_water_bytes, u32 stack_bytes,
     *        i32 last_error, u32 erases}
     * page_outs, page_ins and recomputes: of the last training step. storage_errors: requests (and the boot)
     * that failed because of storage (status.h). frames_dropped: see above, and one for
     * every overrun of the receiver. The stack figures are 0 on a port that cannot tell. last_error: the last
     * status that was not POET_OK, the boot's included; 0 when there was none. erases: erase units of the storage device
     * that were erased since boot. */
    POET_CMD_STATUS = 0x09,

    /* {u32 first} -> {u32 first, u32 count, u32 ticks[count]}
     * Ticks of each schedule step when it last ran, from `first` on, as many as fit; saturated at 2^32-1. The
     * steps of an inference are numbered behind those of a training step. */
    POET_CMD_PROFILE = 0x0A,

    /* {} -> {u32 sequence}. Commits parameters and steps_done. POET_ERR_NOT_READY as for TRAIN. */
    POET_CMD_CHECKPOINT = 0x0B,

    /* {} -> {u32 sequence, u32 steps_done}
     * POET_ERR_NO_CHECKPOINT: there is none, or none of this model that is intact. */
    POET_CMD_RESTORE = 0x0C,

    /* {} -> {}, then the device resets, and goes on from the newest good checkpoint. */
    POET_CMD_RESET = 0x0D,

    /* {} -> {}. Forget all checkpoints: parameters are initial, steps_done is 0. POET_ERR_NO_CHECKPOINT, and nothing
     * changes: initial values came with storage, as a checkpoint of no steps. */
    POET_CMD_INIT = 0x0E,

    /* Device to host, unasked, while a command runs; seq is the command's.
     * {u32 step_index, u32 steps_total, u64 ticks since the command began}
     * TRAIN and INFER count schedule steps, CHECKPOINT and RESTORE slots or parameters. */
    POET_HEARTBEAT = 0x7E,
} poet_message_t;

#endif
