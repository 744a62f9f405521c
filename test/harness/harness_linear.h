/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_linear.h -- decide whether a history of calls on one key is linearizable: whether each
 * call can be given one moment between its begin and its end, so that the results are those of a
 * plain variable.
 */
#ifndef KM_TEST_HARNESS_HARNESS_LINEAR_H
#define KM_TEST_HARNESS_HARNESS_LINEAR_H

#include <stddef.h>
#include <stdint.h>

#define LINEAR_CALL_MAX 64u

enum linear_kind {
    LINEAR_PUT,          /* what was there before is not known */
    LINEAR_PUT_PREVIOUS, /* `seen` was there before */
    LINEAR_DELETE,       /* likewise: KM_NOT_FOUND is `seen` 0 */
    LINEAR_GET           /* saw `seen` */
};

/* Values are numbers; 0 means that the key is not there. */
struct linear_call {
    uint64_t begin_ns, end_ns;
    enum linear_kind kind;
    uint64_t value;
    uint64_t seen;
};

/* 1 if the calls, at most LINEAR_CALL_MAX, in any order, are linearizable from an absent key. */
int linear_check(const struct linear_call *calls, size_t count);

/* Print a history, by begin. */
void linear_print(const struct linear_call *calls, size_t count);

#endif
