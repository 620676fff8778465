/* garbage SEED: make many calls that a session acts on, with arguments that mean nothing, while a timer interrupts; then
   print "done". None that could change the machine, should it get through. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static const long calls[] = {
  SYS_time, SYS_gettimeofday, SYS_clock_gettime, SYS_nanosleep, SYS_clock_nanosleep,
  SYS_pselect6, SYS_poll, SYS_ppoll, SYS_futex, SYS_mq_timedsend, SYS_mq_timedreceive, SYS_timer_settime,
  SYS_timerfd_settime, SYS_stat, SYS_fstat, SYS_lstat, SYS_statx,
  449 /* futex_waitv */, 455 /* futex_wait */,
#ifdef __x86_64__
  SYS_select, SYS_newfstatat,
#else
  SYS__newselect, SYS_fstatat64, SYS_stat64, SYS_fstat64, SYS_oldstat, SYS_clock_gettime64,
  SYS_clock_nanosleep_time64, SYS_pselect6_time64, SYS_ppoll_time64, SYS_futex_time64, SYS_mq_timedsend_time64,
  SYS_mq_timedreceive_time64, SYS_timer_settime64, SYS_timerfd_settime64,
#endif
};
static const long long values[] = {
  0, 0, 0, 0, 1, 2, 3, 5, 6, 8, 11, 13, 137, 256, 393, 4096, 1000000000, -1, -6, -100, 0x7fffffff, 0x80000000,
  0x7fffffffffffffff, (long long)0x8000000000000000,
};

static long any(void) { return values[rand() % (sizeof values / sizeof *values)]; }
static void tick(int sig) { (void)sig; }

int main(int argc, char **argv) {
  char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct sigaction action = {.sa_handler = tick};
  struct itimerval often = {{0, 1000}, {0, 1000}};
  munmap(page + 4096, 4096);
  srand(argc > 1 ? atoi(argv[1]) : 0);
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &often, NULL);
  for (int i = 0; i < 3000; i++) {
    long words[6];
    for (int j = 0; j < 6; j++) {
      int kind = rand() % 4;
      words[j] = kind == 0 ? (long)page + rand() % 4096 : kind == 1 ? (long)page + 4096 - rand() % 40 : any();
    }
    for (int j = 0; j < 8; j++) ((long *)page)[rand() % (4096 / sizeof(long))] = any();
    if (rand() % 3 == 0) strcpy(page, "/tmp");
    syscall(calls[rand() % (sizeof calls / sizeof *calls)], words[0], words[1], words[2], words[3], words[4], words[5]);
  }
  puts("done");
  return 0;
}
