/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_report.c -- the tables of the benchmark of sealed tables: medians over rounds, and of
 * ratios the median over those of each round.
 */
#include "sealed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

const char *const sealed_figure_names[FIGURE_COUNT] = {
    [FIGURE_SORTED_NS] = "sorted_ns",
    [FIGURE_SORTED_CPU_NS] = "sorted_cpu_ns",
    [FIGURE_SORTED_PEAK_MIB] = "sorted_peak_mib",
    [FIGURE_SORTED_ANON_MIB] = "sorted_anonymous_mib",
    [FIGURE_SORTED_FILE] = "sorted_file",
    [FIGURE_RANDOM_NS] = "random_ns",
    [FIGURE_RANDOM_CPU_NS] = "random_cpu_ns",
    [FIGURE_RANDOM_PEAK_MIB] = "random_peak_mib",
    [FIGURE_RANDOM_ANON_MIB] = "random_anonymous_mib",
    [FIGURE_RANDOM_FILE] = "random_file",
    [FIGURE_COLD_OPEN_MS] = "cold_open_ms",
    [FIGURE_COLD_OPEN_MIB] = "cold_open_mib",
    [FIGURE_COLD_GET_NS] = "cold_get_ns",
    [FIGURE_COLD_GET_READS] = "cold_get_reads",
    [FIGURE_COLD_GET_KIB] = "cold_get_kib",
    [FIGURE_COLD_MANY_NS] = "cold_many_ns",
    [FIGURE_COLD_MANY_READS] = "cold_many_reads",
    [FIGURE_COLD_MANY_KIB] = "cold_many_kib",
    [FIGURE_COLD_ABSENT_NS] = "cold_absent_ns",
    [FIGURE_COLD_ABSENT_READS] = "cold_absent_reads",
    [FIGURE_COLD_ABSENT_KIB] = "cold_absent_kib",
    [FIGURE_COLD_SCAN_GBS] = "cold_scan_gbs",
    [FIGURE_GET_NS] = "get_ns",
    [FIGURE_MANY_NS] = "many_ns",
    [FIGURE_ABSENT_NS] = "absent_ns",
    [FIGURE_SCAN_GBS] = "scan_gbs",
    [FIGURE_WARM_MIB] = "warm_mib",
    [FIGURE_DEVICE_DEEP_NS] = "device_deep_ns",
    [FIGURE_DEVICE_ALONE_NS] = "device_alone_ns",
    [FIGURE_WRONG] = "wrong",
};

struct report {
    const struct sealed_results *results;
    unsigned count;
    unsigned round_count;
    uint64_t record_count;
    const struct sealed_results *keepmap; /* NULL: not among them */
};

/* ---- medians ------------------------------------------------------------------------------ */

struct spread {
    double median, low, high; /* below 0: nothing was measured */
};

static int compare_doubles(const void *left, const void *right)
{
    double l = *(const double *)left;
    double r = *(const double *)right;

    return (l > r) - (l < r);
}

static struct spread spread_of(double *values, unsigned count)
{
    if (!count)
        return (struct spread){-1, -1, -1};
    qsort(values, count, sizeof(*values), compare_doubles);
    return (struct spread){(values[(count - 1) / 2] + values[count / 2]) / 2, values[0],
                           values[count - 1]};
}

static struct spread figure_of(const struct report *report, const struct sealed_results *results,
                               enum sealed_figure figure)
{
    double values[SEALED_ROUND_MAX];
    unsigned count = 0;
    unsigned i;

    for (i = 0; i < report->round_count; i++) {
        if (results && results->values[figure][i] >= 0)
            values[count++] = results->values[figure][i];
    }
    return spread_of(values, count);
}

/* Of a figure of one store to one of another, in the same round each. */
static double ratio_of(const struct report *report, const double *above, const double *below)
{
    double values[SEALED_ROUND_MAX];
    unsigned count = 0;
    unsigned i;

    for (i = 0; i < report->round_count; i++) {
        if (above[i] >= 0 && below[i] > 0)
            values[count++] = above[i] / below[i];
    }
    return spread_of(values, count).median;
}

/* How many times as fast as a store Keepmap is. */
static double times_keepmap(const struct report *report, const struct sealed_results *results,
                            enum sealed_figure figure)
{
    const double *own;

    if (!report->keepmap)
        return -1;
    own = report->keepmap->values[figure];
    if (figure == FIGURE_SCAN_GBS || figure == FIGURE_COLD_SCAN_GBS)
        return ratio_of(report, own, results->values[figure]);
    return ratio_of(report, results->values[figure], own);
}

/* ---- cells -------------------------------------------------------------------------------- */

static void print_cell(double value, unsigned decimals)
{
    if (value < 0)
        printf("\t-");
    else
        printf("\t%.*f", (int)decimals, value);
}

static void print_median(const struct report *report, const struct sealed_results *results,
                         enum sealed_figure figure, double unit, unsigned decimals)
{
    print_cell(figure_of(report, results, figure).median / unit, decimals);
}

static void print_spread(const struct report *report, const struct sealed_results *results,
                         enum sealed_figure figure, double unit, unsigned decimals)
{
    struct spread spread = figure_of(report, results, figure);

    print_cell(spread.median / unit, decimals);
    print_cell(spread.low / unit, decimals);
    print_cell(spread.high / unit, decimals);
    print_cell(times_keepmap(report, results, figure), 2);
}

static int has_figure(const struct report *report, const struct sealed_results *results,
                      enum sealed_figure figure)
{
    return figure_of(report, results, figure).median >= 0;
}

/* ---- tables ------------------------------------------------------------------------------- */

static void print_columns(void)
{
    static const char *const builds[] = {"sorted", "random"};
    unsigned i;

    for (i = 0; i < 2; i++) {
        printf("columns\t%s\tstore\tns a record\tlow\thigh\tx keepmap\tCPU ns\tpeak MiB\t"
               "anonymous MiB\tfile/payload\n",
               builds[i]);
    }
    printf("columns\tcold get\tstore\tus a get\tlow\thigh\tx keepmap\treads\tKiB\n"
           "columns\tcold get_many\tstore\tus a key\tlow\thigh\tx keepmap\treads\tKiB\tx device\n"
           "columns\tcold else\tstore\topen ms\topen MiB\tabsent us\treads\tKiB\tscan GB/s\t"
           "x keepmap\n"
           "columns\twarm\tstore\tget ns\tlow\thigh\tx keepmap\tget_many ns\tlow\thigh\t"
           "x keepmap\n"
           "columns\twarm else\tstore\tabsent ns\tlow\thigh\tx keepmap\tscan GB/s\tlow\thigh\t"
           "x keepmap\tMiB\n"
           "columns\tdevice\tunder way\tus a read\treads/s\n"
           "columns\tanswers\tstore\twrong\tfailed\n"
           "columns\tgoals\tgoal\tmeasured\twanted\theld\n");
}

static void print_build(const struct report *report, const struct sealed_results *results,
                        const char *table, enum sealed_figure first)
{
    if (!has_figure(report, results, first))
        return;
    printf("%s\t%s", table, results->peer->name);
    print_spread(report, results, first, 1, 1);
    print_median(report, results, first + 1, 1, 1);
    print_median(report, results, first + 2, 1, 1);
    print_median(report, results, first + 3, 1, 1);
    print_median(report, results, first + 4, 1, 3);
    printf("\n");
}

static double times_device(const struct report *report, const struct sealed_results *results)
{
    if (!report->keepmap)
        return -1;
    return ratio_of(report, results->values[FIGURE_COLD_MANY_NS],
                    report->keepmap->values[FIGURE_DEVICE_DEEP_NS]);
}

static void print_cold(const struct report *report, const struct sealed_results *results)
{
    if (!has_figure(report, results, FIGURE_COLD_SCAN_GBS))
        return;
    printf("cold get\t%s", results->peer->name);
    print_spread(report, results, FIGURE_COLD_GET_NS, 1e3, 1);
    print_median(report, results, FIGURE_COLD_GET_READS, 1, 3);
    print_median(report, results, FIGURE_COLD_GET_KIB, 1, 2);
    printf("\ncold get_many\t%s", results->peer->name);
    print_spread(report, results, FIGURE_COLD_MANY_NS, 1e3, 1);
    print_median(report, results, FIGURE_COLD_MANY_READS, 1, 3);
    print_median(report, results, FIGURE_COLD_MANY_KIB, 1, 2);
    print_cell(times_device(report, results), 2);
    printf("\ncold else\t%s", results->peer->name);
    print_median(report, results, FIGURE_COLD_OPEN_MS, 1, 1);
    print_median(report, results, FIGURE_COLD_OPEN_MIB, 1, 1);
    print_median(report, results, FIGURE_COLD_ABSENT_NS, 1e3, 2);
    print_median(report, results, FIGURE_COLD_ABSENT_READS, 1, 4);
    print_median(report, results, FIGURE_COLD_ABSENT_KIB, 1, 3);
    print_median(report, results, FIGURE_COLD_SCAN_GBS, 1, 3);
    print_cell(times_keepmap(report, results, FIGURE_COLD_SCAN_GBS), 2);
    printf("\n");
}

static void print_warm(const struct report *report, const struct sealed_results *results)
{
    if (!has_figure(report, results, FIGURE_SCAN_GBS))
        return;
    printf("warm\t%s", results->peer->name);
    print_spread(report, results, FIGURE_GET_NS, 1, 1);
    print_spread(report, results, FIGURE_MANY_NS, 1, 1);
    printf("\nwarm else\t%s", results->peer->name);
    print_spread(report, results, FIGURE_ABSENT_NS, 1, 1);
    print_spread(report, results, FIGURE_SCAN_GBS, 1, 3);
    print_median(report, results, FIGURE_WARM_MIB, 1, 1);
    printf("\n");
}

static void print_device(const struct report *report)
{
    double deep = figure_of(report, report->keepmap, FIGURE_DEVICE_DEEP_NS).median;
    double alone = figure_of(report, report->keepmap, FIGURE_DEVICE_ALONE_NS).median;

    if (deep > 0)
        printf("device\t64\t%.2f\t%.0f\n", deep / 1e3, 1e9 / deep);
    if (alone > 0)
        printf("device\t1\t%.2f\t%.0f\n", alone / 1e3, 1e9 / alone);
}

/* ---- goals -------------------------------------------------------------------------------- */

static void print_goal(const char *goal, double measured, const char *wanted, double bound)
{
    int is_least = *wanted == '>';

    if (measured < 0)
        return;
    printf("goals\t%s\t%.2f\t%s\t%s\n", goal, measured, wanted,
           (is_least ? measured >= bound : measured <= bound) ? "yes" : "NO");
}

/* How many times as fast as the fastest of those that build tables in key order Keepmap is; of all
 * others, where `any` says so. */
static double times_fastest(const struct report *report, enum sealed_figure figure, int any,
                            const char **out_name)
{
    const struct sealed_results *results;
    double least = -1;
    double times;
    unsigned i;

    for (i = 0; i < report->count; i++) {
        results = &report->results[i];
        if (results == report->keepmap || results->peer->is_baseline ||
            !(any || results->peer->must_sort))
            continue;
        times = times_keepmap(report, results, figure);
        if (times >= 0 && (least < 0 || times < least)) {
            least = times;
            *out_name = results->peer->name;
        }
    }
    return least;
}

static double times_rocksdb(const struct report *report, enum sealed_figure figure)
{
    unsigned i;

    for (i = 0; i < report->count; i++) {
        if (!strcmp(report->results[i].peer->name, "rocksdb"))
            return times_keepmap(report, &report->results[i], figure);
    }
    return -1;
}

static void print_build_goals(const struct report *report)
{
    const char *name = "";
    char goal[128];
    double value;

    value = times_fastest(report, FIGURE_SORTED_NS, 1, &name);
    snprintf(goal, sizeof(goal), "sorted build, x the fastest peer (%s)", name);
    print_goal(goal, value, "> 1", 1);
    value = times_fastest(report, FIGURE_RANDOM_NS, 0, &name);
    snprintf(goal, sizeof(goal), "random build, x the fastest peer that sorts (%s)", name);
    print_goal(goal, value, ">= 2", 2);
}

static void print_goals(const struct report *report)
{
    const struct sealed_results *keepmap = report->keepmap;
    double value;

    if (!keepmap)
        return;
    print_build_goals(report);
    /* the least of all rounds: other programs' reads can only add to it */
    print_goal("cold get, reads of the device",
               figure_of(report, keepmap, FIGURE_COLD_GET_READS).low, "1", 1.02);
    print_goal("cold get, KiB read", figure_of(report, keepmap, FIGURE_COLD_GET_KIB).median, "4",
               4.08);
    print_goal("cold get_many, x rocksdb", times_rocksdb(report, FIGURE_COLD_MANY_NS), ">= 5", 5);
    print_goal("cold get_many, x the device's time for as many reads",
               times_device(report, keepmap), "<= 1.3", 1.3);
    print_goal("warm get, ns", figure_of(report, keepmap, FIGURE_GET_NS).median, "<= 400", 400);
    print_goal("warm get_many, ns a key", figure_of(report, keepmap, FIGURE_MANY_NS).median,
               "<= 150", 150);
    print_goal("warm scan, GB/s", figure_of(report, keepmap, FIGURE_SCAN_GBS).median, ">= 1", 1);
    value = figure_of(report, keepmap, FIGURE_COLD_OPEN_MIB).median;
    print_goal("memory of an open table, bytes a key",
               value < 0 ? -1 : value * (1u << 20) / (double)report->record_count, "<= 2", 2);
}

void sealed_report(const struct sealed_results *results, unsigned count, unsigned round_count,
                   uint64_t record_count)
{
    struct report report = {results, count, round_count, record_count, NULL};
    unsigned i;

    for (i = 0; i < count; i++) {
        if (!strcmp(results[i].peer->name, "keepmap"))
            report.keepmap = &results[i];
    }
    print_columns();
    for (i = 0; i < count; i++) {
        print_build(&report, &results[i], "sorted", FIGURE_SORTED_NS);
        print_build(&report, &results[i], "random", FIGURE_RANDOM_NS);
        print_cold(&report, &results[i]);
        print_warm(&report, &results[i]);
        printf("answers\t%s\t%" PRIu64 "\t%s\n", results[i].peer->name, results[i].wrong_count,
               results[i].failed ? "YES" : "no");
    }
    print_device(&report);
    print_goals(&report);
}
