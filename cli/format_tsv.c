/* SPDX-License-Identifier: Apache-2.0
 *
 * format_tsv.c -- a line for each record: key, TAB, value.
 *
 * Written text is always escaped. Read text is taken as it stands, every byte after the first TAB
 * being the value, unless the reader is told that it is escaped. Where records have no keys, all of
 * the line is the value.
 */
#include "cli.h"

#include <string.h>

static enum reader_result read_field(struct reader *reader, const char *what, km_bytes *field)
{
    size_t size = field->size;

    if (reader->escaped)
        size = cli_unescape((unsigned char *)field->data, size);
    if (size == SIZE_MAX)
        return cli_reader_bad(reader, "bad escape in the %s: \\t, \\n, \\\\ or \\xHH", what);
    field->size = size;
    return READER_RECORD;
}

static enum reader_result read_tsv(struct reader *reader)
{
    unsigned char *line = NULL;
    unsigned char *tab = NULL;
    size_t size = 0;
    enum reader_result result = cli_reader_line(reader, &line, &size);

    if (result != READER_RECORD)
        return result;
    if (size && !reader->values_only)
        tab = memchr(line, '\t', size);
    if (tab == NULL && !reader->values_only)
        return cli_reader_bad(reader, "no TAB between key and value");
    reader->key = km_bytes_of(line, tab ? (size_t)(tab - line) : 0);
    reader->value = tab ? km_bytes_of(tab + 1, size - reader->key.size - 1)
                        : km_bytes_of(line, size);
    result = read_field(reader, "key", &reader->key);
    if (result == READER_RECORD)
        result = read_field(reader, "value", &reader->value);
    if (result == READER_RECORD)
        result = cli_reader_check(reader);
    return result;
}

static void begin_tsv(struct cli *cli, const km_map_info *map, uint64_t live_size)
{
    (void)cli;
    (void)map;
    (void)live_size;
}

static void write_tsv(struct cli *cli, const struct record *record)
{
    cli_write_escaped(cli, record->key);
    if (!cli->settings.keys_only) {
        cli_write(cli, "\t", 1);
        cli_write_escaped(cli, record->value);
    }
    cli_write(cli, "\n", 1);
}

static void end_tsv(struct cli *cli)
{
    (void)cli;
}

static int can_name_tsv(km_bytes map)
{
    (void)map; /* one map is written, without its name */
    return 1;
}

const struct format cli_format_tsv = {
    .name = "tsv",
    .growth = 4,
    .read = read_tsv,
    .write_begin = begin_tsv,
    .write_record = write_tsv,
    .write_end = end_tsv,
    .can_name = can_name_tsv,
};
