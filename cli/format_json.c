/* SPDX-License-Identifier: Apache-2.0
 *
 * format_json.c -- a line for each record: {"k":"key","v":"value"}.
 *
 * "k64" and "v64" hold base64 where the bytes are not valid UTF-8; "m" (or "m64") names the map
 * where a whole store is written; "expires" is the time, in ms since 1970, at which a key will be
 * gone. A line of "kind", and of "m" where maps are named, begins a map. Read are objects of just
 * these members, in any order, each once; strings are RFC 8259's, and must be valid UTF-8.
 *
 * Strings are decoded in place: no escape is shorter than what it stands for.
 */
#include "cli.h"

#include <string.h>

static const uint64_t time_max_ms = INT64_MAX;
static const char member_twice[] = "a member is given twice";

/* What is left of a line. */
struct json_text {
    unsigned char *at;
    unsigned char *end;
};

/* ---- reading ------------------------------------------------------------------------------- */

static void skip_space(struct json_text *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\t' || *text->at == '\r'))
        text->at++;
}

/* Skip space, then `expected`; returns whether it was there. */
static int take(struct json_text *text, unsigned char expected)
{
    skip_space(text);
    if (text->at >= text->end || *text->at != expected)
        return 0;
    text->at++;
    return 1;
}

/* The four hex digits at `at`, or -1. */
static long read_unit(const unsigned char *at, const unsigned char *end)
{
    long unit = 0;
    int i;

    if (end - at < 4)
        return -1;
    for (i = 0; i < 4; i++) {
        int digit = cli_hex_digit(at[i]);
        if (digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* Write a code point as UTF-8; returns its size. */
static size_t put_utf8(unsigned char *to, uint32_t point)
{
    size_t size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    size_t i;

    if (size == 1) {
        to[0] = (unsigned char)point;
        return 1;
    }
    for (i = size - 1; i > 0; i--) {
        to[i] = (unsigned char)(0x80 | (point & 0x3f));
        point >>= 6;
    }
    to[0] = (unsigned char)((0xf00 >> size & 0xff) | point);
    return size;
}

/* Decode \uXXXX, or two of them that make a pair; text->at is behind the `u`. Returns 0 or -1. */
static int take_code_point(struct json_text *text, unsigned char **to)
{
    long unit = read_unit(text->at, text->end);
    uint32_t point = (uint32_t)unit;
    long low;

    if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff))
        return -1;
    text->at += 4;
    if (unit >= 0xd800 && unit <= 0xdbff) {
        if (text->end - text->at < 6 || text->at[0] != '\\' || text->at[1] != 'u')
            return -1;
        low = read_unit(text->at + 2, text->end);
        if (low < 0xdc00 || low > 0xdfff)
            return -1;
        text->at += 6;
        point = 0x10000 + (((uint32_t)unit - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
    }
    *to += put_utf8(*to, point);
    return 0;
}

/* Decode an escape; text->at is behind the backslash. Returns 0 or -1. */
static int take_escape(struct json_text *text, unsigned char **to)
{
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    const char *found;

    if (text->at >= text->end || *text->at == '\0')
        return -1;
    if (*text->at == 'u') {
        text->at++;
        return take_code_point(text, to);
    }
    found = strchr(letters, *text->at);
    if (found == NULL)
        return -1;
    text->at++;
    *(*to)++ = (unsigned char)meanings[found - letters];
    return 0;
}

/* How many bytes from text->at stand for themselves: valid UTF-8 up to a quote or an escape. */
static size_t plain_text_size(const struct json_text *text)
{
    const unsigned char *at = text->at;

    while (at < text->end && *at >= 0x20 && *at != '"' && *at != '\\') {
        size_t size = cli_utf8_size(at, (size_t)(text->end - at));
        if (size == 0)
            break;
        at += size;
    }
    return (size_t)(at - text->at);
}

/* Read a string into *out_bytes, in place. Returns NULL, or what is wrong. */
static const char *take_string(struct json_text *text, km_bytes *out_bytes)
{
    unsigned char *begin;
    unsigned char *to;

    if (!take(text, '"'))
        return "a string is expected";
    begin = to = text->at;
    for (;;) {
        size_t size = plain_text_size(text);
        memmove(to, text->at, size);
        to += size;
        text->at += size;
        if (text->at == text->end)
            return "a string does not end";
        if (*text->at == '"')
            break;
        if (*text->at < 0x20)
            return "a control character in a string has to be escaped";
        if (*text->at != '\\')
            return "a string is not valid UTF-8: give such bytes as base64 (k64, v64)";
        text->at++;
        if (take_escape(text, &to) != 0)
            return "a bad escape in a string";
    }
    text->at++;
    *out_bytes = km_bytes_of(begin, (size_t)(to - begin));
    return NULL;
}

/* Read a whole number from 1 to what a wall clock in ms can be. Returns NULL, or what is wrong. */
static const char *take_time(struct json_text *text, uint64_t *out_ms)
{
    uint64_t number = 0;

    skip_space(text);
    for (; text->at < text->end && *text->at >= '0' && *text->at <= '9'; text->at++) {
        if (number > time_max_ms / 10)
            return "a time that no clock will show";
        number = number * 10 + (uint64_t)(*text->at - '0');
    }
    if (number == 0)
        return "expires is a number of ms since 1970";
    *out_ms = number;
    return NULL;
}

static const char *take_kind(struct json_text *text, km_map_kind *out_kind)
{
    km_bytes name;
    const char *problem = take_string(text, &name);

    if (problem)
        return problem;
    *out_kind = cli_find_kind(name);
    return *out_kind ? NULL : "a kind is hash, insertion or sorted";
}

/* The field of a reader that a member's name stands for, or NULL. Sets *out_base64. */
static km_bytes *member_field(struct reader *reader, km_bytes name, int *out_base64)
{
    const char *text = name.data;

    *out_base64 = name.size == 3 && text[1] == '6' && text[2] == '4';
    if (name.size != 1 && !*out_base64)
        return NULL;
    switch (text[0]) {
    case 'k': return &reader->key;
    case 'v': return &reader->value;
    case 'm': return &reader->map;
    default: return NULL;
    }
}

static int name_is(km_bytes name, const char *text)
{
    return name.size == strlen(text) && memcmp(name.data, text, name.size) == 0;
}

/* Read the bytes of a member into the reader. Returns NULL, or what is wrong. */
static const char *take_bytes(struct reader *reader, km_bytes name, struct json_text *text)
{
    km_bytes bytes;
    int base64 = 0;
    km_bytes *field = member_field(reader, name, &base64);
    const char *problem;

    if (field == NULL)
        return "an unknown member: k or k64, v or v64, m or m64, expires, kind";
    if (field->data)
        return member_twice;
    problem = take_string(text, &bytes);
    if (problem)
        return problem;
    if (base64)
        bytes.size = cli_decode_base64((unsigned char *)bytes.data, bytes.size);
    if (bytes.size == SIZE_MAX)
        return "malformed base64";
    *field = bytes;
    return NULL;
}

/* Read `"name": value` into the reader. Returns NULL, or what is wrong. */
static const char *take_member(struct reader *reader, struct json_text *text)
{
    km_bytes name;
    const char *problem = take_string(text, &name);

    if (problem)
        return problem;
    if (!take(text, ':'))
        return "`:` is expected after a member's name";
    if (name_is(name, "kind"))
        return reader->kind ? member_twice : take_kind(text, &reader->kind);
    if (name_is(name, "expires"))
        return reader->expires_ms ? member_twice : take_time(text, &reader->expires_ms);
    return take_bytes(reader, name, text);
}

/* Whether a line has the members that its sort has. Returns NULL, or what is wrong. */
static const char *check_members(const struct reader *reader)
{
    if (reader->kind && (reader->key.data || reader->value.data || reader->expires_ms))
        return "a kind stands on a line without a record";
    if (reader->kind)
        return NULL;
    if (reader->values_only && reader->key.data)
        return "a key, where --number gives the keys: leave one of them out";
    if (reader->key.data == NULL && !reader->values_only)
        return "the key is missing (k or k64)";
    if (reader->value.data == NULL)
        return "the value is missing (v or v64)";
    return NULL;
}

/* Read a line's object into the reader. Returns NULL, or what is wrong. */
static const char *take_object(struct reader *reader, struct json_text *text)
{
    const char *problem;

    if (!take(text, '{'))
        return "an object is expected: {\"k\":\"key\",\"v\":\"value\"}";
    do {
        problem = take_member(reader, text);
        if (problem)
            return problem;
    } while (take(text, ','));
    if (!take(text, '}'))
        return "`,` or `}` is expected";
    skip_space(text);
    if (text->at != text->end)
        return "text follows the object";
    return check_members(reader);
}

static enum reader_result read_json(struct reader *reader)
{
    struct json_text text;
    unsigned char *line = NULL;
    size_t size = 0;
    const char *problem;
    enum reader_result result = cli_reader_line(reader, &line, &size);

    if (result != READER_RECORD)
        return result;
    reader->map = reader->key = reader->value = km_bytes_of(NULL, 0);
    reader->kind = KM_KIND_DEFAULT;
    reader->expires_ms = 0;
    text.at = line;
    text.end = line + size;
    problem = take_object(reader, &text);
    if (problem) {
        return cli_reader_bad(reader, "%s (column %zu)", problem, (size_t)(text.at - line) + 1);
    }
    result = cli_reader_check(reader);
    return result == READER_RECORD && reader->kind ? READER_MAP : result;
}

/* ---- writing ------------------------------------------------------------------------------- */

static int needs_escape(unsigned char byte)
{
    return byte < 0x20 || byte == '"' || byte == '\\' || byte == 0x7f;
}

/* Write the escape of the character at `data`; returns its size. */
static size_t write_json_escape(struct cli *cli, const unsigned char *data)
{
    static const char meanings[] = "\"\\\b\f\n\r\t";
    static const char letters[] = "\"\\bfnrt";
    const char *found = *data ? strchr(meanings, *data) : NULL;

    if (*data == 0xc2) { /* C1 */
        cli_print(cli, "\\u%04x", data[1]);
        return 2;
    }
    if (found) {
        cli_print(cli, "\\%c", letters[found - meanings]);
    } else {
        cli_print(cli, "\\u%04x", *data);
    }
    return 1;
}

/* Write the inside of a string of valid UTF-8. */
static void write_json_text(struct cli *cli, km_bytes bytes)
{
    const unsigned char *data = bytes.data;
    size_t begin = 0;
    size_t at = 0;

    while (at < bytes.size) {
        if (!needs_escape(data[at]) && !(data[at] == 0xc2 && data[at + 1] < 0xa0)) {
            at++;
            continue;
        }
        cli_write(cli, data + begin, at - begin);
        at += write_json_escape(cli, data + at);
        begin = at;
    }
    if (at > begin)
        cli_write(cli, data + begin, at - begin);
}

void cli_write_json_member(struct cli *cli, const char *name, km_bytes bytes)
{
    if (cli_is_utf8(bytes)) {
        cli_print(cli, "\"%s\":\"", name);
        write_json_text(cli, bytes);
    } else {
        cli_print(cli, "\"%s64\":\"", name);
        cli_write_base64(cli, bytes);
    }
    cli_write(cli, "\"", 1);
}

/*
 * The line that begins a map: where maps are named, so that an empty one is there too; else only
 * for a kind that `load` would not choose by itself.
 */
static void begin_json(struct cli *cli, const km_map_info *map, uint64_t live_size)
{
    (void)live_size;
    if (!cli->settings.all && map->kind == KM_INSERTION)
        return;
    cli_write(cli, "{", 1);
    if (cli->settings.all) {
        cli_write_json_member(cli, "m", map->name);
        cli_write(cli, ",", 1);
    }
    cli_print(cli, "\"kind\":\"%s\"}\n", cli_kind_name(map->kind));
}

/* The map is named only where several maps are written. */
static void write_json(struct cli *cli, const struct record *record)
{
    cli_write(cli, "{", 1);
    if (cli->settings.all) {
        cli_write_json_member(cli, "m", record->map);
        cli_write(cli, ",", 1);
    }
    cli_write_json_member(cli, "k", record->key);
    if (!cli->settings.keys_only) {
        cli_write(cli, ",", 1);
        cli_write_json_member(cli, "v", record->value);
    }
    if (record->expires_ms)
        cli_print(cli, ",\"expires\":%llu", (unsigned long long)record->expires_ms);
    cli_write(cli, "}\n", 2);
}

static void end_json(struct cli *cli)
{
    (void)cli;
}

static int can_name_json(km_bytes map)
{
    (void)map;
    return 1;
}

const struct format cli_format_json = {
    .name = "json",
    .growth = 6,
    .read = read_json,
    .write_begin = begin_json,
    .write_record = write_json,
    .write_end = end_json,
    .can_name = can_name_json,
};
