/* clocks HOW SOURCE: read one clock in one way and print "seconds fraction", or what the kernel refused.
   HOW: plain, fork (a child that never executes), thread, vfork and spawn (a child that executes this again); execveat
   and memory (this again by a descriptor of its file, or of a copy that has none), gate-execve and gate-execveat. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* The call comes before the fields that it fills. */
#define SHOW(call, seconds, fraction) ({ long result_ = (call); show(result_, (seconds), (fraction)); })

static int show(long result, long long seconds, long long fraction) {
  if (result < 0) {
    printf("%s\n", strerrorname_np(errno));
    return 1;
  }
  printf("%lld %lld\n", seconds, fraction);
  return 0;
}

static int libc_source(const char *source, int clock) {
  if (!strcmp(source, "time")) {
    time_t stored = 1, returned = time(&stored);
    return stored == returned ? SHOW(0, returned, 0) : SHOW(0, stored, -1);
  }
  if (!strcmp(source, "gettimeofday")) {
    struct timeval now;
    return SHOW(gettimeofday(&now, NULL), now.tv_sec, now.tv_usec);
  }
  if (!strcmp(source, "clock_gettime")) {
    struct timespec now;
    return SHOW(clock_gettime(clock, &now), now.tv_sec, now.tv_nsec);
  }
  struct timex timex = {0};
  if (!strcmp(source, "adjtimex"))
    return SHOW(adjtimex(&timex), timex.time.tv_sec, timex.time.tv_usec);
  if (!strcmp(source, "clock_adjtime"))
    return SHOW(clock_adjtime(clock, &timex), timex.time.tv_sec, timex.time.tv_usec);
  return 2;
}

static int raw_source(const char *source, int clock) {
  long pair[2] = {0, 0};
  if (!strcmp(source, "raw-time")) return SHOW(0, syscall(SYS_time, pair), 0);
  if (!strcmp(source, "raw-gettimeofday")) return SHOW(syscall(SYS_gettimeofday, pair, NULL), pair[0], pair[1]);
  if (!strcmp(source, "raw-zone")) {
    int zone[2] = {7, 7};
    return SHOW(syscall(SYS_gettimeofday, NULL, zone), zone[0], zone[1]);
  }
  if (!strcmp(source, "raw-clock_gettime")) return SHOW(syscall(SYS_clock_gettime, clock, pair), pair[0], pair[1]);
#ifdef SYS_clock_gettime64
  if (!strcmp(source, "raw-clock_gettime64")) {
    long long wide[2] = {0, 0};
    return SHOW(syscall(SYS_clock_gettime64, clock, wide), wide[0], wide[1]);
  }
  if (!strcmp(source, "raw-clock_adjtime64")) {
    long long timex[26] = {0}; /* struct __kernel_timex: the seconds are its tenth word */
    return SHOW(syscall(SYS_clock_adjtime64, clock, timex), timex[9], timex[10]);
  }
  long timex[32] = {0}; /* struct old_timex32: the seconds are its tenth word */
  const int seconds = 9;
#else
  long timex[26] = {0};
  const int seconds = 9;
#endif
  if (!strcmp(source, "raw-adjtimex")) return SHOW(syscall(SYS_adjtimex, timex), timex[seconds], timex[seconds + 1]);
  if (!strcmp(source, "raw-clock_adjtime"))
    return SHOW(syscall(SYS_clock_adjtime, clock, timex), timex[seconds], timex[seconds + 1]);
  return 2;
}

#ifdef __x86_64__
static long gate(long number, long first, void *second) {
  long result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first), "c"(second), "d"(0L)
                   : "memory", "r8", "r9", "r10", "r11");
  if ((int)result < 0 && (int)result > -4096) {
    errno = -(int)result;
    return -1;
  }
  return (int)result;
}

/* The 32-bit gate of a 64-bit program: 32-bit numbers, layouts and pointers. */
static int gate_source(const char *source, int clock) {
  int *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  long long *wide = (long long *)low;
  if (low == MAP_FAILED) return 3;
  if (!strcmp(source, "gate-time")) return SHOW(0, gate(13, (long)low, NULL), 0);
  if (!strcmp(source, "gate-gettimeofday")) return SHOW(gate(78, (long)low, NULL), low[0], low[1]);
  if (!strcmp(source, "gate-clock_gettime")) return SHOW(gate(265, clock, low), low[0], low[1]);
  if (!strcmp(source, "gate-clock_gettime64")) return SHOW(gate(403, clock, low), wide[0], wide[1]);
  if (!strcmp(source, "gate-adjtimex")) return SHOW(gate(124, (long)low, NULL), low[9], low[10]);
  if (!strcmp(source, "gate-clock_adjtime")) return SHOW(gate(343, clock, low), low[9], low[10]);
  if (!strcmp(source, "gate-clock_adjtime64")) return SHOW(gate(405, clock, low), wide[9], wide[10]);
  return 2;
}

/* Execute this program again by the 32-bit gate: ESI is the environment of execveat, EDI its flags. */
static int gate_again(int by_descriptor, char **again) {
  char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  unsigned *words = (unsigned *)low;
  char *text = low + 256;
  long result;
  if (low == MAP_FAILED) return 3;
  for (int i = 0; again[i]; i++) {
    words[i] = (unsigned)(long)text;
    text += strlen(strcpy(text, again[i])) + 1;
  }
  if (by_descriptor)
    __asm__ volatile("int $0x80" : "=a"(result)
                     : "a"(358), "b"(open("/proc/self/exe", O_PATH)), "c"(low + 255), "d"(words), "S"(words + 60),
                       "D"(AT_EMPTY_PATH)
                     : "memory", "r8", "r9", "r10", "r11");
  else
    result = gate(11, (long)strcpy(low + 2048, "/proc/self/exe"), words);
  printf("the gate: %ld\n", result);
  return 126;
}

/* The page of fixed addresses that programs from before the vDSO call. */
static int vsyscall_source(const char *source) {
  if (!strcmp(source, "vsyscall-time")) return SHOW(0, ((long (*)(long *))0xffffffffff600400)(NULL), 0);
  struct timeval now;
  int (*function)(struct timeval *, void *) = (void *)0xffffffffff600000;
  return SHOW(function(&now, NULL), now.tv_sec, now.tv_usec);
}
#endif

/* Addresses that the kernel itself could not write either; then a good read, by which the engine is seen to live. */
static int bad_source(const char *source) {
  void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  long result = 0;
  errno = 0;
  if (!strcmp(source, "bad-time")) result = syscall(SYS_time, 1L);
  if (!strcmp(source, "bad-null")) result = syscall(SYS_clock_gettime, 0, NULL);
  if (!strcmp(source, "bad-read-only")) result = syscall(SYS_clock_gettime, 0, page);
  if (!strcmp(source, "bad-gettimeofday")) result = syscall(SYS_gettimeofday, page, NULL);
  if (!strcmp(source, "bad-zone")) result = syscall(SYS_gettimeofday, NULL, page);
  if (!strcmp(source, "bad-adjtimex")) result = syscall(SYS_adjtimex, 1L);
  if (!strcmp(source, "bad-clock")) result = syscall(SYS_clock_gettime, 99, &page);
  printf("%ld %s then ", result, strerrorname_np(errno));
  return SHOW(0, time(NULL), 0);
}

static int read_source(const char *word) {
  char source[64];
  int clock = 0;
  sscanf(word, "%63[^:]:%d", source, &clock);
  if (!strncmp(source, "raw-", 4)) return raw_source(source, clock);
  if (!strncmp(source, "bad-", 4)) return bad_source(source);
#ifdef __x86_64__
  if (!strncmp(source, "gate-", 5)) return gate_source(source, clock);
  if (!strncmp(source, "vsyscall-", 9)) return vsyscall_source(source);
#endif
  return libc_source(source, clock);
}

static void *thread(void *source) { return (void *)(long)read_source(source); }

static int again_by(int descriptor, char **again) {
  syscall(SYS_execveat, descriptor, "", again, environ, AT_EMPTY_PATH);
  perror("execveat");
  return 126;
}

static int copy_in_memory(void) {
  int own = open("/proc/self/exe", O_RDONLY), copy = memfd_create("copy", MFD_CLOEXEC);
  while (sendfile(copy, own, NULL, 1 << 20) > 0);
  return copy;
}

int main(int count, char **argv) {
  if (count != 3) return 2;
  char *again[] = {argv[0], "plain", argv[2], NULL};
  int status = 0;
  void *result = NULL;
  pthread_t other;
  pid_t child = 0;
  switch (argv[1][0]) {
    case 'f':
      if ((child = fork()) == 0) {
        status = read_source(argv[2]);
        fflush(stdout);
        _exit(status);
      }
      break;
    case 't':
      if (pthread_create(&other, NULL, thread, argv[2])) return 3;
      pthread_join(other, &result);
      return (long)result;
    case 'v':
      if ((child = vfork()) == 0) {
        execv("/proc/self/exe", again);
        _exit(126);
      }
      break;
    case 's':
      if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, again, environ)) return 3;
      break;
    case 'e':
      return again_by(open("/proc/self/exe", O_PATH | O_CLOEXEC), again);
    case 'm':
      return again_by(copy_in_memory(), again);
#ifdef __x86_64__
    case 'g':
      return gate_again(!strcmp(argv[1], "gate-execveat"), again);
#endif
    default:
      return read_source(argv[2]);
  }
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}
