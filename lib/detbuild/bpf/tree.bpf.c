/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The process tree: sessions pass to children, clocks start anew with a program, and entries go with their tasks. */

static __always_inline void change_live(u32 number, s64 difference)
{
    struct session *session = sessions.lookup(&number);
    if (session)
        __sync_fetch_and_add(&session->live, difference);
}

static __always_inline void forget_thread(u32 tid, struct thread *thread)
{
    struct alias alias = {.session = thread->session, .number = thread->number};
    aliases.delete(&alias);
    threads.delete(&tid);
}

static __always_inline void forget_process(u32 tgid)
{
    struct process *process = processes.lookup(&tgid);
    u32 session;
    if (!process)
        return;
    run_ended(process);
    session = process->session;
    if (!processes.delete(&tgid))
        change_live(session, -1);
}

static __always_inline int add_thread(u32 tid, struct thread *thread)
{
    struct alias alias = {.session = thread->session, .number = thread->number};
    if (threads.update(&tid, thread))
        return -1;
    if (aliases.update(&alias, &tid)) {
        threads.delete(&tid);
        return -1;
    }
    return 0;
}

/* The key of one child's random numbers: engine/stream.py makes the same. */
#define STEP 0x9E3779B97F4A7C15ULL

static __always_inline u64 stirred(u64 key)
{
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9ULL;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EBULL;
    return key ^ (key >> 31);
}

static __always_inline u64 mixed(u64 key, u64 number) { return stirred(key + number * STEP); }

static __always_inline void copy_process(struct process *from, u32 parent, struct process *to)
{
    to->born = bpf_ktime_get_boot_ns();
    to->forked = to->born;
    to->parent_born = from->born;
    to->parent = parent;
    to->program = from->program;
    to->command = from->command;
    to->session = from->session;
    to->origin = from->origin;
    to->flags = from->flags & (RULE_FLAGS | OBSERVED | UNDECIDED);
    if (from->flags & (SPARED | CLOCK_REAL))
        to->flags |= EXEMPT;
}

TRACEPOINT(sched_process_fork)
{
    struct thread *maker = this_thread(), thread = {};
    struct process *process, child = {};
    struct session *session;
    u64 task = ctx[1];
    u32 tid = kernel32(task + TASK_PID), tgid = kernel32(task + TASK_TGID), number;
    if (!maker)
        return 0;
    process = process_of(maker);
    number = maker->session;
    session = sessions.lookup(&number);
    if (!process || !session)
        return 0;
    if (tgid != maker->tgid) {
        copy_process(process, maker->tgid, &child);
        /* One session leaves room for others. */
        if (session->live >= SESSION_PROCESSES || processes.update(&tgid, &child)) {
            note_gap(number, GAP_PROCESSES_FULL);
            return 0;
        }
        __sync_fetch_and_add(&session->live, 1);
    }
    thread.base = maker->base;
    thread.reads = maker->reads;
    thread.session = number;
    thread.tgid = tgid;
    thread.number = number_of(task, session->level);
    thread.stream = mixed(maker->stream, ++maker->born);
    if (add_thread(tid, &thread)) {
        note_gap(number, GAP_PROCESSES_FULL);
        if (tgid == tid)
            forget_process(tgid);
    }
    return 0;
}

#ifdef WITH_ACTIVE
/*
 * A kernel that preempts itself does so inside bpf(2) as well, whoever called that, and runs no probe on that CPU until
 * the call has ended (bpf_disable_instrumentation). Whose thread gets the CPU meanwhile may read what is real.
 */
TRACEPOINT(sched_switch)
{
    int *active = bpf_this_cpu_ptr((void *)ACTIVE);
    u32 tid;
    struct thread *thread;
    if (!*active)
        return 0;
    tid = kernel32(ctx[2] + TASK_PID);
    thread = threads.lookup(&tid);
    if (thread)
        note_gap(thread->session, GAP_SKIPPED);
    return 0;
}
#endif

TRACEPOINT(sched_process_exit)
{
    u64 task = ctx[0], ids = bpf_get_current_pid_tgid();
    u32 tid = ids, tgid = ids >> 32;
    struct thread *thread = threads.lookup(&tid);
    int last = kernel32(kernel64(task + TASK_SIGNAL) + SIGNAL_LIVE) == 0;
    /* Whether or not a row was left for this thread: the number will be another process's. */
    if (last) {
        supervisors.delete(&tgid);
        forget_process(tgid);
    }
    if (thread)
        forget_thread(tid, thread);
    return 0;
}

/*
 * Hide the vDSO from the program that was just executed, and put ``random`` at AT_RANDOM. 1 where it runs with a
 * privilege that the caller had not: then its random numbers are real.
 */
static __always_inline int new_program(u64 binary, u32 number, u64 *random)
{
    u64 registers = user_registers(), at, zero = 0, key, value, given = 0;
    u32 word = reg(registers, R_CS) == USER32_CS ? 4 : 8, refused = 0, secure = 0, ended = 0;
    u64 ignore = AT_IGNORE;
    at = reg(registers, R_SP) + (u64)word * (kernel32(binary + BINPRM_ARGC) + kernel32(binary + BINPRM_ENVC) + 2);
    /* NULL ends the environment: where it does not, this is no stack that we know. */
    if (bpf_probe_read_user(&zero, word, (void *)at) || (word == 4 ? (u32)zero : zero)) {
        note_gap(number, GAP_AUXV);
        return 0;
    }
    at += word;
    for (int i = 0; i < AUXV_ENTRIES; i++) {
        key = 0;
        value = 0;
        if (bpf_probe_read_user(&key, word, (void *)at) || bpf_probe_read_user(&value, word, (void *)(at + word)))
            break;
        if (key == AT_NULL) {
            ended = 1;
            break;
        }
        if (key == AT_SECURE)
            secure = !!value;
        if (key == AT_RANDOM)
            given = value;
        if (key == AT_SYSINFO_EHDR && bpf_probe_write_user((void *)at, &ignore, word))
            refused = 1;
        at += 2 * word;
    }
    if (given && !secure && (random[0] | random[1]) && bpf_probe_write_user((void *)given, random, 16))
        refused = 1;
    if (!ended || refused)
        note_gap(number, GAP_AUXV);
    return secure;
}

TRACEPOINT(sched_process_exec)
{
    u64 task = ctx[0], ids = bpf_get_current_pid_tgid();
    u32 former = ctx[1], tid = ids, number, flags, kept;
    u64 random[2];
    struct thread *found = threads.lookup(&former), thread = {};
    struct session *session;
    struct process *process;
    if (!found) {
        forget_process(ids >> 32); /* no row was left for this thread */
        return 0;
    }
    number = found->session;
    process = process_of(found);
    session = sessions.lookup(&number);
    if (!process || !session)
        return 0;
    thread.base = session->epoch;
    thread.session = number;
    thread.tgid = found->tgid;
    flags = found->next_flags;
    kept = process->flags & (EXEMPT | OBSERVED);
    random[0] = found->next_random[0];
    random[1] = found->next_random[1];
    thread.stream = found->next_stream;
    thread.born = 1; /* the first stream is AT_RANDOM's */
    run_ended(process);
    process->program = found->next_program;
    process->command = found->next_command;
    process->origin = found->next_origin;
    if (!(flags & DECIDED)) {
        note_gap(number, GAP_UNDECIDED);
        flags = UNDECIDED;
        process->program = 0;
        process->command = 0;
    }
    process->flags = (flags & (RULE_FLAGS | UNDECIDED)) | EXECUTED | kept;
    process->born = bpf_ktime_get_boot_ns();
    /* A thread that executes takes its leader's number; the leader has left. */
    thread.number = number_of(task, session->level);
    forget_thread(former, found);
    if (new_program(ctx[2], number, random)) {
        count_read(number, process->program, SOURCE_PRIVILEGED, LEAKED);
        forget_process(thread.tgid);
        return 0;
    }
    if (add_thread(tid, &thread)) {
        note_gap(number, GAP_PROCESSES_FULL);
        forget_process(thread.tgid);
    }
    return 0;
}
