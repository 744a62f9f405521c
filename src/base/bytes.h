/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.h -- little-endian loads and stores of fixed width, and rounding.
 */
#ifndef KM_BASE_BYTES_H
#define KM_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t km__swap_if_big_endian64(uint64_t v)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(v);
#else
    return v;
#endif
}

static inline uint16_t km__load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t km__load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t km__load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return km__swap_if_big_endian64(v);
}

static inline void km__store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void km__store32(uint8_t *p, uint32_t v)
{
    km__store16(p, (uint16_t)v);
    km__store16(p + 2, (uint16_t)(v >> 16));
}

static inline void km__store64(uint8_t *p, uint64_t v)
{
    v = km__swap_if_big_endian64(v);
    memcpy(p, &v, sizeof(v));
}

/* `unit` is a power of two. */
static inline uint64_t km__round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) & ~(unit - 1);
}

static inline uint64_t km__round_down(uint64_t n, uint64_t unit)
{
    return n & ~(unit - 1);
}

#endif
