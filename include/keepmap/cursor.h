/* SPDX-License-Identifier: Apache-2.0
 *
 * cursor.h -- walks over maps, positions by number, and ranges of keys. Part of keepmap.h, which
 * includes it and has the rules that hold for every function.
 */
#ifndef KEEPMAP_CURSOR_H
#define KEEPMAP_CURSOR_H

#include "keepmap/keepmap.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- cursors ----------------------------------------------------------------------------- */

/* Keys of a KM_SORTED map. All three narrow the range; zeros are the whole map. */
typedef struct km_range {
    km_bytes from;   /* this key and those after it; data NULL: from the first */
    km_bytes to;     /* only keys before this one; data NULL: to the last */
    km_bytes prefix; /* only keys that begin so */
} km_range;

/* Start with KM_CURSOR_OPTIONS_INIT. */
typedef struct km_cursor_options {
    size_t struct_size;
    km_snapshot *snapshot; /* walk over the map as it is there; NULL: as it is now */
    km_range range;        /* KM_SORTED only */
    int reverse; /* 1: begin behind the last key, and let next go backwards; not KM_HASH */
} km_cursor_options;
#define KM_CURSOR_OPTIONS_INIT                                                                     \
    {                                                                                              \
        sizeof(km_cursor_options), NULL, {{NULL, 0}, {NULL, 0}, {NULL, 0}}, 0                      \
    }

/*
 * km_cursor_open -- begin a walk over a map, in the order of its kind.
 *
 *   options    NULL: from the first key to the last. Keys in it are copied.
 *
 * A cursor stands between two keys, before the first one to begin with. Without a snapshot: a key
 * that is there during the whole walk is returned exactly once; one that is inserted, deleted or
 * overwritten meanwhile is returned with a value it had during the walk, or not at all; if it is
 * deleted and inserted anew, or beside km_map_clear(), also more than once. With a snapshot:
 * exactly what is in the snapshot.
 *
 * Returns:   KM_OK, KM_E_NO_MEMORY, KM_E_DROPPED, KM_E_FORKED.
 *            KM_E_TOO_BIG      a key of the range is over the limit.
 *            KM_E_UNSUPPORTED  a range of a map that is not KM_SORTED; reverse in a KM_HASH map.
 *            KM_E_INVALID      the snapshot is of another store, or the map is not in it.
 * Lifetime:  release with km_cursor_close(), before its snapshot and store are closed.
 * Threads:   a cursor belongs to one thread at a time; it holds no read section between calls.
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_cursor_open(km_map *map, const km_cursor_options *options,
                                              km_cursor **out_cursor);

/*
 * km_cursor_next -- the key after the cursor, which moves behind it; km_cursor_previous -- the key
 * before the cursor, which moves before it. So one after the other returns the same key twice.
 *
 *   out_key, out_value   Set on KM_OK; either may be NULL.
 *
 * Returns:   KM_OK, KM_END, KM_E_CORRUPT, KM_E_NO_MEMORY, KM_E_FORKED; KM_E_DROPPED: the map was
 *            dropped meanwhile (in a snapshot it is still there); previous in a KM_HASH map:
 *            KM_E_UNSUPPORTED.
 * Lifetime:  both belong to the cursor, until its next call.
 * Threads:   as km_cursor_open().
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_cursor_next(km_cursor *cursor, km_bytes *out_key,
                                              km_bytes *out_value);
KM_API KM_MUST_CHECK km_status km_cursor_previous(km_cursor *cursor, km_bytes *out_key,
                                                  km_bytes *out_value);

/*
 * km_cursor_info -- what is known of the key that the last call of next or previous returned.
 *
 * Returns:   KM_OK; KM_NOT_FOUND if it returned none; KM_E_FORKED.
 * Lifetime:  nothing to release.
 * Threads:   as km_cursor_open().
 * Blocks:    never.
 */
KM_API KM_MUST_CHECK km_status km_cursor_info(const km_cursor *cursor, km_key_info *out_info);

/*
 * km_cursor_seek -- move a cursor to a key: before it in the cursor's direction, so that next
 * returns it.
 *
 * In a KM_SORTED map the key need not be there: the next key after it is next then. The cursor
 * stays in its range.
 *
 * Returns:   KM_OK; KM_NOT_FOUND: a KM_INSERTION map that does not have the key, the cursor stays
 *            where it was; KM_E_UNSUPPORTED: a KM_HASH map; KM_E_DROPPED, KM_E_CORRUPT,
 *            KM_E_NO_MEMORY, KM_E_INVALID, KM_E_FORKED.
 * Lifetime:  key is borrowed for the call.
 * Threads:   as km_cursor_open().
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_cursor_seek(km_cursor *cursor, km_bytes key);

/*
 * km_cursor_close -- end a walk; NULL is accepted.
 *
 * Returns:   nothing.
 * Lifetime:  ends the cursor and what it returned.
 * Threads:   as km_cursor_open().
 * Blocks:    never.
 */
KM_API void km_cursor_close(km_cursor *cursor);

/* ---- positions by number: KM_INSERTION --------------------------------------------------- */

/*
 * km_get_index -- the key at a position, counted from 0 in insertion order.
 *
 *   key, value  Filled on KM_OK; either may be NULL.
 *
 * Beside writers the position is one that the key had during the call, or a neighbour's. Keys that
 * have expired count until they are deleted; at the position of one, the next key is returned.
 *
 * Returns:   KM_OK, KM_NOT_FOUND (there are not so many), KM_E_UNSUPPORTED (another kind), and the
 *            errors of km_get().
 * Lifetime:  key and value belong to the caller.
 * Threads:   any.
 * Blocks:    as km_get().
 * Cost:      O(keys / 100,000), in effect constant.
 */
KM_API KM_MUST_CHECK km_status km_get_index(km_map *map, uint64_t position, km_buffer *key,
                                            km_buffer *value);

/*
 * km_index_of -- the position of a key, counted from 0 in insertion order.
 *
 * Returns:   KM_OK, KM_NOT_FOUND, KM_E_UNSUPPORTED (another kind), and the errors of km_get().
 * Lifetime:  nothing to release.
 * Threads:   any; as km_get_index().
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_index_of(km_map *map, km_bytes key, uint64_t *out_position);

/* ---- both ends: KM_INSERTION and KM_SORTED ------------------------------------------------ */

/*
 * km_first, km_last -- the first and the last key of a map and their values.
 *
 *   key, value  Filled on KM_OK; either may be NULL.
 *
 * Returns:   KM_OK, KM_NOT_FOUND (the map is empty), KM_E_UNSUPPORTED (a KM_HASH map), and the
 *            errors of km_get().
 * Lifetime:  key and value belong to the caller.
 * Threads:   any.
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_first(km_map *map, km_buffer *key, km_buffer *value);
KM_API KM_MUST_CHECK km_status km_last(km_map *map, km_buffer *key, km_buffer *value);

/*
 * km_pop_first, km_pop_last -- delete the first, or last, key of a map and return what it was.
 *
 *   key, value  Filled on KM_OK; either may be NULL.
 *   write       As km_del(); previous and condition must not be set. NULL for the defaults.
 *
 * Each key is popped by one caller only. So a map is a queue: producers put, consumers pop. Beside
 * writers a pop may say KM_NOT_FOUND though at no moment the map was empty: the key it was about to
 * take was another's, and the next one had not been there when it looked.
 *
 * Returns:   as km_first() and km_del().
 * Lifetime:  key and value belong to the caller.
 * Threads:   any.
 * Blocks:    as km_del().
 */
KM_API KM_MUST_CHECK km_status km_pop_first(km_map *map, km_buffer *key, km_buffer *value,
                                            km_write *write);
KM_API KM_MUST_CHECK km_status km_pop_last(km_map *map, km_buffer *key, km_buffer *value,
                                           km_write *write);

/* ---- ranges: KM_SORTED ------------------------------------------------------------------- */

/*
 * km_floor -- the last key that is not after `key`; km_ceiling -- the first that is not before it.
 *
 *   out_key, value  Filled on KM_OK; either may be NULL.
 *
 * Returns:   KM_OK, KM_NOT_FOUND, KM_E_UNSUPPORTED (another kind), and the errors of km_get().
 * Lifetime:  out_key and value belong to the caller.
 * Threads:   any.
 * Blocks:    as km_get().
 */
KM_API KM_MUST_CHECK km_status km_floor(km_map *map, km_bytes key, km_buffer *out_key,
                                        km_buffer *value);
KM_API KM_MUST_CHECK km_status km_ceiling(km_map *map, km_bytes key, km_buffer *out_key,
                                          km_buffer *value);

/*
 * km_count_range -- how many keys lie in a range.
 *
 *   range      NULL: the whole map.
 *
 * Returns:   KM_OK, KM_E_UNSUPPORTED (another kind), and the errors of km_get().
 * Lifetime:  nothing to release.
 * Threads:   any; beside writers, keys that come or go during the call may be counted or not.
 * Blocks:    as km_get().
 * Cost:      a nanosecond or two for each key; no record but those at the ends is read. Expired
 *            keys that are not yet deleted are counted.
 */
KM_API KM_MUST_CHECK km_status km_count_range(km_map *map, const km_range *range,
                                              uint64_t *out_count);

/*
 * km_del_range -- delete every key in a range, as one change.
 *
 *   range      NULL: the whole map.
 *   write      previous and condition must not be set; existed: whether there were any keys.
 *   out_count  How many keys went; may be NULL.
 *
 * One record is logged, whatever the number of keys; other changes of the map wait meanwhile.
 *
 * Returns:   KM_OK, also when there was nothing to delete; KM_E_UNSUPPORTED (another kind), and
 *            what km_del() returns.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_del(); and other changes of the map for 0.1 to 0.5 us for each key; those of
 *            other maps too if a snapshot is opened or closed in that time.
 */
KM_API KM_MUST_CHECK km_status km_del_range(km_map *map, const km_range *range, km_write *write,
                                            uint64_t *out_count);

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_CURSOR_H */
