/* SPDX-License-Identifier: Apache-2.0
 *
 * program.c -- see program.h.
 */
#include "program.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

atomic_int bench_stopped;

void program_refuse(const char *what, const char *text)
{
    fprintf(stderr, "bench: %s: %s\n", what, text);
    exit(EXIT_FAILED);
}

uint64_t program_number(const char *name, const char *text, uint64_t min, uint64_t max)
{
    char *end;
    uint64_t number;

    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno || end == text || *end || number < min || number > max)
        program_refuse(name, text);
    return number;
}

unsigned program_numbers(const char *name, char *list, uint64_t min, uint64_t max,
                         uint64_t *out_numbers)
{
    char *rest = NULL;
    char *text;
    unsigned count = 0;

    for (text = strtok_r(list, ",", &rest); text; text = strtok_r(NULL, ",", &rest)) {
        if (count == PROGRAM_NUMBER_MAX)
            program_refuse("too many", name);
        out_numbers[count++] = program_number(name, text, min, max);
    }
    return count;
}

size_t program_key_size(const char *text)
{
    if (!strcmp(text, "u64"))
        return 8;
    if (!strcmp(text, "16"))
        return 16;
    if (strcmp(text, "20"))
        program_refuse("--key", text);
    return 20;
}

static const struct peer *find_peer(const char *name)
{
    unsigned i;

    for (i = 0; i < bench_peer_count; i++) {
        if (!strcmp(bench_peers[i]->name, name))
            return bench_peers[i];
    }
    for (i = 0; i < bench_order_peer_count; i++) {
        if (!strcmp(bench_order_peers[i]->name, name))
            return bench_order_peers[i];
    }
    return NULL;
}

unsigned program_peers(char *list, const struct peer **out_peers)
{
    char *rest = NULL;
    char *name;
    unsigned count = 0;

    for (name = strtok_r(list, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
        if (count == BENCH_PEER_MAX)
            program_refuse("too many peers", name);
        out_peers[count] = find_peer(name);
        if (!out_peers[count++])
            program_refuse("this build has no such peer", name);
    }
    return count;
}

unsigned program_usual_peers(const struct peer **out_peers)
{
    static const char *const names[] = {"keepmap", "lmdb", "rocksdb", "tkrzw"};
    unsigned count = 0;
    unsigned i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        out_peers[count] = find_peer(names[i]);
        count += out_peers[count] != NULL;
    }
    return count;
}

static void stop_handler(int signal_number)
{
    (void)signal_number;
    /* relaxed: only ends loops */
    atomic_store_explicit(&bench_stopped, 1, memory_order_relaxed);
}

void program_catch_signals(void)
{
    signal(SIGINT, stop_handler);
    signal(SIGTERM, stop_handler);
}

void program_folder_begin(struct program_folder *folder)
{
    static char beside[PROGRAM_PATH_MAX + 16];
    ssize_t size;

    if (!folder->parent) {
        size = readlink("/proc/self/exe", beside, PROGRAM_PATH_MAX - 1);
        if (size < 0)
            program_refuse("/proc/self/exe", strerror(errno));
        beside[size] = 0;
        snprintf(strrchr(beside, '/') + 1, 16, "bench-data");
        folder->parent = beside;
    }
    folder->parent_was_made = access(folder->parent, F_OK) != 0;
    if (folder_make(folder->parent))
        exit(EXIT_FAILED);
}

void program_folder_make(struct program_folder *folder)
{
    if (snprintf(folder->path, sizeof(folder->path), "%s/run-%ld", folder->parent,
                 (long)getpid()) >= (int)sizeof(folder->path))
        program_refuse("--dir is too long", folder->parent);
    if (folder_make(folder->path))
        exit(EXIT_FAILED);
}

void program_folder_remove(const struct program_folder *folder)
{
    if (folder->path[0])
        folder_remove(folder->path);
    if (folder->parent_was_made && rmdir(folder->parent))
        perror(folder->parent);
}

void program_print_peer(const struct peer *peer)
{
    printf("# peer\t%s%s\t%s\t%s\n", peer->name, peer->is_baseline ? " (baseline)" : "",
           peer->version, peer->settings);
    if (peer->process_note)
        printf("# class process\t%s\t%s\n", peer->name, peer->process_note);
    if (peer->power_note)
        printf("# class power\t%s\t%s\n", peer->name, peer->power_note);
}
