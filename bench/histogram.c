/* SPDX-License-Identifier: Apache-2.0
 *
 * histogram.c -- see histogram.h.
 *
 * H1. Buckets below HISTOGRAM_SUB_COUNT hold one value each; after them, each group of
 *     HISTOGRAM_SUB_COUNT buckets covers one power of two evenly.
 */
#include "histogram.h"

#include <string.h>

void histogram_init(struct histogram *histogram)
{
    memset(histogram, 0, sizeof(*histogram));
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    unsigned i;

    into->count += from->count;
    if (from->max > into->max)
        into->max = from->max;
    for (i = 0; i < HISTOGRAM_BUCKET_COUNT; i++)
        into->buckets[i] += from->buckets[i];
}

static uint64_t bucket_upper_end(unsigned bucket)
{
    unsigned shift;
    uint64_t sub;

    if (bucket < 2 * HISTOGRAM_SUB_COUNT)
        return bucket;
    shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    sub = bucket - (shift << HISTOGRAM_SUB_BITS);
    return ((sub + 1) << shift) - 1;
}

uint64_t histogram_quantile(const struct histogram *histogram, double part)
{
    uint64_t wanted = (uint64_t)(part * (double)histogram->count);
    uint64_t seen = 0;
    uint64_t end;
    unsigned i;

    for (i = 0; i < HISTOGRAM_BUCKET_COUNT; i++) {
        seen += histogram->buckets[i];
        if (seen > wanted) {
            end = bucket_upper_end(i);
            return end < histogram->max ? end : histogram->max;
        }
    }
    return histogram->max;
}
