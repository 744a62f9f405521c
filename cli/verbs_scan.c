/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_scan.c -- parts of a map: scan, count, index, del of a range.
 *
 * A sorted map finds its range by itself. In maps of the other kinds a range is what is left of a
 * walk over all keys.
 */
#include "cli.h"

#include <string.h>

/* A walk over a range of a map. */
struct walk {
    struct cli *cli;
    km_store *store;
    km_map *map;
    km_map_kind kind;
    km_cursor *cursor;
};

int cli_has_range(const struct cli *cli)
{
    const km_range *range = &cli->settings.range;

    return range->prefix.data || range->from.data || range->to.data;
}

/* ---- walks --------------------------------------------------------------------------------- */

static int is_in_range(const km_range *range, km_bytes key)
{
    km_bytes prefix = range->prefix;

    if (prefix.size > key.size || (prefix.size && memcmp(prefix.data, key.data, prefix.size) != 0))
        return 0;
    if (range->from.data && cli_compare_keys(key, range->from) < 0)
        return 0;
    return range->to.data == NULL || cli_compare_keys(key, range->to) < 0;
}

static int open_walk(struct walk *walk, struct cli *cli)
{
    int code;

    memset(walk, 0, sizeof(*walk));
    walk->cli = cli;
    code = cli_open(cli, KM_OPEN_READ_ONLY, &walk->store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, walk->store, &walk->map);
    if (code == EXIT_DONE)
        walk->kind = cli_map_kind(walk->store, cli->settings.map);
    return code;
}

static int begin_walk(struct walk *walk)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_status rc;

    options.reverse = walk->cli->settings.reverse;
    if (walk->kind == KM_SORTED)
        options.range = walk->cli->settings.range;
    if (walk->kind == KM_HASH && options.reverse)
        return cli_kind_lacks(walk->cli, "a hash map has no order to be reversed: load it into "
                                         "one of --kind insertion or sorted");
    rc = km_cursor_open(walk->map, &options, &walk->cursor);
    return rc ? cli_fail_in_store(walk->store, rc, "walk over the map") : EXIT_DONE;
}

/* The next record of the range; KM_END at the end. */
static km_status walk_next(struct walk *walk, struct record *record)
{
    km_status rc;

    do {
        rc = km_cursor_next(walk->cursor, &record->key, &record->value);
        if (rc)
            return rc;
    } while (walk->kind != KM_SORTED && !is_in_range(&walk->cli->settings.range, record->key));
    return KM_OK;
}

static int end_walk(struct walk *walk, int code)
{
    km_cursor_close(walk->cursor);
    return cli_close(walk->store, code);
}

/* ---- scan ---------------------------------------------------------------------------------- */

static int print_range(struct walk *walk)
{
    uint64_t limit = walk->cli->settings.limit_count;
    struct record record = {.expires_ms = 0};
    uint64_t count = 0;
    km_status rc = KM_OK;

    while (rc == KM_OK && !walk->cli->output_error && (limit == 0 || count < limit)) {
        rc = walk_next(walk, &record);
        if (rc)
            break;
        cli_write_record(walk->cli, &record);
        count++;
    }
    return rc && rc != KM_END ? cli_fail_in_store(walk->store, rc, "scan") : EXIT_DONE;
}

int cli_run_scan(struct cli *cli)
{
    struct walk walk;
    int code = open_walk(&walk, cli);

    if (code == EXIT_DONE)
        code = begin_walk(&walk);
    if (code == EXIT_DONE)
        code = print_range(&walk);
    return end_walk(&walk, code);
}

/* ---- count --------------------------------------------------------------------------------- */

static km_status count_by_walking(struct walk *walk, uint64_t *out_count)
{
    struct record record;
    uint64_t count = 0;
    km_status rc = walk_next(walk, &record);

    for (; rc == KM_OK; rc = walk_next(walk, &record))
        count++;
    *out_count = count;
    return rc == KM_END ? KM_OK : rc;
}

static int print_count(struct walk *walk)
{
    uint64_t count = 0;
    km_status rc = KM_OK;
    int code = EXIT_DONE;

    if (!cli_has_range(walk->cli)) {
        count = km_count(walk->map);
    } else if (walk->kind == KM_SORTED) {
        rc = km_count_range(walk->map, &walk->cli->settings.range, &count);
    } else {
        code = begin_walk(walk);
        if (code == EXIT_DONE)
            rc = count_by_walking(walk, &count);
    }
    if (rc)
        code = cli_fail_in_store(walk->store, rc, "count");
    if (code == EXIT_DONE)
        cli_print(walk->cli, "%llu\n", (unsigned long long)count);
    return code;
}

int cli_run_count(struct cli *cli)
{
    struct walk walk;
    int code = open_walk(&walk, cli);

    if (code == EXIT_DONE)
        code = print_count(&walk);
    return end_walk(&walk, code);
}

/* ---- index --------------------------------------------------------------------------------- */

static int no_positions(struct cli *cli)
{
    return cli_kind_lacks(cli, "positions by number are for maps of --kind insertion; "
                               "`keepmap scan` walks over all");
}

static int no_such_position(struct cli *cli, km_map *map)
{
    cli_note(cli, "no position %s: the map has %llu keys", cli->arguments[1],
             (unsigned long long)km_count(map));
    return EXIT_NOT_FOUND;
}

/* Print the key at a position; -1 is the last one. */
static int print_position(struct walk *walk, int64_t number)
{
    uint64_t count = km_count(walk->map);
    uint64_t from_end = number < 0 ? 0 - (uint64_t)number : 0;
    uint64_t position = number < 0 ? count - from_end : (uint64_t)number;
    km_buffer key = KM_BUFFER_INIT;
    km_buffer value = KM_BUFFER_INIT;
    struct record record = {.expires_ms = 0};
    km_status rc;
    int code = EXIT_DONE;

    if (from_end > count && walk->kind == KM_INSERTION)
        return no_such_position(walk->cli, walk->map);
    rc = km_get_index(walk->map, position, &key, &value);
    if (rc == KM_OK) {
        record.key = km_bytes_of(key.data, key.size);
        record.value = km_bytes_of(value.data, value.size);
        cli_write_record(walk->cli, &record);
    } else if (rc == KM_NOT_FOUND) {
        code = no_such_position(walk->cli, walk->map);
    } else if (rc == KM_E_UNSUPPORTED) {
        code = no_positions(walk->cli);
    } else {
        code = cli_fail_in_store(walk->store, rc, "get a position");
    }
    km_buffer_free(&key);
    km_buffer_free(&value);
    return code;
}

static int print_index_of(struct walk *walk, km_bytes key)
{
    uint64_t position = 0;
    km_status rc = km_index_of(walk->map, key, &position);

    if (rc == KM_NOT_FOUND)
        return cli_key_missing(walk->cli, key);
    if (rc == KM_E_UNSUPPORTED)
        return no_positions(walk->cli);
    if (rc)
        return cli_fail_in_store(walk->store, rc, "find the position");
    cli_print(walk->cli, "%llu\n", (unsigned long long)position);
    return EXIT_DONE;
}

int cli_run_index(struct cli *cli)
{
    km_bytes of = cli->settings.of;
    struct walk walk;
    int64_t number = 0;
    int code;

    if ((of.data != NULL) == (cli->argument_count == 2))
        return cli_usage_error(cli->verb, "either N or --of KEY", "is expected");
    if (of.data == NULL && cli_read_integer(km_bytes_of_string(cli->arguments[1]), &number) != 0)
        return cli_usage_error(cli->verb, "N is", "a decimal number of 64 bits");
    code = open_walk(&walk, cli);
    if (code == EXIT_DONE)
        code = of.data ? print_index_of(&walk, of) : print_position(&walk, number);
    return end_walk(&walk, code);
}

/* ---- del of a range ------------------------------------------------------------------------ */

int cli_delete_range(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    uint64_t count = 0;
    km_status rc;
    int code = cli_open(cli, KM_OPEN_EXISTING, &store);

    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code) goto out;
    rc = km_del_range(map, &cli->settings.range, NULL, &count);
    if (rc == KM_E_UNSUPPORTED) {
        code = cli_kind_lacks(cli, "a range can be deleted at once in a sorted map only; "
                                   "`keepmap scan --keys` lists the keys to delete one by one");
    } else if (rc) {
        code = cli_fail_in_store(store, rc, "delete the range");
    } else {
        cli_print(cli, "%llu\n", (unsigned long long)count);
    }
out:
    return cli_close(store, code);
}
