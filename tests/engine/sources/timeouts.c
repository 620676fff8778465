/* timeouts MILLISECONDS [CASE ...]: everything that ends by a relative or a monotonic timeout, or by an event that
   somebody makes after that time: all at once, each in a process of its own; prints "CASE RESULT ELAPSED". */
#define _GNU_SOURCE
#include <aio.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long wait_ms;
static int ends[2];
static struct timespec interval;

static int or_errno(long result) { return result < 0 ? errno : result; }
static void nothing(int sig) { (void)sig; }

static struct timespec in(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  t.tv_nsec += interval.tv_nsec;
  t.tv_sec += interval.tv_sec + t.tv_nsec / 1000000000;
  t.tv_nsec %= 1000000000;
  return t;
}

/* A child that does something after the time. */
static int later(void) {
  pid_t child = fork();
  if (child < 0) _exit(6);
  if (!child) usleep(wait_ms * 1000);
  return child == 0;
}

static int interval_timer(void) {
  struct itimerval once = {{0, 0}, {0, wait_ms * 1000}};
  signal(SIGALRM, nothing);
  setitimer(ITIMER_REAL, &once, NULL);
  return or_errno(pause());
}

static int alarms(void) {
  sigset_t set;
  int got;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  sigprocmask(SIG_BLOCK, &set, NULL);
  alarm(1);
  return sigwait(&set, &got) || got != SIGALRM;
}

static int signal_timedwait(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  return or_errno(sigtimedwait(&set, NULL, &interval));
}

static int signal_descriptor(void) {
  struct signalfd_siginfo info;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  if (later()) _exit(0);
  return read(signalfd(-1, &set, 0), &info, sizeof info) == sizeof info ? 0 : errno;
}

static int selects(void) {
  fd_set set;
  struct timeval time = {0, wait_ms * 1000};
  FD_ZERO(&set);
  FD_SET(ends[0], &set);
  return or_errno(select(ends[0] + 1, &set, NULL, NULL, &time));
}

static int polls(void) { return or_errno(poll(&(struct pollfd){ends[0], POLLIN, 0}, 1, wait_ms)); }
static int ppolls(void) { return or_errno(ppoll(&(struct pollfd){ends[0], POLLIN, 0}, 1, &interval, NULL)); }

static int epolls(void) {
  struct epoll_event event = {.events = EPOLLIN};
  int fd = epoll_create1(0);
  epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &event);
  return or_errno(epoll_wait(fd, &event, 1, wait_ms));
}

static int epolls_precisely(void) {
  struct epoll_event event;
  return or_errno(epoll_pwait2(epoll_create1(0), &event, 1, &interval, NULL));
}

static int poll_is_woken(void) {
  if (later()) _exit(write(ends[1], "x", 1) != 1);
  return or_errno(poll(&(struct pollfd){ends[0], POLLIN, 0}, 1, 20000));
}

static int event_descriptor(void) {
  unsigned long long value = 0;
  int fd = eventfd(0, 0);
  if (later()) _exit(eventfd_write(fd, 3));
  return read(fd, &value, sizeof value) == sizeof value ? (int)value : errno;
}

static int monotonic_condition(void) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_condattr_t attributes;
  pthread_cond_t cond;
  int result;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&cond, &attributes);
  struct timespec when = in(CLOCK_MONOTONIC);
  pthread_mutex_lock(&mutex);
  while (!(result = pthread_cond_timedwait(&cond, &mutex, &when))) {}
  return result;
}

static void *rests(void *unused) { pause(); return unused; }

static int timed_join(void) {
  pthread_t thread;
  struct timespec when;
  pthread_create(&thread, NULL, rests, NULL);
  when = in(CLOCK_REALTIME);
  return pthread_timedjoin_np(thread, NULL, &when);
}

static int standard_mutex(void) {
  mtx_t mutex;
  struct timespec when = in(CLOCK_REALTIME);
  mtx_init(&mutex, mtx_timed);
  mtx_lock(&mutex);
  return mtx_timedlock(&mutex, &when) == thrd_timedout ? ETIMEDOUT : 0;
}

static int standard_sleep(void) { return thrd_sleep(&interval, NULL); }

static int timer_descriptor(void) {
  unsigned long long ticks = 0, more;
  int fd = timerfd_create(CLOCK_REALTIME, 0);
  long step = wait_ms * 1000000 / 3;
  struct itimerspec every = {{0, step}, {0, step}};
  timerfd_settime(fd, 0, &every, NULL);
  while (ticks < 3 && read(fd, &more, sizeof more) == sizeof more) ticks += more;
  return ticks == 3 ? 0 : (int)ticks;
}

static int watches(void) {
  char name[] = "/tmp/timeouts-XXXXXX", file[64], events[512];
  if (!mkdtemp(name)) return errno;
  snprintf(file, sizeof file, "%s/file", name);
  int fd = inotify_init1(0);
  inotify_add_watch(fd, name, IN_CREATE);
  if (later()) _exit(creat(file, 0600) < 0);
  long size = read(fd, events, sizeof events);
  unlink(file);
  rmdir(name);
  return size > 0 ? 0 : errno;
}

static int receives(void) {
  char byte;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval time = {0, wait_ms * 1000};
  bind(fd, (struct sockaddr *)&local, sizeof local);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  return or_errno(recv(fd, &byte, 1, 0));
}

static int accepts(void) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof local;
  char word[5] = "";
  bind(fd, (struct sockaddr *)&local, size);
  listen(fd, 1);
  getsockname(fd, (struct sockaddr *)&local, &size);
  if (later()) {
    int client = socket(AF_INET, SOCK_STREAM, 0);
    _exit(connect(client, (struct sockaddr *)&local, size) || write(client, "word", 4) != 4);
  }
  int client = accept(fd, NULL, NULL);
  return read(client, word, 4) == 4 && !strcmp(word, "word") ? 0 : errno;
}

static int system_v(void) {
  int id = semget(IPC_PRIVATE, 1, 0600);
  int result = or_errno(semtimedop(id, &(struct sembuf){0, -1, 0}, 1, &interval));
  semctl(id, 0, IPC_RMID);
  return result;
}

static int asynchronous(void) {
  char byte;
  struct aiocb block = {.aio_fildes = ends[0], .aio_buf = &byte, .aio_nbytes = 1};
  const struct aiocb *list[] = {&block};
  aio_read(&block);
  return or_errno(aio_suspend(list, 1, &interval));
}

static int locks(void) {
  FILE *file = tmpfile();
  char name[32];
  int gate[2];
  char byte;
  snprintf(name, sizeof name, "/proc/self/fd/%d", fileno(file));
  if (pipe(gate)) return errno;
  pid_t child = fork();
  if (child < 0) return errno;
  if (!child) {
    int mine = open(name, O_RDWR);
    flock(mine, LOCK_EX);
    if (write(gate[1], "x", 1) < 0) _exit(1);
    usleep(wait_ms * 1000);
    _exit(0);
  }
  if (read(gate[0], &byte, 1) != 1) return errno;
  return or_errno(flock(fileno(file), LOCK_EX));
}

static int child_ends(void) {
  int status;
  if (later()) _exit(7);
  wait(&status);
  return WEXITSTATUS(status) - 7;
}

#define CASE(name) {#name, name}
static const struct { const char *name; int (*run)(void); } cases[] = {
  CASE(interval_timer), CASE(alarms), CASE(signal_timedwait), CASE(signal_descriptor), CASE(selects), CASE(polls),
  CASE(ppolls), CASE(epolls), CASE(epolls_precisely), CASE(poll_is_woken), CASE(event_descriptor),
  CASE(monotonic_condition), CASE(timed_join), CASE(standard_mutex), CASE(standard_sleep), CASE(timer_descriptor),
  CASE(watches), CASE(receives), CASE(accepts), CASE(system_v), CASE(asynchronous), CASE(locks), CASE(child_ends),
};

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

int main(int argc, char **argv) {
  wait_ms = atol(argv[1]);
  interval = (struct timespec){wait_ms / 1000, wait_ms % 1000 * 1000000};
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    int wanted = argc == 2;
    for (int a = 2; a < argc; a++) wanted |= !strcmp(argv[a], cases[i].name);
    if (!wanted || fork()) continue;
    char line[80];
    if (pipe(ends)) _exit(1);
    long long before = now();
    int result = cases[i].run();
    int size = snprintf(line, sizeof line, "%s %s %lld\n", cases[i].name,
                        result < 0 ? "wrong" : result ? strerrorname_np(result) : "0", now() - before);
    _exit(write(1, line, size) != size);
  }
  while (wait(NULL) > 0) {}
  return 0;
}
