/* SPDX-License-Identifier: Apache-2.0
 *
 * test_insertion_order_threads.c -- readers and walkers beside writers, restorers and packing.
 *
 * Residents are ordinals that are there throughout: every walk must return each of them once, in
 * order, whatever their references are replaced by. Guests come and go, so that blocks become
 * sparse and are packed, while writers are kept out and readers are not. A record is written before
 * its reference enters the order and read without further ado by who finds it: under
 * ThreadSanitizer that checks that the reference carries it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "base/compiler.h"
#include "index/insertion_order.h"
#include "index/node_pool.h"
#include "sync/thread.h"
#include "unit/hash_index_util.h"

enum {
    WRITERS = 3,
    WALKERS = 2,
    THREADS_MAX = WRITERS + WALKERS + 2,
    STEPS = KM_THREAD_SANITIZER ? 40000 : 300000,
    RESIDENT_STRIDE = 97, /* one in so many of a writer's ordinals stays */
    GUESTS = 3000,        /* of a writer, at a time */
    RESTORED = KM_THREAD_SANITIZER ? 20000 : 120000, /* by each restorer */
    GROUP = 200,                                     /* entries that a walk reads at once */
};

/* What references lead to; a reference is an index into the records. */
struct record {
    uint64_t ordinal;
    uint64_t check; /* mix64(ordinal) */
};

struct shared {
    struct test_allocator allocator;
    struct reclaimer reclaimer;
    struct node_pool *pool;
    struct insertion_order *order;
    pthread_rwlock_t writing; /* writers share it, who packs has it alone */
    struct record *records;
    uint64_t record_count;
    _Atomic uint64_t next_record;
    _Atomic uint64_t resident_end; /* so many of them are published */
    _Atomic uint64_t *residents;   /* their ordinals, in no order */
    _Atomic uint32_t writers_left;
    _Atomic uint64_t walks;
    _Atomic uint32_t failures;
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

static uint64_t write_record(struct shared *shared, uint64_t ordinal)
{
    uint64_t ref = atomic_fetch_add_explicit(&shared->next_record, 1, memory_order_relaxed);

    expect(shared, ref < shared->record_count);
    shared->records[ref].ordinal = ordinal;
    shared->records[ref].check = mix64(ordinal);
    return ref;
}

static void check_entry(struct shared *shared, uint64_t ordinal, uint64_t ref)
{
    expect(shared, shared->records[ref].ordinal == ordinal);
    expect(shared, shared->records[ref].check == mix64(ordinal));
}

/* ---- writers */

struct writer {
    struct shared *shared;
    uint64_t number;
    uint64_t random;
    uint64_t residents[STEPS / RESIDENT_STRIDE + 1];
    uint64_t resident_count;
    uint64_t guests[GUESTS];
    uint64_t live; /* guests that are there */
};

static void begin_write(struct shared *shared)
{
    pthread_rwlock_rdlock(&shared->writing);
    km__epoch_enter();
}

static void end_write(struct shared *shared)
{
    km__epoch_leave();
    pthread_rwlock_unlock(&shared->writing);
}

static uint64_t append(struct shared *shared)
{
    uint64_t ordinal;

    begin_write(shared);
    expect(shared, km__order_reserve(shared->order, 1) == KM_OK);
    ordinal = km__order_take(shared->order);
    km__order_set(shared->order, ordinal, write_record(shared, ordinal));
    end_write(shared);
    return ordinal;
}

static void replace(struct shared *shared, uint64_t ordinal)
{
    begin_write(shared);
    km__order_set(shared->order, ordinal, write_record(shared, ordinal));
    end_write(shared);
}

static void take_out(struct shared *shared, uint64_t ordinal)
{
    begin_write(shared);
    km__order_clear(shared->order, ordinal);
    end_write(shared);
}

static void publish_resident(struct shared *shared, uint64_t ordinal)
{
    uint64_t at = atomic_fetch_add_explicit(&shared->resident_end, 1, memory_order_relaxed);

    atomic_store_explicit(&shared->residents[at], ordinal + 1, memory_order_relaxed);
}

static void run_writer(void *context)
{
    struct writer *writer = context;
    struct shared *shared = writer->shared;

    for (uint64_t step = 0; step < STEPS; step++) {
        uint64_t dice = random64(&writer->random);
        uint64_t *guest = &writer->guests[(dice >> 8) % GUESTS];

        if (step % RESIDENT_STRIDE == 0) {
            uint64_t ordinal = append(shared);
            writer->residents[writer->resident_count++] = ordinal;
            publish_resident(shared, ordinal);
        } else if (dice % 4 == 0) {
            replace(shared, writer->residents[(dice >> 8) % writer->resident_count]);
        } else if (*guest) {
            take_out(shared, *guest - 1);
            *guest = 0;
        } else {
            *guest = append(shared) + 1;
        }
    }
    for (uint64_t i = 0; i < GUESTS; i++)
        writer->live += writer->guests[i] != 0;
    atomic_fetch_sub_explicit(&shared->writers_left, 1, memory_order_relaxed);
}

/* ---- readers */

/* One walk. Of the residents known before it each must be met once. */
struct walk {
    struct shared *shared;
    uint64_t *wanted; /* ascending */
    uint64_t wanted_count;
    uint64_t met_count;
    struct order_entry entries[GROUP];
    size_t count;
};

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void begin_walk(struct walk *walk)
{
    struct shared *shared = walk->shared;
    uint64_t end = atomic_load_explicit(&shared->resident_end, memory_order_relaxed);

    walk->wanted_count = walk->met_count = 0;
    for (uint64_t i = 0; i < end; i++) {
        uint64_t ordinal = atomic_load_explicit(&shared->residents[i], memory_order_relaxed);
        if (ordinal)
            walk->wanted[walk->wanted_count++] = ordinal - 1;
    }
    qsort(walk->wanted, walk->wanted_count, sizeof(uint64_t), compare_numbers);
}

static void check_group(struct walk *walk, int is_down, uint64_t from)
{
    for (size_t i = 0; i < walk->count; i++) {
        uint64_t ordinal = walk->entries[i].ordinal;
        uint64_t wanted_at = is_down ? walk->wanted_count - 1 - walk->met_count : walk->met_count;

        check_entry(walk->shared, ordinal, walk->entries[i].ref);
        expect(walk->shared, is_down ? ordinal <= from : ordinal >= from);
        from = is_down ? ordinal - 1 : ordinal + 1;
        if (walk->met_count < walk->wanted_count && walk->wanted[wanted_at] == ordinal)
            walk->met_count++;
    }
}

static void walk_up(struct walk *walk)
{
    uint64_t from = 0;

    begin_walk(walk);
    do {
        km__epoch_enter();
        walk->count = km__order_read_up(walk->shared->order, from, walk->entries, GROUP);
        check_group(walk, 0, from);
        km__epoch_leave();
        if (walk->count > 0)
            from = walk->entries[walk->count - 1].ordinal + 1;
    } while (walk->count > 0);
    expect(walk->shared, walk->met_count == walk->wanted_count);
}

static void walk_down(struct walk *walk)
{
    uint64_t from = UINT64_MAX;

    begin_walk(walk);
    do {
        km__epoch_enter();
        walk->count = km__order_read_down(walk->shared->order, from, walk->entries, GROUP);
        check_group(walk, 1, from);
        km__epoch_leave();
        if (walk->count > 0)
            from = walk->entries[walk->count - 1].ordinal - 1;
    } while (walk->count > 0 && from != UINT64_MAX);
    expect(walk->shared, walk->met_count == walk->wanted_count);
}

/* What is selected was there, and its position is not far from what it should be. */
static void read_positions(struct shared *shared, uint64_t *random)
{
    for (int i = 0; i < 200; i++) {
        uint64_t count;
        uint64_t ordinal;
        uint64_t ref = 0;

        km__epoch_enter();
        count = km__order_count(shared->order);
        ordinal = count ? km__order_select(shared->order, random64(random) % count, &ref)
                        : ORDER_NONE;
        if (ordinal != ORDER_NONE) {
            check_entry(shared, ordinal, ref);
            expect(shared, km__order_rank(shared->order, ordinal) <= shared->record_count);
        }
        km__epoch_leave();
    }
}

static void read_residents(struct shared *shared, uint64_t *random)
{
    uint64_t end = atomic_load_explicit(&shared->resident_end, memory_order_relaxed);

    for (int i = 0; i < 200 && end > 0; i++) {
        uint64_t at = random64(random) % end;
        uint64_t ordinal = atomic_load_explicit(&shared->residents[at], memory_order_relaxed);
        uint64_t ref;

        if (!ordinal)
            continue;
        km__epoch_enter();
        ref = km__order_get(shared->order, ordinal - 1);
        expect(shared, ref != 0);
        check_entry(shared, ordinal - 1, ref);
        km__epoch_leave();
    }
}

static void run_walker(void *context)
{
    struct shared *shared = context;
    struct walk *walk = calloc(1, sizeof(*walk));
    uint64_t random = test_seed();

    walk->shared = shared;
    walk->wanted = calloc(shared->record_count, sizeof(uint64_t));
    while (is_running(shared)) {
        walk_up(walk);
        walk_down(walk);
        read_positions(shared, &random);
        read_residents(shared, &random);
        atomic_fetch_add_explicit(&shared->walks, 1, memory_order_relaxed);
    }
    free(walk->wanted);
    free(walk);
}

/* ---- packing */

static void run_tidier(void *context)
{
    struct shared *shared = context;

    while (is_running(shared)) {
        pthread_rwlock_wrlock(&shared->writing);
        km__order_tidy(shared->order, 16);
        pthread_rwlock_unlock(&shared->writing);
        for (int i = 0; i < 100; i++)
            km__thread_pause();
    }
}

/* ---- cases */

static void init_shared(struct shared *shared, uint64_t record_count)
{
    memset(shared, 0, sizeof(*shared));
    test_allocator_init(&shared->allocator);
    km__reclaimer_init(&shared->reclaimer);
    assert_int_equal(km__node_pool_create(&shared->allocator.allocator, &shared->pool), KM_OK);
    assert_int_equal(km__order_create(&shared->allocator.allocator, shared->pool,
                                      &shared->reclaimer, &shared->order),
                     KM_OK);
    assert_int_equal(pthread_rwlock_init(&shared->writing, NULL), 0);
    shared->record_count = record_count;
    shared->records = calloc(record_count, sizeof(*shared->records));
    shared->residents = calloc(record_count, sizeof(*shared->residents));
    assert_true(shared->records && shared->residents);
    atomic_init(&shared->next_record, 1);
    atomic_init(&shared->writers_left, WRITERS);
}

static void fini_shared(struct shared *shared)
{
    uint32_t calls = 0;

    assert_int_equal(atomic_load_explicit(&shared->failures, memory_order_relaxed), 0);
    assert_int_equal(km__order_check(shared->order), 0);
    while (km__order_tidy(shared->order, 64))
        assert_in_range(++calls, 1, 1000000);
    assert_int_equal(km__order_check(shared->order), 0);
    km__order_destroy(shared->order);
    km__reclaimer_fini(&shared->reclaimer);
    assert_int_equal(km__node_pool_check(shared->pool), 0);
    km__node_pool_destroy(shared->pool);
    assert_int_equal(shared->allocator.held_pages, 0);
    pthread_rwlock_destroy(&shared->writing);
    free(shared->records);
    free((void *)(uintptr_t)shared->residents);
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

static void run_crew(struct shared *shared, struct crew *crew)
{
    for (size_t i = 0; i < WALKERS; i++)
        hire(crew, "walker", run_walker, shared);
    hire(crew, "tidier", run_tidier, shared);
    while (is_running(shared)) /* what is retired is used again at once */
        km__reclaim(&shared->reclaimer);
    for (size_t i = 0; i < crew->count; i++)
        km__thread_join(&crew->threads[i]);
    print_message("walks: %" PRIu64 "\n",
                  atomic_load_explicit(&shared->walks, memory_order_relaxed));
}

static void residents_are_met_once_by_each_walk(void **state)
{
    static struct shared shared;
    static struct writer writers[WRITERS];
    struct crew crew = {.count = 0};
    uint64_t expected = 0;

    (void)state;
    init_shared(&shared, 1 + (uint64_t)WRITERS * STEPS);
    memset(writers, 0, sizeof(writers));
    for (uint64_t w = 0; w < WRITERS; w++) {
        writers[w].shared = &shared;
        writers[w].random = test_seed() + (w << 32);
        hire(&crew, "writer", run_writer, &writers[w]);
    }
    run_crew(&shared, &crew);
    for (size_t w = 0; w < WRITERS; w++)
        expected += writers[w].live + writers[w].resident_count;
    assert_int_equal(km__order_count(shared.order), expected);
    fini_shared(&shared);
}

/* ---- restoring: writer w has the ordinals that are w modulo WRITERS */

static uint64_t restored_ordinal(const struct writer *writer, uint64_t i)
{
    /* dense ones out of order, then such that lie apart */
    uint64_t n = i % 4 != 0 ? i * 7919 % RESTORED : RESTORED + (i * 7919 % RESTORED) * 1009;

    return n * WRITERS + writer->number;
}

/* Whether it is cleared again, at once. */
static int is_guest(uint64_t ordinal)
{
    return mix64(ordinal) % 3 == 0;
}

static void restore(struct shared *shared, uint64_t ordinal)
{
    begin_write(shared);
    expect(shared,
           km__order_restore(shared->order, ordinal, write_record(shared, ordinal)) == KM_OK);
    end_write(shared);
}

static void run_restorer(void *context)
{
    struct writer *writer = context;
    struct shared *shared = writer->shared;

    for (uint64_t i = 0; i < RESTORED; i++) {
        uint64_t ordinal = restored_ordinal(writer, i);

        restore(shared, ordinal);
        if (is_guest(ordinal))
            take_out(shared, ordinal);
        else if (i % 16 == 0)
            publish_resident(shared, ordinal);
        if (i % 8 == 0) { /* again one of before, as a record that compaction has moved */
            uint64_t again = restored_ordinal(writer, random64(&writer->random) % (i + 1));
            if (!is_guest(again))
                restore(shared, again);
        }
    }
    atomic_fetch_sub_explicit(&shared->writers_left, 1, memory_order_relaxed);
}

static void what_is_restored_is_found_meanwhile_and_after(void **state)
{
    static struct shared shared;
    static struct writer writers[WRITERS];
    struct crew crew = {.count = 0};
    uint64_t expected = 0;

    (void)state;
    init_shared(&shared, 1 + (uint64_t)WRITERS * RESTORED * 2);
    memset(writers, 0, sizeof(writers));
    for (uint64_t w = 0; w < WRITERS; w++) {
        writers[w].shared = &shared;
        writers[w].number = w;
        writers[w].random = test_seed() + (w << 32);
        hire(&crew, "restorer", run_restorer, &writers[w]);
    }
    run_crew(&shared, &crew);
    for (uint64_t w = 0; w < WRITERS; w++) {
        for (uint64_t i = 0; i < RESTORED; i++) {
            uint64_t ordinal = restored_ordinal(&writers[w], i);
            uint64_t ref = km__order_get(shared.order, ordinal);
            assert_int_equal(ref == 0, is_guest(ordinal));
            if (ref)
                check_entry(&shared, ordinal, ref);
            expected += ref != 0;
        }
    }
    assert_int_equal(km__order_count(shared.order), expected);
    fini_shared(&shared);
}

/* ---- the end of restoring: the block in which the first ordinal is taken becomes dense */

enum {
    LAST_BLOCK = 50, /* ordinals restored in it: it is still packed */
    SETTLED = 4 * ORDER_BLOCK_SLOTS + LAST_BLOCK,
    ROUNDS = KM_THREAD_SANITIZER ? 20 : 100,
    SETS = 4000,
};

static void run_setter(void *context)
{
    struct writer *writer = context;
    struct shared *shared = writer->shared;

    for (uint64_t i = 0; i < SETS; i++) {
        uint64_t n = i % (LAST_BLOCK / WRITERS) * WRITERS + writer->number;
        uint64_t ordinal = SETTLED - LAST_BLOCK + n;

        replace(shared, ordinal);
        if (i == SETS / 2) /* one of them is the first to take an ordinal */
            append(shared);
        if (i % 2)
            take_out(shared, ordinal);
        writer->guests[n] = i % 2 == 0;
    }
    for (uint64_t i = 0; i < LAST_BLOCK; i++)
        writer->live += writer->guests[i];
    atomic_fetch_sub_explicit(&shared->writers_left, 1, memory_order_relaxed);
}

static void restoring_ends_beside_writers(void **state)
{
    static struct shared shared;
    static struct writer writers[WRITERS];

    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        struct crew crew = {.count = 0};
        uint64_t expected = SETTLED - LAST_BLOCK / WRITERS * WRITERS + WRITERS;

        init_shared(&shared, 2 * SETTLED + (uint64_t)SETS * (WRITERS + 1));
        for (uint64_t i = 0; i < SETTLED; i++)
            restore(&shared, i);
        memset(writers, 0, sizeof(writers));
        for (uint64_t w = 0; w < WRITERS; w++) {
            writers[w].shared = &shared;
            writers[w].number = w;
            hire(&crew, "setter", run_setter, &writers[w]);
        }
        for (size_t i = 0; i < crew.count; i++)
            km__thread_join(&crew.threads[i]);
        for (uint64_t w = 0; w < WRITERS; w++) {
            expected += writers[w].live;
            for (uint64_t n = w; n < LAST_BLOCK / WRITERS * WRITERS; n += WRITERS)
                assert_int_equal(km__order_get(shared.order, SETTLED - LAST_BLOCK + n) != 0,
                                 writers[w].guests[n]);
        }
        assert_int_equal(km__order_count(shared.order), expected);
        fini_shared(&shared);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residents_are_met_once_by_each_walk),
        cmocka_unit_test(what_is_restored_is_found_meanwhile_and_after),
        cmocka_unit_test(restoring_ends_beside_writers),
    };

    test_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
