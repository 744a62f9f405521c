/* SPDX-License-Identifier: Apache-2.0
 *
 * status.c -- names of statuses, the filling in of km_error, and the end of a buffer.
 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

km_status km__fail(km_error *error, km_status status, const char *file, uint64_t offset,
                   int os_error, const char *format, ...)
{
    km_error filled = {0}; /* apart from *error, which `file` and the arguments may point into */
    size_t used;
    va_list arguments;

    if (!error)
        return status;
    filled.status = status;
    filled.os_error = os_error;
    filled.offset = offset;
    if (file)
        (void)snprintf(filled.file, sizeof(filled.file), "%s", file);
    va_start(arguments, format);
    (void)vsnprintf(filled.message, sizeof(filled.message), format, arguments);
    va_end(arguments);
    if (os_error) {
        used = strlen(filled.message);
        /* strerror: both glibc and musl give each thread a text of its own, or a constant one */
        (void)snprintf(filled.message + used, sizeof(filled.message) - used, ": %s",
                       strerror(os_error));
    }
    *error = filled;
    return status;
}

const char *km_status_name(km_status status)
{
    switch (status) {
    case KM_OK: return "KM_OK";
    case KM_NOT_FOUND: return "KM_NOT_FOUND";
    case KM_EXISTS: return "KM_EXISTS";
    case KM_END: return "KM_END";
    case KM_WOULD_BLOCK: return "KM_WOULD_BLOCK";
    case KM_TIMED_OUT: return "KM_TIMED_OUT";
    case KM_STOPPED: return "KM_STOPPED";
    case KM_CONFLICT: return "KM_CONFLICT";
    case KM_BUSY: return "KM_BUSY";
    case KM_E_INVALID: return "KM_E_INVALID";
    case KM_E_NO_MEMORY: return "KM_E_NO_MEMORY";
    case KM_E_FULL: return "KM_E_FULL";
    case KM_E_IO: return "KM_E_IO";
    case KM_E_FAILED: return "KM_E_FAILED";
    case KM_E_CORRUPT: return "KM_E_CORRUPT";
    case KM_E_LOCKED: return "KM_E_LOCKED";
    case KM_E_VERSION: return "KM_E_VERSION";
    case KM_E_NOT_A_STORE: return "KM_E_NOT_A_STORE";
    case KM_E_READ_ONLY: return "KM_E_READ_ONLY";
    case KM_E_TOO_BIG: return "KM_E_TOO_BIG";
    case KM_E_LIMIT: return "KM_E_LIMIT";
    case KM_E_DROPPED: return "KM_E_DROPPED";
    case KM_E_FORKED: return "KM_E_FORKED";
    case KM_E_UNSUPPORTED: return "KM_E_UNSUPPORTED";
    case KM_E_TOO_OLD: return "KM_E_TOO_OLD";
    }
    return "KM_UNKNOWN";
}
