/* SPDX-License-Identifier: Apache-2.0
 *
 * store_cursor_tables.c -- cursors over maps that have sealed tables under them.
 *
 * There is one *source* for the map itself, a cursor that shows hidden keys too, and one for each
 * table, the uppermost first.
 *
 *   KM_SORTED  All sources stand at the same gap between keys; a step takes the next key that any
 *              has, from the first source that has it, and all sources that have it pass it. If it
 *              is hidden, on to the next.
 *   KM_HASH    First the keys of the tables, merged in the same way; each is looked up in the map,
 *              which may have another value for it, or hide it. Then the map's keys, but for those
 *              that a table has.
 *
 * I1. A source that was moved beyond the gap has what it passed in `ahead`, until the walk takes
 *     that, or turns and moves the source back.
 * I2. Of a KM_HASH map each key is either one of the tables, for the first part, or not, for the
 *     second, whatever changes meanwhile: so a key that stays is met exactly once.
 * I3. The tables may be detached while a cursor is open, and what hid their keys goes then. So what
 *     a table has is believed if the table was still attached after the map was looked at. If not,
 *     the map is asked, and has the key itself, or it is passed over.
 */
#include "store/store_cursor_internal.h"
#include "store/store_tables.h"

struct walk_source {
    km_cursor *cursor;               /* of the map; or */
    km_sealed_cursor *sealed_cursor; /* of a table */
    const struct stacked_table *table;
    int has_ahead;    /* I1: */
    km_status status; /* KM_OK; CURSOR_HIDDEN: the key is not there; KM_END */
    km_bytes key, value;
};

struct stack_walk {
    const struct table_stack *stack;
    int is_down;   /* which way the sources are ahead */
    int is_in_map; /* KM_HASH: the second part */
    uint32_t source_count;
    uint64_t version; /* of the key that was returned, */
    uint64_t expires_ms;
    uint32_t value_size;
    km_status failed;      /* the walk is nowhere until a seek: a damaged record may hide a key */
    int has_last;          /* if there is one */
    km_buffer found_value; /* KM_HASH: of a key whose value the map has */
    struct walk_source sources[KM_ATTACHED_MAX + 1];
};

/* ---- sources ----------------------------------------------------------------------------- */

static km_status move_source(const km_cursor *owner, struct walk_source *source, int is_down)
{
    if (source->cursor)
        return km__cursor_step(source->cursor, is_down ? CURSOR_DOWN : CURSOR_UP, &source->key,
                               &source->value);
    return is_down != owner->is_reverse
               ? km_sealed_cursor_previous(source->sealed_cursor, &source->key, &source->value)
               : km_sealed_cursor_next(source->sealed_cursor, &source->key, &source->value);
}

/* Let a source be ahead. */
static km_status look_ahead(const km_cursor *owner, struct walk_source *source, int is_down)
{
    km_status rc;

    if (source->has_ahead)
        return KM_OK;
    rc = move_source(owner, source, is_down);
    if (rc && rc != CURSOR_HIDDEN && rc != KM_END) {
        owner->walk->failed = source->cursor ? rc : KM_OK; /* it has passed what is damaged */
        return rc;
    }
    source->status = rc;
    source->has_ahead = 1;
    return KM_OK;
}

/* I1: back to the gap. */
static km_status step_back(const km_cursor *owner, struct walk_source *source, int is_down)
{
    km_status rc = KM_OK;

    if (source->has_ahead && source->status != KM_END)
        rc = move_source(owner, source, !is_down);
    if (rc && rc != CURSOR_HIDDEN)
        return rc == KM_END ? KM_E_CORRUPT : rc; /* it has just passed that key */
    source->has_ahead = 0;
    return KM_OK;
}

static km_status turn_walk(km_cursor *cursor, int is_down)
{
    struct stack_walk *walk = cursor->walk;
    km_status rc = KM_OK;

    if (walk->is_down == is_down)
        return KM_OK;
    for (uint32_t i = 0; !rc && i < walk->source_count; i++)
        rc = step_back(cursor, &walk->sources[i], walk->is_down);
    if (!rc)
        walk->is_down = is_down;
    return rc;
}

/* ---- merging ----------------------------------------------------------------------------- */

static int comes_first(const struct stack_walk *walk, km_bytes a, km_bytes b)
{
    int order = km__cursor_compare(a, b);

    return walk->is_down ? order > 0 : order < 0;
}

/* The first source that has the next key; NULL: there is none. All from `first` on are ahead. */
static struct walk_source *next_source(struct stack_walk *walk, uint32_t first)
{
    struct walk_source *best = NULL;

    for (uint32_t i = first; i < walk->source_count; i++) {
        struct walk_source *source = &walk->sources[i];

        if (source->status != KM_END && (!best || comes_first(walk, source->key, best->key)))
            best = source;
    }
    return best;
}

/* The sources from `first` on pass the next key; *out is the one to believe. */
static km_status pass_next(km_cursor *cursor, uint32_t first, int is_down, struct walk_source **out)
{
    struct stack_walk *walk = cursor->walk;
    km_status rc = turn_walk(cursor, is_down);

    for (uint32_t i = first; !rc && i < walk->source_count; i++)
        rc = look_ahead(cursor, &walk->sources[i], is_down);
    if (rc)
        return rc;
    *out = next_source(walk, first);
    if (!*out)
        return KM_END;
    for (uint32_t i = first; i < walk->source_count; i++) {
        struct walk_source *source = &walk->sources[i];

        if (source != *out && source->status != KM_END &&
            km__cursor_compare(source->key, (*out)->key) == 0)
            source->has_ahead = 0;
    }
    (*out)->has_ahead = 0;
    return KM_OK;
}

static km_status note_returned(struct stack_walk *walk, const struct walk_source *source)
{
    km_key_info info = {0, 0, 0};
    km_status rc = KM_OK;

    if (source->table) {
        info.version = source->table->version;
        info.value_size = source->value.size;
    } else {
        rc = km__cursor_own_info(source->cursor, &info);
    }
    walk->version = info.version;
    walk->expires_ms = info.expires_ms;
    walk->value_size = (uint32_t)source->value.size;
    walk->has_last = rc == KM_OK;
    return rc;
}

/* ---- what the map has itself, for a table's key ------------------------------------------ */

/* Whether the tables of the walk are still under the map, whatever else is: I3. A snapshot keeps
 * them. The lowest one stays as long as any. */
static int is_attached(const km_cursor *cursor)
{
    const struct table_stack *was = cursor->walk->stack, *now = km__tables_of(cursor->map);

    return now && now->tables[now->count - 1] == was->tables[was->count - 1];
}

static km_status find_own(const km_cursor *cursor, km_bytes key, struct found *out)
{
    const km_map *map = cursor->map;
    uint64_t hash = km__hash_key(&map->store->secret, key.data, key.size);

    return cursor->snapshot ? km__find_in_snapshot(cursor->snapshot, map, hash, key, out)
                            : km__find_in_map(map, hash, key, out);
}

/* The value that the map itself has for a key of a table. KM_OK: it has none; KM_EXISTS: it is in
 * walk->found_value; KM_NOT_FOUND: the key is hidden, or has expired. */
static km_status ask_map(km_cursor *cursor, km_bytes key)
{
    struct stack_walk *walk = cursor->walk;
    km_key_info info = {0, 0, 0};
    struct found found;
    km_status rc;

    km__epoch_enter();
    rc = find_own(cursor, key, &found);
    if (!rc && km__is_expired(cursor->map->store, &found.record)) {
        rc = KM_NOT_FOUND;
    } else if (rc == KM_NOT_FOUND) {
        rc = KM_OK;
    } else if (!rc) {
        rc = km__copy_to_buffer(&walk->found_value, found.record.value, found.record.value_size);
        km__fill_info(cursor->map->store, found.ref, &found.record, &info);
        walk->version = info.version;
        walk->expires_ms = info.expires_ms;
        walk->value_size = found.record.value_size;
        rc = rc ? rc : KM_EXISTS;
    }
    km__epoch_leave();
    return rc;
}

/* Of a table's key: KM_OK, with the value to believe; KM_NOT_FOUND: it is not there. */
static km_status judge_table_key(km_cursor *cursor, const struct walk_source *source,
                                 km_bytes *out_value)
{
    struct stack_walk *walk = cursor->walk;
    km_status rc = ask_map(cursor, source->key);

    if (rc == KM_EXISTS) {
        *out_value = km_bytes_of(walk->found_value.data, walk->found_value.size);
        walk->has_last = 1;
        return KM_OK;
    }
    if (rc)
        return rc;
    if (!is_attached(cursor))
        return KM_NOT_FOUND;
    *out_value = source->value;
    return note_returned(walk, source);
}

/* ---- KM_SORTED --------------------------------------------------------------------------- */

/* The own cursor has looked at the map before. */
static km_status judge_sorted(km_cursor *cursor, const struct walk_source *source,
                              km_bytes *out_value)
{
    if (source->status == CURSOR_HIDDEN)
        return KM_NOT_FOUND;
    if (source->table && KM_UNLIKELY(!is_attached(cursor)))
        return judge_table_key(cursor, source, out_value);
    *out_value = source->value;
    return note_returned(cursor->walk, source);
}

static km_status move_sorted(km_cursor *cursor, int is_down, km_bytes *out_key, km_bytes *out_value)
{
    struct walk_source *source = NULL;
    km_status rc;

    do { /* ends: the sources move on */
        rc = pass_next(cursor, 0, is_down, &source);
        if (!rc)
            rc = judge_sorted(cursor, source, out_value);
    } while (rc == KM_NOT_FOUND);
    if (!rc)
        *out_key = source->key;
    return rc;
}

/* ---- KM_HASH ----------------------------------------------------------------------------- */

/* KM_END: all keys of the tables were met. */
static km_status move_in_tables(km_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    struct walk_source *source = NULL;
    km_status rc;

    do { /* ends: the sources move on */
        rc = pass_next(cursor, 1, 0, &source);
        if (!rc)
            rc = judge_table_key(cursor, source, out_value);
    } while (rc == KM_NOT_FOUND);
    if (!rc)
        *out_key = source->key;
    return rc;
}

static km_status move_in_map(km_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    struct stack_walk *walk = cursor->walk;
    struct walk_source *source = &walk->sources[0];
    const struct stacked_table *table;
    km_bytes value;
    km_status rc;

    for (;;) { /* ends: the source moves on */
        rc = move_source(cursor, source, 0);
        if (rc == CURSOR_HIDDEN)
            continue;
        if (!rc)
            rc = km__tables_find(walk->stack, source->key, &table, &value);
        if (rc == KM_NOT_FOUND)
            break;
        if (rc)
            return rc;
    }
    *out_key = source->key;
    *out_value = source->value;
    return note_returned(walk, source);
}

static km_status move_unordered(km_cursor *cursor, km_bytes *out_key, km_bytes *out_value)
{
    struct stack_walk *walk = cursor->walk;
    km_status rc = KM_END;

    if (!walk->is_in_map)
        rc = move_in_tables(cursor, out_key, out_value);
    if (rc != KM_END)
        return rc;
    walk->is_in_map = 1;
    return move_in_map(cursor, out_key, out_value);
}

/* ---- for store_cursor.c ------------------------------------------------------------------ */

km_status km__stack_walk_move(km_cursor *cursor, int is_down, km_bytes *out_key,
                              km_bytes *out_value)
{
    km_bytes key, value;
    km_status rc;

    cursor->walk->has_last = 0;
    if (cursor->walk->failed)
        return cursor->walk->failed;
    rc = cursor->map->tree ? move_sorted(cursor, is_down, &key, &value)
                           : move_unordered(cursor, &key, &value);
    if (rc)
        return rc;
    if (out_key)
        *out_key = key;
    if (out_value)
        *out_value = value;
    return KM_OK;
}

km_status km__stack_walk_info(const km_cursor *cursor, km_key_info *out_info)
{
    const struct stack_walk *walk = cursor->walk;

    if (!walk->has_last)
        return KM_NOT_FOUND;
    out_info->version = walk->version;
    out_info->expires_ms = walk->expires_ms;
    out_info->value_size = walk->value_size;
    return KM_OK;
}

km_status km__stack_walk_seek(km_cursor *cursor, km_bytes key)
{
    struct stack_walk *walk = cursor->walk;
    km_status rc = KM_OK;

    walk->has_last = 0;
    for (uint32_t i = 0; !rc && i < walk->source_count; i++) {
        struct walk_source *source = &walk->sources[i];

        source->has_ahead = 0;
        rc = source->cursor ? km_cursor_seek(source->cursor, key)
                            : km_sealed_cursor_seek(source->sealed_cursor, key);
    }
    walk->failed = rc;
    return rc;
}

static km_status open_table_source(const km_cursor *cursor, const km_range *range,
                                   const struct stacked_table *table, struct walk_source *source)
{
    km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;

    if (cursor->map->tree && range)
        options.range = *range;
    options.reverse = cursor->is_reverse;
    source->table = table;
    return km_sealed_cursor_open(table->sealed, &options, &source->sealed_cursor);
}

/* The own cursor of the map is opened like the one that the walk is for, but without a walk. */
km_status km__stack_walk_open(km_cursor *cursor, const struct table_stack *stack,
                              const km_cursor_options *options)
{
    const struct allocator *allocator = cursor->map->store->allocator;
    struct stack_walk *walk = km__allocate(allocator, sizeof(*walk)); /* zeroed */
    km_status rc;

    cursor->walk = walk;
    if (!walk)
        return KM_E_NO_MEMORY;
    walk->stack = stack;
    walk->source_count = walk->stack->count + 1;
    walk->is_down = cursor->is_reverse;
    rc = km__cursor_open_own(cursor->map, options, &walk->sources[0].cursor);
    for (uint32_t i = 0; !rc && i < walk->stack->count; i++)
        rc = open_table_source(cursor, &options->range, walk->stack->tables[i],
                               &walk->sources[i + 1]);
    return rc;
}

void km__stack_walk_close(km_cursor *cursor)
{
    struct stack_walk *walk = cursor->walk;

    if (!walk)
        return;
    for (uint32_t i = 0; i < walk->source_count; i++) {
        km_cursor_close(walk->sources[i].cursor);
        km_sealed_cursor_close(walk->sources[i].sealed_cursor);
    }
    km_buffer_free(&walk->found_value);
    km__release(cursor->map->store->allocator, walk, sizeof(*walk));
}
