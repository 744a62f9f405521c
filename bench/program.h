/* SPDX-License-Identifier: Apache-2.0
 *
 * program.h -- what the programs of bench/ have in common beside the stores: options, the folder of
 * a run, being stopped.
 */
#ifndef BENCH_PROGRAM_H
#define BENCH_PROGRAM_H

#include "bench.h"

enum { EXIT_WRONG = 1, EXIT_FAILED = 2, PROGRAM_PATH_MAX = 4096, PROGRAM_NUMBER_MAX = 16 };

/* Prints what is wrong with what the user asked for, and ends the program. */
_Noreturn void program_refuse(const char *what, const char *text);
uint64_t program_number(const char *name, const char *text, uint64_t min, uint64_t max);
/* Numbers separated by commas; returns how many, at most PROGRAM_NUMBER_MAX. */
unsigned program_numbers(const char *name, char *list, uint64_t min, uint64_t max,
                         uint64_t *out_numbers);
size_t program_key_size(const char *text);
/* Names of peers separated by commas; returns how many, at most BENCH_PEER_MAX. */
unsigned program_peers(char *list, const struct peer **out_peers);
/* Keepmap, LMDB, RocksDB, Tkrzw, as far as this build has them; returns how many. */
unsigned program_usual_peers(const struct peer **out_peers);

/* SIGINT and SIGTERM set bench_stopped. */
void program_catch_signals(void);

static inline int program_is_stopped(void)
{
    /* relaxed: only ends loops */
    return atomic_load_explicit(&bench_stopped, memory_order_relaxed);
}

/* The folder that a run puts its data into: PARENT/run-PID. */
struct program_folder {
    const char *parent; /* set by the user; NULL: bench-data beside the program */
    int parent_was_made;
    char path[BENCH_PATH_MAX / 2];
};

/* Make the parent, then, once there is known to be room, the folder; end the program if it fails.
 */
void program_folder_begin(struct program_folder *folder);
void program_folder_make(struct program_folder *folder);
void program_folder_remove(const struct program_folder *folder);

void program_print_peer(const struct peer *peer);

#endif /* BENCH_PROGRAM_H */
