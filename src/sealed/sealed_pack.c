/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_pack.c -- compressed blocks; the one file that knows zstd.
 *
 * I1. A frame is decompressed into exactly the room that its block says, which the format bounds:
 *     one that holds more, or less, is damage.
 * I2. A context in `idle` belongs to nobody; who takes it out has it alone.
 *
 * Contexts come from zstd, which has its own memory; that of a builder is at most about 20 MiB,
 * since windows are bounded, and 4 at the default level.
 */
#include "sealed/sealed_internal.h"

#ifdef KM_WITH_ZSTD
#include <stdatomic.h>

#include <zstd.h>
#include <zstd_errors.h>

#include "base/buffer.h"

#define SEALED_PACK_LEVEL_DEFAULT 3
#define SEALED_PACK_WINDOW_LOG 20
#define SEALED_UNPACKERS_MAX 8 /* contexts kept; more threads than that make some anew */

/* ---- packing ----------------------------------------------------------------------------- */

struct sealed_packer {
    ZSTD_CCtx *context;
};

int km__sealed_pack_exists(void)
{
    return 1;
}

static int sealed_packer_set_up(struct sealed_packer *packer, int level)
{
    size_t failed = ZSTD_CCtx_setParameter(packer->context, ZSTD_c_compressionLevel,
                                           level ? level : SEALED_PACK_LEVEL_DEFAULT);

    return !ZSTD_isError(failed) && !ZSTD_isError(ZSTD_CCtx_setParameter(
                                        packer->context, ZSTD_c_windowLog, SEALED_PACK_WINDOW_LOG));
}

km_status km__sealed_packer_create(const struct allocator *allocator, int level,
                                   struct sealed_packer **out)
{
    struct sealed_packer *packer = km__allocate(allocator, sizeof(*packer));

    if (!packer)
        return KM_E_NO_MEMORY;
    packer->context = ZSTD_createCCtx();
    if (!packer->context || !sealed_packer_set_up(packer, level)) {
        km__sealed_packer_destroy(allocator, packer);
        return KM_E_NO_MEMORY;
    }
    *out = packer;
    return KM_OK;
}

void km__sealed_packer_destroy(const struct allocator *allocator, struct sealed_packer *packer)
{
    if (!packer)
        return;
    (void)ZSTD_freeCCtx(packer->context);
    km__release(allocator, packer, sizeof(*packer));
}

km_status km__sealed_pack(struct sealed_packer *packer, km_bytes plain, uint8_t *frame, size_t room,
                          size_t *out_size)
{
    size_t size = ZSTD_compress2(packer->context, frame, room, plain.data, plain.size);

    if (ZSTD_isError(size)) {
        if (ZSTD_getErrorCode(size) != ZSTD_error_dstSize_tooSmall)
            return KM_E_NO_MEMORY;
        size = 0;
    }
    *out_size = size;
    return KM_OK;
}

/* ---- unpacking --------------------------------------------------------------------------- */

struct sealed_unpackers {
    _Atomic(ZSTD_DCtx *) idle[SEALED_UNPACKERS_MAX];
};

km_status km__sealed_unpackers_create(const struct allocator *allocator,
                                      struct sealed_unpackers **out)
{
    struct sealed_unpackers *unpackers = km__allocate(allocator, sizeof(*unpackers));

    if (!unpackers)
        return KM_E_NO_MEMORY;
    for (int i = 0; i < SEALED_UNPACKERS_MAX; i++)
        atomic_init(&unpackers->idle[i], NULL);
    *out = unpackers;
    return KM_OK;
}

void km__sealed_unpackers_destroy(const struct allocator *allocator,
                                  struct sealed_unpackers *unpackers)
{
    if (!unpackers)
        return;
    for (int i = 0; i < SEALED_UNPACKERS_MAX; i++)
        (void)ZSTD_freeDCtx(atomic_load_explicit(&unpackers->idle[i], memory_order_relaxed));
    km__release(allocator, unpackers, sizeof(*unpackers));
}

static ZSTD_DCtx *sealed_unpacker_take(struct sealed_unpackers *unpackers)
{
    for (int i = 0; i < SEALED_UNPACKERS_MAX; i++) {
        if (!atomic_load_explicit(&unpackers->idle[i], memory_order_relaxed))
            continue;
        /* acquire pairs with sealed_unpacker_give(): what the last user wrote into it */
        ZSTD_DCtx *context = atomic_exchange_explicit(&unpackers->idle[i], NULL,
                                                      memory_order_acquire);
        if (context)
            return context;
    }
    return ZSTD_createDCtx();
}

static void sealed_unpacker_give(struct sealed_unpackers *unpackers, ZSTD_DCtx *context)
{
    for (int i = 0; i < SEALED_UNPACKERS_MAX; i++) {
        ZSTD_DCtx *none = NULL;
        if (atomic_load_explicit(&unpackers->idle[i], memory_order_relaxed))
            continue;
        /* release pairs with sealed_unpacker_take(): what we wrote into it */
        if (atomic_compare_exchange_strong_explicit(&unpackers->idle[i], &none, context,
                                                    memory_order_release, memory_order_relaxed))
            return;
    }
    (void)ZSTD_freeDCtx(context);
}

/* I1 */
static km_status sealed_unpack(struct sealed_unpackers *unpackers,
                               const struct sealed_packed *packed, km_buffer *plain)
{
    km_status rc = km__buffer_reserve(plain, packed->plain_size);
    ZSTD_DCtx *context;
    size_t size;

    if (rc)
        return rc;
    context = sealed_unpacker_take(unpackers);
    if (!context)
        return KM_E_NO_MEMORY;
    size = ZSTD_decompressDCtx(context, plain->data, packed->plain_size, packed->frame,
                               packed->frame_size);
    sealed_unpacker_give(unpackers, context);
    return size == packed->plain_size ? KM_OK : KM_E_CORRUPT;
}

km_status km__sealed_unpack_block(struct sealed_unpackers *unpackers, km_bytes stored,
                                  uint32_t seed, km_buffer *plain, struct sealed_block *out)
{
    struct sealed_packed packed;
    struct sealed_block block;
    km_status rc;

    if (!unpackers || stored.size < SEALED_PACKED_HEADER_SIZE ||
        !km__sealed_block_is_packed(stored.data))
        return km__sealed_block_decode(stored.data, stored.size, seed, out);
    rc = km__sealed_packed_decode(stored.data, stored.size, seed, &packed);
    if (!rc)
        rc = sealed_unpack(unpackers, &packed, plain);
    if (!rc)
        rc = km__sealed_block_decode(plain->data, packed.plain_size, seed, &block);
    if (rc)
        return rc;
    if (block.count != packed.count || block.end != block.bytes + packed.plain_size)
        return KM_E_CORRUPT;
    *out = block;
    return KM_OK;
}

#else

int km__sealed_pack_exists(void)
{
    return 0;
}

km_status km__sealed_packer_create(const struct allocator *allocator, int level,
                                   struct sealed_packer **out)
{
    (void)allocator;
    (void)level;
    (void)out;
    return KM_E_UNSUPPORTED;
}

void km__sealed_packer_destroy(const struct allocator *allocator, struct sealed_packer *packer)
{
    (void)allocator;
    (void)packer;
}

km_status km__sealed_pack(struct sealed_packer *packer, km_bytes plain, uint8_t *frame, size_t room,
                          size_t *out_size)
{
    (void)packer;
    (void)plain;
    (void)frame;
    (void)room;
    (void)out_size;
    return KM_E_UNSUPPORTED;
}

km_status km__sealed_unpackers_create(const struct allocator *allocator,
                                      struct sealed_unpackers **out)
{
    (void)allocator;
    (void)out;
    return KM_E_UNSUPPORTED;
}

void km__sealed_unpackers_destroy(const struct allocator *allocator,
                                  struct sealed_unpackers *unpackers)
{
    (void)allocator;
    (void)unpackers;
}

/* Only of tables that could be opened: their blocks are not compressed. */
km_status km__sealed_unpack_block(struct sealed_unpackers *unpackers, km_bytes stored,
                                  uint32_t seed, km_buffer *plain, struct sealed_block *out)
{
    (void)unpackers;
    (void)plain;
    return km__sealed_block_decode(stored.data, stored.size, seed, out);
}

#endif
