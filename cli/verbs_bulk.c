/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_bulk.c -- many records at a time: load and dump.
 *
 * I1. Records are committed in the order of the input, and acknowledged (--ack) once committed.
 * I2. At a bad line all records before it are committed, none after it.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

enum {
    BATCH_SIZE = 256 * 1024,    /* a batch is committed once it holds so many bytes */
    BATCH_SIZE_ASKED = 4 << 20, /* the same where --batch asks for a number of records */
    RECORD_ALONE_SIZE = 1 << 20 /* a larger record is put by itself: no second copy of it */
};

/* A load under way. */
struct loader {
    struct cli *cli;
    km_store *store;
    km_batch *batch;
    struct input input;
    struct reader reader;
    struct progress progress;
    km_map *map;      /* where the records go at the moment; NULL: not known yet */
    int map_is_fixed; /* --map was given: names in the input do not matter */
    char map_name[KM_MAP_NAME_SIZE_MAX];
    size_t map_name_size; /* name of `map`, as the input gave it; 0: it gave none */
    size_t batch_size;
    uint64_t batch_count;
    uint64_t loaded_count;  /* committed records */
    uint64_t expired_count; /* records whose time had come already: not loaded */
};

/* ---- load ---------------------------------------------------------------------------------- */

static int acknowledge(struct loader *loader, uint64_t count)
{
    loader->loaded_count += count;
    if (!loader->cli->settings.ack)
        return EXIT_DONE;
    cli_print(loader->cli, "%llu\n", (unsigned long long)loader->loaded_count);
    return cli_flush(loader->cli) ? EXIT_FAILED : EXIT_DONE; /* main tells why */
}

static int load_failed(struct loader *loader, km_status status)
{
    int code;

    cli_progress_end(&loader->progress);
    code = cli_fail_in_store(loader->store, status, "load");
    cli_note(loader->cli, "the %llu records before that are loaded",
             (unsigned long long)loader->loaded_count);
    return code;
}

static int commit(struct loader *loader)
{
    uint64_t count = loader->batch_count;
    km_status rc;

    if (count == 0)
        return EXIT_DONE;
    rc = km_batch_commit(loader->batch, NULL);
    if (rc)
        return load_failed(loader, rc);
    loader->batch_count = 0;
    loader->batch_size = 0;
    return acknowledge(loader, count);
}

/* Make `map` the one that the input names, or the default one. */
static int choose_map(struct loader *loader)
{
    km_bytes name = loader->reader.map;
    int code;

    if (loader->map_is_fixed || name.data == NULL)
        name.size = 0;
    if (loader->map && name.size == loader->map_name_size &&
        memcmp(loader->map_name, name.data ? name.data : "", name.size) == 0)
        return EXIT_DONE;
    loader->map_name_size = name.size;
    if (name.size == 0) {
        name = loader->cli->settings.map;
    } else {
        memcpy(loader->map_name, name.data, name.size);
    }
    cli_progress_end(&loader->progress);
    code = cli_make_named_map(loader->cli, loader->store, name, loader->reader.kind, &loader->map);
    if (code)
        commit(loader); /* what came before (I2); the reason is told */
    return code;
}

static int put_alone(struct loader *loader, uint64_t ttl_ms)
{
    km_write write = KM_WRITE_INIT;
    km_status rc;
    int code = commit(loader);

    if (code)
        return code;
    write.ttl_ms = ttl_ms;
    rc = km_put(loader->map, loader->reader.key, loader->reader.value, &write);
    return rc ? load_failed(loader, rc) : acknowledge(loader, 1);
}

/*
 * How long the record is to live; 0: for ever. --ttl goes before what the input says. Returns
 * whether its time has not come already.
 */
static int find_ttl(const struct loader *loader, uint64_t *out_ttl_ms)
{
    uint64_t expires_ms = loader->reader.expires_ms;
    uint64_t now_ms;

    *out_ttl_ms = loader->cli->settings.ttl_ms;
    if (*out_ttl_ms || expires_ms == 0)
        return 1;
    now_ms = cli_wall_ms();
    if (expires_ms <= now_ms)
        return 0;
    *out_ttl_ms = expires_ms - now_ms;
    return 1;
}

static int add_record(struct loader *loader)
{
    uint64_t count_max = loader->cli->settings.batch_count;
    size_t size_max = count_max ? BATCH_SIZE_ASKED : BATCH_SIZE;
    size_t size = loader->reader.key.size + loader->reader.value.size;
    uint64_t ttl_ms = 0;
    km_status rc;
    int code = choose_map(loader);

    if (code)
        return code;
    if (!find_ttl(loader, &ttl_ms)) {
        loader->expired_count++;
        return EXIT_DONE;
    }
    if (size > RECORD_ALONE_SIZE)
        return put_alone(loader, ttl_ms);
    rc = km_batch_put_ttl(loader->batch, loader->map, loader->reader.key, loader->reader.value,
                          ttl_ms);
    if (rc)
        return load_failed(loader, rc);
    loader->batch_count++;
    loader->batch_size += size + 64; /* what a record and its entry take beside */
    if (loader->batch_size < size_max && (count_max == 0 || loader->batch_count < count_max))
        return EXIT_DONE;
    return commit(loader);
}

/* Tell of a bad line, after what stands before it has been committed (I2). */
static int bad_line(struct loader *loader)
{
    int code = commit(loader);

    if (code)
        return code;
    cli_progress_end(&loader->progress);
    cli_message("%.400s:%llu: %s; the %llu records before it are loaded and stay",
                loader->input.name, (unsigned long long)loader->input.line, loader->reader.problem,
                (unsigned long long)loader->loaded_count);
    return EXIT_USAGE;
}

static int load_records(struct loader *loader)
{
    int code = EXIT_DONE;

    while (code == EXIT_DONE) {
        cli_progress_update(&loader->progress, loader->input.done_size, loader->input.total_size);
        switch (loader->reader.format->read(&loader->reader)) {
        case READER_RECORD: code = add_record(loader); break;
        case READER_MAP: code = choose_map(loader); break;
        case READER_BAD: return bad_line(loader);
        case READER_END: return commit(loader);
        case READER_FAILED: code = commit(loader); return code ? code : EXIT_FAILED;
        }
    }
    return code;
}

static int load_input(struct loader *loader)
{
    uint64_t begin_ns = cli_now_ns();
    double seconds;
    int code;

    cli_reader_init(&loader->reader, loader->cli, &loader->input);
    cli_progress_begin(loader->cli, &loader->progress, "loading");
    code = load_records(loader);
    cli_progress_end(&loader->progress);
    if (code)
        return code;
    loader->reader.map = km_bytes_of(NULL, 0);
    loader->reader.kind = KM_KIND_DEFAULT;
    if (loader->map == NULL)
        code = choose_map(loader); /* the input was empty: so is the map */
    seconds = (double)(cli_now_ns() - begin_ns) / 1e9;
    if (code == EXIT_DONE) {
        cli_note(loader->cli, "loaded %llu records in %.3f seconds",
                 (unsigned long long)loader->loaded_count, seconds);
    }
    if (code == EXIT_DONE && loader->expired_count) {
        cli_note(loader->cli, "%llu records had expired, and were left out",
                 (unsigned long long)loader->expired_count);
    }
    return code;
}

int cli_run_load(struct cli *cli)
{
    struct loader loader;
    km_status rc;
    int code;

    memset(&loader, 0, sizeof(loader));
    loader.cli = cli;
    loader.map_is_fixed = cli->settings.map_given;
    code = cli_input_open(&loader.input, cli->settings.input_path);
    if (code == EXIT_DONE)
        code = cli_open(cli, KM_OPEN_OR_CREATE, &loader.store);
    if (code) goto out;
    rc = km_batch_create(loader.store, &loader.batch);
    code = rc ? cli_fail_in_store(loader.store, rc, "load") : load_input(&loader);
out:
    km_batch_destroy(loader.batch);
    cli_reader_fini(&loader.reader);
    cli_input_close(&loader.input);
    return cli_close(loader.store, code);
}

/* ---- dump ---------------------------------------------------------------------------------- */

/* A dump under way. */
struct dumper {
    struct cli *cli;
    km_store *store;
    const struct format *format;
    uint64_t live_size;
    int code;
};

static int name_refused(struct dumper *dumper, km_bytes name)
{
    char quoted[QUOTED_MAX];

    cli_quote(name, quoted);
    cli_message("map %s: %s has no form for such a name; use --to json", quoted,
                dumper->format->name);
    return EXIT_USAGE;
}

static km_status dump_next(struct dumper *dumper, km_cursor *cursor, km_bytes name)
{
    struct record record = {.map = name};
    km_key_info info;
    km_status rc = km_cursor_next(cursor, &record.key, &record.value);

    if (rc == KM_OK)
        rc = km_cursor_info(cursor, &info);
    if (rc)
        return rc;
    record.expires_ms = info.expires_ms;
    dumper->format->write_record(dumper->cli, &record);
    return KM_OK;
}

static int dump_map(struct dumper *dumper, km_map *map, const km_map_info *info)
{
    km_cursor *cursor = NULL;
    km_status rc;

    if (!dumper->format->can_name(info->name))
        return name_refused(dumper, info->name);
    rc = km_cursor_open(map, NULL, &cursor);
    if (rc)
        return cli_fail_in_store(dumper->store, rc, "dump");
    dumper->format->write_begin(dumper->cli, info, dumper->live_size);
    while (rc == KM_OK && !dumper->cli->output_error)
        rc = dump_next(dumper, cursor, info->name);
    km_cursor_close(cursor);
    if (rc != KM_OK && rc != KM_END)
        return cli_fail_in_store(dumper->store, rc, "dump");
    dumper->format->write_end(dumper->cli);
    return EXIT_DONE;
}

static int dump_listed(void *context, const km_map_info *info)
{
    struct dumper *dumper = context;
    km_map *map = NULL;
    km_status rc = km_map_open(dumper->store, info->name, &map);

    dumper->code = rc ? cli_fail_in_store(dumper->store, rc, "open a map")
                      : dump_map(dumper, map, info);
    return dumper->code;
}

static int dump_all(struct dumper *dumper)
{
    km_status rc = km_map_list(dumper->store, dump_listed, dumper);

    if (rc == KM_OK || rc == KM_STOPPED)
        return dumper->code;
    return cli_fail_in_store(dumper->store, rc, "list the maps");
}

static int dump_one(struct dumper *dumper)
{
    km_map_info info = {.name = dumper->cli->settings.map};
    km_map *map = NULL;
    int code = cli_find_map(dumper->cli, dumper->store, &map);

    if (code)
        return code;
    info.kind = cli_map_kind(dumper->store, info.name);
    return dump_map(dumper, map, &info);
}

int cli_run_dump(struct cli *cli)
{
    struct dumper dumper = {.cli = cli, .format = cli->settings.format};
    km_stats stats = {.struct_size = sizeof(km_stats)};
    int code;

    if (dumper.format == NULL)
        dumper.format = &cli_format_tsv;
    if (cli->settings.all && dumper.format == &cli_format_tsv) {
        cli_message("tsv does not hold the names of maps: use --all with --to json or --to mdb");
        return EXIT_USAGE;
    }
    code = cli_open(cli, KM_OPEN_READ_ONLY, &dumper.store);
    if (code)
        return code;
    if (km_store_stats(dumper.store, &stats) == KM_OK)
        dumper.live_size = stats.live_bytes;
    code = cli->settings.all ? dump_all(&dumper) : dump_one(&dumper);
    return cli_close(dumper.store, code);
}
