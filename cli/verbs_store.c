/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_store.c -- a store as a whole: stat, verify, salvage.
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
    FIGURE(map_count),         FIGURE(key_count),    FIGURE(log_bytes),   FIGURE(live_bytes),
    FIGURE(segment_count),     FIGURE(disk_bytes),   FIGURE(index_bytes), FIGURE(memory_bytes),
    FIGURE(mapped_bytes),      FIGURE(head),         FIGURE(tail),        FIGURE(flushed),
    FIGURE(durable),           FIGURE(sync_count),   FIGURE(wait_count),  FIGURE(wait_longest_ns),
    FIGURE(recovered_records), FIGURE(recovered_ns), FIGURE(torn_bytes),  FIGURE(failed),
};
enum { FIGURE_COUNT = sizeof(figures) / sizeof(figures[0]) };

static void print_stats(struct cli *cli, const km_stats *stats)
{
    const char *pattern = cli->settings.value_format == VALUE_JSON ? "%s\"%s\":%llu" : "%s%s: %llu";
    const char *between = cli->settings.value_format == VALUE_JSON ? "," : "\n";
    uint64_t number;
    int i;

    if (cli->settings.value_format == VALUE_JSON)
        cli_write(cli, "{", 1);
    for (i = 0; i < FIGURE_COUNT; i++) {
        memcpy(&number, (const char *)stats + figures[i].offset, sizeof(number));
        cli_print(cli, pattern, i ? between : "", figures[i].name, (unsigned long long)number);
    }
    if (cli->settings.value_format == VALUE_JSON)
        cli_write(cli, "}", 1);
    cli_write(cli, "\n", 1);
}

int cli_run_stat(struct cli *cli)
{
    km_store *store = NULL;
    km_stats stats;
    km_status rc;
    int code = cli_open(cli, KM_OPEN_READ_ONLY, &store);

    if (code)
        return code;
    memset(&stats, 0, sizeof(stats));
    stats.struct_size = sizeof(stats);
    rc = km_store_stats(store, &stats);
    if (rc) {
        code = cli_fail_in_store(store, rc, "get the statistics");
    } else {
        print_stats(cli, &stats);
    }
    return cli_close(store, code);
}

/* ---- verify and salvage -------------------------------------------------------------------- */

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

int cli_run_verify(struct cli *cli)
{
    km_check_result result;
    km_error error;
    km_status rc;

    memset(&result, 0, sizeof(result));
    memset(&error, 0, sizeof(error));
    rc = km_verify(cli->arguments[0], print_finding, cli, &result, &error);
    if (rc == KM_OK || rc == KM_E_CORRUPT)
        print_check(cli, &result);
    if (rc == KM_OK)
        return EXIT_DONE;
    if (rc == KM_E_CORRUPT) {
        cli_message("%s is damaged: restore a backup, or copy what is whole with `keepmap salvage`",
                    cli->arguments[0]);
        return EXIT_CORRUPT;
    }
    return cli_fail(rc, &error);
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
        return cli_fail(rc, &error);
    print_check(cli, &result);
    cli_print(cli, "copied: %llu\n", (unsigned long long)result.copied_count);
    return EXIT_DONE;
}
