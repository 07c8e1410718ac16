/* Numbers every changing call to the C library below one folder, and lets one of them kill, stop or fail.
 *
 * Loaded with LD_PRELOAD. Counted is a call that changes a file system, if its path or descriptor lies below FAULT_ROOT. The number
 * is given, the call made and its "after" action taken under one lock, so the numbers are the order of the effects, threads
 * included. Not counted: writes to mapped memory (the -shm file of SQLite, which a new process builds again), file locks,
 * and calls that fail without an effect because of their arguments are counted like those that succeed.
 *
 * Environment:
 *   FAULT_ROOT   absolute path without symbolic links
 *   FAULT_LOG    file outside FAULT_ROOT that gets a line "number name path" for each call, before it is made
 *   FAULT_MODE   actions, separated by commas:
 *                kill-before:N kill-after:N     SIGKILL to the own process
 *                stop-before:N stop-after:N     SIGSTOP to the own process, then on
 *                error:N:ERRNO                  call N is not made and fails with this number
 *                error-after:N:ERRNO            call N is made and, if it succeeds, reported as failed (a lost reply)
 *                errors-from:N:ERRNO            call N and all later ones are not made and fail
 *   FAULT_WITHOUT  what the file system lacks: "exchange" and "noreplace" (of renameat2); such calls fail with EINVAL, uncounted
 *
 * It acts in the process that called `fault_arm` (the constructor does if FAULT_MODE is set) and in no other: a forked child passes
 * through, and LD_PRELOAD is taken out of the environment so that a started program is not even loaded with it.
 *
 * A close that "fails" is made all the same, as Linux does it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SIZE (2 * PATH_MAX)
#define FICLONE_REQUEST 0x40049409UL
#define FICLONERANGE_REQUEST 0x4020940dUL

enum kind { KILL_BEFORE, KILL_AFTER, STOP_BEFORE, STOP_AFTER, ERROR, ERROR_AFTER, ERRORS_FROM };

struct action {
    enum kind kind;
    long number;
    int error;
};

static struct action actions[16];
static int action_count;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static long counter;
static int no_exchange, no_noreplace;
static pid_t armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

static void add(const char *text) {
    static const char *const names[] = {"kill-before", "kill-after", "stop-before", "stop-after",
                                        "error", "error-after", "errors-from"};
    char name[32];
    long number = 0;
    int error = 0;
    if (sscanf(text, "%31[^:]:%ld:%d", name, &number, &error) < 2) return;
    for (int kind = 0; kind < 7; kind++)
        if (!strcmp(name, names[kind]) && action_count < 16)
            actions[action_count++] = (struct action){kind, number, error};
}

/* Begin to count, from 1, as the environment says. */
void fault_arm(void) {
    const char *folder = getenv("FAULT_ROOT"), *mode = getenv("FAULT_MODE"), *log = getenv("FAULT_LOG");
    char text[512];
    if (!folder || !*folder) return;
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    action_count = 0;
    snprintf(text, sizeof text, "%s", mode ? mode : "");
    for (char *rest = text, *word; (word = strsep(&rest, ","));) add(word);
    if (log && *log) log_fd = real_openat(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const char *without = getenv("FAULT_WITHOUT");
    no_exchange = without && strstr(without, "exchange");
    no_noreplace = without && strstr(without, "noreplace");
    counter = 0;
    armed = getpid();
}

/* Number of calls counted so far. */
long fault_count(void) { return counter; }

__attribute__((constructor)) static void begin(void) {
    real_write = next("write");
    real_openat = next("openat");
    real_close = next("close");
    unsetenv("LD_PRELOAD");
    if (getenv("FAULT_MODE")) fault_arm();
}

/* --- which calls are counted ------------------------------------------------------------------------------------- */

static int inside(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || path[root_length] == 0);
}

/* The path of a descriptor; 0 if it has none. */
static int path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    if (length <= 0) return 0;
    out[length] = 0;
    return 1;
}

static int watched_fd(int fd, char *out) {
    int saved = errno;
    int found = armed && getpid() == armed && fd != log_fd && path_of(fd, out) && inside(out);
    errno = saved;
    return found;
}

static int watched_at(int at, const char *path, char *out) {
    if (!armed || getpid() != armed) return 0;
    int saved = errno, found = 0;
    if (!path || !*path) {
        found = path_of(at, out);
    } else if (*path == '/') {
        snprintf(out, SIZE, "%s", path);
        found = 1;
    } else if (at == AT_FDCWD ? getcwd(out, PATH_MAX) != NULL : path_of(at, out)) {
        size_t length = strlen(out);
        snprintf(out + length, SIZE - length, "/%s", path);
        found = 1;
    }
    errno = saved;
    return found && inside(out);
}

static int watched_pair(int at, const char *path, int other_at, const char *other, char *out) {
    char second[SIZE];
    int one = watched_at(at, path, out), two = watched_at(other_at, other, second);
    if (!one && !two) return 0;
    if (!one) snprintf(out, SIZE, "%s", path);
    size_t length = strlen(out);
    snprintf(out + length, SIZE - length, " -> %s", two ? second : other);
    return 1;
}

/* Whether an open creates or truncates. */
static int watched_open(int at, const char *path, int flags, char *out) {
    if (!(flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE) return 0;
    if (!watched_at(at, path, out)) return 0;
    if (flags & O_TRUNC || (flags & O_TMPFILE) == O_TMPFILE) return 1;
    int saved = errno;
    struct stat status;
    int missing = fstatat(at, path, &status, AT_SYMLINK_NOFOLLOW) != 0;
    errno = saved;
    return missing;
}

static int watched_close(int fd, char *out) {
    if (!armed || getpid() != armed) return 0;
    int saved = errno, flags = fcntl(fd, F_GETFL);
    errno = saved;
    return flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != O_RDONLY && watched_fd(fd, out);
}

/* --- what happens at them ---------------------------------------------------------------------------------------- */

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void act(long number, enum kind killing, enum kind stopping) {
    for (int n = 0; n < action_count; n++) {
        if (actions[n].number != number) continue;
        if (actions[n].kind == killing) die();
        if (actions[n].kind == stopping) raise(SIGSTOP);
    }
}

/* Take a number; returns the error with which the call must fail, or 0. The lock is held from here to `leave`. */
static int enter(const char *name, const char *path, long *number) {
    int saved = errno, error = 0;
    pthread_mutex_lock(&lock);
    *number = ++counter;
    if (log_fd >= 0) {
        char line[SIZE + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", *number, name, path);
        if (real_write(log_fd, line, length) != length) die();
    }
    act(*number, KILL_BEFORE, STOP_BEFORE);
    for (int n = 0; n < action_count; n++)
        if ((actions[n].kind == ERROR && actions[n].number == *number) ||
            (actions[n].kind == ERRORS_FROM && actions[n].number <= *number))
            error = actions[n].error;
    errno = saved;
    return error;
}

/* After the call; returns the error that is to be reported instead of its result, or 0. */
static int leave(long number) {
    int saved = errno, error = 0;
    act(number, KILL_AFTER, STOP_AFTER);
    for (int n = 0; n < action_count; n++)
        if (actions[n].kind == ERROR_AFTER && actions[n].number == number) error = actions[n].error;
    pthread_mutex_unlock(&lock);
    errno = saved;
    return error;
}

/* Whether the file system lacks what a renameat2 wants. */
static int lacks(unsigned flags) { return (no_exchange && flags & 2) || (no_noreplace && flags & 1); }

/* One wrapped call: `watched` fills `path` and says whether it counts. */
#define WRAP(type, name, parameters, arguments, watched)                                                                  \
    type name parameters {                                                                                                \
        static type(*real) parameters;                                                                                    \
        char path[SIZE];                                                                                                  \
        long number;                                                                                                      \
        if (!real) real = next(#name);                                                                                    \
        if (!(watched)) return real arguments;                                                                            \
        int error = enter(#name, path, &number);                                                                          \
        type result = error ? (type)-1 : real arguments;                                                                  \
        if (error) errno = error;                                                                                         \
        if ((error = leave(number)) && result != (type)-1) errno = error, result = (type)-1;                              \
        return result;                                                                                                    \
    }

WRAP(ssize_t, write, (int fd, const void *bytes, size_t count), (fd, bytes, count), watched_fd(fd, path))
WRAP(ssize_t, pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at), watched_fd(fd, path))
WRAP(ssize_t, pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at), watched_fd(fd, path))
WRAP(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), watched_fd(fd, path))
WRAP(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), watched_fd(fd, path))
WRAP(ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at),
     watched_fd(fd, path))
WRAP(int, rename, (const char *old, const char *new), (old, new), watched_pair(AT_FDCWD, old, AT_FDCWD, new, path))
WRAP(int, renameat, (int old_at, const char *old, int new_at, const char *new), (old_at, old, new_at, new),
     watched_pair(old_at, old, new_at, new, path))
WRAP(int, link, (const char *old, const char *new), (old, new), watched_at(AT_FDCWD, new, path))
WRAP(int, linkat, (int old_at, const char *old, int new_at, const char *new, int flags), (old_at, old, new_at, new, flags),
     watched_at(new_at, new, path))
WRAP(int, symlink, (const char *target, const char *name), (target, name), watched_at(AT_FDCWD, name, path))
WRAP(int, symlinkat, (const char *target, int at, const char *name), (target, at, name), watched_at(at, name, path))
WRAP(int, unlink, (const char *name), (name), watched_at(AT_FDCWD, name, path))
WRAP(int, unlinkat, (int at, const char *name, int flags), (at, name, flags), watched_at(at, name, path))
WRAP(int, mkdir, (const char *name, mode_t mode), (name, mode), watched_at(AT_FDCWD, name, path))
WRAP(int, mkdirat, (int at, const char *name, mode_t mode), (at, name, mode), watched_at(at, name, path))
WRAP(int, rmdir, (const char *name), (name), watched_at(AT_FDCWD, name, path))
WRAP(int, fsync, (int fd), (fd), watched_fd(fd, path))
WRAP(int, fdatasync, (int fd), (fd), watched_fd(fd, path))
WRAP(int, syncfs, (int fd), (fd), watched_fd(fd, path))
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), watched_fd(fd, path))
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), watched_fd(fd, path))
WRAP(int, truncate, (const char *name, off_t size), (name, size), watched_at(AT_FDCWD, name, path))
WRAP(int, truncate64, (const char *name, off64_t size), (name, size), watched_at(AT_FDCWD, name, path))
WRAP(int, fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), watched_fd(fd, path))
WRAP(int, fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size), watched_fd(fd, path))
WRAP(int, chmod, (const char *name, mode_t mode), (name, mode), watched_at(AT_FDCWD, name, path))
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode), watched_fd(fd, path))
WRAP(int, fchmodat, (int at, const char *name, mode_t mode, int flags), (at, name, mode, flags), watched_at(at, name, path))
WRAP(int, chown, (const char *name, uid_t user, gid_t group), (name, user, group), watched_at(AT_FDCWD, name, path))
WRAP(int, lchown, (const char *name, uid_t user, gid_t group), (name, user, group), watched_at(AT_FDCWD, name, path))
WRAP(int, fchown, (int fd, uid_t user, gid_t group), (fd, user, group), watched_fd(fd, path))
WRAP(int, fchownat, (int at, const char *name, uid_t user, gid_t group, int flags), (at, name, user, group, flags),
     watched_at(at, name, path))
WRAP(int, utimes, (const char *name, const struct timeval times[2]), (name, times), watched_at(AT_FDCWD, name, path))
WRAP(int, futimens, (int fd, const struct timespec times[2]), (fd, times), watched_fd(fd, path))
WRAP(int, utimensat, (int at, const char *name, const struct timespec times[2], int flags), (at, name, times, flags),
     watched_at(at, name, path))
WRAP(int, setxattr, (const char *name, const char *key, const void *value, size_t size, int flags),
     (name, key, value, size, flags), watched_at(AT_FDCWD, name, path))
WRAP(int, lsetxattr, (const char *name, const char *key, const void *value, size_t size, int flags),
     (name, key, value, size, flags), watched_at(AT_FDCWD, name, path))
WRAP(int, fsetxattr, (int fd, const char *key, const void *value, size_t size, int flags), (fd, key, value, size, flags),
     watched_fd(fd, path))
WRAP(ssize_t, copy_file_range, (int from, off64_t *from_at, int to, off64_t *to_at, size_t count, unsigned flags),
     (from, from_at, to, to_at, count, flags), watched_fd(to, path))
WRAP(ssize_t, sendfile, (int to, int from, off_t *at, size_t count), (to, from, at, count), watched_fd(to, path))
WRAP(ssize_t, sendfile64, (int to, int from, off64_t *at, size_t count), (to, from, at, count), watched_fd(to, path))

int renameat2(int old_at, const char *old, int new_at, const char *new, unsigned flags) {
    static int (*real)(int, const char *, int, const char *, unsigned);
    char path[SIZE];
    long number;
    if (!real) real = next("renameat2");
    if (!watched_pair(old_at, old, new_at, new, path)) return real(old_at, old, new_at, new, flags);
    if (lacks(flags)) {
        errno = EINVAL;
        return -1;
    }
    int error = enter("renameat2", path, &number);
    int result = error ? -1 : real(old_at, old, new_at, new, flags);
    if (error) errno = error;
    if ((error = leave(number)) && result != -1) errno = error, result = -1;
    return result;
}

/* Returns its error instead of setting errno. */
#define WRAP_FALLOCATE(name, offset)                                                                                      \
    int name(int fd, offset at, offset size) {                                                                            \
        static int (*real)(int, offset, offset);                                                                          \
        char path[SIZE];                                                                                                  \
        long number;                                                                                                      \
        if (!real) real = next(#name);                                                                                    \
        if (!watched_fd(fd, path)) return real(fd, at, size);                                                             \
        int error = enter(#name, path, &number);                                                                          \
        if (!error) error = real(fd, at, size);                                                                           \
        int lost = leave(number);                                                                                         \
        return error ? error : lost;                                                                                      \
    }

WRAP_FALLOCATE(posix_fallocate, off_t)
WRAP_FALLOCATE(posix_fallocate64, off64_t)

/* Opens take a mode only where they may create; a lost reply loses the descriptor too. */
#define OPEN_BODY(shown, at, name, flags, call)                                                                           \
    char path[SIZE];                                                                                                      \
    long number;                                                                                                          \
    if (!watched_open(at, name, flags, path)) return call;                                                                \
    int error = enter(shown, path, &number);                                                                              \
    int result = error ? -1 : call;                                                                                       \
    if (error) errno = error;                                                                                             \
    if ((error = leave(number)) && result >= 0) {                                                                         \
        real_close(result);                                                                                               \
        errno = error, result = -1;                                                                                       \
    }                                                                                                                     \
    return result;

static mode_t mode_of(int flags, va_list rest) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define WRAP_OPEN(called)                                                                                                 \
    int called(const char *name, int flags, ...) {                                                                        \
        static int (*real)(const char *, int, ...);                                                                       \
        va_list rest;                                                                                                     \
        va_start(rest, flags);                                                                                            \
        mode_t mode = mode_of(flags, rest);                                                                               \
        va_end(rest);                                                                                                     \
        if (!real) real = next(#called);                                                                                  \
        OPEN_BODY(#called, AT_FDCWD, name, flags, real(name, flags, mode))                                                \
    }

#define WRAP_OPENAT(called)                                                                                               \
    int called(int at, const char *name, int flags, ...) {                                                                \
        static int (*real)(int, const char *, int, ...);                                                                  \
        va_list rest;                                                                                                     \
        va_start(rest, flags);                                                                                            \
        mode_t mode = mode_of(flags, rest);                                                                               \
        va_end(rest);                                                                                                     \
        if (!real) real = next(#called);                                                                                  \
        OPEN_BODY(#called, at, name, flags, real(at, name, flags, mode))                                                  \
    }

#define WRAP_CREAT(called)                                                                                                \
    int called(const char *name, mode_t mode) {                                                                           \
        static int (*real)(const char *, mode_t);                                                                         \
        if (!real) real = next(#called);                                                                                  \
        OPEN_BODY(#called, AT_FDCWD, name, O_CREAT | O_TRUNC, real(name, mode))                                           \
    }

WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)
WRAP_CREAT(creat)
WRAP_CREAT(creat64)

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    char path[SIZE];
    long number;
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (!real) real = next("ioctl");
    if ((request != FICLONE_REQUEST && request != FICLONERANGE_REQUEST) || !watched_fd(fd, path))
        return real(fd, request, argument);
    int error = enter("ioctl", path, &number);
    int result = error ? -1 : real(fd, request, argument);
    if (error) errno = error;
    if ((error = leave(number)) && result != -1) errno = error, result = -1;
    return result;
}

int close(int fd) {
    char path[SIZE];
    long number;
    if (!watched_close(fd, path)) return real_close(fd);
    int error = enter("close", path, &number);
    int result = real_close(fd);
    int lost = leave(number);
    if (error || lost) errno = error ? error : lost, result = -1;
    return result;
}
