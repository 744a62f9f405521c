/* SPDX-License-Identifier: Apache-2.0
 *
 * format.c -- what the text forms of records have in common.
 */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct format *cli_format_find(const char *name)
{
    static const struct format *const formats[] = {&cli_format_tsv, &cli_format_json,
                                                   &cli_format_mdb};
    size_t i;

    for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i]->name, name) == 0)
            return formats[i];
    }
    return strcmp(name, "jsonl") == 0 ? &cli_format_json : NULL;
}

const struct format *cli_format_guess(struct input *input)
{
    unsigned char *line = NULL;
    size_t size = 0;

    if (cli_input_peek(input, &line, &size) != INPUT_LINE)
        return &cli_format_tsv;
    if (size >= 8 && memcmp(line, "VERSION=", 8) == 0)
        return &cli_format_mdb;
    if (size >= 1 && line[0] == '{' && memchr(line, '\t', size) == NULL)
        return &cli_format_json;
    return &cli_format_tsv;
}

void cli_reader_init(struct reader *reader, const struct cli *cli, struct input *input)
{
    const struct format *format = cli->settings.format;

    memset(reader, 0, sizeof(*reader));
    input->line_max = cli_format_json.growth * KM_VALUE_SIZE_MAX; /* the longest of any */
    if (format == NULL)
        format = cli_format_guess(input);
    reader->format = format;
    reader->input = input;
    reader->escaped = cli->settings.escaped;
    reader->values_only = cli->settings.numbered;
    input->line_max = format->growth *
                          ((uint64_t)KM_VALUE_SIZE_MAX + KM_KEY_SIZE_MAX + KM_MAP_NAME_SIZE_MAX) +
                      1024;
}

enum reader_result cli_reader_bad(struct reader *reader, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(reader->problem, sizeof(reader->problem), format, arguments);
    va_end(arguments);
    return READER_BAD;
}

enum reader_result cli_reader_line(struct reader *reader, unsigned char **out_line,
                                   size_t *out_size)
{
    switch (cli_input_line(reader->input, out_line, out_size)) {
    case INPUT_LINE: return READER_RECORD;
    case INPUT_END: return READER_END;
    case INPUT_TOO_LONG: return cli_reader_bad(reader, "the line is longer than any record can be");
    case INPUT_NO_MEMORY: return cli_reader_bad(reader, "not enough memory for so long a line");
    case INPUT_STOPPED: cli_message("stopped by a signal"); return READER_FAILED;
    case INPUT_FAILED: break;
    }
    cli_message("cannot read %s: %s", reader->input->name, strerror(errno));
    return READER_FAILED;
}

enum reader_result cli_reader_check(struct reader *reader)
{
    if (reader->key.size > KM_KEY_SIZE_MAX) {
        return cli_reader_bad(reader, "a key of %zu bytes; at most %u", reader->key.size,
                              KM_KEY_SIZE_MAX);
    }
    if (reader->value.size > KM_VALUE_SIZE_MAX) {
        return cli_reader_bad(reader, "a value of %zu bytes; at most %u", reader->value.size,
                              KM_VALUE_SIZE_MAX);
    }
    if (reader->map.data && (reader->map.size == 0 || reader->map.size > KM_MAP_NAME_SIZE_MAX)) {
        return cli_reader_bad(reader, "a map name of %zu bytes; 1 to %u", reader->map.size,
                              KM_MAP_NAME_SIZE_MAX);
    }
    return READER_RECORD;
}

void cli_write_record(struct cli *cli, const struct record *record)
{
    if (cli->settings.value_format == VALUE_JSON) {
        cli_format_json.write_record(cli, record);
    } else {
        cli_format_tsv.write_record(cli, record);
    }
}

void cli_reader_fini(struct reader *reader)
{
    free(reader->mdb);
    reader->mdb = NULL;
}
