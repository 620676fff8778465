/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * Random devices: over what the kernel gave, the reader's own stream is written, the same as engine/stream.py makes.
 *
 * One run of a program writes some blocks, and calls itself for more, as often as the kernel allows. What changes in a
 * loop is kept in a map, which the verifier does not follow: else each number of steps would be a way of its own.
 */

#define BLOCK 32768 /* bytes, the most that such a map holds */
#define BLOCKS 3    /* a run: the verifier goes through every step of each */
#define SPAN 64     /* words that are made without a look at how many are wanted: the verifier bears few such looks */
#define PIECES 16   /* vectors of a read that are filled, and */
#define LONGEST (BLOCK / 2) /* bytes of all: the verifier knows no sum of an offset and a size */

/* Tell the verifier, and not the compiler, that a number is from 1 to a power of two, as it is. */
#define BOUND(number, most)                                                                                            \
    do {                                                                                                               \
        number -= 1;                                                                                                   \
        __asm__ volatile("" : "+r"(number));                                                                           \
        number = (number & ((most) - 1)) + 1;                                                                          \
        __asm__ volatile("" : "+r"(number));                                                                           \
    } while (0)

/* Nor shall it carry a map's value from one step to the next: Linux 6.1 refuses a loop that is not entered at its top. */
#define FORGET __asm__ volatile("" ::: "memory")

struct block { u64 words[BLOCK / 8]; };

struct pour {
    u64 key;     /* of this read */
    u64 total;   /* bytes that the kernel gave */
    u64 done;
    u64 size;    /* of the block under way */
    u64 address; /* where the next ones belong */
    u64 vectors; /* the next struct iovec, 0 for none */
    u64 vector[2];
    u32 word;    /* bytes of its members */
    u32 session;
    u32 again;   /* called by itself */
    u32 unused;
};

BPF_PERCPU_ARRAY(blocks, struct block, 1);
BPF_PERCPU_ARRAY(pours, struct pour, 1);
BPF_PROG_ARRAY(again, 2);

/*
 * Where the caller wanted the bytes; 0 for a call that puts them elsewhere. Natively and by the 32-bit gate no two calls
 * of one number read a device.
 */
static __always_inline int find_place(struct pour *pour)
{
    u64 registers = user_registers(), number = reg(registers, R_ORIG_AX);
    pour->word = 8;
    pour->vectors = 0;
    pour->address = reg(registers, N2);
    if (number == 0 || number == 17)
        return 1; /* read, pread64 */
    if (number == 3 || number == 180) {
        pour->address = (u32)reg(registers, C2);
        return 1;
    }
    pour->vectors = pour->address;
    if (number == 19 || number == 295 || number == 327)
        return 1; /* readv, preadv, preadv2 */
    pour->word = 4;
    pour->vectors = (u32)reg(registers, C2);
    return number == 145 || number == 333 || number == 378;
}

static __always_inline void fill(struct pour *pour, struct block *block)
{
    u64 sum;
    pour->size = pour->total - pour->done;
    if (pour->size > BLOCK)
        pour->size = BLOCK;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < BLOCK / 8; i += SPAN) {
        if (i * 8 >= pour->size)
            break;
        FORGET;
        sum = pour->key + (pour->done / 8 + i) * STEP;
#pragma clang loop unroll(disable)
        for (u32 j = 0; j < SPAN; j++) {
            sum += STEP;
            block->words[i + j] = stirred(sum);
        }
    }
}

/* Write a block in one piece. 0 where it found no place. */
static __always_inline int pour_block(struct pour *pour, struct block *block)
{
    u64 size = pour->size;
    BOUND(size, BLOCK);
    if (bpf_probe_write_user((void *)pour->address, block, size))
        return 0;
    pour->address += size;
    pour->done += size;
    return 1;
}

/* Write a block, which is all of a read, into its vectors. 0 where a part of it found no place. */
static __always_inline int pour_pieces(struct pour *pour, struct block *block)
{
    u64 at, size;
    if (pour->total > LONGEST)
        return 0;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < PIECES; i++) {
        if (pour->done >= pour->total)
            break;
        if (bpf_probe_read_user(pour->vector, pour->word == 8 ? 16 : 8, (void *)pour->vectors))
            return 0;
        pour->vectors += 2 * pour->word;
        if (pour->word == 4) {
            pour->vector[1] = pour->vector[0] >> 32;
            pour->vector[0] = (u32)pour->vector[0];
        }
        at = pour->done & (LONGEST - 1);
        size = pour->total - pour->done;
        if (size > pour->vector[1])
            size = pour->vector[1];
        if (!size)
            continue;
        BOUND(size, LONGEST);
        if (bpf_probe_write_user((void *)pour->vector[0], (u8 *)block + at, size))
            return 0;
        pour->done += size;
    }
    return pour->done >= pour->total;
}

static __always_inline int begin_pour(struct pour *pour, long returned)
{
    struct thread *thread = this_thread();
    struct process *process;
    struct session *session;
    u32 number;
    if (!thread || returned < 0)
        return 0;
    process = process_of(thread);
    number = thread->session;
    session = sessions.lookup(&number);
    if (!process || !session || !session->devices || process->flags & (SPARED | OBSERVED | RANDOM_REAL))
        return 0;
    pour->session = number;
    pour->key = mixed(thread->stream, DEVICE_STREAM + ++thread->draws);
    pour->total = returned;
    pour->done = 0;
    if (!find_place(pour)) {
        note_gap(number, GAP_DEVICE);
        return 0;
    }
    return 1;
}

static __always_inline int answer_device(unsigned long long *ctx, const u32 self, long returned)
{
    u32 zero = 0;
    struct pour *pour = pours.lookup(&zero);
    struct block *block = blocks.lookup(&zero);
    if (!pour || !block)
        return 0;
    if (!pour->again && !begin_pour(pour, returned))
        return 0;
    pour->again = 0;
#pragma clang loop unroll(disable)
    for (int i = 0; i < BLOCKS; i++) {
        if (pour->done >= pour->total)
            return 0;
        fill(pour, block);
        if (!(pour->vectors ? pour_pieces(pour, block) : pour_block(pour, block))) {
            note_gap(pour->session, GAP_DEVICE);
            return 0;
        }
    }
    if (pour->done >= pour->total)
        return 0;
    pour->again = 1;
    again.call(ctx, self);
    pour->again = 0; /* it was called as often as may be */
    note_gap(pour->session, GAP_DEVICE);
    return 0;
}

EXIT(urandom_read_iter) { return answer_device(ctx, 0, RETURNED_OF_TWO); }
EXIT(random_read_iter) { return answer_device(ctx, 1, RETURNED_OF_TWO); }
