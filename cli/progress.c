/* SPDX-License-Identifier: Apache-2.0
 *
 * progress.c -- a bar on stderr for work that takes over a second; or, where --progress asks for it
 * and stderr is no terminal, a line each second from the beginning.
 */
#include "cli.h"

#include <stdio.h>
#include <time.h>

enum { BAR_WIDTH = 30 };

static const uint64_t draw_after_ns = 1000000000;
static const uint64_t draw_every_ns = 200000000;
static const uint64_t draw_line_every_ns = 1000000000;

uint64_t cli_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t cli_wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void cli_progress_begin(const struct cli *cli, struct progress *progress, const char *label)
{
    progress->label = label;
    progress->begin_ns = cli_now_ns();
    progress->drawn_ns = 0;
    progress->in_lines = cli->settings.progress && !cli->message_is_terminal;
    progress->enabled = cli->settings.progress ||
                        (cli->message_is_terminal && !cli->settings.quiet);
    progress->at_once = cli->settings.progress;
}

/* One call for all of it: what several processes write does not mix. */
static void draw(const struct progress *progress, uint64_t done_size, uint64_t total_size)
{
    double seconds = (double)(progress->drawn_ns - progress->begin_ns) / 1e9;
    double mib = (double)done_size / (1024 * 1024);
    double mib_per_second = seconds > 0.001 ? mib / seconds : 0; /* not yet known */
    double share = total_size ? (double)done_size / (double)total_size : 0;
    char bar[BAR_WIDTH + 16] = "";
    int i;

    if (total_size) {
        bar[0] = '[';
        for (i = 0; i < BAR_WIDTH; i++)
            bar[i + 1] = i < (int)(share * BAR_WIDTH) ? '#' : '.';
        snprintf(bar + BAR_WIDTH + 1, 15, "] %3d %%  ", (int)(share * 100));
    }
    fprintf(stderr, "%s%s %s%.1f MiB  %.0f MiB/s%s", progress->in_lines ? "" : "\r\033[K",
            progress->label, bar, mib, mib_per_second, progress->in_lines ? "\n" : "");
    fflush(stderr);
}

void cli_progress_update(struct progress *progress, uint64_t done_size, uint64_t total_size)
{
    uint64_t every_ns = progress->in_lines ? draw_line_every_ns : draw_every_ns;
    uint64_t now_ns;

    if (!progress->enabled)
        return;
    now_ns = cli_now_ns();
    if (!progress->at_once && now_ns - progress->begin_ns < draw_after_ns)
        return;
    if (progress->drawn_ns && now_ns - progress->drawn_ns < every_ns)
        return;
    progress->drawn_ns = now_ns;
    if (total_size && done_size > total_size)
        done_size = total_size; /* the file grew meanwhile */
    draw(progress, done_size, total_size);
}

void cli_progress_end(struct progress *progress)
{
    if (progress->drawn_ns && !progress->in_lines)
        fputs("\r\033[K", stderr);
    progress->drawn_ns = 0;
}

int cli_progress_show(void *progress, uint64_t done_size, uint64_t total_size)
{
    cli_progress_update(progress, done_size, total_size);
    return cli_is_stopped();
}
