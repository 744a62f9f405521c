/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_memory.c -- the simulated machine's allocator: counts, fails the N-th call, forgets nothing.
 *
 * Objects come from malloc, with a header before them, so that the address sanitizer watches their
 * ends; pages come from the real machine.
 */
#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_SIZE 64u /* keeps objects aligned for any type */
_Static_assert(sizeof(struct sim_memory) <= HEADER_SIZE, "the header must fit before an object");

static struct allocator *machine_pages(void)
{
    return &km__os_linux()->allocator;
}

static void link_memory(struct sim_memory *head, struct sim_memory *memory)
{
    memory->next = head->next;
    memory->previous = head;
    head->next->previous = memory;
    head->next = memory;
}

static void unlink_memory(struct sim_memory *memory)
{
    memory->previous->next = memory->next;
    memory->next->previous = memory->previous;
}

/* Count a call; 0 if it is to fail. */
static int may_allocate(struct sim *sim)
{
    sim->allocation_count++;
    if (sim->allocation_countdown == 0)
        return 1;
    if (sim->allocation_countdown > 1) {
        sim->allocation_countdown--;
        return 1;
    }
    if (!sim->allocation_is_sticky)
        sim->allocation_countdown = 0;
    return 0;
}

static void *sim_allocate(void *context, size_t size)
{
    struct sim *sim = context;
    struct sim_memory *memory = NULL;
    void *bytes = NULL;

    km__sim_lock(sim);
    if (may_allocate(sim) && size < SIZE_MAX / 2)
        memory = calloc(1, HEADER_SIZE + size);
    if (memory) {
        bytes = (uint8_t *)memory + HEADER_SIZE;
        memory->bytes = bytes;
        memory->size = size;
        link_memory(&sim->objects, memory);
        sim->allocated_bytes += size;
    }
    km__sim_unlock(sim);
    return bytes;
}

static void sim_release(void *context, void *bytes, size_t size)
{
    struct sim *sim = context;
    struct sim_memory *memory;

    if (!bytes)
        return;
    memory = (struct sim_memory *)(void *)((uint8_t *)bytes - HEADER_SIZE);
    km__sim_lock(sim);
    if (memory->bytes != bytes)
        km__sim_abort("release of what was not allocated");
    if (memory->size != size)
        km__sim_abort("release with another size than allocated");
    unlink_memory(memory);
    sim->allocated_bytes -= size;
    memory->bytes = NULL;
    km__sim_unlock(sim);
    free(memory);
}

static void *sim_map_pages(void *context, size_t size)
{
    struct sim *sim = context;
    struct sim_memory *memory;
    void *bytes = NULL;

    km__sim_lock(sim);
    if (may_allocate(sim))
        bytes = km__map_pages(machine_pages(), size);
    if (bytes) {
        memory = km__sim_xalloc(sizeof(*memory));
        memory->bytes = bytes;
        memory->size = size;
        link_memory(&sim->pages, memory);
        sim->allocated_bytes += size;
    }
    km__sim_unlock(sim);
    return bytes;
}

static void free_pages(struct sim *sim, struct sim_memory *memory)
{
    unlink_memory(memory);
    sim->allocated_bytes -= memory->size;
    km__unmap_pages(machine_pages(), memory->bytes, memory->size);
    free(memory);
}

static void sim_unmap_pages(void *context, void *bytes, size_t size)
{
    struct sim *sim = context;
    struct sim_memory *memory;

    if (!bytes)
        return;
    km__sim_lock(sim);
    for (memory = sim->pages.next; memory->bytes && memory->bytes != bytes; memory = memory->next) {
    }
    if (!memory->bytes)
        km__sim_abort("unmap_pages of what was not mapped");
    if (memory->size != size)
        km__sim_abort("unmap_pages with another size than mapped");
    free_pages(sim, memory);
    km__sim_unlock(sim);
}

void km__sim_memory_init(struct sim *sim)
{
    sim->objects.next = &sim->objects;
    sim->objects.previous = &sim->objects;
    sim->pages.next = &sim->pages;
    sim->pages.previous = &sim->pages;
    sim->os.allocator.context = sim;
    sim->os.allocator.allocate = sim_allocate;
    sim->os.allocator.release = sim_release;
    sim->os.allocator.map_pages = sim_map_pages;
    sim->os.allocator.unmap_pages = sim_unmap_pages;
}

void km__sim_memory_free_all(struct sim *sim)
{
    while (sim->objects.next != &sim->objects) {
        struct sim_memory *memory = sim->objects.next;
        unlink_memory(memory);
        sim->allocated_bytes -= memory->size;
        free(memory);
    }
    while (sim->pages.next != &sim->pages) {
        free_pages(sim, sim->pages.next);
    }
}

static void set_failure(struct os *os, uint64_t nth, int is_sticky)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->allocation_countdown = nth;
    sim->allocation_is_sticky = is_sticky;
    km__sim_unlock(sim);
}

void km__sim_fail_allocation(struct os *sim, uint64_t nth)
{
    set_failure(sim, nth, 0);
}

void km__sim_fail_allocations_from(struct os *sim, uint64_t nth)
{
    set_failure(sim, nth, 1);
}
