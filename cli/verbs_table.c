/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_table.c -- a sealed table in place of a store: get, scan, count, dump, stat, verify.
 *
 * I1. What is printed of records, and the exit code, are those of a sorted map that has them; keys
 *     that are numbers are shown and taken in decimal.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* ---- opening --------------------------------------------------------------------------------- */

/* Open the table that the first argument names; options that are for stores are refused. */
static int begin_table(struct table *table, struct cli *cli)
{
    const char *path = cli->arguments[0];

    memset(table, 0, sizeof(*table));
    if (cli->settings.map_given)
        return cli_usage_error(cli->verb,
                               "a sealed table is one map without a name:", "leave out --map");
    return cli_table_open(table, cli, path);
}

/* A call on an open table failed. */
static int table_failed(const struct table *table, km_status status)
{
    km_error error;

    memset(&error, 0, sizeof(error));
    if (status != KM_E_CORRUPT)
        return cli_table_fail(table->path, status, &error);
    cli_message("%.400s is damaged: `keepmap verify` shows where; build it again, or take a copy",
                table->path);
    return EXIT_CORRUPT;
}

/* Read a key that is a number. */
static int take_number(const struct table *table, km_bytes text, uint64_t *out_number,
                       int *out_is_over)
{
    char quoted[QUOTED_MAX];

    if (cli_read_number(text, out_number, out_is_over) == 0) {
        *out_is_over |= *out_number > cli_keys_max(table->info.keys);
        return EXIT_DONE;
    }
    cli_quote(text, quoted);
    cli_message("%s is no key of %.400s: its keys are numbers, %s in decimal", quoted, table->path,
                cli_keys_name(table->info.keys));
    return EXIT_USAGE;
}

static km_bytes number_key(const struct table *table, uint64_t number,
                           unsigned char memory[NUMBER_KEY_MAX])
{
    km_u64_key key = km_u64_key_from(number);
    size_t width = (size_t)table->info.keys;

    memcpy(memory, key.bytes + NUMBER_KEY_MAX - width, width);
    return km_bytes_of(memory, width);
}

/* ---- get ------------------------------------------------------------------------------------- */

static int print_value_of(struct table *table, km_bytes key)
{
    km_buffer value = KM_BUFFER_INIT;
    struct record record = {.key = cli_table_key(table, key)};
    km_status rc = km_sealed_get(table->sealed, key, &value);
    int code = EXIT_DONE;

    if (rc == KM_NOT_FOUND) {
        code = cli_key_missing(table->cli, record.key);
    } else if (rc) {
        code = table_failed(table, rc == KM_E_INVALID ? KM_E_TOO_BIG : rc);
    } else {
        record.value = km_bytes_of(value.data, value.size);
        cli_print_value(table->cli, &record);
    }
    km_buffer_free(&value);
    return code;
}

static int get_key(struct table *table, km_bytes key)
{
    unsigned char memory[NUMBER_KEY_MAX];
    uint64_t number = 0;
    int is_over = 0;
    int code;

    if (!cli_table_has_numbers(table))
        return print_value_of(table, key);
    code = take_number(table, key, &number, &is_over);
    if (code)
        return code;
    if (is_over)
        return cli_key_missing(table->cli, key);
    return print_value_of(table, number_key(table, number, memory));
}

int cli_get_in_table(struct cli *cli)
{
    struct table table;
    km_bytes key;
    int code;

    if (cli->settings.info || cli->settings.version)
        return cli_usage_error(cli->verb, "a sealed table has no versions and expiries:",
                               "leave out --info and --version");
    code = cli_argument(cli, 1, &key);
    if (code)
        return code;
    code = begin_table(&table, cli);
    if (code == EXIT_DONE)
        code = get_key(&table, key);
    cli_table_close(&table);
    return code;
}

/* ---- ranges ---------------------------------------------------------------------------------- */

/* A range of a table's keys, and the memory of its ends if they are numbers. */
struct table_range {
    km_sealed_cursor_options options;
    unsigned char from[NUMBER_KEY_MAX];
    unsigned char to[NUMBER_KEY_MAX];
    int is_empty;
};

/* Turn --from and --to, decimal numbers, into keys. */
static int find_number_range(const struct table *table, const km_range *asked,
                             struct table_range *out)
{
    km_range *range = &out->options.range;
    uint64_t number = 0;
    int is_over = 0;
    int code = EXIT_DONE;

    if (asked->prefix.data)
        return cli_usage_error(table->cli->verb, "--prefix is for keys that are bytes:",
                               "those of this table are numbers; give --from and --to");
    if (asked->from.data) {
        code = take_number(table, asked->from, &number, &is_over);
        range->from = number_key(table, number, out->from);
        out->is_empty = is_over;
    }
    if (code == EXIT_DONE && asked->to.data) {
        code = take_number(table, asked->to, &number, &is_over);
        if (!is_over)
            range->to = number_key(table, number, out->to); /* else: to the last */
    }
    return code;
}

static int find_range(const struct table *table, struct table_range *out)
{
    const km_sealed_cursor_options initial = KM_SEALED_CURSOR_OPTIONS_INIT;
    const struct settings *settings = &table->cli->settings;

    memset(out, 0, sizeof(*out));
    out->options = initial;
    out->options.reverse = settings->reverse;
    if (cli_table_has_numbers(table))
        return find_number_range(table, &settings->range, out);
    out->options.range = settings->range;
    return EXIT_DONE;
}

/* ---- scan, dump, count ----------------------------------------------------------------------- */

/* Hand the records of a cursor to `write`, `limit` of them, or all for 0. */
static int write_records(struct table *table, km_sealed_cursor *cursor, uint64_t limit,
                         void (*write)(struct cli *cli, const struct record *record))
{
    struct record record = {.map = table->cli->settings.map};
    uint64_t count = 0;
    km_status rc = KM_OK;

    while (!table->cli->output_error && (limit == 0 || count < limit)) {
        rc = km_sealed_cursor_next(cursor, &record.key, &record.value);
        if (rc)
            break;
        record.key = cli_table_key(table, record.key);
        write(table->cli, &record);
        count++;
    }
    return rc && rc != KM_END ? table_failed(table, rc) : EXIT_DONE;
}

int cli_scan_table(struct cli *cli)
{
    struct table table;
    struct table_range range;
    km_sealed_cursor *cursor = NULL;
    km_status rc;
    int code = begin_table(&table, cli);

    if (code == EXIT_DONE)
        code = find_range(&table, &range);
    if (code || range.is_empty) goto out;
    rc = km_sealed_cursor_open(table.sealed, &range.options, &cursor);
    code = rc ? table_failed(&table, rc)
              : write_records(&table, cursor, cli->settings.limit_count, cli_write_record);
out:
    km_sealed_cursor_close(cursor);
    cli_table_close(&table);
    return code;
}

static int count_range(struct table *table, uint64_t *out_count)
{
    struct table_range range;
    km_sealed_cursor *cursor = NULL;
    km_status rc;
    int code = find_range(table, &range);

    *out_count = 0;
    if (code || range.is_empty)
        return code;
    rc = km_sealed_cursor_open(table->sealed, &range.options, &cursor);
    if (rc)
        return table_failed(table, rc);
    *out_count = km_sealed_cursor_count(cursor);
    km_sealed_cursor_close(cursor);
    return EXIT_DONE;
}

int cli_count_table(struct cli *cli)
{
    struct table table;
    uint64_t count = 0;
    int code = begin_table(&table, cli);

    if (code == EXIT_DONE)
        code = count_range(&table, &count);
    if (code == EXIT_DONE)
        cli_print(cli, "%llu\n", (unsigned long long)count);
    cli_table_close(&table);
    return code;
}

/* A dump names the map `main`, which is also where `load` puts what has no name. */
static int dump_records(struct table *table, const struct format *format)
{
    km_map_info map = {.name = table->cli->settings.map, .kind = KM_SORTED};
    km_sealed_cursor *cursor = NULL;
    km_status rc = km_sealed_cursor_open(table->sealed, NULL, &cursor);
    int code;

    if (rc)
        return table_failed(table, rc);
    format->write_begin(table->cli, &map, table->info.key_bytes + table->info.value_bytes);
    code = write_records(table, cursor, 0, format->write_record);
    if (code == EXIT_DONE)
        format->write_end(table->cli);
    km_sealed_cursor_close(cursor);
    return code;
}

int cli_dump_table(struct cli *cli)
{
    const struct format *format = cli->settings.format;
    struct table table;
    int code;

    if (cli->settings.all)
        return cli_usage_error(cli->verb,
                               "a sealed table is one map without a name:", "leave out --all");
    code = begin_table(&table, cli);
    if (code == EXIT_DONE)
        code = dump_records(&table, format ? format : &cli_format_tsv);
    cli_table_close(&table);
    return code;
}

/* ---- stat ------------------------------------------------------------------------------------ */

static void print_table_info(struct cli *cli, const km_sealed_info *info)
{
    const char *form = "keys: %s\ncompression: %s\n";

    if (cli->settings.value_format == VALUE_JSON)
        form = "{\"keys\":\"%s\",\"compression\":\"%s\"";
    cli_print(cli, form, cli_keys_name(info->keys),
              info->compression == KM_SEALED_ZSTD ? "zstd" : "none");
    cli_print_figure(cli, 0, "key_count", info->count);
    cli_print_figure(cli, 0, "key_bytes", info->key_bytes);
    cli_print_figure(cli, 0, "value_bytes", info->value_bytes);
    cli_print_figure(cli, 0, "file_bytes", info->file_bytes);
    cli_print_figure(cli, 0, "memory_bytes", info->memory_bytes);
    cli_print_figure(cli, 0, "block_count", info->block_count);
    cli_print_figure(cli, 0, "block_size", info->block_size);
    cli_print_figure(cli, 0, "created_ms", info->created_ms);
    cli_end_figures(cli);
}

int cli_stat_table(struct cli *cli)
{
    struct table table;
    int code;

    if (cli->settings.closed)
        return cli_usage_error(cli->verb,
                               "--closed is for stores:", "a sealed table needs no recovery");
    code = begin_table(&table, cli);
    if (code == EXIT_DONE)
        print_table_info(cli, &table.info);
    cli_table_close(&table);
    return code;
}

/* ---- verify ---------------------------------------------------------------------------------- */

/* A check under way. */
struct check {
    struct cli *cli;
    struct progress progress;
    uint64_t finding_count;
};

static void take_finding(void *context, const km_error *finding)
{
    struct check *check = context;

    check->finding_count++;
    cli_progress_end(&check->progress);
    cli_write_escaped(check->cli, km_bytes_of_string(finding->message));
    cli_print(check->cli, " (offset %llu)\n", (unsigned long long)finding->offset);
}

static int show_check(void *context, uint64_t done_size, uint64_t total_size)
{
    struct check *check = context;

    return cli_progress_show(&check->progress, done_size, total_size);
}

static int end_check(struct check *check, const struct table *table, int is_damaged)
{
    cli_print(check->cli, "blocks: %llu\nrecords: %llu\ndamaged: %llu\n",
              (unsigned long long)table->info.block_count, (unsigned long long)table->info.count,
              (unsigned long long)check->finding_count);
    if (!is_damaged)
        return EXIT_DONE;
    cli_message("%.400s is damaged: build it again, or take a copy of it", table->path);
    return EXIT_CORRUPT;
}

int cli_verify_table(struct cli *cli)
{
    struct check check = {.cli = cli};
    struct table table;
    km_error error;
    km_status rc = cli_table_try_open(&table, cli, cli->arguments[0], &error);
    int code;

    if (rc == KM_E_CORRUPT) {
        take_finding(&check, &error);
        return end_check(&check, &table, 1);
    }
    if (rc)
        return cli_table_fail(cli->arguments[0], rc, &error);
    cli_catch_signals();
    cli_progress_begin(cli, &check.progress, "verifying");
    rc = km_sealed_verify(table.sealed, take_finding, show_check, &check);
    cli_progress_end(&check.progress);
    code = rc && rc != KM_E_CORRUPT ? table_failed(&table, rc)
                                    : end_check(&check, &table, rc == KM_E_CORRUPT);
    cli_table_close(&table);
    return code;
}
