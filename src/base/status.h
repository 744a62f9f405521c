/* SPDX-License-Identifier: Apache-2.0
 *
 * status.h -- statuses inside the library, and the filling in of km_error.
 */
#ifndef KM_BASE_STATUS_H
#define KM_BASE_STATUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "keepmap/keepmap.h"

/*
 * Fill in `error` (NULL is accepted) and return `status`, so that callers can write
 * `return km__fail(error, KM_E_IO, name, offset, errno, "cannot write: ...")`.
 * `file` is NULL where none is meant; `os_error` 0 where no system call failed (else its text is
 * appended to the message).
 */
km_status km__fail(km_error *error, km_status status, const char *file, uint64_t offset,
                   int os_error, const char *format, ...) KM_PRINTF(6, 7);

/* Discard a status on purpose; `reason` says why that is right. */
static inline void km__ignore(km_status status, const char *reason)
{
    (void)status;
    (void)reason;
}

#endif
