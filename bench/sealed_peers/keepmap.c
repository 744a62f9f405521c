/* SPDX-License-Identifier: Apache-2.0
 *
 * keepmap.c -- Keepmap's sealed tables, with default options: through a mapping, and by calls.
 */
#include "../sealed.h"

#include "keepmap/keepmap.h"

#include <stdio.h>
#include <stdlib.h>

#define KEEPMAP_TEXT_OF(number) #number
#define KEEPMAP_TEXT(number) KEEPMAP_TEXT_OF(number)
#define KEEPMAP_VERSION                                                                            \
    KEEPMAP_TEXT(KM_VERSION_MAJOR)                                                                 \
    "." KEEPMAP_TEXT(KM_VERSION_MINOR) "." KEEPMAP_TEXT(KM_VERSION_PATCH)

struct keepmap_table {
    km_sealed *table;
    km_buffer value; /* what a get copies into, and get_many */
    km_bytes keys[SEALED_MANY];
    km_bytes values[SEALED_MANY];
    unsigned char key_bytes[SEALED_MANY][SEALED_KEY_SIZE];
};

static int keepmap_failed(const char *what, km_status status)
{
    fprintf(stderr, "keepmap: %s: %s\n", what, km_status_name(status));
    return PEER_FAILED;
}

static void keepmap_path(const struct sealed_job *job, char *out_path, size_t path_size)
{
    snprintf(out_path, path_size, "%s/table.sealed", job->path);
}

static int keepmap_build(const struct sealed_job *job)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    char path[SEALED_PATH_MAX + 32];
    unsigned char value[SEALED_VALUE_SIZE];
    uint64_t place, key;
    km_status status;

    keepmap_path(job, path, sizeof(path));
    options.keys = KM_SEALED_U64;
    status = km_sealed_builder_open(path, &options, &builder, NULL);
    if (status)
        return keepmap_failed("builder", status);
    for (place = 0; place < job->record_count && !status; place++) {
        key = sealed_input_key(job, place);
        sealed_make_value(job->seed, key, value);
        status = km_sealed_builder_add_number(builder, key, (km_bytes){value, sizeof(value)});
    }
    if (status) {
        km_sealed_builder_abort(builder);
        return keepmap_failed("add", status);
    }
    status = km_sealed_builder_finish(builder, NULL);
    return status ? keepmap_failed("finish", status) : PEER_OK;
}

static int keepmap_open_with(const struct sealed_job *job, int no_mapping, void **out_handle)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    struct keepmap_table *self = calloc(1, sizeof(*self));
    char path[SEALED_PATH_MAX + 32];
    km_status status;
    unsigned i;

    if (!self)
        return PEER_FAILED;
    keepmap_path(job, path, sizeof(path));
    options.no_mapping = no_mapping;
    status = km_sealed_open(path, &options, &self->table, NULL);
    if (status) {
        free(self);
        return keepmap_failed("open", status);
    }
    for (i = 0; i < SEALED_MANY; i++)
        self->keys[i] = (km_bytes){self->key_bytes[i], SEALED_KEY_SIZE};
    *out_handle = self;
    return PEER_OK;
}

static int keepmap_open(const struct sealed_job *job, void **out_handle)
{
    return keepmap_open_with(job, 0, out_handle);
}

static int keepmap_open_calls(const struct sealed_job *job, void **out_handle)
{
    return keepmap_open_with(job, 1, out_handle);
}

static void keepmap_close(void *opaque)
{
    struct keepmap_table *self = opaque;

    km_sealed_close(self->table);
    km_buffer_free(&self->value);
    free(self);
}

static int keepmap_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    struct keepmap_table *self = opaque;
    km_status status = km_sealed_get_number(self->table, key, &self->value);

    if (status == KM_NOT_FOUND)
        return PEER_NOT_FOUND;
    if (status)
        return keepmap_failed("get", status);
    sealed_check_value(check, key, self->value.data, self->value.size);
    return PEER_OK;
}

static int keepmap_get_many(void *opaque, const uint64_t *keys, size_t count,
                            struct sealed_check *check)
{
    struct keepmap_table *self = opaque;
    km_status status;
    size_t i;

    for (i = 0; i < count; i++)
        sealed_key_bytes(keys[i], self->key_bytes[i]);
    status = km_sealed_get_many(self->table, self->keys, count, &self->value, self->values, NULL);
    if (status)
        return keepmap_failed("get_many", status);
    for (i = 0; i < count; i++) {
        if (self->values[i].data)
            sealed_check_value(check, keys[i], self->values[i].data, self->values[i].size);
    }
    return PEER_OK;
}

static int keepmap_walk(void *opaque, struct sealed_walk *walk)
{
    struct keepmap_table *self = opaque;
    km_sealed_cursor *cursor;
    km_bytes key, value;
    km_status status = km_sealed_cursor_open(self->table, NULL, &cursor);

    if (status)
        return keepmap_failed("cursor", status);
    while (!(status = km_sealed_cursor_next(cursor, &key, &value)))
        sealed_walk_add(walk, sealed_key_number(key.data), value.data, value.size);
    km_sealed_cursor_close(cursor);
    return status == KM_END ? PEER_OK : keepmap_failed("walk", status);
}

const struct sealed_peer sealed_peer_keepmap = {
    .name = "keepmap",
    .must_sort = 1,
    .version = KEEPMAP_VERSION,
    .settings = "defaults; km_sealed_get_number, which copies; km_sealed_get_many",
    .sorted_note = "km_sealed_builder, KM_SEALED_U64, defaults",
    .random_note = "the same",
    .build = keepmap_build,
    .open = keepmap_open,
    .close = keepmap_close,
    .get = keepmap_get,
    .get_many = keepmap_get_many,
    .walk = keepmap_walk,
};

const struct sealed_peer sealed_peer_keepmap_calls = {
    .name = "keepmap-calls",
    .must_sort = 1,
    .files_of = "keepmap",
    .version = KEEPMAP_VERSION,
    .settings = "no_mapping: read by calls alone",
    .open = keepmap_open_calls,
    .close = keepmap_close,
    .get = keepmap_get,
    .get_many = keepmap_get_many,
    .walk = keepmap_walk,
};
