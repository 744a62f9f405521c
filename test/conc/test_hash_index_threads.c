/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hash_index_threads.c -- readers and walkers beside writers, splits and clears.
 *
 * Residents are keys that are there throughout: every probe must find them and every walk return
 * them once, whatever their references are replaced by. Guests come and go, and make nodes split
 * and get tidied up. A record is written before its reference enters the index and read without
 * further ado by who finds it: under ThreadSanitizer that checks that the reference carries it.
 *
 * All of this in an index that was filled, and in one that was imported and whose nodes are loaded
 * meanwhile: by readers, by writers, by walks, by exports, and by a thread that does nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "base/compiler.h"
#include "index/hash_index.h"
#include "index/node_pool.h"
#include "sync/thread.h"
#include "unit/hash_image_util.h"
#include "unit/hash_index_util.h"

#if KM_THREAD_SANITIZER

#include <dlfcn.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

/* ThreadSanitizer does not see into liburcu: it must be told that what a section did comes before
 * what is done after the grace period that waited for it, or reuse of memory looks like a race.
 * Told so, and not suppressed, it still reports memory that is reused without a grace period. */
static char grace_period;

static void leave_section(void)
{
    __tsan_release(&grace_period);
    km__epoch_leave();
}

/* Called by km__reclaim() in the place of liburcu's. */
void urcu_bp_synchronize_rcu(void)
{
    void (*synchronize)(void);

    *(void **)&synchronize = dlsym(RTLD_NEXT, "urcu_bp_synchronize_rcu");
    synchronize();
    __tsan_acquire(&grace_period);
}

#else

static void leave_section(void)
{
    km__epoch_leave();
}

#endif

enum {
    WRITERS = 2,
    READERS = 2,
    WALKERS = 1,
    THREADS_MAX = WRITERS + READERS + WALKERS + 2,
    RESIDENTS = 2000,                             /* of each writer */
    GUESTS = KM_THREAD_SANITIZER ? 12000 : 80000, /* at most at a time, of each writer */
    STEPS = KM_THREAD_SANITIZER ? 60000 : 700000,
    IMPORTED = KM_THREAD_SANITIZER ? 12000 : 80000, /* guests there at the start, of each writer */
    RECORDS = RESIDENTS + GUESTS + IMPORTED + STEPS + 1, /* of each writer: none is used twice */
};

#define PLACEHOLDER_BIT (UINT64_C(1) << 43) /* then the other bits are the key */

/* What references lead to; a reference is an index into the records. */
struct record {
    uint64_t key;
    uint64_t check; /* mix64(key) */
};

struct shared {
    struct test_allocator allocator;
    struct reclaimer reclaimer;
    struct node_pool *pool;
    struct hash_index *index;
    struct hash_source source;
    struct record *records;
    struct test_image image; /* where an imported index came from */
    _Atomic uint32_t writers_left;
    _Atomic uint32_t failures;
};

struct writer {
    struct shared *shared;
    uint64_t number;
    uint64_t random;
    uint64_t next_record;
    uint64_t *refs; /* of each of its keys; 0: not there */
};

/* Of a few partitions only, so that they have several nodes each. */
static uint64_t hash_of(uint64_t key)
{
    return mix64(key ^ UINT64_C(0x5851f42d4c957f2d)) >> 4;
}

static uint64_t key_of(const struct shared *shared, uint64_t ref)
{
    return ref & PLACEHOLDER_BIT ? ref & ~PLACEHOLDER_BIT : shared->records[ref].key;
}

static km_status answer_hashes(void *context, const uint64_t *refs, size_t count,
                               uint64_t *out_hashes)
{
    for (size_t i = 0; i < count; i++)
        out_hashes[i] = hash_of(key_of(context, refs[i]));
    return KM_OK;
}

static void expect(struct shared *shared, int condition)
{
    if (!condition)
        atomic_fetch_add_explicit(&shared->failures, 1, memory_order_relaxed);
}

static int is_running(struct shared *shared)
{
    return atomic_load_explicit(&shared->writers_left, memory_order_relaxed) != 0;
}

/* ---- writers: writer w owns the keys that are w modulo WRITERS */

static uint64_t key_at(const struct writer *writer, uint64_t i)
{
    return i * WRITERS + writer->number;
}

static uint64_t write_record(struct writer *writer, uint64_t key)
{
    uint64_t ref = 1 + writer->number * RECORDS + writer->next_record++;

    writer->shared->records[ref].key = key;
    writer->shared->records[ref].check = mix64(key);
    return ref;
}

static void put(struct writer *writer, uint64_t i)
{
    struct hash_index *index = writer->shared->index;
    uint64_t key = key_at(writer, i);
    uint64_t hash = hash_of(key);
    uint64_t old = writer->refs[i];
    struct mutex *lock = km__hash_partition_lock(index, km__hash_partition(hash));

    km__epoch_enter();
    km__mutex_lock(lock);
    expect(writer->shared, km__hash_load(index, hash) == KM_OK);
    if (!old) {
        old = key | PLACEHOLDER_BIT;
        expect(writer->shared,
               km__hash_reserve(index, hash, old, &writer->shared->source) == KM_OK);
    }
    writer->refs[i] = write_record(writer, key);
    km__hash_replace(index, hash, old, writer->refs[i], 10);
    km__mutex_unlock(lock);
    leave_section();
}

static void take_out(struct writer *writer, uint64_t i)
{
    struct hash_index *index = writer->shared->index;
    uint64_t hash = hash_of(key_at(writer, i));
    struct mutex *lock = km__hash_partition_lock(index, km__hash_partition(hash));

    km__epoch_enter();
    km__mutex_lock(lock);
    expect(writer->shared, km__hash_load(index, hash) == KM_OK);
    km__hash_remove(index, hash, writer->refs[i], 4);
    writer->refs[i] = 0;
    km__mutex_unlock(lock);
    leave_section();
}

static void run_writer(void *context)
{
    struct writer *writer = context;

    for (uint64_t step = 0; step < STEPS; step++) {
        uint64_t dice = random64(&writer->random);
        /* the range of the guests grows, so that nodes go on splitting to the end */
        uint64_t guest = RESIDENTS + (dice >> 8) % (1 + GUESTS * step / STEPS);

        if (dice % 8 == 0)
            put(writer, (dice >> 8) % RESIDENTS);
        else if (writer->refs[guest] && dice % 8 < 5)
            take_out(writer, guest);
        else
            put(writer, guest);
        if (step % 2000 == 0)
            km__node_pool_prepare(writer->shared->pool);
    }
    atomic_fetch_sub_explicit(&writer->shared->writers_left, 1, memory_order_relaxed);
}

/* ---- readers */

/* A record that the index leads to is whole. */
static int is_whole(const struct shared *shared, uint64_t ref)
{
    return (ref & PLACEHOLDER_BIT) || shared->records[ref].check == mix64(shared->records[ref].key);
}

static int find_key(struct shared *shared, uint64_t key)
{
    struct hash_probe probe;
    uint64_t ref = km__hash_first(shared->index, hash_of(key), &probe);
    int found = 0;

    if (ref == HASH_NOT_LOADED) {
        expect(shared, km__hash_load_unlocked(shared->index, hash_of(key)) == KM_OK);
        ref = km__hash_first(shared->index, hash_of(key), &probe);
        expect(shared, ref != HASH_NOT_LOADED);
    }
    for (; ref && !found; ref = km__hash_next(&probe)) {
        expect(shared, is_whole(shared, ref));
        found = key_of(shared, ref) == key;
    }
    return found;
}

static void run_reader(void *context)
{
    struct shared *shared = context;
    uint64_t random = test_seed() ^ (uintptr_t)&random;

    while (is_running(shared)) {
        km__epoch_enter();
        for (int i = 0; i < 64; i++) {
            uint64_t dice = random64(&random);
            expect(shared, find_key(shared, dice % (RESIDENTS * WRITERS)));
            find_key(shared, RESIDENTS * WRITERS + (dice >> 32) % (GUESTS * WRITERS));
        }
        leave_section();
    }
}

static void walk_once(struct shared *shared, uint8_t *times, uint64_t *refs)
{
    struct hash_walk walk = {0};
    int is_end = 0;

    memset(times, 0, RESIDENTS * WRITERS);
    while (!is_end) {
        size_t count = 0;

        km__epoch_enter();
        expect(shared, km__hash_walk_next(shared->index, &walk, refs, &count, &is_end) == KM_OK);
        for (size_t i = 0; i < count; i++) {
            uint64_t key = key_of(shared, refs[i]);
            expect(shared, is_whole(shared, refs[i]));
            if (key < RESIDENTS * WRITERS)
                times[key]++;
        }
        leave_section();
    }
    for (uint64_t key = 0; key < RESIDENTS * WRITERS; key++)
        expect(shared, times[key] == 1);
}

static void run_walker(void *context)
{
    struct shared *shared = context;
    uint8_t *times = malloc(RESIDENTS * WRITERS);
    uint64_t *refs = malloc(HASH_NODE_LINES_MAX * HASH_LINE_SLOTS * sizeof(*refs));

    while (is_running(shared))
        walk_once(shared, times, refs);
    walk_once(shared, times, refs);
    free(times);
    free(refs);
}

/* ---- images */

/* Residents are once in an image, whose nodes tile what they are of, whatever writers do. */
static void export_once(struct shared *shared, uint8_t *times, uint64_t *lines)
{
    struct hash_walk walk = {0};
    struct hash_image_node node;
    uint64_t prefix = 0;
    int is_end = 0;

    memset(times, 0, RESIDENTS * WRITERS);
    for (;;) {
        km__epoch_enter();
        expect(shared, km__hash_export_next(shared->index, &walk, &node, lines, &is_end) == KM_OK);
        leave_section();
        if (is_end)
            break;
        expect(shared, node.prefix == prefix);
        prefix = (node.prefix | (UINT64_MAX >> node.depth)) + 1;
        for (size_t i = 0; i < image_slot_count(&node); i++) {
            uint64_t ref = lines[i] & HASH_REF_MASK;
            uint64_t key = ref ? key_of(shared, ref) : UINT64_MAX;

            expect(shared, !ref || is_whole(shared, ref));
            if (key < RESIDENTS * WRITERS)
                times[key]++;
        }
    }
    expect(shared, prefix == 0);
    for (uint64_t key = 0; key < RESIDENTS * WRITERS; key++)
        expect(shared, times[key] == 1);
}

static void run_exporter(void *context)
{
    struct shared *shared = context;
    uint8_t *times = malloc(RESIDENTS * WRITERS);
    uint64_t *lines = malloc(IMAGE_SLOTS_MAX * sizeof(*lines));

    while (is_running(shared))
        export_once(shared, times, lines);
    free(times);
    free(lines);
}

static void run_loader(void *context)
{
    struct shared *shared = context;
    struct hash_walk walk = {0};
    int is_end = 0;

    while (!is_end) {
        km__epoch_enter();
        expect(shared, km__hash_load_next(shared->index, &walk, &is_end) == KM_OK);
        leave_section();
    }
    expect(shared, km__hash_not_loaded_count(shared->index) == 0);
}

/* Go on in an import of the index instead. */
static void import_index(struct shared *shared)
{
    image_export(&shared->image, shared->index);
    km__hash_index_destroy(shared->index);
    assert_int_equal(km__hash_index_create(&shared->allocator.allocator, shared->pool,
                                           &shared->reclaimer, &shared->index),
                     KM_OK);
    assert_int_equal(image_import(&shared->image, shared->index), KM_OK);
    assert_true(shared->image.count > 2 * HASH_PARTITION_COUNT / 16);
}

/* ---- the tests */

static void init_shared(struct shared *shared)
{
    memset(shared, 0, sizeof(*shared));
    image_init(&shared->image);
    test_allocator_init(&shared->allocator);
    km__reclaimer_init(&shared->reclaimer);
    assert_int_equal(km__node_pool_create(&shared->allocator.allocator, &shared->pool), KM_OK);
    assert_int_equal(km__hash_index_create(&shared->allocator.allocator, shared->pool,
                                           &shared->reclaimer, &shared->index),
                     KM_OK);
    shared->source.hashes = answer_hashes;
    shared->source.context = shared;
    shared->records = calloc(1 + (size_t)WRITERS * RECORDS, sizeof(*shared->records));
    assert_non_null(shared->records);
}

static void fini_shared(struct shared *shared)
{
    assert_int_equal(atomic_load_explicit(&shared->failures, memory_order_relaxed), 0);
    assert_int_equal(km__hash_index_check(shared->index, &shared->source), 0);
    km__hash_index_destroy(shared->index);
    km__reclaimer_fini(&shared->reclaimer);
    assert_int_equal(km__node_pool_check(shared->pool), 0);
    km__node_pool_destroy(shared->pool);
    assert_int_equal(shared->allocator.held_pages, 0);
    image_fini(&shared->image);
    free(shared->records);
}

struct crew {
    struct thread threads[THREADS_MAX];
    size_t count;
};

static void hire(struct crew *crew, const char *name, void (*run)(void *context), void *context)
{
    assert_in_range(crew->count, 0, THREADS_MAX - 1);
    assert_int_equal(km__thread_start(&crew->threads[crew->count++], name, run, context), KM_OK);
}

static void run_crew(struct shared *shared, struct writer *writers, int is_imported)
{
    struct crew crew = {.count = 0};

    for (size_t i = 0; i < READERS; i++)
        hire(&crew, "reader", run_reader, shared);
    for (size_t i = 0; i < WALKERS; i++)
        hire(&crew, "walker", run_walker, shared);
    hire(&crew, "exporter", run_exporter, shared);
    for (size_t i = 0; i < WRITERS; i++)
        hire(&crew, "writer", run_writer, &writers[i]);
    if (is_imported)
        hire(&crew, "loader", run_loader, shared);
    while (is_running(shared)) /* what is retired is used again at once */
        km__reclaim(&shared->reclaimer);
    for (size_t i = 0; i < crew.count; i++)
        km__thread_join(&crew.threads[i]);
}

static void find_residents(int is_imported)
{
    static struct shared shared;
    struct writer writers[WRITERS];
    uint64_t expected = 0;

    init_shared(&shared);
    atomic_init(&shared.writers_left, WRITERS);
    for (uint64_t w = 0; w < WRITERS; w++) {
        writers[w] = (struct writer){&shared, w, test_seed() + (w << 32), 0, NULL};
        writers[w].refs = calloc(RESIDENTS + GUESTS, sizeof(uint64_t));
        for (uint64_t i = 0; i < RESIDENTS + (is_imported ? IMPORTED : 0); i++)
            put(&writers[w], i);
    }
    if (is_imported)
        import_index(&shared);
    run_crew(&shared, writers, is_imported);
    for (size_t w = 0; w < WRITERS; w++) {
        for (size_t i = 0; i < RESIDENTS + GUESTS; i++)
            expected += writers[w].refs[i] != 0;
        free(writers[w].refs);
    }
    assert_int_equal(km__hash_count(shared.index), expected);
    fini_shared(&shared);
}

static void residents_are_always_found(void **state)
{
    (void)state;
    find_residents(0);
}

static void residents_are_found_while_nodes_are_loaded(void **state)
{
    (void)state;
    find_residents(1);
}

/* Fill and clear partitions one after the other. */
static void run_clearer(void *context)
{
    struct writer *writer = context;

    for (uint64_t step = 0; step < (KM_THREAD_SANITIZER ? 60u : 600u); step++) {
        uint32_t partition = (uint32_t)step % (km__hash_partition(UINT64_MAX >> 4) + 1);
        struct mutex *lock = km__hash_partition_lock(writer->shared->index, partition);

        for (uint64_t i = 0; i < 1000; i++)
            put(writer, (step * 1000 + i) % GUESTS);
        km__epoch_enter();
        km__mutex_lock(lock);
        km__hash_clear_partition(writer->shared->index, partition);
        km__mutex_unlock(lock);
        leave_section();
        for (uint64_t i = 0; i < GUESTS; i++) {
            if (km__hash_partition(hash_of(key_at(writer, i))) == partition)
                writer->refs[i] = 0;
        }
    }
    atomic_fetch_sub_explicit(&writer->shared->writers_left, 1, memory_order_relaxed);
}

static void run_prober(void *context)
{
    struct shared *shared = context;
    uint64_t random = test_seed();

    while (is_running(shared)) {
        km__epoch_enter();
        for (int i = 0; i < 64; i++)
            find_key(shared, random64(&random) % (GUESTS * WRITERS));
        leave_section();
    }
}

static void readers_stand_clearing(void **state)
{
    static struct shared shared;
    struct writer writer = {&shared, 0, test_seed(), 0, NULL};
    struct thread threads[2];

    (void)state;
    init_shared(&shared);
    atomic_init(&shared.writers_left, 1);
    writer.refs = calloc(GUESTS, sizeof(uint64_t));
    assert_int_equal(km__thread_start(&threads[0], "prober", run_prober, &shared), KM_OK);
    assert_int_equal(km__thread_start(&threads[1], "clearer", run_clearer, &writer), KM_OK);
    while (is_running(&shared))
        km__reclaim(&shared.reclaimer);
    km__thread_join(&threads[0]);
    km__thread_join(&threads[1]);
    free(writer.refs);
    fini_shared(&shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residents_are_always_found),
        cmocka_unit_test(residents_are_found_while_nodes_are_loaded),
        cmocka_unit_test(readers_stand_clearing),
    };

    test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
