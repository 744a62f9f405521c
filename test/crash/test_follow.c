/* SPDX-License-Identifier: Apache-2.0
 *
 * test_follow.c -- a follower and its watch beside a writer that is killed and started again: every
 * change is seen once, in order, with its right value, within some milliseconds.
 *
 * The writer numbers its turns: each is a batch that puts the turn's number under "turn" and a
 * value under one of some keys. So a gap, a repetition or half a batch shows in the numbers.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness/harness_util.h"

#define KEY_COUNT 3000u
#define VALUE_SIZE 200u
#define TURN_KEY UINT64_MAX

/* What the writer tells the test, across kills. */
struct board {
    _Atomic uint64_t acknowledged; /* [a] the last turn whose batch has returned */
    _Atomic uint64_t asked_ns;     /* [a] when the writer began the turn */
    _Atomic int stop;              /* [a] end cleanly */
};

static char path[HARNESS_PATH_SIZE];
static struct board *board;
static uint32_t pause_us;

/* ---- the writer -------------------------------------------------------------------------- */

static uint64_t last_turn(km_map *map)
{
    km_buffer value = KM_BUFFER_INIT;
    km_status rc = km_get_u64(map, TURN_KEY, &value);
    uint64_t turn = 0;

    CHECK(rc == KM_OK || rc == KM_NOT_FOUND);
    if (rc == KM_OK)
        turn = harness_value_version(km_bytes_of(value.data, value.size), TURN_KEY);
    km_buffer_free(&value);
    return turn;
}

static void write_turn(km_map *map, km_batch *batch, uint64_t turn)
{
    uint8_t bytes[VALUE_SIZE];
    uint64_t key = turn * 7919 % KEY_COUNT;
    km_u64_key turn_key = km_u64_key_from(TURN_KEY), data_key = km_u64_key_from(key);

    board->asked_ns = harness_now_ns();
    harness_value_fill(bytes, sizeof(bytes), key, turn);
    CHECK_STATUS(
        km_batch_put(batch, map, km_bytes_of(data_key.bytes, 8), km_bytes_of(bytes, sizeof(bytes))),
        KM_OK);
    harness_value_fill(bytes, HARNESS_VALUE_MIN, TURN_KEY, turn);
    CHECK_STATUS(km_batch_put(batch, map, km_bytes_of(turn_key.bytes, 8),
                              km_bytes_of(bytes, HARNESS_VALUE_MIN)),
                 KM_OK);
    CHECK_STATUS(km_batch_commit(batch, NULL), KM_OK);
    board->acknowledged = turn;
}

/* Another one with each seed. */
static km_map_kind map_kind(void)
{
    static const km_map_kind kinds[3] = {KM_HASH, KM_INSERTION, KM_SORTED};

    return kinds[harness_seed() % 3];
}

static void run_writer(void)
{
    km_options options = KM_OPTIONS_INIT;
    km_batch *batch = NULL;
    km_store *store;
    km_map *map;

    options.log_size_min = 2u << 20; /* so that the log turns over now and then */
    store = harness_open(path, &options);
    map = harness_map_of(store, "map", map_kind());
    CHECK_STATUS(km_batch_create(store, &batch), KM_OK);
    for (uint64_t turn = last_turn(map) + 1; !board->stop; turn++) {
        write_turn(map, batch, turn);
        if (pause_us)
            usleep(pause_us);
    }
    km_batch_destroy(batch);
    harness_close(store);
}

static pid_t start_writer(void)
{
    pid_t child = fork();

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_writer();
        _exit(0);
    }
    CHECK(child > 0);
    return child;
}

static void kill_writer(pid_t writer)
{
    kill(writer, SIGKILL);
    CHECK(waitpid(writer, NULL, 0) == writer);
}

static void wait_for_turn(uint64_t turn)
{
    uint64_t begin = harness_now_ns();

    while (board->acknowledged < turn) {
        CHECK_MSG(harness_now_ns() - begin < UINT64_C(60000000000), "the writer does not write");
        usleep(500);
    }
}

/* ---- the follower ------------------------------------------------------------------------ */

struct follower {
    km_store *store;
    km_map *map;
    km_watch *watch;
    uint64_t seen_turn; /* by the watch; 0: none yet */
    uint64_t seen_get;  /* by gets */
    uint64_t changes;
};

static void open_follower(struct follower *follower)
{
    km_options options = KM_OPTIONS_INIT;
    km_stats stats = {.struct_size = sizeof(stats)};

    memset(follower, 0, sizeof(*follower));
    options.mode = KM_OPEN_READ_ONLY;
    follower->store = harness_open(path, &options);
    CHECK_STATUS(km_store_stats(follower->store, &stats), KM_OK);
    CHECK(stats.is_follower);
    CHECK_STATUS(km_map_open(follower->store, km_bytes_of_string("map"), &follower->map), KM_OK);
    CHECK_STATUS(km_watch_open(follower->store, NULL, &follower->watch), KM_OK);
}

static void close_follower(struct follower *follower)
{
    km_watch_close(follower->watch);
    harness_close(follower->store);
}

static void take_change(struct follower *follower, const km_change *change)
{
    uint64_t key = km_u64_key_to(change->key.data);
    uint64_t turn = harness_value_version(change->value, key);

    CHECK(change->kind == KM_CHANGE_PUT);
    follower->changes++;
    if (key != TURN_KEY) {
        CHECK_MSG(!follower->seen_turn || turn == follower->seen_turn + 1,
                  "after turn %llu comes %llu", (unsigned long long)follower->seen_turn,
                  (unsigned long long)turn);
        CHECK(change->more_follows);
        return;
    }
    CHECK_MSG(!follower->seen_turn || turn == follower->seen_turn + 1, "after turn %llu ends %llu",
              (unsigned long long)follower->seen_turn, (unsigned long long)turn);
    follower->seen_turn = turn;
}

static void read_watch(struct follower *follower)
{
    km_change change;
    km_status rc;

    while ((rc = km_watch_next(follower->watch, 0, &change)) == KM_OK)
        take_change(follower, &change);
    CHECK_MSG(rc == KM_TIMED_OUT, "the watch says %s", km_status_name(rc));
}

/* Values are whole and never go back. */
static void read_values(struct follower *follower)
{
    km_buffer value = KM_BUFFER_INIT;
    uint64_t turn = last_turn(follower->map);

    CHECK_MSG(turn >= follower->seen_get, "turn %llu after %llu", (unsigned long long)turn,
              (unsigned long long)follower->seen_get);
    follower->seen_get = turn;
    for (uint64_t i = 0; i < 20; i++) {
        uint64_t key = (turn * 31 + i * 97) % KEY_COUNT;
        km_status rc = km_get_u64(follower->map, key, &value);

        CHECK(rc == KM_OK || (rc == KM_NOT_FOUND && turn < KEY_COUNT));
        if (rc == KM_OK)
            CHECK(harness_value_version(km_bytes_of(value.data, value.size), key) * 7919 %
                      KEY_COUNT ==
                  key);
    }
    km_buffer_free(&value);
}

static void catch_up(struct follower *follower, uint64_t turn)
{
    uint64_t begin = harness_now_ns();

    while (follower->seen_turn < turn || follower->seen_get < turn) {
        CHECK_MSG(harness_now_ns() - begin < UINT64_C(20000000000),
                  "turn %llu is acknowledged, %llu is seen", (unsigned long long)turn,
                  (unsigned long long)follower->seen_turn);
        read_watch(follower);
        read_values(follower);
        usleep(200);
    }
}

/* ---- cases ------------------------------------------------------------------------------- */

static int make_store(void **state)
{
    km_options options = KM_OPTIONS_INIT;
    char folder[HARNESS_PATH_SIZE];
    km_store *store;

    (void)state;
    harness_make_fast_folder(folder);
    harness_path(path, folder, "store");
    store = harness_open(path, &options);
    harness_map_of(store, "map", map_kind());
    harness_close(store);
    memset(board, 0, sizeof(*board));
    pause_us = 0;
    return 0;
}

static void a_follower_outlives_its_writers(void **state)
{
    struct follower follower;
    uint64_t rounds = harness_scaled(20), turn;
    pid_t writer;

    (void)state;
    pause_us = 50;
    writer = start_writer();
    wait_for_turn(1);
    open_follower(&follower);
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t until = harness_now_ns() + UINT64_C(60000000);

        while (harness_now_ns() < until) {
            read_watch(&follower);
            read_values(&follower);
        }
        kill_writer(writer);
        turn = board->acknowledged; /* it may be in the ring alone: the next writer brings it out */
        writer = start_writer();
        wait_for_turn(turn + 10);
        catch_up(&follower, turn);
    }
    board->stop = 1;
    CHECK(waitpid(writer, NULL, 0) == writer);
    catch_up(&follower, board->acknowledged);
    CHECK(follower.seen_turn == board->acknowledged);
    printf("%llu writers, %llu changes\n", (unsigned long long)rounds + 1,
           (unsigned long long)follower.changes);
    close_follower(&follower);
}

static void a_follower_outlives_clean_closes(void **state)
{
    struct follower follower;
    pid_t writer;

    (void)state;
    pause_us = 50; /* a watch holds nothing back: it has to keep up with compaction */
    writer = start_writer();
    wait_for_turn(1);
    open_follower(&follower);
    for (uint64_t i = 0; i < harness_scaled(10); i++) {
        wait_for_turn(board->acknowledged + 300);
        board->stop = 1;
        CHECK(waitpid(writer, NULL, 0) == writer);
        catch_up(&follower, board->acknowledged);
        board->stop = 0;
        writer = start_writer();
        wait_for_turn(board->acknowledged + 10);
    }
    board->stop = 1;
    CHECK(waitpid(writer, NULL, 0) == writer);
    catch_up(&follower, board->acknowledged);
    close_follower(&follower);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* How old the newest turn is that a get of the follower shows. A busy machine may stretch it. */
static void changes_arrive_within_milliseconds(void **state)
{
    uint64_t lags[200];
    struct follower follower;
    pid_t writer;

    (void)state;
    pause_us = 20000;
    writer = start_writer();
    wait_for_turn(1);
    open_follower(&follower);
    for (size_t i = 0; i < sizeof(lags) / sizeof(lags[0]); i++) {
        uint64_t turn = board->acknowledged + 1, begin;

        wait_for_turn(turn);
        begin = board->asked_ns;
        while (last_turn(follower.map) < turn)
            usleep(100);
        lags[i] = harness_now_ns() - begin;
    }
    qsort(lags, sizeof(lags) / sizeof(lags[0]), sizeof(lags[0]), compare_u64);
    printf("a change is seen after %.1f ms (median), %.1f ms (99 of 100)\n",
           (double)lags[100] / 1e6, (double)lags[198] / 1e6);
    CHECK_MSG(lags[100] < UINT64_C(50000000), "median %llu ns", (unsigned long long)lags[100]);
    kill_writer(writer);
    close_follower(&follower);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_follower_outlives_its_writers, make_store),
        cmocka_unit_test_setup(a_follower_outlives_clean_closes, make_store),
        cmocka_unit_test_setup(changes_arrive_within_milliseconds, make_store),
    };

    harness_begin();
    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
