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

enum {
    SECONDS_MAX = 1000000000,
    INTERVAL_MIN_MS = 10 /* of what is printed again and again */
};

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

/* A decimal number that begins at *text and fits in 64 bits; moves *text behind it. */
static int read_digits(const char **text, uint64_t *out_number)
{
    const char *digit = *text;
    uint64_t number = 0;

    for (; *digit >= '0' && *digit <= '9'; digit++) {
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*digit - '0'), &number))
            return -1;
    }
    if (digit == *text)
        return -1;
    *text = digit;
    *out_number = number;
    return 0;
}

/* Seconds, with up to three decimals, as milliseconds. */
static int read_seconds(const char *text, uint64_t *out_ms)
{
    uint64_t seconds;
    uint64_t unit = 1000;
    uint64_t ms = 0;

    if (read_digits(&text, &seconds) != 0 || seconds > SECONDS_MAX)
        return -1;
    if (text[0] == '.') {
        for (text++; *text >= '0' && *text <= '9' && unit > 1; text++) {
            unit /= 10;
            ms += (uint64_t)(*text - '0') * unit;
        }
    }
    if (*text)
        return -1;
    *out_ms = seconds * 1000 + ms;
    return 0;
}

/* A number of bytes, of KiB, MiB or GiB with the suffix K, M or G. */
static int read_size(const char *text, uint64_t *out_size)
{
    static const char suffixes[] = "KMG";
    const char *suffix;

    if (read_digits(&text, out_size) != 0 || *out_size == 0)
        return -1;
    if (*text == '\0')
        return 0;
    suffix = strchr(suffixes, *text);
    if (suffix == NULL || text[1])
        return -1;
    return __builtin_mul_overflow(*out_size, (uint64_t)1 << (10 * (suffix - suffixes + 1)),
                                  out_size)
               ? -1
               : 0;
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

/* `keepmap get` knows all three; the other verbs have JSON beside their usual output, which for
 * `watch` is called tsv. */
static int set_value_format(struct cli *cli, const char *text)
{
    static const char *const names[] = {"", "raw", "json", "hex"};
    int i;

    if (cli->verb->run == cli_run_watch && strcmp(text, "tsv") == 0)
        return 0;
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

static int set_prefix(struct cli *cli, const char *text)
{
    cli->settings.prefix = km_bytes_of_string(text);
    return 0;
}

static int set_after(struct cli *cli, const char *text)
{
    km_position *after = &cli->settings.after;

    if (strcmp(text, "now") == 0) {
        *after = KM_POSITION_NOW;
        return 0;
    }
    if (strcmp(text, "first") == 0) {
        *after = 0;
        return 0;
    }
    return read_digits(&text, after) != 0 || *text || *after == KM_POSITION_NOW ? -1 : 0;
}

static int set_for(struct cli *cli, const char *text)
{
    cli->settings.for_given = 1;
    return read_seconds(text, &cli->settings.for_ms);
}

static int set_limit(struct cli *cli, const char *text)
{
    return read_number(text, INT64_MAX, &cli->settings.limit_count);
}

static int set_interval(struct cli *cli, const char *text)
{
    int rc = read_seconds(text, &cli->settings.interval_ms);

    return rc || cli->settings.interval_ms < INTERVAL_MIN_MS ? -1 : 0;
}

static int set_copy(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.copy = 1;
    return 0;
}

static int set_previous(struct cli *cli, const char *text)
{
    cli->settings.previous_path = text;
    return text[0] ? 0 : -1;
}

static int set_keep(struct cli *cli, const char *text)
{
    return read_number(text, UINT32_MAX, &cli->settings.keep_count);
}

static int set_incremental(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.incremental = 1;
    return 0;
}

static int set_rate(struct cli *cli, const char *text)
{
    return read_size(text, &cli->settings.rate);
}

static int set_closed(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.closed = 1;
    return 0;
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
    {OPTION_FORMAT, 'f', "format", "FORMAT",
     "how results are written: json (get: raw, json, hex; watch: tsv, json)", set_value_format},
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
    {OPTION_PREFIX, 0, "prefix", "P", "only keys that begin with P", set_prefix},
    {OPTION_AFTER, 0, "after", "POSITION", "changes after POSITION, or `now` (default), or `first`",
     set_after},
    {OPTION_FOR, 0, "for", "SECONDS", "end after SECONDS; 0: when what is there has been printed",
     set_for},
    {OPTION_LIMIT, 'n', "count", "N", "end after N of them; default: when stopped", set_limit},
    {OPTION_INTERVAL, 0, "interval", "SECONDS", "from one to the next; default: 1", set_interval},
    {OPTION_COPY, 0, "copy", NULL, "copy every byte: share no file, link nothing", set_copy},
    {OPTION_PREVIOUS, 0, "previous", "BACKUP", "link what an earlier backup has", set_previous},
    {OPTION_KEEP, 0, "keep", "N", "DEST holds backups: add one, keep the N newest", set_keep},
    {OPTION_INCREMENTAL, 0, "incremental", NULL, "DEST holds backups: add one, remove none",
     set_incremental},
    {OPTION_RATE, 0, "rate", "BYTES", "read so much a second; with K, M or G: KiB, MiB, GiB",
     set_rate},
    {OPTION_CLOSED, 0, "closed", NULL, "only what the next open has to do; do not open",
     set_closed},
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

/* Find the entry that getopt_long's answer stands for; verbs may differ in what a letter means. */
static const struct option_entry *find_entry(const struct verb *verb, int found)
{
    int i;

    if (found >= LONG_BASE)
        return &entries[found - LONG_BASE];
    for (i = 0; i < ENTRY_COUNT; i++) {
        if (!((verb->options | OPTION_HELP) & entries[i].bit))
            continue;
        if (entries[i].letter && entries[i].letter == found)
            return &entries[i];
    }
    return NULL;
}

static int take_option(struct cli *cli, int found, const char *text)
{
    const struct option_entry *entry = find_entry(cli->verb, found);
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

static int settle_prefix(struct cli *cli)
{
    km_bytes *prefix = &cli->settings.prefix;

    if (cli->settings.escaped)
        prefix->size = cli_unescape((unsigned char *)prefix->data, prefix->size);
    if (prefix->size == SIZE_MAX)
        return usage_error(cli->verb, "bad escape in", "--prefix: \\t, \\n, \\\\ or \\xHH");
    if (prefix->size > KM_KEY_SIZE_MAX)
        return usage_error(cli->verb, "no key is as long as", "--prefix: keys end at 65535 bytes");
    return EXIT_DONE;
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
    char letters[2 * ENTRY_COUNT + 2];
    struct option names[ENTRY_COUNT + 1];
    int found;
    int code;

    build_tables(cli->verb, letters, names);
    cli->settings.after = KM_POSITION_NOW;
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
    code = settle_map(cli);
    return code ? code : settle_prefix(cli);
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
