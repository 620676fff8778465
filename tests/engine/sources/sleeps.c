/* sleeps: print by how many nanoseconds each kind of sleep moves this thread's wall clock, two reads included. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

#define MOVES(name, sleep) ({ long long before_ = now(); sleep; printf("%s %lld\n", name, now() - before_); })

static void *sleeps(void *unused) {
  MOVES("another thread", usleep(30000));
  return unused;
}

static void alarmed(int sig) { (void)sig; }

int main(void) {
  struct timespec time = {0, 20000001};
  struct timeval interval = {0, 30000};
  struct itimerval soon = {{0, 0}, {0, 20000}};
  pthread_t thread;
  setvbuf(stdout, NULL, _IOLBF, 0);
  MOVES("nothing", (void)0);
  MOVES("nanosleep", nanosleep(&time, NULL));
  MOVES("clock_nanosleep of REALTIME", clock_nanosleep(CLOCK_REALTIME, 0, &time, NULL));
  MOVES("clock_nanosleep of MONOTONIC", clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL));
  MOVES("clock_nanosleep of BOOTTIME", clock_nanosleep(CLOCK_BOOTTIME, 0, &time, NULL));
  MOVES("usleep", usleep(10000));
  MOVES("sleep", sleep(1));
  MOVES("poll", poll(NULL, 0, 30));
  MOVES("ppoll", ppoll(NULL, 0, &time, NULL));
  MOVES("select", select(0, NULL, NULL, NULL, &interval));
  MOVES("pselect", pselect(0, NULL, NULL, NULL, &time, NULL));
  time.tv_nsec = -1;
  MOVES("a sleep that is refused", nanosleep(&time, NULL));
  MOVES("a thread that sleeps and is joined", (pthread_create(&thread, NULL, sleeps, NULL), pthread_join(thread, NULL)));
  if (!fork()) {
    MOVES("a child", usleep(30000));
    _exit(0);
  }
  MOVES("a child that slept", wait(NULL));
  signal(SIGALRM, alarmed);
  setitimer(ITIMER_REAL, &soon, NULL);
  MOVES("a sleep that a signal ends", usleep(500000));
  return 0;
}
