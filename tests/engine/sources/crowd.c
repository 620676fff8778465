/* crowd PER_SECOND SECONDS: starts itself so often, on time, for so long; prints how many it started, how many ended
   well, how many saw another second than the first one did, and the milliseconds that it all took. */
#define _GNU_SOURCE
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

#define SECOND 1000000000LL

static long long monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * SECOND + now.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc == 2) return time(NULL) == atol(argv[1]) ? 0 : 3;
  if (argc != 3) return 2;
  long per_second = atol(argv[1]), seconds = atol(argv[2]), all = per_second * seconds;
  long started = 0, ended = 0, well = 0, late = 0;
  char first[32];
  snprintf(first, sizeof first, "%ld", (long)time(NULL));
  char *child[] = {argv[0], first, NULL};
  long long start = monotonic();
  while (ended < all) {
    long due = (monotonic() - start) / (SECOND / per_second) + 1;
    while (started < all && started < due) {
      pid_t pid;
      if (posix_spawn(&pid, argv[0], NULL, NULL, child, environ)) return 4;
      started++;
    }
    int status;
    while (waitpid(-1, &status, WNOHANG) > 0) {
      ended++;
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) well++;
      if (WIFEXITED(status) && WEXITSTATUS(status) == 3) late++;
    }
    struct timespec rest = {0, SECOND / per_second / 4};
    nanosleep(&rest, NULL);
  }
  printf("%ld %ld %ld %lld\n", started, well, late, (monotonic() - start) / 1000000);
  return 0;
}
