/* Reads the processor's counter: in a thread, in a child, before an execution; and faults of its own are its own. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

static sigjmp_buf back;

static void caught(int number)
{
    siglongjmp(back, number);
}

static void *look(void *unused)
{
    unsigned long long first = __rdtsc();
    (void)unused;
    printf("%d\n", __rdtsc() > first);
    fflush(stdout);
    return NULL;
}

int main(int count, char **words)
{
    pthread_t thread;
    unsigned cpu;
    signal(SIGSEGV, caught);
    if (count < 2)
        return 0;
    if (!strcmp(words[1], "thread")) {
        pthread_create(&thread, NULL, look, NULL);
        pthread_join(thread, NULL);
        look(NULL);
    } else if (!strcmp(words[1], "child")) {
        if (fork() == 0)
            return look(NULL) != NULL;
        wait(NULL);
    } else if (!strcmp(words[1], "wait")) {
        sigset_t wake;
        int number;
        sigemptyset(&wake);
        sigaddset(&wake, SIGUSR1);
        sigprocmask(SIG_BLOCK, &wake, NULL);
        sigwait(&wake, &number);
        look(NULL);
    } else if (!strcmp(words[1], "hidden")) {
        prctl(PR_SET_DUMPABLE, 0);
        look(NULL);
    } else if (!strcmp(words[1], "prefix")) {
        __asm__ volatile(".byte 0x66, 0x0f, 0x31" ::: "eax", "edx");
        puts("1");
    } else if (!strcmp(words[1], "data")) {
        char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memcpy(page, "\x0f\x31\xc3", 3);
        if (!sigsetjmp(back, 1))
            ((void (*)(void))page)();
        else
            puts("caught");
        if (!sigsetjmp(back, 1))
            raise(SIGSEGV);
        else
            puts("caught");
        look(NULL);
    } else if (!strcmp(words[1], "fault")) {
        look(NULL);
        if (!sigsetjmp(back, 1))
            *(volatile int *)0 = 1;
        else
            puts("caught");
        printf("%d\n", __rdtscp(&cpu) > 0);
    } else {
        execvp(words[1], words + 1);
    }
    return 0;
}
