/* SPDX-License-Identifier: Apache-2.0
 *
 * store_attach.c -- attach sealed tables to a map and detach them. A file in the store's folder,
 * whose name tells of which map (store_table_names.c), is what says that a table is attached: no
 * record of the log does.
 *
 * I1. A file gets such a name when it is whole, synced, and the map itself is durable. So a table
 *     belongs to its map after any crash.
 * I2. The version lies within a mark that is written for it, and durable before the name is. So it
 *     is no position of a record, below that of each record written later, and no other table's:
 *     no key has the same version twice.
 * I3. Names are taken away from above, so those that a crash leaves are a stack, with its count.
 * I4. While a stack is given to a map, no change of the map goes on, and no snapshot is open.
 * I5. One table is attached, or one map's detached, at a time: attach_lock.
 * I6. What was put over tables is durable before they are detached, and nothing is put while their
 *     names are taken away: so no delete that hid nothing is followed by a crash after which the
 *     tables are there.
 */
#include "store/store_attach_internal.h"
#include "store/store_backup_internal.h"
#include "store/store_view.h"

#define BUSY_MESSAGE "a snapshot is open, or a backup is being written: tables must stay"

/* ---- giving a map its stack --------------------------------------------------------------- */

/* Keep every change of a map out, and snapshots from being taken: I4. KM_BUSY: one is open, or a
 * backup is written; KM_E_DROPPED. Unlock after an error too. */
static km_status lock_stack(km_map *map)
{
    struct km_store *store = map->store;

    km__mutex_lock(&store->catalogue_lock);
    km__maps_lock_partitions(map);
    km__mutex_lock(&store->snapshots.lock);
    /* relaxed, both: set under catalogue_lock; under snapshots.lock */
    if (atomic_load_explicit(&map->dropped, memory_order_relaxed))
        return KM_E_DROPPED;
    return atomic_load_explicit(&store->snapshots.count, memory_order_relaxed) || store->table_holds
               ? KM_BUSY
               : KM_OK;
}

static void unlock_stack(km_map *map)
{
    km__mutex_unlock(&map->store->snapshots.lock);
    km__maps_unlock_partitions(map);
    km__mutex_unlock(&map->store->catalogue_lock);
}

static km_status give_stack(km_map *map, struct table_stack *stack)
{
    uint64_t overlap = 0;
    km_status rc = lock_stack(map);

    if (!rc)
        rc = km__tables_count_overlap(map, stack, &overlap);
    if (!rc)
        km__stack_set(map, stack, overlap);
    unlock_stack(map);
    return rc;
}

void km__tables_hold(struct km_store *store)
{
    km__mutex_lock(&store->snapshots.lock);
    store->table_holds++;
    km__mutex_unlock(&store->snapshots.lock);
}

void km__tables_let_go(struct km_store *store)
{
    km__mutex_lock(&store->snapshots.lock);
    store->table_holds--;
    km__mutex_unlock(&store->snapshots.lock);
}

/* ---- files ------------------------------------------------------------------------------- */

/* Split a path into the folder, opened, and the name in it. */
static km_status open_folder_of(struct os *os, const char *path, struct os_dir **out_dir,
                                const char **out_name)
{
    const char *slash = strrchr(path, '/');
    size_t size = slash ? (size_t)(slash - path) + 1 : 0;
    char *folder = km__allocate(&os->allocator, size + 2); /* zeroed */
    km_status rc;

    if (!folder)
        return KM_E_NO_MEMORY;
    memcpy(folder, size ? path : ".", size ? size : 1);
    rc = os->ops->open_dir(os, folder, out_dir);
    km__release(&os->allocator, folder, size + 2);
    *out_name = path + size;
    return rc;
}

static km_status copy_table(struct km_store *store, struct os_dir *dir, const char *name,
                            km_error *error)
{
    struct copier copier = {.os = store->os, .error = error};
    struct copy_source source = {0};
    km_status rc = km__copier_init(&copier);

    if (!rc) {
        rc = store->os->ops->open_file(dir, name, OS_OPEN_READ, &source.file);
        if (!rc)
            rc = store->os->ops->file_size(source.file, &source.size);
        source.file_size = source.size;
        rc = rc ? km__attach_failed(store, error, rc, "cannot open the table")
                : km__copy_to(&copier, &source, store->dir, TABLE_NEW_NAME);
    }
    store->os->ops->close_file(source.file);
    km__copier_fini(&copier);
    return rc;
}

/* Nobody knows whether whoever made the file has synced it. */
static km_status sync_table(struct km_store *store)
{
    struct os_file *file = NULL;
    km_status rc = store->os->ops->open_file(store->dir, TABLE_NEW_NAME, OS_OPEN_READ, &file);

    if (!rc)
        rc = store->os->ops->sync(file);
    store->os->ops->close_file(file);
    return rc;
}

/* Let the store's folder have the file, as TABLE_NEW_NAME: a link, or a copy. */
static km_status take_file(struct km_store *store, struct os_dir *dir, const char *name,
                           km_error *error)
{
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    km__ignore(ops->unlink(store->dir, TABLE_NEW_NAME), "what a crash left, if anything");
    rc = ops->link(dir, name, store->dir, TABLE_NEW_NAME);
    if (rc == KM_E_UNSUPPORTED)
        return copy_table(store, dir, name, error);
    if (rc == KM_NOT_FOUND)
        return km__fail(error, rc, NULL, 0, 0, "there is no table %s", name);
    if (!rc)
        rc = sync_table(store);
    return rc ? km__attach_failed(store, error, rc, "cannot link the table into the store's folder")
              : KM_OK;
}

/* ---- names that an error has left --------------------------------------------------------- */

static int is_of_stack(const struct table_stack *stack, const char *name)
{
    int found = 0;

    for (uint32_t i = 0; !found && stack && i < stack->count; i++)
        found = strcmp(stack->tables[i]->name, name) == 0;
    return found;
}

/* I3. The names of the map's tables that are attached are counted. */
static km_status remove_unattached(km_map *map, const struct table_list *list,
                                   uint32_t *attached_count)
{
    const struct km_store *store = map->store;
    const struct os_ops *ops = store->os->ops;
    char text[TABLE_NAME_SIZE];
    km_status rc = KM_OK;

    for (size_t i = list->count; !rc && i > 0; i--) {
        km__table_name_write(&list->names[i - 1], text);
        if (list->names[i - 1].map_id != map->id)
            continue;
        if (is_of_stack(km__tables_of(map), text)) {
            ++*attached_count;
            continue;
        }
        rc = ops->unlink(store->dir, text);
        if (!rc)
            rc = ops->sync_dir(store->dir);
    }
    return rc ? rc : ops->sync_dir(store->dir); /* of one that is gone, but not durably */
}

static void set_has_strays(km_map *map, int has_strays)
{
    /* relaxed: published with the tables; see km__hides_stay() */
    atomic_store_explicit(&map->has_strays, has_strays, memory_order_relaxed);
}

/* After an error of an earlier call: take the names away from tables of the map that are not
 * attached. KM_CONFLICT: those that are attached have not all their names any more. */
static km_status remove_strays(km_map *map)
{
    struct km_store *store = map->store;
    const struct table_stack *stack = km__tables_of(map);
    struct table_list list = {.allocator = store->allocator};
    uint32_t attached_count = 0;
    km_status rc;

    /* relaxed: changed under attach_lock */
    if (!store->dir || !atomic_load_explicit(&map->has_strays, memory_order_relaxed))
        return KM_OK;
    rc = km__table_list_read(store->os, store->dir, &list);
    if (!rc)
        rc = remove_unattached(map, &list, &attached_count);
    km__table_list_free(&list);
    if (!rc && stack && attached_count != stack->count)
        return KM_CONFLICT;
    if (!rc)
        set_has_strays(map, 0);
    return rc;
}

/* ---- attaching --------------------------------------------------------------------------- */

struct attaching {
    km_map *map;
    struct km_store *store;
    km_error *error;
    struct table_stack *stack;
    struct table_name name;
};

static uint32_t top_number(const km_map *map)
{
    const struct table_stack *stack = km__tables_of(map);
    struct table_name name;

    return stack && km__table_name_read(stack->own->name, &name) ? name.number : 0;
}

static km_status check_room(const km_map *map, km_error *error)
{
    const struct table_stack *stack = km__tables_of(map);

    if (stack && stack->count == KM_ATTACHED_MAX)
        return km__fail(error, KM_E_LIMIT, NULL, 0, 0,
                        "the map has %u tables: seal it to make one of them", KM_ATTACHED_MAX);
    return KM_OK;
}

static km_status check_attachable(const km_map *map, km_error *error)
{
    km_status rc = km__check_writable(map->store);

    if (!rc && km__epoch_ongoing())
        rc = KM_WOULD_BLOCK;
    if (rc)
        return km__fail(error, rc, NULL, 0, 0, "the store cannot be changed now");
    if (map->order)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0,
                        "a table has no insertion order: attach it to a map of another kind");
    return KM_OK;
}

/* The table is open: build the stack, and find the name that its file is to get. */
static km_status plan_stack(struct attaching *attaching, km_sealed *sealed)
{
    km_map *map = attaching->map;
    struct km_store *store = attaching->store;
    km_status rc = km__table_check(sealed, attaching->error);

    if (rc) {
        km_sealed_close(sealed);
        return rc;
    }
    rc = km__stack_create(map, sealed, attaching->name.version, &attaching->stack);
    if (!rc)
        rc = km__tables_count_keys(attaching->stack, &attaching->stack->key_count);
    if (rc)
        return km__fail(attaching->error, rc, NULL, 0, 0, "the tables' keys cannot be counted");
    attaching->name.map_id = map->id;
    attaching->name.number = top_number(map) + 1;
    attaching->name.key_count = attaching->stack->key_count;
    if (store->dir) /* in memory it has none */
        km__table_name_write(&attaching->name, attaching->stack->own->name);
    return KM_OK;
}

static km_status give_or_tell(struct attaching *attaching)
{
    km_status rc = give_stack(attaching->map, attaching->stack);

    if (rc == KM_BUSY)
        return km__fail(attaching->error, rc, NULL, 0, 0, BUSY_MESSAGE);
    if (rc)
        return km__fail(attaching->error, rc, NULL, 0, 0, "the table cannot be attached");
    attaching->stack = NULL;
    return KM_OK;
}

/* I1. If it fails and the name cannot be taken away, after a crash the table may be attached. */
static km_status name_and_give(struct attaching *attaching)
{
    struct km_store *store = attaching->store;
    const struct os_ops *ops = store->os->ops;
    km_status rc;

    set_has_strays(attaching->map, 1);
    rc = ops->rename(store->dir, TABLE_NEW_NAME, attaching->stack->own->name);
    if (!rc)
        rc = ops->sync_dir(store->dir);
    rc = rc ? km__attach_failed(store, attaching->error, rc, "cannot make the table's name durable")
            : give_or_tell(attaching);
    if (rc)
        km__ignore(remove_strays(attaching->map), "the next attaching or detaching does it");
    else
        set_has_strays(attaching->map, 0);
    return rc;
}

/* One try; KM_WOULD_BLOCK if the log has no room now. */
static km_status try_mark(struct log *log, uint64_t size, uint64_t *out_version)
{
    struct record mark = {.kind = RECORD_MARK, .value_size = 8};
    struct log_space space;
    uint8_t value[8];
    km_status rc;

    km__store64(value, km__log_durable(log));
    km__epoch_enter();
    rc = km__log_reserve(log, size, LOG_CLASS_INTERNAL, &space);
    if (!rc) {
        struct log_payload payload = {value, NULL,
                                      km__record_payload_crc(value, sizeof(value), NULL, 0)};

        km__log_write_record(log, &space, 0, &mark, &payload);
        *out_version = space.position + 7; /* records begin at multiples of 8 */
        km__log_finish(log, &space);
    }
    km__epoch_leave();
    return rc;
}

/* I2 */
static km_status take_version(struct km_store *store, uint64_t *out_version)
{
    uint64_t size = km__record_size(0, 8, 0);
    km_status rc;

    for (;;) { /* ends when there is room, or none to be had */
        rc = try_mark(store->log, size, out_version);
        if (rc != KM_WOULD_BLOCK)
            return rc;
        rc = km__wait_room(store, size, LOG_CLASS_INTERNAL);
        if (rc)
            return rc;
    }
}

/* In the order of I1. What hid keys of tables that are detached must not hide those of this one,
 * after a power cut neither. */
static km_status prepare_map(struct attaching *attaching)
{
    km_map *map = attaching->map;
    struct km_store *store = attaching->store;
    km_status rc = check_room(map, attaching->error);

    if (rc)
        return rc;
    rc = remove_strays(map);
    if (rc == KM_CONFLICT)
        return km__fail(attaching->error, KM_E_IO, NULL, 0, 0,
                        "the map's tables could not be detached before: detach them first");
    if (!rc)
        rc = km__map_load_nodes(map); /* give_stack() walks over them with the partitions locked */
    if (!rc && !km__tables_of(map))
        rc = km__expire_map(map);
    if (!rc)
        rc = take_version(store, &attaching->name.version);
    if (!rc && store->dir)
        rc = km__log_sync(store->log);
    return rc ? km__fail(attaching->error, rc, NULL, 0, 0, "the map cannot be made ready") : KM_OK;
}

static km_status adopt_locked(km_map *map, struct os_dir *dir, const char *name, km_error *error)
{
    struct attaching attaching = {.map = map, .store = map->store, .error = error};
    km_sealed *sealed = NULL;
    km_status rc = prepare_map(&attaching);

    if (!rc)
        rc = take_file(map->store, dir, name, error);
    if (!rc)
        rc = km__sealed_open_at(map->store->os, map->store->dir, TABLE_NEW_NAME, NULL, &sealed,
                                error);
    if (!rc)
        rc = plan_stack(&attaching, sealed);
    if (!rc)
        rc = name_and_give(&attaching);
    if (rc)
        km__ignore(map->store->os->ops->unlink(map->store->dir, TABLE_NEW_NAME),
                   "the next attempt does it");
    km__stack_destroy(map->store, attaching.stack);
    return rc;
}

km_status km__tables_adopt(km_map *map, struct os_dir *dir, const char *name, km_error *error)
{
    km_status rc;

    km__mutex_lock(&map->store->attach_lock);
    rc = adopt_locked(map, dir, name, error);
    km__mutex_unlock(&map->store->attach_lock);
    return rc;
}

static km_status attach_in_memory(km_map *map, const char *path, km_error *error)
{
    struct attaching attaching = {.map = map, .store = map->store, .error = error};
    km_sealed *sealed = NULL;
    km_status rc;

    km__mutex_lock(&map->store->attach_lock);
    rc = prepare_map(&attaching);
    if (!rc)
        rc = km__sealed_open(map->store->os, path, NULL, &sealed, error);
    if (!rc)
        rc = plan_stack(&attaching, sealed);
    if (!rc)
        rc = give_or_tell(&attaching);
    km__mutex_unlock(&map->store->attach_lock);
    km__stack_destroy(map->store, attaching.stack);
    return rc;
}

km_status km_attach_sealed(km_map *map, const char *path, km_error *out_error)
{
    struct os *os = map->store->os;
    struct os_dir *dir = NULL;
    const char *name = NULL;
    km_status rc;

    if (!path || !*path)
        return km__fail(out_error, KM_E_INVALID, NULL, 0, 0, "the path is empty");
    rc = check_attachable(map, out_error);
    if (rc)
        return rc;
    if (!map->store->dir)
        return attach_in_memory(map, path, out_error);
    rc = open_folder_of(os, path, &dir, &name);
    rc = rc ? km__fail(out_error, rc, NULL, 0, os->ops->last_error(os),
                       "cannot open the folder of %s", path)
            : km__tables_adopt(map, dir, name, out_error);
    os->ops->close_dir(dir);
    return rc;
}

/* ---- detaching --------------------------------------------------------------------------- */

/* I3. An attempt before this one may have got some way. */
static km_status remove_names(struct km_store *store, const struct table_stack *stack)
{
    const struct os_ops *ops = store->os->ops;
    km_status rc = KM_OK;

    for (uint32_t i = 0; !rc && store->dir && i < stack->count; i++) {
        rc = ops->unlink(store->dir, stack->tables[i]->name);
        if (rc == KM_NOT_FOUND)
            rc = KM_OK;
        if (!rc)
            rc = ops->sync_dir(store->dir);
    }
    return rc;
}

/* I6. If it fails all tables stay attached, whatever names are gone. */
static km_status take_away(km_map *map, const struct table_stack *stack)
{
    struct km_store *store = map->store;
    km_status rc = lock_stack(map);

    if (!rc && store->dir)
        rc = km__log_sync(store->log);
    if (!rc) {
        rc = remove_names(store, stack);
        set_has_strays(map, rc != KM_OK);
    }
    if (!rc)
        km__stack_set(map, NULL, 0);
    unlock_stack(map);
    return rc;
}

/* What an earlier call could not take away goes first. */
static km_status detach_locked(km_map *map, km_error *error)
{
    const struct table_stack *stack = km__tables_of(map);
    km_status rc;

    /* relaxed: changed under the lock */
    if (!stack && !atomic_load_explicit(&map->has_strays, memory_order_relaxed))
        return km__fail(error, KM_NOT_FOUND, NULL, 0, 0, "no table is attached to the map");
    rc = remove_strays(map);
    if ((!rc || rc == KM_CONFLICT) && stack)
        rc = take_away(map, stack);
    if (rc == KM_BUSY || rc == KM_E_DROPPED)
        return km__fail(error, rc, NULL, 0, 0, rc == KM_BUSY ? BUSY_MESSAGE : "the map is dropped");
    if (rc)
        return km__attach_failed(map->store, error, rc,
                                 "the tables' names could not all be removed: detach them again");
    rc = km__expire_map(map);
    return rc ? km__fail(error, rc, NULL, 0, 0, "what hid keys of the tables is still there")
              : KM_OK;
}

km_status km_detach_sealed(km_map *map, km_error *out_error)
{
    struct km_store *store = map->store;
    km_status rc = km__check_writable(store);

    if (!rc && km__epoch_ongoing())
        rc = KM_WOULD_BLOCK;
    if (rc)
        return km__fail(out_error, rc, NULL, 0, 0, "the store cannot be changed now");
    km__mutex_lock(&store->attach_lock);
    rc = detach_locked(map, out_error);
    km__mutex_unlock(&store->attach_lock);
    return rc;
}
