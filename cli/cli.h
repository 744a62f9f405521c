/* SPDX-License-Identifier: Apache-2.0
 *
 * cli.h -- what the files of the keepmap tool share.
 *
 * I1. Results go to stdout through output.c alone. It keeps the first failed write, and main turns
 *     it into the exit code: a result that did not arrive is never reported as success.
 * I2. An error is one line on stderr that begins with `keepmap: `. Bytes from keys, names and files
 *     reach it escaped, so that a hostile key cannot drive the terminal.
 * I3. A function that returns `int` and takes a `struct cli *` returns an exit code, and has
 *     printed the reason if it is not EXIT_DONE.
 *
 * The tool knows the library by its public header only.
 */
#ifndef KEEPMAP_CLI_H
#define KEEPMAP_CLI_H

#include <stddef.h>
#include <stdint.h>

#include "keepmap/keepmap.h"

/* Exit codes; keepmap(1) promises them. */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_NOT_FOUND = 1, /* no such key or map; the changes asked for are gone */
    EXIT_USAGE = 2,     /* fix the command line or the input */
    EXIT_FAILED = 3,    /* reading or writing failed, the store is locked, the disk is full */
    EXIT_CORRUPT = 4,   /* the store is damaged */
    EXIT_CONFLICT = 5   /* the key is not as the change expected it: nothing changed */
};

enum value_format { VALUE_AUTO, VALUE_RAW, VALUE_JSON, VALUE_HEX };

struct format;
struct cli;

/* What the command line said; 0 or NULL where it was silent. */
struct settings {
    km_bytes map;  /* --map, unescaped; "main" by default */
    int map_given; /* --map is there */
    km_durability durable;
    enum value_format value_format;
    int escaped;
    const char *input_path;
    const struct format *format; /* --from of load and seal, --to of dump */
    uint64_t batch_count;
    int ack;
    int all;
    uint64_t bench_count;
    uint64_t bench_value_size;
    uint64_t bench_threads;
    km_range range;       /* --prefix, --from and --to of keys, unescaped; data NULL: not given */
    km_bytes of;          /* --of, unescaped; data NULL: not given */
    km_position after;    /* --after; KM_POSITION_NOW by default */
    uint64_t limit_count; /* --count of the verbs that go on until they are stopped; --limit */
    uint64_t interval_ms;
    uint64_t for_ms;
    int for_given;
    int copy;
    const char *previous_path;
    uint64_t keep_count;
    int incremental;
    uint64_t rate; /* bytes per second */
    int closed;
    km_map_kind kind; /* --kind; KM_KIND_DEFAULT where it was not given */
    uint64_t ttl_ms;
    int if_absent;
    int info;
    int version;
    int reverse;
    int keys_only;
    int last;
    int in_place;
    const char *since_path;
    km_sealed_keys number_keys; /* --keys of seal; KM_SEALED_BYTES where it was not given */
    int keys_given;
    int numbered; /* --number */
    uint64_t memory_size;
    uint32_t block_size;
    int compress;
    int compress_level; /* 0: the default */
    int replace;
    int progress;
    int quiet;
    int help;
};

/* One entry of the table of verbs (main.c). */
struct verb {
    const char *name;
    const char *arguments; /* as the help shows them; the first is what the verb works on */
    int argument_min;
    int argument_max;
    unsigned options;    /* bits of enum option_set */
    const char *summary; /* one line */
    const char *details; /* for `keepmap VERB --help` */
    int (*run)(struct cli *cli);
    int (*run_on_table)(struct cli *cli); /* where that is a sealed table; NULL: it must not be */
};

enum { NUMBER_TEXT_MAX = 24 }; /* of a 64-bit number in decimal, with a sign */

/* A run of the tool. */
struct cli {
    const struct verb *verb;
    struct settings settings;
    char **arguments;
    int argument_count;
    char negative[NUMBER_TEXT_MAX]; /* see options.c, hide_negative() */
    int output_error;               /* errno of the first failed write to stdout, or 0 (I1) */
    int output_is_terminal;
    int message_is_terminal;
};

/* ---- options.c: the command line ----------------------------------------------------------- */

/* Options that go together: a verb has all of a set or none. */
enum option_set {
    OPTION_MAP = 1 << 0,
    OPTION_DURABLE = 1 << 1,
    OPTION_FORMAT = 1 << 2,        /* json */
    OPTION_VALUE_FORMAT = 1 << 3,  /* raw, json, hex */
    OPTION_RECORD_FORMAT = 1 << 4, /* tsv, json */
    OPTION_ESCAPED = 1 << 5,
    OPTION_LOAD = 1 << 6, /* batch, ack */
    OPTION_DUMP = 1 << 7,
    OPTION_BENCH = 1 << 8,
    OPTION_QUIET = 1 << 9,
    OPTION_PREFIX = 1 << 10,
    OPTION_RANGE = 1 << 11,
    OPTION_WALK = 1 << 12,
    OPTION_WATCH = 1 << 13,
    OPTION_LIMIT = 1 << 14,
    OPTION_INTERVAL = 1 << 15,
    OPTION_BACKUP = 1 << 16,
    OPTION_RATE = 1 << 17,
    OPTION_CLOSED = 1 << 18,
    OPTION_KIND = 1 << 19,
    OPTION_TTL = 1 << 20,
    OPTION_IF_ABSENT = 1 << 21,
    OPTION_INFO = 1 << 22,
    OPTION_OF = 1 << 23,
    OPTION_LAST = 1 << 24,
    OPTION_IN_PLACE = 1 << 25,
    OPTION_SINCE = 1 << 26,
    OPTION_NEGATIVE = 1 << 27, /* no option: an argument may be a negative number */
    OPTION_HELP = 1 << 28,     /* every verb has it */
    OPTION_INPUT = 1 << 29,    /* a file of records, and what form they have */
    OPTION_SEAL = 1 << 30
};

/*
 * Read the options and arguments of cli->verb; argv[0] is the verb's name. Fills settings and
 * arguments. Options may stand anywhere before `--`.
 */
int cli_parse(struct cli *cli, int argc, char **argv);

/* Print that the command line of a verb is wrong, and where help is; returns EXIT_USAGE. */
int cli_usage_error(const struct verb *verb, const char *what, const char *about);

/* Read a decimal number that is all of the bytes and fits; returns 0, or -1 if it is malformed. */
int cli_read_integer(km_bytes text, int64_t *out_number);

/* Print what `keepmap VERB --help` shows, from the verb's entry and the table of options. */
void cli_print_verb_help(struct cli *cli, const struct verb *verb);

/* ---- session.c: stores, maps, arguments, errors ---------------------------------------------- */

/* Print one line on stderr: the prefix, then the text, escaped (I2). */
void cli_message(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* As cli_message(), unless --quiet was given: for what is no error. */
void cli_note(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether a status means that the call has to be changed, the disk looked at, ... */
int cli_exit_code(km_status status);

/* Print what an error of a slow call says; returns the exit code of its status. */
int cli_fail(km_status status, const km_error *error);

/* The same for a call on an open store that has no km_error; `doing` completes "cannot ...". */
int cli_fail_in_store(const km_store *store, km_status status, const char *doing);

/* The same for a call on the folder `path`, which may hold no store. */
int cli_fail_at(const char *path, km_status status, const km_error *error);

/* Open the store that the first argument names; the first function leaves failures to be told. */
km_status cli_try_open(struct cli *cli, km_open_mode mode, km_store **out_store,
                       km_error *out_error);
int cli_open(struct cli *cli, km_open_mode mode, km_store **out_store);

/* As cli_open() for reading, of another folder. */
int cli_open_at(struct cli *cli, const char *path, km_store **out_store);

/* Close a store (NULL accepted) after work that came to `code`; returns the worse of the two. */
int cli_close(km_store *store, int code);

/* The map that settings.map names: find it, or make it. */
int cli_find_map(struct cli *cli, km_store *store, km_map **out_map);
int cli_make_map(struct cli *cli, km_store *store, km_map **out_map);

/*
 * Find or make the map `name`. Its kind is --kind, which an existing map must have, or else `kind`,
 * which is told where an existing map has another one.
 */
int cli_make_named_map(struct cli *cli, km_store *store, km_bytes name, km_map_kind kind,
                       km_map **out_map);

/* The kind of a map of that name; KM_KIND_DEFAULT if there is none. */
km_map_kind cli_map_kind(km_store *store, km_bytes name);

/* A kind by its name, and the other way round; KM_KIND_DEFAULT for a name that is none. */
km_map_kind cli_find_kind(km_bytes name);
const char *cli_kind_name(km_map_kind kind);

/* Say what the map of settings.map cannot do, being of its kind; returns the exit code of that. */
int cli_kind_lacks(struct cli *cli, const char *what);

/* What a user can do about a status that comes without a message of its own. */
const char *cli_advice(km_status status);

/* An argument as bytes, unescaped (in place, once) if --escaped was given. */
int cli_argument(struct cli *cli, int index, km_bytes *out_bytes);

/* The same for a value; `-` stands for all of stdin. *out_owned is to be freed. */
int cli_value_argument(struct cli *cli, int index, km_bytes *out_value, unsigned char **out_owned);

/* The order of a sorted map: less than 0, 0, or more. */
int cli_compare_keys(km_bytes a, km_bytes b);

/* Say that a key is not there; returns the exit code of that. */
int cli_key_missing(struct cli *cli, km_bytes key);

enum { QUOTED_MAX = 160 };

/* Bytes for a message: in quotes, escaped, cut off with `...` where they are long. */
void cli_quote(km_bytes bytes, char out_text[QUOTED_MAX]);

/* ---- output.c: stdout ------------------------------------------------------------------------ */

/* Make descriptors 0 to 2 exist, so that no file of a store can become stdout; ignore SIGPIPE. */
void cli_output_init(struct cli *cli);

/* Write bytes, a string, formatted text. Nothing is written after a failure. */
void cli_write(struct cli *cli, const void *data, size_t size);
void cli_write_string(struct cli *cli, const char *string);
void cli_print(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Pass on what is buffered. Returns 0, or the errno of the first failed write. */
int cli_flush(struct cli *cli);

/* Whether nothing can be written any more; sees without a write that a pipe's reader went away. */
int cli_output_is_gone(struct cli *cli);

/*
 * Close stdout; returns `code`, or EXIT_FAILED with a message if a write failed. If the reader of a
 * pipe went away, does not return: the process ends by SIGPIPE, quietly, as other tools do.
 */
int cli_output_finish(struct cli *cli, int code);

/* ---- escape.c: bytes as text ----------------------------------------------------------------- */

/* Bytes of the valid UTF-8 character at `data` (1 to 4), or 0 if there is none. */
size_t cli_utf8_size(const unsigned char *data, size_t size);

/* Whether all of the bytes are valid UTF-8. */
int cli_is_utf8(km_bytes bytes);

/*
 * How many bytes from the start are safe on a terminal and in a line of text: valid UTF-8 without
 * control characters (C0, DEL, C1). A backslash counts as safe here.
 */
size_t cli_safe_size(const unsigned char *data, size_t size);

/* Write bytes with \t, \n, \\ and \xHH for whatever is not plain text; cli_unescape() reads it. */
void cli_write_escaped(struct cli *cli, km_bytes bytes);

/* Replace the escapes in `data` in place; returns the new size, or SIZE_MAX if one is malformed. */
size_t cli_unescape(unsigned char *data, size_t size);

/* Write two hex digits for each byte. */
void cli_write_hex(struct cli *cli, km_bytes bytes);

/* Value of a hex digit, or -1. */
int cli_hex_digit(unsigned char digit);

/* Write bytes in base64 (RFC 4648, padded). */
void cli_write_base64(struct cli *cli, km_bytes bytes);

/* Decode base64 in place; returns the new size, or SIZE_MAX if it is malformed. */
size_t cli_decode_base64(unsigned char *data, size_t size);

/* ---- input.c: lines of a file or pipe -------------------------------------------------------- */

/* Where lines come from. data[start..end) was read and not yet consumed. */
struct input {
    int fd;
    const char *name; /* for messages */
    unsigned char *data;
    size_t capacity;
    size_t start;
    size_t end;
    size_t line_max;     /* a longer line is refused */
    uint64_t line;       /* number of the line returned last, from 1 */
    uint64_t done_size;  /* bytes consumed */
    uint64_t total_size; /* of a regular file; 0 if not known */
    int ended;
};

enum input_result {
    INPUT_LINE,
    INPUT_END,
    INPUT_TOO_LONG,
    INPUT_NO_MEMORY,
    INPUT_STOPPED, /* a signal asked the tool to end */
    INPUT_FAILED
};

/* Begin to read a file, or stdin for NULL. */
int cli_input_open(struct input *input, const char *path);
void cli_input_close(struct input *input);

/*
 * The next line without its newline. It may be changed in place, and lives until the next call.
 * Waits for no more input than the line itself. After INPUT_FAILED errno tells the cause.
 */
enum input_result cli_input_line(struct input *input, unsigned char **out_line, size_t *out_size);

/* The same line without consuming it; it must not be changed. */
enum input_result cli_input_peek(struct input *input, unsigned char **out_line, size_t *out_size);

/* Read all of stdin, at most size_max bytes; *out_data is to be freed. */
int cli_read_stdin(size_t size_max, unsigned char **out_data, size_t *out_size);

/* ---- format_*.c: records as text ------------------------------------------------------------- */

enum { READER_PROBLEM_MAX = 200 };

/* Reads records of one format. Names, keys and values live until the next read. */
struct reader {
    struct input *input;
    const struct format *format;
    int escaped;      /* tsv: fields have escapes */
    int values_only;  /* records have no keys */
    km_bytes map;     /* where the input names one; data is NULL where not */
    km_map_kind kind; /* of that map, with READER_MAP; KM_KIND_DEFAULT where not told */
    km_bytes key;
    km_bytes value;
    uint64_t expires_ms;              /* wall clock, ms since 1970; 0: the key stays */
    char problem[READER_PROBLEM_MAX]; /* set with READER_BAD */
    struct mdb_state *mdb;
};

enum reader_result {
    READER_RECORD, /* key and value, and map where named */
    READER_MAP,    /* a map was named or begun, without a record so far */
    READER_END,
    READER_BAD,   /* problem says what is wrong with line input->line */
    READER_FAILED /* the input could not be read, or a signal came; printed */
};

/* A record to be written. */
struct record {
    km_bytes map;
    km_bytes key;
    km_bytes value;
    uint64_t expires_ms; /* 0: the key stays */
};

/* A text form of records. */
struct format {
    const char *name;
    uint64_t growth; /* bytes of text per byte of data, at most */
    enum reader_result (*read)(struct reader *reader);
    void (*write_begin)(struct cli *cli, const km_map_info *map, uint64_t live_size);
    void (*write_record)(struct cli *cli, const struct record *record);
    void (*write_end)(struct cli *cli);
    int (*can_name)(km_bytes map); /* whether a map of this name can be written */
};

extern const struct format cli_format_tsv;
extern const struct format cli_format_json;
extern const struct format cli_format_mdb;

/* Find a format by its name; NULL if there is none. */
const struct format *cli_format_find(const char *name);

/* Guess the format by the first line; changes nothing in the input but its buffer. */
const struct format *cli_format_guess(struct input *input);

/* Begin to read records as --from and --escaped say, or in the form that the first line has. */
void cli_reader_init(struct reader *reader, const struct cli *cli, struct input *input);

/* Read a line for a reader; READER_RECORD stands for success. */
enum reader_result cli_reader_line(struct reader *reader, unsigned char **out_line,
                                   size_t *out_size);

/* Set the reader's problem and return READER_BAD. */
enum reader_result cli_reader_bad(struct reader *reader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Check the sizes of a record against the limits of the library. */
enum reader_result cli_reader_check(struct reader *reader);

/* Release what a reader holds. */
void cli_reader_fini(struct reader *reader);

/* Write a record as --format asks for it: an escaped line, or JSON; with --keys its key alone. */
void cli_write_record(struct cli *cli, const struct record *record);

/* Write `"name": "text"`, or `"name64": "base64"` for bytes that are not UTF-8. */
void cli_write_json_member(struct cli *cli, const char *name, km_bytes bytes);

/* ---- progress.c: a bar for long work ----------------------------------------------------------
 */

struct progress {
    const char *label;
    uint64_t begin_ns;
    uint64_t drawn_ns; /* when the bar was drawn last; 0: never */
    int enabled;       /* stderr is a terminal, and not --quiet; or --progress */
    int at_once;       /* --progress: also for work of less than a second */
    int in_lines;      /* --progress, and stderr is no terminal: a line each time */
};

void cli_progress_begin(const struct cli *cli, struct progress *progress, const char *label);

/* Draw the bar if it is time for that; a total_size of 0 is not known. */
void cli_progress_update(struct progress *progress, uint64_t done_size, uint64_t total_size);

/* Remove the bar, so that a message can follow. */
void cli_progress_end(struct progress *progress);

/* A km_progress_fn whose context is a struct progress; stops the work once cli_is_stopped(). */
int cli_progress_show(void *progress, uint64_t done_size, uint64_t total_size);

/* Monotonic time; and the time of day, since 1970. */
uint64_t cli_now_ns(void);
uint64_t cli_wall_ms(void);

/* ---- signal.c: signals that end long work --------------------------------------------------- */

/* From here on SIGINT, SIGTERM and SIGHUP are only noted; the other function: SIGTSTP too. */
void cli_catch_signals(void);
void cli_catch_suspend(void);

/* Whether a signal asked the tool to end. */
int cli_is_stopped(void);

/* Whether the terminal asked for a pause since the last call. */
int cli_take_suspend(void);

/* Wait, but not longer than until a signal comes. */
void cli_pause(uint64_t ms);

/* ---- live.c: a store that other processes write ---------------------------------------------- */

/*
 * A store opened for reading for as long as the tool runs. Beside a writer it is followed. Where
 * there is no writer it is let go of, so that one can come, and opened again when one has come.
 */
struct live {
    struct cli *cli;
    km_store *store;    /* NULL while there is no writer */
    uint64_t log_bytes; /* when the store was let go of */
    int is_told;        /* that there is no writer */
};

/* Open the store for the first time. */
int cli_live_open(struct live *live, struct cli *cli);

/*
 * Let go of a store that no other process writes; returns whether that is so. Whatever belongs to
 * the open store has to be closed before; cli_live_is_alone() asks first.
 */
int cli_live_is_alone(const struct live *live);
void cli_live_let_go(struct live *live);

/* If the store was let go of and has changed or has a writer by now, open it again. */
int cli_live_reopen(struct live *live);

int cli_live_close(struct live *live, int code);

/* ---- backup_set.c: a folder of dated backups ------------------------------------------------- */

enum { BACKUP_NAME_MAX = 32 };

/* The backups in a folder. */
struct backup_set {
    const char *path;
    int fd;
    int is_locked;                  /* against other runs of the tool */
    char (*names)[BACKUP_NAME_MAX]; /* oldest first */
    size_t count;
};

/* Open the folder, created if it is not there, lock it, and list the backups in it. */
int cli_backup_set_open(struct backup_set *set, const char *path);
void cli_backup_set_close(struct backup_set *set);

/* A name for a backup begun at `seconds` (UTC); attempts count from 1 and give different names. */
void cli_backup_set_name(int64_t seconds, unsigned attempt, char out_name[BACKUP_NAME_MAX]);

/*
 * Remove the oldest backups, so that `keep_count` stay, among them the one just made, which the
 * list does not have; prints a line for each one removed.
 */
int cli_backup_set_prune(struct cli *cli, struct backup_set *set, uint64_t keep_count);

/* ---- table.c: sealed tables ------------------------------------------------------------------ */

enum { NUMBER_KEY_MAX = 8 }; /* bytes of a key that is a number */

/* An open sealed table. */
struct table {
    struct cli *cli;
    const char *path;
    km_sealed *sealed;
    km_sealed_info info;
    char shown[NUMBER_TEXT_MAX]; /* the number that cli_table_key() returned last */
};

/* Whether a path, or what a symbolic link there leads to, is a file; and one that begins as sealed
 * tables do. */
int cli_is_file(const char *path);
int cli_is_table(const char *path);

/* Open the table at `path`; the first function leaves failures to be told. */
km_status cli_table_try_open(struct table *table, struct cli *cli, const char *path,
                             km_error *out_error);
int cli_table_open(struct table *table, struct cli *cli, const char *path);
void cli_table_close(struct table *table);

/* Print what an error of a call on a table says; returns the exit code of its status. */
int cli_table_fail(const char *path, km_status status, const km_error *error);

/* Whether the keys are numbers. */
int cli_table_has_numbers(const struct table *table);

/* A key as it is shown: a number in decimal. It lives until the next call. */
km_bytes cli_table_key(struct table *table, km_bytes key);

/* The name of a kind of keys, bytes or u8 to u64; and the largest number of a kind. */
const char *cli_keys_name(km_sealed_keys keys);
uint64_t cli_keys_max(km_sealed_keys keys);

/* Read a decimal number that is all of the bytes; one over 64 bits becomes UINT64_MAX, and
 * *out_is_over is set. Returns 0, or -1 if it is malformed. */
int cli_read_number(km_bytes text, uint64_t *out_number, int *out_is_over);

/* ---- the verbs --------------------------------------------------------------------------------
 */

int cli_run_set(struct cli *cli);
int cli_run_get(struct cli *cli);
int cli_run_del(struct cli *cli);
int cli_run_pop(struct cli *cli);
int cli_run_cas(struct cli *cli);
int cli_run_incr(struct cli *cli);
int cli_run_append(struct cli *cli);
int cli_run_count(struct cli *cli);
int cli_run_list(struct cli *cli);
int cli_run_create(struct cli *cli);
int cli_run_drop(struct cli *cli);
int cli_run_scan(struct cli *cli);
int cli_run_index(struct cli *cli);
int cli_run_load(struct cli *cli);
int cli_run_dump(struct cli *cli);
int cli_run_stat(struct cli *cli);
int cli_run_verify(struct cli *cli);
int cli_run_salvage(struct cli *cli);
int cli_run_scrub(struct cli *cli);
int cli_run_compact(struct cli *cli);
int cli_run_backup(struct cli *cli);
int cli_run_restore(struct cli *cli);
int cli_run_diff(struct cli *cli);
int cli_run_watch(struct cli *cli);
int cli_run_follow(struct cli *cli);
int cli_run_top(struct cli *cli);
int cli_run_bench(struct cli *cli);
int cli_run_seal(struct cli *cli);
int cli_run_unseal(struct cli *cli);
int cli_run_attach(struct cli *cli);
int cli_run_detach(struct cli *cli);

/* verbs_table.c: verbs on a sealed table. */
int cli_get_in_table(struct cli *cli);
int cli_count_table(struct cli *cli);
int cli_scan_table(struct cli *cli);
int cli_dump_table(struct cli *cli);
int cli_stat_table(struct cli *cli);
int cli_verify_table(struct cli *cli);

/* verbs_record.c: a value as --format asks for it. */
void cli_print_value(struct cli *cli, const struct record *record);

/* seal_input.c: records of stdin or a file as a sealed table. */
int cli_seal_input(struct cli *cli);

/* A sealed table that is being written. */
struct sealing {
    struct cli *cli;
    const char *path;
    struct progress progress;
    const struct input *input; /* NULL: records come from a store */
    uint64_t begin_ns;
    int is_merging;
};

/* verbs_seal.c: begin a table with the options of the command line, tell of a failure, report. */
int cli_sealing_begin(struct sealing *sealing, struct cli *cli,
                      km_sealed_build_options *out_options);
int cli_sealing_failed(struct sealing *sealing, km_status status, const km_error *error);
int cli_sealing_done(struct sealing *sealing);

/* verbs_attach.c: the tables under the maps of a store, as a part of its statistics. */
int cli_print_attached(struct cli *cli, km_store *store);

/* verbs_scan.c: `del` of a range; and whether --prefix, --from or --to was given. */
int cli_delete_range(struct cli *cli);
int cli_has_range(const struct cli *cli);

/* verbs_store.c: an open store's statistics; and the same printed, in lines or as JSON. */
int cli_get_stats(km_store *store, km_stats *out_stats);
void cli_print_stats(struct cli *cli, const km_stats *stats);

/* verbs_store.c: a line `name: number`, or a member; the first of an object opens it. */
void cli_print_figure(struct cli *cli, int is_first, const char *name, uint64_t number);
void cli_end_figures(struct cli *cli);

#endif /* KEEPMAP_CLI_H */
