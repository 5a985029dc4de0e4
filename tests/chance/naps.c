// Sleeps up to NAP_US microseconds wherever something is half done: behind bind, around listen, before accept, when a thread begins, around
// renaming, removing and opening files; and an eighth of that around sends, receives and turns of a ring. Whoever takes a name, a port or a
// file for the whole thing is found.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static void nap(int part) {
    static long longest_us = -1;
    static __thread uint64_t state;
    const char *text = getenv("NAP_US");
    if (longest_us < 0) longest_us = text ? atol(text) : 0;
    if (!longest_us) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!state) state = ((uint64_t)now.tv_nsec * 2654435761u ^ (uint64_t)gettid() << 20) | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    uint64_t us = state % (uint64_t)longest_us / part;
    struct timespec wait = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&wait, 0);
}

int bind(int s, const struct sockaddr *a, socklen_t n) { REAL(bind); int r = real(s, a, n); nap(1); return r; }
int listen(int s, int n) { REAL(listen); nap(1); int r = real(s, n); nap(1); return r; }
int accept(int s, struct sockaddr *a, socklen_t *n) { REAL(accept); nap(1); return real(s, a, n); }
int accept4(int s, struct sockaddr *a, socklen_t *n, int f) { REAL(accept4); nap(1); return real(s, a, n, f); }
int connect(int s, const struct sockaddr *a, socklen_t n) { REAL(connect); int r = real(s, a, n); nap(4); return r; }
ssize_t send(int s, const void *b, size_t n, int f) { REAL(send); nap(8); return real(s, b, n, f); }
ssize_t recv(int s, void *b, size_t n, int f) { REAL(recv); ssize_t r = real(s, b, n, f); nap(8); return r; }
int rename(const char *a, const char *b) { REAL(rename); nap(1); int r = real(a, b); nap(1); return r; }
int unlink(const char *a) { REAL(unlink); nap(1); int r = real(a); nap(1); return r; }

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define OPEN(name)                                   \
    int name(const char *path, int flags, ...) {     \
        REAL(name);                                  \
        va_list more;                                \
        va_start(more, flags);                       \
        int r = real(path, flags, mode_of(flags, more)); \
        va_end(more);                                \
        if ((flags & O_ACCMODE) != O_RDONLY) nap(1); \
        return r;                                    \
    }
OPEN(open)
OPEN(open64)

long syscall(long number, ...) {
    REAL(syscall);
    va_list more;
    va_start(more, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    int is_turn = number == SYS_io_uring_enter;
    if (is_turn) nap(8);
    long r = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (is_turn) nap(8);
    return r;
}

struct start { void *(*run)(void *); void *argument; };

static void *begin(void *p) {
    struct start start = *(struct start *)p;
    free(p);
    nap(1);
    return start.run(start.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    REAL(pthread_create);
    struct start *start = malloc(sizeof *start);
    *start = (struct start){run, argument};
    int r = real(thread, attributes, begin, start);
    nap(1);
    return r;
}
