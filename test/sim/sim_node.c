/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_node.c -- files and folders: what is seen, what is durable, and what happened in between.
 *
 * I1. The history of a node holds every change since its last sync, in order of stamps. Unless a
 *     sync failed, applying all of it to the durable state gives the visible one (but for stores
 *     through mappings).
 * I2. The choice after a power cut takes, for each sector, size or name, the durable state or one
 *     version of the history, and nothing else.
 */
#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

static struct sim_binding *find_binding(const struct sim_names *names, const char *name)
{
    size_t i;

    for (i = 0; i < names->count; i++) {
        if (strcmp(names->items[i].name, name) == 0)
            return &names->items[i];
    }
    return NULL;
}

struct sim_node *km__sim_names_find(const struct sim_names *names, const char *name)
{
    struct sim_binding *binding = find_binding(names, name);

    return binding ? binding->node : NULL;
}

void km__sim_names_push(struct sim_names *names, const char *name, struct sim_node *node,
                        uint64_t stamp)
{
    struct sim_binding *binding;

    if (names->count == names->capacity) {
        names->capacity = names->capacity ? 2 * names->capacity : 8;
        names->items = km__sim_xgrow(names->items, names->capacity * sizeof(*names->items));
    }
    binding = &names->items[names->count++];
    memset(binding, 0, sizeof(*binding));
    strcpy(binding->name, name); /* checked where it entered: SIM_NAME_MAX at most */
    binding->node = node;
    binding->stamp = stamp;
    if (node)
        km__sim_node_hold(node);
}

void km__sim_names_set(struct sim_names *names, const char *name, struct sim_node *node)
{
    struct sim_binding *binding = find_binding(names, name);
    struct sim_node *old = binding ? binding->node : NULL;

    if (!binding && node) {
        km__sim_names_push(names, name, node, 0);
    } else if (binding && node) {
        km__sim_node_hold(node);
        binding->node = node;
    } else if (binding) {
        *binding = names->items[--names->count];
    }
    km__sim_node_release(old);
}

void km__sim_names_clear(struct sim_names *names)
{
    size_t i;

    for (i = 0; i < names->count; i++) {
        km__sim_node_release(names->items[i].node);
    }
    free(names->items);
    memset(names, 0, sizeof(*names));
}

void km__sim_names_copy(struct sim_names *to, const struct sim_names *from)
{
    struct sim_names copy = {0};
    size_t i;

    for (i = 0; i < from->count; i++) {
        km__sim_names_push(&copy, from->items[i].name, from->items[i].node, from->items[i].stamp);
    }
    km__sim_names_clear(to);
    *to = copy;
}

void km__sim_bind(struct sim_node *dir, const char *name, struct sim_node *node, uint64_t stamp)
{
    struct sim_node *old = km__sim_names_find(&dir->names, name);

    km__sim_names_push(&dir->name_history, name, node, stamp);
    if (node)
        node->link_count++;
    if (old)
        old->link_count--;
    km__sim_names_set(&dir->names, name, node);
}

/* ---- histories of files ---- */

void km__sim_write_hold(struct sim_write *write)
{
    /* relaxed: who takes a reference has one already */
    atomic_fetch_add_explicit(&write->reference_count, 1, memory_order_relaxed);
}

void km__sim_history_push(struct sim_node *node, struct sim_write *write)
{
    if (node->history_count == node->history_capacity) {
        node->history_capacity = node->history_capacity ? 2 * node->history_capacity : 8;
        node->history = km__sim_xgrow(node->history,
                                      node->history_capacity * sizeof(*node->history));
    }
    node->history[node->history_count++] = write;
}

void km__sim_history_clear(struct sim_node *node)
{
    size_t i;

    for (i = 0; i < node->history_count; i++) {
        struct sim_write *write = node->history[i];
        /* acq_rel: pairs with itself in another machine's thread, whose reads end before the free
         */
        if (atomic_fetch_sub_explicit(&write->reference_count, 1, memory_order_acq_rel) == 1) {
            free(write);
        }
    }
    free(node->history);
    node->history = NULL;
    node->history_count = 0;
    node->history_capacity = 0;
}

static void clear_laps(struct sim_node *node)
{
    size_t i;

    for (i = 0; i < node->lap_count; i++) {
        km__sim_content_clear(&node->laps[i]);
    }
    node->lap_count = 0;
}

/* Keep the sectors of [offset, end) as they are now. */
static void record_write(struct sim_node *node, uint64_t offset, uint64_t end)
{
    uint64_t first = offset / SIM_SECTOR_SIZE;
    uint64_t last = (end + SIM_SECTOR_SIZE - 1) / SIM_SECTOR_SIZE;
    size_t count = end > offset ? (size_t)(last - first) : 0;
    struct sim_write *write = km__sim_xalloc(sizeof(*write) + count * SIM_SECTOR_SIZE);

    atomic_init(&write->reference_count, 1);
    write->stamp = ++node->sim->stamp;
    write->first_sector = first;
    write->sector_count = count;
    write->size_after = node->visible.size;
    km__sim_content_read(&node->visible, first * SIM_SECTOR_SIZE, write->bytes,
                         count * SIM_SECTOR_SIZE);
    km__sim_history_push(node, write);
}

void km__sim_node_write(struct sim_node *node, uint64_t offset, const void *bytes, size_t size)
{
    if (size == 0)
        return;
    km__sim_fold(node);
    km__sim_content_write(&node->visible, offset, bytes, size);
    record_write(node, offset, offset + size);
    km__sim_update_mappings(node, offset, size);
}

void km__sim_node_resize(struct sim_node *node, uint64_t size)
{
    uint64_t old_size = node->visible.size;

    if (size == old_size)
        return;
    km__sim_fold(node);
    km__sim_content_resize(&node->visible, size);
    record_write(node, size < old_size ? size : old_size, size < old_size ? old_size : old_size);
    if (size < old_size)
        km__sim_update_mappings(node, size, old_size - size);
}

static void apply_history(struct sim_node *node)
{
    size_t i;

    for (i = 0; i < node->history_count; i++) {
        const struct sim_write *write = node->history[i];
        km__sim_content_write(&node->durable, write->first_sector * SIM_SECTOR_SIZE, write->bytes,
                              write->sector_count * SIM_SECTOR_SIZE);
        km__sim_content_resize(&node->durable, write->size_after);
    }
}

static void sync_names(struct sim_node *dir)
{
    size_t i;

    for (i = 0; i < dir->name_history.count; i++) {
        const struct sim_binding *change = &dir->name_history.items[i];
        km__sim_names_set(&dir->durable_names, change->name, change->node);
    }
    km__sim_names_clear(&dir->name_history);
}

void km__sim_node_sync(struct sim_node *node)
{
    struct sim_content copy;

    if (node->is_dir) {
        sync_names(node);
        return;
    }
    km__sim_fold(node);
    if (node->lied) {
        apply_history(node); /* what the failed sync lost is clean in the cache: it stays lost */
    } else {
        km__sim_content_copy(&copy, &node->visible);
        km__sim_content_move(&node->durable, &copy);
    }
    km__sim_history_clear(node);
    clear_laps(node);
    node->mapped_size = km__sim_shared_size(node);
}

void km__sim_node_sync_failed(struct sim_node *node, struct sim_rng *rng)
{
    struct sim_choice choice = {.rng = rng, .mode = SIM_POWER_RANDOM};

    if (node->is_dir) {
        struct sim_names names = {0};
        km__sim_choose_names(node, &choice, &names);
        km__sim_names_clear(&node->durable_names);
        node->durable_names = names;
        km__sim_names_clear(&node->name_history);
    } else {
        struct sim_content content = {0};
        km__sim_fold(node);
        km__sim_choose_content(node, &choice, &content);
        km__sim_content_move(&node->durable, &content);
        km__sim_history_clear(node);
        clear_laps(node);
    }
    node->lied = 1;
}

/* ---- choosing ---- */

int km__sim_choose(struct sim_choice *choice, uint64_t stamp, uint32_t seen)
{
    switch (choice->mode) {
    case SIM_POWER_KEPT: return 1;
    case SIM_POWER_PREFIX: return stamp <= choice->stamp;
    case SIM_POWER_SUFFIX: return stamp > choice->stamp;
    case SIM_POWER_RANDOM: return km__sim_below(choice->rng, (uint64_t)seen + 2) == 0;
    case SIM_POWER_LOST:
    default: return 0;
    }
}

static size_t history_sector_count(const struct sim_node *node)
{
    uint64_t end = 0;
    size_t i;

    for (i = 0; i < node->history_count; i++) {
        uint64_t write_end = node->history[i]->first_sector + node->history[i]->sector_count;
        if (write_end > end)
            end = write_end;
    }
    return (size_t)end;
}

static void choose_sectors(const struct sim_write *write, struct sim_choice *choice, uint32_t *seen,
                           struct sim_content *out)
{
    size_t i;

    for (i = 0; i < write->sector_count; i++) {
        uint64_t sector = write->first_sector + i;
        if (km__sim_choose(choice, write->stamp, seen[sector]++)) {
            km__sim_content_write(out, sector * SIM_SECTOR_SIZE, write->bytes + i * SIM_SECTOR_SIZE,
                                  SIM_SECTOR_SIZE);
        }
    }
}

static void copy_sector(struct sim_content *to, const struct sim_content *from, uint64_t sector)
{
    uint8_t bytes[SIM_SECTOR_SIZE];

    km__sim_content_read(from, sector * SIM_SECTOR_SIZE, bytes, sizeof(bytes));
    km__sim_content_write(to, sector * SIM_SECTOR_SIZE, bytes, sizeof(bytes));
}

/* Mix laps and the current content of what is or was mapped shared into `out`, which holds the
 * choice without them. */
static void choose_mapped(const struct sim_node *node, struct sim_choice *choice,
                          struct sim_content *out)
{
    uint64_t sector_count = (node->mapped_size + SIM_SECTOR_SIZE - 1) / SIM_SECTOR_SIZE;
    size_t state_count = node->lap_count + 2; /* 0: the choice so far; 1: current; then laps */
    size_t whole = (size_t)km__sim_below(choice->rng, state_count);
    uint64_t boundary = km__sim_below(choice->rng, sector_count + 1);
    uint64_t i;

    for (i = 0; i < sector_count; i++) {
        size_t state = 0;
        if (choice->mode == SIM_POWER_KEPT)
            state = 1;
        if (choice->mode == SIM_POWER_PREFIX)
            state = whole;
        if (choice->mode == SIM_POWER_SUFFIX)
            state = i < boundary;
        if (choice->mode == SIM_POWER_RANDOM)
            state = (size_t)km__sim_below(choice->rng, state_count);
        if (state > 0)
            copy_sector(out, state == 1 ? &node->visible : &node->laps[state - 2], i);
    }
}

void km__sim_choose_content(const struct sim_node *node, struct sim_choice *choice,
                            struct sim_content *out)
{
    uint32_t *seen = km__sim_xalloc((history_sector_count(node) + 1) * sizeof(*seen));
    uint64_t size = node->durable.size;
    size_t i;

    km__sim_content_copy(out, &node->durable);
    for (i = 0; i < node->history_count; i++) {
        const struct sim_write *write = node->history[i];
        if (km__sim_choose(choice, write->stamp, (uint32_t)i))
            size = write->size_after;
        choose_sectors(write, choice, seen, out);
    }
    if (node->mapped_size > 0)
        choose_mapped(node, choice, out);
    km__sim_content_resize(out, size);
    free(seen);
}

void km__sim_choose_names(const struct sim_node *dir, struct sim_choice *choice,
                          struct sim_names *out)
{
    const struct sim_names *history = &dir->name_history;
    size_t i;
    size_t j;

    km__sim_names_copy(out, &dir->durable_names);
    for (i = 0; i < history->count; i++) {
        const struct sim_binding *change = &history->items[i];
        uint32_t seen = 0;
        for (j = 0; j < i; j++) {
            seen += strcmp(history->items[j].name, change->name) == 0;
        }
        if (km__sim_choose(choice, change->stamp, seen)) {
            km__sim_names_set(out, change->name, change->node);
        }
    }
}

/* ---- life ---- */

struct sim_node *km__sim_node_create(struct sim *sim, int is_dir)
{
    struct sim_node *node = km__sim_xalloc(sizeof(*node));

    node->sim = sim;
    node->is_dir = is_dir;
    node->next = sim->nodes;
    if (sim->nodes)
        sim->nodes->previous = node;
    sim->nodes = node;
    return node;
}

void km__sim_node_hold(struct sim_node *node)
{
    node->reference_count++;
}

static void free_node(struct sim_node *node)
{
    if (node->previous)
        node->previous->next = node->next;
    if (node->next)
        node->next->previous = node->previous;
    if (node->sim->nodes == node)
        node->sim->nodes = node->next;
    km__sim_content_clear(&node->visible);
    km__sim_content_clear(&node->durable);
    km__sim_history_clear(node);
    clear_laps(node);
    km__sim_names_clear(&node->names);
    km__sim_names_clear(&node->durable_names);
    km__sim_names_clear(&node->name_history);
    free(node);
}

void km__sim_node_release(struct sim_node *node)
{
    if (node && --node->reference_count == 0)
        free_node(node);
}

void km__sim_node_free_all(struct sim *sim)
{
    struct sim_node *node;

    /* First every binding, each node being held, so that no list is walked while it is freed. */
    for (node = sim->nodes; node; node = node->next) {
        km__sim_node_hold(node);
    }
    for (node = sim->nodes; node; node = node->next) {
        km__sim_names_clear(&node->names);
        km__sim_names_clear(&node->durable_names);
        km__sim_names_clear(&node->name_history);
    }
    while (sim->nodes) {
        free_node(sim->nodes);
    }
}
