/* waits MILLISECONDS [CASE ...]: wait until a moment that far ahead in every way there is, all at once, each case in a
   process of its own, and print "CASE RESULT ELAPSED LATE": what the wait returned, how many milliseconds it took by
   the monotonic clock, and how many the wall clock then stood behind the deadline (- where that says nothing). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

static long wait_ms;
static struct timespec deadline;
static int counts = 1; /* whether the wall clock must have reached the deadline */

static struct timespec in(clockid_t clock, long ms) {
  struct timespec t;
  clock_gettime(clock, &t);
  t.tv_nsec += ms % 1000 * 1000000;
  t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
  t.tv_nsec %= 1000000000;
  return t;
}

static long between(struct timespec a, struct timespec b) {
  return (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
}

static int or_errno(int result) { return result < 0 ? errno : result; }

static int sleeps_until(clockid_t clock) {
  deadline = in(clock, wait_ms);
  return clock_nanosleep(clock, TIMER_ABSTIME, &deadline, NULL);
}

static int nanosleep_realtime(void) { return sleeps_until(CLOCK_REALTIME); }
static int nanosleep_tai(void) { return sleeps_until(CLOCK_TAI); }
static int nanosleep_monotonic(void) { counts = 0; return sleeps_until(CLOCK_MONOTONIC); }

static int timerfd(clockid_t clock) {
  int fd = timerfd_create(clock, 0);
  struct itimerspec when = {.it_value = in(clock, wait_ms)};
  unsigned long long ticks = 0;
  counts = 0;
  if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL)) return errno;
  return read(fd, &ticks, sizeof ticks) == sizeof ticks && ticks == 1 ? 0 : -1;
}

static int timerfd_realtime(void) { return timerfd(CLOCK_REALTIME); }
static int timerfd_monotonic(void) { return timerfd(CLOCK_MONOTONIC); }

/* A second expiry comes an interval after the first. */
static int timerfd_interval(void) {
  int fd = timerfd_create(CLOCK_REALTIME, 0);
  struct itimerspec when = {.it_value = in(CLOCK_REALTIME, wait_ms / 2),
                            .it_interval = {wait_ms / 2 / 1000, wait_ms / 2 % 1000 * 1000000}};
  unsigned long long first = 0, second = 0;
  counts = 0;
  if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL)) return errno;
  if (read(fd, &first, sizeof first) < 0 || read(fd, &second, sizeof second) < 0) return errno;
  return 0;
}

static int timer(clockid_t clock) {
  timer_t id;
  sigset_t set;
  int got;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  struct itimerspec when;
  counts = 0;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  if (timer_create(clock, &event, &id)) return errno;
  when = (struct itimerspec){.it_value = in(clock, wait_ms)};
  if (timer_settime(id, TIMER_ABSTIME, &when, NULL)) return errno;
  return sigwait(&set, &got);
}

static int timer_realtime(void) { return timer(CLOCK_REALTIME); }
static int timer_monotonic(void) { return timer(CLOCK_MONOTONIC); }

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static sem_t sem;

static int condition(void) {
  int result;
  deadline = in(CLOCK_REALTIME, wait_ms);
  pthread_mutex_lock(&mutex);
  while (!(result = pthread_cond_timedwait(&cond, &mutex, &deadline))) {}
  return result;
}

static int semaphore(void) {
  deadline = in(CLOCK_REALTIME, wait_ms);
  return or_errno(sem_timedwait(&sem, &deadline));
}

static void *holds(void *lock) {
  pthread_mutex_lock(lock);
  sem_post(&sem);
  pause();
  return NULL;
}

static int timed_lock(int protocol) {
  pthread_mutexattr_t attributes;
  pthread_t other;
  pthread_mutex_t lock;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setprotocol(&attributes, protocol);
  pthread_mutex_init(&lock, &attributes);
  pthread_create(&other, NULL, holds, &lock);
  sem_wait(&sem);
  deadline = in(CLOCK_REALTIME, wait_ms);
  return pthread_mutex_timedlock(&lock, &deadline);
}

static int mutex_plain(void) { return timed_lock(PTHREAD_PRIO_NONE); }
static int mutex_pi(void) { return timed_lock(PTHREAD_PRIO_INHERIT); }

static void *holds_rwlock(void *unused) {
  (void)unused;
  pthread_rwlock_wrlock(&rwlock);
  sem_post(&sem);
  pause();
  return NULL;
}

static int rwlock_read(void) {
  pthread_t other;
  pthread_create(&other, NULL, holds_rwlock, NULL);
  sem_wait(&sem);
  deadline = in(CLOCK_REALTIME, wait_ms);
  return pthread_rwlock_timedrdlock(&rwlock, &deadline);
}

static int waitv(void) {
  static unsigned word;
  struct { unsigned long long value, address; unsigned flags, reserved; } wait = {0, (unsigned long)&word, 2, 0};
  long long when[2];
  deadline = in(CLOCK_REALTIME, wait_ms);
  when[0] = deadline.tv_sec;
  when[1] = deadline.tv_nsec;
  return or_errno(syscall(SYS_futex_waitv, &wait, 1, 0, when, CLOCK_REALTIME));
}

/* A 32-bit program's nanoseconds are half of their field; the kernel ignores the other half. */
static int padding(void) {
#ifdef __x86_64__
  return semaphore();
#else
  static int word;
  deadline = in(CLOCK_REALTIME, wait_ms);
  long long when[2] = {deadline.tv_sec, deadline.tv_nsec | 7LL << 40};
  return or_errno(syscall(SYS_futex_time64, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, when, NULL, -1));
#endif
}

static mqd_t queue(void) {
  char name[32];
  struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
  mqd_t made;
  snprintf(name, sizeof name, "/waits-%d", getpid());
  made = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
  mq_unlink(name);
  return made;
}

static int receives(void) {
  char message[8];
  mqd_t empty = queue();
  deadline = in(CLOCK_REALTIME, wait_ms);
  return or_errno(mq_timedreceive(empty, message, sizeof message, NULL, &deadline));
}

static int sends(void) {
  mqd_t full = queue();
  mq_send(full, "x", 1, 0);
  deadline = in(CLOCK_REALTIME, wait_ms);
  return or_errno(mq_timedsend(full, "y", 1, 0, &deadline));
}

/* The libc calls copy nothing: they pass the caller's own pointer on. */
static int read_only(void) {
  struct timespec *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *page = deadline = in(CLOCK_REALTIME, wait_ms);
  mprotect(page, 4096, PROT_READ);
  int result = or_errno(sem_timedwait(&sem, page));
  return memcmp(page, &deadline, sizeof deadline) ? -1 : result;
}

static void *waits_too(void *unused) {
  (void)unused;
  return (void *)(long)or_errno(sem_timedwait(&sem, &deadline));
}

/* Three threads and one deadline, which is past when it is passed again. */
static int shared(void) {
  pthread_t threads[3];
  void *result;
  deadline = in(CLOCK_REALTIME, wait_ms);
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, waits_too, NULL);
  for (int i = 0; i < 3; i++) {
    pthread_join(threads[i], &result);
    if ((long)result != ETIMEDOUT) return (long)result;
  }
  /* A 32-bit libc passes a copy on its own stack, which no longer shows that it is the same deadline. */
  counts = sizeof(long) == 8;
  return counts ? or_errno(sem_timedwait(&sem, &deadline)) : ETIMEDOUT;
}

static void *wakes(void *unused) {
  while (!usleep(10000)) {
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
  }
  return unused;
}

static int woken(void) {
  pthread_t other;
  pthread_create(&other, NULL, wakes, NULL);
  return condition();
}

static volatile int ticks;
static void tick(int sig) { (void)sig; ticks++; }

static void interrupt_every_30_ms(int flags) {
  struct sigaction action = {.sa_handler = tick, .sa_flags = flags};
  struct itimerval every = {{0, 30000}, {0, 30000}};
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &every, NULL);
}

static int interrupted(int flags, int (*wait)(mqd_t)) {
  int result;
  mqd_t empty = queue();
  interrupt_every_30_ms(flags);
  deadline = in(CLOCK_REALTIME, wait_ms);
  while ((result = wait(empty)) == EINTR) {}
  return ticks < 2 ? -1 : result;
}

static int once_semaphore(mqd_t unused) { (void)unused; return or_errno(sem_timedwait(&sem, &deadline)); }
static int once_sleep(mqd_t unused) {
  (void)unused;
  return clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &deadline, NULL);
}
static int once_queue(mqd_t empty) {
  char message[8];
  return or_errno(mq_timedreceive(empty, message, sizeof message, NULL, &deadline));
}

static int interrupted_semaphore(void) { return interrupted(0, once_semaphore); }
static int interrupted_sleep(void) { return interrupted(0, once_sleep); }
static int interrupted_queue(void) { return interrupted(0, once_queue); }
static int restarted_semaphore(void) { return interrupted(SA_RESTART, once_semaphore); }
static int restarted_sleep(void) { return interrupted(SA_RESTART, once_sleep); }
static int restarted_queue(void) { return interrupted(SA_RESTART, once_queue); }
static int restarted_mutex_pi(void) { interrupt_every_30_ms(SA_RESTART); return mutex_pi(); }

/* Stopped and continued without a handler, the kernel goes on with the wait by itself. */
static int continued(void) {
  int status;
  pid_t child = fork();
  deadline = in(CLOCK_REALTIME, wait_ms);
  if (!child) _exit(or_errno(sem_timedwait(&sem, &deadline)));
  for (int i = 0; i < 3; i++) {
    usleep(wait_ms * 200);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    kill(child, SIGCONT);
  }
  waitpid(child, &status, 0);
  counts = 0; /* the child's clock moved, not this process's */
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#ifdef __x86_64__
/* A compiler may keep the pointer in its register: a system call changes rax, rcx and r11 only. */
static long raw_wait(const struct timespec *when, const struct timespec **after) {
  static int word;
  register const struct timespec *r10 __asm__("r10") = when;
  register long r8 __asm__("r8") = 0, r9 __asm__("r9") = -1;
  long result = SYS_futex;
  __asm__ volatile("syscall" : "+a"(result), "+r"(r10) : "D"(&word),
                   "S"((long)(FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME)), "d"(0L), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  *after = r10;
  return -result;
}

static int registers(void) {
  const struct timespec *after;
  int result;
  interrupt_every_30_ms(0);
  deadline = in(CLOCK_REALTIME, wait_ms);
  do {
    result = raw_wait(&deadline, &after);
    if (after != &deadline) return -1;
  } while (result == EINTR);
  return ticks < 2 ? -2 : result;
}
#else
static int registers(void) { usleep(wait_ms * 1000); counts = 0; return ETIMEDOUT; }
#endif

/* A thread that starts later and whose clock lags means a moment of its own. */
static void *waits_later(void *unused) {
  struct timespec when = in(CLOCK_REALTIME, wait_ms / 3);
  (void)unused;
  return (void *)(long)or_errno(sem_timedwait(&sem, &when));
}

static int one_after_the_other(void) {
  pthread_t thread;
  void *result;
  counts = 0;
  for (int i = 0; i < 3; i++) {
    pthread_create(&thread, NULL, waits_later, NULL);
    pthread_join(thread, &result);
    if ((long)result != ETIMEDOUT) return (long)result;
  }
  return 0;
}

/* The least stack that the kernel has grown so far: what lies below has no page yet. */
static int deep_stack(void) {
  int result = 0;
  for (int i = 0; i < 40; i++) {
    volatile char *room = __builtin_alloca(100000 + 8);
    room[0] = 1;
    struct timespec soon = in(CLOCK_REALTIME, wait_ms / 40);
    result = or_errno(sem_timedwait(&sem, &soon));
    if (result != ETIMEDOUT) return result;
  }
  counts = 0;
  return result;
}

#define CASE(name) {#name, name}
static const struct { const char *name; int (*run)(void); } cases[] = {
  CASE(nanosleep_realtime), CASE(nanosleep_tai), CASE(nanosleep_monotonic), CASE(timerfd_realtime),
  CASE(timerfd_monotonic), CASE(timerfd_interval), CASE(timer_realtime), CASE(timer_monotonic), CASE(condition),
  CASE(semaphore), CASE(mutex_plain), CASE(mutex_pi), CASE(rwlock_read), CASE(waitv), CASE(padding), CASE(receives), CASE(sends),
  CASE(read_only), CASE(shared), CASE(woken), CASE(interrupted_semaphore), CASE(interrupted_sleep),
  CASE(interrupted_queue), CASE(restarted_semaphore), CASE(restarted_sleep), CASE(restarted_queue),
  CASE(restarted_mutex_pi), CASE(continued), CASE(registers), CASE(one_after_the_other), CASE(deep_stack),
};

static void run(int i) {
  struct timespec before, after, wall = {0, 0};
  clock_gettime(CLOCK_MONOTONIC, &before);
  int result = cases[i].run();
  clock_gettime(CLOCK_MONOTONIC, &after);
  clock_gettime(CLOCK_REALTIME, &wall);
  char line[128];
  int size = snprintf(line, sizeof line, "%s %s %ld ", cases[i].name,
                      result < 0 ? "wrong" : result ? strerrorname_np(result) : "0", between(before, after));
  if (counts) size += snprintf(line + size, sizeof line - size, "%ld\n", between(wall, deadline));
  else size += snprintf(line + size, sizeof line - size, "-\n");
  if (write(1, line, size) < 0) _exit(1);
}

int main(int argc, char **argv) {
  int started = 0;
  wait_ms = atol(argv[1]);
  sem_init(&sem, 0, 0);
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    int wanted = argc == 2;
    for (int a = 2; a < argc; a++) wanted |= !strcmp(argv[a], cases[i].name);
    if (!wanted) continue;
    if (!fork()) {
      run(i);
      _exit(0);
    }
    started++;
  }
  while (wait(NULL) > 0) {}
  return started ? 0 : 2;
}
