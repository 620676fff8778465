/* execs FILE [ARGUMENT ...]: become FILE, with the arguments as its argv, by this program's own execve(2). */
#include <stdio.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
  (void)argc;
  execve(argv[1], argv + 2, environ);
  perror("execve");
  return 1;
}
