/* SPDX-License-Identifier: Apache-2.0
 *
 * crc32c.c -- CRC-32C by instruction (SSE4.2, ARMv8) or by eight tables.
 *
 * The polynomial is 0x1edc6f41, used with its bits reversed: 0x82f63b78. A CRC begins with all bits
 * set and ends inverted; both are done in each call, so that calls can follow one another.
 *
 * I1. Both ways give the same result for all bytes, at any alignment and cut at any point.
 * I2. crc32c_tables[k][i] is the CRC, without the inversions, of byte i followed by k zero bytes.
 *     It is linear in the bits of i: each table is spelled out from its values for the eight
 *     single bits.
 *
 * One stream of instructions takes 3 cycles for 8 bytes. Records are too short for interleaved
 * streams to pay.
 */
#include "base/crc32c.h"

#include <stdatomic.h>

#include "base/bytes.h"
#include "base/compiler.h"

#define CRC32C_BIT(i, bit, value) ((i) >> (bit)&1 ? (value) : 0u)
#define CRC32C_1(i, c0, c1, c2, c3, c4, c5, c6, c7)                                                \
    CRC32C_BIT(i, 0, c0) ^ CRC32C_BIT(i, 1, c1) ^ CRC32C_BIT(i, 2, c2) ^ CRC32C_BIT(i, 3, c3) ^    \
        CRC32C_BIT(i, 4, c4) ^ CRC32C_BIT(i, 5, c5) ^ CRC32C_BIT(i, 6, c6) ^ CRC32C_BIT(i, 7, c7)
#define CRC32C_4(i, ...)                                                                           \
    CRC32C_1(i, __VA_ARGS__), CRC32C_1(i + 1, __VA_ARGS__), CRC32C_1(i + 2, __VA_ARGS__),          \
        CRC32C_1(i + 3, __VA_ARGS__)
#define CRC32C_16(i, ...)                                                                          \
    CRC32C_4(i, __VA_ARGS__), CRC32C_4(i + 4, __VA_ARGS__), CRC32C_4(i + 8, __VA_ARGS__),          \
        CRC32C_4(i + 12, __VA_ARGS__)
#define CRC32C_64(i, ...)                                                                          \
    CRC32C_16(i, __VA_ARGS__), CRC32C_16(i + 16, __VA_ARGS__), CRC32C_16(i + 32, __VA_ARGS__),     \
        CRC32C_16(i + 48, __VA_ARGS__)
#define CRC32C_256(i, ...)                                                                         \
    CRC32C_64(i, __VA_ARGS__), CRC32C_64(i + 64, __VA_ARGS__), CRC32C_64(i + 128, __VA_ARGS__),    \
        CRC32C_64(i + 192, __VA_ARGS__)

static const uint32_t crc32c_tables[8][256] = {
    {CRC32C_256(0, 0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede,
                0x417b1dbc, 0x82f63b78)},
    {CRC32C_256(0, 0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302,
                0xff17c604, 0xfbc3faf9)},
    {CRC32C_256(0, 0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14,
                0xc76580d9, 0x8b277743)},
    {CRC32C_256(0, 0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b,
                0xaba65fe7, 0x52a0c93f)},
    {CRC32C_256(0, 0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557,
                0x37516aae, 0x6ea2d55c)},
    {CRC32C_256(0, 0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d,
                0x0e045beb, 0x1c08b7d6)},
    {CRC32C_256(0, 0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd,
                0x7ab7077a, 0xf56e0ef4)},
    {CRC32C_256(0, 0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599,
                0x1a00cb32, 0x34019664)},
};

uint32_t km__crc32c_portable(uint32_t crc, const void *data, size_t size)
{
    const uint32_t(*t)[256] = crc32c_tables;
    const uint8_t *p = data;
    uint64_t word;

    crc = ~crc;
    for (; size >= 8; size -= 8, p += 8) {
        word = km__load64(p) ^ crc;
        crc = t[7][word & 255] ^ t[6][word >> 8 & 255] ^ t[5][word >> 16 & 255] ^
              t[4][word >> 24 & 255] ^ t[3][word >> 32 & 255] ^ t[2][word >> 40 & 255] ^
              t[1][word >> 48 & 255] ^ t[0][word >> 56];
    }
    for (; size > 0; size--, p++)
        crc = crc >> 8 ^ t[0][(crc ^ *p) & 255];
    return ~crc;
}

/* Each machine: the instruction for 8, 4, 2 and 1 bytes, and how to learn whether it is there. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
#define CRC32C_BY_INSTRUCTION __attribute__((target("sse4.2")))
#define CRC32C_STEP64(crc, v) _mm_crc32_u64((crc), (v))
#define CRC32C_STEP32(crc, v) _mm_crc32_u32((uint32_t)(crc), (v))
#define CRC32C_STEP16(crc, v) _mm_crc32_u16((uint32_t)(crc), (v))
#define CRC32C_STEP8(crc, v) _mm_crc32_u8((uint32_t)(crc), (v))
#define CRC32C_INSTRUCTION_EXISTS() __builtin_cpu_supports("sse4.2")
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define CRC32C_BY_INSTRUCTION
#define CRC32C_STEP64(crc, v) __crc32cd((uint32_t)(crc), (v))
#define CRC32C_STEP32(crc, v) __crc32cw((uint32_t)(crc), (v))
#define CRC32C_STEP16(crc, v) __crc32ch((uint32_t)(crc), (v))
#define CRC32C_STEP8(crc, v) __crc32cb((uint32_t)(crc), (v))
#define CRC32C_INSTRUCTION_EXISTS() 1 /* the build asks for it */
#endif

#if defined(CRC32C_BY_INSTRUCTION)

CRC32C_BY_INSTRUCTION
static uint32_t crc32c_by_instruction(uint32_t start, const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t crc = (uint32_t)~start; /* 64 bits wide, as the instruction wants and returns it */

    for (; size >= 8; size -= 8, p += 8)
        crc = CRC32C_STEP64(crc, km__load64(p));
    if (size & 4) {
        crc = CRC32C_STEP32(crc, km__load32(p));
        p += 4;
    }
    if (size & 2) {
        crc = CRC32C_STEP16(crc, km__load16(p));
        p += 2;
    }
    if (size & 1)
        crc = CRC32C_STEP8(crc, *p);
    return ~(uint32_t)crc;
}

typedef uint32_t (*crc32c_fn)(uint32_t crc, const void *data, size_t size);

static uint32_t crc32c_probe(uint32_t crc, const void *data, size_t size);

/* The processor probe: what to call. Relaxed is enough: every value it can have is a function that
 * gives the right result, and nothing else is published with it. Threads that come here at the
 * same time store the same value. */
static _Atomic(crc32c_fn) crc32c_chosen = crc32c_probe;

static uint32_t crc32c_probe(uint32_t crc, const void *data, size_t size)
{
    crc32c_fn chosen = CRC32C_INSTRUCTION_EXISTS() ? crc32c_by_instruction : km__crc32c_portable;

    atomic_store_explicit(&crc32c_chosen, chosen, memory_order_relaxed);
    return chosen(crc, data, size);
}

uint32_t km__crc32c(uint32_t crc, const void *data, size_t size)
{
    return atomic_load_explicit(&crc32c_chosen, memory_order_relaxed)(crc, data, size);
}

#else

uint32_t km__crc32c(uint32_t crc, const void *data, size_t size)
{
    return km__crc32c_portable(crc, data, size);
}

#endif
