/* The yardstick of exec mode: what one call costs without HTTP and without us.
 *
 *   spawn_limit IN_FLIGHT SECONDS BODY_BYTES COMMAND [ARGUMENT...]
 *
 * Keeps IN_FLIGHT processes of COMMAND going: posix_spawn into a process group of its own with pipes as
 * stdin, stdout and stderr, write the body, read both to their end, wait through a pidfd. Prints one JSON
 * line: calls, seconds, and the 50th and 99th percentile in milliseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define MAX_IN_FLIGHT 256
#define MAX_CALLS 4000000

extern char **environ;

struct call {
    int fds[3]; /* stdout, stderr, pidfd; -1 when it is done with */
    size_t out_bytes;
    double begun;
};

static char *body;
static size_t body_bytes;
static char **command;
static double *taken_ms;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void begin(struct call *call) {
    int in[2], out[2], err[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;

    call->begun = now_s();
    call->out_bytes = 0;
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) fail("pipe2");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    errno = posix_spawnp(&pid, command[0], &actions, &attributes, command, environ);
    if (errno) fail(command[0]);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(in[0]);
    close(out[1]);
    close(err[1]);
    if (write(in[1], body, body_bytes) != (ssize_t)body_bytes) fail("write");
    close(in[1]);
    call->fds[0] = out[0];
    call->fds[1] = err[0];
    call->fds[2] = (int)syscall(SYS_pidfd_open, pid, 0);
    if (call->fds[2] < 0) fail("pidfd_open");
}

/* One fd of a call is readable: read it, or collect the exit. */
static void turn_to(struct call *call, int which) {
    char buffer[65536];
    ssize_t got = 0;

    if (which == 2) {
        siginfo_t info;
        if (waitid(P_PIDFD, (id_t)call->fds[2], &info, WEXITED)) fail("waitid");
        if (info.si_status != 0) {
            fprintf(stderr, "%s ended with %d\n", command[0], info.si_status);
            exit(1);
        }
    } else {
        got = read(call->fds[which], buffer, sizeof buffer);
        if (got < 0) fail("read");
        if (which == 0) call->out_bytes += (size_t)got;
    }
    if (got == 0) {
        close(call->fds[which]);
        call->fds[which] = -1;
    }
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    static struct call calls[MAX_IN_FLIGHT];
    struct pollfd polled[MAX_IN_FLIGHT * 3];
    int in_flight, open_calls;
    long done = 0;
    double seconds, begun, ended;

    if (argc < 5) {
        fprintf(stderr, "usage: spawn_limit IN_FLIGHT SECONDS BODY_BYTES COMMAND [ARGUMENT...]\n");
        return 2;
    }
    in_flight = atoi(argv[1]);
    seconds = atof(argv[2]);
    body_bytes = (size_t)atol(argv[3]);
    command = argv + 4;
    if (in_flight < 1 || in_flight > MAX_IN_FLIGHT || body_bytes > 60000) return 2;
    body = malloc(body_bytes + 1);
    taken_ms = malloc(sizeof(double) * MAX_CALLS);
    if (!body || !taken_ms) fail("malloc");
    memset(body, 'x', body_bytes);

    begun = ended = now_s();
    for (int i = 0; i < in_flight; i++) begin(&calls[i]);
    open_calls = in_flight;
    while (open_calls > 0) {
        int count = in_flight * 3;
        for (int i = 0; i < count; i++) {
            polled[i].fd = calls[i / 3].fds[i % 3]; /* poll skips negative ones */
            polled[i].events = POLLIN;
            polled[i].revents = 0;
        }
        if (poll(polled, (nfds_t)count, -1) < 0 && errno != EINTR) fail("poll");
        for (int i = 0; i < in_flight; i++) {
            struct call *call = &calls[i];
            int touched = 0;
            for (int which = 0; which < 3; which++)
                if (polled[i * 3 + which].revents) {
                    turn_to(call, which);
                    touched = 1;
                }
            if (!touched || call->fds[0] >= 0 || call->fds[1] >= 0 || call->fds[2] >= 0) continue;
            ended = now_s();
            if (done < MAX_CALLS) taken_ms[done] = (ended - call->begun) * 1e3;
            done++;
            if (ended - begun < seconds)
                begin(call);
            else
                open_calls--;
        }
    }
    if (done > MAX_CALLS) done = MAX_CALLS;
    qsort(taken_ms, (size_t)done, sizeof(double), ascending);
    printf("{\"calls\": %ld, \"seconds\": %.6f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n", done, ended - begun,
           taken_ms[done / 2], taken_ms[(long)((double)done * 0.99)]);
    return 0;
}
