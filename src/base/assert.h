/* SPDX-License-Identifier: Apache-2.0
 *
 * assert.h -- assertions about our own promises; never about input.
 *
 * KM_ASSERT stays in release builds and guards whatever could put bad bytes on disk.
 * KM_DEBUG_ASSERT is for hot paths and vanishes unless KM_DEBUG is defined.
 */
#ifndef KM_BASE_ASSERT_H
#define KM_BASE_ASSERT_H

#include "base/compiler.h"

/* Ends the process: going on would risk the data. */
_Noreturn void km__assert_failed(const char *condition, const char *file, int line);

#define KM_ASSERT(condition)                                                                       \
    (KM_LIKELY(condition) ? (void)0 : km__assert_failed(#condition, __FILE__, __LINE__))

#if defined(KM_DEBUG)
#define KM_DEBUG_ASSERT(condition) KM_ASSERT(condition)
#else
#define KM_DEBUG_ASSERT(condition) ((void)sizeof(!!(condition)))
#endif

#endif
