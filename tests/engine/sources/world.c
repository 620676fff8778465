/*
 * Prints what it sees of the outside world beyond the clocks: world HOW WORD..., HOW being plain, fork or thread.
 * With several words a line with each stands before what it prints.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>

static const char *word;

static void hexadecimal(const unsigned char *bytes, size_t size)
{
    for (size_t at = 0; at < size; at++)
        printf("%02x", bytes[at]);
    putchar('\n');
}

static void listing(long call, size_t head, size_t length_at)
{
    char buffer[512];
    int directory = open(".", O_RDONLY | O_DIRECTORY);
    long got;
    while ((got = syscall(call, directory, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < got;) {
            unsigned short length;
            memcpy(&length, buffer + at + length_at, sizeof length);
            printf("%s ", buffer + at + head);
            at += length;
        }
    printf("%ld\n", got);
}

static void contents(int file)
{
    char bytes[4096];
    long got = -1;
    while ((got = read(file, bytes, sizeof bytes)) > 0)
        for (long at = 0; at < got; at++)
            printf(bytes[at] >= ' ' || bytes[at] == '\n' ? "%c" : "\\%d", bytes[at]);
    printf("%ld\n", got);
    close(file);
}

/* Splits PATH into its directory, which is returned open, and its name. */
static int directory_of(const char *path, const char **name)
{
    char directory[256];
    *name = strrchr(path, '/') + 1;
    snprintf(directory, sizeof directory, "%.*s", (int)(*name - path), path);
    return open(directory, O_RDONLY | O_DIRECTORY);
}

/* A random device by every call that reads, through a duplicate, and by one that only moves bytes. */
static void device(const char *path)
{
    unsigned char bytes[16];
    int file = open(path, O_RDONLY), pair[2];
    hexadecimal(bytes, read(file, bytes, 16));
    int other = dup(file);
    close(file);
    hexadecimal(bytes, read(other, bytes, 16));
    hexadecimal(bytes, pread(other, bytes, 16, 0));
    struct iovec pieces[] = {{bytes, 5}, {bytes + 5, 11}};
    hexadecimal(bytes, readv(other, pieces, 2));
    pipe(pair);
    errno = 0;
    long moved = sendfile(pair[1], other, NULL, 16);
    printf("%ld %d %d\n", moved, errno == EINVAL, access(path, R_OK));
    close(other);
}

static void *look(void *unused)
{
    unsigned char bytes[48];
    (void)unused;
    if (!strcmp(word, "getrandom")) {
        for (int round = 0; round < 3; round++)
            hexadecimal(bytes, getrandom(bytes, sizeof bytes, 0));
    } else if (!strcmp(word, "getentropy")) {
        if (getentropy(bytes, sizeof bytes) == 0)
            hexadecimal(bytes, sizeof bytes);
    } else if (!strcmp(word, "at-random")) {
        hexadecimal((void *)getauxval(AT_RANDOM), 16);
    } else if (!strcmp(word, "readdir")) {
        DIR *directory = opendir(".");
        for (struct dirent *entry; (entry = readdir(directory));)
            printf("%s %d ", entry->d_name, entry->d_type);
        putchar('\n');
    } else if (!strcmp(word, "getdents64")) {
        listing(SYS_getdents64, 19, 16);
    } else if (!strcmp(word, "getdents")) {
        listing(SYS_getdents, 2 * sizeof(long) + 2, 2 * sizeof(long));
    } else if (!strncmp(word, "device ", 7)) {
        device(word + 7);
    } else if (!strncmp(word, "open ", 5)) {
        contents(open(word + 5, O_RDONLY));
    } else if (!strncmp(word, "fopen ", 6)) {
        char line[256] = "";
        FILE *file = fopen(word + 6, "re");
        fgets(line, sizeof line, file);
        printf("%s%d", line, fcntl(fileno(file), F_GETFD));
    } else if (!strncmp(word, "openat ", 7)) {
        const char *name;
        int directory = directory_of(word + 7, &name);
        contents(openat(directory, name, O_RDONLY));
    } else if (!strncmp(word, "openat2 ", 8)) {
        struct open_how how = {.flags = O_RDONLY};
        contents(syscall(SYS_openat2, AT_FDCWD, word + 8, &how, sizeof how));
    } else if (!strncmp(word, "chdir ", 6)) {
        const char *name;
        if (fchdir(directory_of(word + 6, &name)) == 0)
            contents(open(name, O_RDONLY));
    } else if (!strcmp(word, "affinity")) {
        cpu_set_t cpus;
        sched_getaffinity(0, sizeof cpus, &cpus);
        printf("%d %ld\n", CPU_COUNT(&cpus), sysconf(_SC_NPROCESSORS_ONLN));
        CPU_ZERO(&cpus);
        CPU_SET(3, &cpus);
        printf("%d\n", sched_setaffinity(0, sizeof cpus, &cpus));
    } else if (!strcmp(word, "zone")) {
        time_t day = 86400;
        unsetenv("TZ");
        int hour = localtime(&day)->tm_hour;
        printf("%d %s\n", hour, tzname[0]);
    } else if (!strcmp(word, "layout")) {
        printf("%p %p %p %p\n", (void *)look, malloc(16), (void *)bytes,
               mmap(NULL, 1 << 16, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    } else if (!strcmp(word, "personality")) {
        printf("%x ", personality(0xffffffff));
        personality(PER_LINUX);
        printf("%x\n", personality(0xffffffff));
    } else if (!strcmp(word, "uname")) {
        struct utsname name;
        uname(&name);
        printf("%s %s %s %s %s %s\n", name.sysname, name.nodename, name.release, name.version, name.machine,
               name.domainname);
    } else if (!strcmp(word, "sysinfo")) {
        struct sysinfo info;
        sysinfo(&info);
        printf("%ld %lu %lu %lu %d %llu\n", info.uptime, info.loads[0], info.loads[1], info.loads[2], info.procs,
               (unsigned long long)info.totalram * info.mem_unit >> 20);
    }
    return NULL;
}

static void see(const char *how)
{
    fflush(stdout);
    if (!strcmp(how, "thread")) {
        pthread_t thread;
        pthread_create(&thread, NULL, look, NULL);
        pthread_join(thread, NULL);
    } else if (!strcmp(how, "fork")) {
        if (fork() == 0) {
            look(NULL);
            fflush(stdout);
            _exit(0);
        }
        wait(NULL);
    }
    look(NULL);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    for (int at = 2; at < argc; at++) {
        word = argv[at];
        if (argc > 3)
            printf("== %s\n", word);
        see(argv[1]);
    }
    return 0;
}
