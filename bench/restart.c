/* SPDX-License-Identifier: Apache-2.0
 *
 * restart.c -- a child loads a store and kills itself; the parent opens what is left.
 *
 * R1. The child is a fresh process: its memory is that of this one store.
 * R2. It is killed by SIGKILL after its last put returned, with the store open: whatever the
 *     parent then misses, the process class of that peer does not keep.
 * R3. The files are in the page cache at reopening: the time is the store's work, not the disk's.
 */
#include "bench.h"
#include "ticks.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RESTART_SAMPLE_COUNT = 20000 };

static uint64_t mapped_bytes(void)
{
    return machine_status_bytes("RssFile:") + machine_status_bytes("RssShmem:");
}

int restart_child(const struct bench_config *config, const struct peer *peer, const char *path)
{
    struct target target = {.peer = peer, .durability = PEER_CLASS_PROCESS};
    struct peer_figures figures = {0};
    uint64_t anonymous_before = machine_status_bytes("RssAnon:");
    uint64_t mapped_before = mapped_bytes();
    uint64_t anonymous;
    uint64_t mapped;

    snprintf(target.path, sizeof(target.path), "%s", path);
    target.record_count = config->record_count;
    if (target_open(config, &target) != PEER_OK)
        return 1;
    if (workload_fill(config, &target, 0, config->record_count) != PEER_OK)
        return 1;
    machine_settle_ns();
    anonymous = machine_status_bytes("RssAnon:");
    mapped = mapped_bytes();
    if (peer->figures)
        peer->figures(target.handle, &figures);
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
           anonymous > anonymous_before ? anonymous - anonymous_before : 0,
           mapped > mapped_before ? mapped - mapped_before : 0, figures.index_bytes);
    fflush(stdout);
    kill(getpid(), SIGKILL);
    return 1;
}

static void exec_child(const struct bench_config *config, const char *program,
                       const struct peer *peer, const char *path)
{
    char records[32];
    char seed[32];
    char key_size[8];
    char value_size[16];

    snprintf(records, sizeof(records), "%" PRIu64, config->record_count);
    snprintf(seed, sizeof(seed), "%" PRIu64, config->seed);
    if (config->key_size == 8)
        snprintf(key_size, sizeof(key_size), "u64");
    else
        snprintf(key_size, sizeof(key_size), "%u", (unsigned)config->key_size);
    snprintf(value_size, sizeof(value_size), "%zu", config->value_size);
    execl(program, program, "--restart-child", path, "--peers", peer->name, "--records", records,
          "--seed", seed, "--key", key_size, "--value-size", value_size, (char *)NULL);
    perror(program);
    _exit(127);
}

/* Run the child to its end and read its one line; PEER_OK if it ended by its own SIGKILL. */
static int run_child(const struct bench_config *config, const char *program,
                     const struct peer *peer, const char *path, struct restart_result *result)
{
    FILE *from_child;
    int ends[2];
    int status = 0;
    int field_count;
    pid_t pid;

    if (pipe(ends))
        return PEER_FAILED;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        exec_child(config, program, peer, path);
    }
    close(ends[1]);
    from_child = fdopen(ends[0], "r");
    if (pid < 0 || !from_child)
        return PEER_FAILED;
    field_count = fscanf(from_child, "%" SCNu64 " %" SCNu64 " %" SCNu64, &result->anonymous_bytes,
                         &result->mapped_bytes, &result->loaded.index_bytes);
    fclose(from_child);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (field_count != 3 || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        fprintf(stderr, "%s: the loading process failed\n", peer->name);
        return PEER_FAILED;
    }
    return PEER_OK;
}

int restart_run(const struct bench_config *config, const char *program, const struct peer *peer,
                const char *path, struct restart_result *out_result)
{
    struct target target = {.peer = peer, .durability = PEER_CLASS_PROCESS};
    uint64_t start;

    memset(out_result, 0, sizeof(*out_result));
    if (run_child(config, program, peer, path, out_result) != PEER_OK)
        return PEER_FAILED;
    out_result->disk_bytes = folder_disk_bytes(path);
    snprintf(target.path, sizeof(target.path), "%s", path);
    target.record_count = config->record_count;
    start = ticks_clock_ns();
    if (target_open(config, &target) != PEER_OK)
        return PEER_FAILED;
    out_result->open_ms = (double)(ticks_clock_ns() - start) / 1e6;
    if (peer->figures)
        peer->figures(target.handle, &out_result->reopened);
    out_result->sampled_count = RESTART_SAMPLE_COUNT;
    out_result->lost_count = workload_sample(config, &target, RESTART_SAMPLE_COUNT);
    peer->close(target.handle);
    return PEER_OK;
}
