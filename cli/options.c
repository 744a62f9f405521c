/* SPDX-License-Identifier: Apache-2.0
 *
 * options.c -- the command line, by one table of options.
 */
#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One entry of the table. `set` puts the value where it belongs; returns 0, or -1 if it is bad. */
struct option_entry {
    unsigned bit;
    char letter; /* 0: none */
    const char *name;
    const char *value; /* as the help shows it; NULL: the option takes none */
    const char *help;
    int (*set)(struct cli *cli, const char *text);
};

/* ---- setting values ------------------------------------------------------------------------ */

/* A decimal number from 1 to `max`; returns 0 or -1. */
static int read_number(const char *text, uint64_t max, uint64_t *out_number)
{
    uint64_t number = 0;
    size_t i;

    for (i = 0; text[i]; i++) {
        if (text[i] < '0' || text[i] > '9' || i > 18)
            return -1;
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    if (number == 0 || number > max)
        return -1;
    *out_number = number;
    return 0;
}

static int set_map(struct cli *cli, const char *text)
{
    cli->settings.map = km_bytes_of_string(text);
    cli->settings.map_given = 1;
    return 0;
}

static int set_durable(struct cli *cli, const char *text)
{
    if (strcmp(text, "process") == 0)
        cli->settings.durable = KM_DURABLE_PROCESS;
    if (strcmp(text, "power") == 0)
        cli->settings.durable = KM_DURABLE_POWER;
    return strcmp(text, "process") && strcmp(text, "power") ? -1 : 0;
}

/* `keepmap get` knows all three; the other verbs have JSON beside their usual output. */
static int set_value_format(struct cli *cli, const char *text)
{
    static const char *const names[] = {"", "raw", "json", "hex"};
    int i;

    for (i = VALUE_RAW; i <= VALUE_HEX; i++) {
        if (strcmp(text, names[i]) != 0)
            continue;
        if (i != VALUE_JSON && cli->verb->run != cli_run_get)
            return -1;
        cli->settings.value_format = (enum value_format)i;
        return 0;
    }
    return -1;
}

static int set_escaped(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.escaped = 1;
    return 0;
}

static int set_input(struct cli *cli, const char *text)
{
    cli->settings.input_path = text;
    return 0;
}

static int set_format(struct cli *cli, const char *text)
{
    cli->settings.format = cli_format_find(text);
    return cli->settings.format ? 0 : -1;
}

static int set_batch(struct cli *cli, const char *text)
{
    return read_number(text, UINT32_MAX, &cli->settings.batch_count);
}

static int set_ack(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.ack = 1;
    return 0;
}

static int set_all(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.all = 1;
    return 0;
}

static int set_count(struct cli *cli, const char *text)
{
    return read_number(text, UINT32_MAX, &cli->settings.bench_count);
}

static int set_value_size(struct cli *cli, const char *text)
{
    return read_number(text, 16 << 20, &cli->settings.bench_value_size);
}

static int set_threads(struct cli *cli, const char *text)
{
    return read_number(text, 256, &cli->settings.bench_threads);
}

static int set_quiet(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.quiet = 1;
    return 0;
}

static int set_help(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.help = 1;
    return 0;
}

/* ---- the table ----------------------------------------------------------------------------- */

static const struct option_entry entries[] = {
    {OPTION_MAP, 'm', "map", "NAME", "the map to work on; default: main", set_map},
    {OPTION_DURABLE, 'd', "durable", "process|power",
     "what a change survives once it is acknowledged; default: process", set_durable},
    {OPTION_FORMAT, 'f', "format", "FORMAT", "how results are written: json (get: raw, json, hex)",
     set_value_format},
    {OPTION_ESCAPED, 'x', "escaped", NULL, "names, keys and values given hold \\t \\n \\\\ \\xHH",
     set_escaped},
    {OPTION_INPUT, 'i', "input", "FILE", "read FILE instead of stdin", set_input},
    {OPTION_FROM, 0, "from", "tsv|json|mdb", "what the input is; default: by its first line",
     set_format},
    {OPTION_TO, 0, "to", "tsv|json|mdb", "what to write; default: tsv", set_format},
    {OPTION_BATCH, 0, "batch", "N", "commit after N records; default: after 256 KiB", set_batch},
    {OPTION_ACK, 0, "ack", NULL, "print the number of records so far after each commit", set_ack},
    {OPTION_ALL, 'a', "all", NULL, "write all maps, with their names (json, mdb)", set_all},
    {OPTION_COUNT, 'n', "count", "N", "how many keys; default: 1000000", set_count},
    {OPTION_VALUE_SIZE, 0, "value-size", "N", "bytes of a value; default: 100", set_value_size},
    {OPTION_THREADS, 't', "threads", "N", "how many threads; default: 1", set_threads},
    {OPTION_QUIET, 'q', "quiet", NULL, "print errors only", set_quiet},
    {OPTION_HELP, 'h', "help", NULL, "print this help", set_help},
};
enum { ENTRY_COUNT = sizeof(entries) / sizeof(entries[0]), LONG_BASE = 256 };

/* Build getopt_long's tables of the options that a verb has. */
static void build_tables(const struct verb *verb, char *letters, struct option *names)
{
    int i;

    *letters++ = ':'; /* tell a missing value from an unknown option */
    for (i = 0; i < ENTRY_COUNT; i++) {
        const struct option_entry *entry = &entries[i];
        if (!((verb->options | OPTION_HELP) & entry->bit))
            continue;
        *names++ = (struct option){entry->name, entry->value ? required_argument : no_argument,
                                   NULL, LONG_BASE + i};
        if (entry->letter == 0)
            continue;
        *letters++ = entry->letter;
        if (entry->value)
            *letters++ = ':';
    }
    *letters = '\0';
    *names = (struct option){NULL, 0, NULL, 0};
}

static int usage_error(const struct verb *verb, const char *what, const char *about)
{
    cli_message("%s %s; `keepmap %s --help` tells more", what, about, verb->name);
    return EXIT_USAGE;
}

/* Find the entry that getopt_long's answer stands for. */
static const struct option_entry *find_entry(int found)
{
    int i;

    if (found >= LONG_BASE)
        return &entries[found - LONG_BASE];
    for (i = 0; i < ENTRY_COUNT; i++) {
        if (entries[i].letter && entries[i].letter == found)
            return &entries[i];
    }
    return NULL;
}

static int take_option(struct cli *cli, int found, const char *text)
{
    const struct option_entry *entry = find_entry(found);
    char about[100];

    if (found == ':')
        return usage_error(cli->verb, "a value is missing after", text);
    if (entry == NULL)
        return usage_error(cli->verb, "unknown option", text);
    if (entry->set(cli, optarg) == 0)
        return EXIT_DONE;
    snprintf(about, sizeof(about), "--%s: %.60s", entry->name, optarg);
    return usage_error(cli->verb, "bad value of", about);
}

/* Unescape the map's name, which --escaped may follow, and check it. */
static int settle_map(struct cli *cli)
{
    km_bytes *map = &cli->settings.map;

    if (!cli->settings.map_given)
        *map = km_bytes_of_string("main");
    if (cli->settings.map_given && cli->settings.escaped)
        map->size = cli_unescape((unsigned char *)map->data, map->size);
    if (map->size == SIZE_MAX)
        return usage_error(cli->verb, "bad escape in", "--map: \\t, \\n, \\\\ or \\xHH");
    if (map->size == 0 || map->size > KM_MAP_NAME_SIZE_MAX)
        return usage_error(cli->verb, "bad name in", "--map: it has 1 to 255 bytes");
    return EXIT_DONE;
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
    char letters[2 * ENTRY_COUNT + 2];
    struct option names[ENTRY_COUNT + 1];
    int found;
    int code;

    build_tables(cli->verb, letters, names);
    opterr = 0;
    while ((found = getopt_long(argc, argv, letters, names, NULL)) != -1) {
        code = take_option(cli, found, argv[optind - 1]);
        if (code)
            return code;
    }
    cli->arguments = argv + optind;
    if (cli->settings.help)
        return EXIT_DONE;
    if (argc - optind < cli->verb->argument_count)
        return usage_error(cli->verb, "arguments are missing:", cli->verb->arguments);
    if (argc - optind > cli->verb->argument_count)
        return usage_error(cli->verb, "too many arguments; expected are", cli->verb->arguments);
    return settle_map(cli);
}

void cli_print_verb_help(struct cli *cli, const struct verb *verb)
{
    char left[60];
    char short_form[6];
    int i;

    cli_print(cli, "usage: keepmap %s [OPTION]... %s\n\n%s.\n%s\nOptions:\n", verb->name,
              verb->arguments, verb->summary, verb->details);
    for (i = 0; i < ENTRY_COUNT; i++) {
        const struct option_entry *entry = &entries[i];
        if (!((verb->options | OPTION_HELP) & entry->bit))
            continue;
        snprintf(short_form, sizeof(short_form), entry->letter ? "-%c, " : "    ", entry->letter);
        snprintf(left, sizeof(left), "%s--%s%s%s", short_form, entry->name, entry->value ? " " : "",
                 entry->value ? entry->value : "");
        cli_print(cli, "  %-29s %s\n", left, entry->help);
    }
}
