/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_store.c -- a store as a whole: stat, verify, scrub, salvage, compact.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

/* ---- stat ---------------------------------------------------------------------------------- */

struct figure {
    const char *name;
    size_t offset; /* of a uint64_t in km_stats */
};

#define FIGURE(field)                                                                              \
    {                                                                                              \
#field, offsetof(km_stats, field)                                                          \
    }
static const struct figure figures[] = {
    FIGURE(map_count),
    FIGURE(key_count),
    FIGURE(log_bytes),
    FIGURE(live_bytes),
    FIGURE(segment_count),
    FIGURE(disk_bytes),
    FIGURE(index_bytes),
    FIGURE(memory_bytes),
    FIGURE(mapped_bytes),
    FIGURE(head),
    FIGURE(tail),
    FIGURE(flushed),
    FIGURE(durable),
    FIGURE(sync_count),
    FIGURE(wait_count),
    FIGURE(wait_longest_ns),
    FIGURE(recovered_records),
    FIGURE(recovered_ns),
    FIGURE(torn_bytes),
    FIGURE(failed),
    FIGURE(dead_bytes),
    FIGURE(emptied_bytes),
    FIGURE(pinned_bytes),
    FIGURE(compacted_bytes),
    FIGURE(freed_segments),
    FIGURE(image_count),
    FIGURE(image_bytes),
    FIGURE(replay_bytes),
    FIGURE(scrubbed_bytes),
    FIGURE(damage_count),
    FIGURE(is_follower),
    FIGURE(snapshot_count),
    FIGURE(snapshot_age_ms),
    FIGURE(snapshot_bytes),
    FIGURE(expired_count),
    FIGURE(attached_count),
    FIGURE(attached_bytes),
    FIGURE(attached_memory_bytes),
};
enum { FIGURE_COUNT = sizeof(figures) / sizeof(figures[0]) };

static int is_json(const struct cli *cli)
{
    return cli->settings.value_format == VALUE_JSON;
}

void cli_print_figure(struct cli *cli, int is_first, const char *name, uint64_t number)
{
    if (is_json(cli)) {
        cli_print(cli, "%s\"%s\":%llu", is_first ? "{" : ",", name, (unsigned long long)number);
    } else {
        cli_print(cli, "%s: %llu\n", name, (unsigned long long)number);
    }
}

static void print_figures(struct cli *cli, int is_first, const km_stats *stats)
{
    uint64_t number;
    int i;

    for (i = 0; i < FIGURE_COUNT; i++) {
        memcpy(&number, (const char *)stats + figures[i].offset, sizeof(number));
        cli_print_figure(cli, is_first && i == 0, figures[i].name, number);
    }
}

void cli_end_figures(struct cli *cli)
{
    if (is_json(cli))
        cli_write(cli, "}\n", 2);
}

void cli_print_stats(struct cli *cli, const km_stats *stats)
{
    print_figures(cli, 1, stats);
    cli_end_figures(cli);
}

int cli_get_stats(km_store *store, km_stats *out_stats)
{
    km_stats stats;
    km_status rc;

    memset(&stats, 0, sizeof(stats));
    stats.struct_size = sizeof(stats);
    rc = km_store_stats(store, &stats);
    if (rc)
        return cli_fail_in_store(store, rc, "get the statistics");
    *out_stats = stats;
    return EXIT_DONE;
}

static void print_inspection(struct cli *cli, const km_inspection *inspection)
{
    cli_print_figure(cli, 1, "is_open", inspection->is_open != 0);
    if (inspection->is_open)
        return; /* its writer knows the rest: it is in the statistics */
    cli_print_figure(cli, 0, "needs_recovery", inspection->needs_recovery != 0);
    cli_print_figure(cli, 0, "recovery_replay_bytes", inspection->replay_bytes);
    cli_print_figure(cli, 0, "recovery_image_bytes", inspection->image_bytes);
    if (cli->settings.closed)
        cli_print_figure(cli, 0, "log_bytes", inspection->log_bytes);
}

/* Look first: opening a store may change what the next open has to do. */
int cli_run_stat(struct cli *cli)
{
    km_inspection inspection = {.struct_size = sizeof(inspection)};
    km_store *store = NULL;
    km_stats stats;
    km_error error;
    km_status rc;
    int code;

    memset(&error, 0, sizeof(error));
    rc = km_inspect(cli->arguments[0], &inspection, &error);
    if (rc)
        return cli_fail_at(cli->arguments[0], rc, &error);
    print_inspection(cli, &inspection);
    if (cli->settings.closed) {
        cli_end_figures(cli);
        return EXIT_DONE;
    }
    code = cli_open(cli, KM_OPEN_READ_ONLY, &store);
    if (code == EXIT_DONE)
        code = cli_get_stats(store, &stats);
    if (code == EXIT_DONE)
        print_figures(cli, 0, &stats);
    if (code == EXIT_DONE)
        code = cli_print_attached(cli, store);
    cli_end_figures(cli);
    return cli_close(store, code);
}

/* ---- verify, scrub, salvage ------------------------------------------------------------------ */

/* A finding is a result: it goes to stdout, one line. */
static void print_finding(void *context, const km_error *finding)
{
    struct cli *cli = context;

    cli_write_escaped(cli, km_bytes_of_string(finding->message));
    if (finding->file[0] && strstr(finding->message, finding->file) == NULL) {
        cli_print(cli, " (");
        cli_write_escaped(cli, km_bytes_of_string(finding->file));
        cli_print(cli, ", offset %llu)", (unsigned long long)finding->offset);
    }
    cli_write(cli, "\n", 1);
}

static void print_check(struct cli *cli, const km_check_result *result)
{
    cli_print(cli, "segments: %llu\nrecords: %llu\ndamaged: %llu\ntorn_bytes: %llu\n",
              (unsigned long long)result->segment_count, (unsigned long long)result->record_count,
              (unsigned long long)result->finding_count, (unsigned long long)result->torn_bytes);
}

/* The exit code of a check that came to `status`; damage is told. */
static int end_check(struct cli *cli, km_status status, const km_check_result *result)
{
    if (status == KM_OK || status == KM_E_CORRUPT)
        print_check(cli, result);
    if (status != KM_E_CORRUPT)
        return cli_exit_code(status);
    cli_message("%s is damaged: restore a backup, or copy what is whole with `keepmap salvage`",
                cli->arguments[0]);
    return EXIT_CORRUPT;
}

int cli_run_verify(struct cli *cli)
{
    km_check_result result;
    km_error error;
    km_status rc;

    memset(&result, 0, sizeof(result));
    memset(&error, 0, sizeof(error));
    rc = km_verify(cli->arguments[0], print_finding, cli, &result, &error);
    if (rc && rc != KM_E_CORRUPT)
        return cli_fail_at(cli->arguments[0], rc, &error);
    return end_check(cli, rc, &result);
}

/* A scrub may take hours: each finding is passed on at once. */
static void pass_finding(void *context, const km_error *finding)
{
    print_finding(context, finding);
    cli_flush(context);
}

int cli_run_scrub(struct cli *cli)
{
    km_store *store = NULL;
    km_check_result result;
    km_status rc;
    int code = cli_open(cli, KM_OPEN_READ_ONLY, &store);

    if (code)
        return code;
    memset(&result, 0, sizeof(result));
    rc = km_scrub(store, cli->settings.rate, pass_finding, cli, &result);
    if (rc && rc != KM_E_CORRUPT) {
        code = cli_fail_in_store(store, rc, "scrub");
    } else {
        code = end_check(cli, rc, &result);
    }
    return cli_close(store, code);
}

int cli_run_salvage(struct cli *cli)
{
    km_check_result result;
    km_error error;
    km_status rc;

    memset(&result, 0, sizeof(result));
    memset(&error, 0, sizeof(error));
    rc = km_salvage(cli->arguments[0], cli->arguments[1], print_finding, cli, &result, &error);
    if (rc)
        return cli_fail_at(cli->arguments[0], rc, &error);
    print_check(cli, &result);
    cli_print(cli, "copied: %llu\n", (unsigned long long)result.copied_count);
    return EXIT_DONE;
}

/* ---- compact ------------------------------------------------------------------------------- */

static int compact_store(struct cli *cli, km_store *store)
{
    struct progress progress;
    km_error error;
    km_status rc;

    memset(&error, 0, sizeof(error));
    cli_progress_begin(cli, &progress, "compacting");
    rc = km_compact(store, cli_progress_show, &progress, &error);
    cli_progress_end(&progress);
    return rc ? cli_fail(rc, &error) : EXIT_DONE;
}

static void print_compacted(struct cli *cli, const km_stats *before, const km_stats *after)
{
    cli_print_figure(cli, 1, "log_bytes_before", before->log_bytes);
    cli_print_figure(cli, 0, "log_bytes_after", after->log_bytes);
    cli_print_figure(cli, 0, "disk_bytes_before", before->disk_bytes);
    cli_print_figure(cli, 0, "disk_bytes_after", after->disk_bytes);
    cli_end_figures(cli);
}

int cli_run_compact(struct cli *cli)
{
    km_store *store = NULL;
    km_stats before;
    km_stats after;
    int code;

    cli_catch_signals();
    code = cli_open(cli, KM_OPEN_EXISTING, &store);
    if (code == EXIT_DONE)
        code = cli_get_stats(store, &before);
    if (code == EXIT_DONE)
        code = compact_store(cli, store);
    if (code == EXIT_DONE)
        code = cli_get_stats(store, &after);
    if (code == EXIT_DONE)
        print_compacted(cli, &before, &after);
    return cli_close(store, code);
}
