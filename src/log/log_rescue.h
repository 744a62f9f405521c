/* SPDX-License-Identifier: Apache-2.0
 *
 * log_rescue.h -- find every record that checks out in a damaged log.
 */
#ifndef KM_LOG_LOG_RESCUE_H
#define KM_LOG_LOG_RESCUE_H

#include "log/log.h"

struct rescue {
    struct os *os;
    struct os_dir *store_dir, *log_dir;
    const uint8_t
        *store_id; /* from IDENTITY; NULL if that is damaged: the segments' headers tell */
    /* Each record that checks out, in log order; marks and padding are left out. */
    log_visit_fn visit;
    /* Each damaged place: size bytes from offset on. */
    void (*found)(void *context, const char *file, uint64_t offset, uint64_t size,
                  const char *what);
    void *context;

    /* results */
    uint64_t segment_count, record_count, finding_count, torn_bytes;
};

/* Read the whole log, beginning again after each damaged place. Writes nothing. Returns the
 * visitor's error, KM_E_IO, KM_E_NO_MEMORY, or KM_E_CORRUPT if not even the store's id is left. */
km_status km__log_rescue(struct rescue *rescue);

#endif
