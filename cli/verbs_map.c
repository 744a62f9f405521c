/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_map.c -- the maps of a store: list, create, drop.
 */
#include "cli.h"

static int print_map(void *context, const km_map_info *info)
{
    struct cli *cli = context;
    const char *kind = cli_kind_name(info->kind);
    unsigned long long count = info->count;

    if (cli->settings.value_format == VALUE_JSON) {
        cli_write(cli, "{", 1);
        cli_write_json_member(cli, "map", info->name);
        cli_print(cli, ",\"kind\":\"%s\",\"count\":%llu}\n", kind, count);
    } else {
        cli_write_escaped(cli, info->name);
        cli_print(cli, "\t%s\t%llu\n", kind, count);
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

int cli_run_create(struct cli *cli)
{
    char quoted[QUOTED_MAX];
    km_store *store = NULL;
    km_map *map = NULL;
    km_status rc;
    int code = cli_open(cli, KM_OPEN_OR_CREATE, &store);

    if (code)
        return code;
    rc = km_map_create(store, cli->settings.map, cli->settings.kind, &map);
    if (rc == KM_EXISTS) {
        cli_quote(cli->settings.map, quoted);
        cli_message("map %s is there already: `keepmap list` shows it", quoted);
        code = EXIT_USAGE;
    } else if (rc) {
        code = cli_fail_in_store(store, rc, "create the map");
    }
    return cli_close(store, code);
}

int cli_run_drop(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    km_status rc;
    int code;

    if (!cli->settings.map_given)
        return cli_usage_error(cli->verb, "which map is to go?", "--map NAME has to say it");
    code = cli_open(cli, KM_OPEN_EXISTING, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE) {
        rc = km_map_drop(map);
        if (rc)
            code = cli_fail_in_store(store, rc, "drop the map");
    }
    return cli_close(store, code);
}
