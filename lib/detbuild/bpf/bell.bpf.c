/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The doorbell, by which a session's supervisor asks. */

static __always_inline s64 obey(struct bell *bell, u32 op, u32 number, u64 a, u64 b)
{
    u32 tgid = bpf_get_current_pid_tgid() >> 32, *session = supervisors.lookup(&tgid), *tid;
    struct alias alias = {.number = number};
    struct process *process;
    struct thread *thread;
    u64 now;
    if (!session)
        return -EPERM; /* not answered: another set of programs may know it */
    alias.session = *session;
    tid = aliases.lookup(&alias);
    if (!tid)
        return -ESRCH;
    thread = threads.lookup(tid);
    if (!thread || thread->session != alias.session)
        return -ESRCH;
    process = process_of(thread);
    if (!process)
        return -ESRCH;
    bell->flags = process->flags;
    bell->program_key = process->program;
    bell->tid = *tid;
    bell->stream = thread->stream;
    bell->origin = process->origin;
    bell->draws = thread->draws;
    if ((op & OP_MASK) == OP_INFO)
        return 0;
    if ((op & OP_MASK) == OP_NOW) {
        bell->value = clock_now(thread);
        return 0;
    }
    if ((op & OP_MASK) == OP_EXEC) {
        thread->next_flags = op >> OP_BITS | DECIDED;
        thread->next_program = a;
        thread->next_command = b;
        thread->next_stream = 0;
        thread->next_origin = 0;
        thread->next_random[0] = 0;
        thread->next_random[1] = 0;
        return 0;
    }
    if ((op & OP_MASK) == OP_STREAM) {
        thread->next_stream = a;
        thread->next_origin = b;
        return 0;
    }
    if ((op & OP_MASK) == OP_AT_RANDOM) {
        thread->next_random[0] = a;
        thread->next_random[1] = b;
        return 0;
    }
    if ((op & OP_MASK) == OP_BEGIN) {
        thread->stream = a;
        return 0;
    }
    if ((op & OP_MASK) == OP_DREW) {
        thread->draws += a;
        return 0;
    }
    if ((op & OP_MASK) != OP_READ && (op & OP_MASK) != OP_ADVANCE && (op & OP_MASK) != OP_REACH)
        return -EINVAL;
    if (process->flags & (SPARED | OBSERVED | CLOCK_REAL))
        return 0;
    if ((op & OP_MASK) == OP_READ) {
        bell->value = clock_read(thread, process);
        return 0;
    }
    now = clock_now(thread);
    if ((op & OP_MASK) == OP_ADVANCE)
        thread->base += a;
    else if (a > now)
        thread->base += a - now;
    bell->value = clock_now(thread);
    return 0;
}

EXIT(__x64_sys_sched_get_priority_max)
{
    struct bell bell = {};
    u64 registers = user_registers();
    if ((u32)reg(registers, N1) != MAGIC)
        return 0;
    bell.status = obey(&bell, reg(registers, N2), reg(registers, N3), reg(registers, N4), reg(registers, N5));
    if (bell.status != -EPERM)
        bpf_probe_write_user((void *)reg(registers, N6), &bell, sizeof(bell));
    return 0;
}
