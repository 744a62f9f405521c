/* SPDX-License-Identifier: Apache-2.0
 *
 * signal.c -- signals that end long work.
 *
 * I1. A handler sets a flag and does nothing else. Who works for long asks for the flag ten times a
 *     second or more, ends in order, and the store is closed as ever.
 *
 * The library's threads may get a signal as well as the main one: nothing relies on a wait being
 * cut short by it. Writes to stdout are not cut short either, so that lines stay whole.
 */
#include "cli.h"

#include <signal.h>
#include <time.h>

enum { PAUSE_PIECE_NS = 50 * 1000000 };

static volatile sig_atomic_t stop_came;
static volatile sig_atomic_t suspend_came;

static void note_stop(int number)
{
    (void)number;
    stop_came = 1;
}

static void note_suspend(int number)
{
    (void)number;
    suspend_came = 1;
}

static void catch_one(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

void cli_catch_signals(void)
{
    struct sigaction old;

    catch_one(SIGINT, note_stop);
    catch_one(SIGTERM, note_stop);
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        catch_one(SIGHUP, note_stop); /* else nohup(1) has asked to go on */
}

void cli_catch_suspend(void)
{
    catch_one(SIGTSTP, note_suspend);
}

int cli_is_stopped(void)
{
    return stop_came;
}

int cli_take_suspend(void)
{
    int came = suspend_came;

    suspend_came = 0;
    return came;
}

void cli_pause(uint64_t ms)
{
    uint64_t end_ns = cli_now_ns() + ms * 1000000;
    uint64_t now_ns = cli_now_ns();

    while (!stop_came && !suspend_came && now_ns < end_ns) {
        uint64_t left_ns = end_ns - now_ns;
        struct timespec piece = {0, left_ns < PAUSE_PIECE_NS ? (long)left_ns : PAUSE_PIECE_NS};
        nanosleep(&piece, NULL); /* cut short by a signal: looked at above */
        now_ns = cli_now_ns();
    }
}
