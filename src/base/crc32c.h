/* SPDX-License-Identifier: Apache-2.0
 *
 * crc32c.h -- CRC-32C (Castagnoli), by the processor's instruction where there is one.
 */
#ifndef KM_BASE_CRC32C_H
#define KM_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of bytes that follow others: start with 0, then pass the last result, so that
 * km__crc32c(km__crc32c(0, a), b) is the CRC of a followed by b. Any thread. */
uint32_t km__crc32c(uint32_t crc, const void *data, size_t size);

/* The same, by table: for machines without the instruction, and to test it. */
uint32_t km__crc32c_portable(uint32_t crc, const void *data, size_t size);

#endif
