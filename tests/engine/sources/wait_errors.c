/* wait_errors: what the kernel says to waits and file calls that are wrong, or that end in another way. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#ifdef __x86_64__
#define NANOSLEEP SYS_clock_nanosleep
#define FUTEX SYS_futex
#define RECEIVE SYS_mq_timedreceive
#define UTIMENSAT SYS_utimensat
#define TIMERFD SYS_timerfd_settime
#else
#define NANOSLEEP SYS_clock_nanosleep_time64
#define FUTEX SYS_futex_time64
#define RECEIVE SYS_mq_timedreceive_time64
#define UTIMENSAT SYS_utimensat_time64
#define TIMERFD SYS_timerfd_settime64
#endif

#define SHOW(what, call) do { \
    errno = 0; \
    long result_ = (call); \
    printf("%s: %ld %s\n", what, result_, result_ < 0 ? strerrorname_np(errno) : ""); \
  } while (0)

static sem_t sem;
static void *bad = (void *)8;

static void *posts(void *unused) {
  usleep(50000);
  sem_post(&sem);
  return unused;
}

static void refused_times(void) {
  long long times[][2] = {{0, -1}, {-1, 0}, {0, 1000000000}, {LLONG_MAX, 2000000000}};
  unsigned word = 0;
  for (unsigned i = 0; i < sizeof times / sizeof *times; i++) {
    SHOW("a time that is none, asleep", syscall(NANOSLEEP, CLOCK_REALTIME, TIMER_ABSTIME, times[i], NULL));
    SHOW("a time that is none, in a futex",
         syscall(FUTEX, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, times[i], NULL, -1));
  }
}

static void clocks(void) {
  long long past[2] = {0, 1};
  SHOW("a clock that does not exist", syscall(NANOSLEEP, 100, TIMER_ABSTIME, past, NULL));
  SHOW("a process's CPU clock", syscall(NANOSLEEP, -6, TIMER_ABSTIME, past, NULL));
  SHOW("CLOCK_PROCESS_CPUTIME_ID", syscall(NANOSLEEP, CLOCK_PROCESS_CPUTIME_ID, TIMER_ABSTIME, past, NULL));
  SHOW("CLOCK_MONOTONIC long ago", syscall(NANOSLEEP, CLOCK_MONOTONIC, TIMER_ABSTIME, past, NULL));
  SHOW("CLOCK_REALTIME long ago", syscall(NANOSLEEP, CLOCK_REALTIME, TIMER_ABSTIME, past, NULL));
}

static void bad_pointers(void) {
  unsigned word = 0;
  char message[8192];
  timer_t timer;
  struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
  mqd_t queue = mq_open("/wait-errors", O_RDWR | O_CREAT, 0600, &attributes);
  mq_unlink("/wait-errors");
  int fd = timerfd_create(CLOCK_REALTIME, 0);
  timer_create(CLOCK_REALTIME, &(struct sigevent){.sigev_notify = SIGEV_NONE}, &timer);
  SHOW("clock_nanosleep", syscall(NANOSLEEP, CLOCK_REALTIME, TIMER_ABSTIME, bad, NULL));
  SHOW("a relative clock_nanosleep", syscall(NANOSLEEP, CLOCK_REALTIME, 0, bad, NULL));
  SHOW("clock_nanosleep of MONOTONIC", syscall(NANOSLEEP, CLOCK_MONOTONIC, TIMER_ABSTIME, bad, NULL));
  SHOW("futex", syscall(FUTEX, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, bad, NULL, -1));
  SHOW("timerfd_settime", syscall(TIMERFD, fd, TFD_TIMER_ABSTIME, bad, NULL));
  SHOW("timerfd_settime of no timer", syscall(TIMERFD, 99, TFD_TIMER_ABSTIME, bad, NULL));
  SHOW("mq_timedreceive", syscall(RECEIVE, queue, message, sizeof message, NULL, bad));
}

static void wrong_timers(void) {
  struct itimerspec soon = {.it_value = {1, 0}}, never = {{0, 0}, {0, 0}}, left;
  int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
  unsigned long long ticks;
  SHOW("timerfd_settime of a closed descriptor", timerfd_settime(99, TFD_TIMER_ABSTIME, &soon, NULL));
  SHOW("timerfd_settime of stdout", timerfd_settime(1, TFD_TIMER_ABSTIME, &soon, NULL));
  SHOW("timer_settime of no timer", timer_settime((timer_t)77, TIMER_ABSTIME, &soon, NULL));
  SHOW("arming in the past", timerfd_settime(fd, TFD_TIMER_ABSTIME, &soon, NULL));
  usleep(20000);
  SHOW("it fires at once", read(fd, &ticks, sizeof ticks));
  SHOW("disarming", timerfd_settime(fd, TFD_TIMER_ABSTIME, &never, NULL));
  SHOW("reading the disarmed", timerfd_gettime(fd, &left));
  printf("left: %lld %ld\n", (long long)left.it_value.tv_sec, left.it_value.tv_nsec);
}

static void end_of_time(void) {
  struct timespec last = {sizeof(time_t) == 8 ? (time_t)LLONG_MAX : (time_t)LONG_MAX, 999999999};
  pthread_t thread;
  pthread_create(&thread, NULL, posts, NULL);
  SHOW("a deadline at the end of time", sem_timedwait(&sem, &last));
  pthread_join(thread, NULL);
}

static void files(void) {
  struct stat st;
  struct timespec times[2] = {{time(NULL), 0}, {time(NULL), 1000000000}};
  SHOW("stat to a bad buffer", syscall(SYS_stat, "/", bad));
  SHOW("fstat to a bad buffer", syscall(SYS_fstat, 0, bad));
  SHOW("statx to a bad buffer", statx(AT_FDCWD, "/", 0, STATX_ALL, bad));
  SHOW("stat of a bad name", stat(bad, &st));
  SHOW("stat of nothing", stat("/nothing/here", &st));
  SHOW("fstat of a closed descriptor", fstat(99, &st));
  SHOW("utimensat from a bad buffer", syscall(UTIMENSAT, AT_FDCWD, "/nothing/here", bad, 0));
  SHOW("utimensat of nothing", utimensat(AT_FDCWD, "/nothing/here", times, 0));
  SHOW("utimes from a bad buffer", syscall(SYS_utimes, "/nothing/here", bad));
  SHOW("utime from a bad buffer", syscall(SYS_utime, "/nothing/here", bad));
}

int main(void) {
  sem_init(&sem, 0, 0);
  refused_times();
  clocks();
  bad_pointers();
  wrong_timers();
  end_of_time();
  files();
  return 0;
}
