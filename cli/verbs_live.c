/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_live.c -- a store while another process writes it: follow, top.
 *
 * I1. On a terminal top hides the cursor only while it draws or waits; it is shown again before the
 *     tool ends, for whatever reason it can catch, and before it is suspended.
 * I2. A line never wraps: it is cut to the terminal's width. No other output is cut.
 */
#include "cli.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    INTERVAL_DEFAULT_MS = 1000,
    WIDTH_DEFAULT = 80,
    WIDTH_MAX = 400,
    BAR_SIZE_MAX = 60,
    BAR_SIZE_MIN = 10,
    BAR_NEIGHBOURS = 50, /* columns beside the bar on its line */
    LINE_SIZE = 4 * WIDTH_MAX,
    FIGURE_TEXT_MAX = 32
};

static uint64_t interval_ms(const struct cli *cli)
{
    return cli->settings.interval_ms ? cli->settings.interval_ms : INTERVAL_DEFAULT_MS;
}

/* The statistics by now; those of before where nothing can have changed. */
static int update_stats(struct live *live, km_stats *stats)
{
    int code = cli_live_reopen(live);

    if (code == EXIT_DONE && live->store)
        code = cli_get_stats(live->store, stats);
    if (code == EXIT_DONE && live->store && !stats->is_follower)
        cli_live_let_go(live);
    return code;
}

/* Whether one more is to be printed after `count`; waits for its time. */
static int wait_for_next(struct cli *cli, uint64_t count)
{
    if (cli->settings.limit_count && count >= cli->settings.limit_count)
        return 0;
    cli_pause(interval_ms(cli));
    return !cli_is_stopped() && !cli_output_is_gone(cli);
}

/* ---- follow -------------------------------------------------------------------------------- */

int cli_run_follow(struct cli *cli)
{
    struct live live;
    km_stats stats;
    uint64_t count = 0;
    int code;

    cli_catch_signals();
    code = cli_live_open(&live, cli);
    if (code)
        return code;
    do {
        code = update_stats(&live, &stats);
        if (code)
            break;
        if (count++ && cli->settings.value_format != VALUE_JSON)
            cli_write(cli, "\n", 1);
        cli_print_stats(cli, &stats);
        cli_flush(cli);
    } while (wait_for_next(cli, count));
    return cli_live_close(&live, code);
}

/* ---- top: figures -------------------------------------------------------------------------- */

/* The statistics of a moment. */
struct moment {
    km_stats stats;
    uint64_t ns;
};

/* What top shows. */
struct screen {
    struct cli *cli;
    int live; /* a terminal that is drawn over; otherwise frames follow one another */
    size_t width;
    size_t height; /* 0: any */
    size_t line_count;
    struct moment now;
    struct moment before; /* ns is 0 in the first frame: there are no rates yet */
};

static const char *size_text(double size, char text[FIGURE_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;

    while (size >= 1024 && unit < 5) {
        size /= 1024;
        unit++;
    }
    snprintf(text, FIGURE_TEXT_MAX, unit ? "%.1f %s" : "%.0f %s", size, units[unit]);
    return text;
}

/*
 * About how many bytes lie between two places of the log. A position is a segment's number and an
 * offset in it (FORMAT.md, 1): exact within a segment, else by the mean size of the segments.
 */
static double bytes_between(const km_stats *stats, km_position from, km_position to)
{
    double segment_size = 0;
    double size;

    if (to <= from)
        return 0;
    if (stats->segment_count)
        segment_size = (double)stats->log_bytes / (double)stats->segment_count;
    size = (double)((to >> 32) - (from >> 32)) * segment_size + (double)(uint32_t)to -
           (double)(uint32_t)from;
    return size > 0 ? size : 0;
}

/* The change of a figure in a second; a follower's may also go down. */
static double rate_of(const struct screen *screen, uint64_t now, uint64_t before)
{
    double seconds = (double)(screen->now.ns - screen->before.ns) / 1e9;

    if (screen->before.ns == 0 || seconds <= 0)
        return 0;
    return ((double)now - (double)before) / seconds;
}

static double written_rate(const struct screen *screen)
{
    const km_stats *now = &screen->now.stats;
    double seconds = (double)(screen->now.ns - screen->before.ns) / 1e9;

    if (screen->before.ns == 0 || seconds <= 0)
        return 0;
    return bytes_between(now, screen->before.stats.tail, now->tail) / seconds;
}

/* ---- top: lines ---------------------------------------------------------------------------- */

/* Bytes of the first `width` characters of a text. */
static size_t clipped_size(const char *text, size_t size, size_t width)
{
    size_t at = 0;

    while (at < size && width > 0) {
        size_t length = cli_utf8_size((const unsigned char *)text + at, size - at);
        at += length ? length : 1;
        width--;
    }
    return at;
}

static void show_line(struct screen *screen, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void show_line(struct screen *screen, const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;
    size_t size;

    if (screen->height && screen->line_count + 1 >= screen->height)
        return; /* the last row stays free: a newline in it would scroll */
    screen->line_count++;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    size = strlen(line);
    if (screen->live) {
        size = clipped_size(line, size, screen->width);
        cli_write_string(screen->cli, "\033[K"); /* before a full line: its end would go with it */
    }
    cli_write(screen->cli, line, size);
    cli_write(screen->cli, "\n", 1);
}

/* The log's composition, as many characters of each kind as its share of the bytes. */
static void draw_bar(const struct screen *screen, char bar[BAR_SIZE_MAX + 1])
{
    static const char marks[] = "#=-~";
    const km_stats *stats = &screen->now.stats;
    const uint64_t parts[] = {stats->live_bytes, stats->dead_bytes, stats->emptied_bytes,
                              stats->pinned_bytes};
    size_t size = screen->width > BAR_NEIGHBOURS ? screen->width - BAR_NEIGHBOURS : 0;
    double total = 0;
    double sum = 0;
    size_t at = 0;
    int i;

    size = size < BAR_SIZE_MIN ? BAR_SIZE_MIN : size > BAR_SIZE_MAX ? BAR_SIZE_MAX : size;
    for (i = 0; i < 4; i++)
        total += (double)parts[i];
    for (i = 0; i < 4 && total > 0; i++) {
        sum += (double)parts[i];
        while (at < size && (double)at + 0.5 < sum / total * (double)size)
            bar[at++] = marks[i];
    }
    while (at < size)
        bar[at++] = '.';
    bar[at] = '\0';
}

static void show_changes(struct screen *screen)
{
    const km_stats *stats = &screen->now.stats;
    const km_stats *before = &screen->before.stats;
    char a[FIGURE_TEXT_MAX];
    char b[FIGURE_TEXT_MAX];

    show_line(screen, "keys     %llu in %llu maps, %+.0f/s", (unsigned long long)stats->key_count,
              (unsigned long long)stats->map_count,
              rate_of(screen, stats->key_count, before->key_count));
    show_line(screen, "changes  %s/s written", size_text(written_rate(screen), a));
    show_line(screen, "lag      %s not yet in files, %s not yet synced",
              size_text(bytes_between(stats, stats->flushed, stats->tail), a),
              size_text(bytes_between(stats, stats->durable, stats->tail), b));
    show_line(screen, "syncs    %llu, %.1f/s; %llu changes waited, %.1f ms at most",
              (unsigned long long)stats->sync_count,
              rate_of(screen, stats->sync_count, before->sync_count),
              (unsigned long long)stats->wait_count, (double)stats->wait_longest_ns / 1e6);
}

static void show_log(struct screen *screen)
{
    const km_stats *stats = &screen->now.stats;
    char bar[BAR_SIZE_MAX + 1];
    char a[FIGURE_TEXT_MAX];
    char b[FIGURE_TEXT_MAX];
    char c[FIGURE_TEXT_MAX];
    char d[FIGURE_TEXT_MAX];

    draw_bar(screen, bar);
    show_line(screen, "log      [%s] %s in %llu segments", bar,
              size_text((double)stats->log_bytes, a), (unsigned long long)stats->segment_count);
    show_line(screen, "         # live %s  = dead %s  - emptied %s  ~ pinned %s",
              size_text((double)stats->live_bytes, a), size_text((double)stats->dead_bytes, b),
              size_text((double)stats->emptied_bytes, c),
              size_text((double)stats->pinned_bytes, d));
    show_line(screen, "disk     %s", size_text((double)stats->disk_bytes, a));
    show_line(screen, "memory   index %s, segments %s, mapped %s",
              size_text((double)stats->index_bytes, a), size_text((double)stats->memory_bytes, b),
              size_text((double)stats->mapped_bytes, c));
}

static void show_upkeep(struct screen *screen)
{
    const km_stats *stats = &screen->now.stats;
    const km_stats *before = &screen->before.stats;
    char a[FIGURE_TEXT_MAX];
    char b[FIGURE_TEXT_MAX];

    show_line(screen, "compact  %s moved, %s/s; %llu segments freed",
              size_text((double)stats->compacted_bytes, a),
              size_text(rate_of(screen, stats->compacted_bytes, before->compacted_bytes), b),
              (unsigned long long)stats->freed_segments);
    show_line(screen, "image    %s, %llu written; replay after a crash: %s",
              size_text((double)stats->image_bytes, a), (unsigned long long)stats->image_count,
              size_text((double)stats->replay_bytes, b));
    show_line(screen, "health   %llu damaged, %s scrubbed%s",
              (unsigned long long)stats->damage_count, size_text((double)stats->scrubbed_bytes, a),
              stats->failed ? ", A WRITE FAILED: changes are refused" : "");
    if (stats->snapshot_count == 0)
        return;
    show_line(screen, "snapshot %llu open, the oldest for %.1f s; %s of index kept for them",
              (unsigned long long)stats->snapshot_count, (double)stats->snapshot_age_ms / 1e3,
              size_text((double)stats->snapshot_bytes, a));
}

/* ---- top: frames --------------------------------------------------------------------------- */

static void measure(struct screen *screen)
{
    struct winsize size;

    screen->width = WIDTH_DEFAULT;
    screen->height = 0;
    if (!screen->live || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return;
    screen->width = size.ws_col < WIDTH_MAX ? size.ws_col : WIDTH_MAX;
    screen->height = size.ws_row;
}

static void show_frame(struct screen *screen, int is_first)
{
    char quoted[QUOTED_MAX];

    measure(screen);
    screen->line_count = 0;
    if (screen->live) {
        cli_write_string(screen->cli, is_first ? "\033[?25l\033[2J\033[H" : "\033[?25l\033[H");
    } else if (!is_first) {
        cli_write(screen->cli, "\n", 1);
    }
    cli_quote(km_bytes_of_string(screen->cli->arguments[0]), quoted);
    show_line(screen, "store    %s, %s", quoted,
              screen->now.stats.is_follower ? "written by another process"
                                            : "not open for writing elsewhere");
    show_changes(screen);
    show_log(screen);
    show_upkeep(screen);
    if (screen->live)
        cli_write_string(screen->cli, "\033[J"); /* what a taller frame left */
    cli_flush(screen->cli);
}

static void show_cursor(struct screen *screen)
{
    if (!screen->live)
        return;
    cli_write_string(screen->cli, "\033[?25h");
    cli_flush(screen->cli);
}

static int is_live(const struct cli *cli)
{
    const char *terminal = getenv("TERM");

    return cli->output_is_terminal && terminal && strcmp(terminal, "dumb") != 0;
}

static void suspend(struct screen *screen)
{
    show_cursor(screen);
    raise(SIGSTOP);
}

static int show_frames(struct cli *cli, struct live *live)
{
    struct screen screen = {.cli = cli, .live = is_live(cli)};
    uint64_t count = 0;
    int is_first = 1;
    int code;

    if (screen.live)
        cli_catch_suspend();
    do {
        screen.before = screen.now;
        screen.now.ns = cli_now_ns();
        code = update_stats(live, &screen.now.stats);
        if (code)
            break;
        show_frame(&screen, is_first);
        is_first = cli_take_suspend();
        if (is_first)
            suspend(&screen); /* the shell writes over the frame: begin anew */
        count++;
    } while (wait_for_next(cli, count));
    show_cursor(&screen);
    return code;
}

int cli_run_top(struct cli *cli)
{
    struct live live;
    int code;

    cli_catch_signals();
    code = cli_live_open(&live, cli);
    if (code)
        return code;
    cli->settings.quiet = 1; /* the frame tells of writers: nothing is to be printed into it */
    code = show_frames(cli, &live);
    return cli_live_close(&live, code);
}
