/* SPDX-License-Identifier: Apache-2.0
 *
 * update.h -- changes that depend on what is there: insert, update, compare and set, increment,
 * append; and what a batch expects. Part of keepmap.h, which includes it and has the rules that
 * hold for every function.
 *
 * Each is one step for every other thread, and one record in the log. A key that has expired is not
 * there.
 */
#ifndef KEEPMAP_UPDATE_H
#define KEEPMAP_UPDATE_H

#include "keepmap/keepmap.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * km_put_if_absent -- insert a key, or leave it as it is.
 *
 *   write      As km_put(); condition must be KM_IF_ANY. write->previous gets the value that is
 *              there on KM_EXISTS too.
 *
 * Returns:   KM_OK: inserted; KM_EXISTS: the key is there, nothing changed; and what km_put()
 *            returns.
 * Lifetime:  key and value are borrowed for the call.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_put_if_absent(km_map *map, km_bytes key, km_bytes value,
                                                km_write *write);

/*
 * km_get_or_insert -- a key's value; if it is not there, insert one.
 *
 *   value      Inserted if the key is not there.
 *   out_value  Gets the value that is there afterwards: of all who call at the same time, the same
 *              one. Must not overlap key and value.
 *   write      As km_put(); previous and condition must not be set; existed: whether it was there.
 *
 * Returns:   KM_OK in both cases, and what km_put() returns.
 * Lifetime:  key and value are borrowed for the call.
 * Threads:   any.
 * Blocks:    as km_put(); not at all if the key is there.
 */
KM_API KM_MUST_CHECK km_status km_get_or_insert(km_map *map, km_bytes key, km_bytes value,
                                                km_buffer *out_value, km_write *write);

/* What an update callback decides. */
typedef enum km_update_verdict {
    KM_UPDATE_KEEP = 0,   /* change nothing */
    KM_UPDATE_PUT = 1,    /* put *new_value */
    KM_UPDATE_DELETE = 2, /* delete the key */
    KM_UPDATE_FAIL = 3    /* change nothing and return KM_STOPPED */
} km_update_verdict;

/* old_value is NULL if the key is not there. new_value: borrowed until the callback is called again
 * or the update returns. */
typedef km_update_verdict (*km_update_fn)(void *context, const km_bytes *old_value,
                                          const km_key_info *old_info, km_bytes *new_value);

/*
 * km_update -- change a key according to what is there.
 *
 *   update     Sees a copy of the present value, or none, and decides. It runs with nothing locked
 *              and may call anything; if another change of the key comes between, it runs again on
 *              the new value, so it may be called more than once.
 *   write      As km_put(); condition must be KM_IF_ANY. Of the change that was made.
 *
 * Returns:   KM_OK: changed, or kept as wanted; KM_STOPPED; and what km_put() and km_del() return
 *            but KM_NOT_FOUND.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_update(km_map *map, km_bytes key, km_update_fn update,
                                         void *context, km_write *write);

/*
 * km_compare_and_set -- put a value if the key has a certain version; km_compare_and_del -- delete
 * the key if it has.
 *
 *   expected   From km_get_info(), km_write.position or a cursor; 0: the key is not there.
 *   write      As km_put(); condition must be KM_IF_ANY.
 *
 * Returns:   KM_OK; KM_CONFLICT: it has another version, or is not there, or is; nothing changed;
 *            and what km_put() and km_del() return. km_compare_and_del() with 0: KM_E_INVALID.
 * Lifetime:  key and value are borrowed for the call.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_compare_and_set(km_map *map, km_bytes key, km_position expected,
                                                  km_bytes value, km_write *write);
KM_API KM_MUST_CHECK km_status km_compare_and_del(km_map *map, km_bytes key, km_position expected,
                                                  km_write *write);

/*
 * km_increment -- add to a number: a value of 8 bytes, two's complement, little-endian.
 *
 *   delta      May be negative. A key that is not there counts as 0.
 *   out_value  The sum; may be NULL.
 *   write      As km_put(); condition must be KM_IF_ANY. An expiry is kept if ttl_ms is 0.
 *
 * Returns:   KM_OK; KM_E_INVALID: the value is not 8 bytes, or the sum does not fit; nothing
 *            changed; and what km_put() returns.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_increment(km_map *map, km_bytes key, int64_t delta,
                                            int64_t *out_value, km_write *write);

/*
 * km_append -- add bytes to the end of a value. A key that is not there counts as empty.
 *
 *   write      As km_put(); condition must be KM_IF_ANY. An expiry is kept if ttl_ms is 0.
 *
 * Returns:   KM_OK; KM_E_TOO_BIG: the value would be over the limit; and what km_put() returns.
 * Lifetime:  key and bytes are borrowed for the call.
 * Threads:   any.
 * Blocks:    as km_put().
 */
KM_API KM_MUST_CHECK km_status km_append(km_map *map, km_bytes key, km_bytes bytes,
                                         km_write *write);

/*
 * km_batch_put_ttl -- as km_batch_put(), with a time to live as km_write.ttl_ms has it, counted
 * from this call.
 *
 * Returns, Lifetime, Threads, Blocks:  as km_batch_put().
 */
KM_API KM_MUST_CHECK km_status km_batch_put_ttl(km_batch *batch, km_map *map, km_bytes key,
                                                km_bytes value, uint64_t ttl_ms);

/*
 * km_batch_expect -- let a batch happen only if a key has a certain version when it is committed.
 *
 *   expected   0: the key must not be there.
 *
 * The key need not be changed by the batch. If any expectation does not hold, km_batch_commit()
 * returns KM_CONFLICT and nothing happens; the batch keeps its changes and expectations. All are
 * looked at in the same moment in which the changes are made, whatever the maps.
 *
 * Returns:   as km_batch_del().
 * Lifetime:  key is copied.
 * Threads:   as km_batch_create().
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_batch_expect(km_batch *batch, km_map *map, km_bytes key,
                                               km_position expected);

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_UPDATE_H */
