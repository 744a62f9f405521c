/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_content.c -- the bytes of a simulated file: blocks shared between states and clones.
 *
 * I1. A block with more than one reference is never written: a writer takes a copy first.
 * I2. Bytes of the last block after `size` are zero, and no block lies wholly after it.
 */
#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

static void block_hold(struct sim_block *block)
{
    /* relaxed: who takes a reference has one already */
    if (block)
        atomic_fetch_add_explicit(&block->reference_count, 1, memory_order_relaxed);
}

static void block_release(struct sim_block *block)
{
    /* acq_rel: pairs with itself in another machine's thread, whose reads end before the free */
    if (block && atomic_fetch_sub_explicit(&block->reference_count, 1, memory_order_acq_rel) == 1) {
        free(block);
    }
}

/* The block, of our own and ready to be written. */
static struct sim_block *own_block(struct sim_content *content, size_t index)
{
    struct sim_block *old = content->blocks[index];
    struct sim_block *block;

    /* acquire: pairs with block_release(): the other holder has read for the last time */
    if (old && atomic_load_explicit(&old->reference_count, memory_order_acquire) == 1)
        return old;
    block = km__sim_xalloc(sizeof(*block));
    atomic_init(&block->reference_count, 1);
    if (old)
        memcpy(block->bytes, old->bytes, SIM_BLOCK_SIZE);
    block_release(old);
    content->blocks[index] = block;
    return block;
}

void km__sim_content_copy(struct sim_content *to, const struct sim_content *from)
{
    size_t i;

    *to = *from;
    to->blocks = from->block_count ? km__sim_xalloc(from->block_count * sizeof(*to->blocks)) : NULL;
    for (i = 0; i < from->block_count; i++) {
        to->blocks[i] = from->blocks[i];
        block_hold(to->blocks[i]);
    }
}

void km__sim_content_clear(struct sim_content *content)
{
    size_t i;

    for (i = 0; i < content->block_count; i++) {
        block_release(content->blocks[i]);
    }
    free(content->blocks);
    memset(content, 0, sizeof(*content));
}

void km__sim_content_move(struct sim_content *to, struct sim_content *from)
{
    km__sim_content_clear(to);
    *to = *from;
    memset(from, 0, sizeof(*from));
}

void km__sim_content_resize(struct sim_content *content, uint64_t size)
{
    size_t count = (size_t)((size + SIM_BLOCK_SIZE - 1) / SIM_BLOCK_SIZE);
    size_t tail = (size_t)(size % SIM_BLOCK_SIZE);
    size_t i;

    for (i = count; i < content->block_count; i++) {
        block_release(content->blocks[i]);
    }
    if (count != content->block_count) {
        content->blocks = km__sim_xgrow(content->blocks, count * sizeof(*content->blocks));
    }
    for (i = content->block_count; i < count; i++) {
        content->blocks[i] = NULL;
    }
    content->block_count = count;
    if (size < content->size && tail > 0 && content->blocks[count - 1]) {
        memset(own_block(content, count - 1)->bytes + tail, 0, SIM_BLOCK_SIZE - tail);
    }
    content->size = size;
}

/* The part of [offset, offset + size) that lies in the block of offset. */
static size_t part_in_block(uint64_t offset, size_t size)
{
    size_t part = SIM_BLOCK_SIZE - (size_t)(offset % SIM_BLOCK_SIZE);

    return part < size ? part : size;
}

void km__sim_content_read(const struct sim_content *content, uint64_t offset, void *buffer,
                          size_t size)
{
    uint8_t *next = buffer;

    while (size > 0) {
        size_t part = part_in_block(offset, size);
        size_t index = (size_t)(offset / SIM_BLOCK_SIZE);
        const struct sim_block *block = index < content->block_count ? content->blocks[index]
                                                                     : NULL;
        if (block) {
            memcpy(next, block->bytes + offset % SIM_BLOCK_SIZE, part);
        } else {
            memset(next, 0, part);
        }
        next += part;
        offset += part;
        size -= part;
    }
}

void km__sim_content_write(struct sim_content *content, uint64_t offset, const void *bytes,
                           size_t size)
{
    const uint8_t *next = bytes;

    if (size > 0 && offset + size > content->size)
        km__sim_content_resize(content, offset + size);
    while (size > 0) {
        size_t part = part_in_block(offset, size);
        struct sim_block *block = own_block(content, (size_t)(offset / SIM_BLOCK_SIZE));
        memcpy(block->bytes + offset % SIM_BLOCK_SIZE, next, part);
        next += part;
        offset += part;
        size -= part;
    }
}
