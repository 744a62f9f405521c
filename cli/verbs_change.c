/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_change.c -- changes that depend on what is there: pop, cas, incr, append.
 *
 * I1. What is printed has happened. A change that happened is reported as an error if it could not
 *     be printed.
 */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INCREMENT_ATTEMPTS_MAX = 100 };

/* ---- pop ----------------------------------------------------------------------------------- */

static int pop_key(struct cli *cli, km_store *store, km_map *map)
{
    km_buffer key = KM_BUFFER_INIT;
    km_buffer value = KM_BUFFER_INIT;
    struct record record = {.expires_ms = 0};
    km_status rc = cli->settings.last ? km_pop_last(map, &key, &value, NULL)
                                      : km_pop_first(map, &key, &value, NULL);
    int code = EXIT_DONE;

    if (rc == KM_OK) {
        record.key = km_bytes_of(key.data, key.size);
        record.value = km_bytes_of(value.data, value.size);
        cli_write_record(cli, &record);
    } else if (rc == KM_NOT_FOUND) {
        cli_note(cli, "the map is empty");
        code = EXIT_NOT_FOUND;
    } else if (rc == KM_E_UNSUPPORTED) {
        code = cli_kind_lacks(cli, "hash maps have no order: pop takes --kind insertion or sorted");
    } else {
        code = cli_fail_in_store(store, rc, "pop a key");
    }
    km_buffer_free(&key);
    km_buffer_free(&value);
    return code;
}

int cli_run_pop(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    int code = cli_open(cli, KM_OPEN_EXISTING, &store);

    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = pop_key(cli, store, map);
    return cli_close(store, code);
}

/* ---- cas ----------------------------------------------------------------------------------- */

/* A change of a key that is asked for. */
struct change {
    km_store *store;
    km_map *map;
    km_bytes key;
    km_bytes value;
    unsigned char *owned; /* to be freed: the value, if it was read */
};

/* A version, or `absent`, which is 0. */
static int read_expected(struct cli *cli, const char *text, km_position *out_expected)
{
    int64_t number = 0;

    *out_expected = 0;
    if (strcmp(text, "absent") == 0)
        return EXIT_DONE;
    if (cli_read_integer(km_bytes_of_string(text), &number) != 0 || number < 0)
        return cli_usage_error(cli->verb, "EXPECTED is", "a version, or 0, or `absent`");
    *out_expected = (km_position)number;
    return EXIT_DONE;
}

/* Say what the key is like instead; it may be like that no more. */
static int tell_conflict(struct cli *cli, const struct change *change)
{
    char quoted[QUOTED_MAX];
    km_key_info info;
    km_status rc = km_get_info(change->map, change->key, NULL, &info);

    cli_quote(change->key, quoted);
    if (rc == KM_OK) {
        cli_note(cli, "key %s has version %llu", quoted, (unsigned long long)info.version);
    } else {
        cli_note(cli, "key %s is not there", quoted);
    }
    return EXIT_CONFLICT;
}

static int compare_and_set(struct cli *cli, const struct change *change, km_position expected)
{
    km_write write = KM_WRITE_INIT;
    km_status rc;

    write.ttl_ms = cli->settings.ttl_ms;
    rc = km_compare_and_set(change->map, change->key, expected, change->value, &write);
    if (rc == KM_CONFLICT)
        return tell_conflict(cli, change);
    if (rc)
        return cli_fail_in_store(change->store, rc, "set the value");
    cli_print(cli, "%llu\n", (unsigned long long)write.position);
    return EXIT_DONE;
}

/* A version can be expected of a key that is there alone: neither store nor map is made for it. */
static int open_for_cas(struct cli *cli, struct change *change, km_position expected)
{
    int code = cli_open(cli, expected ? KM_OPEN_EXISTING : KM_OPEN_OR_CREATE, &change->store);

    if (code)
        return code;
    return expected ? cli_find_map(cli, change->store, &change->map)
                    : cli_make_map(cli, change->store, &change->map);
}

int cli_run_cas(struct cli *cli)
{
    struct change change = {.store = NULL};
    km_position expected = 0;
    int code = cli_argument(cli, 1, &change.key);

    if (code == EXIT_DONE)
        code = read_expected(cli, cli->arguments[2], &expected);
    if (code == EXIT_DONE)
        code = cli_value_argument(cli, 3, &change.value, &change.owned);
    if (code == EXIT_DONE)
        code = open_for_cas(cli, &change, expected);
    if (code == EXIT_DONE)
        code = compare_and_set(cli, &change, expected);
    free(change.owned);
    return cli_close(change.store, code);
}

/* ---- incr ---------------------------------------------------------------------------------- */

/* What a key holds now as a number; a key that is not there counts as 0. */
struct counter {
    int64_t number;
    km_key_info info; /* version 0: the key is not there */
};

static int counter_failed(const struct change *change, const char *problem)
{
    char quoted[QUOTED_MAX];

    cli_quote(change->key, quoted);
    cli_message("key %s: %s", quoted, problem);
    return EXIT_USAGE;
}

static int read_counter(const struct change *change, struct counter *counter)
{
    km_buffer value = KM_BUFFER_INIT;
    km_status rc = km_get_info(change->map, change->key, &value, &counter->info);
    int code = EXIT_DONE;

    if (rc == KM_NOT_FOUND) {
        counter->number = 0;
        counter->info.version = 0;
        counter->info.expires_ms = 0;
    } else if (rc) {
        code = cli_fail_in_store(change->store, rc, "get the number");
    } else if (cli_read_integer(km_bytes_of(value.data, value.size), &counter->number) != 0) {
        code = counter_failed(change, "its value is no decimal number of 64 bits");
    }
    km_buffer_free(&value);
    return code;
}

/* The time to live of a value that takes the place of another: --ttl, or what is left of the old.
 */
static uint64_t remaining_ttl(const struct cli *cli, const km_key_info *info)
{
    uint64_t now_ms;

    if (cli->settings.ttl_ms || info->expires_ms == 0)
        return cli->settings.ttl_ms;
    now_ms = cli_wall_ms();
    return info->expires_ms > now_ms ? info->expires_ms - now_ms : 1;
}

static km_status put_sum(struct cli *cli, const struct change *change,
                         const struct counter *counter, int64_t sum)
{
    km_write write = KM_WRITE_INIT;
    char text[NUMBER_TEXT_MAX];
    int size = snprintf(text, sizeof(text), "%lld", (long long)sum);

    write.ttl_ms = remaining_ttl(cli, &counter->info);
    return km_compare_and_set(change->map, change->key, counter->info.version,
                              km_bytes_of(text, (size_t)size), &write);
}

/*
 * Read, add, set if the key has not changed since: nobody else writes the store meanwhile, but the
 * key may expire. (km_update() would not keep an expiry, km_increment() no number as text.)
 */
static int increment_key(struct cli *cli, const struct change *change, int64_t delta)
{
    struct counter counter;
    int64_t sum = 0;
    km_status rc = KM_CONFLICT;
    int attempt;
    int code;

    for (attempt = 0; rc == KM_CONFLICT && attempt < INCREMENT_ATTEMPTS_MAX; attempt++) {
        code = read_counter(change, &counter);
        if (code)
            return code;
        if (__builtin_add_overflow(counter.number, delta, &sum))
            return counter_failed(change, "the sum does not fit in 64 bits");
        rc = put_sum(cli, change, &counter, sum);
    }
    if (rc)
        return cli_fail_in_store(change->store, rc, "set the number");
    cli_print(cli, "%lld\n", (long long)sum);
    return EXIT_DONE;
}

int cli_run_incr(struct cli *cli)
{
    struct change change = {.store = NULL};
    int64_t delta = 1;
    int code = cli_argument(cli, 1, &change.key);

    if (code == EXIT_DONE && cli->argument_count == 3 &&
        cli_read_integer(km_bytes_of_string(cli->arguments[2]), &delta) != 0)
        code = cli_usage_error(cli->verb, "N is", "a decimal number of 64 bits");
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_OR_CREATE, &change.store);
    if (code == EXIT_DONE)
        code = cli_make_map(cli, change.store, &change.map);
    if (code == EXIT_DONE)
        code = increment_key(cli, &change, delta);
    return cli_close(change.store, code);
}

/* ---- append -------------------------------------------------------------------------------- */

static int append_bytes(struct cli *cli, const struct change *change)
{
    km_write write = KM_WRITE_INIT;
    km_status rc;

    write.ttl_ms = cli->settings.ttl_ms;
    rc = km_append(change->map, change->key, change->value, &write);
    return rc ? cli_fail_in_store(change->store, rc, "append") : EXIT_DONE;
}

int cli_run_append(struct cli *cli)
{
    struct change change = {.store = NULL};
    int code = cli_argument(cli, 1, &change.key);

    if (code == EXIT_DONE)
        code = cli_value_argument(cli, 2, &change.value, &change.owned);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_OR_CREATE, &change.store);
    if (code == EXIT_DONE)
        code = cli_make_map(cli, change.store, &change.map);
    if (code == EXIT_DONE)
        code = append_bytes(cli, &change);
    free(change.owned);
    return cli_close(change.store, code);
}
