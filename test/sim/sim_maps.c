/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_maps.c -- mappings of simulated files, and laps.
 *
 * I1. A live shared mapping is the newest state of its bytes; km__sim_fold() brings them into the
 *     visible content. A frozen one (the machine died) is cut off from the file.
 * I2. A read-only mapping is a copy that follows every change of the file; nobody else stores into
 *     it.
 */
#include "sim/sim_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct allocator *machine_memory(void)
{
    return &km__os_linux()->allocator;
}

/*
 * Copy bytes that other threads may be storing to: they are to be seen as a crash would find them,
 * by aligned words, old or new. That is a race by the rules of C, on purpose: hence volatile, so
 * that no memcpy is made of it, and hidden from the thread sanitizer.
 */
__attribute__((noinline, no_sanitize("thread"))) static void
copy_racing(uint8_t *to, const uint8_t *from, size_t size)
{
    size_t i;

    for (i = 0; i + 8 <= size; i += 8) {
        uint64_t word = *(const volatile uint64_t *)(const void *)(from + i);
        __builtin_memcpy(to + i, &word, 8);
    }
    for (; i < size; i++) {
        to[i] = *(const volatile uint8_t *)(from + i);
    }
}

static void fold_mapping(struct sim_mapping *mapping)
{
    struct sim_content *visible = &mapping->node->visible;
    uint64_t end = mapping->size < visible->size ? mapping->size : visible->size;
    uint64_t offset;

    for (offset = 0; offset < end; offset += SIM_BLOCK_SIZE) {
        uint8_t now[SIM_BLOCK_SIZE];
        uint8_t before[SIM_BLOCK_SIZE];
        size_t size = end - offset < SIM_BLOCK_SIZE ? (size_t)(end - offset) : SIM_BLOCK_SIZE;

        copy_racing(now, mapping->bytes + offset, size);
        km__sim_content_read(visible, offset, before, size);
        /* Unchanged blocks stay shared with laps and clones. */
        if (memcmp(now, before, size) != 0)
            km__sim_content_write(visible, offset, now, size);
    }
}

static struct sim_mapping *live_shared_mapping(const struct sim_node *node)
{
    struct sim_mapping *mapping;

    for (mapping = node->sim->mappings; mapping; mapping = mapping->next) {
        if (mapping->node == node && mapping->is_shared && !mapping->is_frozen)
            return mapping;
    }
    return NULL;
}

uint64_t km__sim_shared_size(const struct sim_node *node)
{
    const struct sim_mapping *mapping = live_shared_mapping(node);

    return mapping ? mapping->size : 0;
}

void km__sim_fold(struct sim_node *node)
{
    struct sim_mapping *mapping = live_shared_mapping(node);

    if (mapping)
        fold_mapping(mapping);
}

void km__sim_fold_all(struct sim *sim)
{
    struct sim_mapping *mapping;

    for (mapping = sim->mappings; mapping; mapping = mapping->next) {
        km__sim_fold(mapping->node);
    }
}

void km__sim_freeze_all(struct sim *sim)
{
    struct sim_mapping *mapping;

    km__sim_fold_all(sim);
    for (mapping = sim->mappings; mapping; mapping = mapping->next) {
        mapping->is_frozen = 1;
    }
}

static int content_is_same(const struct sim_content *a, const struct sim_content *b)
{
    return a->size == b->size && a->block_count == b->block_count &&
           (a->block_count == 0 ||
            memcmp(a->blocks, b->blocks, a->block_count * sizeof(*a->blocks)) == 0);
}

static void take_lap(struct sim_node *node)
{
    km__sim_fold(node);
    if (node->lap_count > 0 && content_is_same(&node->laps[node->lap_count - 1], &node->visible)) {
        return; /* nothing was stored: keep the older laps that differ */
    }
    if (node->lap_count == SIM_LAP_COUNT) {
        km__sim_content_clear(&node->laps[0]);
        memmove(node->laps, node->laps + 1, (SIM_LAP_COUNT - 1) * sizeof(node->laps[0]));
        node->lap_count--;
    }
    km__sim_content_copy(&node->laps[node->lap_count++], &node->visible);
}

void km__sim_lap_all(struct sim *sim)
{
    struct sim_mapping *mapping;

    for (mapping = sim->mappings; mapping; mapping = mapping->next) {
        if (mapping->is_shared && !mapping->is_frozen)
            take_lap(mapping->node);
    }
}

void km__sim_ring_lap(struct os *os)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    km__sim_lap_all(sim);
    km__sim_unlock(sim);
}

void km__sim_update_mappings(struct sim_node *node, uint64_t offset, uint64_t size)
{
    struct sim_mapping *mapping;

    for (mapping = node->sim->mappings; mapping; mapping = mapping->next) {
        uint64_t end = offset + size < mapping->size ? offset + size : mapping->size;
        if (mapping->node != node || mapping->is_frozen || offset >= end)
            continue;
        km__sim_content_read(&node->visible, offset, mapping->bytes + offset,
                             (size_t)(end - offset));
    }
}

/* ---- the operations ---- */

static km_status check_mapping(struct sim_call *call)
{
    if (call->size == 0)
        return km__sim_fail(call, KM_E_INVALID, EINVAL);
    if (call->size > call->node->visible.size)
        return km__sim_fail(call, KM_E_IO, 0);
    return KM_OK;
}

static km_status add_mapping(struct sim *sim, struct sim_call *call, int is_shared)
{
    struct sim_mapping *mapping;
    void *bytes = km__map_pages(machine_memory(), (size_t)call->size);

    if (!bytes)
        return km__sim_fail(call, KM_E_NO_MEMORY, ENOMEM);
    mapping = km__sim_xalloc(sizeof(*mapping));
    mapping->node = call->node;
    mapping->bytes = bytes;
    mapping->size = call->size;
    mapping->user_count = 1;
    mapping->is_shared = is_shared;
    km__sim_content_read(&call->node->visible, 0, bytes, (size_t)call->size);
    mapping->next = sim->mappings;
    sim->mappings = mapping;
    km__sim_node_hold(call->node);
    call->node->user_count++;
    call->buffer = bytes;
    return KM_OK;
}

/* Use a mapping that is there: all of a file's are coherent. */
static int share_mapping(struct sim_mapping *mapping, struct sim_call *call)
{
    if (!mapping || mapping->size != call->size)
        return 0;
    mapping->user_count++;
    call->buffer = mapping->bytes;
    return 1;
}

static km_status apply_map_read(struct sim *sim, struct sim_call *call)
{
    km_status rc = check_mapping(call);

    if (rc)
        return rc;
    if (share_mapping(live_shared_mapping(call->node), call))
        return KM_OK;
    km__sim_fold(call->node);
    return add_mapping(sim, call, 0);
}

km_status km__sim_map_read(struct os_file *file, uint64_t size, const uint8_t **out_bytes)
{
    struct sim_call call = {
        .op = SIM_MAP_READ, .apply = apply_map_read, .node = file->node, .size = size};
    km_status rc = km__sim_call(file->sim, &call, NULL);

    if (rc == KM_OK)
        *out_bytes = call.buffer;
    return rc;
}

void km__sim_read_ahead(struct os_file *file, uint64_t size)
{
    (void)file; /* a hint: all is in memory here */
    (void)size;
}

static km_status apply_make_resident(struct sim *sim, struct sim_call *call)
{
    (void)sim; /* all is in memory here */
    (void)call;
    return KM_OK;
}

km_status km__sim_make_resident(struct os *os, const uint8_t *bytes, uint64_t size, int must_stay)
{
    struct sim_call call = {.op = SIM_RESIDENT, .apply = apply_make_resident};

    (void)bytes;
    (void)size;
    (void)must_stay;
    return km__sim_call(km__sim_of(os), &call, NULL);
}

static km_status apply_map_shared(struct sim *sim, struct sim_call *call)
{
    struct sim_mapping *mapping = live_shared_mapping(call->node);
    km_status rc;

    if (!call->file->is_writable)
        return km__sim_fail(call, KM_E_IO, EACCES);
    rc = check_mapping(call);
    if (rc)
        return rc;
    if (share_mapping(mapping, call))
        return KM_OK;
    if (mapping)
        km__sim_abort("two shared mappings of one file, of different sizes");
    rc = add_mapping(sim, call, 1);
    if (rc)
        return rc;
    if (call->size > call->node->mapped_size)
        call->node->mapped_size = call->size;
    take_lap(call->node);
    return KM_OK;
}

km_status km__sim_map_shared(struct os_file *file, uint64_t size, uint8_t **out_bytes)
{
    struct sim_call call = {.op = SIM_MAP_SHARED,
                            .apply = apply_map_shared,
                            .node = file->node,
                            .file = file,
                            .size = size};
    km_status rc = km__sim_call(file->sim, &call, NULL);

    if (rc == KM_OK)
        *out_bytes = call.buffer;
    return rc;
}

static void check_not_stored_to(const struct sim_mapping *mapping)
{
    uint64_t end = mapping->size < mapping->node->visible.size ? mapping->size
                                                               : mapping->node->visible.size;
    uint64_t offset;

    for (offset = 0; offset < end; offset += SIM_BLOCK_SIZE) {
        uint8_t expected[SIM_BLOCK_SIZE];
        size_t size = end - offset < SIM_BLOCK_SIZE ? (size_t)(end - offset) : SIM_BLOCK_SIZE;

        km__sim_content_read(&mapping->node->visible, offset, expected, size);
        if (memcmp(expected, mapping->bytes + offset, size) != 0) {
            km__sim_abort("somebody stored into a read-only mapping");
        }
    }
}

/* Take a mapping that nobody uses off the list. */
static void remove_mapping(struct sim_mapping **link)
{
    struct sim_mapping *mapping = *link;

    if (!mapping->is_shared && !mapping->is_frozen)
        check_not_stored_to(mapping);
    if (mapping->is_shared && !mapping->is_frozen)
        fold_mapping(mapping);
    *link = mapping->next;
    km__unmap_pages(machine_memory(), mapping->bytes, (size_t)mapping->size);
    mapping->node->user_count--;
    km__sim_node_release(mapping->node);
    free(mapping);
}

void km__sim_unmap(struct os *os, const uint8_t *bytes, uint64_t size)
{
    struct sim *sim = km__sim_of(os);
    struct sim_mapping **link;

    if (!bytes)
        return;
    km__sim_lock(sim);
    for (link = &sim->mappings; *link && (*link)->bytes != bytes; link = &(*link)->next) {
    }
    if (!*link)
        km__sim_abort("unmap of what is not mapped");
    if ((*link)->size != size)
        km__sim_abort("unmap of a part of a mapping");
    if (--(*link)->user_count == 0)
        remove_mapping(link);
    km__sim_unlock(sim);
}

void km__sim_unmap_all(struct sim *sim)
{
    while (sim->mappings) {
        remove_mapping(&sim->mappings);
    }
}
