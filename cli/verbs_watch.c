/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_watch.c -- changes as they happen: watch.
 *
 * I1. A change is passed on, whole, before the next one is read; the position told at the end has
 *     every change up to it printed, and none behind it.
 */
#include "cli.h"

enum { WAIT_PIECE_MS = 50 }; /* how soon a signal, or a reader that went away, is noticed */

/* A watch under way. */
struct watcher {
    struct cli *cli;
    struct live live;
    km_watch *watch;      /* NULL while there is no writer */
    km_position position; /* read so far */
    uint64_t end_ns;      /* UINT64_MAX: none */
    uint64_t printed_count;
};

/* ---- printing ------------------------------------------------------------------------------ */

static const char *change_name(km_change_kind kind)
{
    switch (kind) {
    case KM_CHANGE_PUT: return "put";
    case KM_CHANGE_DELETE: return "delete";
    case KM_CHANGE_MAP_CREATED: return "map_created";
    case KM_CHANGE_MAP_DROPPED: return "map_dropped";
    case KM_CHANGE_MAP_CLEARED: return "map_cleared";
    case KM_CHANGE_RANGE_DELETED: return "range_deleted";
    }
    return "unknown";
}

/* Whether a change has a key; and a value, of which a range that ends with the map has none. */
static int has_key(const km_change *change)
{
    return change->kind == KM_CHANGE_PUT || change->kind == KM_CHANGE_DELETE ||
           change->kind == KM_CHANGE_RANGE_DELETED;
}

static int has_value(const km_change *change)
{
    return change->kind == KM_CHANGE_PUT ||
           (change->kind == KM_CHANGE_RANGE_DELETED && change->value.data);
}

static void print_change_json(struct cli *cli, const km_change *change)
{
    int is_range = change->kind == KM_CHANGE_RANGE_DELETED;

    cli_print(cli, "{\"kind\":\"%s\",", change_name(change->kind));
    cli_write_json_member(cli, "m", change->map);
    cli_print(cli, ",\"position\":%llu", (unsigned long long)change->position);
    if (has_key(change)) {
        cli_write(cli, ",", 1);
        cli_write_json_member(cli, is_range ? "from" : "k", change->key);
    }
    if (has_value(change)) {
        cli_write(cli, ",", 1);
        cli_write_json_member(cli, is_range ? "to" : "v", change->value);
    }
    cli_write_string(cli, change->more_follows ? ",\"more\":true}\n" : "}\n");
}

/* Five fields, whatever the change; what it lacks is empty. No range ends with the empty key. */
static void print_change_tsv(struct cli *cli, const km_change *change)
{
    cli_print(cli, "%s\t", change_name(change->kind));
    cli_write_escaped(cli, change->map);
    cli_print(cli, "\t%llu\t", (unsigned long long)change->position);
    if (has_key(change))
        cli_write_escaped(cli, change->key);
    cli_write(cli, "\t", 1);
    if (has_value(change))
        cli_write_escaped(cli, change->value);
    cli_write(cli, "\n", 1);
}

static void print_change(struct watcher *watcher, const km_change *change)
{
    if (watcher->cli->settings.value_format == VALUE_JSON) {
        print_change_json(watcher->cli, change);
    } else {
        print_change_tsv(watcher->cli, change);
    }
    watcher->printed_count++;
    cli_flush(watcher->cli);
}

/* ---- watching ------------------------------------------------------------------------------ */

/* Tell why a watch could not begin, or go on, after `position`. */
static int watch_failed(const struct watcher *watcher, km_status status)
{
    unsigned long long position = watcher->position;
    km_stats stats;

    if (status == KM_E_TOO_OLD && cli_get_stats(watcher->live.store, &stats) == EXIT_DONE) {
        cli_message("the log begins at %llu, changes after %llu are gone from it: dump the map, "
                    "then watch from now",
                    (unsigned long long)stats.head, position);
        return cli_exit_code(status);
    }
    if (status == KM_E_INVALID) {
        cli_message("no change of this store has the position %llu: give one that `keepmap watch` "
                    "has printed",
                    position);
        return EXIT_USAGE;
    }
    return cli_fail_in_store(watcher->live.store, status, "watch");
}

/* How long the next wait may be; 0 once the time is over. */
static uint32_t wait_ms(const struct watcher *watcher)
{
    uint64_t now_ns = cli_now_ns();

    if (now_ns >= watcher->end_ns)
        return 0;
    if (watcher->end_ns - now_ns > (uint64_t)WAIT_PIECE_MS * 1000000)
        return WAIT_PIECE_MS;
    return (uint32_t)((watcher->end_ns - now_ns) / 1000000) + 1;
}

/* Whether all is printed that was asked for; `rc` is what the last read came to. */
static int is_over(const struct watcher *watcher, km_status rc)
{
    const struct settings *settings = &watcher->cli->settings;

    if (cli_is_stopped() || cli_output_is_gone(watcher->cli))
        return 1;
    if (settings->limit_count && watcher->printed_count >= settings->limit_count)
        return 1;
    if (settings->for_given && settings->for_ms == 0)
        return rc == KM_TIMED_OUT; /* all that is there comes first */
    return cli_now_ns() >= watcher->end_ns;
}

/* Begin to watch after the position. */
static int begin_watch(struct watcher *watcher)
{
    struct cli *cli = watcher->cli;
    km_watch_options options = KM_WATCH_OPTIONS_INIT;
    km_status rc;
    int code = EXIT_DONE;

    if (cli->settings.map_given)
        code = cli_find_map(cli, watcher->live.store, &options.map);
    if (code)
        return code;
    options.after = watcher->position;
    options.prefix = cli->settings.range.prefix;
    rc = km_watch_open(watcher->live.store, &options, &watcher->watch);
    if (rc)
        return watch_failed(watcher, rc);
    watcher->position = km_watch_position(watcher->watch);
    return EXIT_DONE;
}

/* All has been read. If nobody writes the store, let a writer have it. */
static void rest(struct watcher *watcher)
{
    if (is_over(watcher, KM_TIMED_OUT) || !cli_live_is_alone(&watcher->live))
        return;
    km_watch_close(watcher->watch);
    watcher->watch = NULL;
    cli_live_let_go(&watcher->live);
}

/* Wait for a writer, for a moment. */
static int await_writer(struct watcher *watcher)
{
    int code;

    cli_pause(wait_ms(watcher));
    code = cli_live_reopen(&watcher->live);
    return code || watcher->live.store == NULL ? code : begin_watch(watcher);
}

static int watch_changes(struct watcher *watcher)
{
    km_status rc = KM_OK;
    int code = EXIT_DONE;

    while (code == EXIT_DONE && !is_over(watcher, rc)) {
        km_change change;
        if (watcher->watch == NULL) {
            code = await_writer(watcher);
            continue;
        }
        rc = km_watch_next(watcher->watch, wait_ms(watcher), &change);
        if (rc == KM_OK)
            print_change(watcher, &change);
        watcher->position = km_watch_position(watcher->watch);
        if (rc == KM_TIMED_OUT) {
            rest(watcher);
        } else if (rc) {
            code = watch_failed(watcher, rc);
        }
    }
    return code;
}

static void tell_position(const struct watcher *watcher)
{
    if (watcher->cli->output_error)
        return; /* the last changes may not have arrived (I1) */
    cli_note(watcher->cli, "to go on from here: --after %llu",
             (unsigned long long)watcher->position);
}

int cli_run_watch(struct cli *cli)
{
    struct watcher watcher = {.cli = cli, .position = cli->settings.after, .end_ns = UINT64_MAX};
    int code;

    cli_catch_signals();
    code = cli_live_open(&watcher.live, cli);
    if (code == EXIT_DONE)
        code = begin_watch(&watcher);
    if (code) goto out;
    if (cli->settings.for_given)
        watcher.end_ns = cli_now_ns() + cli->settings.for_ms * 1000000;
    code = watch_changes(&watcher);
    if (code == EXIT_DONE)
        tell_position(&watcher);
out:
    km_watch_close(watcher.watch);
    return cli_live_close(&watcher.live, code);
}
