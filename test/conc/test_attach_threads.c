/* SPDX-License-Identifier: Apache-2.0
 *
 * test_attach_threads.c -- sealed tables come and go under maps beside writers, readers, walks,
 * snapshots and the compactor.
 *
 * A *promise* says that something is so from the moment on when it is given until it is taken back;
 * who finds it given before and after a read, and not renewed, holds the answer against it.
 *
 * C1. A key that is in the map or in an attached table all the time is always found, also while it
 *     goes from one to the other; a walk meets it exactly once.
 * C2. A key that was deleted stays away: when the table is detached, and while what hid it goes.
 * C3. What the map itself has goes before the tables: the value of a table that is attached after
 *     the key was put is never seen.
 * C4. No change is lost, counts are exact in snapshots and at the end, and after another open.
 * C5. A table is attached as a whole, under the map it was meant for, whatever others attach.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/status.h"
#include "harness/harness_util.h"

#define SUBJECT_COUNT 2u
#define VARIANT_COUNT 3u
#define WRITER_COUNT 2u
#define READER_COUNT 2u
#define CLASS_COUNT 64u /* keys of each of the classes but the last two */
#define OWN_COUNT 300u  /* keys of each writer */
#define EXTRA_COUNT 16u
#define COUNTER_COUNT 4u
#define COUNTER_FIRST 1000 /* what a table says */
#define VALUE_SIZE 120u
#define TABLE_VERSION (UINT64_C(1) << 40)
#define BUSY_TRIES 200000u

enum key_class {
    KEY_STABLE = 1, /* in the map all the time; tables have other values */
    KEY_MOVED,      /* in a table, then in the map too, then only there: C1 */
    KEY_HIDDEN,     /* in a table, and deleted: C2 */
    KEY_PREFERRED,  /* put before a table with other values is attached: C3 */
    KEY_TABLE,      /* in a table alone */
    KEY_WRITER,     /* changed by one writer; every third one is in the tables too */
    KEY_EXTRA,      /* of tables that are attached by somebody else */
    KEY_CLASS_COUNT
};

struct promise {
    _Atomic uint64_t state; /* odd: given */
};

/* A map whose tables come and go. */
struct subject {
    struct stress *stress;
    uint32_t number;
    const char *name;
    km_map_kind kind;
    km_map *map;
    struct promise moved, hidden, table;
    _Atomic uint32_t variant;                            /* of the table that is attached */
    _Atomic uint64_t versions[WRITER_COUNT * OWN_COUNT]; /* acknowledged: 4 * version, + 2 if the
                                                            key is there, + 1 while it changes */
    uint64_t cycles;
};

struct stress {
    char path[HARNESS_PATH_SIZE], tables[HARNESS_PATH_SIZE];
    km_options options;
    km_store *store;
    struct subject subjects[SUBJECT_COUNT];
    km_map *counted; /* under it lies a table with counters; others are attached meanwhile */
    _Atomic uint32_t cyclers_left;
    _Atomic uint64_t increments[COUNTER_COUNT];
    _Atomic uint64_t reads, kept, walks, snapshots, busy, changes;
};

struct worker {
    struct stress *stress;
    uint32_t number;
    struct harness_random random;
    pthread_t thread;
};

static uint64_t key_of(enum key_class class, uint64_t i)
{
    return (uint64_t) class << 32 | i;
}

static enum key_class class_of(uint64_t key)
{
    return (enum key_class)(key >> 32);
}

static uint64_t class_size(enum key_class class)
{
    if (class == KEY_WRITER)
        return WRITER_COUNT * OWN_COUNT;
    return class == KEY_EXTRA ? EXTRA_COUNT : CLASS_COUNT;
}

static uint64_t table_version(const struct subject *subject, uint32_t variant)
{
    return TABLE_VERSION + subject->number * 100 + variant;
}

static void pause_us(uint64_t us)
{
    struct timespec time = {0, (long)us * 1000};

    nanosleep(&time, NULL);
}

static int is_running(struct stress *stress)
{
    return atomic_load(&stress->cyclers_left) != 0;
}

/* ---- promises ---------------------------------------------------------------------------- */

static void give(struct promise *promise)
{
    CHECK(atomic_fetch_add(&promise->state, 1) % 2 == 0);
}

static void take_back(struct promise *promise)
{
    CHECK(atomic_fetch_add(&promise->state, 1) % 2 == 1);
}

struct look {
    uint64_t moved, hidden, table, writer;
    uint32_t variant;
};

static struct look look_at(struct subject *subject)
{
    struct look look = {atomic_load(&subject->moved.state), atomic_load(&subject->hidden.state),
                        atomic_load(&subject->table.state), 0, atomic_load(&subject->variant)};

    return look;
}

static int is_kept(struct promise *promise, uint64_t before)
{
    return before % 2 && atomic_load(&promise->state) == before;
}

/* ---- tables ------------------------------------------------------------------------------ */

static void table_path(const struct stress *stress, const char *name, uint64_t number,
                       char out[HARNESS_PATH_SIZE])
{
    char file[64];

    snprintf(file, sizeof(file), "%s-%llu", name, (unsigned long long)number);
    harness_path(out, stress->tables, file);
}

static void add_value(km_sealed_builder *builder, uint64_t key, uint64_t version)
{
    uint8_t value[VALUE_SIZE];

    harness_value_fill(value, sizeof(value), key, version);
    CHECK_STATUS(km_sealed_builder_add_number(builder, key, km_bytes_of(value, sizeof(value))),
                 KM_OK);
}

static km_sealed_builder *begin_table(const char *path)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;

    options.keys = KM_SEALED_U64;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    CHECK_STATUS(km_sealed_builder_open(path, &options, &builder, NULL), KM_OK);
    return builder;
}

static void build_variant(const struct subject *subject, uint32_t variant)
{
    uint64_t version = table_version(subject, variant);
    char path[HARNESS_PATH_SIZE];
    km_sealed_builder *builder;

    table_path(subject->stress, subject->name, variant, path);
    builder = begin_table(path);
    for (enum key_class class = KEY_STABLE; class <= KEY_WRITER; class ++) {
        for (uint64_t i = 0; i < class_size(class); i++) {
            if (class != KEY_WRITER || i % 3 == 0)
                add_value(builder, key_of(class, i), version);
        }
    }
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

static void build_extra(const struct stress *stress, uint64_t i)
{
    char path[HARNESS_PATH_SIZE];
    km_sealed_builder *builder;

    table_path(stress, "extra", i, path);
    builder = begin_table(path);
    add_value(builder, key_of(KEY_EXTRA, i), TABLE_VERSION + i);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

static void build_counters(const struct stress *stress)
{
    char path[HARNESS_PATH_SIZE];
    km_sealed_builder *builder;
    uint8_t value[8];

    table_path(stress, "counters", 0, path);
    builder = begin_table(path);
    km__store64(value, COUNTER_FIRST);
    for (uint64_t i = 0; i < COUNTER_COUNT; i++)
        CHECK_STATUS(km_sealed_builder_add_number(builder, i, km_bytes_of(value, 8)), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
}

/* While no snapshot is open: again and again. */
static km_status attach(struct stress *stress, km_map *map, const char *path)
{
    km_error error = {0};
    km_status rc = KM_BUSY;

    for (uint32_t i = 0; rc == KM_BUSY && i < BUSY_TRIES; i++) {
        rc = km_attach_sealed(map, path, &error);
        if (rc == KM_BUSY) {
            atomic_fetch_add(&stress->busy, 1);
            pause_us(50);
        }
    }
    CHECK_MSG(rc == KM_OK || rc == KM_E_LIMIT, "attach: %s: %s", km_status_name(rc), error.message);
    return rc;
}

static void detach(struct stress *stress, km_map *map)
{
    km_error error = {0};
    km_status rc = KM_BUSY;

    for (uint32_t i = 0; rc == KM_BUSY && i < BUSY_TRIES; i++) {
        rc = km_detach_sealed(map, &error);
        if (rc == KM_BUSY) {
            atomic_fetch_add(&stress->busy, 1);
            pause_us(50);
        }
    }
    CHECK_MSG(rc == KM_OK, "detach: %s: %s", km_status_name(rc), error.message);
}

/* ---- who lets tables come and go --------------------------------------------------------- */

static void put_class(struct subject *subject, enum key_class class, uint64_t version)
{
    uint8_t value[VALUE_SIZE];

    for (uint64_t i = 0; i < CLASS_COUNT; i++) {
        harness_value_fill(value, sizeof(value), key_of(class, i), version);
        CHECK_STATUS(
            km_put_u64(subject->map, key_of(class, i), km_bytes_of(value, sizeof(value)), NULL),
            KM_OK);
    }
}

/* All are there. In a batch, every second time; only the keys from `first` on. */
static void delete_class(struct subject *subject, enum key_class class, uint64_t first,
                         int is_batch)
{
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(subject->stress->store, &batch), KM_OK);
    for (uint64_t i = first; i < CLASS_COUNT; i++) {
        km_u64_key key = km_u64_key_from(key_of(class, i));

        if (is_batch)
            CHECK_STATUS(km_batch_del(batch, subject->map, km_bytes_of(key.bytes, 8)), KM_OK);
        else
            CHECK_STATUS(km_del_u64(subject->map, key_of(class, i), NULL), KM_OK);
    }
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
}

static void delete_rest(struct subject *subject, enum key_class class, uint64_t end)
{
    for (uint64_t i = 0; i < end; i++)
        CHECK_STATUS(km_del_u64(subject->map, key_of(class, i), NULL), KM_OK);
}

/* Under way, the promises of the file head are given and taken back. */
static void run_cycle(struct subject *subject, uint64_t cycle)
{
    uint32_t variant = (uint32_t)(cycle % VARIANT_COUNT);
    char path[HARNESS_PATH_SIZE];

    put_class(subject, KEY_PREFERRED, cycle);
    table_path(subject->stress, subject->name, variant, path);
    if (cycle)
        take_back(&subject->hidden);
    atomic_store(&subject->variant, variant);
    CHECK_STATUS(attach(subject->stress, subject->map, path), KM_OK);
    give(&subject->moved);
    give(&subject->table);
    delete_class(subject, KEY_HIDDEN, 0, cycle % 2 == 0);
    give(&subject->hidden);
    delete_class(subject, KEY_PREFERRED, CLASS_COUNT / 2, cycle % 2 == 1);
    put_class(subject, KEY_MOVED, cycle);
    if (cycle % 4 == 3)
        pause_us(2000);
    take_back(&subject->table);
    detach(subject->stress, subject->map);
    if (cycle % 2)
        pause_us(200);
    take_back(&subject->moved);
    delete_class(subject, KEY_MOVED, 0, cycle % 2 == 1);
    delete_rest(subject, KEY_PREFERRED, CLASS_COUNT / 2);
}

static void *run_cycler(void *context)
{
    struct worker *worker = context;
    struct subject *subject = &worker->stress->subjects[worker->number];

    for (uint64_t cycle = 0; cycle < subject->cycles; cycle++)
        run_cycle(subject, cycle);
    take_back(&subject->hidden);
    atomic_fetch_sub(&worker->stress->cyclers_left, 1);
    return NULL;
}

/* C5, on a map of its own that is dropped in the end, as a rule with tables. */
static void use_own_map(struct worker *worker, uint64_t turn)
{
    struct stress *stress = worker->stress;
    km_map *map = harness_map_of(stress->store, "aside", turn % 2 ? KM_SORTED : KM_HASH);
    km_buffer buffer = KM_BUFFER_INIT;
    char path[HARNESS_PATH_SIZE];

    for (uint64_t n = 1; n <= 3; n++) {
        uint64_t i = (turn + n) % EXTRA_COUNT, key = key_of(KEY_EXTRA, i);

        table_path(stress, "extra", i, path);
        CHECK_STATUS(attach(stress, map, path), KM_OK);
        CHECK_STATUS(km_get_u64(map, key, &buffer), KM_OK);
        CHECK(harness_value_version(km_bytes_of(buffer.data, buffer.size), key) ==
              TABLE_VERSION + i);
        CHECK(km_count(map) == n);
    }
    if (turn % 4 == 1) {
        detach(stress, map);
        CHECK(km_count(map) == 0);
    }
    CHECK_STATUS(km_map_drop(map), KM_OK);
    CHECK_MSG(km_count(map) == 0, "a dropped map has %llu keys", (unsigned long long)km_count(map));
    km_buffer_free(&buffer);
}

/* Tables with keys of their own, under maps of which others detach them. */
static void *run_extra(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    char path[HARNESS_PATH_SIZE];

    for (uint64_t turn = 0; is_running(stress); turn++) {
        uint64_t i = harness_below(&worker->random, EXTRA_COUNT);

        table_path(stress, "extra", i, path);
        km__ignore(attach(stress, stress->subjects[turn % SUBJECT_COUNT].map, path),
                   "there may be too many");
        if (turn < EXTRA_COUNT) {
            table_path(stress, "extra", turn, path);
            CHECK_STATUS(attach(stress, stress->counted, path), KM_OK);
        }
        use_own_map(worker, turn);
        pause_us(harness_below(&worker->random, 1500));
    }
    return NULL;
}

/* ---- writers ----------------------------------------------------------------------------- */

static void check_previous(uint64_t key, uint64_t state, const km_write *write)
{
    const km_buffer *previous = write->previous;
    uint64_t found;

    if (state & 2)
        CHECK_MSG(write->existed, "key %llx was there", (unsigned long long)key);
    if (!write->existed)
        return;
    found = harness_value_version(km_bytes_of(previous->data, previous->size), key);
    if (found >= TABLE_VERSION) /* deleted, then detached, then attached anew */
        CHECK((key & UINT32_MAX) % 3 == 0 && !(state & 2));
    else
        CHECK_MSG((state & 2) && found == state / 4, "key %llx had %llu, not %llu",
                  (unsigned long long)key, (unsigned long long)found,
                  (unsigned long long)state / 4);
}

static void commit_change(struct worker *worker, struct subject *subject, uint64_t key,
                          km_bytes value)
{
    km_u64_key bytes = km_u64_key_from(key);
    km_batch *batch = NULL;

    CHECK_STATUS(km_batch_create(worker->stress->store, &batch), KM_OK);
    if (value.data)
        CHECK_STATUS(km_batch_put(batch, subject->map, km_bytes_of(bytes.bytes, 8), value), KM_OK);
    else
        CHECK_STATUS(km_batch_del(batch, subject->map, km_bytes_of(bytes.bytes, 8)), KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    km_batch_destroy(batch);
}

static void delete_own(struct worker *worker, struct subject *subject, uint64_t key, uint64_t state,
                       km_write *write)
{
    km_bytes none = {NULL, 0};
    km_status rc;

    if (harness_below(&worker->random, 3) == 0) {
        commit_change(worker, subject, key, none);
        return;
    }
    rc = km_del_u64(subject->map, key, write);
    CHECK_MSG(rc == KM_OK || (rc == KM_NOT_FOUND && !(state & 2)), "del of %llx: %s",
              (unsigned long long)key, km_status_name(rc));
    if (!rc)
        check_previous(key, state, write);
}

static void put_own(struct worker *worker, struct subject *subject, uint64_t key, uint64_t state,
                    km_write *write)
{
    uint8_t bytes[VALUE_SIZE];
    km_bytes value = km_bytes_of(bytes, sizeof(bytes));

    harness_value_fill(bytes, sizeof(bytes), key, state / 4 + 1);
    if (harness_below(&worker->random, 4) == 0) {
        commit_change(worker, subject, key, value);
        return;
    }
    CHECK_STATUS(km_put_u64(subject->map, key, value, write), KM_OK);
    check_previous(key, state, write);
}

static void change_own(struct worker *worker, km_buffer *previous)
{
    struct subject *subject = &worker->stress->subjects[harness_below(&worker->random, 2)];
    uint64_t i = harness_below(&worker->random, OWN_COUNT) * WRITER_COUNT + worker->number;
    uint64_t key = key_of(KEY_WRITER, i), state = atomic_load(&subject->versions[i]);
    int is_delete = harness_below(&worker->random, 3) == 0;
    km_write write = KM_WRITE_INIT;

    write.previous = previous;
    atomic_store(&subject->versions[i], state | 1);
    if (is_delete)
        delete_own(worker, subject, key, state, &write);
    else
        put_own(worker, subject, key, state, &write);
    atomic_store(&subject->versions[i], (state / 4 + 1) * 4 + (is_delete ? 0 : 2));
    atomic_fetch_add(&worker->stress->changes, 1);
}

static void *run_writer(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    km_buffer previous = KM_BUFFER_INIT;

    while (is_running(stress)) {
        uint64_t counter = harness_below(&worker->random, COUNTER_COUNT);
        km_u64_key key = km_u64_key_from(counter);

        for (int i = 0; i < 8; i++)
            change_own(worker, &previous);
        CHECK_STATUS(km_increment(stress->counted, km_bytes_of(key.bytes, 8), 1, NULL, NULL),
                     KM_OK);
        atomic_fetch_add(&stress->increments[counter], 1);
    }
    km_buffer_free(&previous);
    return NULL;
}

/* ---- what is read ------------------------------------------------------------------------ */

struct answer {
    uint64_t key;
    km_status rc;
    km_bytes value;
};

static void fail_answer(const struct subject *subject, const struct answer *answer,
                        const char *what)
{
    harness_failed(__FILE__, __LINE__, "%s: key %llx: %s, but %s", subject->name,
                   (unsigned long long)answer->key, km_status_name(answer->rc), what);
}

/* Of a writer's key: nothing has changed since before it was read. */
static void check_writer_answer(struct subject *subject, const struct answer *answer,
                                uint64_t version, uint64_t state)
{
    uint64_t i = answer->key & UINT32_MAX;

    if (version >= TABLE_VERSION && i % 3)
        fail_answer(subject, answer, "it is in no table");
    if (state & 1 || atomic_load(&subject->versions[i]) != state)
        return;
    if (state & 2 ? answer->rc || version != state / 4 : !answer->rc && version < TABLE_VERSION)
        fail_answer(subject, answer, "another change was the last");
}

/* Hold an answer against what was promised before the question. */
static void check_answer(struct subject *subject, const struct answer *answer,
                         const struct look *before)
{
    int is_there = answer->rc == KM_OK;
    uint64_t version = is_there ? harness_value_version(answer->value, answer->key) : 0;

    if (answer->rc && answer->rc != KM_NOT_FOUND)
        fail_answer(subject, answer, "nothing can go wrong");
    switch (class_of(answer->key)) {
    case KEY_STABLE:
        if (version != 1)
            fail_answer(subject, answer, "the map has it");
        break;
    case KEY_MOVED:
        if (!is_there && is_kept(&subject->moved, before->moved))
            fail_answer(subject, answer, "it is there all the time");
        break;
    case KEY_HIDDEN:
        if (is_there && is_kept(&subject->hidden, before->hidden))
            fail_answer(subject, answer, "it is deleted");
        break;
    case KEY_PREFERRED:
        if (version >= TABLE_VERSION)
            fail_answer(subject, answer, "the map's value goes before the table's");
        break;
    case KEY_TABLE:
        if (is_kept(&subject->table, before->table) &&
            version != table_version(subject, before->variant))
            fail_answer(subject, answer, "its table is attached");
        break;
    case KEY_WRITER: check_writer_answer(subject, answer, version, before->writer); break;
    default: break;
    }
}

/* ---- readers ----------------------------------------------------------------------------- */

static uint64_t random_key(struct worker *worker)
{
    static const enum key_class classes[] = {KEY_STABLE,    KEY_MOVED, KEY_MOVED,  KEY_HIDDEN,
                                             KEY_PREFERRED, KEY_TABLE, KEY_WRITER, KEY_EXTRA};
    enum key_class class = classes[harness_below(&worker->random, 8)];

    return key_of(class, harness_below(&worker->random, class_size(class)));
}

static struct look look_before(struct subject *subject, uint64_t key)
{
    struct look look = look_at(subject);

    if (class_of(key) == KEY_WRITER)
        look.writer = atomic_load(&subject->versions[key & UINT32_MAX]);
    return look;
}

static void read_one(struct worker *worker, struct subject *subject, km_buffer *buffer)
{
    struct answer answer = {.key = random_key(worker)};
    struct look before = look_before(subject, answer.key);

    answer.rc = km_get_u64(subject->map, answer.key, buffer);
    answer.value = km_bytes_of(buffer->data, buffer->size);
    check_answer(subject, &answer, &before);
}

#define MANY_COUNT 24u

static void read_many(struct worker *worker, struct subject *subject)
{
    km_u64_key numbers[MANY_COUNT];
    km_bytes keys[MANY_COUNT], values[MANY_COUNT];
    struct answer answers[MANY_COUNT];
    struct look before[MANY_COUNT];
    km_reader *reader = NULL;

    for (uint32_t i = 0; i < MANY_COUNT; i++) {
        answers[i].key = random_key(worker);
        before[i] = look_before(subject, answers[i].key);
        numbers[i] = km_u64_key_from(answers[i].key);
        keys[i] = km_bytes_of(numbers[i].bytes, 8);
    }
    CHECK_STATUS(km_read_begin(worker->stress->store, &reader), KM_OK);
    CHECK_STATUS(km_get_many(reader, subject->map, keys, MANY_COUNT, values, NULL), KM_OK);
    for (uint32_t i = 0; i < MANY_COUNT; i++) {
        answers[i].value = values[i];
        answers[i].rc = values[i].data ? KM_OK : KM_NOT_FOUND;
        check_answer(subject, &answers[i], &before[i]);
    }
    km_read_end(reader);
}

static void *run_reader(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;
    km_buffer buffer = KM_BUFFER_INIT;

    while (is_running(stress)) {
        struct subject *subject = &stress->subjects[harness_below(&worker->random, 2)];
        uint64_t count;

        for (int i = 0; i < 16; i++)
            read_one(worker, subject, &buffer);
        read_many(worker, subject);
        count = km_count(subject->map);
        CHECK_MSG(count < 1000000, "a count of %llu", (unsigned long long)count);
        atomic_fetch_add(&stress->reads, 16 + MANY_COUNT);
    }
    km_buffer_free(&buffer);
    return NULL;
}

/* ---- walks ------------------------------------------------------------------------------- */

struct tally {
    uint32_t seen[KEY_CLASS_COUNT]; /* keys */
    uint64_t count, last;
    uint64_t sum; /* of all keys and versions, in any order */
    uint8_t is_seen[KEY_CLASS_COUNT][CLASS_COUNT];
};

static void tally_entry(struct subject *subject, struct tally *tally, const struct answer *answer,
                        int is_reverse)
{
    enum key_class class = class_of(answer->key);
    uint64_t i = answer->key & UINT32_MAX;

    CHECK(class >= KEY_STABLE && class < KEY_CLASS_COUNT && i < class_size(class));
    if (class < KEY_WRITER)
        CHECK_MSG(!tally->is_seen[class][i]++, "%s: key %llx twice", subject->name,
                  (unsigned long long)answer->key);
    if (subject->kind == KM_SORTED && tally->count)
        CHECK(is_reverse ? answer->key < tally->last : answer->key > tally->last);
    tally->last = answer->key;
    tally->count++;
    tally->seen[class]++;
    tally->sum += (answer->key * UINT64_C(0x9fb21c651e98df25)) ^
                  harness_value_version(answer->value, answer->key);
}

/* C1 and C2 of single entries; `before` is NULL for a snapshot, of which no promise speaks. */
static void walk(struct subject *subject, const km_cursor_options *options,
                 const struct look *before, struct tally *tally, struct harness_random *random)
{
    km_cursor *cursor = NULL;
    struct answer answer;
    km_bytes key;

    memset(tally, 0, sizeof(*tally));
    CHECK_STATUS(km_cursor_open(subject->map, options, &cursor), KM_OK);
    while ((answer.rc = km_cursor_next(cursor, &key, &answer.value)) == KM_OK) {
        CHECK(key.size == 8);
        answer.key = km_u64_key_to(key.data);
        tally_entry(subject, tally, &answer, options->reverse);
        if (before && class_of(answer.key) != KEY_WRITER && class_of(answer.key) != KEY_TABLE)
            check_answer(subject, &answer, before);
        if (before && harness_below(random, 64) == 0)
            pause_us(harness_below(random, 300));
    }
    CHECK_STATUS(answer.rc, KM_END);
    km_cursor_close(cursor);
}

static void walk_live(struct worker *worker, struct subject *subject)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    struct look before = look_at(subject);
    struct tally tally;

    options.reverse = subject->kind == KM_SORTED && harness_below(&worker->random, 2);
    walk(subject, &options, &before, &tally, &worker->random);
    CHECK_MSG(tally.seen[KEY_STABLE] == CLASS_COUNT, "%s: %u stable keys", subject->name,
              tally.seen[KEY_STABLE]);
    if (is_kept(&subject->moved, before.moved)) {
        CHECK_MSG(tally.seen[KEY_MOVED] == CLASS_COUNT, "%s: %u moved keys", subject->name,
                  tally.seen[KEY_MOVED]);
        atomic_fetch_add(&worker->stress->kept, 1);
    }
    if (is_kept(&subject->table, before.table))
        CHECK_MSG(tally.seen[KEY_TABLE] == CLASS_COUNT, "%s: %u table keys", subject->name,
                  tally.seen[KEY_TABLE]);
    atomic_fetch_add(&worker->stress->walks, 1);
}

static void *run_walker(void *context)
{
    struct worker *worker = context;

    while (is_running(worker->stress))
        walk_live(worker, &worker->stress->subjects[harness_below(&worker->random, 2)]);
    return NULL;
}

/* While tables are being detached, what hid their keys is counted until it is gone. */
static int is_counted(const struct tally *tally, uint64_t count)
{
    return tally->count == count || (!tally->seen[KEY_TABLE] && tally->count < count);
}

/* C4: what a snapshot holds is one state, whoever asks, and however often. */
static void look_into_snapshot(struct worker *worker, struct subject *subject,
                               km_snapshot *snapshot)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    struct tally first, second;
    uint64_t count = km_snapshot_count(snapshot, subject->map);
    uint64_t key = random_key(worker);
    km_buffer buffer = KM_BUFFER_INIT;
    km_u64_key bytes = km_u64_key_from(key);
    km_status rc;

    options.snapshot = snapshot;
    walk(subject, &options, NULL, &first, &worker->random);
    options.reverse = subject->kind == KM_SORTED;
    walk(subject, &options, NULL, &second, &worker->random);
    CHECK_MSG(is_counted(&first, count) && second.count == first.count && first.sum == second.sum,
              "%s: a snapshot counts %llu keys, has %llu and %llu", subject->name,
              (unsigned long long)count, (unsigned long long)first.count,
              (unsigned long long)second.count);
    CHECK(first.seen[KEY_STABLE] == CLASS_COUNT);
    CHECK(first.seen[KEY_TABLE] == 0 || first.seen[KEY_TABLE] == CLASS_COUNT);
    rc = km_snapshot_get(snapshot, subject->map, km_bytes_of(bytes.bytes, 8), &buffer, NULL);
    if (class_of(key) < KEY_WRITER)
        CHECK((rc == KM_OK) == first.is_seen[class_of(key)][key & UINT32_MAX]);
    km_buffer_free(&buffer);
}

static void *run_snapshots(void *context)
{
    struct worker *worker = context;
    struct stress *stress = worker->stress;

    while (is_running(stress)) {
        km_snapshot *snapshot = NULL;

        CHECK_STATUS(km_snapshot_open(stress->store, &snapshot), KM_OK);
        if (harness_below(&worker->random, 2))
            look_into_snapshot(worker, &stress->subjects[harness_below(&worker->random, 2)],
                               snapshot);
        km_snapshot_close(snapshot);
        atomic_fetch_add(&stress->snapshots, 1);
        pause_us(200 + harness_below(&worker->random, 3000));
    }
    return NULL;
}

/* ---- the whole --------------------------------------------------------------------------- */

/* With nobody else there. `attached`: variant 0 is attached. */
static void check_writers(struct subject *subject, int attached, uint64_t *out_count)
{
    km_buffer buffer = KM_BUFFER_INIT;

    for (uint64_t i = 0; i < WRITER_COUNT * OWN_COUNT; i++) {
        struct look before = {.writer = atomic_load(&subject->versions[i])};
        struct answer answer = {.key = key_of(KEY_WRITER, i)};

        answer.rc = km_get_u64(subject->map, answer.key, &buffer);
        answer.value = km_bytes_of(buffer.data, buffer.size);
        check_answer(subject, &answer, &before);
        if (!(before.writer & 2))
            CHECK(answer.rc == (attached && i % 3 == 0 ? KM_OK : KM_NOT_FOUND));
        *out_count += answer.rc == KM_OK;
    }
    km_buffer_free(&buffer);
}

static void check_subject(struct subject *subject, int attached)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    struct harness_random random = harness_stream(1);
    uint64_t count = 0;
    struct tally tally;

    check_writers(subject, attached, &count);
    walk(subject, &options, NULL, &tally, &random);
    CHECK(tally.seen[KEY_STABLE] == CLASS_COUNT && tally.seen[KEY_WRITER] == count);
    CHECK(tally.seen[KEY_TABLE] == (attached ? CLASS_COUNT : 0));
    CHECK(tally.seen[KEY_MOVED] == (attached ? CLASS_COUNT : 0));
    CHECK(tally.seen[KEY_EXTRA] == 0 || attached);
    CHECK_MSG(km_count(subject->map) == tally.count, "%s: a count of %llu, %llu keys",
              subject->name, (unsigned long long)km_count(subject->map),
              (unsigned long long)tally.count);
}

static void check_counters(const struct stress *stress)
{
    km_buffer buffer = KM_BUFFER_INIT;

    CHECK(km_count(stress->counted) >= COUNTER_COUNT);
    for (uint64_t i = 0; i < COUNTER_COUNT; i++) {
        CHECK_STATUS(km_get_u64(stress->counted, i, &buffer), KM_OK);
        CHECK(buffer.size == 8 && km__load64(buffer.data) == COUNTER_FIRST + stress->increments[i]);
    }
    km_buffer_free(&buffer);
}

static void open_stress(struct stress *stress)
{
    stress->store = harness_open(stress->path, &stress->options);
    for (uint32_t i = 0; i < SUBJECT_COUNT; i++) {
        struct subject *subject = &stress->subjects[i];

        subject->map = harness_map_of(stress->store, subject->name, subject->kind);
    }
    stress->counted = harness_map_of(stress->store, "counted", KM_HASH);
}

static struct stress *new_stress(uint64_t cycles)
{
    static const km_options init = KM_OPTIONS_INIT;
    static const km_map_kind kinds[SUBJECT_COUNT] = {KM_HASH, KM_SORTED};
    static const char *const names[SUBJECT_COUNT] = {"hash", "tree"};
    struct stress *stress = calloc(1, sizeof(*stress));
    char path[HARNESS_PATH_SIZE];

    stress->options = init;
    stress->options.log_size_min = 1;
    stress->options.compact_percent = 125;
    stress->options.image_growth = 1u << 20;
    stress->options.sync_interval_ms = 20;
    harness_make_fast_folder(stress->tables);
    harness_make_fast_folder(stress->path);
    for (uint32_t i = 0; i < SUBJECT_COUNT; i++) {
        struct subject *subject = &stress->subjects[i];

        subject->stress = stress;
        subject->number = i;
        subject->kind = kinds[i];
        subject->name = names[i];
        subject->cycles = cycles;
        for (uint32_t variant = 0; variant < VARIANT_COUNT; variant++)
            build_variant(subject, variant);
    }
    for (uint64_t i = 0; i < EXTRA_COUNT; i++)
        build_extra(stress, i);
    build_counters(stress);
    open_stress(stress);
    for (uint32_t i = 0; i < SUBJECT_COUNT; i++)
        put_class(&stress->subjects[i], KEY_STABLE, 1);
    table_path(stress, "counters", 0, path);
    CHECK_STATUS(attach(stress, stress->counted, path), KM_OK);
    return stress;
}

static void end_stress(struct stress *stress)
{
    harness_close(stress->store);
    harness_remove(stress->path);
    harness_remove(stress->tables);
    free(stress);
}

/* A backup, too, is of one moment. */
static void check_backup(const struct stress *stress)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    struct harness_random random = harness_stream(2);
    char path[HARNESS_PATH_SIZE];
    km_error error = {0};
    km_store *store;
    km_status rc;

    harness_path(path, stress->tables, "backup");
    harness_remove(path);
    rc = km_backup(stress->store, path, NULL, NULL, &error);
    CHECK_MSG(rc == KM_OK, "backup: %s: %s: %s", km_status_name(rc), error.file, error.message);
    store = harness_open(path, NULL);
    for (uint32_t i = 0; i < SUBJECT_COUNT; i++) {
        struct subject subject = {.name = "backup", .kind = stress->subjects[i].kind};
        struct tally tally;

        subject.map = harness_map_of(store, stress->subjects[i].name, subject.kind);
        walk(&subject, &options, NULL, &tally, &random);
        CHECK(tally.seen[KEY_STABLE] == CLASS_COUNT);
        CHECK(tally.seen[KEY_TABLE] == 0 || tally.seen[KEY_TABLE] == CLASS_COUNT);
        CHECK_MSG(is_counted(&tally, km_count(subject.map)), "a backup counts %llu keys, has %llu",
                  (unsigned long long)km_count(subject.map), (unsigned long long)tally.count);
    }
    harness_close(store);
}

static void run_all(struct stress *stress)
{
    static void *(*const runs[])(void *context) = {run_cycler, run_cycler, run_extra,
                                                   run_writer, run_writer, run_reader,
                                                   run_reader, run_walker, run_snapshots};
    static const uint32_t numbers[] = {0, 1, 0, 0, 1, 0, 1, 0, 0};
    struct worker workers[sizeof(numbers) / sizeof(numbers[0])];
    uint32_t count = sizeof(numbers) / sizeof(numbers[0]);

    memset(workers, 0, sizeof(workers));
    atomic_store(&stress->cyclers_left, SUBJECT_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        workers[i].stress = stress;
        workers[i].number = numbers[i];
        workers[i].random = harness_stream(100 + i);
        CHECK(pthread_create(&workers[i].thread, NULL, runs[i], &workers[i]) == 0);
    }
    while (is_running(stress)) {
        CHECK_STATUS(km_compact(stress->store, NULL, NULL, NULL), KM_OK);
        check_backup(stress);
        pause_us(20000);
    }
    for (uint32_t i = 0; i < count; i++)
        pthread_join(workers[i].thread, NULL);
}

static void print_stress(struct stress *stress)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    CHECK_STATUS(km_store_stats(stress->store, &stats), KM_OK);
    printf("%llu changes, %llu reads, %llu walks (%llu over a key's move), %llu snapshots, "
           "%llu times busy, %llu bytes moved\n",
           (unsigned long long)stress->changes, (unsigned long long)stress->reads,
           (unsigned long long)stress->walks, (unsigned long long)stress->kept,
           (unsigned long long)stress->snapshots, (unsigned long long)stress->busy,
           (unsigned long long)stats.compacted_bytes);
    CHECK(stats.damage_count == 0);
}

static void tables_come_and_go_beside_all_others(void **state)
{
    struct stress *stress = new_stress(harness_scaled(80));
    char path[HARNESS_PATH_SIZE];

    (void)state;
    run_all(stress);
    print_stress(stress);
    for (uint32_t i = 0; i < SUBJECT_COUNT; i++) {
        struct subject *subject = &stress->subjects[i];

        if (km_detach_sealed(subject->map, NULL) == KM_OK) /* somebody else's */
            CHECK_STATUS(km_detach_sealed(subject->map, NULL), KM_NOT_FOUND);
        check_subject(subject, 0);
        table_path(stress, subject->name, 0, path);
        CHECK_STATUS(attach(stress, subject->map, path), KM_OK);
        check_subject(subject, 1);
    }
    check_counters(stress);
    harness_close(stress->store);
    open_stress(stress);
    for (uint32_t i = 0; i < SUBJECT_COUNT; i++)
        check_subject(&stress->subjects[i], 1);
    check_counters(stress);
    end_stress(stress);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_come_and_go_beside_all_others),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    harness_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
