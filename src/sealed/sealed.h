/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed.h -- sealed tables on a platform of the caller's choice; see keepmap/sealed.h.
 */
#ifndef KM_SEALED_SEALED_H
#define KM_SEALED_SEALED_H

#include "keepmap/sealed.h"
#include "os/os.h"

/* km_sealed_builder_open() and km_sealed_open(), on `os`. */
km_status km__sealed_builder_open(struct os *os, const char *path,
                                  const km_sealed_build_options *options,
                                  km_sealed_builder **out_builder, km_error *out_error);
km_status km__sealed_open(struct os *os, const char *path, const km_sealed_options *options,
                          km_sealed **out_table, km_error *out_error);

#endif
