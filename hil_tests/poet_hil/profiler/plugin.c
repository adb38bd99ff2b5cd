/*
 * QEMU TCG plugin: counts what runs between two markers of the firmware, segment by segment.
 *
 * The markers are reserved hint instructions, no-ops on silicon and in QEMU:
 *   0xf3af80a0 (on ARMv6-M 0xbfa0)  a region begins
 *   0xf3af80a1 (on ARMv6-M 0xbfb0)  it ends
 * The long ones are aligned to 4 bytes: of an instruction that lies across two pages QEMU shows a plugin only the first
 * half.
 * A segment is a straight line of instructions: a translated block, cut at markers. Of each segment it counts how often
 * it ran, and how often control left it to somewhere else than the next address (a branch taken). With these and
 * the disassembly any cycle model can be applied afterwards, without another run.
 *
 * Argument: out=FILE. For each region that ended, in order, one line "R", then a line for each segment that ran:
 *   S <first address, hex> <end address, hex> <executions> <taken>
 * The file is flushed at every region's end.
 *
 * Interrupt handlers that run inside a region are counted with it; the runtime enables none that take long.
 * QEMU ships no header for plugins: these are the declarations of API version 1 that are used here.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

typedef void (*qemu_plugin_vcpu_udata_cb_t)(unsigned int vcpu, void *userdata);
typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*qemu_plugin_udata_cb_t)(qemu_plugin_id_t id, void *userdata);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, qemu_plugin_vcpu_tb_trans_cb_t cb);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, qemu_plugin_vcpu_udata_cb_t cb,
                                            enum qemu_plugin_cb_flags flags, void *userdata);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, qemu_plugin_udata_cb_t cb, void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv);

#define MARK_HALFWORD 0xf3afu
#define MARK_BEGIN 0x80a0u
#define MARK_END 0x80a1u
#define SHORT_BEGIN 0xbfa0u
#define SHORT_END 0xbfb0u

#define BUCKETS 65536u

typedef struct segment {
    uint32_t first;
    uint32_t end;
    uint64_t executions;
    uint64_t taken;
    struct segment *next_in_bucket;
    struct segment *next;
} segment_t;

static segment_t *buckets[BUCKETS];
static segment_t *segments;
static segment_t outside; /* what "ran before" the first segment of a region */
static segment_t *previous = &outside;
static bool in_region;
static FILE *out;

static segment_t *find_segment(uint32_t first, uint32_t end)
{
    const uint32_t bucket = (first * 2654435761u ^ end * 40503u) % BUCKETS;
    for (segment_t *s = buckets[bucket]; s; s = s->next_in_bucket) {
        if (s->first == first && s->end == end) {
            return s;
        }
    }
    segment_t *s = calloc(1, sizeof *s);
    if (!s) {
        fputs("poet profiler: out of memory\n", stderr);
        abort();
    }
    s->first = first;
    s->end = end;
    s->next_in_bucket = buckets[bucket];
    buckets[bucket] = s;
    s->next = segments;
    segments = s;
    return s;
}

static void on_segment(unsigned int vcpu, void *userdata)
{
    (void)vcpu;
    if (!in_region) {
        return;
    }
    segment_t *s = userdata;
    previous->taken += previous->end != s->first;
    previous = s;
    s->executions++;
}

static void on_begin(unsigned int vcpu, void *userdata)
{
    (void)vcpu;
    (void)userdata;
    for (segment_t *s = segments; s; s = s->next) {
        s->executions = 0;
        s->taken = 0;
    }
    previous = &outside;
    in_region = true;
}

/* `userdata` is the marker's address: the last segment may have jumped there. */
static void on_end(unsigned int vcpu, void *userdata)
{
    (void)vcpu;
    if (!in_region) {
        return;
    }
    in_region = false;
    previous->taken += previous->end != (uint32_t)(uintptr_t)userdata;
    fputs("R\n", out);
    for (segment_t *s = segments; s; s = s->next) {
        if (s->executions) {
            fprintf(out, "S %x %x %llu %llu\n", s->first, s->end, (unsigned long long)s->executions,
                    (unsigned long long)s->taken);
        }
    }
    fflush(out);
}

/* Not qemu_plugin_insn_size(), which is 2 for a long instruction across two pages. */
static uint32_t instruction_bytes(const struct qemu_plugin_insn *insn)
{
    uint16_t half;
    memcpy(&half, qemu_plugin_insn_data(insn), sizeof half);
    return half >> 11 >= 0x1du ? 4 : 2;
}

/* MARK_BEGIN or MARK_END; 0 for any other instruction. */
static uint32_t marker(const struct qemu_plugin_insn *insn)
{
    uint16_t halves[2] = {0, 0};
    const size_t bytes = qemu_plugin_insn_size(insn);
    if (bytes > sizeof halves) {
        return 0;
    }
    memcpy(halves, qemu_plugin_insn_data(insn), bytes);
    if (halves[0] == SHORT_BEGIN || halves[0] == SHORT_END) {
        return halves[0] == SHORT_BEGIN ? MARK_BEGIN : MARK_END;
    }
    const bool is_marker = halves[0] == MARK_HALFWORD && (halves[1] == MARK_BEGIN || halves[1] == MARK_END);
    return is_marker ? halves[1] : 0;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    const size_t count = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < count; i++) {
        const size_t first = i;
        while (i < count && !marker(qemu_plugin_tb_get_insn(tb, i))) {
            i++;
        }
        if (i > first) {
            struct qemu_plugin_insn *begin = qemu_plugin_tb_get_insn(tb, first);
            const struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(tb, i - 1);
            segment_t *s = find_segment((uint32_t)qemu_plugin_insn_vaddr(begin),
                                        (uint32_t)qemu_plugin_insn_vaddr(last) + instruction_bytes(last));
            qemu_plugin_register_vcpu_insn_exec_cb(begin, on_segment, QEMU_PLUGIN_CB_NO_REGS, s);
        }
        if (i < count) {
            struct qemu_plugin_insn *mark = qemu_plugin_tb_get_insn(tb, i);
            qemu_plugin_register_vcpu_insn_exec_cb(mark, marker(mark) == MARK_BEGIN ? on_begin : on_end,
                                                   QEMU_PLUGIN_CB_NO_REGS,
                                                   (void *)(uintptr_t)qemu_plugin_insn_vaddr(mark));
        }
    }
}

static void on_quit(qemu_plugin_id_t id, void *userdata)
{
    (void)id;
    (void)userdata;
    fclose(out);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "w");
        }
    }
    if (!out) {
        fputs("poet profiler: needs out=FILE, a file that can be written\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_quit, NULL);
    return 0;
}
