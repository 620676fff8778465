/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Sleeps: what the thread has slept, its clock has moved. */

static __always_inline struct thread *sleeper(void)
{
    struct thread *thread = this_thread();
    struct process *process;
    if (!thread)
        return 0;
    process = process_of(thread);
    if (!process || process->flags & (SPARED | OBSERVED | CLOCK_REAL))
        return 0;
    return thread;
}

/* A caller's time in ns; ``unit`` is a fraction's. -1 where it cannot be read. */
static __always_inline s64 duration(u64 address, u32 wide, u32 unit)
{
    struct times time;
    struct times32 narrow;
    if (wide) {
        if (bpf_probe_read_user(&time, sizeof(time), (void *)address))
            return -1;
        return time.seconds * SECOND + (u32)time.nanoseconds * (u64)unit;
    }
    if (bpf_probe_read_user(&narrow, sizeof(narrow), (void *)(u64)(u32)address))
        return -1;
    return narrow.seconds * SECOND + narrow.nanoseconds * (u64)unit;
}

static __always_inline int end_sleep(struct thread *thread, long returned, s64 nanoseconds, u64 registers)
{
    if (nanoseconds < 0) {
        note_gap(thread->session, GAP_SLEEP);
        nanoseconds = 0;
    }
    thread->sleep = 0;
    if (returned == 0) {
        thread->base += nanoseconds;
    } else if (returned == -ERESTART_RESTARTBLOCK) {
        thread->sleep = nanoseconds;
        thread->sleep_ip = reg(registers, R_IP);
    }
    return 0;
}

static __always_inline int end_restart(long returned)
{
    struct thread *thread = sleeper();
    u64 registers;
    if (!thread || !thread->sleep)
        return 0;
    registers = user_registers();
    if (thread->sleep_ip != reg(registers, R_IP))
        return 0;
    return end_sleep(thread, returned, thread->sleep, registers);
}

static __always_inline int end_nanosleep(long returned, u32 where, u32 wide)
{
    struct thread *thread = sleeper();
    u64 registers;
    if (!thread || (returned && returned != -ERESTART_RESTARTBLOCK))
        return 0;
    registers = user_registers();
    return end_sleep(thread, returned, duration(reg(registers, where), wide, 1), registers);
}

/* A sleep until a moment of a real clock counts what is left of it at its start. */
static __always_inline int begin_clock_nanosleep(u32 which, u32 how)
{
    struct thread *thread = sleeper();
    u64 registers;
    u32 clock;
    if (!thread)
        return 0;
    registers = user_registers();
    clock = reg(registers, which);
    thread->sleep = 0;
    if (!(reg(registers, how) & TIMER_ABSTIME))
        return 0;
    if (clock == CLOCK_MONOTONIC)
        thread->sleep = bpf_ktime_get_ns();
    else if (clock == CLOCK_BOOTTIME)
        thread->sleep = bpf_ktime_get_boot_ns();
    return 0;
}

/* Rounded up, so that it repeats: the longer the sleep, the more is forgiven. As engine/waits.py does it. */
static __always_inline u64 rounded(u64 left)
{
    u64 step = left >= 500 * MILLISECOND ? 100 * MILLISECOND : left >= 50 * MILLISECOND ? 10 * MILLISECOND : MILLISECOND;
    return (left + step - 1) / step * step;
}

static __always_inline int end_clock_nanosleep(long returned, u32 which, u32 how, u32 where, u32 wide)
{
    struct thread *thread = sleeper();
    u64 registers, start;
    s64 moment;
    if (!thread || (returned && returned != -ERESTART_RESTARTBLOCK))
        return 0;
    registers = user_registers();
    start = thread->sleep;
    if (!(reg(registers, how) & TIMER_ABSTIME))
        return end_sleep(thread, returned, duration(reg(registers, where), wide, 1), registers);
    if (!start || returned)
        return 0; /* CPU time; or a wall clock, which the supervisor carries over */
    moment = duration(reg(registers, where), wide, 1);
    if (moment >= 0)
        moment = (u64)moment > start ? rounded(moment - start) : 0;
    return end_sleep(thread, returned, moment, registers);
}

/* The kernel writes what is left over the caller's time: read it before. 1 more than it is, 0 for none. */
static __always_inline int begin_select(u32 number, u32 where, u32 wide, u32 unit)
{
    struct thread *thread = sleeper();
    u64 registers, address;
    if (!thread)
        return 0;
    registers = user_registers();
    address = reg(registers, where);
    thread->sleep = 0;
    if ((u32)reg(registers, number) == 0 && address)
        thread->sleep = duration(address, wide, unit) + 1;
    return 0;
}

static __always_inline int end_select(long returned, u32 number, u32 where, u32 wide, u32 unit)
{
    struct thread *thread = sleeper();
    u64 registers, address;
    s64 nanoseconds;
    if (!thread)
        return 0;
    registers = user_registers();
    address = reg(registers, where);
    if (!address || (u32)reg(registers, number)) {
        thread->sleep = 0;
        return 0;
    }
    nanoseconds = thread->sleep;
    if (nanoseconds) {
        nanoseconds--;
    } else {
        /* A page that was not there yet. Where the kernel could not write, the time still is; else it is lost. */
        nanoseconds = duration(address, wide, unit);
        if (!nanoseconds)
            nanoseconds = -1;
    }
    return end_sleep(thread, returned, nanoseconds, registers);
}

static __always_inline int end_poll(long returned, u32 number, u32 where)
{
    struct thread *thread = sleeper();
    u64 registers;
    s32 milliseconds;
    if (!thread)
        return 0;
    registers = user_registers();
    milliseconds = reg(registers, where);
    if ((u32)reg(registers, number) || milliseconds < 0)
        milliseconds = 0;
    return end_sleep(thread, returned, milliseconds * MILLISECOND, registers);
}

EXIT(__x64_sys_nanosleep) { return end_nanosleep(RETURNED, N1, 1); }
ENTER(__x64_sys_clock_nanosleep) { return begin_clock_nanosleep(N1, N2); }
EXIT(__x64_sys_clock_nanosleep) { return end_clock_nanosleep(RETURNED, N1, N2, N3, 1); }
ENTER(__x64_sys_select) { return begin_select(N1, N5, 1, 1000); }
EXIT(__x64_sys_select) { return end_select(RETURNED, N1, N5, 1, 1000); }
ENTER(__x64_sys_pselect6) { return begin_select(N1, N5, 1, 1); }
EXIT(__x64_sys_pselect6) { return end_select(RETURNED, N1, N5, 1, 1); }
ENTER(__x64_sys_ppoll) { return begin_select(N2, N3, 1, 1); }
EXIT(__x64_sys_ppoll) { return end_select(RETURNED, N2, N3, 1, 1); }
EXIT(__x64_sys_poll) { return end_poll(RETURNED, N2, N3); }
/* The 32-bit entry is the same function by another name. */
EXIT(__x64_sys_restart_syscall) { return end_restart(RETURNED); }
#ifdef WITH_IA32
EXIT(__ia32_sys_nanosleep_time32) { return end_nanosleep(RETURNED, C1, 0); }
ENTER(__ia32_sys_clock_nanosleep_time32) { return begin_clock_nanosleep(C1, C2); }
EXIT(__ia32_sys_clock_nanosleep_time32) { return end_clock_nanosleep(RETURNED, C1, C2, C3, 0); }
ENTER(__ia32_sys_clock_nanosleep) { return begin_clock_nanosleep(C1, C2); }
EXIT(__ia32_sys_clock_nanosleep) { return end_clock_nanosleep(RETURNED, C1, C2, C3, 1); }
ENTER(__ia32_compat_sys_select) { return begin_select(C1, C5, 0, 1000); }
EXIT(__ia32_compat_sys_select) { return end_select(RETURNED, C1, C5, 0, 1000); }
ENTER(__ia32_compat_sys_pselect6_time32) { return begin_select(C1, C5, 0, 1); }
EXIT(__ia32_compat_sys_pselect6_time32) { return end_select(RETURNED, C1, C5, 0, 1); }
ENTER(__ia32_compat_sys_pselect6_time64) { return begin_select(C1, C5, 1, 1); }
EXIT(__ia32_compat_sys_pselect6_time64) { return end_select(RETURNED, C1, C5, 1, 1); }
ENTER(__ia32_compat_sys_ppoll_time32) { return begin_select(C2, C3, 0, 1); }
EXIT(__ia32_compat_sys_ppoll_time32) { return end_select(RETURNED, C2, C3, 0, 1); }
ENTER(__ia32_compat_sys_ppoll_time64) { return begin_select(C2, C3, 1, 1); }
EXIT(__ia32_compat_sys_ppoll_time64) { return end_select(RETURNED, C2, C3, 1, 1); }
EXIT(__ia32_sys_poll) { return end_poll(RETURNED, C2, C3); }
#endif
