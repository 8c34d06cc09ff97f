/*
 * A faulty disk for one process: an LD_PRELOAD library that makes file calls fail or wait while the process runs.
 *
 *     cc -shared -fPIC -O1 -o disk.so e2e/faults/disk.c -ldl
 *     LD_PRELOAD=disk.so DISK_FAULTS_FOLDER=/data DISK_FAULTS_CONTROL=/tmp/faults slop-studios serve
 *
 * Environment
 *   DISK_FAULTS_FOLDER   Only files below this folder are concerned (an absolute path without symbolic links).
 *   DISK_FAULTS_CONTROL  The rules, read again at each call. No such file, or an empty one: a disk without faults.
 *                        Replace it by rename(), so that no call reads half of it. Not below DISK_FAULTS_FOLDER.
 *   DISK_FAULTS_LOG      Optional. Each fault appends a line here: "<call> <file name> <action> <argument>".
 *
 * Rules: one a line, the first that fits applies; at most RULES of them. Lines that begin with # are comments.
 *
 *     <calls> <files> fail <errno>         the call fails: EIO, ENOSPC, EDQUOT, EROFS, EACCES or a number
 *     <calls> <files> fail-after <errno>   the call is carried out, and reported as failed nevertheless
 *     <calls> <files> wait <milliseconds>  the call is carried out after this time, or once the rule is gone
 *     <calls> <files> hang                 the call is carried out once the rule is gone
 *     <calls> <files> room <bytes>         writes beyond this offset fail with ENOSPC, also in part: a full disk
 *
 *   <calls>  names with commas between, or *:
 *              sync      fsync, fdatasync
 *              write     write, writev, pwrite, pwritev, and their 64-bit forms
 *              truncate  ftruncate
 *              allocate  fallocate, posix_fallocate
 *              read      read, pread
 *              open      open, openat
 *              unlink    unlink
 *   <files>  the end of the file's path ("store.db-wal", "-wal", "/store.db"), or *.
 *
 * Examples: a full disk `write * fail ENOSPC`, a stuck one `sync,write * hang`, one whose fsync lies in the page cache
 * `sync -wal fail EIO`, a slow one `sync * wait 20000`.
 *
 * What it can't reach: system calls without libc (rustix's Linux backend), io_uring, memory maps, static binaries.
 */
#define _GNU_SOURCE
/* The plain names are wanted as symbols, beside those with 64. */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { RULES = 32, PATH_BYTES = 4096, CONTROL_BYTES = 8192, WAIT_STEP_MS = 10 };

struct rule {
    char calls[64], files[256], action[16], argument[16];
};

static const struct { const char *name; int number; } errors[] = {
    {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS}, {"EACCES", EACCES},
};

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) abort();
    return symbol;
}

/* The control file is read by system calls of its own, so that nothing here meets the rules. */
static int read_rules(struct rule *rules) {
    const char *control = getenv("DISK_FAULTS_CONTROL");
    if (!control) return 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return 0;
    char text[CONTROL_BYTES];
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0) return 0;
    text[length] = 0;
    int count = 0;
    char *rest = text;
    for (char *line; count < RULES && (line = strsep(&rest, "\n"));) {
        struct rule *rule = &rules[count];
        memset(rule, 0, sizeof *rule);
        if (*line == '#') continue;
        if (sscanf(line, "%63s %255s %15s %15s", rule->calls, rule->files, rule->action, rule->argument) >= 3) count++;
    }
    return count;
}

static int has_name(const char *list, const char *name) {
    size_t length = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += length) {
        if ((at == list || at[-1] == ',') && (at[length] == 0 || at[length] == ',')) return 1;
    }
    return strcmp(list, "*") == 0;
}

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), wanted = strlen(end);
    return strcmp(end, "*") == 0 || (length >= wanted && strcmp(path + length - wanted, end) == 0);
}

/* The first rule for a call on this path; 0 without one. */
static int find_rule(const char *call, const char *path, struct rule *found) {
    struct rule rules[RULES];
    int count = read_rules(rules);
    for (int i = 0; i < count; i++) {
        if (has_name(rules[i].calls, call) && ends_with(path, rules[i].files)) {
            *found = rules[i];
            return 1;
        }
    }
    return 0;
}

static int is_below_folder(const char *path) {
    const char *folder = getenv("DISK_FAULTS_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    return length > 0 && strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The path of a regular file or folder below the folder; 0 for anything else. */
static int path_of(int fd, char *path) {
    struct stat status;
    char link[32];
    if (fstat(fd, &status) != 0 || !(S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_BYTES - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    char *deleted = strstr(path, " (deleted)");
    if (deleted) *deleted = 0;
    return is_below_folder(path);
}

static int error_number(const char *name) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        if (strcmp(errors[i].name, name) == 0) return errors[i].number;
    }
    int number = atoi(name);
    return number > 0 ? number : EIO;
}

static void note(const char *call, const char *path, const struct rule *rule) {
    const char *log = getenv("DISK_FAULTS_LOG");
    if (!log) return;
    const char *name = strrchr(path, '/');
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s %s %s\n", call, name ? name + 1 : path, rule->action, rule->argument);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || length < 0) return;
    syscall(SYS_write, fd, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
    syscall(SYS_close, fd);
}

enum { NO_WRITE = -1, AT_POSITION = -2 };
enum verdict { CARRY_OUT, FAIL, FAIL_AFTER };

/* Waits if a rule says so, and tells what is to become of the call. `end` is the offset after a write, else NO_WRITE. */
static enum verdict judge(const char *call, const char *path, long long end, int *error) {
    struct rule rule;
    int saved = errno;
    long long waited = 0;
    enum verdict verdict = CARRY_OUT;
    while (find_rule(call, path, &rule)) {
        int hangs = strcmp(rule.action, "hang") == 0, waits = strcmp(rule.action, "wait") == 0;
        if (hangs || waits) {
            if (waited == 0) note(call, path, &rule);
            if (waits && waited >= atoll(rule.argument)) break;
            struct timespec step = {0, WAIT_STEP_MS * 1000000L};
            nanosleep(&step, NULL);
            waited += WAIT_STEP_MS;
            continue;
        }
        if (strcmp(rule.action, "room") == 0) {
            if (end < 0 || end <= atoll(rule.argument)) break;
            *error = ENOSPC;
            verdict = FAIL;
        } else if (strcmp(rule.action, "fail") == 0 || strcmp(rule.action, "fail-after") == 0) {
            *error = error_number(rule.argument);
            verdict = rule.action[4] == 0 ? FAIL : FAIL_AFTER;
        } else {
            break;
        }
        note(call, path, &rule);
        break;
    }
    errno = saved;
    return verdict;
}

/* `at` is the offset of a write of so many bytes, or one of the two above. */
static enum verdict judge_fd(const char *call, int fd, long long at, size_t bytes, int *error) {
    char path[PATH_BYTES];
    int saved = errno, concerned = path_of(fd, path);
    if (concerned && at == AT_POSITION) at = lseek64(fd, 0, SEEK_CUR);
    errno = saved;
    return concerned ? judge(call, path, at < 0 ? NO_WRITE : at + (long long)bytes, error) : CARRY_OUT;
}

/* `errno` is set to the fault's number only after the call, if that is carried out. */
#define JUDGED(call, fd, at, bytes, invocation)                       \
    do {                                                              \
        int error = 0;                                                \
        enum verdict verdict = judge_fd(call, fd, at, bytes, &error); \
        if (verdict == CARRY_OUT) return invocation;                  \
        if (verdict == FAIL_AFTER) (void)invocation;                  \
        errno = error;                                                \
        return -1;                                                    \
    } while (0)

static size_t bytes_of(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

int fsync(int fd) { JUDGED("sync", fd, NO_WRITE, 0, REAL(fsync)(fd)); }
int fdatasync(int fd) { JUDGED("sync", fd, NO_WRITE, 0, REAL(fdatasync)(fd)); }
ssize_t write(int fd, const void *data, size_t count) {
    JUDGED("write", fd, AT_POSITION, count, REAL(write)(fd, data, count));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    JUDGED("write", fd, AT_POSITION, bytes_of(parts, count), REAL(writev)(fd, parts, count));
}
ssize_t pwrite(int fd, const void *data, size_t count, off_t at) {
    JUDGED("write", fd, at, count, REAL(pwrite)(fd, data, count, at));
}
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
    JUDGED("write", fd, at, count, REAL(pwrite64)(fd, data, count, at));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    JUDGED("write", fd, at, bytes_of(parts, count), REAL(pwritev)(fd, parts, count, at));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    JUDGED("write", fd, at, bytes_of(parts, count), REAL(pwritev64)(fd, parts, count, at));
}
int ftruncate(int fd, off_t length) { JUDGED("truncate", fd, NO_WRITE, 0, REAL(ftruncate)(fd, length)); }
int ftruncate64(int fd, off64_t length) { JUDGED("truncate", fd, NO_WRITE, 0, REAL(ftruncate64)(fd, length)); }
int fallocate(int fd, int mode, off_t at, off_t length) {
    JUDGED("allocate", fd, NO_WRITE, 0, REAL(fallocate)(fd, mode, at, length));
}
int fallocate64(int fd, int mode, off64_t at, off64_t length) {
    JUDGED("allocate", fd, NO_WRITE, 0, REAL(fallocate64)(fd, mode, at, length));
}
ssize_t read(int fd, void *data, size_t count) { JUDGED("read", fd, NO_WRITE, 0, REAL(read)(fd, data, count)); }
ssize_t pread(int fd, void *data, size_t count, off_t at) {
    JUDGED("read", fd, NO_WRITE, 0, REAL(pread)(fd, data, count, at));
}
ssize_t pread64(int fd, void *data, size_t count, off64_t at) {
    JUDGED("read", fd, NO_WRITE, 0, REAL(pread64)(fd, data, count, at));
}

/* These return the error's number instead of setting `errno`. */
int posix_fallocate(int fd, off_t at, off_t length) {
    int error = 0;
    enum verdict verdict = judge_fd("allocate", fd, NO_WRITE, 0, &error);
    return verdict == CARRY_OUT ? REAL(posix_fallocate)(fd, at, length) : error;
}
int posix_fallocate64(int fd, off64_t at, off64_t length) {
    int error = 0;
    enum verdict verdict = judge_fd("allocate", fd, NO_WRITE, 0, &error);
    return verdict == CARRY_OUT ? REAL(posix_fallocate64)(fd, at, length) : error;
}

/* Paths: those that are absolute, as the server's are if DATA_DIR is. */
#define JUDGED_PATH(call, path, invocation)                                                       \
    do {                                                                                          \
        int error = 0;                                                                            \
        enum verdict verdict = is_below_folder(path) ? judge(call, path, NO_WRITE, &error) : CARRY_OUT; \
        if (verdict == CARRY_OUT) return invocation;                                              \
        if (verdict == FAIL_AFTER) (void)invocation;                                              \
        errno = error;                                                                            \
        return -1;                                                                                \
    } while (0)

#define MODE(flags)                                     \
    mode_t mode = 0;                                    \
    if ((flags) & (O_CREAT | O_TMPFILE)) {              \
        va_list rest;                                   \
        va_start(rest, flags);                          \
        mode = va_arg(rest, mode_t);                    \
        va_end(rest);                                   \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    JUDGED_PATH("open", path, REAL(open)(path, flags, mode));
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    JUDGED_PATH("open", path, REAL(open64)(path, flags, mode));
}
int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    JUDGED_PATH("open", path, REAL(openat)(folder, path, flags, mode));
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags)
    JUDGED_PATH("open", path, REAL(openat64)(folder, path, flags, mode));
}
int unlink(const char *path) { JUDGED_PATH("unlink", path, REAL(unlink)(path)); }
