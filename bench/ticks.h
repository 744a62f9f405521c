/* SPDX-License-Identifier: Apache-2.0
 *
 * ticks.h -- the clock of the timed loops: the processor's time stamp counter where there is one
 * (20 to 40 cycles a reading), else the monotonic clock. Nothing is serialised around a reading: a
 * store that returns before its last writes have retired is not waited for.
 */
#ifndef BENCH_TICKS_H
#define BENCH_TICKS_H

#include <stdint.h>
#include <time.h>

#if defined(__x86_64__)
#include <x86intrin.h>

#define TICKS_SOURCE "rdtsc"

static inline uint64_t ticks_now(void)
{
    return __rdtsc();
}
#else
#define TICKS_SOURCE "clock_gettime"

static inline uint64_t ticks_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#endif

static inline uint64_t ticks_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Ticks per nanosecond, measured over a tenth of a second. */
double ticks_calibrate(void);

/* What one reading costs, in nanoseconds. */
double ticks_overhead_ns(double ticks_per_ns);

#endif /* BENCH_TICKS_H */
