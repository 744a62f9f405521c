/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.h -- the growing of buffers that belong to callers.
 *
 * Their memory is the C library's, since they live longer than any store.
 */
#ifndef KM_BASE_BUFFER_H
#define KM_BASE_BUFFER_H

#include <stddef.h>

#include "keepmap/keepmap.h"

/* Make room for `size` bytes. KM_E_NO_MEMORY leaves the buffer as it was. */
km_status km__buffer_reserve(km_buffer *buffer, size_t size);

#endif
