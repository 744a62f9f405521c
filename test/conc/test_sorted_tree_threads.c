/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sorted_tree_threads.c -- readers and walkers beside writers of keys in the same leaves.
 *
 * Residents are keys that are there throughout: every lookup must find them, and every walk and
 * export return them once and in order, whatever their references are replaced by. Guests come and
 * go, some are reserved and given up, and make leaves grow, part and join. A record is written
 * before its reference enters the tree and read without further ado by who finds it: under
 * ThreadSanitizer that checks that the reference carries it, and that nobody but writers looks at a
 * pending entry.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "base/compiler.h"
#include "index/node_pool.h"
#include "index/sorted_tree.h"
#include "sync/thread.h"
#include "unit/hash_index_util.h"

enum {
    WRITERS = 2,
    READERS = 1,
    WALKERS = 2,
    THREADS_MAX = WRITERS + READERS + WALKERS + 3,
    KEYS = KM_THREAD_SANITIZER ? 2000 : 8000, /* of each writer */
    RESIDENT_EVERY = 8,
    PHASES = 8, /* guests become more, then fewer, and so on */
    STEPS = KM_THREAD_SANITIZER ? 150000 : 1500000,
    RECORDS = KEYS + STEPS + 1, /* of each writer: none is used twice */
    KEY_SIZE = 20,
};

/* What references lead to; a reference is an index into the records. */
struct record {
    uint64_t number;
    uint64_t check; /* mix64(number) */
    uint8_t key[KEY_SIZE];
};

struct shared {
    struct test_allocator allocator;
    struct reclaimer reclaimer;
    struct node_pool *pool;
    struct sorted_tree *tree;
    struct sorted_source source;
    struct record *records;
    _Atomic uint32_t writers_left;
    _Atomic uint32_t failures;
    _Atomic uint32_t walks; /* that went on beside writers, from end to end */
};

struct writer {
    struct shared *shared;
    uint64_t number;
    uint64_t random;
    uint64_t next_record;
    uint64_t *refs; /* of each of its keys; 0: not there */
    uint64_t count;
};

static void expect(struct shared *shared, int condition)
{
    if (!condition)
        atomic_fetch_add_explicit(&shared->failures, 1, memory_order_relaxed);
}

static int is_running(struct shared *shared)
{
    return atomic_load_explicit(&shared->writers_left, memory_order_relaxed) != 0;
}

/* In the order of the numbers. What tells two writers' neighbours apart lies behind the head. */
static void make_key(uint64_t number, uint8_t key[KEY_SIZE])
{
    uint64_t group = number / (2 * WRITERS);

    memset(key, 'x', KEY_SIZE);
    for (int i = 0; i < 6; i++)
        key[i] = (uint8_t)(group >> (40 - 8 * i));
    key[KEY_SIZE - 1] = (uint8_t)(number % (2 * WRITERS));
}

static km_status answer_key(void *context, uint64_t ref, km_bytes *out_key)
{
    struct shared *shared = context;

    out_key->data = shared->records[ref].key;
    out_key->size = KEY_SIZE;
    return KM_OK;
}

static void prefetch_record(void *context, uint64_t ref)
{
    KM_PREFETCH(&((struct shared *)context)->records[ref]);
}

/* ---- writers: writer w owns the numbers that are w modulo WRITERS */

static uint64_t number_at(const struct writer *writer, uint64_t i)
{
    return i * WRITERS + writer->number;
}

static int is_resident(uint64_t number)
{
    return number / WRITERS % RESIDENT_EVERY == 0;
}

static uint64_t write_record(struct writer *writer, uint64_t number)
{
    uint64_t ref = 1 + writer->number * RECORDS + writer->next_record++;
    struct record *record = &writer->shared->records[ref];

    record->number = number;
    record->check = mix64(number);
    make_key(number, record->key);
    return ref;
}

static void enter(struct writer *writer, uint64_t i)
{
    struct sorted_tree *tree = writer->shared->tree;
    struct sorted_pending pending;
    uint8_t key[KEY_SIZE];

    make_key(number_at(writer, i), key);
    pending.key = key;
    pending.key_size = KEY_SIZE;
    km__epoch_enter();
    expect(writer->shared, km__sorted_reserve(tree, &pending) == KM_OK);
    if (random64(&writer->random) % 8 || is_resident(number_at(writer, i))) {
        writer->refs[i] = write_record(writer, number_at(writer, i));
        writer->count++;
        km__sorted_fill(tree, (uint32_t)writer->number, &pending, writer->refs[i], 10);
    } else {
        km__sorted_cancel(tree, &pending);
    }
    memset(&pending, 0xee, sizeof(pending));
    memset(key, 0xee, sizeof(key));
    km__epoch_leave();
}

static void change(struct writer *writer, uint64_t i, int is_removal)
{
    struct sorted_tree *tree = writer->shared->tree;
    uint64_t old = writer->refs[i];
    uint8_t bytes[KEY_SIZE];
    km_bytes key = {bytes, KEY_SIZE};

    make_key(number_at(writer, i), bytes);
    km__epoch_enter();
    if (is_removal) {
        km__sorted_remove(tree, (uint32_t)writer->number, key, old, 10);
        writer->refs[i] = 0;
        writer->count--;
    } else {
        writer->refs[i] = write_record(writer, number_at(writer, i));
        km__sorted_replace(tree, (uint32_t)writer->number, key, old, writer->refs[i], 0);
    }
    km__epoch_leave();
}

static void run_writer(void *context)
{
    struct writer *writer = context;

    for (uint64_t step = 0; step < STEPS; step++) {
        uint64_t dice = random64(&writer->random);
        uint64_t i = (dice >> 8) % KEYS;
        int is_emptying = step / (STEPS / PHASES) % 2;

        if (step % 64 < 32) /* both writers in the same few leaves */
            i = (step / 4096 * 64 + i % 64) % KEYS;
        if (!writer->refs[i] && (!is_emptying || dice % 16 == 0))
            enter(writer, i);
        else if (writer->refs[i] && is_resident(number_at(writer, i)))
            change(writer, i, 0);
        else if (writer->refs[i])
            change(writer, i, is_emptying ? dice % 16 != 0 : dice % 4 == 0);
        if (step % 2000 == 0)
            km__node_pool_prepare(writer->shared->pool);
    }
    atomic_fetch_sub_explicit(&writer->shared->writers_left, 1, memory_order_relaxed);
}

/* ---- readers */

/* The number of a record that the tree leads to, which is whole. */
static uint64_t number_of(struct shared *shared, uint64_t ref)
{
    expect(shared, ref != 0 && ref < 1 + WRITERS * RECORDS);
    expect(shared, shared->records[ref].check == mix64(shared->records[ref].number));
    return shared->records[ref].number;
}

static void find_one(struct shared *shared, uint64_t number)
{
    uint8_t bytes[KEY_SIZE];
    uint64_t ref = 0;
    km_status rc;

    make_key(number, bytes);
    rc = km__sorted_find(shared->tree, (km_bytes){bytes, KEY_SIZE}, &ref);
    expect(shared, rc == KM_OK || (rc == KM_NOT_FOUND && !is_resident(number)));
    expect(shared, rc != KM_OK || number_of(shared, ref) == number);
}

static void find_group(struct shared *shared, uint64_t *random)
{
    uint8_t bytes[SORTED_GROUP_MAX][KEY_SIZE];
    km_bytes keys[SORTED_GROUP_MAX];
    uint64_t refs[SORTED_GROUP_MAX];
    km_status statuses[SORTED_GROUP_MAX];
    uint64_t numbers[SORTED_GROUP_MAX];

    for (size_t i = 0; i < SORTED_GROUP_MAX; i++) {
        numbers[i] = random64(random) % (KEYS * WRITERS);
        make_key(numbers[i], bytes[i]);
        keys[i] = (km_bytes){bytes[i], KEY_SIZE};
    }
    km__sorted_find_many(shared->tree, keys, SORTED_GROUP_MAX, refs, statuses);
    for (size_t i = 0; i < SORTED_GROUP_MAX; i++) {
        expect(shared,
               statuses[i] == KM_OK || (statuses[i] == KM_NOT_FOUND && !is_resident(numbers[i])));
        expect(shared, statuses[i] != KM_OK || number_of(shared, refs[i]) == numbers[i]);
    }
}

/* Residents from number `from` up to, not including, `end`. */
static uint64_t residents_between(uint64_t from, uint64_t end)
{
    uint64_t count = 0;

    for (uint64_t number = from; number < end; number++)
        count += (uint64_t)is_resident(number);
    return count;
}

static void count_some(struct shared *shared, uint64_t *random)
{
    uint64_t from = random64(random) % (KEYS * WRITERS - 200);
    uint64_t end = from + random64(random) % 200;
    uint8_t from_bytes[KEY_SIZE];
    uint8_t end_bytes[KEY_SIZE];
    struct sorted_bound low = {{from_bytes, KEY_SIZE}, 1, 0};
    struct sorted_bound high = {{end_bytes, KEY_SIZE}, 1, 0};
    uint64_t count = 0;

    make_key(from, from_bytes);
    make_key(end, end_bytes);
    expect(shared, km__sorted_count_range(shared->tree, low, high, &count) == KM_OK);
    expect(shared, count >= residents_between(from, end) && count <= end - from);
}

static void run_reader(void *context)
{
    struct shared *shared = context;
    uint64_t random = test_seed() ^ (uintptr_t)&random;

    while (is_running(shared)) {
        km__epoch_enter();
        for (int i = 0; i < 32; i++)
            find_one(shared, random64(&random) % (KEYS * WRITERS));
        find_group(shared, &random);
        count_some(shared, &random);
        km__epoch_leave();
    }
}

/* ---- walkers */

struct walker {
    struct shared *shared;
    int is_downwards;
};

/* One that reads upwards sees numbers from 0 up; one that reads downwards sees them mirrored. */
static uint64_t walk_number(const struct walker *walker, uint64_t ref)
{
    uint64_t number = number_of(walker->shared, ref);

    return walker->is_downwards ? KEYS * WRITERS - 1 - number : number;
}

static int is_walk_resident(const struct walker *walker, uint64_t number)
{
    return is_resident(walker->is_downwards ? KEYS * WRITERS - 1 - number : number);
}

/* Numbers ascend, and no resident is left out from `next` on; returns the one behind the last. */
static uint64_t check_refs(const struct walker *walker, const uint64_t *refs, size_t count,
                           uint64_t next)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t number = walk_number(walker, refs[i]);

        expect(walker->shared, number >= next && number < KEYS * WRITERS);
        for (; next < number; next++)
            expect(walker->shared, !is_walk_resident(walker, next));
        next = number + 1;
    }
    return next;
}

static void walk_once(const struct walker *walker, uint64_t *random)
{
    struct shared *shared = walker->shared;
    struct sorted_bound from = {{NULL, 0}, 0, 1};
    uint64_t refs[200];
    uint8_t bytes[KEY_SIZE];
    uint64_t next = 0;
    size_t count = 1;

    while (count > 0) {
        size_t max = SORTED_LEAF_ENTRIES + random64(random) % (200 - SORTED_LEAF_ENTRIES);
        km_status rc;

        km__epoch_enter();
        if (walker->is_downwards)
            rc = km__sorted_read_down(shared->tree, from, refs, max, &count);
        else
            rc = km__sorted_read_up(shared->tree, from, refs, max, &count);
        expect(shared, rc == KM_OK && count <= max);
        next = check_refs(walker, refs, count, next);
        if (count > 0)
            memcpy(bytes, shared->records[refs[count - 1]].key, KEY_SIZE);
        km__epoch_leave();
        from = (struct sorted_bound){{bytes, KEY_SIZE}, 1, 1};
    }
    for (; next < KEYS * WRITERS; next++)
        expect(shared, !is_walk_resident(walker, next));
}

static void run_walker(void *context)
{
    struct walker *walker = context;
    uint64_t random = test_seed() ^ (uintptr_t)&random;

    while (is_running(walker->shared)) {
        walk_once(walker, &random);
        atomic_fetch_add_explicit(&walker->shared->walks, 1, memory_order_relaxed);
    }
    walk_once(walker, &random);
}

static void export_once(struct shared *shared)
{
    struct walker walker = {shared, 0};
    struct sorted_walk walk = {0};
    struct sorted_image_leaf leaf;
    uint64_t next = 0;
    km_bytes fence;
    int is_end = 0;

    for (;;) {
        km__epoch_enter();
        expect(shared,
               km__sorted_export_next(shared->tree, &walk, &leaf, &fence, &is_end) == KM_OK);
        if (!is_end)
            next = check_refs(&walker, leaf.refs, leaf.count, next);
        km__epoch_leave();
        if (is_end)
            break;
    }
    for (; next < KEYS * WRITERS; next++)
        expect(shared, !is_walk_resident(&walker, next));
    km__sorted_walk_fini(shared->tree, &walk);
}

static void run_exporter(void *context)
{
    while (is_running(context))
        export_once(context);
}

static void run_reclaimer(void *context)
{
    struct shared *shared = context;

    while (is_running(shared)) {
        km__reclaim(&shared->reclaimer);
        km__thread_pause();
    }
}

/* ---- the case */

static void create_shared(struct shared *shared)
{
    memset(shared, 0, sizeof(*shared));
    test_allocator_init(&shared->allocator);
    km__reclaimer_init(&shared->reclaimer);
    shared->source.key = answer_key;
    shared->source.prefetch = prefetch_record;
    shared->source.context = shared;
    shared->records = calloc(1 + (size_t)WRITERS * RECORDS, sizeof(*shared->records));
    assert_non_null(shared->records);
    atomic_init(&shared->writers_left, WRITERS);
    assert_int_equal(km__node_pool_create(&shared->allocator.allocator, &shared->pool), KM_OK);
    assert_int_equal(km__sorted_create(&shared->allocator.allocator, shared->pool,
                                       &shared->reclaimer, &shared->source, &shared->tree),
                     KM_OK);
}

static void create_writer(struct writer *writer, struct shared *shared, uint64_t number)
{
    writer->shared = shared;
    writer->number = number;
    writer->random = mix64(test_seed() + number);
    writer->next_record = 0;
    writer->count = 0;
    writer->refs = calloc(KEYS, sizeof(*writer->refs));
    for (uint64_t i = 0; i < KEYS; i++) {
        if (is_resident(number_at(writer, i)))
            enter(writer, i);
    }
}

/* After all is quiet the tree holds exactly what the writers left in it. */
static void check_all(struct shared *shared, struct writer *writers)
{
    uint64_t expected = 0;

    assert_int_equal(km__sorted_check(shared->tree), 0);
    for (uint64_t w = 0; w < WRITERS; w++) {
        expected += writers[w].count;
        for (uint64_t i = 0; i < KEYS; i++) {
            uint8_t bytes[KEY_SIZE];
            uint64_t ref = 0;
            km_status rc;

            make_key(number_at(&writers[w], i), bytes);
            rc = km__sorted_find(shared->tree, (km_bytes){bytes, KEY_SIZE}, &ref);
            assert_int_equal(rc, writers[w].refs[i] ? KM_OK : KM_NOT_FOUND);
            assert_int_equal(ref, writers[w].refs[i]);
        }
        free(writers[w].refs);
    }
    assert_int_equal(km__sorted_count(shared->tree), expected);
    assert_int_equal(km__sorted_weight(shared->tree), expected * 10);
}

static void residents_are_found_beside_writers(void **state)
{
    static struct shared shared;
    struct walker walkers[WALKERS] = {{&shared, 0}, {&shared, 1}};
    struct thread threads[THREADS_MAX];
    struct writer writers[WRITERS];
    size_t count = 0;

    (void)state;
    create_shared(&shared);
    for (uint64_t w = 0; w < WRITERS; w++)
        create_writer(&writers[w], &shared, w);
    for (size_t i = 0; i < READERS; i++)
        assert_int_equal(km__thread_start(&threads[count++], "reader", run_reader, &shared), KM_OK);
    for (size_t i = 0; i < WALKERS; i++)
        assert_int_equal(km__thread_start(&threads[count++], "walker", run_walker, &walkers[i]),
                         KM_OK);
    assert_int_equal(km__thread_start(&threads[count++], "exporter", run_exporter, &shared), KM_OK);
    assert_int_equal(km__thread_start(&threads[count++], "reclaimer", run_reclaimer, &shared),
                     KM_OK);
    for (size_t w = 0; w < WRITERS; w++)
        assert_int_equal(km__thread_start(&threads[count++], "writer", run_writer, &writers[w]),
                         KM_OK);
    for (size_t i = 0; i < count; i++)
        km__thread_join(&threads[i]);
    print_message("walks: %u\n", atomic_load_explicit(&shared.walks, memory_order_relaxed));
    assert_int_equal(atomic_load_explicit(&shared.failures, memory_order_relaxed), 0);
    check_all(&shared, writers);
    km__sorted_destroy(shared.tree);
    km__reclaimer_fini(&shared.reclaimer);
    assert_int_equal(km__node_pool_check(shared.pool), 0);
    km__node_pool_destroy(shared.pool);
    assert_int_equal(shared.allocator.held_bytes, 0);
    free(shared.records);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residents_are_found_beside_writers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
