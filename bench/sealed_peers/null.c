/* SPDX-License-Identifier: Apache-2.0
 *
 * null.c -- no store: what the driver costs. It makes each record of a build, and for each get
 * makes the value that is then checked.
 */
#include "../sealed.h"

static int null_build(const struct sealed_job *job)
{
    unsigned char value[SEALED_VALUE_SIZE];
    uint64_t place;

    for (place = 0; place < job->record_count; place++) {
        sealed_make_value(job->seed, sealed_input_key(job, place), value);
        __asm__ volatile("" : : "r"(value) : "memory"); /* it must be made */
    }
    return PEER_OK;
}

static int null_open(const struct sealed_job *job, void **out_handle)
{
    *out_handle = (void *)job;
    return PEER_OK;
}

static void null_close(void *handle)
{
    (void)handle;
}

static void null_check(const struct sealed_job *job, uint64_t key, unsigned char *value)
{
    sealed_make_value(job->seed, key, value);
    __asm__ volatile("" : : "r"(value) : "memory"); /* else nothing would be left to check */
}

static int null_get(void *handle, uint64_t key, struct sealed_check *check)
{
    const struct sealed_job *job = handle;
    unsigned char value[SEALED_VALUE_SIZE];

    if (key != sealed_key(job, key / job->stride))
        return PEER_NOT_FOUND;
    null_check(job, key, value);
    sealed_check_value(check, key, value, sizeof(value));
    return PEER_OK;
}

static int null_walk(void *handle, struct sealed_walk *walk)
{
    const struct sealed_job *job = handle;
    unsigned char value[SEALED_VALUE_SIZE];
    uint64_t rank, key;

    for (rank = 0; rank < job->record_count; rank++) {
        key = sealed_key(job, rank);
        null_check(job, key, value);
        sealed_walk_add(walk, key, value, sizeof(value));
    }
    return PEER_OK;
}

const struct sealed_peer sealed_peer_null = {
    .name = "null",
    .is_baseline = 1,
    .must_sort = 1,
    .version = "-",
    .settings = "makes each value, and checks it",
    .sorted_note = "records are made",
    .random_note = "records are made",
    .build = null_build,
    .open = null_open,
    .close = null_close,
    .get = null_get,
    .walk = null_walk,
};
