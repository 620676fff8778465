/* trees WHAT [...]: processes and threads in the ways that are hard to follow; each prints what it sees. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char *self;
static int number;

static void say(const char *who) {
  char line[80];
  struct stat st;
  int size = snprintf(line, sizeof line, "%s %ld ", who, (long)time(NULL));
  /* A file of this moment: its time is the epoch where file times are shown. */
  size += snprintf(line + size, sizeof line - size, "%ld\n", fstat(1, &st) ? -1L : (long)st.st_mtime);
  if (write(1, line, size) < 0) _exit(9);
}

/* fork, or the end: a pid of -1 must never reach kill, which would mean every process of the machine. */
static pid_t begin(void) {
  pid_t child = fork();
  if (child < 0) _exit(6);
  return child;
}

static void reap(void) { while (wait(NULL) > 0) {} }
static void execute(char *what) { execl(self, self, what, (char *)NULL); _exit(8); }

static void *executes(void *unused) { execute("say"); return unused; }

static void exec_from_thread(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, executes, NULL);
  for (;;) pause();
}

static void *outlives(void *leader) {
  pthread_join(*(pthread_t *)leader, NULL);
  say("orphan");
  usleep(20000);
  if (!begin()) {
    say("child");
    _exit(0);
  }
  reap();
  execute("say");
  return NULL;
}

static void zombie_leader(void) {
  static pthread_t leader, thread;
  leader = pthread_self();
  pthread_create(&thread, NULL, outlives, &leader);
  pthread_exit(NULL);
}

/* Threads that execute at once: one wins, the others are gone. */
static void exec_race(void) {
  pthread_t thread;
  for (int i = 0; i < 8; i++) pthread_create(&thread, NULL, executes, NULL);
  for (;;) time(NULL);
}

static void vforks(void) {
  for (int i = 0; i < number; i++) {
    if (!vfork()) execute("say");
    wait(NULL);
  }
}

static void spawns(void) {
  char *argv[] = {self, "say", NULL};
  for (int i = 0; i < number; i++) {
    pid_t child;
    if (posix_spawn(&child, self, NULL, NULL, argv, environ)) _exit(7);
  }
  reap();
}

static void ignores_children(void) {
  signal(SIGCHLD, SIG_IGN);
  for (int i = 0; i < number; i++) {
    if (!begin()) {
      say("child");
      _exit(3);
    }
  }
  int result = wait(NULL);
  printf("wait: %d %s\n", result, strerrorname_np(errno));
}

static int cloned(void *unused) { (void)unused; say("clone"); return 0; }

static void untraced(void) {
  static char stack[65536] __attribute__((aligned(16)));
  int status;
  pid_t child = clone(cloned, stack + sizeof stack, CLONE_UNTRACED | SIGCHLD, NULL);
  waitpid(child, &status, 0);
  child = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
  if (!child) {
    say("raw");
    if (!begin()) execute("say");
    reap();
    _exit(0);
  }
  waitpid(child, &status, 0);
  struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
  child = syscall(SYS_clone3, &args, sizeof args);
  if (!child) {
    say("clone3");
    _exit(0);
  }
  if (child < 0) printf("clone3 %s\n", strerrorname_np(errno));
  reap();
}

/* Stops all the time, for a second at the most. */
static void busy(int kind) {
  struct stat st;
  pthread_t thread;
  for (int i = 0; i < 2000; i++) {
    time(NULL);
    stat("/", &st);
    if (kind == 1 && i == 20) pthread_create(&thread, NULL, executes, NULL);
    if (kind == 2) {
      if (!begin()) _exit(0);
      wait(NULL);
    }
  }
}

/* Children are killed at some moment of a loop that stops all the time. */
static void killed(void) {
  int deaths = 0, status;
  for (int i = 0; i < number; i++) {
    pid_t child = begin();
    if (!child) {
      busy(i % 3);
      _exit(0);
    }
    usleep(i % 20 * 500);
    if (child > 1) kill(child, SIGKILL);
    deaths += waitpid(child, &status, 0) == child;
  }
  printf("%d deaths\n", deaths);
}

/* All at once: each reports, then waits until the pipe closes. */
static void crowd(void) {
  int gate[2], told[2], right = 0;
  if (pipe(gate) || pipe(told)) _exit(7);
  for (int i = 0; i < number; i++) {
    if (begin()) continue;
    char byte;
    long now = time(NULL);
    close(gate[1]);
    if (write(told[1], &now, sizeof now) < 0 || read(gate[0], &byte, 1) != 0) _exit(5);
    _exit(time(NULL) != now);
  }
  long first = 0, now;
  for (int i = 0; i < number && read(told[0], &now, sizeof now) == sizeof now; i++) {
    if (!first) first = now;
    right += now == first;
  }
  close(gate[1]);
  int status, ended = 0;
  while (wait(&status) > 0) ended += status == 0;
  printf("%d saw %ld, %d ended well\n", right, first, ended);
}

/* Many short children of many parents: their first stops come before and after their parents' events. */
static void brood(void) {
  for (int parent = 0; parent < 4; parent++) {
    if (begin()) continue;
    for (int i = 0; i < number; i++) {
      if (!begin()) _exit(time(NULL) & 1);
      if (i % 4 == 3) reap();
    }
    reap();
    _exit(0);
  }
  reap();
  say("parent");
}

static const char *state(int status) {
  static char text[40];
  if (WIFSTOPPED(status)) sprintf(text, "stopped by %s", sigabbrev_np(WSTOPSIG(status)));
  else if (WIFCONTINUED(status)) sprintf(text, "continued");
  else if (WIFSIGNALED(status)) sprintf(text, "killed by %s", sigabbrev_np(WTERMSIG(status)));
  else sprintf(text, "exited with %d", WEXITSTATUS(status));
  return text;
}

static void *idles(void *unused) { for (;;) { usleep(1000); time(NULL); } return unused; }
static void continued(int sig) { (void)sig; }

static void stops(void) {
  int status, signals[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
  pid_t child = begin();
  if (!child) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, idles, NULL);
    signal(SIGCONT, continued);
    setpgid(0, 0);
    raise(SIGSTOP);
    idles(NULL);
  }
  waitpid(child, &status, WUNTRACED);
  printf("%s\n", state(status));
  for (unsigned i = 0; i < 4; i++) {
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    printf("%s\n", state(status));
    usleep(20000);
    kill(child, signals[i]);
    waitpid(child, &status, WUNTRACED);
    printf("%s\n", state(status));
    usleep(10000);
    printf("still: %d\n", waitpid(child, &status, WNOHANG | WCONTINUED | WUNTRACED));
  }
  kill(child, SIGTERM);
  kill(child, SIGCONT);
  do waitpid(child, &status, WCONTINUED | WUNTRACED); while (!WIFSIGNALED(status));
  printf("%s\n", state(status));
}

static void handled(int sig) { printf("handled %s\n", sigabbrev_np(sig)); }

/* A program's own traps are its own. */
static void traps(void) {
  signal(SIGTRAP, handled);
  raise(SIGTRAP);
  __asm__ volatile("int3");
  kill(getpid(), SIGTRAP);
  signal(SIGTRAP, SIG_DFL);
  int status;
  if (!begin()) __asm__ volatile("int3");
  wait(&status);
  printf("%s\n", state(status & ~0x80));
}

/* All signals blocked and ignored, as some launchers leave them to their programs. */
static void deaf(void) {
  sigset_t all;
  sigfillset(&all);
  signal(SIGTRAP, SIG_IGN);
  sigprocmask(SIG_BLOCK, &all, NULL);
  execute("say");
}

static volatile int alarms;
static void counts(int sig) { (void)sig; alarms++; }

static void restarts(void) {
  int ends[2];
  char byte = 0;
  struct sigaction action = {.sa_handler = counts, .sa_flags = SA_RESTART};
  if (pipe(ends)) _exit(7);
  sigaction(SIGUSR1, &action, NULL);
  pid_t parent = getpid();
  if (!begin()) {
    for (int i = 0; i < 5; i++) {
      usleep(20000);
      time(NULL);
      kill(parent, SIGUSR1);
    }
    usleep(20000);
    _exit(write(ends[1], "x", 1) != 1);
  }
  long got = read(ends[0], &byte, 1);
  printf("read %ld %c after %d signals\n", got, byte, alarms);
  reap();
}

#define WHAT(name) if (!strcmp(argv[1], #name)) name()

int main(int argc, char **argv) {
  self = argv[0];
  number = argc > 2 ? atoi(argv[2]) : 1;
  setvbuf(stdout, NULL, _IONBF, 0);
  if (!strcmp(argv[1], "say")) say("program");
  WHAT(exec_from_thread);
  WHAT(zombie_leader);
  WHAT(exec_race);
  WHAT(vforks);
  WHAT(spawns);
  WHAT(ignores_children);
  WHAT(untraced);
  WHAT(killed);
  WHAT(crowd);
  WHAT(brood);
  WHAT(stops);
  WHAT(traps);
  WHAT(deaf);
  WHAT(restarts);
  return 0;
}
