/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_attach.c -- sealed tables under the maps of a store: attach, detach, and what stat shows.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* ---- attach, detach -------------------------------------------------------------------------- */

static int attach_table(struct cli *cli, km_map *map)
{
    const char *path = cli->arguments[1];
    char *real = realpath(path, NULL); /* the library follows no link */
    km_error error;
    km_status rc;

    memset(&error, 0, sizeof(error));
    rc = km_attach_sealed(map, real ? real : path, &error);
    free(real);
    return rc ? cli_table_fail(path, rc, &error) : EXIT_DONE;
}

static int check_attached_kind(struct cli *cli, km_store *store)
{
    if (cli_map_kind(store, cli->settings.map) == KM_INSERTION)
        return cli_kind_lacks(cli, "a sealed table has no insertion order: `keepmap create` makes "
                                   "a map of --kind sorted or hash");
    return EXIT_DONE;
}

int cli_run_attach(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    int code;

    if (!cli_is_file(cli->arguments[1])) {
        cli_message("no sealed table in %.400s: the arguments are STORE TABLE; `keepmap seal` "
                    "writes a table",
                    cli->arguments[1]);
        return EXIT_FAILED;
    }
    code = cli_open(cli, KM_OPEN_EXISTING, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = check_attached_kind(cli, store);
    if (code == EXIT_DONE)
        code = attach_table(cli, map);
    return cli_close(store, code);
}

static int detach_tables(struct cli *cli, km_store *store, km_map *map)
{
    char quoted[QUOTED_MAX];
    km_error error;
    km_status rc;

    memset(&error, 0, sizeof(error));
    rc = km_detach_sealed(map, &error);
    if (rc == KM_OK)
        return EXIT_DONE;
    if (rc == KM_NOT_FOUND) {
        cli_quote(cli->settings.map, quoted);
        cli_note(cli, "no sealed table is attached to map %s: `keepmap stat` lists them", quoted);
        return EXIT_NOT_FOUND;
    }
    return error.message[0] ? cli_fail(rc, &error)
                            : cli_fail_in_store(store, rc, "detach the tables");
}

int cli_run_detach(struct cli *cli)
{
    km_store *store = NULL;
    km_map *map = NULL;
    int code;

    if (!cli->settings.map_given)
        return cli_usage_error(cli->verb, "which map's tables are to go?",
                               "--map NAME has to say it");
    code = cli_open(cli, KM_OPEN_EXISTING, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = detach_tables(cli, store, map);
    return cli_close(store, code);
}

/* ---- stat ------------------------------------------------------------------------------------ */

/* A list under way. */
struct attached_list {
    struct cli *cli;
    km_store *store;
    km_bytes map; /* whose tables are listed at the moment */
    uint64_t count;
    km_status status; /* of the map that could not be looked at, or KM_OK */
};

/* One table: `attached:`, map, file and numbers with TABs between, or an object. */
static int print_one(void *context, const km_attached *attached)
{
    struct attached_list *list = context;
    struct cli *cli = list->cli;
    const char *form = "\t%llu\t%llu\t%llu\n";

    if (cli->settings.value_format == VALUE_JSON) {
        cli_write_string(cli, list->count ? ",{" : "{");
        cli_write_json_member(cli, "map", list->map);
        cli_write(cli, ",", 1);
        cli_write_json_member(cli, "name", km_bytes_of_string(attached->name));
        form = ",\"key_count\":%llu,\"file_bytes\":%llu,\"memory_bytes\":%llu}";
    } else {
        cli_write_string(cli, "attached: ");
        cli_write_escaped(cli, list->map);
        cli_write(cli, "\t", 1);
        cli_write_escaped(cli, km_bytes_of_string(attached->name));
    }
    cli_print(cli, form, (unsigned long long)attached->count,
              (unsigned long long)attached->file_bytes, (unsigned long long)attached->memory_bytes);
    list->count++;
    return 0;
}

static int list_map(void *context, const km_map_info *info)
{
    struct attached_list *list = context;
    km_map *map = NULL;
    km_status rc = km_map_open(list->store, info->name, &map);

    list->map = info->name;
    if (rc == KM_OK)
        rc = km_list_attached(map, print_one, list);
    if (rc == KM_NOT_FOUND || rc == KM_E_DROPPED)
        return 0; /* gone meanwhile: it has none */
    list->status = rc;
    return rc != KM_OK;
}

int cli_print_attached(struct cli *cli, km_store *store)
{
    struct attached_list list = {.cli = cli, .store = store};
    int is_json = cli->settings.value_format == VALUE_JSON;
    km_status rc;

    if (is_json)
        cli_write_string(cli, ",\"attached\":[");
    rc = km_map_list(store, list_map, &list);
    if (is_json)
        cli_write(cli, "]", 1);
    if (rc == KM_STOPPED)
        rc = list.status;
    return rc ? cli_fail_in_store(store, rc, "list the attached tables") : EXIT_DONE;
}
