/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.c -- buffers that belong to callers.
 */
#include "base/buffer.h"

#include <stdlib.h>

km_status km__buffer_reserve(km_buffer *buffer, size_t size)
{
    size_t capacity = buffer->capacity ? buffer->capacity : 64;
    void *data;

    if (size <= buffer->capacity)
        return KM_OK;
    while (capacity < size)
        capacity *= 2; /* ends: sizes are at most 2^31 */
    data = realloc(buffer->data, capacity);
    if (!data)
        return KM_E_NO_MEMORY;
    buffer->data = data;
    buffer->capacity = capacity;
    return KM_OK;
}

void km_buffer_free(km_buffer *buffer)
{
    static const km_buffer empty = KM_BUFFER_INIT;

    if (!buffer)
        return;
    free(buffer->data);
    *buffer = empty;
}
