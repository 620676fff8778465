/* file_times show PATH: print "CALL INODE SIZE ATIME MTIME CTIME BIRTH" of every stat call that there is.
   file_times set CALL PATH SECONDS FRACTION: set both times with one call, in that call's own unit. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#define SHOW(call, st, result) do { \
    if ((result) < 0) printf("%s %s\n", call, strerrorname_np(errno)); \
    else printf("%s %llu %lld %lld.%09ld %lld.%09ld %lld.%09ld -\n", call, (unsigned long long)(st).st_ino, \
                (long long)(st).st_size, (long long)(st).st_atime, (long)(st).st_atim.tv_nsec, \
                (long long)(st).st_mtime, (long)(st).st_mtim.tv_nsec, (long long)(st).st_ctime, \
                (long)(st).st_ctim.tv_nsec); \
  } while (0)

static void show_libc(const char *path, int fd) {
  struct stat st;
  SHOW("libc-stat", st, stat(path, &st));
  SHOW("libc-lstat", st, lstat(path, &st));
  SHOW("libc-fstat", st, fstat(fd, &st));
  SHOW("libc-fstatat", st, fstatat(AT_FDCWD, path, &st, 0));
}

static void show_statx(const char *path) {
  struct statx st;
  if (statx(AT_FDCWD, path, 0, STATX_ALL, &st)) {
    printf("statx %s\n", strerrorname_np(errno));
    return;
  }
  printf("statx %llu %llu %lld.%09u %lld.%09u %lld.%09u %lld.%09u\n", (unsigned long long)st.stx_ino,
         (unsigned long long)st.stx_size, (long long)st.stx_atime.tv_sec, st.stx_atime.tv_nsec,
         (long long)st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec, (long long)st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec,
         (long long)st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
}

#ifdef __x86_64__
static void show_raw(const char *path, int fd) {
  struct stat st;
  SHOW("stat", st, syscall(SYS_stat, path, &st));
  SHOW("lstat", st, syscall(SYS_lstat, path, &st));
  SHOW("fstat", st, syscall(SYS_fstat, fd, &st));
  SHOW("newfstatat", st, syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0));
}
#else
/* The kernel's own layouts (arch/x86/include/uapi/asm/stat.h), with a word behind them that must stay. */
struct old { unsigned short dev, ino, mode, nlink, uid, gid, rdev; unsigned size, atime, mtime, ctime, guard; };
struct plain {
  unsigned dev, ino;
  unsigned short mode, nlink, uid, gid;
  unsigned rdev, size, blksize, blocks, atime, atime_nsec, mtime, mtime_nsec, ctime, ctime_nsec, unused[2], guard;
};
struct wide {
  unsigned long long dev;
  unsigned pad, short_ino, mode, nlink, uid, gid;
  unsigned long long rdev;
  unsigned pad2;
  long long size;
  unsigned blksize;
  long long blocks;
  unsigned atime, atime_nsec, mtime, mtime_nsec, ctime, ctime_nsec;
  unsigned long long ino;
  unsigned guard;
} __attribute__((packed));

#define RAW(call, st, a, m, c, result) do { \
    (st).guard = 0xfeedbeef; \
    if ((result) < 0) printf("%s %s\n", call, strerrorname_np(errno)); \
    else if ((st).guard != 0xfeedbeef) printf("%s wrote too far\n", call); \
    else printf("%s %llu %lld %u.%09u %u.%09u %u.%09u -\n", call, (unsigned long long)(st).ino, (long long)(st).size, \
                (st).atime, a, (st).mtime, m, (st).ctime, c); \
  } while (0)
#define OLD(call, result) RAW(call, old, 0, 0, 0, result)
#define NSEC(call, st, result) RAW(call, st, (st).atime_nsec, (st).mtime_nsec, (st).ctime_nsec, result)

static void show_raw(const char *path, int fd) {
  struct old old;
  struct plain plain;
  struct wide wide;
  OLD("oldstat", syscall(SYS_oldstat, path, &old));
  OLD("oldlstat", syscall(SYS_oldlstat, path, &old));
  OLD("oldfstat", syscall(SYS_oldfstat, fd, &old));
  NSEC("stat", plain, syscall(SYS_stat, path, &plain));
  NSEC("lstat", plain, syscall(SYS_lstat, path, &plain));
  NSEC("fstat", plain, syscall(SYS_fstat, fd, &plain));
  NSEC("stat64", wide, syscall(SYS_stat64, path, &wide));
  NSEC("lstat64", wide, syscall(SYS_lstat64, path, &wide));
  NSEC("fstat64", wide, syscall(SYS_fstat64, fd, &wide));
  NSEC("fstatat64", wide, syscall(SYS_fstatat64, AT_FDCWD, path, &wide, 0));
}
#endif

static int set(const char *call, const char *path, long long seconds, long fraction) {
  long words[4] = {seconds, fraction, seconds, fraction};
  if (!strcmp(call, "utime")) return utime(path, &(struct utimbuf){seconds, seconds});
  if (!strcmp(call, "utimes")) {
    struct timeval times[2] = {{seconds, fraction}, {seconds, fraction}};
    return utimes(path, times);
  }
  if (!strcmp(call, "utimensat")) {
    struct timespec times[2] = {{.tv_sec = seconds, .tv_nsec = fraction}, {.tv_sec = seconds, .tv_nsec = fraction}};
    return utimensat(AT_FDCWD, path, times, 0);
  }
  if (!strcmp(call, "futimens")) {
    struct timespec times[2] = {{.tv_sec = seconds, .tv_nsec = fraction}, {.tv_sec = seconds, .tv_nsec = fraction}};
    return futimens(open(path, O_WRONLY), times);
  }
  if (!strcmp(call, "omit")) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds, .tv_nsec = fraction}};
    return utimensat(AT_FDCWD, path, times, 0);
  }
  if (!strcmp(call, "raw-utime")) return syscall(SYS_utime, path, (long[]){seconds, seconds});
  if (!strcmp(call, "raw-utimes")) return syscall(SYS_utimes, path, words);
  if (!strcmp(call, "raw-futimesat")) return syscall(SYS_futimesat, AT_FDCWD, path, words);
  if (!strcmp(call, "raw-utimensat")) return syscall(SYS_utimensat, AT_FDCWD, path, words, 0);
#ifdef __i386__
  /* The upper half of a 32-bit program's nanoseconds is padding, and may hold anything. */
  long long wide[4] = {seconds, fraction | 7LL << 40, seconds, fraction | 7LL << 40};
  if (!strcmp(call, "raw-utimensat_time64")) return syscall(SYS_utimensat_time64, AT_FDCWD, path, wide, 0);
#endif
  return -1;
}

int main(int argc, char **argv) {
  if (argc == 6) return set(argv[2], argv[3], atoll(argv[4]), atol(argv[5])) ? perror(argv[2]), 1 : 0;
  int fd = open(argv[2], O_RDONLY);
  show_libc(argv[2], fd);
  show_statx(argv[2]);
  show_raw(argv[2], fd);
  return 0;
}
