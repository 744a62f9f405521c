/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_verify.c -- every byte of a table, against its checksums and its own rules.
 *
 * I1. The index in memory was checked when the table was opened; here it is compared with what the
 *     file has now, and blocks are checked against it.
 * I2. What cannot be read is a finding too; the rest is checked nevertheless.
 */
#include <string.h>

#include "base/assert.h"
#include "sealed/sealed_internal.h"

#define SEALED_VERIFY_PIECE ((size_t)64 << 10)

struct sealed_verify {
    const km_sealed *table;
    km_finding_fn found;
    km_progress_fn progress;
    void *context;
    uint64_t finding_count;
    km_status io_failure; /* KM_OK, or that of the first read that failed */
    int io_os_error;
    struct sealed_window window;
    uint8_t *key; /* KM_KEY_SIZE_MAX: last of the block before */
    size_t key_size;
    int has_key;
    uint8_t *next_key; /* KM_KEY_SIZE_MAX */
    uint64_t key_bytes, value_bytes;
};

static void sealed_verify_report(struct sealed_verify *verify, uint64_t offset, const char *text)
{
    km_error finding;

    verify->finding_count++;
    if (!verify->found)
        return;
    km__ignore(km__fail(&finding, KM_E_CORRUPT, verify->table->name, offset, 0, "%s", text),
               "it is counted");
    verify->found(verify->context, &finding);
}

/* I2. Returns KM_OK, or what ends the whole. */
static km_status sealed_verify_unreadable(struct sealed_verify *verify, km_status rc,
                                          uint64_t offset, const char *text)
{
    struct os *os = verify->table->os;
    int os_error = os->ops->last_error(os);
    km_error finding;

    if (rc != KM_E_IO)
        return rc;
    if (!verify->io_failure) {
        verify->io_failure = rc;
        verify->io_os_error = os_error;
    }
    verify->finding_count++;
    if (!verify->found)
        return KM_OK;
    km__ignore(km__fail(&finding, rc, verify->table->name, offset, os_error, "%s", text),
               "it is counted");
    verify->found(verify->context, &finding);
    return KM_OK;
}

/* ---- blocks ------------------------------------------------------------------------------ */

/* Record `index` of a block whose order was checked, as a whole key in next_key. */
static km_bytes sealed_verify_key(struct sealed_verify *verify, const struct sealed_block *block,
                                  uint32_t index)
{
    km_bytes suffix = {NULL, 0};

    KM_ASSERT(km__sealed_block_suffix(block, index, &suffix) == KM_OK);
    if (block->prefix_size)
        memcpy(verify->next_key, block->prefix, block->prefix_size);
    if (suffix.size)
        memcpy(verify->next_key + block->prefix_size, suffix.data, suffix.size);
    return km_bytes_of(verify->next_key, block->prefix_size + suffix.size);
}

/* Each key is found in this block, and passes its filter. */
static int sealed_verify_is_indexed(struct sealed_verify *verify, const struct sealed_place *place,
                                    const struct sealed_block *block)
{
    for (uint32_t i = 0; i < block->count; i++) {
        km_bytes key = sealed_verify_key(verify, block, i);
        struct sealed_group group;
        struct sealed_place found;
        const uint8_t *filter;
        uint32_t size = 0;
        km__sealed_find_place(verify->table, key, &group, &found);
        if (found.offset != place->offset)
            return 0;
        filter = km__sealed_group_filter(&group, found.index, &size);
        if (!km__sealed_filter_may_have(filter, size, km__sealed_hash(key.data, key.size)))
            return 0;
        verify->key_bytes += key.size;
    }
    verify->value_bytes += block->value_bytes;
    return 1;
}

static const char *sealed_verify_fault(struct sealed_verify *verify,
                                       const struct sealed_place *place,
                                       const struct sealed_block *block)
{
    /* behind an unpacked block there is nothing */
    size_t size = block->bytes == km__sealed_window_at(&verify->window, place)
                      ? (size_t)place->size
                      : (size_t)(block->end - block->bytes);
    km_bytes key;

    if (km__sealed_block_check_order(block, size, verify->table->footer.key_width) != KM_OK)
        return "the records of a block are not in order";
    key = sealed_verify_key(verify, block, 0);
    if (verify->has_key && km__sealed_compare(km_bytes_of(verify->key, verify->key_size), key) >= 0)
        return "a block begins before the one before it ends";
    if (!sealed_verify_is_indexed(verify, place, block))
        return "a key of a block is not found through the index";
    key = sealed_verify_key(verify, block, block->count - 1);
    if (key.size)
        memcpy(verify->key, key.data, key.size);
    verify->key_size = key.size;
    verify->has_key = 1;
    return NULL;
}

static km_status sealed_verify_block(struct sealed_verify *verify, const struct sealed_place *place)
{
    struct sealed_block block;
    const char *fault = NULL;
    km_status rc = km__sealed_window_load(&verify->window, place, &block);

    if (rc && rc != KM_E_CORRUPT)
        rc = sealed_verify_unreadable(verify, rc, place->offset, "a block cannot be read");
    else
        fault = rc ? "a block does not pass its checksums"
                   : sealed_verify_fault(verify, place, &block);
    if (fault)
        sealed_verify_report(verify, place->offset, fault);
    else if (rc)
        return rc;
    if (verify->progress &&
        verify->progress(verify->context, place->offset + place->size, verify->table->file_size))
        return KM_STOPPED;
    return KM_OK;
}

static km_status sealed_verify_blocks(struct sealed_verify *verify)
{
    const km_sealed *table = verify->table;
    km_status rc = KM_OK;

    for (uint32_t number = 0; number < table->group_count; number++) {
        struct sealed_group group;
        km__sealed_group_view(table->groups[number].bytes, &group);
        for (uint32_t i = 0; !rc && i < group.count; i++) {
            struct sealed_place place;
            km__sealed_place_of(table, &group, number, i, &place);
            rc = sealed_verify_block(verify, &place);
        }
    }
    return rc;
}

/* ---- the rest ---------------------------------------------------------------------------- */

static km_status sealed_verify_header(struct sealed_verify *verify)
{
    const km_sealed *table = verify->table;
    uint8_t bytes[SEALED_PAGE];
    uint8_t id[SEALED_ID_SIZE];
    km_status rc = table->os->ops->read_at(table->file, 0, bytes, sizeof(bytes));

    if (rc)
        return sealed_verify_unreadable(verify, rc, 0, "the header cannot be read");
    if (km__sealed_header_decode(bytes, id) != KM_OK ||
        memcmp(id, table->footer.id, sizeof(id)) != 0)
        sealed_verify_report(verify, 0, "the header is damaged");
    return KM_OK;
}

static km_status sealed_verify_footer(struct sealed_verify *verify)
{
    const km_sealed *table = verify->table;
    uint64_t at = table->file_size - SEALED_PAGE;
    struct sealed_footer footer;
    uint8_t bytes[SEALED_PAGE];
    km_status rc = table->os->ops->read_at(table->file, at, bytes, sizeof(bytes));

    if (rc)
        return sealed_verify_unreadable(verify, rc, at, "the footer cannot be read");
    if (km__sealed_footer_decode(bytes, table->file_size, &footer) != KM_OK ||
        memcmp(footer.id, table->footer.id, sizeof(footer.id)) != 0)
        sealed_verify_report(verify, at, "the footer is damaged");
    return KM_OK;
}

static int sealed_is_all_zero(const uint8_t *bytes, size_t size)
{
    uint8_t seen = 0;

    for (size_t i = 0; i < size; i++)
        seen |= bytes[i];
    return seen == 0;
}

/* A piece of the index and the zeros behind it, of which `same` bytes are in memory too. */
static km_status sealed_verify_piece(struct sealed_verify *verify, uint64_t at, uint8_t *piece,
                                     size_t size, size_t same)
{
    const km_sealed *table = verify->table;
    uint64_t offset = table->footer.index_offset + at;
    km_status rc = table->os->ops->read_at(table->file, offset, piece, size);

    if (rc)
        return sealed_verify_unreadable(verify, rc, offset, "the index cannot be read");
    if (same && memcmp(piece, table->index + at, same) != 0)
        sealed_verify_report(verify, offset, "the index is damaged");
    if (!sealed_is_all_zero(piece + same, size - same))
        sealed_verify_report(verify, offset, "what follows the index is not zero");
    return KM_OK;
}

static km_status sealed_verify_index(struct sealed_verify *verify, uint8_t *piece)
{
    const km_sealed *table = verify->table;
    uint64_t used = table->footer.index_size;
    uint64_t size = table->file_size - SEALED_PAGE - table->footer.index_offset;

    for (uint64_t at = 0; at < size;) {
        size_t step = size - at < SEALED_VERIFY_PIECE ? (size_t)(size - at) : SEALED_VERIFY_PIECE;
        size_t same = at >= used ? 0 : (size_t)(used - at < step ? used - at : step);
        km_status rc = sealed_verify_piece(verify, at, piece, step, same);
        if (rc)
            return rc;
        at += step;
    }
    return KM_OK;
}

/* Nothing is before the first block. */
static void sealed_verify_first(struct sealed_verify *verify)
{
    const km_sealed *table = verify->table;
    struct sealed_group group;

    if (table->group_count == 0)
        return;
    km__sealed_group_view(table->groups[0].bytes, &group);
    if (group.prefix_size + km__sealed_group_suffix(&group, 0).size != 0)
        sealed_verify_report(verify, table->footer.index_offset,
                             "the separator of the first block is not empty");
}

static km_status sealed_verify_all(struct sealed_verify *verify, uint8_t *piece)
{
    const struct sealed_footer *footer = &verify->table->footer;
    km_status rc = sealed_verify_header(verify);

    if (!rc)
        rc = sealed_verify_footer(verify);
    if (!rc)
        rc = sealed_verify_index(verify, piece);
    sealed_verify_first(verify);
    if (!rc)
        rc = sealed_verify_blocks(verify);
    if (!rc && verify->finding_count == 0 &&
        (verify->key_bytes != footer->key_bytes || verify->value_bytes != footer->value_bytes))
        sealed_verify_report(verify, verify->table->file_size - SEALED_PAGE,
                             "the footer's totals are wrong");
    if (!rc)
        rc = verify->io_failure;
    if (!rc && verify->finding_count > 0)
        rc = KM_E_CORRUPT;
    return rc;
}

static km_status sealed_verify_run(struct sealed_verify *verify)
{
    const struct allocator *allocator = &verify->table->os->allocator;
    uint8_t *piece = km__allocate(allocator, SEALED_VERIFY_PIECE);
    km_status rc = KM_E_NO_MEMORY;

    km__sealed_window_init(&verify->window, verify->table);
    verify->key = km__allocate(allocator, KM_KEY_SIZE_MAX);
    verify->next_key = km__allocate(allocator, KM_KEY_SIZE_MAX);
    if (piece && verify->key && verify->next_key)
        rc = sealed_verify_all(verify, piece);
    km__sealed_window_fini(&verify->window);
    km__release(allocator, verify->next_key, KM_KEY_SIZE_MAX);
    km__release(allocator, verify->key, KM_KEY_SIZE_MAX);
    km__release(allocator, piece, SEALED_VERIFY_PIECE);
    return rc;
}

km_status km_sealed_verify(const km_sealed *table, km_finding_fn found, km_progress_fn progress,
                           void *context)
{
    struct sealed_verify verify = {
        .table = table, .found = found, .progress = progress, .context = context};

    return sealed_verify_run(&verify);
}

static const char *sealed_verify_text(km_status rc)
{
    switch (rc) {
    case KM_E_CORRUPT: return "the table is damaged";
    case KM_E_IO: return "the table cannot be read as a whole";
    default: return "the table could not be verified";
    }
}

km_status km__sealed_check(struct os *os, const char *path, km_finding_fn found, void *context,
                           km_error *out_error)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    struct sealed_verify verify = {.found = found, .context = context};
    km_sealed *table = NULL;
    km_status rc;

    options.no_mapping = 1; /* a mapping would not be used */
    rc = km__sealed_open(os, path, &options, &table, out_error);
    if (rc)
        return rc;
    verify.table = table;
    rc = sealed_verify_run(&verify);
    if (rc)
        km__ignore(km__fail(out_error, rc, table->name, 0, rc == KM_E_IO ? verify.io_os_error : 0,
                            "%s", sealed_verify_text(rc)),
                   "rc is returned");
    km_sealed_close(table);
    return rc;
}

km_status km_sealed_check(const char *path, km_finding_fn found, void *context, km_error *out_error)
{
    return km__sealed_check(km__os_linux(), path, found, context, out_error);
}
