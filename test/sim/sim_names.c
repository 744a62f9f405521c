/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_names.c -- more names for a file, and folders removed and exchanged.
 *
 * A file with several names is one node that several bindings hold: nothing else knows of links.
 */
#include "sim/sim_internal.h"

#include <errno.h>

static km_status apply_link(struct sim *sim, struct sim_call *call)
{
    struct sim_node *node;
    km_status rc = km__sim_check_name(call, call->name);

    if (rc)
        return rc;
    rc = km__sim_check_name(call, call->to);
    if (rc)
        return rc;
    node = km__sim_names_find(&call->node->names, call->name);
    if (!node)
        return km__sim_fail_lookup(call, ENOENT);
    if (node->is_dir)
        return km__sim_fail(call, KM_E_INVALID, EISDIR);
    if (call->to_node->sim != sim)
        return km__sim_fail(call, KM_E_UNSUPPORTED, EXDEV);
    if (km__sim_names_find(&call->to_node->names, call->to))
        return km__sim_fail(call, KM_EXISTS, EEXIST);
    if (call->to_node->link_count == 0)
        return km__sim_fail_lookup(call, ENOENT); /* the folder itself was removed */
    km__sim_bind(call->to_node, call->to, node, ++sim->stamp);
    return KM_OK;
}

km_status km__sim_link(struct os_dir *from_dir, const char *from, struct os_dir *to_dir,
                       const char *to)
{
    struct sim_call call = {.op = SIM_LINK,
                            .apply = apply_link,
                            .node = from_dir->node,
                            .name = from,
                            .to_node = to_dir->node,
                            .to = to};

    return km__sim_call(from_dir->sim, &call, NULL);
}

static km_status apply_remove_subdir(struct sim *sim, struct sim_call *call)
{
    struct sim_node *node;
    km_status rc = km__sim_check_name(call, call->name);

    if (rc)
        return rc;
    node = km__sim_names_find(&call->node->names, call->name);
    if (!node)
        return km__sim_fail_lookup(call, ENOENT);
    if (!node->is_dir)
        return km__sim_fail(call, KM_E_INVALID, ENOTDIR);
    if (node->names.count > 0)
        return km__sim_fail(call, KM_E_INVALID, ENOTEMPTY);
    km__sim_bind(call->node, call->name, NULL, ++sim->stamp);
    return KM_OK;
}

km_status km__sim_remove_subdir(struct os_dir *dir, const char *name)
{
    struct sim_call call = {
        .op = SIM_RMDIR, .apply = apply_remove_subdir, .node = dir->node, .name = name};

    return km__sim_call(dir->sim, &call, NULL);
}

/* The folder that `path` names, and in *out_parent the one it is in; NULL: call says why not. */
static struct sim_node *find_folder(struct sim *sim, struct sim_call *call, const char *path,
                                    char name[SIM_NAME_MAX + 1], struct sim_node **out_parent)
{
    struct sim_node *node = NULL;

    call->os_error = ENOENT;
    *out_parent = km__sim_resolve_parent(sim, path, name, &call->os_error);
    if (*out_parent)
        node = km__sim_names_find(&(*out_parent)->names, name);
    if (node && !node->is_dir) {
        call->os_error = ENOTDIR;
        node = NULL;
    }
    return node;
}

/* With the sync of the folder above: journals swap both names in one transaction, so no cut finds
 * one name without the other. */
static km_status apply_exchange(struct sim *sim, struct sim_call *call)
{
    char name_a[SIM_NAME_MAX + 1];
    char name_b[SIM_NAME_MAX + 1];
    struct sim_node *parent_a;
    struct sim_node *parent_b;
    struct sim_node *a = find_folder(sim, call, call->name, name_a, &parent_a);
    struct sim_node *b = a ? find_folder(sim, call, call->to, name_b, &parent_b) : NULL;

    if (!b)
        return km__sim_fail_lookup(call, call->os_error);
    if (parent_a != parent_b)
        return km__sim_fail(call, KM_E_INVALID, EINVAL);
    sim->stamp++;
    km__sim_node_hold(a); /* while no name has it */
    km__sim_bind(parent_a, name_a, b, sim->stamp);
    km__sim_bind(parent_a, name_b, a, sim->stamp);
    km__sim_node_release(a);
    km__sim_node_sync(parent_a);
    km__sim_lap_all(sim);
    return KM_OK;
}

km_status km__sim_exchange(struct os *os, const char *path_a, const char *path_b)
{
    struct sim_call call = {
        .op = SIM_EXCHANGE, .apply = apply_exchange, .name = path_a, .to = path_b};

    return km__sim_call(km__sim_of(os), &call, NULL);
}
