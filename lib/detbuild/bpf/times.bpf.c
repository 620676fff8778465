/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* File times: later than the epoch is shown as the epoch. */

/* The caller's session where it is shown times, NULL otherwise. */
static __always_inline struct session *shows(struct thread *thread)
{
    struct process *process = process_of(thread);
    u32 number = thread->session;
    if (!process || process->flags & (SPARED | OBSERVED | TIMES_TRUE))
        return 0;
    return sessions.lookup(&number);
}

/* Times of 64-bit seconds and a fraction in 4 or 8 bytes, 16 bytes apart. */
static __always_inline int show_times(long returned, u32 where, u32 offset, const u32 number, const u32 statx)
{
    struct thread *thread = this_thread();
    struct session *session;
    struct times times[4];
    u64 address, epoch;
    int changed = 0;
    if (!thread || returned)
        return 0;
    session = shows(thread);
    if (!session)
        return 0;
    epoch = session->epoch / SECOND;
    address = reg(user_registers(), where) + offset;
    if (bpf_probe_read_user(times, number * sizeof(*times), (void *)address)) {
        note_gap(thread->session, GAP_WRITE_REFUSED);
        return 0;
    }
    for (int i = 0; i < 4; i++) {
        u64 fraction;
        if (i >= number)
            break;
        fraction = statx ? (u32)times[i].nanoseconds : times[i].nanoseconds;
        if ((s64)times[i].seconds > (s64)epoch || (times[i].seconds == epoch && fraction)) {
            times[i].seconds = epoch;
            times[i].nanoseconds = 0;
            changed = 1;
        }
    }
    if (changed)
        put(thread, address, times, number * sizeof(*times));
    return 0;
}

/* Three times of 32 bits, with or without nanoseconds beside them. */
static __always_inline int show_times32(long returned, u32 where, u32 offset, const u32 words)
{
    struct thread *thread = this_thread();
    struct session *session;
    u32 times[6] = {};
    u64 address, epoch;
    int changed = 0;
    if (!thread || returned)
        return 0;
    session = shows(thread);
    if (!session)
        return 0;
    epoch = session->epoch / SECOND;
    address = (u32)reg(user_registers(), where) + offset;
    if (bpf_probe_read_user(times, 3 * words * sizeof(u32), (void *)address)) {
        note_gap(thread->session, GAP_WRITE_REFUSED);
        return 0;
    }
    for (int i = 0; i < 3; i++) {
        u32 fraction = words == 2 ? times[i * words + 1] : 0;
        if (times[i * words] > epoch || (times[i * words] == epoch && fraction)) {
            times[i * words] = epoch;
            if (words == 2)
                times[i * words + 1] = 0;
            changed = 1;
        }
    }
    if (changed)
        put(thread, address, times, 3 * words * sizeof(u32));
    return 0;
}

EXIT(__x64_sys_newstat) { return show_times(RETURNED, N2, 72, 3, 0); }
EXIT(__x64_sys_newlstat) { return show_times(RETURNED, N2, 72, 3, 0); }
EXIT(__x64_sys_newfstat) { return show_times(RETURNED, N2, 72, 3, 0); }
EXIT(__x64_sys_newfstatat) { return show_times(RETURNED, N3, 72, 3, 0); }
EXIT(__x64_sys_statx) { return show_times(RETURNED, N5, 64, 4, 1); }
#ifdef WITH_IA32
EXIT(__ia32_sys_stat) { return show_times32(RETURNED, C2, 20, 1); }
EXIT(__ia32_sys_lstat) { return show_times32(RETURNED, C2, 20, 1); }
EXIT(__ia32_sys_fstat) { return show_times32(RETURNED, C2, 20, 1); }
EXIT(__ia32_compat_sys_newstat) { return show_times32(RETURNED, C2, 32, 2); }
EXIT(__ia32_compat_sys_newlstat) { return show_times32(RETURNED, C2, 32, 2); }
EXIT(__ia32_compat_sys_newfstat) { return show_times32(RETURNED, C2, 32, 2); }
EXIT(__ia32_compat_sys_ia32_stat64) { return show_times32(RETURNED, C2, 64, 2); }
EXIT(__ia32_compat_sys_ia32_lstat64) { return show_times32(RETURNED, C2, 64, 2); }
EXIT(__ia32_compat_sys_ia32_fstat64) { return show_times32(RETURNED, C2, 64, 2); }
EXIT(__ia32_compat_sys_ia32_fstatat64) { return show_times32(RETURNED, C3, 64, 2); }
EXIT(__ia32_sys_statx) { return show_times(RETURNED, C5, 64, 4, 1); }
#endif
