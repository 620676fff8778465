/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What the programs of a session share: its clock, file times and process tree, kept in the kernel. The loader joins
 * this file and the *.bpf.c into one source.
 *
 * Results are rewritten at the exit of the exact system calls, after the kernel's own copy to the caller, so that the
 * page is there and writable: a write at entry, or to any other page, may be refused. Who is outside any session pays
 * one look-up in the calls that are hooked, and nothing in others.
 *
 * Constants and offsets come from the command line: layout.py and the running kernel's own type information. Kernel
 * memory is read by those offsets alone, so no header of the running kernel is needed.
 */
#define BPF_LICENSE Dual MIT/GPL

#define SECOND 1000000000ULL
#define MICROSECOND 1000ULL
#define MILLISECOND 1000000ULL

#define EINVAL 22
#define EPERM 1
#define ESRCH 3
#define ERESTART_RESTARTBLOCK 516
#define TIMER_ABSTIME 1
#define CLOCK_MONOTONIC 1
#define CLOCK_BOOTTIME 7

#define AT_NULL 0
#define AT_IGNORE 1
#define AT_SECURE 23
#define AT_RANDOM 25
#define AT_SYSINFO_EHDR 33
#define AUXV_ENTRIES 40
#define USER32_CS 0x23

/* Offsets in struct pt_regs (arch/x86/include/uapi/asm/ptrace.h), which no kernel may change. */
#define R_R10 56
#define R_BX 40
#define R_R9 64
#define R_R8 72
#define R_CX 88
#define R_DX 96
#define R_SI 104
#define R_DI 112
#define R_ORIG_AX 120
#define R_IP 128
#define R_CS 136
#define R_SP 152

/* The registers of an argument, natively and through the 32-bit gate. */
#define N1 R_DI
#define N2 R_SI
#define N3 R_DX
#define N4 R_R10
#define N5 R_R8
#define N6 R_R9
#define C1 R_BX
#define C2 R_CX
#define C3 R_DX
#define C4 R_SI
#define C5 R_DI

struct session {
    u64 epoch;      /* ns since 1970 */
    u64 live;       /* processes */
    u64 missed;     /* program runs that the kernel had missed when the session was opened */
    u32 supervisor; /* tgid */
    u32 level;      /* of the supervisor's pid namespace */
    u32 root;       /* tgid */
    u32 rows;       /* of its own in counts */
    u32 devices;    /* whether the bytes of random devices are fixed */
    u32 unused;
    u64 gaps[GAP_KINDS];
};

struct thread {
    u64 base;       /* ns since 1970 */
    u64 reads;
    u64 sleep;      /* ns that the sleep under way will count, or its start where that is what it needs */
    u64 sleep_ip;   /* of a sleep that the kernel will go on with */
    u64 next_program;
    u64 next_command;
    u64 next_stream;
    u64 next_random[2]; /* both 0 where they stay real */
    u64 stream;     /* the key of its random numbers */
    u32 next_flags; /* of the exec under way, with DECIDED */
    u32 session;
    u32 tgid;
    u32 number;     /* in the supervisor's pid namespace */
    u32 proof;      /* its next clock read proves to the client that we are here */
    u32 next_origin;
    u32 born;       /* streams that came of its own */
    u32 draws;      /* reads of its random numbers */
};

struct process {
    u64 born;       /* ns since boot, suspended or not, of this process or of the program that it executed */
    u64 parent_born;
    u64 program;
    u64 command;
    u64 forked;     /* ns since boot, suspended or not: no other process with this number began before */
    u32 parent;     /* tgid */
    u32 session;
    u32 flags;
    u32 origin;     /* the supervisor's number of the execution, which children share until they execute */
};

struct bell {
    s64 status;
    u64 value;
    u64 program_key;
    u64 stream;
    u32 flags;
    u32 tid;
    u32 origin;
    u32 draws;
};

struct alias { u32 session, number; };
struct count { u64 program; u32 session; u16 source, outcome; };
struct run { u64 parent_born, command; u32 parent, executed; };
struct runs { u64 count, streak, live, ended; };
struct times { u64 seconds, nanoseconds; };
struct times32 { u32 seconds, nanoseconds; };

#define DECIDED 0x80000000U
#define RULE_FLAGS (CLOCK_REAL | CLOCK_ALL | TIMES_TRUE | WRITES_KEPT | RANDOM_REAL | PID_FIXED)

BPF_HASH(sessions, u32, struct session, MAX_SESSIONS);
BPF_HASH(supervisors, u32, u32, MAX_SESSIONS);
BPF_HASH(closed, u32, u32, MAX_SESSIONS);
BPF_HASH(threads, u32, struct thread, MAX_PROCESSES);
BPF_HASH(processes, u32, struct process, MAX_PROCESSES);
BPF_HASH(aliases, struct alias, u32, MAX_PROCESSES);
BPF_HASH(counts, struct count, u64, MAX_COUNTS);
BPF_TABLE("lru_hash", struct run, struct runs, runs, MAX_RUNS);

/* Attached at a system call's exit by fexit; by a return probe where the kernel preempts inside of itself, since
 * fexit skips a program that was preempted in its own middle. */
#ifdef USE_FEXIT
#define RETURNED ((long)ctx[1])
#define RETURNED_OF_TWO ((long)ctx[2]) /* of a function with two arguments */
#else
#define RETURNED ((long)ctx[10]) /* pt_regs->ax */
#define RETURNED_OF_TWO RETURNED
#endif
/* The loader finds by these names where each program belongs. */
#define EXIT(entry) int exit__##entry(unsigned long long *ctx)
#define ENTER(entry) int enter__##entry(unsigned long long *ctx)
#define TRACEPOINT(event) int event__##event(unsigned long long *ctx)

static __always_inline u64 user_registers(void)
{
    return (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
}

static __always_inline u64 reg(u64 registers, u32 offset)
{
    u64 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (void *)(registers + offset));
    return value;
}

static __always_inline u64 kernel64(u64 address)
{
    u64 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
    return value;
}

static __always_inline u32 kernel32(u64 address)
{
    u32 value = 0;
    bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
    return value;
}

static __always_inline void note_gap(u32 number, const u32 kind)
{
    struct session *session = sessions.lookup(&number);
    if (session)
        __sync_fetch_and_add(&session->gaps[kind], 1);
}

/* Past its share of the rows, a session counts all programs as none, and leaves room for others. */
static __always_inline void count_read(u32 number, u64 program, u32 source, u32 outcome)
{
    struct count key = {.program = program, .session = number, .source = source, .outcome = outcome};
    u64 none = 0, *value = counts.lookup(&key);
    u32 full = 0;
    if (!value) {
        struct session *session = sessions.lookup(&number);
        if (!session)
            return;
        full = session->rows >= SESSION_COUNTS;
        if (full)
            key.program = 0;
        if (!counts.insert(&key, &none))
            __sync_fetch_and_add(&session->rows, 1);
        value = counts.lookup(&key);
    }
    if (value)
        __sync_fetch_and_add(value, 1);
    if (full || !value)
        note_gap(number, GAP_COUNTS_FULL);
}

static __always_inline struct thread *this_thread(void)
{
    u32 tid = bpf_get_current_pid_tgid();
    return threads.lookup(&tid);
}

static __always_inline struct process *process_of(struct thread *thread)
{
    u32 tgid = thread->tgid;
    return processes.lookup(&tgid);
}

/* The number of a task in the supervisor's pid namespace. */
static __always_inline u32 number_of(u64 task, u32 level)
{
    u64 pid = kernel64(task + TASK_THREAD_PID);
    if (level > kernel32(pid + PID_LEVEL))
        return 0;
    return kernel32(pid + PID_NUMBERS + (u64)level * SIZE_UPID);
}

static __always_inline void put(struct thread *thread, u64 address, void *data, u32 size)
{
    if (bpf_probe_write_user((void *)address, data, size))
        note_gap(thread->session, GAP_WRITE_REFUSED);
}
