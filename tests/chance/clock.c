// A clock that runs CLOCK_RATE times as fast from the start of the process on, for who asks libc: between two lines of a test that are a
// millisecond apart a second ends so many times more often. Waits take what they took.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);
static double rate = 1;
static struct timespec begun[CLOCK_BOOTTIME + 1];

__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *text = getenv("CLOCK_RATE");
    if (text) rate = atof(text);
    for (clockid_t id = 0; id <= CLOCK_BOOTTIME; id++) real(id, &begun[id]);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real) begin();
    int result = real(id, now);
    // Those that count processor time stay as they are.
    int is_of_the_wall = id == CLOCK_REALTIME || id == CLOCK_MONOTONIC || (id >= CLOCK_REALTIME_COARSE && id <= CLOCK_BOOTTIME);
    if (result || !is_of_the_wall) return result;
    double passed = (now->tv_sec - begun[id].tv_sec) * 1e9 + (now->tv_nsec - begun[id].tv_nsec);
    long long ns = begun[id].tv_nsec + (long long)(passed * rate);
    now->tv_sec = begun[id].tv_sec + ns / 1000000000;
    now->tv_nsec = ns % 1000000000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
