/* SPDX-License-Identifier: Apache-2.0
 *
 * compiler.h -- the compiler extensions we use, each under a name, with a fall-back.
 */
#ifndef KM_BASE_COMPILER_H
#define KM_BASE_COMPILER_H

#if defined(__GNUC__)
#define KM_LIKELY(x) __builtin_expect(!!(x), 1)
#define KM_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define KM_PREFETCH(p) __builtin_prefetch(p)
#define KM_PREFETCH_WRITE(p) __builtin_prefetch((p), 1)
#define KM_NOINLINE __attribute__((noinline))
#define KM_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#define KM_INTERNAL __attribute__((visibility("hidden")))
#else
#define KM_LIKELY(x) (x)
#define KM_UNLIKELY(x) (x)
#define KM_PREFETCH(p) ((void)(p))
#define KM_PREFETCH_WRITE(p) ((void)(p))
#define KM_NOINLINE
#define KM_PRINTF(format_index, first)
#define KM_INTERNAL
#endif

/* Set where the build runs under ThreadSanitizer, which cannot see that a vector load of a line of
 * atomics is harmless: such code then takes its portable path. */
#if defined(__SANITIZE_THREAD__)
#define KM_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KM_THREAD_SANITIZER 1
#endif
#endif
#ifndef KM_THREAD_SANITIZER
#define KM_THREAD_SANITIZER 0
#endif

#define KM_CACHE_LINE 64

#endif
