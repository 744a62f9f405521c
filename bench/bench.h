/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h -- what the parts of the driver share.
 *
 *   bench.c      options, the order of rounds, output
 *   workload.c   one round of one workload on one store
 *   restart.c    load in a child, kill it, reopen: recovery time, memory, disk
 *   turnover.c   a program: a log that turns over
 *   reopen.c     a program: opening after a close, a kill, without image
 *   memory.c     a program: memory while compacting, imaging, backing up
 *   order.c      a program: maps with an order; order_work.c has the rounds
 *   snapshot.c   a program: snapshots beside writers
 *   sealed.c     a program: sealed tables; sealed.h has its parts
 *   program.c    what the programs have in common: options, the run's folder
 *   machine.c    the header of a report; clock calibration; waiting for background work
 *   folder.c     folders: free space, sizes, removal
 *   peers.c      the table of peers built in
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include "histogram.h"
#include "peer.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BENCH_PATH_MAX = 3072,
    BENCH_PEER_MAX = 16,
    BENCH_THREAD_MAX = 16,
    BENCH_SECTION_MAX = 4096
};

struct bench_config {
    uint64_t record_count;
    uint64_t power_record_count; /* in the stores of the power class */
    unsigned round_count;
    unsigned round_ms;
    unsigned warm_ms;       /* untimed run-up of each round */
    unsigned section_count; /* gets to a read section */
    size_t key_size;
    size_t value_size;
    uint64_t seed;
    double ticks_per_ns;
    unsigned compact_percent; /* of stores that compact by a ratio; 0: their default */
};

/* One store under test. */
struct target {
    const struct peer *peer;
    enum peer_class durability;
    void *handle; /* NULL while closed */
    char path[BENCH_PATH_MAX];
    uint64_t record_count; /* ids 0 to this are there */
    uint64_t next_version;
};

enum workload_kind {
    WORKLOAD_LOAD,
    WORKLOAD_OVERWRITE,
    WORKLOAD_CHURN,
    WORKLOAD_GET,
    WORKLOAD_ABSENT,
    WORKLOAD_MANY,
    WORKLOAD_GET_BESIDE_WRITER,
    WORKLOAD_RESTART
};

struct workload {
    const char *name;
    enum workload_kind kind;
    enum peer_class durability;
    unsigned thread_count;
    const char *text;
};

/* What one round came to. Figures that a workload does not have are 0. */
struct round_result {
    uint64_t op_count;
    uint64_t wrong_count;     /* answers that were wrong or missing */
    int failed;               /* the store returned an error */
    double ns_per_op;         /* time in calls, summed over threads, per operation */
    double ops_per_second;    /* of all threads together */
    double deferred_ns;       /* CPU time per operation that the store's threads used afterwards */
    double writer_per_second; /* WORKLOAD_GET_BESIDE_WRITER: rate of the writer */
    struct histogram latency; /* in ticks; empty where single operations are not timed */
};

extern const struct peer *const bench_peers[];
extern const unsigned bench_peer_count;
extern const struct peer *const bench_order_peers[]; /* of order.c: whoever can scan */
extern const unsigned bench_order_peer_count;
extern const struct workload bench_workloads[];
extern const unsigned bench_workload_count;

/* program.c: nonzero once the user wants to stop. */
extern atomic_int bench_stopped;

/* workload.c */
void workload_run(const struct bench_config *config, const struct workload *workload,
                  struct target *target, unsigned round_index, struct round_result *out_result);
/* Put ids first to first + count, untimed. */
int workload_fill(const struct bench_config *config, struct target *target, uint64_t first,
                  uint64_t count);
/* How many of count ids, random ones and the last, are missing or wrong. */
uint64_t workload_sample(const struct bench_config *config, struct target *target, uint64_t count);
/* Put, read, overwrite, delete on ids that are in no workload; PEER_OK if every answer is right. */
int workload_self_test(const struct bench_config *config, struct target *target);

/* restart.c */
struct restart_result {
    double open_ms;
    uint64_t anonymous_bytes; /* of the loading process, more than before open */
    uint64_t mapped_bytes;    /* likewise: resident pages of files */
    uint64_t disk_bytes;
    uint64_t sampled_count;
    uint64_t lost_count;
    struct peer_figures loaded;   /* as the store told before the kill */
    struct peer_figures reopened; /* and after reopening */
};
int restart_run(const struct bench_config *config, const char *program, const struct peer *peer,
                const char *path, struct restart_result *out_result);
/* The child's part; does not return unless it fails. */
int restart_child(const struct bench_config *config, const struct peer *peer, const char *path);

/* machine.c */
void machine_print_header(const char *folder);
/* Wait until this process has nearly stopped using the CPU; returns the CPU time used meanwhile. */
uint64_t machine_settle_ns(void);
uint64_t machine_available_bytes(void);
/* A line of /proc/self/status such as "RssAnon:", in bytes. */
uint64_t machine_status_bytes(const char *name);
/* What this process has caused to be sent to disks, or would have if it was not overwritten. */
uint64_t machine_written_bytes(void);

/* folder.c: paths are of folders; functions that return int return 0 or print why not. */
int folder_make(const char *path);
int folder_remove(const char *path);
/* Write back what the kernel holds of the whole file system. */
void folder_sync(const char *path);
uint64_t folder_free_bytes(const char *path);
uint64_t folder_disk_bytes(const char *path);
const char *folder_filesystem(const char *path);
/* The size of the largest file; 0 if the folder is not there. Does not look into folders. */
uint64_t folder_largest_file(const char *path);
/* Have the kernel forget what it holds of the files' contents, as far as it can. */
void folder_drop_cache(const char *path);

/* Open a target's store; prints why not. */
static inline int target_open(const struct bench_config *config, struct target *target)
{
    struct peer_options options = {
        .path = target->path,
        .durability = target->durability,
        .record_count = target->record_count,
        .key_size = config->key_size,
        .value_size = config->value_size,
        .compact_percent = config->compact_percent,
    };

    return target->peer->open(&options, &target->handle);
}

#endif /* BENCH_BENCH_H */
