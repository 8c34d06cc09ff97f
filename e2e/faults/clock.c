// A wall clock that a test can step: preloaded, it adds the offset in a file to what the system says.
//
//   cc -O2 -shared -fPIC -o clock.so clock.c -ldl
//   CLOCK_FILE=/tmp/offset LD_PRELOAD=./clock.so slop-studios serve
//
// The file has eight bytes, the offset in milliseconds as a signed number of the machine's byte order. It is mapped, so a
// write takes effect at once. The monotonic clock is left alone, as a step of the system's time leaves it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset;
static int (*system_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    system_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) offset = map;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!system_clock) begin();
    int result = system_clock(clock, now);
    if (result == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t nanos = now->tv_nsec + *offset % 1000 * 1000000;
        now->tv_sec += *offset / 1000;
        if (nanos < 0) nanos += 1000000000, now->tv_sec -= 1;
        if (nanos >= 1000000000) nanos -= 1000000000, now->tv_sec += 1;
        now->tv_nsec = nanos;
    }
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now) != 0) return (time_t)-1;
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
