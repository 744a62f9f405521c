/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c -- keepmap: a persistent map on the command line. The table of verbs, and main.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

enum {
    OPTIONS_READ = OPTION_MAP | OPTION_ESCAPED | OPTION_QUIET,
    OPTIONS_CHANGE = OPTIONS_READ | OPTION_DURABLE
};

static const struct verb verbs[] = {
    {"set", "STORE KEY VALUE", 3, OPTIONS_CHANGE, "Set the value of a key",
     "\nStore and map are created if they are not there. A VALUE of `-` is read from stdin, byte\n"
     "for byte. Put `--` before the arguments if one of them begins with `-`.\n",
     cli_run_set},
    {"get", "STORE KEY", 2, OPTIONS_READ | OPTION_FORMAT, "Print the value of a key",
     "\nThe value's bytes are written as they are, with nothing added. On a terminal they are\n"
     "escaped, unless --format raw asks for them, and a newline follows. Exits with 1 if there is\n"
     "no such key.\n",
     cli_run_get},
    {"del", "STORE KEY", 2, OPTIONS_CHANGE, "Delete a key",
     "\nExits with 1 if there is no such key.\n", cli_run_del},
    {"count", "STORE", 1, OPTIONS_READ, "Print the number of keys in a map", "", cli_run_count},
    {"list", "STORE", 1, OPTION_FORMAT | OPTION_QUIET, "List the maps of a store",
     "\nA line for each map: name, kind and number of keys, separated by TABs.\n", cli_run_list},
    {"load", "STORE", 1, OPTIONS_CHANGE | OPTION_INPUT | OPTION_FROM | OPTION_BATCH | OPTION_ACK,
     "Put many records into a map",
     "\nThe input is one of\n"
     "  tsv   key TAB value; with --escaped, \\t \\n \\\\ \\xHH are read as what they stand for\n"
     "  json  {\"k\":\"key\",\"v\":\"value\"}; k64 and v64 hold base64; m names a map\n"
     "  mdb   what mdb_dump writes; a database becomes the map of its name\n"
     "Without --from, a first line that begins with VERSION= means mdb, one that begins with `{`\n"
     "and has no TAB json, any other tsv. --map goes before names in the input. Records are\n"
     "committed in batches; at a bad line loading stops, and what came before it stays.\n",
     cli_run_load},
    {"dump", "STORE", 1, OPTIONS_READ | OPTION_TO | OPTION_ALL, "Write all records of a map",
     "\nThe formats are those of load. tsv is always escaped: read it with load --escaped.\n",
     cli_run_dump},
    {"stat", "STORE", 1, OPTION_FORMAT | OPTION_CLOSED | OPTION_QUIET,
     "Print statistics of a store",
     "\nThe first lines tell, as it was before it was opened, whether a process has it open for\n"
     "writing, whether it was not closed in order and needs recovery, how many bytes of log that\n"
     "replays at most, and how large the index image is that helps.\n",
     cli_run_stat},
    {"verify", "STORE", 1, OPTION_QUIET, "Read every byte of a store and report damage",
     "\nWrites nothing. Exits with 4 if there is damage.\n", cli_run_verify},
    {"salvage", "STORE NEW_STORE", 2, OPTION_QUIET, "Copy what is whole into a new store",
     "\nSTORE is not changed. What could not be copied is listed.\n", cli_run_salvage},
    {"scrub", "STORE", 1, OPTION_RATE | OPTION_QUIET, "Verify a store while it is used",
     "\nReads full segments as they lie on the disk; may run beside a writer. Exits with 4 if\n"
     "there is damage.\n",
     cli_run_scrub},
    {"compact", "STORE", 1, OPTION_FORMAT | OPTION_QUIET, "Free all the room that can be freed",
     "\nNot needed as a rule: whoever writes a store does this, a little at a time.\n",
     cli_run_compact},
    {"backup", "STORE DEST", 2,
     OPTION_KEEP | OPTION_INCREMENTAL | OPTION_PREVIOUS | OPTION_COPY | OPTION_QUIET,
     "Copy a store as it is now, also while it is used",
     "\nDEST is the backup's folder, and must not exist; a backup is a store that can be read.\n"
     "With --keep or --incremental DEST is a folder, created if need be, that holds backups named\n"
     "by the time in UTC; the new one links what the newest one has.\n",
     cli_run_backup},
    {"restore", "BACKUP STORE", 2, OPTION_QUIET, "Make a new store from a backup",
     "\nBACKUP is checked and not changed. STORE must not exist.\n", cli_run_restore},
    {"watch", "STORE", 1,
     OPTION_MAP | OPTION_PREFIX | OPTION_ESCAPED | OPTION_AFTER | OPTION_FOR | OPTION_LIMIT |
         OPTION_FORMAT | OPTION_QUIET,
     "Print changes as they happen",
     "\nA line for each change: kind, map, position, key and value, separated by TABs and escaped\n"
     "as by dump. The kinds are put, delete, map_created, map_dropped, map_cleared. Without --map\n"
     "those of all maps. At the end, on stderr, the position from which another watch can go on.\n"
     "Exits with 1 if compaction has removed changes that were asked for.\n",
     cli_run_watch},
    {"follow", "STORE", 1, OPTION_INTERVAL | OPTION_LIMIT | OPTION_FORMAT | OPTION_QUIET,
     "Print statistics again and again", "\nMeant for a store that another process writes.\n",
     cli_run_follow},
    {"top", "STORE", 1, OPTION_INTERVAL | OPTION_LIMIT | OPTION_QUIET,
     "Show what a store does, live",
     "\nWhere stdout is not a terminal, frames follow one another.\n", cli_run_top},
    {"bench", "STORE", 1,
     OPTION_DURABLE | OPTION_COUNT | OPTION_VALUE_SIZE | OPTION_THREADS | OPTION_QUIET,
     "Measure, and check every answer",
     "\nFills a new map `bench` with numbered keys, reads and overwrites them, and prints how\n"
     "fast and how evenly that went. Refuses a store that has a map `bench`; leaves it there.\n",
     cli_run_bench},
};
enum { VERB_COUNT = sizeof(verbs) / sizeof(verbs[0]) };

static int print_help(struct cli *cli)
{
    int i;

    cli_write_string(cli, "usage: keepmap VERB [OPTION]... STORE [ARGUMENT]...\n\n"
                          "A persistent map. STORE is the folder that holds it.\n\n");
    for (i = 0; i < VERB_COUNT; i++)
        cli_print(cli, "  %-8s %-16s %s\n", verbs[i].name, verbs[i].arguments, verbs[i].summary);
    cli_write_string(cli, "\n`keepmap VERB --help` shows a verb's options; keepmap(1) has it all.\n"
                          "Exit codes: 0 done, 1 not found, 2 wrong usage or input,\n"
                          "            3 I/O error, locked or full, 4 damaged store.\n");
    return EXIT_DONE;
}

static const struct verb *find_verb(const char *name)
{
    int i;

    for (i = 0; i < VERB_COUNT; i++) {
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    }
    return NULL;
}

static int run(struct cli *cli, int argc, char **argv)
{
    char quoted[QUOTED_MAX];
    int code;

    if (argc < 2) {
        cli_message("a verb is missing; `keepmap --help` lists them");
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_help(cli);
    if (strcmp(argv[1], "--version") == 0) {
        cli_print(cli, "keepmap %d.%d.%d\n", KM_VERSION_MAJOR, KM_VERSION_MINOR, KM_VERSION_PATCH);
        return EXIT_DONE;
    }
    cli->verb = find_verb(argv[1]);
    if (cli->verb == NULL) {
        cli_quote(km_bytes_of_string(argv[1]), quoted);
        cli_message("unknown verb %s; `keepmap --help` lists them", quoted);
        return EXIT_USAGE;
    }
    code = cli_parse(cli, argc - 1, argv + 1);
    if (code)
        return code;
    if (!cli->settings.help)
        return cli->verb->run(cli);
    cli_print_verb_help(cli, cli->verb);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct cli cli;

    memset(&cli, 0, sizeof(cli));
    cli_output_init(&cli);
    return cli_output_finish(&cli, run(&cli, argc, argv));
}
