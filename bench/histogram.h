/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.h -- latencies in log-linear buckets: 64 to each power of two, so about 1.6 % wide.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_SUB_BITS = 6,
    HISTOGRAM_SUB_COUNT = 1 << HISTOGRAM_SUB_BITS,
    HISTOGRAM_OCTAVES =
        42, /* values up to 2^47 are told apart; larger ones share the last bucket */
    HISTOGRAM_BUCKET_COUNT = (HISTOGRAM_OCTAVES + 1) * HISTOGRAM_SUB_COUNT
};

struct histogram {
    uint64_t count;
    uint64_t max;
    uint32_t buckets[HISTOGRAM_BUCKET_COUNT];
};

void histogram_init(struct histogram *histogram);
void histogram_merge(struct histogram *into, const struct histogram *from);

/* The upper end of the bucket that holds the given part (0 to 1) of the values, at most max. */
uint64_t histogram_quantile(const struct histogram *histogram, double part);

static inline unsigned histogram_bucket(uint64_t value)
{
    unsigned shift;
    unsigned bucket;

    if (value < HISTOGRAM_SUB_COUNT)
        return (unsigned)value;
    shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_SUB_BITS;
    bucket = (shift << HISTOGRAM_SUB_BITS) + (unsigned)(value >> shift);
    return bucket < HISTOGRAM_BUCKET_COUNT ? bucket : HISTOGRAM_BUCKET_COUNT - 1;
}

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
    histogram->count++;
    if (value > histogram->max)
        histogram->max = value;
    histogram->buckets[histogram_bucket(value)]++;
}

#endif /* BENCH_HISTOGRAM_H */
