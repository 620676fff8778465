/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The clock: the same rule as engine/clock.py and the tracer's first read. */

static __always_inline u64 clock_now(struct thread *thread)
{
    u64 reads = thread->reads, patient = reads < PATIENCE ? reads : PATIENCE;
    return thread->base + patient * MICROSECOND + (reads - patient) * SECOND;
}

static __always_inline void run_of(struct process *process, struct run *key)
{
    key->parent_born = process->parent_born;
    key->parent = process->parent;
    key->command = process->command;
    key->executed = !!(process->flags & EXECUTED);
}

static __always_inline void first_read(struct thread *thread, struct process *process)
{
    struct run key = {};
    struct runs none = {}, *found;
    u64 late = 0;

    if (process->flags & CLOCKED)
        return;
    process->flags |= CLOCKED;
    if (process->flags & EXEMPT)
        return;
    run_of(process, &key);
    found = runs.lookup(&key);
    if (!found) {
        if (runs.update(&key, &none)) {
            note_gap(thread->session, GAP_RUNS_FULL);
            return;
        }
        found = runs.lookup(&key);
        if (!found)
            return;
    }
    /* A run that began before the one before had ended is a parallel job, whose place the scheduler decided. */
    if (found->live || found->ended > process->forked)
        found->streak = 0;
    else
        __sync_fetch_and_add(&found->streak, 1);
    __sync_fetch_and_add(&found->live, 1);
    __sync_fetch_and_add(&found->count, 1);
    if (found->count > PATIENCE)
        late = found->count - PATIENCE;
    if (key.executed && found->streak > RUNS && found->streak - RUNS > late)
        late = found->streak - RUNS;
    thread->base += late * SECOND;
}

/* The process has ended, or executes another program. */
static __always_inline void run_ended(struct process *process)
{
    struct run key = {};
    struct runs *found;

    if (!process || !(process->flags & CLOCKED) || process->flags & EXEMPT)
        return;
    run_of(process, &key);
    found = runs.lookup(&key);
    if (!found)
        return;
    found->ended = bpf_ktime_get_boot_ns();
    if (found->live)
        __sync_fetch_and_add(&found->live, -1);
}

static __always_inline u64 clock_read(struct thread *thread, struct process *process)
{
    u64 now;
    first_read(thread, process);
    now = clock_now(thread);
    thread->reads++;
    return now;
}

/* What the caller's clock read is to show, 0 for what it saw already. */
static __always_inline u64 answer(struct thread *thread, u32 source)
{
    struct process *process = process_of(thread);
    if (thread->proof) {
        u32 number = thread->session;
        struct session *session = sessions.lookup(&number);
        thread->proof = 0;
        return session ? session->epoch + 1 : 0;
    }
    if (!process)
        return 0;
    if (process->flags & (SPARED | OBSERVED | CLOCK_REAL)) {
        u32 outcome = process->flags & (SPARED | OBSERVED) ? LEAKED : PASSED;
        count_read(thread->session, process->program, source, outcome);
        return 0;
    }
    count_read(thread->session, process->program, source, FIXED);
    return clock_read(thread, process) + 1; /* the clock may stand at 0 */
}

static __always_inline int is_fixed(struct thread *thread, u32 clock)
{
    struct process *process;
    if (clock >= 32)
        return 0;
    if (WALL_CLOCKS & (1U << clock))
        return 1;
    process = process_of(thread);
    return process && process->flags & CLOCK_ALL && ALL_CLOCKS & (1U << clock);
}

static __always_inline int show_clock(long returned, u32 which, u32 where, u32 source, u32 wide)
{
    struct thread *thread = this_thread();
    struct times time;
    struct times32 narrow;
    u64 registers, address, now;
    u32 clock;
    if (!thread || returned)
        return 0;
    registers = user_registers();
    clock = reg(registers, which);
    if (!is_fixed(thread, clock))
        return 0;
    address = reg(registers, where);
    now = answer(thread, source);
    if (!now--)
        return 0;
    time.seconds = now / SECOND;
    time.nanoseconds = now % SECOND;
    if (wide) {
        put(thread, address, &time, sizeof(time));
    } else {
        narrow.seconds = time.seconds;
        narrow.nanoseconds = time.nanoseconds;
        put(thread, (u32)address, &narrow, sizeof(narrow));
    }
    return 0;
}

static __always_inline int show_day(long returned, u32 first, u32 second, u32 wide)
{
    struct thread *thread = this_thread();
    struct times time;
    struct times32 narrow;
    u64 registers, address, zone, now;
    if (!thread || returned)
        return 0;
    registers = user_registers();
    address = reg(registers, first);
    zone = reg(registers, second);
    if (!wide) {
        address = (u32)address;
        zone = (u32)zone;
    }
    now = answer(thread, SOURCE_GETTIMEOFDAY);
    if (!now--)
        return 0;
    time.seconds = now / SECOND;
    time.nanoseconds = now % SECOND / MICROSECOND;
    narrow.seconds = time.seconds;
    narrow.nanoseconds = time.nanoseconds;
    if (address && wide)
        put(thread, address, &time, sizeof(time));
    if (address && !wide)
        put(thread, address, &narrow, sizeof(narrow));
    narrow.seconds = 0;
    narrow.nanoseconds = 0;
    if (zone)
        put(thread, zone, &narrow, sizeof(narrow));
    return 0;
}

EXIT(__x64_sys_clock_gettime) { return show_clock(RETURNED, N1, N2, SOURCE_CLOCK_GETTIME, 1); }
EXIT(__x64_sys_gettimeofday) { return show_day(RETURNED, N1, N2, 1); }
#ifdef WITH_IA32
EXIT(__ia32_sys_clock_gettime) { return show_clock(RETURNED, C1, C2, SOURCE_CLOCK_GETTIME64, 1); }
EXIT(__ia32_sys_clock_gettime32) { return show_clock(RETURNED, C1, C2, SOURCE_CLOCK_GETTIME, 0); }
EXIT(__ia32_compat_sys_gettimeofday) { return show_day(RETURNED, C1, C2, 0); }
#endif
