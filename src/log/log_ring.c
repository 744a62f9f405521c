/* SPDX-License-Identifier: Apache-2.0
 *
 * log_ring.c -- the tail ring: what makes an acknowledged record survive kill -9 for the price of a
 * copy.
 *
 * The ring is a file mapped shared: the kernel keeps its pages when the process dies. Every record
 * is copied into it when it is written to its segment's memory, and stays until it is in its
 * segment's file. Recovery believes a record from the ring only if its checksum, seeded with its
 * place, is right; so old laps, torn copies and pages from different moments are harmless.
 *
 * The page after the ring's header says how far the files were written when the process was last
 * seen alive. It is believed only in the same boot, when no page of the ring can have been lost.
 */
#include "log/log_internal.h"

/* Offsets in the state page. */
#define STATE_BOOT_ID 0
#define STATE_FLUSHED 16

void km__ring_copy(struct ring *ring, uint64_t at, const uint8_t *bytes, uint64_t size,
                   uint64_t commit_word)
{
    uint64_t offset = at & (ring->size - 1);
    uint64_t first = ring->size - offset;

    KM_DEBUG_ASSERT(size <= ring->size);
    if (first > size)
        first = size;
    memcpy(ring->data + offset, bytes, first);
    memcpy(ring->data, bytes + first, size - first);
    /* all is aligned to 8 bytes, so the word itself is never cut in two */
    atomic_store_explicit(
        (_Atomic uint64_t *)(void *)(ring->data + ((offset + 8) & (ring->size - 1))),
        km__swap_if_big_endian64(commit_word),
        memory_order_release); /* pairs with recovery, in another process */
}

void km__ring_set_flushed(struct ring *ring, const uint8_t boot_id[BOOT_ID_SIZE], uint64_t flushed)
{
    uint8_t *state = ring->file_bytes + RING_HEADER_SIZE;

    memcpy(state + STATE_BOOT_ID, boot_id, BOOT_ID_SIZE);
    atomic_store_explicit((_Atomic uint64_t *)(void *)(state + STATE_FLUSHED),
                          km__swap_if_big_endian64(flushed),
                          memory_order_release); /* pairs with recovery, in another process */
}

uint64_t km__ring_flushed(const uint8_t *file_bytes, const uint8_t boot_id[BOOT_ID_SIZE])
{
    static const uint8_t no_boot_id[BOOT_ID_SIZE];
    const uint8_t *state = file_bytes + RING_HEADER_SIZE;

    if (memcmp(state + STATE_BOOT_ID, boot_id, BOOT_ID_SIZE) != 0 ||
        memcmp(boot_id, no_boot_id, BOOT_ID_SIZE) == 0)
        return 0;
    return km__load64(state + STATE_FLUSHED);
}

static km_status write_ring_file(struct log *log, struct os_file *file, uint32_t ring_log2)
{
    const struct os_ops *ops = log->os->ops;
    size_t total = RING_DATA_OFFSET + ((size_t)1 << ring_log2);
    uint8_t *bytes = km__map_pages(&log->os->allocator, total);
    struct ring_header header = {{0}, ring_log2};
    km_status rc;

    if (!bytes)
        return KM_E_NO_MEMORY;
    memcpy(header.store_id, log->options.store_id, STORE_ID_SIZE);
    km__ring_header_encode(&header, bytes);
    rc = ops->write_at(file, 0, bytes,
                       total); /* with zeros to its end: stores need no new blocks */
    km__unmap_pages(&log->os->allocator, bytes, total);
    return rc;
}

static km_status create_ring_file(struct log *log, uint32_t ring_log2, const char *name)
{
    static const char temp_name[] = "new.ring";
    const struct os_ops *ops = log->os->ops;
    struct os_dir *dir = log->options.store_dir;
    struct os_file *file = NULL;
    km_status rc;

    km__ignore(ops->unlink(dir, temp_name), "a leftover of a crash, or nothing");
    rc = ops->open_file(dir, temp_name, OS_CREATE_NEW, &file);
    if (rc) goto out;
    rc = write_ring_file(log, file, ring_log2);
    if (rc) goto out;
    rc = ops->sync(file);
    if (rc) goto out;
    rc = ops->rename(dir, temp_name, name);
    if (rc) goto out;
    rc = ops->sync_dir(dir);
    /* the name is there and perhaps not durable, and no later sync can be trusted to make it so */
    if (rc)
        rc = km__log_fail(log, rc, name, 0, "cannot make a ring's name durable");
out:
    ops->close_file(file);
    return rc;
}

/* Whether a ring file is there and of the right store and size. */
static km_status open_ring_file(struct log *log, uint32_t ring_log2, const char *name,
                                struct os_file **out_file)
{
    const struct os_ops *ops = log->os->ops;
    struct ring_header header;
    struct os_file *file = NULL;
    uint64_t size = 0;
    uint8_t *bytes = NULL;
    km_status rc;

    rc = ops->open_file(log->options.store_dir, name, OS_OPEN_WRITE, &file);
    if (rc) goto out;
    bytes = km__allocate(&log->os->allocator, RING_HEADER_SIZE);
    rc = bytes ? ops->file_size(file, &size) : KM_E_NO_MEMORY;
    if (!rc && size >= RING_HEADER_SIZE)
        rc = ops->read_at(file, 0, bytes, RING_HEADER_SIZE);
    if (rc) goto out;
    rc = KM_NOT_FOUND; /* whatever is wrong with it, a new one takes its place */
    if (size != RING_DATA_OFFSET + (UINT64_C(1) << ring_log2) ||
        km__ring_header_decode(bytes, &header))
        goto out;
    if (header.ring_log2 != ring_log2 ||
        memcmp(header.store_id, log->options.store_id, STORE_ID_SIZE))
        goto out;
    rc = KM_OK;
    *out_file = file;
    file = NULL;
out:
    ops->close_file(file);
    km__release(&log->os->allocator, bytes, RING_HEADER_SIZE);
    return rc;
}

km_status km__ring_create(struct log *log, uint32_t ring_log2, struct ring **out_ring,
                          km_error *error)
{
    const struct os_ops *ops = log->os->ops;
    struct ring *ring = km__allocate(&log->os->allocator, sizeof(*ring));
    char name[RING_NAME_SIZE];
    km_status rc = KM_E_NO_MEMORY;

    km__ring_name(ring_log2, name);
    if (!ring) goto out;
    ring->log2 = ring_log2;
    ring->size = UINT64_C(1) << ring_log2;
    rc = open_ring_file(log, ring_log2, name, &ring->file);
    if (rc == KM_NOT_FOUND) {
        rc = create_ring_file(log, ring_log2, name);
        if (!rc)
            rc = open_ring_file(log, ring_log2, name, &ring->file);
    }
    if (rc) goto out;
    rc = ops->map_shared(ring->file, RING_DATA_OFFSET + ring->size, &ring->file_bytes);
    if (rc) goto out;
    ring->data = ring->file_bytes + RING_DATA_OFFSET;
    *out_ring = ring;
    ring = NULL;
out:
    if (rc == KM_E_INVALID) /* not a regular file */
        rc = KM_E_CORRUPT;
    if (rc)
        rc = km__fail(error, rc, name, 0, ops->last_error(log->os), "cannot create the tail ring");
    if (ring)
        km__ring_destroy(log, ring);
    return rc;
}

void km__ring_destroy(struct log *log, struct ring *ring)
{
    if (!ring)
        return;
    if (ring->file_bytes)
        log->os->ops->unmap(log->os, ring->file_bytes, RING_DATA_OFFSET + ring->size);
    log->os->ops->close_file(ring->file);
    km__release(&log->os->allocator, ring, sizeof(*ring));
}

/* Remove the files of rings that no segment uses. A crash before that is durable leaves a file
 * that the next open ignores and removes. */
void km__ring_unlink_unused(struct log *log)
{
    char name[RING_NAME_SIZE];

    for (uint32_t i = RING_LOG2_MIN; i <= RING_LOG2_MAX; i++) {
        struct ring *ring = log->rings[i];

        if (ring && ring->users == 0) {
            km__ring_destroy(log, ring);
            log->rings[i] = NULL;
        }
        if (!log->rings[i]) {
            km__ring_name(i, name);
            km__ignore(log->os->ops->unlink(log->options.store_dir, name), "it may not exist");
        }
    }
}
