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
    DAYS_MAX = 36500,     /* of a time to live */
    INTERVAL_MIN_MS = 10, /* of what is printed again and again */
    BLOCK_UNIT = 4096
};

/* One entry of the table. `set` puts the value where it belongs; returns 0, or -1 if it is bad. */
struct option_entry {
    unsigned bit;
    char letter; /* 0: none */
    const char *name;
    const char *value; /* as the help shows it; NULL: the option takes none; [=...]: it may */
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

/* A whole number with a unit: ms, s, m, h or d. */
static int read_duration(const char *text, uint64_t *out_ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    const uint64_t max_ms = (uint64_t)DAYS_MAX * 86400000;
    uint64_t number;
    size_t i;

    if (read_digits(&text, &number) != 0)
        return -1;
    for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(text, units[i].unit) != 0)
            continue;
        *out_ms = number * units[i].ms;
        return number == 0 || number > max_ms / units[i].ms ? -1 : 0;
    }
    return -1;
}

int cli_read_integer(km_bytes text, int64_t *out_number)
{
    const char *digits = text.data;
    int is_negative = text.size > 0 && digits[0] == '-';
    int64_t number = 0;
    size_t i;

    for (i = (size_t)is_negative; i < text.size; i++) {
        int digit = digits[i] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, is_negative ? -digit : digit, &number))
            return -1;
    }
    if (text.size == (size_t)is_negative)
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

static int set_json(struct cli *cli, const char *text)
{
    cli->settings.value_format = VALUE_JSON;
    return strcmp(text, "json") ? -1 : 0;
}

static int set_record_format(struct cli *cli, const char *text)
{
    return strcmp(text, "tsv") == 0 ? 0 : set_json(cli, text);
}

static int set_value_format(struct cli *cli, const char *text)
{
    static const char *const names[] = {"", "raw", "json", "hex"};
    int i;

    for (i = VALUE_RAW; i <= VALUE_HEX; i++) {
        if (strcmp(text, names[i]) != 0)
            continue;
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
    cli->settings.range.prefix = km_bytes_of_string(text);
    return 0;
}

static int set_range_from(struct cli *cli, const char *text)
{
    cli->settings.range.from = km_bytes_of_string(text);
    return 0;
}

static int set_range_to(struct cli *cli, const char *text)
{
    cli->settings.range.to = km_bytes_of_string(text);
    return 0;
}

static int set_of(struct cli *cli, const char *text)
{
    cli->settings.of = km_bytes_of_string(text);
    return 0;
}

static int set_reverse(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.reverse = 1;
    return 0;
}

static int set_keys_only(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.keys_only = 1;
    return 0;
}

static int set_kind(struct cli *cli, const char *text)
{
    cli->settings.kind = cli_find_kind(km_bytes_of_string(text));
    return cli->settings.kind == KM_KIND_DEFAULT ? -1 : 0;
}

static int set_ttl(struct cli *cli, const char *text)
{
    return read_duration(text, &cli->settings.ttl_ms);
}

static int set_if_absent(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.if_absent = 1;
    return 0;
}

static int set_info(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.info = 1;
    return 0;
}

static int set_version(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.version = 1;
    return 0;
}

static int set_last(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.last = 1;
    return 0;
}

static int set_in_place(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.in_place = 1;
    return 0;
}

static int set_since(struct cli *cli, const char *text)
{
    cli->settings.since_path = text;
    return text[0] ? 0 : -1;
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

static int set_number_keys(struct cli *cli, const char *text)
{
    static const km_sealed_keys all[] = {KM_SEALED_BYTES, KM_SEALED_U8, KM_SEALED_U16,
                                         KM_SEALED_U32, KM_SEALED_U64};
    size_t i;

    for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (strcmp(text, cli_keys_name(all[i])) != 0)
            continue;
        cli->settings.number_keys = all[i];
        cli->settings.keys_given = 1;
        return 0;
    }
    return -1;
}

static int set_numbered(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.numbered = 1;
    return 0;
}

static int set_memory(struct cli *cli, const char *text)
{
    uint64_t *size = &cli->settings.memory_size;

    return read_size(text, size) != 0 || *size < KM_SEALED_MEMORY_MIN ? -1 : 0;
}

static int set_block_size(struct cli *cli, const char *text)
{
    uint64_t size;

    if (read_size(text, &size) != 0 || size % BLOCK_UNIT || size > KM_SEALED_BLOCK_SIZE_MAX)
        return -1;
    cli->settings.block_size = (uint32_t)size;
    return 0;
}

static int set_compress(struct cli *cli, const char *text)
{
    int64_t level = 0; /* the default */

    if (text && (cli_read_integer(km_bytes_of_string(text), &level) != 0 || level == 0 ||
                 level < KM_SEALED_LEVEL_MIN || level > KM_SEALED_LEVEL_MAX))
        return -1;
    cli->settings.compress = 1;
    cli->settings.compress_level = (int)level;
    return 0;
}

static int set_replace(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.replace = 1;
    return 0;
}

static int set_progress(struct cli *cli, const char *text)
{
    (void)text;
    cli->settings.progress = 1;
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
    {OPTION_KIND, 'k', "kind", "hash|insertion|sorted",
     "of a map that is made; default: insertion (an existing map must be of it)", set_kind},
    {OPTION_DURABLE, 'd', "durable", "process|power",
     "what a change survives once it is acknowledged; default: process", set_durable},
    {OPTION_TTL, 0, "ttl", "DURATION", "gone after 500ms, 10s, 5m, 2h, 1d; default: never",
     set_ttl},
    {OPTION_IF_ABSENT, 0, "if-absent", NULL, "only if the key is not there; else exit with 5",
     set_if_absent},
    {OPTION_FORMAT, 'f', "format", "json", "print JSON", set_json},
    {OPTION_RECORD_FORMAT, 'f', "format", "tsv|json", "how results are written; default: tsv",
     set_record_format},
    {OPTION_VALUE_FORMAT, 'f', "format", "raw|json|hex", "how the value is written",
     set_value_format},
    {OPTION_INFO, 0, "info", NULL, "print version, expiry and size instead of the value", set_info},
    {OPTION_INFO, 0, "version", NULL, "print the key's version instead of the value", set_version},
    {OPTION_ESCAPED, 'x', "escaped", NULL, "names, keys and values given hold \\t \\n \\\\ \\xHH",
     set_escaped},
    {OPTION_INPUT, 'i', "input", "FILE", "read FILE instead of stdin", set_input},
    {OPTION_INPUT, 0, "from", "tsv|json|mdb", "what the input is; default: by its first line",
     set_format},
    {OPTION_SEAL, 'f', "format", "tsv|json|mdb", "the same as --from", set_format},
    {OPTION_SEAL, 0, "keys", "KIND", "bytes (default), or numbers: u8, u16, u32, u64",
     set_number_keys},
    {OPTION_SEAL, 0, "number", NULL, "the input has values only: their keys are 0, 1, 2 ...",
     set_numbered},
    {OPTION_SEAL, 0, "replace", NULL, "if TABLE is there, put the new one in its place",
     set_replace},
    {OPTION_SEAL, 0, "memory", "BYTES", "sort with so much memory; default: 64M, at least 1M",
     set_memory},
    {OPTION_SEAL, 0, "block-size", "BYTES",
     "that a get reads: 4K, 8K ... 64K; default: 4K; with --compress 32K", set_block_size},
    {OPTION_SEAL, 0, "compress", "[=LEVEL]",
     "compress with zstd, at a level from -7, fastest, to 19; default: 3", set_compress},
    {OPTION_SEAL, 0, "progress", NULL, "show progress at once, and not only on a terminal",
     set_progress},
    {OPTION_DUMP, 0, "to", "tsv|json|mdb", "what to write; default: tsv", set_format},
    {OPTION_LOAD, 0, "batch", "N", "commit after N records; default: after 256 KiB", set_batch},
    {OPTION_LOAD, 0, "ack", NULL, "print the number of records so far after each commit", set_ack},
    {OPTION_DUMP, 'a', "all", NULL, "write all maps, with their names (json, mdb)", set_all},
    {OPTION_BENCH, 'n', "count", "N", "how many keys; default: 1000000", set_count},
    {OPTION_BENCH, 0, "value-size", "N", "bytes of a value; default: 100", set_value_size},
    {OPTION_BENCH, 't', "threads", "N", "how many threads; default: 1", set_threads},
    {OPTION_PREFIX, 0, "prefix", "P", "only keys that begin with P", set_prefix},
    {OPTION_RANGE, 0, "from", "KEY", "only KEY and keys after it, in byte order", set_range_from},
    {OPTION_RANGE, 0, "to", "KEY", "only keys before KEY, in byte order", set_range_to},
    {OPTION_WALK, 'r', "reverse", NULL, "from the last to the first (not in hash maps)",
     set_reverse},
    {OPTION_WALK, 'n', "limit", "N", "end after N of them", set_limit},
    {OPTION_WALK, 0, "keys", NULL, "print keys without their values", set_keys_only},
    {OPTION_OF, 0, "of", "KEY", "print the position of KEY", set_of},
    {OPTION_LAST, 0, "last", NULL, "the last key instead of the first", set_last},
    {OPTION_WATCH, 0, "after", "POSITION", "changes after POSITION, or `now` (default), or `first`",
     set_after},
    {OPTION_WATCH, 0, "for", "SECONDS", "end after SECONDS; 0: when what is there has been printed",
     set_for},
    {OPTION_LIMIT, 'n', "count", "N", "end after N of them; default: when stopped", set_limit},
    {OPTION_INTERVAL, 0, "interval", "SECONDS", "from one to the next; default: 1", set_interval},
    {OPTION_BACKUP, 0, "copy", NULL, "copy every byte: share no file, link nothing", set_copy},
    {OPTION_BACKUP, 0, "previous", "BACKUP", "link what an earlier backup has", set_previous},
    {OPTION_BACKUP, 0, "keep", "N", "DEST holds backups: add one, keep the N newest", set_keep},
    {OPTION_BACKUP, 0, "incremental", NULL, "DEST holds backups: add one, remove none",
     set_incremental},
    {OPTION_IN_PLACE, 0, "in-place", NULL, "STORE is there: put the backup in its place",
     set_in_place},
    {OPTION_SINCE, 0, "since", "BACKUP", "what has become of BACKUP: the same as diff BACKUP STORE",
     set_since},
    {OPTION_RATE, 0, "rate", "BYTES", "read so much a second; with K, M or G: KiB, MiB, GiB",
     set_rate},
    {OPTION_CLOSED, 0, "closed", NULL, "only what the next open has to do; do not open",
     set_closed},
    {OPTION_QUIET, 'q', "quiet", NULL, "print errors only", set_quiet},
    {OPTION_HELP, 'h', "help", NULL, "print this help", set_help},
};
enum { ENTRY_COUNT = sizeof(entries) / sizeof(entries[0]), LONG_BASE = 256 };

static int argument_need(const struct option_entry *entry)
{
    if (entry->value == NULL)
        return no_argument;
    return entry->value[0] == '[' ? optional_argument : required_argument;
}

/* Build getopt_long's tables of the options that a verb has. */
static void build_tables(const struct verb *verb, char *letters, struct option *names)
{
    int i;

    *letters++ = ':'; /* tell a missing value from an unknown option */
    for (i = 0; i < ENTRY_COUNT; i++) {
        const struct option_entry *entry = &entries[i];
        if (!((verb->options | OPTION_HELP) & entry->bit))
            continue;
        *names++ = (struct option){entry->name, argument_need(entry), NULL, LONG_BASE + i};
        if (entry->letter == 0)
            continue;
        *letters++ = entry->letter;
        if (entry->value)
            *letters++ = ':';
    }
    *letters = '\0';
    *names = (struct option){NULL, 0, NULL, 0};
}

int cli_usage_error(const struct verb *verb, const char *what, const char *about)
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

/*
 * getopt takes a negative number for an option. Where a verb expects one it is shown with a space
 * before it; shown_text() takes that off again. Verbs have one such argument at most.
 */
static void hide_negative(struct cli *cli, int argc, char **argv)
{
    int i;

    for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        size_t size = strlen(argv[i]);
        if (size < 2 || size + 2 > NUMBER_TEXT_MAX || argv[i][0] != '-' ||
            strspn(argv[i] + 1, "0123456789") != size - 1)
            continue;
        snprintf(cli->negative, sizeof(cli->negative), " %s", argv[i]);
        argv[i] = cli->negative;
        return;
    }
}

static char *shown_text(struct cli *cli, char *text)
{
    return text == cli->negative ? text + 1 : text;
}

static int take_option(struct cli *cli, int found, const char *text)
{
    const struct option_entry *entry = find_entry(cli->verb, found);
    const char *value = shown_text(cli, optarg);
    char about[100];

    if (found == ':')
        return cli_usage_error(cli->verb, "a value is missing after", text);
    if (entry == NULL)
        return cli_usage_error(cli->verb, "unknown option", text);
    if (entry->set(cli, value) == 0)
        return EXIT_DONE;
    snprintf(about, sizeof(about), "--%s: %.60s", entry->name, value ? value : "");
    return cli_usage_error(cli->verb, "bad value of", about);
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
        return cli_usage_error(cli->verb, "bad escape in", "--map: \\t, \\n, \\\\ or \\xHH");
    if (map->size == 0 || map->size > KM_MAP_NAME_SIZE_MAX)
        return cli_usage_error(cli->verb, "bad name in", "--map: it has 1 to 255 bytes");
    return EXIT_DONE;
}

/* Unescape a key that an option gave, and check its size. */
static int settle_key(struct cli *cli, const char *option, km_bytes *key)
{
    char about[80];

    if (cli->settings.escaped)
        key->size = cli_unescape((unsigned char *)key->data, key->size);
    snprintf(about, sizeof(about), "%s: \\t, \\n, \\\\ or \\xHH", option);
    if (key->size == SIZE_MAX)
        return cli_usage_error(cli->verb, "bad escape in", about);
    snprintf(about, sizeof(about), "%s: keys end at 65535 bytes", option);
    if (key->size > KM_KEY_SIZE_MAX)
        return cli_usage_error(cli->verb, "no key is as long as", about);
    return EXIT_DONE;
}

static int settle_keys(struct cli *cli)
{
    struct settings *settings = &cli->settings;
    int code = settle_key(cli, "--prefix", &settings->range.prefix);

    if (code == EXIT_DONE)
        code = settle_key(cli, "--from", &settings->range.from);
    if (code == EXIT_DONE)
        code = settle_key(cli, "--to", &settings->range.to);
    if (code == EXIT_DONE)
        code = settle_key(cli, "--of", &settings->of);
    return code;
}

/* Take what is left of the command line as arguments. */
static int take_arguments(struct cli *cli, int count, char **arguments)
{
    int i;

    if (count < cli->verb->argument_min)
        return cli_usage_error(cli->verb, "arguments are missing:", cli->verb->arguments);
    if (count > cli->verb->argument_max)
        return cli_usage_error(cli->verb, "too many arguments; expected are", cli->verb->arguments);
    for (i = 0; i < count; i++)
        arguments[i] = shown_text(cli, arguments[i]);
    cli->arguments = arguments;
    cli->argument_count = count;
    return EXIT_DONE;
}

int cli_parse(struct cli *cli, int argc, char **argv)
{
    char letters[2 * ENTRY_COUNT + 2];
    struct option names[ENTRY_COUNT + 1];
    int found;
    int code;

    build_tables(cli->verb, letters, names);
    if (cli->verb->options & OPTION_NEGATIVE)
        hide_negative(cli, argc, argv);
    cli->settings.after = KM_POSITION_NOW;
    opterr = 0;
    while ((found = getopt_long(argc, argv, letters, names, NULL)) != -1) {
        code = take_option(cli, found, argv[optind - 1]);
        if (code)
            return code;
    }
    if (cli->settings.help)
        return EXIT_DONE;
    code = take_arguments(cli, argc - optind, argv + optind);
    if (code == EXIT_DONE)
        code = settle_map(cli);
    return code ? code : settle_keys(cli);
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
        snprintf(left, sizeof(left), "%s--%s%s%s", short_form, entry->name,
                 argument_need(entry) == required_argument ? " " : "",
                 entry->value ? entry->value : "");
        cli_print(cli, "  %-29s %s\n", left, entry->help);
    }
}
