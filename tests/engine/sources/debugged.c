// A program for other tracers to look at: whether its calls fail while it is traced, and what time it sees afterwards.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int answer = 42;
int failures;
volatile int rounds;

static void nap(long milliseconds) {
  struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  failures += nanosleep(&time, 0) != 0;
}

// The calls that a session stops: each must work under whatever tracer.
static void use(void) {
  struct stat status;
  struct timespec now;
  failures += stat("/", &status) != 0;
  failures += syscall(SYS_clock_gettime, CLOCK_REALTIME, &now) != 0;
  nap(20);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;

static void *wait_a_second(void *unused) {
  struct timespec begin, end, limit;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  clock_gettime(CLOCK_REALTIME, &limit);
  limit.tv_sec += 1;
  int result;
  pthread_mutex_lock(&mutex);
  do
    result = pthread_cond_timedwait(&never, &mutex, &limit);
  while (!result);
  pthread_mutex_unlock(&mutex);
  clock_gettime(CLOCK_MONOTONIC, &end);
  double seconds = end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9;
  return result == ETIMEDOUT && seconds > 0.9 && seconds < 5 ? unused : 0;
}

__attribute__((weak)) int __lsan_do_recoverable_leak_check(void);

// The sanitizer stops threads that wait; afterwards they wait on, and leave with the fixed clock.
static void threads(void) {
  pthread_t waiting[4];
  int well = 0;
  for (int i = 0; i < 4; i++)
    pthread_create(&waiting[i], 0, wait_a_second, &answer);
  nap(200);
  if (__lsan_do_recoverable_leak_check)
    printf("leaks: %d\n", __lsan_do_recoverable_leak_check());
  for (int i = 0; i < 4; i++) {
    void *result;
    pthread_join(waiting[i], &result);
    well += result != 0;
  }
  printf("%d waited a second\n", well);
}

static void say(const char *who) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  printf("%s: %d failures, %ld00000000\n", who, failures, (long)now.tv_sec / 100000000);
}

int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IONBF, 0);
  const char *what = argc > 1 ? argv[1] : "";
  if (!strcmp(what, "threads"))
    threads();
  if (!strcmp(what, "leak")) {
    char *volatile lost = malloc(33);
    lost = 0;
    (void)lost;
  }
  if (!strcmp(what, "forks") && !fork()) {
    use();
    say("child");
    _exit(0);
  }
  if (!strcmp(what, "forks"))
    wait(0);
  for (rounds = 0; strcmp(what, "until") ? rounds < 2 : access(argv[2], F_OK); rounds++)
    use();
  say("end");
  return 3 * !strcmp(what, "three");
}
