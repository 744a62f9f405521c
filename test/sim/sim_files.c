/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_files.c -- the platform's operations on simulated folders and files.
 *
 * Each is an apply function, which does it under the lock or fails having done nothing, and the
 * entry that the table points at. Handles are allocated before the call, so that none is made in
 * vain.
 */
#include "sim/sim_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int name_is_valid(const char *name)
{
    if (name[0] == '\0' || strchr(name, '/'))
        return 0;
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

km_status km__sim_check_name(struct sim_call *call, const char *name)
{
    if (!name_is_valid(name))
        return km__sim_fail(call, KM_E_INVALID, EINVAL);
    if (strlen(name) > SIM_NAME_MAX)
        return km__sim_fail(call, KM_E_INVALID, ENAMETOOLONG);
    return KM_OK;
}

km_status km__sim_fail_lookup(struct sim_call *call, int os_error)
{
    return km__sim_fail(call, os_error == ENOENT ? KM_NOT_FOUND : KM_E_INVALID, os_error);
}

/* ---- paths ---- */

/* Take the next component of *path into `name`: its size, 0 at the end, -1 if it is too long. */
static int next_component(const char **path, char name[SIM_NAME_MAX + 1])
{
    size_t size;

    *path += strspn(*path, "/");
    size = strcspn(*path, "/");
    if (size > SIM_NAME_MAX)
        return -1;
    memcpy(name, *path, size);
    name[size] = '\0';
    *path += size;
    return (int)size;
}

/* Go from a folder to what `name` stands for in it. */
static struct sim_node *go_down(struct sim_node *node, const char *name, int *out_error)
{
    struct sim_node *next;

    if (!node->is_dir) {
        *out_error = ENOTDIR;
        return NULL;
    }
    if (strcmp(name, ".") == 0)
        return node;
    next = km__sim_names_find(&node->names, name);
    if (!next)
        *out_error = ENOENT;
    return next;
}

struct sim_node *km__sim_resolve(struct sim *sim, const char *path, int *out_error)
{
    struct sim_node *node = sim->root;
    char name[SIM_NAME_MAX + 1];
    int size;

    if (path[0] == '\0') {
        *out_error = ENOENT;
        return NULL;
    }
    while (node && (size = next_component(&path, name)) != 0) {
        if (size < 0) {
            *out_error = ENAMETOOLONG;
            return NULL;
        }
        node = go_down(node, name, out_error);
    }
    return node;
}

struct sim_node *km__sim_resolve_parent(struct sim *sim, const char *path,
                                        char name[SIM_NAME_MAX + 1], int *out_error)
{
    struct sim_node *node = sim->root;
    char next_name[SIM_NAME_MAX + 1];
    int size = next_component(&path, name);

    while (node && size > 0 && (size = next_component(&path, next_name)) > 0) {
        node = go_down(node, name, out_error);
        memcpy(name, next_name, sizeof(next_name));
    }
    if (size < 0) {
        *out_error = ENAMETOOLONG;
        return NULL;
    }
    if (node && !node->is_dir) {
        *out_error = ENOTDIR;
        return NULL;
    }
    return node;
}

/* ---- handles ---- */

static struct os_dir *new_dir(struct sim *sim)
{
    struct os_dir *dir = km__allocate(&sim->os.allocator, sizeof(*dir));

    if (dir)
        dir->sim = sim;
    if (!dir)
        km__sim_set_last_error(ENOMEM);
    return dir;
}

static void use_node(struct sim_node *node)
{
    km__sim_node_hold(node);
    node->user_count++;
}

static void finish_dir(struct sim *sim, struct sim_call *call)
{
    struct os_dir *dir = call->buffer;

    dir->node = call->found;
    use_node(dir->node);
    dir->next = sim->dirs;
    sim->dirs = dir;
}

static km_status open_dir_with(struct sim *sim, struct sim_call *call, struct os_dir **out_dir)
{
    struct os_dir *dir = new_dir(sim);
    km_status rc;

    if (!dir)
        return KM_E_NO_MEMORY;
    call->buffer = dir;
    rc = km__sim_call(sim, call, finish_dir);
    if (rc) {
        km__release(&sim->os.allocator, dir, sizeof(*dir));
    } else {
        *out_dir = dir;
    }
    return rc;
}

void km__sim_close_dir(struct os_dir *dir)
{
    struct sim *sim;
    struct os_dir **link;

    if (!dir)
        return;
    sim = dir->sim;
    km__sim_lock(sim);
    for (link = &sim->dirs; *link && *link != dir; link = &(*link)->next) {
    }
    if (!*link)
        km__sim_abort("close of a folder that is not open");
    *link = dir->next;
    dir->node->user_count--;
    km__sim_node_release(dir->node);
    km__release(&sim->os.allocator, dir, sizeof(*dir));
    km__sim_unlock(sim);
}

static void finish_file(struct sim *sim, struct sim_call *call)
{
    struct os_file *file = call->buffer;

    file->node = call->found;
    file->is_writable = call->mode != OS_OPEN_READ;
    use_node(file->node);
    file->next = sim->files;
    sim->files = file;
}

void km__sim_close_file(struct os_file *file)
{
    struct sim *sim;
    struct os_file **link;

    if (!file)
        return;
    sim = file->sim;
    km__sim_lock(sim);
    for (link = &sim->files; *link && *link != file; link = &(*link)->next) {
    }
    if (!*link)
        km__sim_abort("close of a file that is not open");
    *link = file->next;
    free(file->byte_locks); /* its locks end with it */
    file->node->user_count--;
    km__sim_node_release(file->node);
    km__release(&sim->os.allocator, file, sizeof(*file));
    km__sim_unlock(sim);
}

/* ---- folders ---- */

static km_status apply_open_dir(struct sim *sim, struct sim_call *call)
{
    int os_error = 0;

    call->found = km__sim_resolve(sim, call->name, &os_error);
    if (!call->found)
        return km__sim_fail_lookup(call, os_error);
    if (!call->found->is_dir)
        return km__sim_fail(call, KM_E_INVALID, ENOTDIR);
    return KM_OK;
}

km_status km__sim_open_dir(struct os *os, const char *path, struct os_dir **out_dir)
{
    struct sim_call call = {.op = SIM_OPEN_DIR, .apply = apply_open_dir, .name = path};

    return open_dir_with(km__sim_of(os), &call, out_dir);
}

static km_status apply_open_subdir(struct sim *sim, struct sim_call *call)
{
    km_status rc = km__sim_check_name(call, call->name);

    (void)sim;
    if (rc)
        return rc;
    call->found = km__sim_names_find(&call->node->names, call->name);
    if (!call->found)
        return km__sim_fail_lookup(call, ENOENT);
    if (!call->found->is_dir)
        return km__sim_fail(call, KM_E_INVALID, ENOTDIR);
    return KM_OK;
}

km_status km__sim_open_subdir(struct os_dir *dir, const char *name, struct os_dir **out_dir)
{
    struct sim_call call = {
        .op = SIM_OPEN_SUBDIR, .apply = apply_open_subdir, .node = dir->node, .name = name};

    return open_dir_with(dir->sim, &call, out_dir);
}

static km_status bind_new(struct sim *sim, struct sim_call *call, struct sim_node *dir,
                          const char *name, int is_dir)
{
    if (km__sim_names_find(&dir->names, name))
        return km__sim_fail(call, KM_EXISTS, EEXIST);
    if (dir->link_count == 0)
        return km__sim_fail_lookup(call, ENOENT); /* the folder itself was removed */
    call->found = km__sim_node_create(sim, is_dir);
    km__sim_bind(dir, name, call->found, ++sim->stamp);
    return KM_OK;
}

static km_status apply_create_dir(struct sim *sim, struct sim_call *call)
{
    char name[SIM_NAME_MAX + 1];
    int os_error = 0;
    struct sim_node *parent = km__sim_resolve_parent(sim, call->name, name, &os_error);

    if (!parent)
        return km__sim_fail_lookup(call, os_error);
    if (call->name[0] == '\0')
        return km__sim_fail_lookup(call, ENOENT);
    if (!name_is_valid(name))
        return km__sim_fail(call, KM_EXISTS, EEXIST); /* "/", "a/." */
    call->node = parent;
    return bind_new(sim, call, parent, name, 1);
}

static km_status apply_create_subdir(struct sim *sim, struct sim_call *call)
{
    km_status rc = km__sim_check_name(call, call->name);

    if (rc)
        return rc;
    return bind_new(sim, call, call->node, call->name, 1);
}

km_status km__sim_create_subdir(struct os_dir *dir, const char *name)
{
    struct sim_call call = {
        .op = SIM_CREATE_SUBDIR, .apply = apply_create_subdir, .node = dir->node, .name = name};

    return km__sim_call(dir->sim, &call, NULL);
}

static km_status apply_sync(struct sim *sim, struct sim_call *call)
{
    km__sim_node_sync(call->node);
    km__sim_lap_all(sim);
    return KM_OK;
}

static km_status sync_node(struct sim *sim, struct sim_node *node)
{
    struct sim_call call = {
        .op = node->is_dir ? SIM_SYNC_DIR : SIM_SYNC, .apply = apply_sync, .node = node};

    return km__sim_call(sim, &call, NULL);
}

/* A folder whose name did not become durable is not left behind, to be taken for one that is. */
static void remove_dir(struct sim *sim, const char *path)
{
    char name[SIM_NAME_MAX + 1];
    int os_error = 0;
    struct sim_node *parent;

    km__sim_lock(sim);
    parent = km__sim_resolve_parent(sim, path, name, &os_error);
    if (parent && !sim->is_dead)
        km__sim_bind(parent, name, NULL, ++sim->stamp);
    km__sim_unlock(sim);
}

km_status km__sim_create_dir(struct os *os, const char *path)
{
    struct sim_call call = {.op = SIM_CREATE_DIR, .apply = apply_create_dir, .name = path};
    km_status made = km__sim_call(km__sim_of(os), &call, NULL);
    km_status rc;

    if (made && (made != KM_EXISTS || !call.node))
        return made;
    rc = sync_node(km__sim_of(os), call.node);
    if (rc && !made)
        remove_dir(km__sim_of(os), path);
    return rc ? rc : made;
}

km_status km__sim_sync_dir(struct os_dir *dir)
{
    return sync_node(dir->sim, dir->node);
}

km_status km__sim_sync(struct os_file *file)
{
    return sync_node(file->sim, file->node);
}

/* Copy the names into memory of the machine's allocator, in any order, as a real folder lists them.
 */
static km_status apply_list(struct sim *sim, struct sim_call *call)
{
    const struct sim_names *names = &call->node->names;
    char(*copy)[SIM_NAME_MAX + 1];
    size_t i;

    call->size = names->count;
    copy = km__allocate(&sim->os.allocator, names->count * sizeof(*copy));
    if (!copy)
        return km__sim_fail(call, KM_E_NO_MEMORY, ENOMEM);
    for (i = 0; i < names->count; i++) {
        size_t other = (size_t)km__sim_below(&sim->rng, i + 1);
        memcpy(copy[i], copy[other], sizeof(*copy));
        memcpy(copy[other], names->items[i].name, sizeof(*copy));
    }
    call->buffer = copy;
    return KM_OK;
}

km_status km__sim_list(struct os_dir *dir, km_status (*visit)(void *context, const char *name),
                       void *context)
{
    struct sim_call call = {.op = SIM_LIST, .apply = apply_list, .node = dir->node};
    struct sim *sim = dir->sim;
    char(*names)[SIM_NAME_MAX + 1];
    km_status rc = km__sim_call(sim, &call, NULL);
    size_t i;

    if (rc)
        return rc;
    names = call.buffer;
    for (i = 0; i < call.size && rc == KM_OK; i++) {
        rc = visit(context, names[i]); /* without the lock: it may make calls */
    }
    km__release(&sim->os.allocator, names, call.size * sizeof(*names));
    return rc;
}

static km_status check_rename_target(struct sim_call *call, const struct sim_node *from,
                                     const struct sim_node *to)
{
    if (!to)
        return KM_OK;
    if (to->is_dir && !from->is_dir)
        return km__sim_fail(call, KM_E_INVALID, EISDIR);
    if (from->is_dir && !to->is_dir)
        return km__sim_fail(call, KM_E_INVALID, ENOTDIR);
    if (to->is_dir && to->names.count > 0)
        return km__sim_fail(call, KM_E_IO, ENOTEMPTY);
    return KM_OK;
}

static km_status apply_rename(struct sim *sim, struct sim_call *call)
{
    struct sim_node *from;
    struct sim_node *to;
    km_status rc;

    rc = km__sim_check_name(call, call->name);
    if (rc)
        return rc;
    rc = km__sim_check_name(call, call->to);
    if (rc)
        return rc;
    from = km__sim_names_find(&call->node->names, call->name);
    to = km__sim_names_find(&call->node->names, call->to);
    if (!from)
        return km__sim_fail_lookup(call, ENOENT);
    if (from == to)
        return KM_OK;
    rc = check_rename_target(call, from, to);
    if (rc)
        return rc;
    sim->stamp++; /* one moment, two names: a prefix of the history has both or none */
    km__sim_bind(call->node, call->to, from, sim->stamp);
    km__sim_bind(call->node, call->name, NULL, sim->stamp);
    return KM_OK;
}

km_status km__sim_rename(struct os_dir *dir, const char *from, const char *to)
{
    struct sim_call call = {
        .op = SIM_RENAME, .apply = apply_rename, .node = dir->node, .name = from, .to = to};

    return km__sim_call(dir->sim, &call, NULL);
}

static km_status apply_unlink(struct sim *sim, struct sim_call *call)
{
    struct sim_node *node;
    km_status rc = km__sim_check_name(call, call->name);

    if (rc)
        return rc;
    node = km__sim_names_find(&call->node->names, call->name);
    if (!node)
        return km__sim_fail_lookup(call, ENOENT);
    if (node->is_dir)
        return km__sim_fail(call, KM_E_INVALID, EISDIR);
    km__sim_bind(call->node, call->name, NULL, ++sim->stamp);
    return KM_OK;
}

km_status km__sim_unlink(struct os_dir *dir, const char *name)
{
    struct sim_call call = {
        .op = SIM_UNLINK, .apply = apply_unlink, .node = dir->node, .name = name};

    return km__sim_call(dir->sim, &call, NULL);
}

/* ---- files ---- */

static km_status apply_open_file(struct sim *sim, struct sim_call *call)
{
    km_status rc = km__sim_check_name(call, call->name);

    if (rc)
        return rc;
    if (call->mode == OS_CREATE_NEW)
        return bind_new(sim, call, call->node, call->name, 0);
    call->found = km__sim_names_find(&call->node->names, call->name);
    if (!call->found)
        return km__sim_fail_lookup(call, ENOENT);
    if (call->found->is_dir)
        return km__sim_fail(call, KM_E_INVALID, EISDIR);
    return KM_OK;
}

km_status km__sim_open_file(struct os_dir *dir, const char *name, enum os_open_mode mode,
                            struct os_file **out_file)
{
    struct sim *sim = dir->sim;
    struct os_file *file = km__allocate(&sim->os.allocator, sizeof(*file));
    struct sim_call call = {.op = mode == OS_CREATE_NEW ? SIM_CREATE_FILE : SIM_OPEN_FILE,
                            .apply = apply_open_file,
                            .node = dir->node,
                            .name = name,
                            .mode = (int)mode,
                            .buffer = file};
    km_status rc;

    if (!file) {
        km__sim_set_last_error(ENOMEM);
        return KM_E_NO_MEMORY;
    }
    file->sim = sim;
    rc = km__sim_call(sim, &call, finish_file);
    if (rc) {
        km__release(&sim->os.allocator, file, sizeof(*file));
    } else {
        *out_file = file;
    }
    return rc;
}

static km_status apply_file_size(struct sim *sim, struct sim_call *call)
{
    (void)sim;
    *(uint64_t *)call->buffer = call->node->visible.size;
    return KM_OK;
}

km_status km__sim_file_size(struct os_file *file, uint64_t *out_size)
{
    struct sim_call call = {
        .op = SIM_FILE_SIZE, .apply = apply_file_size, .node = file->node, .buffer = out_size};

    return km__sim_call(file->sim, &call, NULL);
}

static km_status apply_read(struct sim *sim, struct sim_call *call)
{
    uint64_t size = call->node->visible.size;

    (void)sim;
    if (call->size == 0)
        return KM_OK;
    if (call->offset > size || call->size > size - call->offset) {
        return km__sim_fail(call, KM_E_IO, 0);
    }
    km__sim_fold(call->node);
    km__sim_content_read(&call->node->visible, call->offset, call->buffer, (size_t)call->size);
    return KM_OK;
}

km_status km__sim_read_at(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    struct sim_call call = {.op = SIM_READ,
                            .apply = apply_read,
                            .node = file->node,
                            .buffer = buffer,
                            .offset = offset,
                            .size = size};

    return km__sim_call(file->sim, &call, NULL);
}

/* How large the file may become, no more than wanted. */
static uint64_t grow_limit(struct sim *sim, const struct sim_node *node, uint64_t wanted)
{
    uint64_t size = node->visible.size;
    uint64_t used;

    if (sim->capacity == 0 || wanted <= size)
        return wanted;
    used = km__sim_used_bytes(sim);
    if (used >= sim->capacity)
        return size;
    return wanted - size <= sim->capacity - used ? wanted : size + (sim->capacity - used);
}

static km_status apply_write(struct sim *sim, struct sim_call *call)
{
    uint64_t end = call->offset + call->size;
    uint64_t limit;

    if (!call->file->is_writable)
        return km__sim_fail(call, KM_E_IO, EBADF);
    if (end < call->offset || end > INT64_MAX)
        return km__sim_fail(call, KM_E_FULL, EFBIG);
    limit = grow_limit(sim, call->node, end);
    if (limit >= end) {
        km__sim_node_write(call->node, call->offset, call->bytes, (size_t)call->size);
        return KM_OK;
    }
    if (limit > call->offset) { /* a real disk takes what fits, too */
        km__sim_node_write(call->node, call->offset, call->bytes, (size_t)(limit - call->offset));
    }
    return km__sim_fail(call, KM_E_FULL, ENOSPC);
}

km_status km__sim_write_at(struct os_file *file, uint64_t offset, const void *bytes, size_t size)
{
    struct sim_call call = {.op = SIM_WRITE,
                            .apply = apply_write,
                            .node = file->node,
                            .file = file,
                            .bytes = bytes,
                            .offset = offset,
                            .size = size};

    return km__sim_call(file->sim, &call, NULL);
}

static km_status apply_allocate(struct sim *sim, struct sim_call *call)
{
    if (!call->file->is_writable)
        return km__sim_fail(call, KM_E_IO, EBADF);
    if (call->size > INT64_MAX)
        return km__sim_fail(call, KM_E_FULL, EFBIG);
    if (grow_limit(sim, call->node, call->size) < call->size) {
        return km__sim_fail(call, KM_E_FULL, ENOSPC);
    }
    km__sim_node_resize(call->node, call->size);
    return KM_OK;
}

km_status km__sim_allocate(struct os_file *file, uint64_t size)
{
    struct sim_call call = {.op = SIM_ALLOCATE,
                            .apply = apply_allocate,
                            .node = file->node,
                            .file = file,
                            .size = size};

    return km__sim_call(file->sim, &call, NULL);
}
