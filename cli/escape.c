/* SPDX-License-Identifier: Apache-2.0
 *
 * escape.c -- bytes as text: UTF-8, \xHH escapes, hex, base64.
 *
 * I1. What a writer here writes, its reader turns into the same bytes.
 * I2. Decoding is done in place: the decoded form is never longer than the text.
 */
#include "cli.h"

#include <string.h>

/* Text is produced in pieces of this size. */
enum { PIECE_SIZE = 4096 };

static const char hex_digits[] = "0123456789abcdef";

/* ---- UTF-8 --------------------------------------------------------------------------------- */

static int is_continuation(unsigned char byte)
{
    return (byte & 0xc0) == 0x80;
}

size_t cli_utf8_size(const unsigned char *data, size_t size)
{
    unsigned char first = data[0];
    size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    size_t i;

    if (length == 1)
        return 1;
    if (first < 0xc2 || first > 0xf4 || size < length)
        return 0;
    for (i = 1; i < length; i++) {
        if (!is_continuation(data[i]))
            return 0;
    }
    if (first == 0xe0 && data[1] < 0xa0)
        return 0; /* a longer form than needed */
    if (first == 0xed && data[1] > 0x9f)
        return 0; /* half of a surrogate pair */
    if (first == 0xf0 && data[1] < 0x90)
        return 0; /* a longer form than needed */
    if (first == 0xf4 && data[1] > 0x8f)
        return 0; /* above U+10FFFF */
    return length;
}

int cli_is_utf8(km_bytes bytes)
{
    const unsigned char *data = bytes.data;
    size_t at = 0;

    while (at < bytes.size) {
        size_t length = cli_utf8_size(data + at, bytes.size - at);
        if (length == 0)
            return 0;
        at += length;
    }
    return 1;
}

/* Bytes of the character at `data` if it is safe on a terminal, else 0. */
static size_t safe_char_size(const unsigned char *data, size_t size)
{
    size_t length = cli_utf8_size(data, size);

    if (data[0] < 0x20 || data[0] == 0x7f)
        return 0;
    if (length == 2 && data[0] == 0xc2 && data[1] < 0xa0)
        return 0; /* C1: terminals may obey it */
    return length;
}

size_t cli_safe_size(const unsigned char *data, size_t size)
{
    size_t at = 0;

    while (at < size) {
        size_t length = safe_char_size(data + at, size - at);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

/* ---- \xHH ---------------------------------------------------------------------------------- */

static void write_escape(struct cli *cli, unsigned char byte)
{
    char text[4] = {'\\', 'x', hex_digits[byte >> 4], hex_digits[byte & 15]};

    switch (byte) {
    case '\t': cli_write(cli, "\\t", 2); break;
    case '\n': cli_write(cli, "\\n", 2); break;
    case '\\': cli_write(cli, "\\\\", 2); break;
    default: cli_write(cli, text, sizeof(text)); break;
    }
}

/* How many bytes from the start need no escape. */
static size_t plain_size(const unsigned char *data, size_t size)
{
    size_t at = 0;

    while (at < size && data[at] != '\\') {
        size_t length = safe_char_size(data + at, size - at);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

void cli_write_escaped(struct cli *cli, km_bytes bytes)
{
    const unsigned char *data = bytes.data;
    size_t at = 0;

    while (at < bytes.size && !cli->output_error) {
        size_t plain = plain_size(data + at, bytes.size - at);
        cli_write(cli, data + at, plain);
        at += plain;
        if (at < bytes.size && plain == 0)
            write_escape(cli, data[at++]);
    }
}

int cli_hex_digit(unsigned char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

/* Decode the escape at `data` into *out_byte; returns its length, or 0 if it is malformed. */
static size_t read_escape(const unsigned char *data, size_t size, unsigned char *out_byte)
{
    if (size < 2)
        return 0;
    switch (data[1]) {
    case 't': *out_byte = '\t'; return 2;
    case 'n': *out_byte = '\n'; return 2;
    case '\\': *out_byte = '\\'; return 2;
    case 'x': break;
    default: return 0;
    }
    if (size < 4 || cli_hex_digit(data[2]) < 0 || cli_hex_digit(data[3]) < 0)
        return 0;
    *out_byte = (unsigned char)(cli_hex_digit(data[2]) << 4 | cli_hex_digit(data[3]));
    return 4;
}

size_t cli_unescape(unsigned char *data, size_t size)
{
    unsigned char *first = size ? memchr(data, '\\', size) : NULL;
    size_t from;
    size_t to;

    if (first == NULL)
        return size;
    from = to = (size_t)(first - data);
    while (from < size) {
        size_t used = 1;
        if (data[from] != '\\') {
            data[to++] = data[from];
        } else {
            used = read_escape(data + from, size - from, &data[to++]);
            if (used == 0)
                return SIZE_MAX;
        }
        from += used;
    }
    return to;
}

/* ---- hex and base64 ------------------------------------------------------------------------ */

void cli_write_hex(struct cli *cli, km_bytes bytes)
{
    const unsigned char *data = bytes.data;
    char piece[PIECE_SIZE];
    size_t used = 0;
    size_t at;

    for (at = 0; at < bytes.size; at++) {
        piece[used++] = hex_digits[data[at] >> 4];
        piece[used++] = hex_digits[data[at] & 15];
        if (used == sizeof(piece)) {
            cli_write(cli, piece, used);
            used = 0;
        }
    }
    cli_write(cli, piece, used);
}

/* Encode 1 to 3 bytes as 4 characters. */
static void encode_group(const unsigned char *data, size_t size, char *out)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = (uint32_t)data[0] << 16;

    if (size > 1)
        bits |= (uint32_t)data[1] << 8;
    if (size > 2)
        bits |= data[2];
    out[0] = alphabet[bits >> 18];
    out[1] = alphabet[bits >> 12 & 63];
    out[2] = size > 1 ? alphabet[bits >> 6 & 63] : '=';
    out[3] = size > 2 ? alphabet[bits & 63] : '=';
}

void cli_write_base64(struct cli *cli, km_bytes bytes)
{
    const unsigned char *data = bytes.data;
    char piece[PIECE_SIZE];
    size_t used = 0;
    size_t at;

    for (at = 0; at < bytes.size; at += 3) {
        encode_group(data + at, bytes.size - at, piece + used);
        used += 4;
        if (used == sizeof(piece)) {
            cli_write(cli, piece, used);
            used = 0;
        }
    }
    cli_write(cli, piece, used);
}

static int base64_digit(unsigned char digit)
{
    if (digit >= 'A' && digit <= 'Z')
        return digit - 'A';
    if (digit >= 'a' && digit <= 'z')
        return digit - 'a' + 26;
    if (digit >= '0' && digit <= '9')
        return digit - '0' + 52;
    if (digit == '+')
        return 62;
    if (digit == '/')
        return 63;
    return -1;
}

/* Decode 4 characters of which `padding` at the end are `=`; returns 0, or -1 if malformed. */
static int decode_group(const unsigned char *text, size_t padding, unsigned char out[3])
{
    uint32_t bits = 0;
    size_t i;

    for (i = 0; i < 4; i++) {
        int digit = i < 4 - padding ? base64_digit(text[i]) : 0;
        if (digit < 0)
            return -1;
        bits = bits << 6 | (uint32_t)digit;
    }
    if (padding == 1 && (bits & 0xff) != 0)
        return -1; /* bits that no encoder sets */
    if (padding == 2 && (bits & 0xffff) != 0)
        return -1;
    out[0] = (unsigned char)(bits >> 16);
    out[1] = (unsigned char)(bits >> 8);
    out[2] = (unsigned char)bits;
    return 0;
}

size_t cli_decode_base64(unsigned char *data, size_t size)
{
    size_t to = 0;
    size_t from;

    if (size % 4 != 0)
        return SIZE_MAX;
    for (from = 0; from < size; from += 4) {
        unsigned char group[3];
        size_t padding = 0;
        if (from + 4 == size && data[from + 3] == '=')
            padding = data[from + 2] == '=' ? 2 : 1;
        if (decode_group(data + from, padding, group) != 0)
            return SIZE_MAX;
        memcpy(data + to, group, 3 - padding);
        to += 3 - padding;
    }
    return to;
}
