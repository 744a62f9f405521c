/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_diff.c -- what differs between two stores: diff.
 *
 * I1. What is printed makes the later contents of the earlier ones: each key that differs once, as
 *     a put or a delete. The order of keys is not compared.
 * I2. Two sorted maps are walked side by side. Otherwise each key of the earlier map is looked up
 *     in the later one, then each of the later in the earlier: memory does not grow with the maps.
 *
 * A store that another process writes meanwhile is compared as it is when it is read.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

enum { MESSAGE_PATH_MAX = 300 };

/* One of the two stores, and of a pair of maps the one of it. */
struct side {
    const char *path;
    km_store *store;
    km_map *map; /* NULL: it has none of the name */
    km_map_kind kind;
    km_cursor *cursor;
    km_bytes key;
    km_bytes value;
};

/* A comparison under way. */
struct diff {
    struct cli *cli;
    struct side old;
    struct side new;
    km_bytes name; /* of the maps compared */
    int code;
};

static int side_failed(const struct side *side, km_status status)
{
    char doing[MESSAGE_PATH_MAX];

    snprintf(doing, sizeof(doing), "compare %s", side->path);
    return cli_fail_in_store(side->store, status, doing);
}

/* ---- printing ------------------------------------------------------------------------------ */

/* `sign` of a whole map: it is there no more, or only now. */
static void print_map_change(struct diff *diff, char sign, km_map_kind kind)
{
    struct cli *cli = diff->cli;

    if (cli->settings.value_format == VALUE_JSON) {
        cli_print(cli, "{\"kind\":\"%s\",", sign == '+' ? "map_created" : "map_dropped");
        cli_write_json_member(cli, "m", diff->name);
        if (sign == '+')
            cli_print(cli, ",\"map_kind\":\"%s\"", cli_kind_name(kind));
        cli_write_string(cli, "}\n");
        return;
    }
    cli_print(cli, "%cmap\t", sign);
    cli_write_escaped(cli, diff->name);
    cli_print(cli, "\t%s\n", cli_kind_name(kind));
}

/* `+`: a key that is new; `~`: it has another value; `-`: it is gone, and `value` is not used. */
static void print_change(struct diff *diff, char sign, km_bytes key, km_bytes value)
{
    struct cli *cli = diff->cli;

    if (cli->settings.value_format != VALUE_JSON) {
        cli_print(cli, "%c\t", sign);
        cli_write_escaped(cli, diff->name);
        cli_write(cli, "\t", 1);
        cli_write_escaped(cli, key);
        cli_write(cli, "\t", 1);
        if (sign != '-')
            cli_write_escaped(cli, value);
        cli_write(cli, "\n", 1);
        return;
    }
    cli_print(cli, "{\"kind\":\"%s\",", sign == '-' ? "delete" : "put");
    cli_write_json_member(cli, "m", diff->name);
    cli_write(cli, ",", 1);
    cli_write_json_member(cli, "k", key);
    if (sign != '-') {
        cli_write(cli, ",", 1);
        cli_write_json_member(cli, "v", value);
        cli_print(cli, ",\"existed\":%s", sign == '~' ? "true" : "false");
    }
    cli_write_string(cli, "}\n");
}

/* ---- two sorted maps ----------------------------------------------------------------------- */

static int same_bytes(km_bytes a, km_bytes b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Read a side's next key; sets `cursor` to NULL at the end of it. */
static int advance(struct side *side)
{
    km_status rc = km_cursor_next(side->cursor, &side->key, &side->value);

    if (rc == KM_OK)
        return EXIT_DONE;
    km_cursor_close(side->cursor);
    side->cursor = NULL;
    return rc == KM_END ? EXIT_DONE : side_failed(side, rc);
}

static int begin_side(struct side *side)
{
    km_status rc = km_cursor_open(side->map, NULL, &side->cursor);

    return rc ? side_failed(side, rc) : advance(side);
}

/* Less than 0: the next key is one that only the old map has; more: only the new one; 0: both. */
static int compare_sides(const struct diff *diff)
{
    if (diff->old.cursor == NULL)
        return 1;
    return diff->new.cursor ? cli_compare_keys(diff->old.key, diff->new.key) : -1;
}

static int merge_maps(struct diff *diff)
{
    int code = begin_side(&diff->old);

    if (code == EXIT_DONE)
        code = begin_side(&diff->new);
    while (code == EXIT_DONE && (diff->old.cursor || diff->new.cursor)) {
        int order = compare_sides(diff);
        if (diff->cli->output_error)
            break;
        if (order < 0) {
            print_change(diff, '-', diff->old.key, diff->old.value);
        } else if (order > 0) {
            print_change(diff, '+', diff->new.key, diff->new.value);
        } else if (!same_bytes(diff->old.value, diff->new.value)) {
            print_change(diff, '~', diff->new.key, diff->new.value);
        }
        if (order <= 0)
            code = advance(&diff->old);
        if (order >= 0 && code == EXIT_DONE)
            code = advance(&diff->new);
    }
    return code;
}

/* ---- maps of other kinds ------------------------------------------------------------------- */

/* Look up a key of the old map in the new one. */
static int check_old_key(struct diff *diff, km_buffer *found)
{
    km_status rc = km_get(diff->new.map, diff->old.key, found);
    km_bytes value = km_bytes_of(found->data, found->size);

    if (rc == KM_NOT_FOUND) {
        print_change(diff, '-', diff->old.key, diff->old.value);
    } else if (rc) {
        return side_failed(&diff->new, rc);
    } else if (!same_bytes(value, diff->old.value)) {
        print_change(diff, '~', diff->old.key, value);
    }
    return EXIT_DONE;
}

/* Look up a key of the new map in the old one, which may not be there. */
static int check_new_key(struct diff *diff)
{
    km_status rc = diff->old.map ? km_contains(diff->old.map, diff->new.key) : KM_NOT_FOUND;

    if (rc == KM_NOT_FOUND) {
        print_change(diff, '+', diff->new.key, diff->new.value);
        rc = KM_OK;
    }
    return rc ? side_failed(&diff->old, rc) : EXIT_DONE;
}

static int look_up_old_keys(struct diff *diff)
{
    km_buffer found = KM_BUFFER_INIT;
    int code = begin_side(&diff->old);

    while (code == EXIT_DONE && diff->old.cursor && !diff->cli->output_error) {
        code = check_old_key(diff, &found);
        if (code == EXIT_DONE)
            code = advance(&diff->old);
    }
    km_buffer_free(&found);
    return code;
}

static int look_up_new_keys(struct diff *diff)
{
    int code = begin_side(&diff->new);

    while (code == EXIT_DONE && diff->new.cursor && !diff->cli->output_error) {
        code = check_new_key(diff);
        if (code == EXIT_DONE)
            code = advance(&diff->new);
    }
    return code;
}

/* ---- maps and stores ----------------------------------------------------------------------- */

static int find_side(struct side *side, km_bytes name)
{
    km_status rc = km_map_open(side->store, name, &side->map);

    if (rc == KM_NOT_FOUND)
        side->map = NULL;
    if (rc != KM_OK && rc != KM_NOT_FOUND)
        return side_failed(side, rc);
    side->kind = cli_map_kind(side->store, name);
    return EXIT_DONE;
}

/* Compare the two maps of diff->name, of which one may not be there, or be of another kind. */
static int diff_maps(struct diff *diff)
{
    int code = EXIT_DONE;

    if (diff->old.map && (diff->new.map == NULL || diff->old.kind != diff->new.kind)) {
        print_map_change(diff, '-', diff->old.kind);
        diff->old.map = NULL; /* and so are its keys */
    }
    if (diff->new.map == NULL)
        return EXIT_DONE;
    if (diff->old.map == NULL)
        print_map_change(diff, '+', diff->new.kind);
    if (diff->old.map && diff->new.kind == KM_SORTED) {
        code = merge_maps(diff);
    } else {
        if (diff->old.map)
            code = look_up_old_keys(diff);
        if (code == EXIT_DONE)
            code = look_up_new_keys(diff);
    }
    km_cursor_close(diff->old.cursor);
    km_cursor_close(diff->new.cursor);
    diff->old.cursor = diff->new.cursor = NULL;
    return code;
}

static int find_maps(struct diff *diff, km_bytes name)
{
    int code = find_side(&diff->old, name);

    diff->name = name;
    return code ? code : find_side(&diff->new, name);
}

/* All maps of the old store; those that only the new one has come by visit_new(). */
static int visit_old(void *context, const km_map_info *info)
{
    struct diff *diff = context;

    diff->code = find_maps(diff, info->name);
    if (diff->code == EXIT_DONE)
        diff->code = diff_maps(diff);
    return diff->code || diff->cli->output_error;
}

static int visit_new(void *context, const km_map_info *info)
{
    struct diff *diff = context;

    diff->code = find_maps(diff, info->name);
    if (diff->code == EXIT_DONE && diff->old.map == NULL)
        diff->code = diff_maps(diff);
    return diff->code || diff->cli->output_error;
}

static int diff_all(struct diff *diff)
{
    struct side *side = &diff->old;
    km_status rc = km_map_list(side->store, visit_old, diff);

    if (rc == KM_OK) {
        side = &diff->new;
        rc = km_map_list(side->store, visit_new, diff);
    }
    return rc == KM_OK || rc == KM_STOPPED ? diff->code : side_failed(side, rc);
}

static int diff_one(struct diff *diff)
{
    char quoted[QUOTED_MAX];
    int code = find_maps(diff, diff->cli->settings.map);

    if (code)
        return code;
    if (diff->old.map || diff->new.map)
        return diff_maps(diff);
    cli_quote(diff->name, quoted);
    cli_note(diff->cli, "no map %s in either: `keepmap list` shows what there is", quoted);
    return EXIT_NOT_FOUND;
}

/* STORE_A STORE_B, or --since STORE_A STORE_B. */
static int choose_stores(struct diff *diff)
{
    const struct cli *cli = diff->cli;
    const char *since = cli->settings.since_path;

    if (cli->argument_count == (since ? 2 : 1))
        return cli_usage_error(cli->verb, "expected are", "OLD NEW, or --since OLD NEW");
    diff->old.path = since ? since : cli->arguments[0];
    diff->new.path = cli->arguments[since ? 0 : 1];
    return EXIT_DONE;
}

int cli_run_diff(struct cli *cli)
{
    struct diff diff = {.cli = cli};
    int code = choose_stores(&diff);

    if (code == EXIT_DONE)
        code = cli_open_at(cli, diff.old.path, &diff.old.store);
    if (code == EXIT_DONE)
        code = cli_open_at(cli, diff.new.path, &diff.new.store);
    if (code == EXIT_DONE)
        code = cli->settings.map_given ? diff_one(&diff) : diff_all(&diff);
    code = cli_close(diff.old.store, code);
    return cli_close(diff.new.store, code);
}
