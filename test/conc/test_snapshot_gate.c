/* SPDX-License-Identifier: Apache-2.0
 *
 * test_snapshot_gate.c -- changes that are held inside, at the worst moment, while others go on:
 * the gate of snapshots, what is expected of a key, and ordinals that are guessed.
 *
 * A put is held where the library copies its value, by memory that may not be read: value and key
 * lie on a page each, of which one is closed, and the handler of the fault opens it and closes the
 * other. The value is read for its sum, then the key, then the value again to be copied: the third
 * fault is the one to stay in. There the log has room for the record and the index does not know
 * it; of a large record, which is written before its key is locked, the key is free.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness/harness_util.h"
#include "store/store_view.h"

#define KIND_COUNT 3u
#define HOLDING_FAULT 3
#define LARGE_SIZE ((size_t)20 << 20) /* larger than any ring */
#define GRACE_NS UINT64_C(100000000)

static const km_map_kind kinds[KIND_COUNT] = {KM_HASH, KM_INSERTION, KM_SORTED};
static const char *const kind_names[KIND_COUNT] = {"hash", "insertion", "sorted"};

static struct {
    km_store *store;
    km_map *maps[KIND_COUNT];
} fixture;

static km_bytes text(const char *string)
{
    return km_bytes_of_string(string);
}

/* ---- a put that is held ------------------------------------------------------------------ */

static struct {
    uint8_t *memory; /* the value, then the key's page */
    size_t page_size, value_size;
    uint8_t *value_page; /* the one of the value's that is closed */
    uint8_t *key;
    struct sigaction before;
    int fault_count;
    _Atomic int is_inside, may_go;
    km_map *map;
    pthread_t thread;
} held;

static int is_in_page(const uint8_t *address, const uint8_t *page)
{
    return address >= page && address < page + held.page_size;
}

static void open_page(uint8_t *page)
{
    CHECK(mprotect(page, held.page_size, PROT_READ | PROT_WRITE) == 0);
}

static void close_page(uint8_t *page)
{
    CHECK(mprotect(page, held.page_size, PROT_NONE) == 0);
}

static void stay(void)
{
    atomic_store_explicit(&held.is_inside, 1, memory_order_release);
    while (!atomic_load_explicit(&held.may_go, memory_order_acquire))
        sched_yield();
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    const uint8_t *address = info->si_addr;

    (void)number;
    (void)context;
    if (!is_in_page(address, held.value_page) && !is_in_page(address, held.key)) {
        sigaction(SIGSEGV, &held.before, NULL); /* not ours: it faults again */
        return;
    }
    if (++held.fault_count >= HOLDING_FAULT) {
        stay();
        open_page(held.value_page);
        open_page(held.key);
        return;
    }
    open_page(is_in_page(address, held.key) ? held.key : held.value_page);
    close_page(is_in_page(address, held.key) ? held.value_page : held.key);
}

static km_bytes held_key(void)
{
    return km_bytes_of(held.key, 4);
}

static void *put_held(void *context)
{
    (void)context;
    CHECK_STATUS(km_put(held.map, held_key(), km_bytes_of(held.memory, held.value_size), NULL),
                 KM_OK);
    return NULL;
}

/* Begin to put "held" in a thread; returns when it is where it stays. */
static void begin_held(km_map *map, size_t value_size)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

    memset(&held, 0, sizeof(held));
    held.page_size = (size_t)sysconf(_SC_PAGESIZE);
    held.value_size = value_size;
    held.map = map;
    value_size = (value_size + held.page_size - 1) / held.page_size * held.page_size;
    held.memory = mmap(NULL, value_size + held.page_size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(held.memory != MAP_FAILED);
    held.value_page = held.memory + value_size / 2 / held.page_size * held.page_size;
    held.key = held.memory + value_size;
    memcpy(held.key, "held", 4);
    harness_fill(held.memory, held.value_size, 7);
    close_page(held.value_page);
    CHECK(sigaction(SIGSEGV, &action, &held.before) == 0);
    CHECK(pthread_create(&held.thread, NULL, put_held, NULL) == 0);
    while (!atomic_load_explicit(&held.is_inside, memory_order_acquire))
        sched_yield();
}

static void let_go(void)
{
    atomic_store_explicit(&held.may_go, 1, memory_order_release);
}

static void end_held(void)
{
    CHECK(pthread_join(held.thread, NULL) == 0);
    CHECK(sigaction(SIGSEGV, &held.before, NULL) == 0);
    CHECK(munmap(held.memory, (size_t)(held.key - held.memory) + held.page_size) == 0);
}

/* ---- stores ------------------------------------------------------------------------------ */

static int open_fixture(void **state)
{
    (void)state;
    CHECK_STATUS(km_open_memory(NULL, &fixture.store, NULL), KM_OK);
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        CHECK_STATUS(km_map_create(fixture.store, text(kind_names[i]), kinds[i], &fixture.maps[i]),
                     KM_OK);
        CHECK_STATUS(km_put(fixture.maps[i], text("other"), text("value"), NULL), KM_OK);
    }
    return 0;
}

static int close_fixture(void **state)
{
    (void)state;
    harness_close(fixture.store);
    return 0;
}

/* ---- the gate ---------------------------------------------------------------------------- */

/* What a snapshot says of a map and the key. */
struct seen {
    km_status status;
    km_position version;
    uint64_t count;
};

struct taking {
    km_map *map;
    km_snapshot *snapshot;
    struct seen seen; /* as soon as it was taken */
    _Atomic int is_taken;
};

static struct seen look(km_snapshot *snapshot, km_map *map)
{
    km_key_info info = {0, 0, 0};
    struct seen seen;

    seen.status = km_snapshot_get(snapshot, map, text("held"), NULL, &info);
    seen.version = info.version;
    seen.count = km_snapshot_count(snapshot, map);
    return seen;
}

static void *take(void *context)
{
    struct taking *taking = context;

    CHECK_STATUS(km_snapshot_open(fixture.store, &taking->snapshot), KM_OK);
    taking->seen = look(taking->snapshot, taking->map);
    atomic_store_explicit(&taking->is_taken, 1, memory_order_release);
    return NULL;
}

/* Until the taking has come to the gate, and then as long as one that does not wait may take. */
static void await_taking(const struct taking *taking)
{
    const struct gate *gate = &fixture.store->snapshots.gate;
    uint64_t end = 0;

    while (!atomic_load_explicit(&taking->is_taken, memory_order_acquire)) {
        if (!end && atomic_load_explicit(&gate->is_closed, memory_order_relaxed))
            end = harness_now_ns() + GRACE_NS;
        if (end && harness_now_ns() > end)
            return;
        sched_yield();
    }
}

static void check_held_put(km_map *map)
{
    struct taking taking = {.map = map};
    uint64_t tail = km__log_tail(fixture.store->log), count = km_count(map);
    km_key_info before = {0, 0, 0}, inside = {0, 0, 0};
    struct seen seen;
    pthread_t thread;

    km__ignore(km_get_info(map, text("held"), NULL, &before), "it may not be there");
    begin_held(map, 64);
    km__ignore(km_get_info(map, text("held"), NULL, &inside), "nor now");
    CHECK_MSG(km__log_tail(fixture.store->log) > tail && inside.version == before.version, "%s",
              "the put is not where it should be");
    CHECK(pthread_create(&thread, NULL, take, &taking) == 0);
    await_taking(&taking);
    let_go();
    end_held();
    CHECK(pthread_join(thread, NULL) == 0);
    seen = look(taking.snapshot, map);
    CHECK_MSG(seen.status == taking.seen.status && seen.version == taking.seen.version &&
                  seen.count == taking.seen.count,
              "the snapshot has changed: status %d, then %d; %llu keys, then %llu",
              (int)taking.seen.status, (int)seen.status, (unsigned long long)taking.seen.count,
              (unsigned long long)seen.count);
    CHECK(seen.status == KM_OK && seen.count == count + (before.version == 0));
    km_snapshot_close(taking.snapshot);
}

static void a_put_on_its_way_is_waited_for(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < KIND_COUNT; i++)
        check_held_put(fixture.maps[i]); /* of a new key */
}

static void an_overwrite_on_its_way_is_waited_for(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        CHECK_STATUS(km_put(fixture.maps[i], text("held"), text("before"), NULL), KM_OK);
        check_held_put(fixture.maps[i]);
    }
}

/* ---- what is expected -------------------------------------------------------------------- */

/* A change on condition that "held" has the version that it has while a put of it is held. */
struct expecting {
    km_map *map;
    km_position version;
    int is_batch;
    km_status status;
    _Atomic int has_begun;
};

static km_status change_in_batch(const struct expecting *expecting)
{
    km_batch *batch = NULL;
    km_status rc;

    CHECK_STATUS(km_batch_create(fixture.store, &batch), KM_OK);
    CHECK_STATUS(km_batch_expect(batch, expecting->map, text("held"), expecting->version), KM_OK);
    CHECK_STATUS(km_batch_put(batch, expecting->map, text("other"), text("changed")), KM_OK);
    rc = km_batch_commit(batch, NULL);
    km_batch_destroy(batch);
    return rc;
}

static void *change_expecting(void *context)
{
    struct expecting *expecting = context;

    atomic_store_explicit(&expecting->has_begun, 1, memory_order_release);
    expecting->status = expecting->is_batch
                            ? change_in_batch(expecting)
                            : km_compare_and_set(expecting->map, text("held"), expecting->version,
                                                 text("changed"), NULL);
    return NULL;
}

static void check_expectation(km_map *map, int is_batch)
{
    struct expecting expecting = {.map = map, .is_batch = is_batch};
    km_key_info info = {0, 0, 0};
    pthread_t thread;
    uint64_t end;

    CHECK_STATUS(km_put(map, text("held"), text("before"), NULL), KM_OK);
    CHECK_STATUS(km_get_info(map, text("held"), NULL, &info), KM_OK);
    expecting.version = info.version;
    begin_held(map, 64);
    CHECK(pthread_create(&thread, NULL, change_expecting, &expecting) == 0);
    while (!atomic_load_explicit(&expecting.has_begun, memory_order_acquire))
        sched_yield();
    end = harness_now_ns() + GRACE_NS; /* that it judges too early, if it does so */
    while (harness_now_ns() < end)
        sched_yield();
    let_go();
    end_held();
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK_STATUS(expecting.status, KM_CONFLICT);
}

static void what_is_expected_is_judged_when_nobody_changes_it(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < KIND_COUNT; i++) {
        check_expectation(fixture.maps[i], 0);
        check_expectation(fixture.maps[i], 1);
    }
}

/* ---- guessed ordinals -------------------------------------------------------------------- */

static void check_order(km_map *map, const char *const *names, size_t count)
{
    km_buffer key = KM_BUFFER_INIT;

    CHECK(km_count(map) == count);
    for (size_t i = 0; i < count; i++) {
        uint64_t position = count;

        CHECK_STATUS(km_get_index(map, i, &key, NULL), KM_OK);
        CHECK_MSG(key.size == strlen(names[i]) && memcmp(key.data, names[i], key.size) == 0,
                  "at %zu is %.*s", i, (int)key.size, (const char *)key.data);
        CHECK_STATUS(km_index_of(map, text(names[i]), &position), KM_OK);
        CHECK(position == i);
    }
    CHECK_STATUS(km_get_index(map, count, &key, NULL), KM_NOT_FOUND);
    km_buffer_free(&key);
}

static void a_key_put_meanwhile_keeps_its_place(void **state)
{
    static const char *const names[] = {"other", "first", "held", "last"};
    km_map *map = fixture.maps[1];

    (void)state;
    begin_held(map, LARGE_SIZE);
    CHECK_STATUS(km_put(map, text("first"), text("value"), NULL), KM_OK);
    CHECK_STATUS(km_put(map, text("held"), text("meanwhile"), NULL), KM_OK);
    CHECK_STATUS(km_put(map, text("last"), text("value"), NULL), KM_OK);
    let_go();
    end_held();
    check_order(map, names, 4);
}

static void a_key_deleted_meanwhile_is_a_new_one(void **state)
{
    static const char *const names[] = {"other", "last", "held"};
    km_map *map = fixture.maps[1];

    (void)state;
    CHECK_STATUS(km_put(map, text("held"), text("before"), NULL), KM_OK);
    begin_held(map, LARGE_SIZE);
    CHECK_STATUS(km_del(map, text("held"), NULL), KM_OK);
    CHECK_STATUS(km_put(map, text("last"), text("value"), NULL), KM_OK);
    let_go();
    end_held();
    check_order(map, names, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_put_on_its_way_is_waited_for, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(an_overwrite_on_its_way_is_waited_for, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(what_is_expected_is_judged_when_nobody_changes_it,
                                        open_fixture, close_fixture),
        cmocka_unit_test_setup_teardown(a_key_put_meanwhile_keeps_its_place, open_fixture,
                                        close_fixture),
        cmocka_unit_test_setup_teardown(a_key_deleted_meanwhile_is_a_new_one, open_fixture,
                                        close_fixture),
    };

    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
