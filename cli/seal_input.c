/* SPDX-License-Identifier: Apache-2.0
 *
 * seal_input.c -- records of stdin or of a file as a sealed table: `keepmap seal - TABLE`.
 *
 * I1. After a bad line, a failure or a signal there is no new table: what was at its place stays.
 * I2. Records of one map become the table: the one that --map names and what has no map's name, or
 *     else the only one that the input names.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* A table that is made from text. */
struct text_sealing {
    struct sealing sealing;
    struct cli *cli;
    struct input input;
    struct reader reader;
    km_sealed_builder *builder;
    char map_name[KM_MAP_NAME_SIZE_MAX]; /* the first one that the input names (I2) */
    size_t map_name_size;                /* 0: it has named none */
    uint64_t expired_count;              /* records whose time had come already: left out */
    uint64_t expiring_count;             /* records whose time will come: they stay for ever */
};

static int is_name(km_bytes a, km_bytes b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* A line cannot be taken: say why. What has been built is thrown away (I1). */
static int bad_line(struct text_sealing *text)
{
    cli_progress_end(&text->sealing.progress);
    cli_message("%.400s:%llu: %s; no table was written", text->input.name,
                (unsigned long long)text->input.line, text->reader.problem);
    return EXIT_USAGE;
}

/* Whether the record, or the map that begins, belongs to the table (I2). */
static int choose_map(struct text_sealing *text, int *out_is_ours)
{
    km_bytes name = text->reader.map;
    char quoted[QUOTED_MAX];

    *out_is_ours = 1;
    if (name.data == NULL || name.size == 0)
        return EXIT_DONE;
    if (text->cli->settings.map_given) {
        *out_is_ours = is_name(name, text->cli->settings.map);
        return EXIT_DONE;
    }
    if (text->map_name_size == 0) {
        memcpy(text->map_name, name.data, name.size);
        text->map_name_size = name.size;
    }
    if (is_name(name, km_bytes_of(text->map_name, text->map_name_size)))
        return EXIT_DONE;
    cli_quote(name, quoted);
    cli_reader_bad(&text->reader, "map %s is a second one: choose with --map", quoted);
    return bad_line(text);
}

/* Expiries are not kept; whether the record's time has come already. */
static int has_expired(struct text_sealing *text)
{
    uint64_t expires_ms = text->reader.expires_ms;

    if (expires_ms == 0)
        return 0;
    if (expires_ms <= cli_wall_ms()) {
        text->expired_count++;
        return 1;
    }
    text->expiring_count++;
    return 0;
}

/* Add a record whose key is a decimal number. */
static int add_number(struct text_sealing *text, km_sealed_keys keys, km_status *out_rc)
{
    uint64_t number = 0;
    int is_over = 0;
    char quoted[QUOTED_MAX];

    if (cli_read_number(text->reader.key, &number, &is_over) != 0) {
        cli_quote(text->reader.key, quoted);
        cli_reader_bad(&text->reader, "key %s is no decimal number, as --keys %s wants it", quoted,
                       cli_keys_name(keys));
        return bad_line(text);
    }
    if (is_over || number > cli_keys_max(keys)) {
        cli_quote(text->reader.key, quoted);
        cli_reader_bad(&text->reader, "key %s is over %llu, the largest %s: give --keys %s", quoted,
                       (unsigned long long)cli_keys_max(keys), cli_keys_name(keys),
                       keys == KM_SEALED_U64 ? "bytes" : "with more bits");
        return bad_line(text);
    }
    *out_rc = km_sealed_builder_add_number(text->builder, number, text->reader.value);
    return EXIT_DONE;
}

static int add_record(struct text_sealing *text)
{
    const struct settings *settings = &text->cli->settings;
    km_status rc = KM_OK;
    km_error error;
    int is_ours = 0;
    int code = choose_map(text, &is_ours);

    if (code || !is_ours || has_expired(text))
        return code;
    if (settings->numbered) {
        rc = km_sealed_builder_add_next(text->builder, text->reader.value, NULL);
        if (rc == KM_E_INVALID) {
            cli_reader_bad(&text->reader, "no number is left for it: give --keys with more bits");
            return bad_line(text);
        }
    } else if (settings->number_keys != KM_SEALED_BYTES) {
        code = add_number(text, settings->number_keys, &rc);
    } else {
        rc = km_sealed_builder_add(text->builder, text->reader.key, text->reader.value);
    }
    if (rc == KM_OK)
        return code;
    rc = km_sealed_builder_finish(text->builder, &error); /* it has failed: this tells why */
    text->builder = NULL;
    return cli_sealing_failed(&text->sealing, rc, &error);
}

static int add_records(struct text_sealing *text)
{
    int is_ours = 0;
    int code = EXIT_DONE;

    while (code == EXIT_DONE) {
        cli_progress_update(&text->sealing.progress, text->input.done_size, text->input.total_size);
        switch (text->reader.format->read(&text->reader)) {
        case READER_RECORD: code = add_record(text); break;
        case READER_MAP: code = choose_map(text, &is_ours); break;
        case READER_BAD: return bad_line(text);
        case READER_END: return EXIT_DONE;
        case READER_FAILED: return EXIT_FAILED;
        }
    }
    return code;
}

/* Complete the table, and report. */
static int finish(struct text_sealing *text)
{
    km_error error;
    km_status rc;
    int code;

    memset(&error, 0, sizeof(error));
    rc = km_sealed_builder_finish(text->builder, &error);
    text->builder = NULL;
    if (rc)
        return cli_sealing_failed(&text->sealing, rc, &error);
    code = cli_sealing_done(&text->sealing);
    if (text->expired_count)
        cli_note(text->cli, "%llu records had expired, and were left out",
                 (unsigned long long)text->expired_count);
    if (text->expiring_count)
        cli_note(text->cli, "%llu records have an expiry, which a sealed table does not keep",
                 (unsigned long long)text->expiring_count);
    return code;
}

static int open_builder(struct text_sealing *text)
{
    km_sealed_build_options options;
    km_error error;
    km_status rc;
    int code = cli_sealing_begin(&text->sealing, text->cli, &options);

    if (code)
        return code;
    memset(&error, 0, sizeof(error));
    if (text->cli->settings.numbered && !text->cli->settings.keys_given)
        options.keys = KM_SEALED_U64;
    rc = km_sealed_builder_open(text->sealing.path, &options, &text->builder, &error);
    return rc ? cli_sealing_failed(&text->sealing, rc, &error) : EXIT_DONE;
}

int cli_seal_input(struct cli *cli)
{
    struct text_sealing text;
    int code;

    memset(&text, 0, sizeof(text));
    text.cli = cli;
    text.sealing.input = &text.input;
    code = cli_input_open(&text.input, cli->settings.input_path);
    if (code)
        return code;
    code = open_builder(&text);
    if (code == EXIT_DONE) {
        cli_reader_init(&text.reader, cli, &text.input);
        code = add_records(&text);
    }
    cli_progress_end(&text.sealing.progress);
    if (code == EXIT_DONE && cli_is_stopped()) {
        cli_message("stopped by a signal: no table was written");
        code = EXIT_FAILED;
    }
    if (code == EXIT_DONE)
        code = finish(&text);
    km_sealed_builder_abort(text.builder);
    cli_reader_fini(&text.reader);
    cli_input_close(&text.input);
    return code;
}
