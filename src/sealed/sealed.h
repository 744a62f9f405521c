/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed.h -- sealed tables on a platform of the caller's choice; see keepmap/sealed.h.
 */
#ifndef KM_SEALED_SEALED_H
#define KM_SEALED_SEALED_H

#include "keepmap/sealed_queue.h"
#include "os/os.h"

/* km_sealed_builder_open(), _open(), _check() and _queue_open(), on `os`. */
km_status km__sealed_builder_open(struct os *os, const char *path,
                                  const km_sealed_build_options *options,
                                  km_sealed_builder **out_builder, km_error *out_error);
/* The table `name` in an open folder. */
km_status km__sealed_open_at(struct os *os, struct os_dir *dir, const char *name,
                             const km_sealed_options *options, km_sealed **out_table,
                             km_error *out_error);
/* Whether all values lie in memory as they are: the file is mapped, and no block compressed. */
int km__sealed_is_plainly_mapped(const km_sealed *table);
/* The value of a key where it lies in the file's mapping, checked. Of a table that is plainly
 * mapped. KM_NOT_FOUND also for a key of another width than the table's. */
km_status km__sealed_find_mapped(const km_sealed *table, km_bytes key, km_bytes *out_value);
km_status km__sealed_open(struct os *os, const char *path, const km_sealed_options *options,
                          km_sealed **out_table, km_error *out_error);
km_status km__sealed_check(struct os *os, const char *path, km_finding_fn found, void *context,
                           km_error *out_error);
km_status km__sealed_queue_open(struct os *os, const km_sealed_queue_options *options,
                                km_sealed_queue **out_queue, km_error *out_error);

#endif
