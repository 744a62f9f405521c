/* SPDX-License-Identifier: Apache-2.0
 *
 * store_tables.c -- what lies under a map: lookups in its sealed tables, and the count of keys.
 *
 * The map's own entries and the tables share keys. A key that only the map has counts for the map's
 * entry, one that only tables have for their sum; of a key that both have one is too many, and of
 * one that an entry hides two are:
 *
 *     keys = entries + keys of all tables - overlap
 *
 * I1. map->overlap is the sum, over the map's entries, of 1 if a table has the key, and 1 more if
 *     the entry hides it: it may hide what was in a table that a crash left detached. Each change
 *     adds what it makes of its key's entry less what that was.
 * I2. A stack never changes, and stays until the map's handle goes: readers hold nothing.
 * I3. A change looks into the tables before it locks anything, so that nobody waits for its disk.
 * I4. A key that is looked up in the map and then in its tables is looked up in one state: the
 *     tables were the same before and after. Else a key that is put before its table is detached
 *     would be missed, or the value of a table seen that came when the map had another.
 */
#include "store/store_tables.h"

/* Keys of the map that are looked up below at once, when they are counted. */
#define TABLES_GROUP 64u
#define TABLES_REFS (HASH_NODE_LINES_MAX * 8u)

/* ---- one key ----------------------------------------------------------------------------- */

km_status km__tables_find(const struct table_stack *stack, km_bytes key,
                          const struct stacked_table **out_table, km_bytes *out_value)
{
    if (!key.data)
        key.data = "";
    for (uint32_t i = 0; i < stack->count; i++) {
        km_status rc = km__sealed_find_mapped(stack->tables[i]->sealed, key, out_value);

        if (rc == KM_NOT_FOUND)
            continue;
        *out_table = stack->tables[i];
        return rc;
    }
    return KM_NOT_FOUND;
}

void km__tables_fill_found(const struct stacked_table *table, km_bytes key, km_bytes value,
                           struct found *out)
{
    static const struct log_record empty;

    out->ref = 0;
    out->record = empty;
    out->record.bytes = table->header;
    out->record.flags = RECORD_RELOCATED; /* so the version is in the header */
    out->record.key = key.data;
    out->record.key_size = (uint16_t)key.size;
    out->record.value = value.data;
    out->record.value_size = (uint32_t)value.size;
}

static km_status find_in_stack(const struct table_stack *stack, km_bytes key, struct found *out)
{
    const struct stacked_table *table = NULL;
    km_bytes value = {NULL, 0};
    km_status rc = stack ? km__tables_find(stack, key, &table, &value) : KM_NOT_FOUND;

    if (!rc)
        km__tables_fill_found(table, key, value, out);
    return rc;
}

/* I4 */
km_status km__find_below_slow(const km_map *map, km_bytes key, const struct table_stack *seen,
                              struct found *out)
{
    const struct km_store *store = map->store;
    const struct table_stack *now = km__tables_of(map);
    uint64_t hash;
    km_status rc;

    while (now != seen) { /* ends: each time tables were attached, or detached, meanwhile */
        seen = now;
        hash = km__hash_key(&store->secret, key.data, key.size);
        rc = km__find_in_map(map, hash, key, out);
        if (rc != KM_NOT_FOUND)
            return !rc && km__is_expired(store, &out->record) ? KM_NOT_FOUND : rc;
        now = km__tables_of(map);
    }
    return find_in_stack(now, key, out);
}

/* ---- changes ----------------------------------------------------------------------------- */

km_status km__tables_look_slow(struct change *change)
{
    km_bytes key = {change->key, change->key_size};
    km_status rc = KM_NOT_FOUND;

    if (change->is_hiding) {
        change->kind = RECORD_DELETE;
        change->is_hiding = 0;
        km__change_expire(change, 0);
    }
    change->below = NULL;
    change->stack = km__tables_of(change->map);
    if (change->stack)
        rc = km__tables_find(change->stack, key, &change->below, &change->below_value);
    if (rc)
        return rc == KM_NOT_FOUND ? KM_OK : rc;
    if (change->kind == RECORD_DELETE && !change->is_own) {
        change->kind = RECORD_PUT;
        change->is_hiding = 1;
        km__change_expire(change, RECORD_EXPIRY_HIDES);
    }
    return KM_OK;
}

void km__tables_note_change(const struct change *change)
{
    uint64_t before = 0, after = 0;

    if (change->old_ref)
        before = (uint64_t)change->was_hiding + (change->below != NULL);
    if (change->kind == RECORD_PUT)
        after = (uint64_t)change->is_hiding + (change->below != NULL);
    if (before != after) /* relaxed: a number, no data behind it. It may wrap on its way */
        atomic_fetch_add_explicit(&change->map->overlap, after - before, memory_order_relaxed);
}

/* A record of before, or of another process, is applied; what a damaged table says is not known. */
void km__tables_note_logged(const struct logged *logged, const struct log_record *record,
                            const struct found *found)
{
    struct change change = {.map = logged->map,
                            .kind = logged->kind,
                            .old_ref = found->ref,
                            .is_hiding = km__is_hiding(record)};
    km_bytes value;

    change.was_hiding = found->ref && km__is_hiding(&found->record);
    km__ignore(km__tables_find(km__tables_of(logged->map),
                               km_bytes_of(record->key, record->key_size), &change.below, &value),
               "a count that is off by one");
    km__tables_note_change(&change);
}

/* ---- counting ---------------------------------------------------------------------------- */

/* Whether a table above has the key. */
static km_status is_above(const struct table_stack *stack, uint32_t index, km_bytes key)
{
    km_bytes value;
    km_status rc = KM_NOT_FOUND;

    for (uint32_t i = 0; rc == KM_NOT_FOUND && i < index; i++)
        rc = km__sealed_find_mapped(stack->tables[i]->sealed, key, &value);
    return rc;
}

/* Those of a table that no table above has. */
static km_status count_new_keys(const struct table_stack *stack, uint32_t index, uint64_t *count)
{
    km_sealed_cursor *cursor = NULL;
    km_bytes key;
    km_status rc = km_sealed_cursor_open(stack->tables[index]->sealed, NULL, &cursor);

    while (!rc) { /* ends with the keys */
        rc = km_sealed_cursor_next(cursor, &key, NULL);
        if (!rc)
            rc = is_above(stack, index, key);
        *count += rc == KM_NOT_FOUND;
        if (rc == KM_NOT_FOUND)
            rc = KM_OK;
    }
    km_sealed_cursor_close(cursor);
    return rc == KM_END ? KM_OK : rc;
}

km_status km__tables_count_keys(const struct table_stack *stack, uint64_t *out_count)
{
    km_status rc = KM_OK;

    *out_count = stack->count ? km_sealed_count(stack->tables[0]->sealed) : 0;
    for (uint32_t i = 1; !rc && i < stack->count; i++)
        rc = count_new_keys(stack, i, out_count);
    return rc;
}

/* What an entry of the map adds to the overlap: I1. */
static km_status weigh_entry(const km_map *map, const struct table_stack *stack, uint64_t ref,
                             uint64_t *overlap)
{
    const struct stacked_table *table;
    struct log_record record;
    km_bytes value;
    km_status rc;

    if (ref >= LOG_PLACEHOLDER_BASE)
        return KM_OK;
    rc = km__record_of(map->store, ref, &record);
    if (rc)
        return rc;
    *overlap += km__is_hiding(&record);
    rc = km__tables_find(stack, km_bytes_of(record.key, record.key_size), &table, &value);
    *overlap += rc == KM_OK;
    return rc == KM_NOT_FOUND ? KM_OK : rc;
}

static km_status weigh_refs(const km_map *map, const struct table_stack *stack,
                            const uint64_t *refs, size_t count, uint64_t *overlap)
{
    km_status rc = KM_OK;

    for (size_t begin = 0; !rc && begin < count; begin += TABLES_GROUP) {
        size_t end = begin + TABLES_GROUP < count ? begin + TABLES_GROUP : count;

        for (size_t i = begin; i < end; i++)
            km__log_prefetch(map->store->view, refs[i]);
        for (size_t i = begin; !rc && i < end; i++)
            rc = weigh_entry(map, stack, refs[i], overlap);
    }
    return rc;
}

static km_status weigh_hash(km_map *map, const struct table_stack *stack, uint64_t *overlap)
{
    uint64_t refs[TABLES_REFS];
    struct hash_walk walk = {0};
    int is_end = 0;
    km_status rc = KM_OK;

    while (!rc && !is_end) {
        size_t count = 0;

        rc = km__hash_walk_next(map->index, &walk, refs, &count, &is_end);
        if (!rc)
            rc = weigh_refs(map, stack, refs, count, overlap);
    }
    return rc;
}

static km_status weigh_tree(const km_map *map, const struct table_stack *stack, uint64_t *overlap)
{
    struct sorted_bound from = {0};
    uint64_t refs[TABLES_GROUP];
    struct log_record record;
    km_status rc = KM_OK;

    for (;;) { /* ends: `from` moves on, until there are no more */
        size_t count = 0;

        rc = km__sorted_read_up(map->tree, from, refs, TABLES_GROUP, &count);
        if (!rc && count)
            rc = weigh_refs(map, stack, refs, count, overlap);
        if (!rc && count)
            rc = km__record_of(map->store, refs[count - 1], &record);
        if (rc || count == 0)
            return rc;
        from.key = km_bytes_of(record.key, record.key_size);
        from.is_set = from.is_exclusive = 1;
    }
}

km_status km__tables_count_overlap(km_map *map, const struct table_stack *stack,
                                   uint64_t *out_overlap)
{
    km_status rc;

    *out_overlap = 0;
    km__epoch_enter();
    rc = map->tree ? weigh_tree(map, stack, out_overlap) : weigh_hash(map, stack, out_overlap);
    km__epoch_leave();
    return rc;
}
