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
    default: return EXIT_FAILED;
    }
}

/* What a user can do about a status that comes without a message of its own. */
static const char *advice(km_status status)
{
    switch (status) {
    case KM_EXISTS: return "what is to be created is there already";
    case KM_STOPPED: return "stopped by a signal";
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
    cli_message("%s", error->message[0] ? error->message : advice(status));
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
        cli_message("cannot %s: %s", doing, advice(status));
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

km_status cli_try_open(struct cli *cli, km_open_mode mode, km_store **out_store,
                       km_error *out_error)
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
    rc = km_open(cli->arguments[0], &options, out_store, out_error);
    cli_progress_end(&progress);
    return rc;
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

int cli_open(struct cli *cli, km_open_mode mode, km_store **out_store)
{
    km_error error;
    km_status rc = cli_try_open(cli, mode, out_store, &error);

    if (rc)
        return cli_fail_at(cli->arguments[0], rc, &error);
    if (mode == KM_OPEN_READ_ONLY)
        settle(*out_store);
    return EXIT_DONE;
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

int cli_make_map(struct cli *cli, km_store *store, km_map **out_map)
{
    km_status rc = km_map_open_or_create(store, cli->settings.map, KM_KIND_DEFAULT, out_map);

    return rc ? cli_fail_in_store(store, rc, "create the map") : EXIT_DONE;
}

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
