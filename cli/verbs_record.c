/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_record.c -- one record or number at a time: set, get, del, count, list.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* The value of `set`: its argument, or all of stdin; *out_owned is to be freed. */
static int read_value(struct cli *cli, km_bytes *out_value, unsigned char **out_owned)
{
    int code;

    if (strcmp(cli->arguments[2], "-") != 0)
        return cli_argument(cli, 2, out_value);
    code = cli_read_stdin(KM_VALUE_SIZE_MAX, out_owned, &out_value->size);
    out_value->data = *out_owned;
    return code;
}

int cli_run_set(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    unsigned char *owned = NULL;
    km_bytes key;
    km_bytes value;
    km_status rc;
    int code;

    code = cli_argument(cli, 1, &key);
    if (code == EXIT_DONE)
        code = read_value(cli, &value, &owned);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_OR_CREATE, &store);
    if (code == EXIT_DONE)
        code = cli_make_map(cli, store, &map);
    if (code) goto out;
    rc = km_put(map, key, value, NULL);
    if (rc)
        code = cli_fail_in_store(store, rc, "set the value");
out:
    free(owned);
    return cli_close(store, code);
}

/* Say that a key is not there; returns the exit code of that. */
static int key_missing(struct cli *cli, km_bytes key)
{
    char quoted[QUOTED_MAX];

    cli_quote(key, quoted);
    cli_note(cli, "no key %s", quoted);
    return EXIT_NOT_FOUND;
}

static void print_value(struct cli *cli, km_bytes map, km_bytes key, km_bytes value)
{
    switch (cli->settings.value_format) {
    case VALUE_JSON: cli_format_json.write_record(cli, map, key, value); return;
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

int cli_run_get(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    km_buffer value = KM_BUFFER_INIT;
    km_bytes key;
    km_status rc;
    int code;

    code = cli_argument(cli, 1, &key);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_READ_ONLY, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code) goto out;
    rc = km_get(map, key, &value);
    if (rc == KM_OK) {
        print_value(cli, km_bytes_of(NULL, 0), key, km_bytes_of(value.data, value.size));
    } else if (rc == KM_NOT_FOUND) {
        code = key_missing(cli, key);
    } else {
        code = cli_fail_in_store(store, rc, "get the value");
    }
out:
    km_buffer_free(&value);
    return cli_close(store, code);
}

int cli_run_del(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    km_bytes key;
    km_status rc;
    int code;

    code = cli_argument(cli, 1, &key);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_EXISTING, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code) goto out;
    rc = km_del(map, key, NULL);
    if (rc == KM_NOT_FOUND) {
        code = key_missing(cli, key);
    } else if (rc) {
        code = cli_fail_in_store(store, rc, "delete the key");
    }
out:
    return cli_close(store, code);
}

int cli_run_count(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    int code;

    code = cli_open(cli, KM_OPEN_READ_ONLY, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        cli_print(cli, "%llu\n", (unsigned long long)km_count(map));
    return cli_close(store, code);
}

static const char *kind_name(km_map_kind kind)
{
    switch (kind) {
    case KM_HASH: return "hash";
    case KM_INSERTION: return "insertion";
    case KM_SORTED: return "sorted";
    default: return "default";
    }
}

static int print_map(void *context, const km_map_info *info)
{
    struct cli *cli = context;
    unsigned long long count = info->count;

    if (cli->settings.value_format == VALUE_JSON) {
        cli_write(cli, "{", 1);
        cli_write_json_member(cli, "map", info->name);
        cli_print(cli, ",\"kind\":\"%s\",\"count\":%llu}\n", kind_name(info->kind), count);
    } else {
        cli_write_escaped(cli, info->name);
        cli_print(cli, "\t%s\t%llu\n", kind_name(info->kind), count);
    }
    return cli->output_error;
}

int cli_run_list(struct cli *cli)
{
    km_store *store = NULL;
    km_status rc;
    int code = cli_open(cli, KM_OPEN_READ_ONLY, &store);

    if (code)
        return code;
    rc = km_map_list(store, print_map, cli);
    if (rc && rc != KM_STOPPED)
        code = cli_fail_in_store(store, rc, "list the maps");
    return cli_close(store, code);
}
