/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_seal.c -- from a map to a sealed table and back: seal, unseal.
 *
 * I1. A table that is there is replaced only where --replace asks for it; anything else that has
 *     the name never.
 */
#include "cli.h"

#include <string.h>
#include <sys/stat.h>

/* ---- a table that is being written ----------------------------------------------------------- */

/* See that there is nothing at the table's place, or what may be replaced (I1). */
static int check_place(const struct cli *cli, const char *path)
{
    struct stat about;

    if (lstat(path, &about) != 0)
        return EXIT_DONE; /* whatever is wrong with the path, the library tells */
    if (S_ISREG(about.st_mode) && cli_is_table(path)) {
        if (cli->settings.replace)
            return EXIT_DONE;
        cli_message("%.400s is there already: --replace puts the new table in its place", path);
    } else if (S_ISDIR(about.st_mode)) {
        cli_message("%.400s is a folder: give the name of the file that the table is to be", path);
    } else {
        cli_message("%.400s is there already, and no sealed table: choose another name", path);
    }
    return EXIT_USAGE;
}

/* A km_progress_fn. Records have no known total, but a file of them has. */
static int show_sealing(void *context, uint64_t done_size, uint64_t total_size)
{
    struct sealing *sealing = context;

    if (total_size && !sealing->is_merging) {
        sealing->is_merging = 1;
        cli_progress_end(&sealing->progress);
        cli_progress_begin(sealing->cli, &sealing->progress, "merging");
    }
    if (!sealing->is_merging && sealing->input) {
        done_size = sealing->input->done_size;
        total_size = sealing->input->total_size;
    }
    return cli_progress_show(&sealing->progress, done_size, total_size);
}

int cli_sealing_begin(struct sealing *sealing, struct cli *cli,
                      km_sealed_build_options *out_options)
{
    const km_sealed_build_options initial = KM_SEALED_BUILD_OPTIONS_INIT;
    const struct settings *settings = &cli->settings;
    int code;

    sealing->cli = cli;
    sealing->path = cli->arguments[1];
    *out_options = initial;
    out_options->keys = settings->number_keys;
    out_options->block_size = settings->block_size;
    out_options->memory_max = settings->memory_size;
    out_options->compression = settings->compress ? KM_SEALED_ZSTD : KM_SEALED_PLAIN;
    out_options->compression_level = settings->compress_level;
    out_options->progress = show_sealing;
    out_options->progress_context = sealing;
    code = check_place(cli, sealing->path);
    if (code)
        return code;
    cli_catch_signals();
    sealing->begin_ns = cli_now_ns();
    cli_progress_begin(cli, &sealing->progress, "sealing");
    return EXIT_DONE;
}

int cli_sealing_failed(struct sealing *sealing, km_status status, const km_error *error)
{
    cli_progress_end(&sealing->progress);
    if (status != KM_STOPPED)
        return cli_table_fail(sealing->path, status, error);
    cli_message("stopped by a signal: no table was written");
    return cli_exit_code(status);
}

int cli_sealing_done(struct sealing *sealing)
{
    double seconds = (double)(cli_now_ns() - sealing->begin_ns) / 1e9;
    struct table table;
    int code;

    cli_progress_end(&sealing->progress);
    code = cli_table_open(&table, sealing->cli, sealing->path);
    if (code)
        return code;
    cli_note(sealing->cli, "sealed %llu keys in %.3f seconds: %llu bytes",
             (unsigned long long)table.info.count, seconds,
             (unsigned long long)table.info.file_bytes);
    cli_table_close(&table);
    return EXIT_DONE;
}

/* ---- seal ------------------------------------------------------------------------------------ */

/* Most keys that the tool itself puts into maps are text. */
static int keys_are_other(struct sealing *sealing, km_sealed_keys keys)
{
    const char *name = cli_keys_name(keys);

    cli_progress_end(&sealing->progress);
    cli_message("the map has keys that are not of %d bytes, as --keys %s wants them: leave it out; "
                "or, for decimal text, `keepmap dump` into `keepmap seal -x --keys %s -`",
                (int)keys, name, name);
    return EXIT_USAGE;
}

/* A km_sealed_next_fn. */
static int next_record(void *cursor, km_bytes *out_key, km_bytes *out_value)
{
    return km_cursor_next(cursor, out_key, out_value);
}

/* Beside a writer there are no snapshots: the map is taken as it is while it is read. */
static km_status seal_followed(km_map *map, const char *path,
                               const km_sealed_build_options *options, km_error *out_error)
{
    km_cursor *cursor = NULL;
    km_status rc = km_cursor_open(map, NULL, &cursor);

    if (rc)
        return rc;
    rc = (km_status)km_sealed_build(path, options, next_record, cursor, out_error);
    km_cursor_close(cursor);
    return rc;
}

static int is_followed(km_store *store)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    return km_store_stats(store, &stats) == KM_OK && stats.is_follower;
}

static int seal_map(struct sealing *sealing, km_store *store, km_map *map,
                    const km_sealed_build_options *options)
{
    km_error error;
    km_status rc;

    memset(&error, 0, sizeof(error));
    rc = is_followed(store) ? seal_followed(map, sealing->path, options, &error)
                            : km_seal(map, NULL, sealing->path, options, &error);
    if (rc == KM_E_INVALID && options->keys != KM_SEALED_BYTES)
        return keys_are_other(sealing, options->keys);
    if (rc == KM_E_FAILED || (rc == KM_E_CORRUPT && error.message[0] == '\0')) {
        cli_progress_end(&sealing->progress);
        return cli_fail_in_store(store, rc, "seal the map");
    }
    return rc ? cli_sealing_failed(sealing, rc, &error) : cli_sealing_done(sealing);
}

static int check_seal_options(const struct cli *cli)
{
    const struct settings *settings = &cli->settings;
    int is_input = strcmp(cli->arguments[0], "-") == 0;

    if (settings->progress && settings->quiet)
        return cli_usage_error(cli->verb, "--progress and --quiet", "exclude each other");
    if (!is_input && (settings->input_path || settings->format || settings->numbered))
        return cli_usage_error(cli->verb, "--input, --from, --format and --number are for records:",
                               "give - in place of STORE");
    if (settings->numbered && settings->keys_given && settings->number_keys == KM_SEALED_BYTES)
        return cli_usage_error(cli->verb, "--number gives numbers as keys:", "not --keys bytes");
    return EXIT_DONE;
}

int cli_run_seal(struct cli *cli)
{
    struct sealing sealing = {.input = NULL};
    km_sealed_build_options options;
    km_store *store = NULL;
    km_map *map = NULL;
    int code = check_seal_options(cli);

    if (code)
        return code;
    if (strcmp(cli->arguments[0], "-") == 0)
        return cli_seal_input(cli);
    code = cli_open(cli, KM_OPEN_READ_ONLY, &store);
    if (code == EXIT_DONE)
        code = cli_find_map(cli, store, &map);
    if (code == EXIT_DONE)
        code = cli_sealing_begin(&sealing, cli, &options);
    if (code == EXIT_DONE)
        code = seal_map(&sealing, store, map, &options);
    return cli_close(store, code);
}

/* ---- unseal ---------------------------------------------------------------------------------- */

static int unseal_failed(const struct table *table, km_store *store, km_status status)
{
    if (status == KM_E_CORRUPT) {
        cli_message("%.400s is damaged: `keepmap verify` shows where; the records before that are "
                    "loaded and stay",
                    table->path);
        return EXIT_CORRUPT;
    }
    if (status == KM_STOPPED) {
        cli_message("stopped by a signal; the records before that are loaded and stay");
        return cli_exit_code(status);
    }
    return cli_fail_in_store(store, status, "load the table");
}

static int load_table(struct cli *cli, const struct table *table, km_store *store, km_map *map)
{
    uint64_t begin_ns = cli_now_ns();
    struct progress progress;
    km_status rc;

    cli_progress_begin(cli, &progress, "loading");
    rc = km_load_sealed(map, table->sealed, cli_progress_show, &progress);
    cli_progress_end(&progress);
    if (rc)
        return unseal_failed(table, store, rc);
    cli_note(cli, "loaded %llu records in %.3f seconds", (unsigned long long)table->info.count,
             (double)(cli_now_ns() - begin_ns) / 1e9);
    return EXIT_DONE;
}

/* A map that is made has the table's order, unless --kind is given. */
static int make_target(struct cli *cli, km_store *store, km_map **out_map)
{
    km_map_kind kind = cli_map_kind(store, cli->settings.map) ? KM_KIND_DEFAULT : KM_SORTED;

    return cli_make_named_map(cli, store, cli->settings.map, kind, out_map);
}

/* TABLE is opened before the store, so that a wrong name creates no store. */
int cli_run_unseal(struct cli *cli)
{
    const char *path = cli->arguments[0];
    struct table table = {.sealed = NULL};
    km_store *store = NULL;
    km_map *map = NULL;
    int code;

    if (!cli_is_file(path)) {
        cli_message("no sealed table in %.400s: the arguments are TABLE STORE; `keepmap seal` "
                    "writes a table",
                    path);
        return EXIT_FAILED;
    }
    code = cli_table_open(&table, cli, path);
    if (code) goto out;
    cli_catch_signals();
    cli->arguments++; /* the store is what the rest works on */
    code = cli_open(cli, KM_OPEN_OR_CREATE, &store);
    if (code == EXIT_DONE)
        code = make_target(cli, store, &map);
    if (code == EXIT_DONE)
        code = load_table(cli, &table, store, map);
out:
    cli_table_close(&table);
    return cli_close(store, code);
}
