/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_power.c -- clones: the machine as a kill or a power cut would leave it.
 *
 * I1. A clone never changes its origin, nor the origin's random numbers: taking one more clone does
 *     not change what the run does next.
 */
#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- twins: a copy of each node, to which names are then translated */

static void create_twins(struct sim *from, struct sim *to)
{
    struct sim_node *node;

    for (node = from->nodes; node; node = node->next) {
        node->twin = km__sim_node_create(to, node->is_dir);
        km__sim_node_hold(node->twin); /* until drop_unnamed() */
    }
    to->root = from->root->twin;
    to->root->link_count = 1;
    km__sim_node_hold(to->root);
}

static void copy_names(struct sim_names *to, const struct sim_names *from)
{
    size_t i;

    for (i = 0; i < from->count; i++) {
        const struct sim_binding *binding = &from->items[i];
        km__sim_names_push(to, binding->name, binding->node ? binding->node->twin : NULL,
                           binding->stamp);
    }
}

static void count_links(struct sim *sim)
{
    struct sim_node *node;
    size_t i;

    for (node = sim->nodes; node; node = node->next) {
        for (i = 0; i < node->names.count; i++) {
            node->names.items[i].node->link_count++;
        }
    }
}

/* Let go of the twins: those that no name leads to vanish. */
static void drop_unnamed(struct sim *from)
{
    struct sim_node *node;

    for (node = from->nodes; node; node = node->next) {
        km__sim_node_release(node->twin);
        node->twin = NULL;
    }
}

static struct sim *clone_machine(struct sim *from)
{
    struct sim *to = km__sim_new(0);

    to->rng.state = from->rng.state ^ UINT64_C(0x6b696c6c) ^ from->step_count << 32;
    to->stamp = from->stamp;
    to->capacity = from->capacity;
    to->now_ns = from->now_ns;
    to->wall_ms = from->wall_ms;
    to->wall_base_ns = from->wall_base_ns;
    memcpy(to->boot_id, from->boot_id, sizeof(to->boot_id));
    to->process_id = from->process_id + 1;
    memcpy(to->processes, from->processes, sizeof(to->processes));
    return to;
}

static void copy_file(const struct sim_node *from, struct sim_node *to)
{
    size_t i;

    km__sim_content_copy(&to->visible, &from->visible);
    km__sim_content_copy(&to->durable, &from->durable);
    for (i = 0; i < from->history_count; i++) {
        km__sim_write_hold(from->history[i]);
        km__sim_history_push(to, from->history[i]);
    }
    for (i = 0; i < from->lap_count; i++) {
        km__sim_content_copy(&to->laps[i], &from->laps[i]);
    }
    to->lap_count = from->lap_count;
    to->mapped_size = from->mapped_size;
    to->lied = from->lied;
}

/* ---- kills ---- */

/* Make a random prefix of the write that is about to be made, if one is, on the twins. */
static void tear_write(struct sim *from, struct sim_rng *rng)
{
    const struct sim_call *call = from->pending;
    uint64_t size;

    if (!call || call->op != SIM_WRITE || !call->file->is_writable)
        return;
    size = km__sim_below(rng, call->size + 1);
    km__sim_node_write(call->node->twin, call->offset, call->bytes, (size_t)size);
}

/* Undo some of what was stored into a mapped file since its last lap: `keep` says for the n-th
 * changed word whether it stays. With rng NULL only counts them. */
static uint64_t undo_words(struct sim_node *node, uint64_t keep_count, struct sim_rng *rng)
{
    const struct sim_content *lap = &node->laps[node->lap_count - 1];
    uint64_t changed_count = 0;
    uint64_t offset;

    for (offset = 0; offset < node->mapped_size; offset += 8) {
        uint8_t now[8];
        uint8_t before[8];
        int is_kept;

        km__sim_content_read(&node->visible, offset, now, 8);
        km__sim_content_read(lap, offset, before, 8);
        if (memcmp(now, before, 8) == 0)
            continue;
        is_kept = rng ? (int)km__sim_below(rng, 2) : changed_count < keep_count;
        changed_count++;
        if (!is_kept)
            km__sim_content_write(&node->visible, offset, before, 8);
    }
    return changed_count;
}

static void tear_ring(struct sim_node *node, struct sim_rng *rng)
{
    if (node->lap_count == 0)
        return;
    if (km__sim_below(rng, 2) == 0) {
        (void)undo_words(node, 0, rng);
    } else {
        uint64_t changed_count = undo_words(node, UINT64_MAX, NULL);
        (void)undo_words(node, km__sim_below(rng, changed_count + 1), NULL);
    }
}

static void tear_rings(struct sim *from, struct sim_rng *rng)
{
    struct sim_mapping *mapping;

    for (mapping = from->mappings; mapping; mapping = mapping->next) {
        if (mapping->is_shared)
            tear_ring(mapping->node->twin, rng);
    }
}

/* What to tear, by which numbers; NULL: nothing. */
struct tear {
    struct sim_rng *write;
    struct sim_rng *ring;
};

static struct sim *clone_killed(struct sim *from, struct tear tear)
{
    struct sim *to = clone_machine(from);
    struct sim_node *node;

    km__sim_fold_all(from);
    create_twins(from, to);
    for (node = from->nodes; node; node = node->next) {
        copy_file(node, node->twin);
        copy_names(&node->twin->names, &node->names);
        copy_names(&node->twin->durable_names, &node->durable_names);
        copy_names(&node->twin->name_history, &node->name_history);
    }
    count_links(to);
    if (tear.write)
        tear_write(from, tear.write);
    if (tear.ring)
        tear_rings(from, tear.ring);
    drop_unnamed(from);
    return to;
}

static struct os *clone_killed_unlocked(struct os *os, struct tear tear)
{
    struct sim *from = km__sim_of(os);
    struct sim *to;

    km__sim_lock(from);
    to = clone_killed(from, tear);
    km__sim_unlock(from);
    return &to->os;
}

struct os *km__sim_clone_after_kill(struct os *sim)
{
    return clone_killed_unlocked(sim, (struct tear){NULL, NULL});
}

struct os *km__sim_clone_after_kill_torn(struct os *sim, uint64_t seed)
{
    struct sim_rng rng = {seed};

    return clone_killed_unlocked(sim, (struct tear){&rng, NULL});
}

struct os *km__sim_clone_after_kill_torn_ring(struct os *sim, uint64_t seed)
{
    struct sim_rng rng = {seed};

    return clone_killed_unlocked(sim, (struct tear){NULL, &rng});
}

/* ---- power cuts ---- */

static uint64_t oldest_unsynced_stamp(const struct sim *sim)
{
    uint64_t oldest = sim->stamp;
    const struct sim_node *node;

    for (node = sim->nodes; node; node = node->next) {
        if (node->history_count > 0 && node->history[0]->stamp < oldest) {
            oldest = node->history[0]->stamp;
        }
        if (node->name_history.count > 0 && node->name_history.items[0].stamp < oldest) {
            oldest = node->name_history.items[0].stamp;
        }
    }
    return oldest;
}

/* The twin's content after the cut: what was found is durable. */
static void settle_file(const struct sim_node *from, struct sim_node *to, struct sim_choice *choice)
{
    km__sim_choose_content(from, choice, &to->durable);
    km__sim_content_copy(&to->visible, &to->durable);
}

static void settle_dir(const struct sim_node *from, struct sim_node *to, struct sim_choice *choice)
{
    struct sim_names names = {0};

    km__sim_choose_names(from, choice, &names);
    copy_names(&to->names, &names);
    copy_names(&to->durable_names, &names);
    km__sim_names_clear(&names);
}

static struct sim *clone_powerless(struct sim *from, struct sim_rng *rng, enum sim_power mode)
{
    struct sim *to = clone_machine(from);
    struct sim_choice choice = {.rng = rng, .mode = mode};
    uint64_t oldest = oldest_unsynced_stamp(from);
    struct sim_node *node;

    choice.stamp = oldest - (oldest > 0) + km__sim_below(rng, from->stamp - oldest + 2);
    km__sim_fold_all(from);
    create_twins(from, to);
    for (node = from->nodes; node; node = node->next) {
        if (node->is_dir) {
            settle_dir(node, node->twin, &choice);
        } else {
            settle_file(node, node->twin, &choice);
        }
    }
    count_links(to);
    drop_unnamed(from);
    to->wall_ms += (to->now_ns - to->wall_base_ns) / 1000000 + 5000; /* it took a while to boot */
    to->now_ns = UINT64_C(1000000000);
    to->wall_base_ns = to->now_ns;
    km__sim_fill_random(rng, to->boot_id, sizeof(to->boot_id));
    return to;
}

struct os *km__sim_clone_after_power_cut(struct os *os, uint64_t seed, enum sim_power mode)
{
    struct sim *from = km__sim_of(os);
    struct sim_rng rng = {seed};
    struct sim *torn = NULL;
    struct sim *to;

    km__sim_lock(from);
    if (mode == SIM_POWER_RANDOM && from->pending) {
        torn = clone_killed(from, (struct tear){&rng, NULL});
    }
    to = clone_powerless(torn ? torn : from, &rng, mode);
    km__sim_unlock(from);
    if (torn)
        km__sim_destroy(&torn->os);
    return &to->os;
}
