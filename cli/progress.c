/* SPDX-License-Identifier: Apache-2.0
 *
 * progress.c -- a bar on stderr for work that takes over a second.
 */
#include "cli.h"

#include <stdio.h>
#include <time.h>

enum { BAR_WIDTH = 30 };

static const uint64_t draw_after_ns = 1000000000;
static const uint64_t draw_every_ns = 200000000;

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
    progress->enabled = cli->message_is_terminal && !cli->settings.quiet;
}

static void draw(const struct progress *progress, double share, double mib_per_second)
{
    char bar[BAR_WIDTH + 1];
    int i;

    for (i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < (int)(share * BAR_WIDTH) ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %3d %%  %.0f MiB/s", progress->label, bar, (int)(share * 100),
            mib_per_second);
    fflush(stderr);
}

void cli_progress_update(struct progress *progress, uint64_t done_size, uint64_t total_size)
{
    uint64_t now_ns;
    double seconds;

    if (!progress->enabled || total_size == 0)
        return;
    now_ns = cli_now_ns();
    if (now_ns - progress->begin_ns < draw_after_ns)
        return;
    if (progress->drawn_ns && now_ns - progress->drawn_ns < draw_every_ns)
        return;
    progress->drawn_ns = now_ns;
    if (done_size > total_size)
        done_size = total_size; /* the file grew meanwhile */
    seconds = (double)(now_ns - progress->begin_ns) / 1e9;
    draw(progress, (double)done_size / (double)total_size,
         (double)done_size / seconds / (1024 * 1024));
}

void cli_progress_end(struct progress *progress)
{
    if (progress->drawn_ns)
        fputs("\r\033[K", stderr);
    progress->drawn_ns = 0;
}

int cli_progress_show(void *progress, uint64_t done_size, uint64_t total_size)
{
    cli_progress_update(progress, done_size, total_size);
    return cli_is_stopped();
}
