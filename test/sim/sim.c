/* SPDX-License-Identifier: Apache-2.0
 *
 * sim.c -- the simulated machine: life, clock, processes, descriptors, and its table of operations.
 */
#include "sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim_internal.h"

_Noreturn void km__sim_abort(const char *message)
{
    fprintf(stderr, "simulated machine: %s\n", message);
    abort();
}

void *km__sim_xalloc(size_t size)
{
    void *memory = calloc(1, size > 0 ? size : 1);

    if (!memory)
        km__sim_abort("out of real memory");
    return memory;
}

void *km__sim_xgrow(void *memory, size_t size)
{
    void *grown = realloc(memory, size > 0 ? size : 1);

    if (!grown)
        km__sim_abort("out of real memory");
    return grown;
}

uint64_t km__sim_next(struct sim_rng *rng)
{
    uint64_t x = rng->state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t km__sim_below(struct sim_rng *rng, uint64_t limit)
{
    return km__sim_next(rng) % limit; /* the bias is far below what a test could see */
}

void km__sim_fill_random(struct sim_rng *rng, void *bytes, size_t size)
{
    uint8_t *next = bytes;
    size_t i;

    for (i = 0; i < size; i++) {
        next[i] = (uint8_t)km__sim_next(rng);
    }
}

struct sim *km__sim_of(struct os *os)
{
    if (os->ops != &km__sim_ops)
        km__sim_abort("not a simulated machine");
    return (struct sim *)(void *)os;
}

void km__sim_lock(struct sim *sim)
{
    if (pthread_mutex_lock(&sim->mutex) != 0)
        km__sim_abort("cannot lock");
}

void km__sim_unlock(struct sim *sim)
{
    if (pthread_mutex_unlock(&sim->mutex) != 0)
        km__sim_abort("cannot unlock");
}

/* ---- clocks and processes ---- */

static uint64_t sim_now_ns(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    uint64_t now;

    km__sim_lock(sim);
    now = sim->now_ns += 1000;
    km__sim_unlock(sim);
    return now;
}

static uint64_t sim_wall_ms(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    uint64_t passed_ns;
    uint64_t wall;

    km__sim_lock(sim);
    sim->now_ns += 1000;
    passed_ns = sim->now_ns > sim->wall_base_ns ? sim->now_ns - sim->wall_base_ns : 0;
    wall = sim->wall_ms + passed_ns / 1000000;
    km__sim_unlock(sim);
    return wall;
}

void km__sim_set_time(struct os *os, uint64_t now_ns)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->now_ns = now_ns;
    km__sim_unlock(sim);
}

void km__sim_advance(struct os *os, uint64_t ns)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->now_ns += ns;
    km__sim_unlock(sim);
}

void km__sim_set_wall(struct os *os, uint64_t wall_ms)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->wall_ms = wall_ms;
    sim->wall_base_ns = sim->now_ns;
    km__sim_unlock(sim);
}

static void sim_boot_id(struct os *os, uint8_t id[OS_BOOT_ID_SIZE])
{
    memcpy(id, km__sim_of(os)->boot_id, OS_BOOT_ID_SIZE); /* constant while the machine runs */
}

static uint32_t sim_process_id(struct os *os)
{
    return km__sim_of(os)->process_id;
}

static size_t find_process(const struct sim *sim, uint32_t process_id)
{
    size_t i;

    for (i = 0; i < SIM_PROCESS_COUNT && sim->processes[i] != process_id; i++) {
    }
    return i;
}

static int sim_process_exists(struct os *os, uint32_t process_id)
{
    struct sim *sim = km__sim_of(os);
    int exists;

    km__sim_lock(sim);
    exists = process_id != 0 &&
             (process_id == sim->process_id || find_process(sim, process_id) < SIM_PROCESS_COUNT);
    km__sim_unlock(sim);
    return exists;
}

void km__sim_set_process_exists(struct os *os, uint32_t process_id, int exists)
{
    struct sim *sim = km__sim_of(os);
    size_t i;

    km__sim_lock(sim);
    i = find_process(sim, process_id);
    if (exists && i == SIM_PROCESS_COUNT) {
        i = find_process(sim, 0);
        if (i == SIM_PROCESS_COUNT)
            km__sim_abort("too many processes");
        sim->processes[i] = process_id;
    } else if (!exists && i < SIM_PROCESS_COUNT) {
        sim->processes[i] = 0;
    }
    km__sim_unlock(sim);
}

static uint32_t sim_processor_count(struct os *os)
{
    (void)os;
    return 2;
}

static km_status apply_random(struct sim *sim, struct sim_call *call)
{
    km__sim_fill_random(&sim->rng, call->buffer, (size_t)call->size);
    return KM_OK;
}

static km_status sim_random(struct os *os, void *bytes, size_t size)
{
    struct sim_call call = {.op = SIM_RANDOM, .apply = apply_random, .buffer = bytes, .size = size};

    return km__sim_call(km__sim_of(os), &call, NULL);
}

/* ---- fork words ---- */

static km_status apply_fork_word(struct sim *sim, struct sim_call *call)
{
    call->buffer = &sim->fork_word;
    sim->fork_word_user_count++;
    return KM_OK;
}

static km_status sim_fork_word(struct os *os, uint64_t **out_word)
{
    struct sim_call call = {.op = SIM_FORK_WORD, .apply = apply_fork_word};
    km_status rc = km__sim_call(km__sim_of(os), &call, NULL);

    if (rc == KM_OK)
        *out_word = call.buffer;
    return rc;
}

static void sim_release_fork_word(struct os *os, uint64_t *word)
{
    struct sim *sim = km__sim_of(os);

    if (!word)
        return;
    km__sim_lock(sim);
    if (word != &sim->fork_word || sim->fork_word_user_count == 0) {
        km__sim_abort("release of a fork word that was not given");
    }
    sim->fork_word_user_count--;
    km__sim_unlock(sim);
}

void km__sim_fork(struct os *os)
{
    km__sim_of(os)->fork_word = 0;
}

/* ---- descriptors: real ones, so that tests can poll them */

static km_status apply_notify_fd(struct sim *sim, struct sim_call *call)
{
    struct os *machine = km__os_linux();
    int fd = -1;
    km_status rc = machine->ops->open_notify_fd(machine, &fd);

    if (rc)
        return km__sim_fail(call, rc, machine->ops->last_error(machine));
    sim->notify_fds = km__sim_xgrow(sim->notify_fds,
                                    (sim->notify_fd_count + 1) * sizeof(*sim->notify_fds));
    sim->notify_fds[sim->notify_fd_count++] = fd;
    *(int *)call->buffer = fd;
    return KM_OK;
}

static km_status sim_open_notify_fd(struct os *os, int *out_fd)
{
    struct sim_call call = {.op = SIM_NOTIFY_FD, .apply = apply_notify_fd, .buffer = out_fd};

    return km__sim_call(km__sim_of(os), &call, NULL);
}

static void sim_notify_fd(struct os *os, int fd)
{
    (void)os;
    km__os_linux()->ops->notify_fd(km__os_linux(), fd);
}

static void sim_close_notify_fd(struct os *os, int fd)
{
    struct sim *sim = km__sim_of(os);
    size_t i;

    if (fd < 0)
        return;
    km__sim_lock(sim);
    for (i = 0; i < sim->notify_fd_count && sim->notify_fds[i] != fd; i++) {
    }
    if (i == sim->notify_fd_count)
        km__sim_abort("close of a descriptor that is not open");
    sim->notify_fds[i] = sim->notify_fds[--sim->notify_fd_count];
    km__os_linux()->ops->close_notify_fd(km__os_linux(), fd);
    km__sim_unlock(sim);
}

static void sim_clear_notify_fd(struct os *os, int fd)
{
    (void)os;
    km__os_linux()->ops->clear_notify_fd(km__os_linux(), fd);
}

/* ---- what this machine has not ---- */

static km_status sim_read_cached(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    (void)file;
    (void)offset;
    (void)buffer;
    (void)size;
    return KM_E_UNSUPPORTED;
}

static void sim_read_soon(struct os_file *file, uint64_t offset, uint64_t size)
{
    (void)file;
    (void)offset;
    (void)size;
}

static km_status sim_open_ring(struct os *os, uint32_t depth, int notify_fd,
                               struct os_ring **out_ring)
{
    (void)os;
    (void)depth;
    (void)notify_fd;
    (void)out_ring;
    return KM_E_UNSUPPORTED;
}

/* ---- the table and life ---- */

const struct os_ops km__sim_ops = {
    .open_dir = km__sim_open_dir,
    .create_dir = km__sim_create_dir,
    .open_subdir = km__sim_open_subdir,
    .create_subdir = km__sim_create_subdir,
    .close_dir = km__sim_close_dir,
    .sync_dir = km__sim_sync_dir,
    .list = km__sim_list,
    .rename = km__sim_rename,
    .unlink = km__sim_unlink,
    .link = km__sim_link,
    .remove_subdir = km__sim_remove_subdir,
    .exchange = km__sim_exchange,
    .open_file = km__sim_open_file,
    .close_file = km__sim_close_file,
    .file_size = km__sim_file_size,
    .read_at = km__sim_read_at,
    .read_cached = sim_read_cached,
    .read_soon = sim_read_soon,
    .write_at = km__sim_write_at,
    .allocate = km__sim_allocate,
    .sync = km__sim_sync,
    .open_ring = sim_open_ring, /* so the other functions of rings are never called */
    .map_read = km__sim_map_read,
    .read_ahead = km__sim_read_ahead,
    .map_shared = km__sim_map_shared,
    .unmap = km__sim_unmap,
    .make_resident = km__sim_make_resident,
    .lock = km__sim_lock_file,
    .lock_range = km__sim_lock_range,
    .unlock_range = km__sim_unlock_range,
    .is_range_locked = km__sim_is_range_locked,
    .now_ns = sim_now_ns,
    .wall_ms = sim_wall_ms,
    .random = sim_random,
    .boot_id = sim_boot_id,
    .process_id = sim_process_id,
    .process_exists = sim_process_exists,
    .processor_count = sim_processor_count,
    .fork_word = sim_fork_word,
    .release_fork_word = sim_release_fork_word,
    .open_notify_fd = sim_open_notify_fd,
    .notify_fd = sim_notify_fd,
    .clear_notify_fd = sim_clear_notify_fd,
    .close_notify_fd = sim_close_notify_fd,
    .last_error = km__sim_last_error,
};

static void init_mutex(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;

    if (pthread_mutexattr_init(&attributes) != 0 ||
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE) != 0 ||
        pthread_mutex_init(mutex, &attributes) != 0) {
        km__sim_abort("cannot make a mutex");
    }
    pthread_mutexattr_destroy(&attributes);
}

struct sim *km__sim_new(uint64_t seed)
{
    struct sim *sim = km__sim_xalloc(sizeof(*sim));

    sim->os.ops = &km__sim_ops;
    sim->rng.state = seed;
    init_mutex(&sim->mutex);
    km__sim_memory_init(sim);
    sim->now_ns = UINT64_C(1000000000);
    sim->wall_ms = UINT64_C(1700000000000);
    sim->wall_base_ns = sim->now_ns;
    sim->process_id = 1000;
    sim->fork_word = 1;
    return sim;
}

struct os *km__sim_create(uint64_t seed)
{
    struct sim *sim = km__sim_new(seed);

    km__sim_fill_random(&sim->rng, sim->boot_id, sizeof(sim->boot_id));
    sim->root = km__sim_node_create(sim, 1);
    sim->root->link_count = 1;
    km__sim_node_hold(sim->root);
    return &sim->os;
}

void km__sim_reclaim_memory(struct os *os)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    while (sim->dirs) {
        km__sim_close_dir(sim->dirs);
    }
    while (sim->files) {
        km__sim_close_file(sim->files);
    }
    while (sim->notify_fd_count > 0) {
        sim_close_notify_fd(os, sim->notify_fds[0]);
    }
    sim->fork_word_user_count = 0;
    km__sim_unmap_all(sim);
    km__sim_memory_free_all(sim);
    km__sim_unlock(sim);
}

void km__sim_destroy(struct os *os)
{
    struct sim *sim;

    if (!os)
        return;
    sim = km__sim_of(os);
    km__sim_reclaim_memory(os);
    km__sim_node_free_all(sim);
    free(sim->notify_fds);
    pthread_mutex_destroy(&sim->mutex);
    free(sim);
}

/* ---- figures ---- */

static uint64_t read_figure(struct os *os, const uint64_t *figure)
{
    struct sim *sim = km__sim_of(os);
    uint64_t value;

    km__sim_lock(sim);
    value = *figure;
    km__sim_unlock(sim);
    return value;
}

uint64_t km__sim_step_count(struct os *os)
{
    return read_figure(os, &km__sim_of(os)->step_count);
}

uint64_t km__sim_call_count(struct os *os, enum sim_op op)
{
    return read_figure(os, &km__sim_of(os)->call_counts[op]);
}

uint64_t km__sim_allocation_count(struct os *os)
{
    return read_figure(os, &km__sim_of(os)->allocation_count);
}

uint64_t km__sim_allocated_bytes(struct os *os)
{
    return read_figure(os, &km__sim_of(os)->allocated_bytes);
}

uint64_t km__sim_open_count(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    uint64_t count;
    const struct sim_mapping *mapping;
    const struct os_dir *dir;
    const struct os_file *file;

    km__sim_lock(sim);
    count = sim->notify_fd_count + sim->fork_word_user_count;
    for (mapping = sim->mappings; mapping; mapping = mapping->next) {
        count += mapping->user_count;
    }
    for (dir = sim->dirs; dir; dir = dir->next) {
        count++;
    }
    for (file = sim->files; file; file = file->next) {
        count++;
    }
    km__sim_unlock(sim);
    return count;
}

enum sim_op km__sim_current_op(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    enum sim_op op;

    km__sim_lock(sim);
    op = sim->current_op;
    km__sim_unlock(sim);
    return op;
}

int km__sim_is_dead(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    int is_dead;

    km__sim_lock(sim);
    is_dead = sim->is_dead;
    km__sim_unlock(sim);
    return is_dead;
}

void km__sim_set_capacity(struct os *os, uint64_t bytes)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->capacity = bytes;
    km__sim_unlock(sim);
}
