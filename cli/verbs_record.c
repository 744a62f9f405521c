/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_record.c -- one record at a time: set, get, del.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* ---- set ----------------------------------------------------------------------------------- */

static int put_value(struct cli *cli, km_store *store, km_map *map, km_bytes key, km_bytes value)
{
    km_write write = KM_WRITE_INIT;
    char quoted[QUOTED_MAX];
    km_status rc;

    write.ttl_ms = cli->settings.ttl_ms;
    if (cli->settings.if_absent)
        write.condition = KM_IF_ABSENT;
    rc = km_put(map, key, value, &write);
    if (rc == KM_OK)
        return EXIT_DONE;
    if (rc != KM_EXISTS)
        return cli_fail_in_store(store, rc, "set the value");
    cli_quote(key, quoted);
    cli_note(cli, "key %s is there already", quoted);
    return EXIT_CONFLICT;
}

int cli_run_set(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    unsigned char *owned = NULL;
    km_bytes key;
    km_bytes value;
    int code;

    code = cli_argument(cli, 1, &key);
    if (code == EXIT_DONE)
        code = cli_value_argument(cli, 2, &value, &owned);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_OR_CREATE, &store);
    if (code == EXIT_DONE)
        code = cli_make_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = put_value(cli, store, map, key, value);
    free(owned);
    return cli_close(store, code);
}

/* ---- get ----------------------------------------------------------------------------------- */

/* --info: a line for each thing known, or one of JSON. */
static void print_info(struct cli *cli, const km_key_info *info)
{
    const char *form = "version: %llu\nexpires_ms: %llu\nvalue_size: %llu\n";

    if (cli->settings.value_format == VALUE_JSON)
        form = "{\"version\":%llu,\"expires_ms\":%llu,\"value_size\":%llu}\n";
    cli_print(cli, form, (unsigned long long)info->version, (unsigned long long)info->expires_ms,
              (unsigned long long)info->value_size);
}

void cli_print_value(struct cli *cli, const struct record *record)
{
    km_bytes value = record->value;

    switch (cli->settings.value_format) {
    case VALUE_JSON: cli_format_json.write_record(cli, record); return;
    case VALUE_HEX: cli_write_hex(cli, value); break;
    case VALUE_RAW: cli_write(cli, value.data, value.size); break;
    case VALUE_AUTO:
        if (cli->output_is_terminal) {
            cli_write_escaped(cli, value);
        } else {
            cli_write(cli, value.data, value.size);
        }
        break;
    }
    if (cli->settings.value_format == VALUE_HEX || cli->output_is_terminal)
        cli_write(cli, "\n", 1);
}

static int get_key(struct cli *cli, km_store *store, km_map *map, km_bytes key)
{
    km_buffer value = KM_BUFFER_INIT;
    km_key_info info;
    km_status rc = km_get_info(map, key, &value, &info);
    struct record record = {.key = key, .value = km_bytes_of(value.data, value.size)};
    int code = EXIT_DONE;

    if (rc == KM_NOT_FOUND) {
        code = cli_key_missing(cli, key);
    } else if (rc) {
        code = cli_fail_in_store(store, rc, "get the value");
    } else if (cli->settings.info) {
        print_info(cli, &info);
    } else if (cli->settings.version) {
        cli_print(cli, "%llu\n", (unsigned long long)info.version);
    } else {
        record.expires_ms = info.expires_ms;
        cli_print_value(cli, &record);
    }
    km_buffer_free(&value);
    return code;
}

int cli_run_get(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    km_bytes key;
    int code;

    if (cli->settings.info && cli->settings.version)
        return cli_usage_error(cli->verb, "--info and --version", "exclude each other");
    code = cli_argument(cli, 1, &key);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_READ_ONLY, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = get_key(cli, store, map, key);
    return cli_close(store, code);
}

/* ---- del ----------------------------------------------------------------------------------- */

static int delete_key(struct cli *cli, km_store *store, km_map *map, km_bytes key)
{
    km_status rc = km_del(map, key, NULL);

    if (rc == KM_NOT_FOUND)
        return cli_key_missing(cli, key);
    return rc ? cli_fail_in_store(store, rc, "delete the key") : EXIT_DONE;
}

int cli_run_del(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    km_bytes key;
    int code;

    if (cli_has_range(cli) && cli->argument_count == 1)
        return cli_delete_range(cli);
    if (cli_has_range(cli))
        return cli_usage_error(cli->verb, "a KEY and a range", "exclude each other");
    if (cli->argument_count == 1)
        return cli_usage_error(cli->verb, "arguments are missing:", cli->verb->arguments);
    code = cli_argument(cli, 1, &key);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_EXISTING, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = delete_key(cli, store, map, key);
    return cli_close(store, code);
}
