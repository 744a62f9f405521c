/* SPDX-License-Identifier: Apache-2.0
 *
 * hash_match.h -- compare the eight slots of a cache line with what a probe wants.
 *
 *   slot   63 flag (of the line, in slot 0)   62..60 displacement   59..44 tag   43..0 reference
 *
 * The SSE2 form reads the line with plain vector loads while writers store slots atomically. Of an
 * aligned 16-byte load x86 promises that each aligned 8-byte half is read whole, and that loads
 * keep their order; the result is a hint only: whoever acts on it loads the slot again, atomically
 * and with acquire, and compares it again. A slot that held the wanted tag during the whole probe
 * is in the hint, since its upper bits do not change when its reference is replaced.
 *
 * One line in the first-level cache, ns per comparison on Zen 3: portable 5.1, SSE2 1.4, AVX2 1.1
 * to 1.3, the latency (6 ns, most of it the load) the same in all. Less than 1 ns does not pay for
 * a choice at run time, so there is no AVX2 form.
 */
#ifndef KM_INDEX_HASH_MATCH_H
#define KM_INDEX_HASH_MATCH_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/compiler.h"

#define HASH_LINE_SLOTS 8u
#define HASH_MATCH_MASK UINT64_C(0x7ffff00000000000) /* displacement and tag */

/* Bit i is set if slot i agrees with `want` in displacement and tag, empty slots included. */
static inline uint32_t km__hash_match_portable(const _Atomic uint64_t *line, uint64_t want)
{
    uint32_t matches = 0;

    for (uint32_t i = 0; i < HASH_LINE_SLOTS; i++) {
        /* relaxed: a hint, see above */
        uint64_t slot = atomic_load_explicit(&line[i], memory_order_relaxed);
        matches |= (uint32_t)(((slot ^ want) & HASH_MATCH_MASK) == 0) << i;
    }
    return matches;
}

#if defined(__SSE2__) && !KM_THREAD_SANITIZER

#include <emmintrin.h>

/* Compares the upper halves of the slots: they hold all that matters, and four fit a vector. */
static inline uint32_t km__hash_match(const _Atomic uint64_t *line, uint64_t want)
{
    const __m128i *pairs = (const __m128i *)(const void *)line;
    __m128i mask = _mm_set1_epi32((int)(HASH_MATCH_MASK >> 32));
    __m128i wanted = _mm_set1_epi32((int)(want >> 32));
    __m128 a = _mm_castsi128_ps(_mm_load_si128(&pairs[0]));
    __m128 b = _mm_castsi128_ps(_mm_load_si128(&pairs[1]));
    __m128 c = _mm_castsi128_ps(_mm_load_si128(&pairs[2]));
    __m128 d = _mm_castsi128_ps(_mm_load_si128(&pairs[3]));
    __m128i low = _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
    __m128i high = _mm_castps_si128(_mm_shuffle_ps(c, d, _MM_SHUFFLE(3, 1, 3, 1)));
    __m128i equal;

    low = _mm_cmpeq_epi32(_mm_and_si128(low, mask), wanted);
    high = _mm_cmpeq_epi32(_mm_and_si128(high, mask), wanted);
    equal = _mm_packs_epi16(_mm_packs_epi32(low, high), _mm_setzero_si128());
    return (uint32_t)_mm_movemask_epi8(equal);
}

#else

static inline uint32_t km__hash_match(const _Atomic uint64_t *line, uint64_t want)
{
    return km__hash_match_portable(line, want);
}

#endif

#endif
