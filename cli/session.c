/* SPDX-License-Identifier: Apache-2.0
 *
 * session.c -- what every verb needs: messages, exit codes, stores, maps, arguments.
 */
#include "cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    MESSAGE_MAX = 1024,
    QUOTED_BYTES_MAX = 32,
    SETTLE_MS = 100 /* five times what a writer takes to notice who follows it */
};

/* ---- messages ------------------------------------------------------------------------------ */

/* Print a line of text; bytes that are not safe on a terminal become \xHH (cli.h, I2). */
static void print_line(const char *text)
{
    const unsigned char *data = (const unsigned char *)text;
    char line[MESSAGE_MAX * 4 + 2];
    size_t size = strlen(text);
    size_t used = 0;
    size_t at = 0;

    while (at < size) {
        size_t safe = cli_safe_size(data + at, size - at);
        memcpy(line + used, data + at, safe);
        used += safe;
        at += safe;
        if (at < size)
            used += (size_t)snprintf(line + used, 5, "\\x%02x", data[at++]);
    }
    line[used++] = '\n';
    fwrite(line, 1, used, stderr); /* one call: lines of several threads do not mix */
}

static void print_message(const char *format, va_list arguments)
{
    char text[MESSAGE_MAX] = "keepmap: ";
    size_t used = strlen(text);

    vsnprintf(text + used, sizeof(text) - used, format, arguments);
    print_line(text);
}

void cli_message(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
}

void cli_note(const struct cli *cli, const char *format, ...)
{
    va_list arguments;

    if (cli->settings.quiet)
        return;
    va_start(arguments, format);
    print_message(format, arguments);
    va_end(arguments);
}

void cli_quote(km_bytes bytes, char out_text[QUOTED_MAX])
{
    const unsigned char *data = bytes.data;
    size_t at = 0;
    size_t used = 0;

    out_text[used++] = '\'';
    while (at < bytes.size && at < QUOTED_BYTES_MAX) {
        size_t length = cli_utf8_size(data + at, bytes.size - at);
        if (length == 0 || data[at] == '\\' || cli_safe_size(data + at, length) == 0) {
            used += (size_t)snprintf(out_text + used, 5, "\\x%02x", data[at++]);
            continue;
        }
        memcpy(out_text + used, data + at, length);
        used += length;
        at += length;
    }
    snprintf(out_text + used, QUOTED_MAX - used, "%s'", at < bytes.size ? "..." : "");
}

/* ---- errors -------------------------------------------------------------------------------- */

int cli_exit_code(km_status status)
{
    switch (status) {
    case KM_OK: return EXIT_DONE;
    case KM_NOT_FOUND:
    case KM_E_TOO_OLD: return EXIT_NOT_FOUND;
    case KM_EXISTS:
    case KM_E_INVALID:
    case KM_E_TOO_BIG: return EXIT_USAGE;
    case KM_E_CORRUPT: return EXIT_CORRUPT;
    case KM_CONFLICT: return EXIT_CONFLICT;
    default: return EXIT_FAILED;
    }
}

const char *cli_advice(km_status status)
{
    switch (status) {
    case KM_EXISTS: return "what is to be created is there already";
    case KM_STOPPED: return "stopped by a signal";
    case KM_CONFLICT: return "the key has changed meanwhile";
    case KM_BUSY: return "too much is under way in the store: let some of it end, then try again";
    case KM_E_NO_MEMORY: return "not enough memory";
    case KM_E_FULL: return "no space: free some on the disk, then try again";
    case KM_E_IO: return "reading or writing failed: check the disk";
    case KM_E_FAILED: return "an earlier write failed: check the disk, then open the store again";
    case KM_E_CORRUPT:
        return "the store is damaged: `keepmap verify` shows where, `keepmap "
               "salvage` copies what is whole";
    case KM_E_READ_ONLY: return "the store is open for reading only";
    case KM_E_TOO_BIG: return "a key has at most 65535 bytes, a value 2147483647";
    case KM_E_LIMIT: return "maps, segments or descriptors are used up";
    case KM_E_LOCKED: return "another process has the store open";
    case KM_E_UNSUPPORTED: return "this build or machine cannot do it, or not in this state";
    default: return km_status_name(status);
    }
}

int cli_fail(km_status status, const km_error *error)
{
    cli_message("%s", error->message[0] ? error->message : cli_advice(status));
    return cli_exit_code(status);
}

int cli_fail_at(const char *path, km_status status, const km_error *error)
{
    if (status != KM_E_NOT_A_STORE || error->message[0])
        return cli_fail(status, error);
    cli_message("no store in %s: `keepmap set` and `keepmap load` create one", path);
    return EXIT_FAILED;
}

int cli_fail_in_store(const km_store *store, km_status status, const char *doing)
{
    km_error error;

    memset(&error, 0, sizeof(error));
    if ((status == KM_E_IO || status == KM_E_FAILED) && km_store_error(store, &error) == KM_OK) {
        cli_message("cannot %s: %s", doing, error.message);
    } else {
        cli_message("cannot %s: %s", doing, cli_advice(status));
    }
    return cli_exit_code(status);
}

/* ---- stores and maps ----------------------------------------------------------------------- */

/* Errors reach the user through km_error; of the rest only warnings matter to him. */
static void print_warning(void *context, km_log_level level, const char *message)
{
    const struct cli *cli = context;

    if (level == KM_LOG_WARNING)
        cli_note(cli, "warning: %s", message);
}

static km_status try_open_at(struct cli *cli, const char *path, km_open_mode mode,
                             km_store **out_store, km_error *out_error)
{
    km_options options = KM_OPTIONS_INIT;
    struct progress progress;
    km_status rc;

    memset(out_error, 0, sizeof(*out_error));
    cli_progress_begin(cli, &progress, "recovering");
    options.mode = mode;
    options.durability = cli->settings.durable;
    options.log = print_warning;
    options.log_context = cli;
    options.progress = cli_progress_show;
    options.progress_context = &progress;
    rc = km_open(path, &options, out_store, out_error);
    cli_progress_end(&progress);
    return rc;
}

km_status cli_try_open(struct cli *cli, km_open_mode mode, km_store **out_store,
                       km_error *out_error)
{
    return try_open_at(cli, cli->arguments[0], mode, out_store, out_error);
}

/*
 * What was acknowledged before the tool was started is to be seen by it. A follower sees it some
 * milliseconds after the writer has noticed that it is followed.
 */
static void settle(km_store *store)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    if (km_store_stats(store, &stats) == KM_OK && stats.is_follower)
        cli_pause(SETTLE_MS);
}

static int open_at(struct cli *cli, const char *path, km_open_mode mode, km_store **out_store)
{
    km_error error;
    km_status rc = try_open_at(cli, path, mode, out_store, &error);

    if (rc)
        return cli_fail_at(path, rc, &error);
    if (mode == KM_OPEN_READ_ONLY)
        settle(*out_store);
    return EXIT_DONE;
}

int cli_open(struct cli *cli, km_open_mode mode, km_store **out_store)
{
    return open_at(cli, cli->arguments[0], mode, out_store);
}

int cli_open_at(struct cli *cli, const char *path, km_store **out_store)
{
    return open_at(cli, path, KM_OPEN_READ_ONLY, out_store);
}

int cli_close(km_store *store, int code)
{
    km_error error;
    km_status rc;

    memset(&error, 0, sizeof(error));
    rc = km_close(store, &error);
    if (rc == KM_OK || code != EXIT_DONE)
        return code; /* the first error has been told */
    return cli_fail(rc, &error);
}

int cli_find_map(struct cli *cli, km_store *store, km_map **out_map)
{
    char quoted[QUOTED_MAX];
    km_status rc = km_map_open(store, cli->settings.map, out_map);

    if (rc == KM_OK)
        return EXIT_DONE;
    if (rc != KM_NOT_FOUND)
        return cli_fail_in_store(store, rc, "open the map");
    cli_quote(cli->settings.map, quoted);
    cli_note(cli, "no map %s in %s: `keepmap list` shows what there is", quoted, cli->arguments[0]);
    return EXIT_NOT_FOUND;
}

static const char *const kind_names[] = {"default", "hash", "insertion", "sorted"};

km_map_kind cli_find_kind(km_bytes name)
{
    int i;

    for (i = KM_HASH; i <= KM_SORTED; i++) {
        if (strlen(kind_names[i]) == name.size && memcmp(kind_names[i], name.data, name.size) == 0)
            return (km_map_kind)i;
    }
    return KM_KIND_DEFAULT;
}

const char *cli_kind_name(km_map_kind kind)
{
    return kind_names[kind <= KM_SORTED ? kind : KM_KIND_DEFAULT];
}

struct kind_search {
    km_bytes name;
    km_map_kind found;
};

static int look_at_kind(void *context, const km_map_info *info)
{
    struct kind_search *search = context;

    if (info->name.size != search->name.size ||
        memcmp(info->name.data, search->name.data, search->name.size) != 0)
        return 0;
    search->found = info->kind;
    return 1;
}

km_map_kind cli_map_kind(km_store *store, km_bytes name)
{
    struct kind_search search = {name, KM_KIND_DEFAULT};
    km_status rc = km_map_list(store, look_at_kind, &search);

    return rc == KM_STOPPED ? search.found : KM_KIND_DEFAULT;
}

/* A map is there: see that its kind is the one asked for. */
static int check_kind(struct cli *cli, km_store *store, km_bytes name, km_map_kind kind)
{
    km_map_kind wanted = cli->settings.kind ? cli->settings.kind : kind;
    km_map_kind found = wanted ? cli_map_kind(store, name) : wanted;
    char quoted[QUOTED_MAX];

    if (found == wanted)
        return EXIT_DONE;
    cli_quote(name, quoted);
    if (cli->settings.kind == KM_KIND_DEFAULT) {
        cli_note(cli, "map %s is there already: it stays %s, the input has it %s", quoted,
                 cli_kind_name(found), cli_kind_name(wanted));
        return EXIT_DONE;
    }
    cli_message("map %s is there already, and %s, not %s: a map's kind is fixed when it is made",
                quoted, cli_kind_name(found), cli_kind_name(wanted));
    return EXIT_USAGE;
}

int cli_make_named_map(struct cli *cli, km_store *store, km_bytes name, km_map_kind kind,
                       km_map **out_map)
{
    km_status rc = km_map_open(store, name, out_map);

    if (rc == KM_OK)
        return check_kind(cli, store, name, kind);
    if (rc == KM_NOT_FOUND) {
        rc = km_map_create(store, name, cli->settings.kind ? cli->settings.kind : kind, out_map);
    }
    return rc ? cli_fail_in_store(store, rc, "create the map") : EXIT_DONE;
}

int cli_make_map(struct cli *cli, km_store *store, km_map **out_map)
{
    return cli_make_named_map(cli, store, cli->settings.map, KM_KIND_DEFAULT, out_map);
}

int cli_kind_lacks(struct cli *cli, const char *what)
{
    char quoted[QUOTED_MAX];

    cli_quote(cli->settings.map, quoted);
    cli_message("map %s: %s", quoted, what);
    return EXIT_USAGE;
}

/* ---- arguments ----------------------------------------------------------------------------- */

int cli_argument(struct cli *cli, int index, km_bytes *out_bytes)
{
    char *text = cli->arguments[index];

    *out_bytes = km_bytes_of_string(text);
    if (!cli->settings.escaped)
        return EXIT_DONE;
    out_bytes->size = cli_unescape((unsigned char *)text, out_bytes->size);
    if (out_bytes->size != SIZE_MAX)
        return EXIT_DONE;
    cli_message("bad escape in an argument: use \\t, \\n, \\\\ or \\xHH");
    return EXIT_USAGE;
}

int cli_value_argument(struct cli *cli, int index, km_bytes *out_value, unsigned char **out_owned)
{
    int code;

    if (strcmp(cli->arguments[index], "-") != 0)
        return cli_argument(cli, index, out_value);
    code = cli_read_stdin(KM_VALUE_SIZE_MAX, out_owned, &out_value->size);
    out_value->data = *out_owned;
    return code;
}

int cli_key_missing(struct cli *cli, km_bytes key)
{
    char quoted[QUOTED_MAX];

    cli_quote(key, quoted);
    cli_note(cli, "no key %s", quoted);
    return EXIT_NOT_FOUND;
}

int cli_compare_keys(km_bytes a, km_bytes b)
{
    size_t common = a.size < b.size ? a.size : b.size;
    int order = common ? memcmp(a.data, b.data, common) : 0;

    return order ? order : (a.size > b.size) - (a.size < b.size);
}
