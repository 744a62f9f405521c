/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_access.c -- the simulated disk from outside: damage, backups, inspection.
 *
 * Changes are made to the visible state and the durable one alike. The history of a file that was
 * written and not synced is left, so a power cut may still bring a version of it back.
 */
#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

static struct sim_node *find_file(struct sim *sim, const char *path)
{
    int os_error = 0;
    struct sim_node *node = km__sim_resolve(sim, path, &os_error);

    return node && !node->is_dir ? node : NULL;
}

/* Lock the machine and find a file; NULL, unlocked, if it is not there. */
static struct sim_node *lock_file(struct os *os, const char *path)
{
    struct sim *sim = km__sim_of(os);
    struct sim_node *node;

    km__sim_lock(sim);
    node = find_file(sim, path);
    if (node)
        km__sim_fold(node);
    if (!node)
        km__sim_unlock(sim);
    return node;
}

int km__sim_read_path(struct os *sim, const char *path, uint8_t **out_bytes, size_t *out_size)
{
    struct sim_node *node = lock_file(sim, path);

    if (!node)
        return -1;
    *out_size = (size_t)node->visible.size;
    *out_bytes = km__sim_xalloc(*out_size + 1); /* never NULL, and a NUL after text */
    km__sim_content_read(&node->visible, 0, *out_bytes, *out_size);
    km__sim_unlock(node->sim);
    return 0;
}

/* Drop what happened to a name since the last sync of its folder. */
static void forget_name_history(struct sim_node *dir, const char *name)
{
    struct sim_names kept = {0};
    size_t i;

    for (i = 0; i < dir->name_history.count; i++) {
        const struct sim_binding *change = &dir->name_history.items[i];
        if (strcmp(change->name, name) != 0) {
            km__sim_names_push(&kept, change->name, change->node, change->stamp);
        }
    }
    km__sim_names_clear(&dir->name_history);
    dir->name_history = kept;
}

static void bind_durably(struct sim_node *dir, const char *name, struct sim_node *node)
{
    km__sim_bind(dir, name, node, dir->sim->stamp);
    forget_name_history(dir, name);
    km__sim_names_set(&dir->durable_names, name, node);
}

int km__sim_write_path(struct os *os, const char *path, const void *bytes, size_t size)
{
    struct sim *sim = km__sim_of(os);
    char name[SIM_NAME_MAX + 1];
    int os_error = 0;
    struct sim_node *dir;
    struct sim_node *node;

    km__sim_lock(sim);
    dir = km__sim_resolve_parent(sim, path, name, &os_error);
    if (dir) {
        node = km__sim_node_create(sim, 0);
        km__sim_content_write(&node->visible, 0, bytes, size);
        km__sim_content_copy(&node->durable, &node->visible);
        bind_durably(dir, name, node);
    }
    km__sim_unlock(sim);
    return dir ? 0 : -1;
}

int km__sim_overwrite_path(struct os *sim, const char *path, uint64_t offset, const void *bytes,
                           size_t size)
{
    struct sim_node *node = lock_file(sim, path);

    if (!node)
        return -1;
    km__sim_content_write(&node->visible, offset, bytes, size);
    km__sim_content_write(&node->durable, offset, bytes, size);
    km__sim_update_mappings(node, offset, size);
    km__sim_unlock(node->sim);
    return 0;
}

int km__sim_truncate_path(struct os *sim, const char *path, uint64_t size)
{
    struct sim_node *node = lock_file(sim, path);
    uint64_t old_size;

    if (!node)
        return -1;
    old_size = node->visible.size;
    km__sim_content_resize(&node->visible, size);
    km__sim_content_resize(&node->durable, size);
    if (size < old_size)
        km__sim_update_mappings(node, size, old_size - size);
    km__sim_unlock(node->sim);
    return 0;
}

int km__sim_delete_path(struct os *os, const char *path)
{
    struct sim *sim = km__sim_of(os);
    char name[SIM_NAME_MAX + 1];
    int os_error = 0;
    struct sim_node *dir;
    struct sim_node *node = NULL;

    km__sim_lock(sim);
    dir = km__sim_resolve_parent(sim, path, name, &os_error);
    if (dir)
        node = km__sim_names_find(&dir->names, name);
    if (node && node->is_dir && node->names.count > 0)
        node = NULL;
    if (node)
        bind_durably(dir, name, NULL);
    km__sim_unlock(sim);
    return node ? 0 : -1;
}

int km__sim_flip_bit(struct os *sim, const char *path, uint64_t bit_index)
{
    struct sim_node *node = lock_file(sim, path);
    uint64_t offset = bit_index / 8;
    uint8_t byte;
    int rc = -1;

    if (!node)
        return -1;
    if (offset < node->visible.size) {
        km__sim_content_read(&node->visible, offset, &byte, 1);
        byte ^= (uint8_t)(1u << bit_index % 8);
        rc = km__sim_overwrite_path(sim, path, offset, &byte, 1);
    }
    km__sim_unlock(node->sim);
    return rc;
}

/* ---- listing ---- */

struct listing {
    void (*visit)(void *context, const char *path, uint64_t size);
    void *context;
};

static int compare_bindings(const void *a, const void *b)
{
    const struct sim_binding *const *left = a;
    const struct sim_binding *const *right = b;

    return strcmp((*left)->name, (*right)->name);
}

/* Recursive: as deep as the test's folders, which are few. */
static void list_dir(const struct sim_node *dir, const char *prefix, const struct listing *listing)
{
    size_t count = dir->names.count;
    const struct sim_binding **sorted = km__sim_xalloc((count + 1) * sizeof(*sorted));
    size_t path_size = strlen(prefix) + SIM_NAME_MAX + 2;
    char *path = km__sim_xalloc(path_size);
    size_t i;

    for (i = 0; i < count; i++) {
        sorted[i] = &dir->names.items[i];
    }
    qsort(sorted, count, sizeof(*sorted), compare_bindings);
    for (i = 0; i < count; i++) {
        strcpy(path, prefix);
        if (prefix[0] != '\0')
            strcat(path, "/");
        strcat(path, sorted[i]->name);
        if (sorted[i]->node->is_dir) {
            list_dir(sorted[i]->node, path, listing);
        } else {
            listing->visit(listing->context, path, sorted[i]->node->visible.size);
        }
    }
    free(path);
    free(sorted);
}

void km__sim_list_paths(struct os *os,
                        void (*visit)(void *context, const char *path, uint64_t size),
                        void *context)
{
    struct sim *sim = km__sim_of(os);
    struct listing listing = {visit, context};
    struct os *copy;

    /* Of a copy, so that the visitor may change files. */
    copy = km__sim_clone_after_kill(&sim->os);
    list_dir(km__sim_of(copy)->root, "", &listing);
    km__sim_destroy(copy);
}

uint64_t km__sim_used_bytes(struct sim *sim)
{
    uint64_t used = 0;
    const struct sim_node *node;

    for (node = sim->nodes; node; node = node->next) {
        if (node->link_count > 0 || node->user_count > 0)
            used += node->visible.size;
    }
    return used;
}

uint64_t km__sim_total_bytes(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    uint64_t used;

    km__sim_lock(sim);
    used = km__sim_used_bytes(sim);
    km__sim_unlock(sim);
    return used;
}
