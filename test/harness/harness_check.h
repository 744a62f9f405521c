/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_check.h -- what must hold inside an open store that nobody else uses just now.
 */
#ifndef KM_TEST_HARNESS_HARNESS_CHECK_H
#define KM_TEST_HARNESS_HARNESS_CHECK_H

#include "keepmap/keepmap.h"

/*
 * Every index is sound; the live bytes are the sizes of the records that the indexes lead to; no
 * two of these have the same key, and each is where its hash says; the counts agree; the log lies
 * between its head and its end. Loads all nodes. Returns 0, or -1 after printing what is wrong.
 */
int harness_check_store(km_store *store);

#endif
