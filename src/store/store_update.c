/* SPDX-License-Identifier: Apache-2.0
 *
 * store_update.c -- changes that depend on what is there, made of a read and a change on condition
 * that the key still has the version that was read.
 *
 * So no lock is held while a caller's function decides, and each is one record. A change that came
 * between makes it begin anew; as a version is never used twice, it cannot be missed.
 */
#include "store/store_internal.h"

static const km_write plain_write = KM_WRITE_INIT;

/* ---- one condition ----------------------------------------------------------------------- */

km_status km_put_if_absent(km_map *map, km_bytes key, km_bytes value, km_write *write)
{
    km_write own = plain_write;

    if (write && write->condition != KM_IF_ANY)
        return KM_E_INVALID;
    if (!write)
        write = &own;
    return km__put_if(map, key, value, KM_IF_ABSENT, 0, write);
}

km_status km_compare_and_set(km_map *map, km_bytes key, km_position expected, km_bytes value,
                             km_write *write)
{
    km_write own = plain_write;

    if (write && write->condition != KM_IF_ANY)
        return KM_E_INVALID;
    if (!write)
        write = &own;
    return km__put_if(map, key, value, KM_IF_VERSION, expected, write);
}

km_status km_compare_and_del(km_map *map, km_bytes key, km_position expected, km_write *write)
{
    km_bytes none = {NULL, 0};
    struct change change;
    km_status rc = km__check_key_change(map, key, none, write);

    if (!rc && (expected == 0 || (write && write->condition != KM_IF_ANY)))
        rc = KM_E_INVALID;
    if (rc)
        return rc;
    km__change_init(&change, map, RECORD_DELETE, key, none);
    change.condition = KM_IF_VERSION;
    change.expected = expected;
    return km__change_key(&change, write);
}

km_status km_get_or_insert(km_map *map, km_bytes key, km_bytes value, km_buffer *out_value,
                           km_write *write)
{
    km_write own = plain_write;
    km_status rc;

    if (write && (write->struct_size < sizeof(km_write) || write->previous || write->condition))
        return KM_E_INVALID;
    if (write)
        own = *write;
    rc = km_get(map, key, out_value);
    if (rc == KM_NOT_FOUND) {
        own.previous = out_value;
        rc = km__buffer_reserve(out_value, value.size); /* so that nothing fails afterwards */
        if (!rc)
            rc = km__put_if(map, key, value, KM_IF_ABSENT, 0, &own);
        if (!rc)
            rc = km__copy_to_buffer(out_value, value.data, value.size);
    } else if (!rc) {
        own.existed = 1;
        own.position = 0;
    }
    if (rc == KM_EXISTS) {
        own.existed = 1;
        own.position = 0;
        rc = KM_OK;
    }
    if (!rc && write) {
        write->existed = own.existed;
        write->position = own.position;
    }
    return rc;
}

/* ---- a function's decision --------------------------------------------------------------- */

struct decision {
    km_map *map;
    km_bytes key;
    km_update_fn update;
    void *context;
    km_write *write;
    int keeps_expiry; /* when the caller gives no time to live */
    km_buffer old_value;
};

static km_status put_decided(const struct decision *decision, const km_key_info *info,
                             km_bytes value)
{
    uint64_t ttl_ms = decision->write ? decision->write->ttl_ms : 0;
    uint64_t expiry = km__expiry_after(decision->map->store, ttl_ms);
    struct change change;
    km_status rc = km__check_key_change(decision->map, decision->key, value, decision->write);

    if (rc)
        return rc;
    km__change_init(&change, decision->map, RECORD_PUT, decision->key, value);
    change.condition = KM_IF_VERSION;
    change.expected = info->version;
    km__change_expire(&change, ttl_ms || !decision->keeps_expiry ? expiry : info->expires_ms);
    return km__change_key(&change, decision->write);
}

static km_status delete_decided(const struct decision *decision, const km_key_info *info)
{
    if (info->version == 0)
        return KM_OK; /* it is not there */
    return km_compare_and_del(decision->map, decision->key, info->version, decision->write);
}

/* One try: KM_CONFLICT if the key has changed meanwhile. */
static km_status try_update(struct decision *decision)
{
    km_key_info info = {0, 0, 0};
    km_bytes old_value, new_value = {NULL, 0};
    km_status rc = km_get_info(decision->map, decision->key, &decision->old_value, &info);
    int is_there = rc == KM_OK;

    if (rc && rc != KM_NOT_FOUND)
        return rc;
    old_value = km_bytes_of(decision->old_value.data, is_there ? decision->old_value.size : 0);
    switch (decision->update(decision->context, is_there ? &old_value : NULL, &info, &new_value)) {
    case KM_UPDATE_KEEP: return KM_OK;
    case KM_UPDATE_PUT: return put_decided(decision, &info, new_value);
    case KM_UPDATE_DELETE: return delete_decided(decision, &info);
    case KM_UPDATE_FAIL: return KM_STOPPED;
    default: return KM_E_INVALID;
    }
}

static km_status decide(struct decision *decision)
{
    km_write *write = decision->write;
    km_bytes none = {NULL, 0};
    km_status rc = km__check_key_change(decision->map, decision->key, none, write);

    if (!rc && write && write->condition != KM_IF_ANY)
        rc = KM_E_INVALID;
    if (rc)
        return rc;
    do {
        rc = try_update(decision);
    } while (rc == KM_CONFLICT); /* ends: each time a change of another thread went through */
    km_buffer_free(&decision->old_value);
    return rc;
}

km_status km_update(km_map *map, km_bytes key, km_update_fn update, void *context, km_write *write)
{
    struct decision decision = {map, key, update, context, write, 0, KM_BUFFER_INIT};

    return update ? decide(&decision) : KM_E_INVALID;
}

/* ---- increment --------------------------------------------------------------------------- */

struct increment {
    int64_t delta, sum;
    uint8_t bytes[8];
};

static km_update_verdict add_delta(void *context, const km_bytes *old_value,
                                   const km_key_info *old_info, km_bytes *new_value)
{
    struct increment *increment = context;
    int64_t old = 0;

    (void)old_info;
    if (old_value) {
        if (old_value->size != sizeof(increment->bytes))
            return KM_UPDATE_FAIL;
        old = (int64_t)km__load64(old_value->data);
    }
    if (__builtin_add_overflow(old, increment->delta, &increment->sum))
        return KM_UPDATE_FAIL;
    km__store64(increment->bytes, (uint64_t)increment->sum);
    *new_value = km_bytes_of(increment->bytes, sizeof(increment->bytes));
    return KM_UPDATE_PUT;
}

km_status km_increment(km_map *map, km_bytes key, int64_t delta, int64_t *out_value,
                       km_write *write)
{
    struct increment increment = {.delta = delta};
    struct decision decision = {map, key, add_delta, &increment, write, 1, KM_BUFFER_INIT};
    km_status rc = decide(&decision);

    if (rc == KM_STOPPED)
        return KM_E_INVALID;
    if (!rc && out_value)
        *out_value = increment.sum;
    return rc;
}

/* ---- append ------------------------------------------------------------------------------ */

struct appending {
    km_bytes bytes;
    km_buffer joined;
    km_status status; /* why it failed */
};

static km_update_verdict join_bytes(void *context, const km_bytes *old_value,
                                    const km_key_info *old_info, km_bytes *new_value)
{
    struct appending *appending = context;
    size_t old_size = old_value ? old_value->size : 0;
    uint8_t *joined;

    (void)old_info;
    appending->status = KM_E_TOO_BIG;
    if (appending->bytes.size > KM_VALUE_SIZE_MAX - old_size)
        return KM_UPDATE_FAIL;
    appending->status = km__buffer_reserve(&appending->joined, old_size + appending->bytes.size);
    if (appending->status)
        return KM_UPDATE_FAIL;
    joined = appending->joined.data;
    if (old_size)
        memcpy(joined, old_value->data, old_size);
    if (appending->bytes.size)
        memcpy(joined + old_size, appending->bytes.data, appending->bytes.size);
    *new_value = km_bytes_of(joined, old_size + appending->bytes.size);
    return KM_UPDATE_PUT;
}

km_status km_append(km_map *map, km_bytes key, km_bytes bytes, km_write *write)
{
    struct appending appending = {bytes, KM_BUFFER_INIT, KM_OK};
    struct decision decision = {map, key, join_bytes, &appending, write, 1, KM_BUFFER_INIT};
    km_status rc = km__check_sizes(key, bytes);

    if (!rc)
        rc = decide(&decision);
    km_buffer_free(&appending.joined);
    return rc == KM_STOPPED ? appending.status : rc;
}
