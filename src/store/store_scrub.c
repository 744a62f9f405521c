/* SPDX-License-Identifier: Apache-2.0
 *
 * store_scrub.c -- verify the files of sealed segments, record by record, while the store is open.
 *
 * The files are read anew, by calls: an unreadable place is a result, not a signal. What the kernel
 * keeps in its cache it gives from there.
 *
 * I1. Only segments are read that end below the durable point: whatever is missing there was there.
 * I2. While a segment's file is read a pin keeps it; between two segments there is none, so that
 *     a slow scrub does not keep the log from getting shorter.
 * I3. The window holds the file's bytes [begin, end) and only moves forward: each byte is read
 *     once, however damaged the records are.
 *
 * Behind damage every eighth byte is tried for the next record: a record's checksum is seeded with
 * its place, so what checks out belongs there. The sums of false starts are bounded.
 */
#include "store/store_internal.h"

#include <stdio.h>

#define SCRUB_PIECE (UINT64_C(1) << 20)
#define SCRUB_PIECE_MIN (UINT64_C(64) << 10)
#define SCRUB_CREDIT_MAX (UINT64_C(1) << 40) /* in one call */
#define SCRUB_SLEEP_NS UINT64_C(50000000)
#define SCRUB_CLAIMS_FACTOR 64u /* bytes summed for false starts, in sizes of a segment */

struct scrub {
    struct km_store *store;
    km_finding_fn found;
    void *context;
    km_check_result result;
    uint64_t piece;       /* of one read */
    uint64_t rate;        /* bytes per second; 0: no limit */
    uint64_t begin_ns;    /* for the rate */
    uint64_t read_bytes;  /* so far */
    uint64_t slice_bytes; /* stop between two records when so many were read; 0: do not */

    /* the segment */
    uint32_t number;
    char name[SEGMENT_NAME_SIZE];
    struct os_file *file;
    uint64_t limit;      /* where its records end */
    uint64_t offset;     /* of the record to be verified */
    uint64_t from;       /* where this slice began */
    uint64_t gap;        /* where damage began that no whole record has followed; 0: none */
    uint64_t claims;     /* bytes that false starts may still claim */
    uint8_t *bytes;      /* the window; NULL: not yet */
    uint64_t capacity;   /* of it */
    uint64_t begin, end; /* I3 */
};

/* ---- findings ---------------------------------------------------------------------------- */

static void tell_finding(struct scrub *scrub, uint64_t offset, const char *what, uint64_t size)
{
    km_error finding;

    km__ignore(km__fail(&finding, KM_E_CORRUPT, scrub->name, offset, 0,
                        "%s (%llu bytes from offset %llu): salvage the store or restore a backup",
                        what, (unsigned long long)size, (unsigned long long)offset),
               "the status is the one given");
    scrub->result.finding_count++;
    atomic_fetch_add_explicit(&scrub->store->damage_count, 1, memory_order_relaxed);
    if (scrub->found)
        scrub->found(scrub->context, &finding);
}

/* ---- the window -------------------------------------------------------------------------- */

static void sleep_scrub(uint64_t ns)
{
    struct eventcount nobody; /* wakes it */

    km__eventcount_init(&nobody);
    km__eventcount_wait(&nobody, km__eventcount_prepare(&nobody), ns);
}

/* Wait until no more than `rate` bytes a second were read. */
static void keep_rate(const struct scrub *scrub)
{
    struct os *os = scrub->store->os;
    uint64_t now = os->ops->now_ns(os), due;

    if (!scrub->rate)
        return;
    due = scrub->begin_ns +
          (uint64_t)((double)scrub->read_bytes * 1e9 / (double)scrub->rate); /* no overflow */
    while (now < due) {                                                      /* ends: time passes */
        sleep_scrub(due - now < SCRUB_SLEEP_NS ? due - now : SCRUB_SLEEP_NS);
        now = os->ops->now_ns(os);
    }
}

/* Let the window begin at `offset` and have room for `size` bytes. */
static km_status move_window(struct scrub *scrub, uint64_t offset, uint64_t size)
{
    uint64_t kept = scrub->end > offset ? scrub->end - offset : 0, capacity = scrub->capacity;
    uint8_t *bytes = scrub->bytes;

    if (size > capacity) {
        capacity = km__round_up(size, SCRUB_PIECE);
        bytes = km__map_pages(scrub->store->allocator, capacity);
        if (!bytes)
            return KM_E_NO_MEMORY;
    }
    if (kept)
        memmove(bytes, scrub->bytes + (offset - scrub->begin), kept);
    if (bytes != scrub->bytes && scrub->bytes)
        km__unmap_pages(scrub->store->allocator, scrub->bytes, scrub->capacity);
    scrub->bytes = bytes;
    scrub->capacity = capacity;
    scrub->begin = offset;
    scrub->end = offset + kept;
    return KM_OK;
}

static km_status read_scrub_piece(struct scrub *scrub)
{
    uint64_t size = scrub->begin + scrub->capacity - scrub->end;
    km_status rc;

    if (size > scrub->piece)
        size = scrub->piece;
    if (size > scrub->limit - scrub->end)
        size = scrub->limit - scrub->end;
    rc = scrub->store->os->ops->read_at(scrub->file, scrub->end,
                                        scrub->bytes + (scrub->end - scrub->begin), size);
    if (rc)
        return rc;
    scrub->end += size;
    scrub->read_bytes += size;
    atomic_fetch_add_explicit(&scrub->store->scrubbed_bytes, size, memory_order_relaxed);
    keep_rate(scrub);
    return KM_OK;
}

/* Whether the slice may end before the record at hand. */
static int is_slice_over(const struct scrub *scrub)
{
    return scrub->slice_bytes && scrub->read_bytes >= scrub->slice_bytes && !scrub->gap &&
           scrub->offset > scrub->from;
}

/* Have `size` bytes from scrub->offset on, which lie below the limit, in the window. KM_END: they
 * would have to be read, and the slice is over. */
static km_status have_bytes(struct scrub *scrub, uint64_t size)
{
    uint64_t need = scrub->offset + size;
    km_status rc = KM_OK;

    if (need <= scrub->end)
        return KM_OK;
    if (is_slice_over(scrub))
        return KM_END;
    if (scrub->offset > scrub->end || need > scrub->begin + scrub->capacity)
        rc = move_window(scrub, scrub->offset, size);
    while (!rc && scrub->end < need) /* ends: there is room, and a piece is at least a byte */
        rc = read_scrub_piece(scrub);
    return rc;
}

/* ---- records ----------------------------------------------------------------------------- */

static const uint8_t *scrub_bytes(const struct scrub *scrub)
{
    return scrub->bytes + (scrub->offset - scrub->begin);
}

/* Whether a header is worth reading the record for. */
static int may_be_record(const uint8_t *p)
{
    return p[12] != 0 && p[12] <= RECORD_KIND_MAX && !(p[13] & ~RECORD_FLAGS_ALL) &&
           km__load16(p + 14) == 0;
}

/* Verify the record at scrub->offset. KM_NOT_FOUND: there is no whole record. */
static km_status check_record(struct scrub *scrub, uint64_t *out_size)
{
    struct record_place place = {scrub->store->view->store_tag,
                                 km__position(scrub->number, scrub->offset)};
    struct record record;
    uint64_t size;
    km_status rc = have_bytes(scrub, RECORD_HEADER_SIZE);

    if (rc)
        return rc;
    size = km__record_size_at(scrub_bytes(scrub));
    if (!may_be_record(scrub_bytes(scrub)) || size > scrub->limit - scrub->offset)
        return KM_NOT_FOUND;
    if (scrub_bytes(scrub)[12] != RECORD_PADDING) /* what follows its header has no meaning */
        rc = have_bytes(scrub, size);
    if (rc)
        return rc;
    if (km__record_decode(scrub_bytes(scrub), size, place, &record) != RECORD_OK) {
        scrub->claims -= size < scrub->claims ? size : scrub->claims;
        return KM_NOT_FOUND;
    }
    *out_size = size;
    return KM_OK;
}

static void end_gap(struct scrub *scrub, uint64_t end)
{
    if (scrub->gap)
        tell_finding(scrub, scrub->gap, "damaged bytes between records", end - scrub->gap);
    scrub->gap = 0;
}

/* KM_OK: up to the limit; KM_END: the slice is over. */
static km_status scrub_records(struct scrub *scrub)
{
    uint64_t size;
    km_status rc = KM_OK;

    scrub->claims = scrub->limit * SCRUB_CLAIMS_FACTOR;
    while (!rc && scrub->limit >= scrub->offset + RECORD_HEADER_SIZE && scrub->claims) {
        rc = check_record(scrub, &size); /* the loop ends: the offset grows */
        if (rc == KM_NOT_FOUND) {
            scrub->gap = scrub->gap ? scrub->gap : scrub->offset;
            scrub->offset += RECORD_ALIGNMENT;
            rc = KM_OK;
        } else if (!rc) {
            end_gap(scrub, scrub->offset);
            scrub->result.record_count++;
            scrub->offset += size;
        }
    }
    if (rc != KM_END && scrub->gap)
        tell_finding(scrub, scrub->gap, "damaged bytes up to the segment's end",
                     scrub->limit - scrub->gap);
    scrub->gap = 0;
    if (rc == KM_E_IO) { /* the rest is given up: the disk may take seconds over each try */
        tell_finding(scrub, scrub->end, "the segment's file cannot be read",
                     scrub->limit - scrub->end);
        rc = KM_OK;
    }
    return rc;
}

/* ---- a segment --------------------------------------------------------------------------- */

static void check_header(struct scrub *scrub, const uint8_t *bytes, uint64_t file_size)
{
    struct segment_header header;

    if (km__segment_header_decode(bytes, &header)) {
        tell_finding(scrub, 0, "the segment's header is damaged", SEGMENT_HEADER_SIZE);
        return;
    }
    if (memcmp(header.store_id, scrub->store->identity.store_id, STORE_ID_SIZE) != 0)
        tell_finding(scrub, 0, "the segment belongs to another store", SEGMENT_HEADER_SIZE);
    else if (header.number != scrub->number || header.size != file_size)
        tell_finding(scrub, 0, "the segment's number or size is not that of its header",
                     SEGMENT_HEADER_SIZE);
}

static km_status scrub_header(struct scrub *scrub)
{
    uint64_t size = 0;
    km_status rc = scrub->store->os->ops->file_size(scrub->file, &size);

    if (rc)
        return rc;
    if (size < scrub->limit) {
        tell_finding(scrub, size, "the segment's file is cut short", scrub->limit - size);
        scrub->limit = km__round_down(size, RECORD_ALIGNMENT);
    }
    if (scrub->limit < SEGMENT_HEADER_SIZE || scrub->offset >= SEGMENT_HEADER_SIZE)
        return KM_OK;
    scrub->offset = 0;
    rc = have_bytes(scrub, SEGMENT_HEADER_SIZE);
    if (rc)
        return rc;
    check_header(scrub, scrub_bytes(scrub), size);
    scrub->offset = SEGMENT_HEADER_SIZE; /* the log knows the limit without it */
    return KM_OK;
}

static km_status scrub_file(struct scrub *scrub)
{
    const struct os_ops *ops = scrub->store->os->ops;
    km_status rc = ops->open_file(scrub->store->log_dir, scrub->name, OS_OPEN_READ, &scrub->file);

    if (rc == KM_NOT_FOUND && scrub->store->options.mode == KM_OPEN_READ_ONLY)
        return KM_OK; /* its writer has no more use for it */
    if (!rc)
        rc = scrub_header(scrub);
    if (rc == KM_NOT_FOUND || rc == KM_E_INVALID || rc == KM_E_IO) {
        tell_finding(scrub, 0, "the segment's file cannot be read", scrub->limit);
        rc = KM_OK;
    } else if (!rc) {
        rc = scrub_records(scrub);
    }
    return rc;
}

/* Verify a pinned segment from an offset on; 0: with its header. KM_END: the slice is over, it goes
 * on at scrub->offset. */
static km_status scrub_segment(struct scrub *scrub, uint32_t number, uint64_t offset)
{
    km_status rc;

    scrub->number = number;
    km__segment_name(number, scrub->name);
    scrub->limit = km__log_segment_limit(scrub->store->log, number);
    scrub->offset = scrub->from = offset;
    scrub->begin = scrub->end = offset;
    scrub->file = NULL;
    rc = scrub_file(scrub);
    scrub->store->os->ops->close_file(scrub->file);
    return rc;
}

/* ---- the log ----------------------------------------------------------------------------- */

/* Segments below this number are to be verified: I1. */
static uint32_t scrub_end(const struct km_store *store)
{
    uint32_t durable = km__position_number(km__log_durable(store->log));
    uint32_t certain;

    if (store->options.mode != KM_OPEN_READ_ONLY)
        return durable;
    /* what a read-only open took from the ring is in no file */
    certain = km__log_certain_number(store->log);
    return certain < durable ? certain : durable;
}

/*
 * Verify on from `place`, the oldest segment if it has left the log, until segment `end`: KM_OK,
 * with a place of `end` or later. KM_END: the slice is over before that.
 */
static km_status scrub_until(struct scrub *scrub, struct scrub_place *place, uint32_t end)
{
    struct log *log = scrub->store->log;
    struct log_pin pin;
    km_status rc = KM_OK;

    while (!rc) { /* a turn for each segment */
        km__log_pin(log, &pin);
        if (place->number < pin.number)
            *place = (struct scrub_place){pin.number, 0};
        if (place->number >= end) {
            km__log_unpin(log, &pin);
            return KM_OK;
        }
        rc = scrub_segment(scrub, place->number, place->offset);
        if (!rc) {
            scrub->result.segment_count++;
            *place = (struct scrub_place){km__log_next_number(log, place->number), 0};
        } else if (rc == KM_END) {
            place->offset = scrub->offset;
        }
        km__log_unpin(log, &pin);
        if (!rc && scrub->slice_bytes && scrub->read_bytes >= scrub->slice_bytes)
            rc = KM_END;
    }
    return rc;
}

static void release_window(struct scrub *scrub)
{
    if (scrub->bytes)
        km__unmap_pages(scrub->store->allocator, scrub->bytes, scrub->capacity);
}

km_status km_scrub(km_store *store, uint64_t rate, km_finding_fn found, void *context,
                   km_check_result *out_result)
{
    struct scrub scrub = {.store = store, .found = found, .context = context, .rate = rate};
    struct scrub_place place = {0, 0};
    km_status rc;

    if (km__store_is_forked(store))
        return KM_E_FORKED;
    if (!store->dir)
        return KM_E_UNSUPPORTED;
    if (km__epoch_ongoing())
        return KM_WOULD_BLOCK;
    scrub.piece = SCRUB_PIECE;
    scrub.begin_ns = store->os->ops->now_ns(store->os);
    rc = scrub_until(&scrub, &place, scrub_end(store));
    release_window(&scrub);
    if (rc)
        return rc;
    if (out_result)
        *out_result = scrub.result;
    return scrub.result.finding_count ? KM_E_CORRUPT : KM_OK;
}

/* ---- in the background ------------------------------------------------------------------- */

static void note_scrub_finding(void *context, const km_error *finding)
{
    const struct km_store *store = context;
    char line[sizeof(finding->message) + sizeof(finding->file) + 8];

    if (!store->options.log)
        return;
    snprintf(line, sizeof(line), "log/%s: %s", finding->file, finding->message);
    store->options.log(store->options.log_context, KM_LOG_ERROR, line);
}

km_status km__scrub_some(struct km_store *store, uint64_t bytes)
{
    struct scrub scrub = {.store = store, .found = note_scrub_finding, .context = store};
    km_status rc;

    if (!store->dir)
        return KM_E_UNSUPPORTED;
    store->scrub_credit += (int64_t)(bytes < SCRUB_CREDIT_MAX ? bytes : SCRUB_CREDIT_MAX);
    if (store->scrub_credit < (int64_t)SCRUB_PIECE_MIN)
        return KM_OK;
    scrub.slice_bytes = (uint64_t)store->scrub_credit;
    scrub.piece = scrub.slice_bytes < SCRUB_PIECE ? scrub.slice_bytes : SCRUB_PIECE;
    rc = scrub_until(&scrub, &store->scrub_place, scrub_end(store));
    store->scrub_credit -= (int64_t)scrub.read_bytes;
    if (!rc) { /* the next round; what was left for this one is forfeited */
        store->scrub_place = (struct scrub_place){0, 0};
        store->scrub_credit = store->scrub_credit < 0 ? store->scrub_credit : 0;
    }
    release_window(&scrub);
    return rc == KM_END ? KM_OK : rc;
}
