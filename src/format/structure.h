/* SPDX-License-Identifier: Apache-2.0
 *
 * structure.h -- what all structures of 4096 bytes have in common; for the files of format/ alone.
 * FORMAT.md, 2.
 */
#ifndef KM_FORMAT_STRUCTURE_H
#define KM_FORMAT_STRUCTURE_H

#include <stddef.h>
#include <stdint.h>

#include "format/files.h"

#define STRUCTURE_SIZE 4096u
#define STRUCTURE_STORE_ID 24 /* offset of the store id; fields of its own follow from 40 on */

/* Zero all STRUCTURE_SIZE bytes and write what comes first; `magic` has 8 bytes. */
void km__structure_begin(uint8_t *bytes, const char *magic, const uint8_t *store_id);
/* Write the checksum, once everything else is in place. */
void km__structure_end(uint8_t *bytes);
/* Verify what all have: rules S1 to S5. Bytes from used_size on are those that no field takes. */
km_status km__structure_check(const uint8_t *bytes, const char *magic, size_t used_size);

/* Whether all bytes are zero. */
int km__structure_is_zero(const uint8_t *bytes, size_t size);

/* Whether a position is a place where a record can begin or the log can end. */
int km__position_is_record(uint64_t position);

#endif
