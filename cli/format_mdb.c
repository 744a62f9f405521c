/* SPDX-License-Identifier: Apache-2.0
 *
 * format_mdb.c -- the text format of mdb_dump, mdb_load and their Berkeley DB ancestors.
 *
 *     VERSION=3            a header of NAME=VALUE lines
 *     format=bytevalue     two hex digits a byte; or print: text with \HH and \\ in it
 *     database=NAME        becomes the map's name
 *     kind=hash            or sorted: the map's kind, where it is not insertion; ours alone
 *     HEADER=END
 *      6b6579              a key, then its value, each on a line that begins with a space
 *      76616c7565
 *     DATA=END             the next header may follow
 *
 * Where records have no keys (keys=0, as Berkeley DB dumps numbered records) there is a line for
 * each value only; a reader has to expect that.
 *
 * Several values of one key do not fit a map: a header that announces them is refused, rather than
 * all values but the last being lost.
 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* Where a reader stands in the stream. */
struct mdb_state {
    int in_data;  /* behind HEADER=END */
    int is_print; /* format=print */
    int no_keys;  /* keys=0 */
    char name[KM_MAP_NAME_SIZE_MAX];
    unsigned char key[KM_KEY_SIZE_MAX]; /* while its value's line is read */
};

/* ---- the header ---------------------------------------------------------------------------- */

static int line_is(km_bytes line, const char *text)
{
    return line.size == strlen(text) && memcmp(line.data, text, line.size) == 0;
}

static int line_begins(km_bytes line, const char *text)
{
    size_t size = strlen(text);

    return line.size >= size && memcmp(line.data, text, size) == 0;
}

static enum reader_result begin_header(struct reader *reader, km_bytes line)
{
    if (reader->mdb == NULL)
        reader->mdb = malloc(sizeof(*reader->mdb));
    if (reader->mdb == NULL)
        return cli_reader_bad(reader, "not enough memory");
    reader->mdb->in_data = 0;
    reader->mdb->is_print = 0;
    reader->mdb->no_keys = 0;
    reader->map = km_bytes_of(NULL, 0);
    reader->kind = KM_KIND_DEFAULT;
    reader->expires_ms = 0;
    if (!line_is(line, "VERSION=3"))
        return cli_reader_bad(reader, "VERSION=3 is expected at the begin of a header");
    return READER_RECORD;
}

static enum reader_result read_database_name(struct reader *reader, km_bytes line)
{
    size_t skip = strlen("database=");
    size_t size = line.size - skip;

    if (size == 0 || size > sizeof(reader->mdb->name)) {
        return cli_reader_bad(reader, "a database name of %zu bytes; 1 to %u", size,
                              KM_MAP_NAME_SIZE_MAX);
    }
    memcpy(reader->mdb->name, (const char *)line.data + skip, size);
    reader->map = km_bytes_of(reader->mdb->name, size);
    return READER_RECORD;
}

/* Why a header line cannot be accepted, or NULL. Sizes and flags that do not matter here pass. */
static const char *refusal(const struct reader *reader, km_bytes line)
{
    static const char *const several[] = {"duplicates=1", "dupsort=1", "dupfixed=1", "integerdup=1",
                                          "reversedup=1"};
    size_t i;

    for (i = 0; i < sizeof(several) / sizeof(several[0]); i++) {
        if (line_is(line, several[i]))
            return "a database with several values for a key: a map holds one";
    }
    if (line_begins(line, "type=") && !line_is(line, "type=btree") && !line_is(line, "type=hash") &&
        !(line_is(line, "type=recno") && reader->values_only))
        return "only type=btree and type=hash hold keys and values";
    if (line.size == 0 || memchr(line.data, '=', line.size) == NULL)
        return "a header line is NAME=VALUE, and the last one HEADER=END";
    return NULL;
}

static enum reader_result read_kind(struct reader *reader, km_bytes line)
{
    size_t skip = strlen("kind=");

    reader->kind = cli_find_kind(km_bytes_of((const char *)line.data + skip, line.size - skip));
    if (reader->kind == KM_KIND_DEFAULT)
        return cli_reader_bad(reader, "kind= is hash, insertion or sorted");
    return READER_RECORD;
}

static enum reader_result read_header_line(struct reader *reader, km_bytes line)
{
    const char *problem = refusal(reader, line);

    if (problem)
        return cli_reader_bad(reader, "%s", problem);
    if (line_is(line, "keys=0"))
        reader->mdb->no_keys = 1;
    if (line_begins(line, "database="))
        return read_database_name(reader, line);
    if (line_begins(line, "kind="))
        return read_kind(reader, line);
    if (!line_begins(line, "format="))
        return READER_RECORD;
    reader->mdb->is_print = line_is(line, "format=print");
    if (!reader->mdb->is_print && !line_is(line, "format=bytevalue"))
        return cli_reader_bad(reader, "format= is bytevalue or print");
    return READER_RECORD;
}

/* See that records have keys where they are expected, and only there. */
static enum reader_result end_header(struct reader *reader)
{
    if (reader->mdb->no_keys && !reader->values_only)
        return cli_reader_bad(reader, "a dump without keys: `keepmap seal --number` reads it");
    if (!reader->mdb->no_keys && reader->values_only)
        return cli_reader_bad(reader, "a dump with keys, where --number gives the keys");
    reader->mdb->in_data = 1;
    return READER_MAP;
}

/* Read a whole header, or the end of the stream. */
static enum reader_result read_header(struct reader *reader)
{
    unsigned char *line = NULL;
    size_t size = 0;
    enum reader_result result = cli_reader_line(reader, &line, &size);

    if (result == READER_RECORD)
        result = begin_header(reader, km_bytes_of(line, size));
    while (result == READER_RECORD) {
        result = cli_reader_line(reader, &line, &size);
        if (result == READER_END)
            return cli_reader_bad(reader, "the input ends inside a header");
        if (result != READER_RECORD)
            return result;
        if (line_is(km_bytes_of(line, size), "HEADER=END"))
            return end_header(reader);
        result = read_header_line(reader, km_bytes_of(line, size));
    }
    return result;
}

/* ---- the data ------------------------------------------------------------------------------ */

/* Decode pairs of hex digits in place; returns the new size, or SIZE_MAX. */
static size_t decode_hex(unsigned char *data, size_t size)
{
    size_t i;

    if (size % 2 != 0)
        return SIZE_MAX;
    for (i = 0; i < size; i += 2) {
        int high = cli_hex_digit(data[i]);
        int low = cli_hex_digit(data[i + 1]);
        if (high < 0 || low < 0)
            return SIZE_MAX;
        data[i / 2] = (unsigned char)(high << 4 | low);
    }
    return size / 2;
}

/* Decode \HH and \\ in place; returns the new size, or SIZE_MAX. */
static size_t decode_print(unsigned char *data, size_t size)
{
    size_t from = 0;
    size_t to = 0;

    while (from < size) {
        size_t left = size - from;
        if (data[from] != '\\') {
            data[to++] = data[from++];
        } else if (left >= 2 && data[from + 1] == '\\') {
            data[to++] = '\\';
            from += 2;
        } else if (left >= 3 && decode_hex(data + from + 1, 2) == 1) {
            data[to++] = data[from + 1];
            from += 3;
        } else {
            return SIZE_MAX;
        }
    }
    return to;
}

static enum reader_result read_data_line(struct reader *reader, km_bytes *out_bytes)
{
    unsigned char *line = NULL;
    size_t size = 0;
    enum reader_result result = cli_reader_line(reader, &line, &size);

    if (result == READER_END)
        return cli_reader_bad(reader, "the input ends before DATA=END");
    if (result != READER_RECORD)
        return result;
    if (line_is(km_bytes_of(line, size), "DATA=END"))
        return READER_END;
    if (size == 0 || line[0] != ' ')
        return cli_reader_bad(reader, "a line of data begins with a space");
    line++;
    size = reader->mdb->is_print ? decode_print(line, size - 1) : decode_hex(line, size - 1);
    if (size == SIZE_MAX) {
        return cli_reader_bad(reader, reader->mdb->is_print ? "bad escape: \\HH or \\\\"
                                                            : "two hex digits a byte are expected");
    }
    *out_bytes = km_bytes_of(line, size);
    return READER_RECORD;
}

/* Read what follows a key's line: its value. */
static enum reader_result read_value(struct reader *reader, km_bytes key)
{
    enum reader_result result;

    reader->key = key;
    reader->value = km_bytes_of(NULL, 0);
    result = cli_reader_check(reader);
    if (result != READER_RECORD)
        return result;
    memcpy(reader->mdb->key, key.data, key.size); /* the next line may move the buffer */
    reader->key.data = reader->mdb->key;
    result = read_data_line(reader, &reader->value);
    if (result == READER_END)
        return cli_reader_bad(reader, "a key without a value");
    if (result != READER_RECORD)
        return result;
    return cli_reader_check(reader);
}

static enum reader_result read_mdb(struct reader *reader)
{
    km_bytes first;
    enum reader_result result;

    if (reader->mdb == NULL || !reader->mdb->in_data)
        return read_header(reader);
    result = read_data_line(reader, &first);
    if (result == READER_END) {
        reader->mdb->in_data = 0;
        return read_header(reader);
    }
    if (result != READER_RECORD)
        return result;
    if (!reader->values_only)
        return read_value(reader, first);
    reader->key = km_bytes_of(NULL, 0);
    reader->value = first;
    return cli_reader_check(reader);
}

/* ---- writing ------------------------------------------------------------------------------- */

/*
 * mdb_load makes its map file as large as the header says: leave room for its pages. It warns of
 * `kind=`, and passes over it.
 */
static void begin_mdb(struct cli *cli, const km_map_info *map, uint64_t live_size)
{
    uint64_t map_size = (live_size * 4 + (16 << 20)) / 4096 * 4096;

    cli_write_string(cli, "VERSION=3\nformat=bytevalue\ndatabase=");
    cli_write(cli, map->name.data, map->name.size);
    if (map->kind != KM_INSERTION)
        cli_print(cli, "\nkind=%s", cli_kind_name(map->kind));
    cli_print(cli, "\ntype=btree\nmapsize=%llu\nHEADER=END\n", (unsigned long long)map_size);
}

static void write_mdb(struct cli *cli, const struct record *record)
{
    cli_write(cli, " ", 1);
    cli_write_hex(cli, record->key);
    cli_write(cli, "\n ", 2);
    cli_write_hex(cli, record->value);
    cli_write(cli, "\n", 1);
}

static void end_mdb(struct cli *cli)
{
    cli_write_string(cli, "DATA=END\n");
}

/* A name stands in a header line as it is; control characters would end the line or worse. */
static int can_name_mdb(km_bytes map)
{
    return cli_safe_size(map.data, map.size) == map.size;
}

const struct format cli_format_mdb = {
    .name = "mdb",
    .growth = 3,
    .read = read_mdb,
    .write_begin = begin_mdb,
    .write_record = write_mdb,
    .write_end = end_mdb,
    .can_name = can_name_mdb,
};
