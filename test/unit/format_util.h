/* SPDX-License-Identifier: Apache-2.0
 *
 * format_util.h -- what the tests of base/ and format/ share: numbers from one printed seed, and
 * bytes given as hex text in a document.
 */
#ifndef KM_TEST_UNIT_FORMAT_UTIL_H
#define KM_TEST_UNIT_FORMAT_UTIL_H

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Tests run from the top of the source tree, or are told where that is. */
#ifndef KM_SOURCE_DIR
#define KM_SOURCE_DIR "."
#endif

static inline uint64_t *format_util_state(void)
{
    static uint64_t state;
    return &state;
}

/* splitmix64 */
static inline uint64_t random_u64(void)
{
    uint64_t z = *format_util_state() += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint64_t random_below(uint64_t n)
{
    return random_u64() % n;
}

static inline void random_fill(void *bytes, size_t size)
{
    uint8_t *p = bytes;

    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)random_u64();
}

/* Take the seed from the environment, or choose one, and say which. */
static inline void random_begin(void)
{
    const char *text = getenv("SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);

    *format_util_state() = seed;
    printf("SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout); /* before a fork, which would print it again */
}

/* One line of a hex dump: "0010: 4b 4d  # what follows is a comment". Returns 0 if it is none. */
static inline int hex_line(const char *line, uint8_t *bytes, size_t capacity, size_t *size)
{
    char *end;
    size_t at = strtoul(line, &end, 16);

    if (end == line || *end != ':')
        return 0;
    if (at < *size || at > capacity)
        return 0;
    *size = at; /* what lies between is zero */
    for (line = end + 1; *size < capacity; line = end) {
        while (*line == ' ')
            line++;
        if (!isxdigit((unsigned char)line[0]))
            break;
        bytes[(*size)++] = (uint8_t)strtoul(line, &end, 16);
    }
    return 1;
}

/*
 * Read the block that begins with the line "```hex NAME" and ends with "```" from a file of the
 * source tree. Lines name the offset of their first byte; offsets that no line covers are zero.
 * Returns how many bytes there are, at most capacity; 0 if there is no such block.
 */
static inline size_t hex_block(const char *path, const char *name, uint8_t *bytes, size_t capacity)
{
    char line[256], head[64], whole_path[512];
    size_t size = 0;
    int is_inside = 0;
    FILE *file;

    snprintf(whole_path, sizeof(whole_path), "%s/%s", KM_SOURCE_DIR, path);
    snprintf(head, sizeof(head), "```hex %s\n", name);
    memset(bytes, 0, capacity);
    file = fopen(whole_path, "r");
    if (!file) {
        printf("cannot open %s: run tests from the top of the source tree\n", whole_path);
        return 0;
    }
    while (fgets(line, sizeof(line), file)) {
        if (is_inside && (line[0] == '`' || !hex_line(line, bytes, capacity, &size)))
            break;
        if (strcmp(line, head) == 0)
            is_inside = 1;
    }
    fclose(file);
    return size;
}

#endif
