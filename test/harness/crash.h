/* SPDX-License-Identifier: Apache-2.0
 *
 * crash.h -- run a workload on the simulated machine, and at its cut points clone the machine as a
 * kill or a power cut would leave it, open the clone, and compare it with the history.
 *
 * What must hold:
 *   P1. After a kill the store holds every acknowledged change, and of the one under way all or
 *       nothing.
 *   P2. After a power cut it holds the changes up to some point, which is not before the last one
 *       known to be durable: acknowledged as KM_DURABLE_POWER, waited for, or below
 *       km_durable_position().
 *   P3. It can always be opened, closed and opened again; nothing is leaked.
 *   P4. A crash during recovery changes nothing, and neither does one after it: what was recovered
 *       is durable. New changes get positions above all that were ever returned.
 *
 * KM_CRASH_STRIDE=n looks at every n-th cut point; 1 at all. KM_TEST_SCALE=n (percent) looks at
 * fewer.
 */
#ifndef KM_TEST_HARNESS_CRASH_H
#define KM_TEST_HARNESS_CRASH_H

#include "harness/workload.h"
#include "sim/sim.h"

struct crash_totals {
    uint64_t points, images, recovery_images, resumed;
    int failed;
};

struct crash {
    struct os *sim;
    struct workload workload;
    struct history history;
    struct random random;
    struct crash_totals *totals;
    uint64_t stride;
    uint64_t skipped; /* cut points since the last one looked at */
    uint64_t step;
    uint64_t seed;
    uint32_t depth;         /* 1: what goes on after a recovery */
    uint32_t resume_one_in; /* of the images: how many are recovered with cuts, and worked on */
};

uint64_t km__crash_stride(uint64_t otherwise);

/* Run a profile from a seed, with cuts everywhere. Returns 0, or -1 after printing what is wrong.
 */
int km__crash_run(const struct profile *profile, uint64_t seed, uint64_t stride,
                  struct crash_totals *totals);

/* What an image must hold: the content of the history at an index from low to high. */
struct crash_image {
    struct os *os; /* destroyed by the check */
    const char *kind;
    size_t low, high;
    size_t durable_low; /* what a power cut during recovery must leave at least */
    int is_delicate;    /* names are seen that are not durable: look at its recovery more often */
};
/* Open an image, check it, and sometimes go on with it. */
void km__crash_check(struct crash *crash, struct crash_image image);

/* Open the store of a machine, sum it up, close it. Returns 0, or -1 after printing. */
int km__crash_recover(struct os *os, const km_options *options, uint64_t *out_fingerprint);
const char *km__crash_mode_name(enum sim_power mode);

#endif
