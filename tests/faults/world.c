/* The world of the processes under test, put before libc by LD_PRELOAD: a clock that jumps, and a disk that is full,
 * or before whose Nth change the process is killed. What happens is read from the shared file that PYTHON_FAULTS_WORLD
 * names (a name that a shim lets through to its trainer), so that it can be changed while they run. Only files whose
 * path begins with `prefix` are touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct world {
    int64_t clock_offset_seconds;
    int64_t countdown; /* of changes: what comes when it reaches 0; none while it is 0 */
    int64_t kills;     /* 1: it is the process's death; 0: from then on no space is left */
    int64_t full;      /* 1: no space is left */
    char prefix[512];
};

static struct world *world;
static int told = -1; /* the file in which each change is told */
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("PYTHON_FAULTS_WORLD");
    int file = path ? open(path, O_RDWR) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED) world = found;
    path = getenv("PYTHON_FAULTS_CHANGES");
    if (path) told = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
}

/* The clock. */

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real_clock_gettime(clock, now);
    if (!failed && world && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += world->clock_offset_seconds;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}

/* The disk. */

#define REAL(name) __typeof__(name) *real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* The path from the root of a file that is named from here; in `whole`. */
static const char *whole_path(const char *path, char whole[PATH_MAX]) {
    char here[PATH_MAX];
    if (path[0] == '/') return path;
    if (!getcwd(here, sizeof here)) return "";
    snprintf(whole, PATH_MAX, "%.2000s/%.2000s", here, path);
    return whole;
}

/* The path of an open file or folder, in `path`; nothing of a socket or a pipe. */
static const char *path_of(int file, char path[PATH_MAX]) {
    struct stat facts;
    char link[64];
    if (fstat(file, &facts) || !(S_ISREG(facts.st_mode) || S_ISDIR(facts.st_mode))) return "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return "";
    path[length] = 0;
    return path;
}

static void tell(const char *what, const char *path, const char *new_path) {
    char line[2 * PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%d\t%s\t%s%s%s\n", getpid(), what, path, *new_path ? "\t" : "", new_path);
    REAL(write);
    if (real(told, line, length) != length) abort();
}

/* One change of the disk, about to be made; -1 and ENOSPC if it wants room and there is none. */
static int change(const char *what, const char *path, const char *new_path, int wants_room) {
    if (strncmp(*new_path ? new_path : path, world->prefix, strlen(world->prefix))) return 0;
    if (told >= 0) tell(what, path, new_path);
    if (world->countdown > 0 && __atomic_sub_fetch(&world->countdown, 1, __ATOMIC_SEQ_CST) == 0) {
        if (world->kills) raise(SIGKILL);
        world->full = 1;
    }
    if (!world->full || !wants_room) return 0;
    errno = ENOSPC;
    return -1;
}

static int change_at(const char *what, const char *path, const char *new_path, int wants_room) {
    char whole[PATH_MAX], whole_new[PATH_MAX];
    return change(what, whole_path(path, whole), *new_path ? whole_path(new_path, whole_new) : "", wants_room);
}

static int change_of(const char *what, int file, int wants_room) {
    char path[PATH_MAX];
    return change(what, path_of(file, path), "", wants_room);
}

#define WATCHED (world && (world->full || world->countdown > 0 || told >= 0))

ssize_t write(int file, const void *from, size_t size) {
    REAL(write);
    if (WATCHED && change_of("write", file, 1)) return -1;
    return real(file, from, size);
}
ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    REAL(pwrite);
    if (WATCHED && change_of("write", file, 1)) return -1;
    return real(file, from, size, at);
}
ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) {
    REAL(pwrite64);
    if (WATCHED && change_of("write", file, 1)) return -1;
    return real(file, from, size, at);
}
ssize_t writev(int file, const struct iovec *from, int count) {
    REAL(writev);
    if (WATCHED && change_of("write", file, 1)) return -1;
    return real(file, from, count);
}
int fsync(int file) {
    REAL(fsync);
    if (WATCHED && change_of("sync", file, 0)) return -1;
    return real(file);
}
int fdatasync(int file) {
    REAL(fdatasync);
    if (WATCHED && change_of("sync", file, 0)) return -1;
    return real(file);
}
int ftruncate(int file, off_t size) {
    REAL(ftruncate);
    if (WATCHED && change_of("write", file, 0)) return -1;
    return real(file, size);
}
int ftruncate64(int file, off64_t size) {
    REAL(ftruncate64);
    if (WATCHED && change_of("write", file, 0)) return -1;
    return real(file, size);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    if (WATCHED && change_at("rename", from, to, 0)) return -1;
    return real(from, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (WATCHED && access(path, F_OK) && change_at("mkdir", path, "", 1)) return -1;
    return real(path, mode);
}
int unlink(const char *path) {
    REAL(unlink);
    if (WATCHED && change_at("remove", path, "", 0)) return -1;
    return real(path);
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(unlinkat);
    char within[PATH_MAX], whole[PATH_MAX];
    if (WATCHED && path[0] != '/' && folder != AT_FDCWD) {
        snprintf(whole, sizeof whole, "%.2000s/%.2000s", path_of(folder, within), path);
        if (change("remove", whole, "", 0)) return -1;
    } else if (WATCHED && change_at("remove", path, "", 0))
        return -1;
    return real(folder, path, flags);
}
int rmdir(const char *path) {
    REAL(rmdir);
    if (WATCHED && change_at("remove", path, "", 0)) return -1;
    return real(path);
}
