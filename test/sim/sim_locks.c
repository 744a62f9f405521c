/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_locks.c -- locks of simulated files.
 *
 * I1. A lock belongs to the handle it was taken through, and ends with it. Two handles are to each
 *     other as two processes; a handle never stands against itself.
 * I2. lock() is of all bytes before OS_LOCK_SIZE, lock_range() of one byte at or after it.
 */
#include "sim/sim_internal.h"

#include <errno.h>

/* The strongest lock of a handle on one of the bytes of [start, end). */
static int strongest_lock(const struct os_file *file, uint64_t start, uint64_t end)
{
    int strongest = start < OS_LOCK_SIZE && start < end ? file->lock : 0;
    size_t i;

    for (i = 0; i < file->byte_lock_count; i++) {
        const struct sim_byte_lock *lock = &file->byte_locks[i];
        if (lock->start >= start && lock->start < end && lock->lock > strongest)
            strongest = lock->lock;
    }
    return strongest;
}

/* The strongest lock of other handles of the same file. */
static int strongest_of_others(const struct os_file *file, uint64_t start, uint64_t end)
{
    const struct os_file *other;
    int strongest = 0;

    for (other = file->sim->files; other; other = other->next) {
        int lock = other->node == file->node ? strongest_lock(other, start, end) : 0;
        if (other != file && lock > strongest)
            strongest = lock;
    }
    return strongest;
}

static km_status check_lock(struct sim_call *call, uint64_t start, uint64_t end)
{
    int is_exclusive = call->mode == OS_LOCK_EXCLUSIVE;
    int other = strongest_of_others(call->file, start, end);

    if (is_exclusive && !call->file->is_writable)
        return km__sim_fail(call, KM_E_IO, EBADF);
    if (other == 2 || (other == 1 && is_exclusive))
        return km__sim_fail(call, KM_E_LOCKED, EAGAIN);
    return KM_OK;
}

static km_status apply_lock(struct sim *sim, struct sim_call *call)
{
    km_status rc = check_lock(call, 0, OS_LOCK_SIZE);

    (void)sim;
    if (rc == KM_OK)
        call->file->lock = call->mode == OS_LOCK_EXCLUSIVE ? 2 : 1;
    return rc;
}

km_status km__sim_lock_file(struct os_file *file, enum os_lock kind)
{
    struct sim_call call = {
        .op = SIM_LOCK, .apply = apply_lock, .node = file->node, .file = file, .mode = (int)kind};

    return km__sim_call(file->sim, &call, NULL);
}

static int is_lock_offset(uint64_t start)
{
    return start >= OS_LOCK_SIZE && start < INT64_MAX;
}

static struct sim_byte_lock *find_byte_lock(struct os_file *file, uint64_t start)
{
    size_t i;

    for (i = 0; i < file->byte_lock_count; i++) {
        if (file->byte_locks[i].start == start)
            return &file->byte_locks[i];
    }
    return NULL;
}

static km_status apply_lock_range(struct sim *sim, struct sim_call *call)
{
    struct os_file *file = call->file;
    struct sim_byte_lock *lock;
    km_status rc;

    (void)sim;
    if (!is_lock_offset(call->offset))
        return km__sim_fail(call, KM_E_INVALID, EINVAL);
    rc = check_lock(call, call->offset, call->offset + 1);
    if (rc)
        return rc;
    lock = find_byte_lock(file, call->offset);
    if (!lock) {
        size_t count = ++file->byte_lock_count;
        file->byte_locks = km__sim_xgrow(file->byte_locks, count * sizeof(*file->byte_locks));
        lock = &file->byte_locks[count - 1];
    }
    lock->start = call->offset;
    lock->lock = call->mode == OS_LOCK_EXCLUSIVE ? 2 : 1;
    return KM_OK;
}

km_status km__sim_lock_range(struct os_file *file, uint64_t start, enum os_lock kind)
{
    struct sim_call call = {.op = SIM_LOCK_RANGE,
                            .apply = apply_lock_range,
                            .node = file->node,
                            .file = file,
                            .offset = start,
                            .mode = (int)kind};

    return km__sim_call(file->sim, &call, NULL);
}

static km_status apply_unlock_range(struct sim *sim, struct sim_call *call)
{
    struct os_file *file = call->file;
    struct sim_byte_lock *lock = find_byte_lock(file, call->offset);

    (void)sim;
    if (!is_lock_offset(call->offset))
        return km__sim_fail(call, KM_E_INVALID, EINVAL);
    if (lock)
        *lock = file->byte_locks[--file->byte_lock_count];
    return KM_OK;
}

km_status km__sim_unlock_range(struct os_file *file, uint64_t start)
{
    struct sim_call call = {.op = SIM_LOCK_RANGE,
                            .apply = apply_unlock_range,
                            .node = file->node,
                            .file = file,
                            .offset = start};

    return km__sim_call(file->sim, &call, NULL);
}

int km__sim_is_range_locked(struct os_file *file, uint64_t start, uint64_t size)
{
    uint64_t end = size > UINT64_MAX - start ? UINT64_MAX : start + size;
    int is_locked;

    km__sim_lock(file->sim);
    is_locked = strongest_of_others(file, start, end) > 0;
    km__sim_unlock(file->sim);
    return is_locked;
}
