#include "poet/commands.h"

#include "poet/bytes.h"
#include "poet/erase.h"
#include "poet/hal.h"
#include "poet/input.h"
#include "poet/model.h"
#include "poet/paint.h"
#include "poet/params.h"
#include "poet/protocol.h"
#include "poet/run.h"
#include "poet/storage.h"

static struct {
    uint32_t storage_errors;
    poet_status_t last_error;
} noted;

static bool is_of_storage(poet_status_t status)
{
    switch (status) {
    case POET_ERR_STORAGE:
    case POET_ERR_STORAGE_FULL:
    case POET_ERR_CORRUPT:
    case POET_ERR_NO_DEVICE:
    case POET_ERR_WRONG_DEVICE:
    case POET_ERR_READ_ONLY:
    case POET_ERR_TIMEOUT:
    case POET_ERR_WORN:
        return true;
    default:
        return false;
    }
}

void poet_commands_note(poet_status_t status)
{
    if (status == POET_OK) {
        return;
    }
    noted.last_error = status;
    if (is_of_storage(status)) {
        noted.storage_errors++;
    }
}

/* The payload being built. */
typedef struct {
    uint8_t *data;
    uint32_t size_bytes;
} reply_t;

static void add_u32(reply_t *reply, uint32_t value)
{
    poet_bytes_put_u32(reply->data + reply->size_bytes, value);
    reply->size_bytes += 4u;
}

static void add_u64(reply_t *reply, uint64_t value)
{
    poet_bytes_put_u64(reply->data + reply->size_bytes, value);
    reply->size_bytes += 8u;
}

static void add_f32(reply_t *reply, float value)
{
    poet_bytes_put_f32(reply->data + reply->size_bytes, value);
    reply->size_bytes += 4u;
}

static void add_bytes(reply_t *reply, const void *data, uint32_t size_bytes)
{
    memcpy(reply->data + reply->size_bytes, data, size_bytes);
    reply->size_bytes += size_bytes;
}

static void add_text(reply_t *reply, const char *text, uint32_t size_bytes)
{
    uint8_t *field = reply->data + reply->size_bytes;
    memset(field, 0, size_bytes);
    for (uint32_t i = 0; i < size_bytes && text[i] != '\0'; i++) {
        field[i] = (uint8_t)text[i];
    }
    reply->size_bytes += size_bytes;
}

static poet_status_t hello(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    add_bytes(reply, poet_model.model_digest, POET_DIGEST_BYTES);
    add_bytes(reply, poet_model.schedule_digest, POET_DIGEST_BYTES);
    add_u32(reply, POET_LINK_PAYLOAD_BYTES);
    add_u32(reply, poet_model.arena_bytes);
    uint32_t input_bytes = 0;
    for (uint32_t i = 0; i < poet_model.input_count; i++) {
        input_bytes += poet_model.inputs[i].size_bytes;
    }
    add_u32(reply, input_bytes);
    add_u32(reply, poet_model.label_bytes);
    add_u32(reply, poet_model.output_bytes);
    add_u32(reply, poet_model.param_count);
    add_u32(reply, poet_model.schedule_steps);
    add_u32(reply, poet_run_steps_done());
    add_u32(reply, poet_hal_tick_hz());
    add_text(reply, poet_model.board, 32);
    add_text(reply, poet_model.tool_version, 16);
    add_text(reply, poet_hal_port(), 16);
    add_text(reply, poet_storage_info()->name, 24);
    add_u32(reply, poet_run_resumed_sequence());
    return POET_OK;
}

/* {u32 offset, bytes}, from `head_bytes` of the payload on, into a buffer. */
static poet_status_t write_buffer(const poet_frame_t *request, uint32_t head_bytes, void *buffer,
                                  uint32_t buffer_bytes)
{
    const uint8_t *from = request->payload + head_bytes;
    const uint32_t offset = poet_bytes_get_u32(from);
    const uint32_t size_bytes = request->payload_bytes - head_bytes - 4u;
    if (!poet_bytes_in_range(offset, size_bytes, buffer_bytes)) {
        return POET_ERR_RANGE;
    }
    memcpy((uint8_t *)buffer + offset, from + 4, size_bytes);
    return POET_OK;
}

static poet_status_t write_input(const poet_frame_t *request, reply_t *reply)
{
    (void)reply;
    const uint32_t index = poet_bytes_get_u32(request->payload);
    if (index >= poet_model.input_count) {
        return POET_ERR_RANGE;
    }
    const poet_input_t *input = &poet_model.inputs[index];
    if (input->data != NULL) {
        POET_TRY(write_buffer(request, 4u, input->data, input->size_bytes));
        poet_run_input_written(index, true);
        return POET_OK;
    }
    bool whole;
    poet_run_input_written(index, false);
    POET_TRY(poet_input_write(index, poet_bytes_get_u32(request->payload + 4), request->payload + 8,
                              request->payload_bytes - 8u, &whole));
    poet_run_input_written(index, whole);
    return POET_OK;
}

static poet_status_t write_label(const poet_frame_t *request, reply_t *reply)
{
    (void)reply;
    POET_TRY(write_buffer(request, 0u, poet_model.label, poet_model.label_bytes));
    poet_run_label_written();
    return POET_OK;
}

static poet_status_t train(const poet_frame_t *request, reply_t *reply)
{
    uint64_t ticks;
    POET_TRY(poet_run_train(poet_bytes_get_f32(request->payload), &ticks));
    add_f32(reply, *poet_model.loss);
    add_u32(reply, poet_run_steps_done());
    add_u64(reply, ticks);
    return POET_OK;
}

static poet_status_t infer(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    uint64_t ticks;
    POET_TRY(poet_run_infer(&ticks));
    add_u64(reply, ticks);
    return POET_OK;
}

static poet_status_t read_output(const poet_frame_t *request, reply_t *reply)
{
    const uint32_t offset = poet_bytes_get_u32(request->payload);
    const uint32_t length = poet_bytes_get_u32(request->payload + 4);
    if (length > POET_LINK_PAYLOAD_BYTES || !poet_bytes_in_range(offset, length, poet_model.output_bytes)) {
        return POET_ERR_RANGE;
    }
    add_bytes(reply, (const uint8_t *)poet_model.output + offset, length);
    return POET_OK;
}

static poet_status_t read_param(const poet_frame_t *request, reply_t *reply)
{
    const uint32_t index = poet_bytes_get_u32(request->payload);
    const uint32_t offset = poet_bytes_get_u32(request->payload + 4);
    const uint32_t length = poet_bytes_get_u32(request->payload + 8);
    if (length > POET_LINK_PAYLOAD_BYTES) {
        return POET_ERR_RANGE;
    }
    POET_TRY(poet_params_read(index, offset, reply->data, length));
    reply->size_bytes = length;
    return POET_OK;
}

static poet_status_t write_param(const poet_frame_t *request, reply_t *reply)
{
    (void)reply;
    const uint32_t index = poet_bytes_get_u32(request->payload);
    const uint32_t offset = poet_bytes_get_u32(request->payload + 4);
    return poet_params_write(index, offset, request->payload + 8, request->payload_bytes - 8u);
}

static poet_status_t report_status(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    const poet_run_counts_t counts = poet_run_counts();
    add_u32(reply, poet_run_steps_done());
    add_u32(reply, counts.page_outs);
    add_u32(reply, counts.page_ins);
    add_u32(reply, counts.recomputes);
    add_u32(reply, noted.storage_errors);
    add_u32(reply, poet_link_frames_dropped() + poet_hal_uart_overruns());
    add_u32(reply, poet_paint_arena_high_water());
    add_u32(reply, poet_paint_stack_high_water());
    add_u32(reply, poet_paint_stack_bytes());
    add_u32(reply, (uint32_t)noted.last_error);
    add_u32(reply, poet_erase_count());
    return POET_OK;
}

static poet_status_t profile(const poet_frame_t *request, reply_t *reply)
{
    const uint32_t first = poet_bytes_get_u32(request->payload);
    const uint32_t most = (POET_LINK_PAYLOAD_BYTES - 8u) / 4u;
    if (first > poet_model.schedule_steps) {
        return POET_ERR_RANGE;
    }
    const uint32_t left = poet_model.schedule_steps - first;
    const uint32_t count = left < most ? left : most;
    add_u32(reply, first);
    add_u32(reply, count);
    for (uint32_t i = 0; i < count; i++) {
        add_u32(reply, poet_model.profile_ticks[first + i]);
    }
    return POET_OK;
}

static poet_status_t checkpoint(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    uint32_t sequence;
    POET_TRY(poet_run_checkpoint(&sequence));
    add_u32(reply, sequence);
    return POET_OK;
}

static poet_status_t restore(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    uint32_t sequence;
    POET_TRY(poet_run_restore(&sequence));
    add_u32(reply, sequence);
    add_u32(reply, poet_run_steps_done());
    return POET_OK;
}

static poet_status_t init(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    (void)reply;
    return poet_run_init();
}

/* The main loop resets, once the answer is out. */
static poet_status_t reset(const poet_frame_t *request, reply_t *reply)
{
    (void)request;
    (void)reply;
    return POET_OK;
}

typedef struct {
    poet_status_t (*execute)(const poet_frame_t *request, reply_t *reply);
    uint16_t least_bytes; /* of the request's payload */
    uint16_t most_bytes;
    uint8_t type;
} command_t;

static const command_t commands[] = {
    {hello, 0, 0, POET_CMD_HELLO},
    {write_input, 9, POET_LINK_PAYLOAD_BYTES, POET_CMD_WRITE_INPUT},
    {write_label, 5, POET_LINK_PAYLOAD_BYTES, POET_CMD_WRITE_LABEL},
    {train, 4, 4, POET_CMD_TRAIN},
    {infer, 0, 0, POET_CMD_INFER},
    {read_output, 8, 8, POET_CMD_READ_OUTPUT},
    {read_param, 12, 12, POET_CMD_READ_PARAM},
    {write_param, 9, POET_LINK_PAYLOAD_BYTES, POET_CMD_WRITE_PARAM},
    {report_status, 0, 0, POET_CMD_STATUS},
    {profile, 4, 4, POET_CMD_PROFILE},
    {checkpoint, 0, 0, POET_CMD_CHECKPOINT},
    {restore, 0, 0, POET_CMD_RESTORE},
    {reset, 0, 0, POET_CMD_RESET},
    {init, 0, 0, POET_CMD_INIT},
};

static poet_status_t dispatch(const poet_frame_t *request, reply_t *reply)
{
    if (request->abi != POET_PROTOCOL_ABI) {
        return POET_ERR_ABI;
    }
    for (uint32_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        const command_t *command = &commands[i];
        if (command->type != request->type) {
            continue;
        }
        if (request->payload_bytes < command->least_bytes || request->payload_bytes > command->most_bytes) {
            return POET_ERR_LENGTH;
        }
        return command->execute(request, reply);
    }
    return POET_ERR_UNKNOWN_COMMAND;
}

bool poet_commands_execute(const poet_frame_t *request)
{
    reply_t reply = {poet_link_payload(), 0};
    poet_run_begin(request->seq);
    const poet_status_t status = dispatch(request, &reply);
    poet_run_end();
    poet_commands_note(status);
    poet_link_respond(request, (int16_t)status, status == POET_OK ? reply.size_bytes : 0u);
    if (request->type == POET_CMD_HELLO) {
        poet_link_forget();
    }
    return status == POET_OK && request->type == POET_CMD_RESET;
}
