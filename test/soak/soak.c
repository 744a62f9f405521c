/* SPDX-License-Identifier: Apache-2.0
 *
 * soak.c -- everything at once for a long time: a worker process writes, reads, walks, watches,
 * backs up, compacts and scrubs one store, is killed about every minute and started anew, and each
 * time finds all that was acknowledged. Beside it a follower opens the store for reading now and
 * then.
 *
 *   soak [SECONDS]      default 3600; the folder lies below TMPDIR or /tmp
 *
 * P1. A worker dies of the parent's SIGKILL, or at the end, asked to stop, with exit status 0.
 *     Whatever else happens to it, a failed check among it, is a failure.
 * P2. At the end km_verify() finds the store intact, and a last worker finds every key right.
 * P3. Memory is flat: the mean of RssAnon over the last quarter of the time is at most a tenth
 * above that over the second. Runs of less than five minutes only tell it.
 *
 * Prints a line a minute. Exit status: 0 all right, 1 a failure; then the store is kept.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "soak/soak.h"

#define SECOND_NS UINT64_C(1000000000)
#define FLAT_SECONDS_MIN 300u
#define FLAT_FACTOR 1.1

struct parent {
    struct soak soak;
    struct harness_random random;
    uint64_t end_ns, line_ns, next_line_ns, next_follower_ns;
    uint64_t kill_count, open_longest_ns;
    pid_t follower; /* 0: none */
    uint64_t last_counts[SOAK_COUNTS];
};

static uint64_t elapsed_ns(const struct parent *parent)
{
    return harness_now_ns() - parent->soak.start_ns;
}

/* ---- lines ------------------------------------------------------------------------------- */

static uint64_t count_of(const struct parent *parent, enum soak_count count)
{
    return atomic_load(&parent->soak.shared->counts[count]);
}

static void print_headings(void)
{
    printf("%6s %6s %11s %11s %7s %10s %6s %6s %7s %8s %7s %6s %8s %8s %8s %8s\n", "second",
           "kills", "turns", "gets", "walks", "changes", "missed", "maps", "backups", "compacts",
           "scrubs", "follow", "live MiB", "log MiB", "disk MiB", "anon MiB");
}

static void print_line(const struct parent *parent)
{
    const struct soak_shared *shared = parent->soak.shared;
    double mib = 1u << 20;

    printf("%6" PRIu64 " %6" PRIu64 " %11" PRIu64 " %11" PRIu64 " %7" PRIu64 " %10" PRIu64
           " %6" PRIu64 " %6" PRIu64,
           elapsed_ns(parent) / SECOND_NS, parent->kill_count, count_of(parent, SOAK_TURNS),
           count_of(parent, SOAK_GETS), count_of(parent, SOAK_WALKS),
           count_of(parent, SOAK_CHANGES_SEEN), count_of(parent, SOAK_WATCHES_TOO_OLD),
           count_of(parent, SOAK_MAPS));
    printf(" %7" PRIu64 " %8" PRIu64 " %7" PRIu64 " %6" PRIu64 " %8.1f %8.1f %8.1f %8.1f\n",
           count_of(parent, SOAK_BACKUPS), count_of(parent, SOAK_COMPACTIONS),
           count_of(parent, SOAK_SCRUBS), count_of(parent, SOAK_FOLLOWERS),
           (double)atomic_load(&shared->live_bytes) / mib,
           (double)atomic_load(&shared->log_bytes) / mib,
           (double)atomic_load(&shared->disk_bytes) / mib,
           (double)atomic_load(&shared->anonymous_bytes) / mib);
    fflush(stdout);
}

/* ---- children ---------------------------------------------------------------------------- */

static pid_t start_child(struct parent *parent, void (*body)(struct soak *))
{
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    body(&parent->soak);
    fflush(stdout);
    _exit(0);
}

/* A follower whose turn it is, or whose end has come; -1 if it failed. */
static int look_after_follower(struct parent *parent)
{
    int status;

    if (parent->follower && waitpid(parent->follower, &status, WNOHANG) == parent->follower) {
        parent->follower = 0;
        parent->next_follower_ns = harness_now_ns() + 5 * SECOND_NS;
        if (!WIFEXITED(status) || WEXITSTATUS(status)) {
            printf("the follower failed: status %x\n", (unsigned)status);
            return -1;
        }
    }
    if (!parent->follower && harness_now_ns() >= parent->next_follower_ns &&
        atomic_load(&parent->soak.shared->is_open))
        parent->follower = start_child(parent, soak_follow);
    return parent->follower < 0 ? -1 : 0;
}

/* Until `until_ns` or the worker's end; -1: something failed. */
static int wait_beside(struct parent *parent, pid_t worker, uint64_t until_ns)
{
    struct timespec pause = {0, 20000000};
    int status;

    while (harness_now_ns() < until_ns) {
        nanosleep(&pause, NULL);
        if (waitpid(worker, &status, WNOHANG) == worker) {
            printf("the worker ended by itself: status %x\n", (unsigned)status);
            return -1;
        }
        if (look_after_follower(parent))
            return -1;
        if (harness_now_ns() < parent->next_line_ns)
            continue;
        print_line(parent);
        parent->next_line_ns += parent->line_ns;
    }
    return 0;
}

static int end_worker(pid_t worker, int by_kill)
{
    int status = 0;

    if (by_kill)
        kill(worker, SIGKILL);
    while (waitpid(worker, &status, 0) < 0 && errno == EINTR) {
    }
    if (by_kill ? WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL
                : WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    printf("the worker ended with status %x\n", (unsigned)status);
    return -1;
}

/* Kills come from half to one and a half times the mean, sometimes while the store is opened. */
static uint64_t next_kill_ns(struct parent *parent, uint64_t mean_ns)
{
    if (harness_below(&parent->random, 8) == 0)
        return harness_now_ns() + harness_below(&parent->random, SECOND_NS / 2);
    return harness_now_ns() + mean_ns / 2 + harness_below(&parent->random, mean_ns);
}

static int run_cycles(struct parent *parent, uint64_t mean_ns)
{
    struct soak_shared *shared = parent->soak.shared;
    uint64_t until_ns;
    pid_t worker;
    int failed = 0, is_last;

    do {
        until_ns = next_kill_ns(parent, mean_ns);
        is_last = until_ns >= parent->end_ns;
        atomic_store(&shared->is_open, 0);
        worker = start_child(parent, soak_work);
        if (worker < 0 || wait_beside(parent, worker, is_last ? parent->end_ns : until_ns))
            return -1;
        atomic_store(&shared->should_stop, (uint32_t)is_last);
        failed = end_worker(worker, !is_last);
        parent->kill_count += !is_last;
    } while (!failed && !is_last);
    while (!failed && parent->follower && !look_after_follower(parent))
        parent->next_follower_ns = UINT64_MAX;
    return failed;
}

/* ---- the end ----------------------------------------------------------------------------- */

static void check_store(struct soak *soak)
{
    soak->store = harness_open(soak->path, NULL);
    soak_open_maps(soak->store, soak->maps);
    soak_check_all(soak);
    harness_close(soak->store);
}

static void print_finding(void *context, const km_error *finding)
{
    (void)context;
    printf("damage: %s\n", finding->message);
}

/* P2 */
static int judge_store(struct parent *parent)
{
    km_error error = {0};
    km_status rc = km_verify(parent->soak.path, print_finding, NULL, NULL, &error);

    if (rc)
        printf("verify: %s: %s\n", km_status_name(rc), error.message);
    if (rc || end_worker(start_child(parent, check_store), 0))
        return -1;
    printf("the store is intact, and every key is right\n");
    return 0;
}

static double mean_between(const struct parent *parent, uint64_t from_ns, uint64_t to_ns)
{
    const struct soak_shared *shared = parent->soak.shared;
    uint32_t count = atomic_load(&shared->sample_count), taken = 0;
    double sum = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (shared->sample_ns[i] < from_ns || shared->sample_ns[i] >= to_ns)
            continue;
        sum += (double)shared->sample_bytes[i];
        taken++;
    }
    return taken ? sum / taken : 0;
}

/* P3 */
static int judge_memory(struct parent *parent)
{
    uint64_t length_ns = parent->end_ns - parent->soak.start_ns;
    double second = mean_between(parent, length_ns / 4, length_ns / 2);
    double last = mean_between(parent, length_ns / 4 * 3, length_ns);

    printf("anonymous memory: %.1f MiB in the second quarter, %.1f in the last\n",
           second / (1u << 20), last / (1u << 20));
    if (length_ns < FLAT_SECONDS_MIN * SECOND_NS || last <= second * FLAT_FACTOR)
        return 0;
    printf("memory is not flat\n");
    return -1;
}

static int prepare(struct parent *parent, uint64_t seconds)
{
    struct soak *soak = &parent->soak;
    char folder[HARNESS_PATH_SIZE];

    soak->shared = mmap(NULL, sizeof(*soak->shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (soak->shared == MAP_FAILED)
        return -1;
    soak->seed = harness_seed();
    parent->random = harness_stream(1);
    harness_make_folder(folder);
    harness_path(soak->path, folder, "store");
    harness_path(soak->backup_paths[0], folder, "backup-0");
    harness_path(soak->backup_paths[1], folder, "backup-1");
    soak->start_ns = harness_now_ns();
    parent->end_ns = soak->start_ns + seconds * SECOND_NS;
    parent->line_ns = (seconds < 300 ? (seconds + 4) / 5 : 60) * SECOND_NS;
    parent->next_line_ns = soak->start_ns + parent->line_ns;
    return 0;
}

int main(int argc, char **argv)
{
    static struct parent parent;
    uint64_t seconds = argc > 1 ? strtoull(argv[1], NULL, 10) : 3600;
    uint64_t mean = seconds / 10 < 60 ? seconds / 10 + 1 : 60;

    if (argc > 2 || seconds < 1 || seconds > 1000000) {
        fprintf(stderr, "usage: soak [SECONDS]\n");
        return 2;
    }
    harness_begin();
    if (prepare(&parent, seconds)) {
        perror("soak");
        return 2;
    }
    print_headings();
    if (run_cycles(&parent, mean * SECOND_NS) || judge_store(&parent) || judge_memory(&parent)) {
        print_line(&parent);
        printf("FAILED; the store is kept: %s\n", parent.soak.path);
        setenv("KM_TEST_KEEP", "1", 1);
        return 1;
    }
    print_line(&parent);
    printf("passed\n");
    return 0;
}
