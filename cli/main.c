/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c -- keepmap: a persistent map on the command line. The table of verbs, and main.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

enum {
    OPTIONS_READ = OPTION_MAP | OPTION_ESCAPED | OPTION_QUIET,
    OPTIONS_CHANGE = OPTIONS_READ | OPTION_DURABLE,
    OPTIONS_PUT = OPTIONS_CHANGE | OPTION_KIND | OPTION_TTL,
    OPTIONS_RANGE = OPTION_PREFIX | OPTION_RANGE
};

static const struct verb verbs[] = {
    {"set", "STORE KEY VALUE", 3, 3, OPTIONS_PUT | OPTION_IF_ABSENT, "Set the value of a key",
     "\nStore and map are created if they are not there. A VALUE of `-` is read from stdin, byte\n"
     "for byte. Put `--` before the arguments if one of them begins with `-`.\n",
     cli_run_set, NULL},
    {"get", "STORE KEY", 2, 2, OPTIONS_READ | OPTION_VALUE_FORMAT | OPTION_INFO,
     "Print the value of a key",
     "\nThe value's bytes are written as they are, with nothing added. On a terminal they are\n"
     "escaped, unless --format raw asks for them, and a newline follows. Exits with 1 if there is\n"
     "no such key. The version is what cas expects.\n",
     cli_run_get, cli_get_in_table},
    {"del", "STORE [KEY]", 1, 2, OPTIONS_CHANGE | OPTIONS_RANGE, "Delete a key, or a range of keys",
     "\nExits with 1 if there is no such KEY. Without KEY, and with --prefix, --from or --to, all\n"
     "keys in that range of a sorted map are deleted at once, and their number is printed.\n",
     cli_run_del, NULL},
    {"pop", "STORE", 1, 1, OPTIONS_CHANGE | OPTION_LAST | OPTION_RECORD_FORMAT,
     "Delete the first key and print it",
     "\nThe key and its value are printed as by scan. Exits with 1 if the map is empty. Hash maps\n"
     "have no first key.\n",
     cli_run_pop, NULL},
    {"cas", "STORE KEY EXPECTED VALUE", 4, 4, OPTIONS_PUT, "Set a value if the key has a version",
     "\nEXPECTED is a version, as get --version prints it; 0 or `absent`: the key must not be\n"
     "there. Prints the new version. If the key has another one, nothing changes, and it exits\n"
     "with 5. A VALUE of `-` is read from stdin.\n",
     cli_run_cas, NULL},
    {"incr", "STORE KEY [N]", 2, 3, OPTIONS_PUT | OPTION_NEGATIVE, "Add to a number",
     "\nThe value is a decimal number of 64 bits, as text; a key that is not there counts as 0. N\n"
     "is 1 by default, and may be negative. Prints the sum. An expiry is kept unless --ttl is\n"
     "given.\n",
     cli_run_incr, NULL},
    {"append", "STORE KEY BYTES", 3, 3, OPTIONS_PUT, "Add bytes to the end of a value",
     "\nA key that is not there counts as empty. BYTES of `-` are read from stdin. An expiry is\n"
     "kept unless --ttl is given.\n",
     cli_run_append, NULL},
    {"count", "STORE", 1, 1, OPTIONS_READ | OPTIONS_RANGE, "Print the number of keys in a map",
     "\nWith --prefix, --from or --to: of the keys in that range. In maps that are not sorted all\n"
     "keys are read for that.\n",
     cli_run_count, cli_count_table},
    {"list", "STORE", 1, 1, OPTION_FORMAT | OPTION_QUIET, "List the maps of a store",
     "\nA line for each map: name, kind and number of keys, separated by TABs.\n", cli_run_list,
     NULL},
    {"create", "STORE", 1, 1, OPTIONS_CHANGE | OPTION_KIND, "Make an empty map",
     "\nhash maps are the fastest and have no order; insertion maps keep the order in which keys\n"
     "came, and number them; sorted maps have theirs in byte order, for ranges. The kind of a map\n"
     "is fixed. The store is created if it is not there. Exits with 2 if the map is there.\n",
     cli_run_create, NULL},
    {"drop", "STORE", 1, 1, OPTIONS_CHANGE, "Delete a map and all it holds",
     "\n--map has to be given.\n", cli_run_drop, NULL},
    {"scan", "STORE", 1, 1, OPTIONS_READ | OPTIONS_RANGE | OPTION_WALK | OPTION_RECORD_FORMAT,
     "Print a part of a map, in its order",
     "\nA line for each record: key TAB value, escaped as by dump; or JSON. Sorted maps find a\n"
     "range by itself; of maps of the other kinds all keys are read, and those in it printed.\n",
     cli_run_scan, cli_scan_table},
    {"index", "STORE [N]", 1, 2, OPTIONS_READ | OPTION_OF | OPTION_RECORD_FORMAT | OPTION_NEGATIVE,
     "Print the key at a position of an insertion map",
     "\nPositions count from 0 in the order in which keys came; -1 is the last one. The record is\n"
     "printed as by scan. With --of the position of a key is printed.\n",
     cli_run_index, NULL},
    {"load", "STORE", 1, 1, OPTIONS_PUT | OPTION_INPUT | OPTION_LOAD, "Put many records into a map",
     "\nThe input is one of\n"
     "  tsv   key TAB value; with --escaped, \\t \\n \\\\ \\xHH are read as what they stand for\n"
     "  json  {\"k\":\"key\",\"v\":\"value\"}; k64 and v64 hold base64; m names a map;\n"
     "        {\"kind\":\"sorted\"} on a line of its own, with m or without, tells a map's kind\n"
     "  mdb   what mdb_dump writes; a database becomes the map of its name\n"
     "Without --from, a first line that begins with VERSION= means mdb, one that begins with `{`\n"
     "and has no TAB json, any other tsv. --map goes before names in the input, --kind before\n"
     "kinds. Records are committed in batches; at a bad line loading stops, and what came before\n"
     "it stays.\n",
     cli_run_load, NULL},
    {"dump", "STORE", 1, 1, OPTIONS_READ | OPTION_DUMP, "Write all records of a map, in its order",
     "\nThe formats are those of load. tsv is always escaped: read it with load --escaped. It\n"
     "tells neither kinds nor expiries; json tells both, mdb kinds.\n",
     cli_run_dump, cli_dump_table},
    {"stat", "STORE", 1, 1, OPTION_FORMAT | OPTION_CLOSED | OPTION_QUIET,
     "Print statistics of a store",
     "\nThe first lines tell, as it was before it was opened, whether a process has it open for\n"
     "writing, whether it was not closed in order and needs recovery, how many bytes of log that\n"
     "replays at most, and how large the index image is that helps.\n",
     cli_run_stat, cli_stat_table},
    {"verify", "STORE", 1, 1, OPTION_QUIET, "Read every byte of a store and report damage",
     "\nWrites nothing. Exits with 4 if there is damage.\n", cli_run_verify, cli_verify_table},
    {"salvage", "STORE NEW_STORE", 2, 2, OPTION_QUIET, "Copy what is whole into a new store",
     "\nSTORE is not changed. What could not be copied is listed.\n", cli_run_salvage, NULL},
    {"scrub", "STORE", 1, 1, OPTION_RATE | OPTION_QUIET, "Verify a store while it is used",
     "\nReads full segments as they lie on the disk; may run beside a writer. Exits with 4 if\n"
     "there is damage.\n",
     cli_run_scrub, NULL},
    {"compact", "STORE", 1, 1, OPTION_FORMAT | OPTION_QUIET, "Free all the room that can be freed",
     "\nNot needed as a rule: whoever writes a store does this, a little at a time.\n",
     cli_run_compact, NULL},
    {"backup", "STORE DEST", 2, 2, OPTION_BACKUP | OPTION_QUIET,
     "Copy a store as it is now, also while it is used",
     "\nDEST is the backup's folder, and must not exist; a backup is a store that can be read.\n"
     "With --keep or --incremental DEST is a folder, created if need be, that holds backups named\n"
     "by the time in UTC; the new one links what the newest one has.\n",
     cli_run_backup, NULL},
    {"restore", "BACKUP STORE", 2, 2, OPTION_IN_PLACE | OPTION_QUIET,
     "Make a new store from a backup",
     "\nBACKUP is checked and not changed. STORE must not exist; with --in-place it has to be\n"
     "there, open in no process, and becomes what BACKUP is in one step.\n",
     cli_run_restore, NULL},
    {"diff", "OLD [NEW]", 1, 2,
     OPTION_MAP | OPTION_ESCAPED | OPTION_SINCE | OPTION_RECORD_FORMAT | OPTION_QUIET,
     "Print what differs between two stores",
     "\nOLD and NEW are stores or backups. A line for each key that differs, separated by TABs:\n"
     "  +  map  key  value   only NEW has it\n"
     "  ~  map  key  value   NEW has another value, this one\n"
     "  -  map  key          only OLD has it\n"
     "and +map or -map, name and kind, for maps: in place of the keys of one that is gone, and\n"
     "before those of a new one. Without --map those of all maps. The order of keys is not\n"
     "compared. `diff --since BACKUP STORE` is `diff BACKUP STORE`.\n",
     cli_run_diff, NULL},
    {"watch", "STORE", 1, 1,
     OPTION_MAP | OPTION_PREFIX | OPTION_ESCAPED | OPTION_WATCH | OPTION_LIMIT |
         OPTION_RECORD_FORMAT | OPTION_QUIET,
     "Print changes as they happen",
     "\nA line for each change: kind, map, position, key and value, separated by TABs and escaped\n"
     "as by dump. The kinds are put, delete, range_deleted, map_created, map_dropped and\n"
     "map_cleared. Without --map those of all maps. At the end, on stderr, the position from\n"
     "which another watch can go on.\n"
     "Exits with 1 if compaction has removed changes that were asked for.\n",
     cli_run_watch, NULL},
    {"follow", "STORE", 1, 1, OPTION_INTERVAL | OPTION_LIMIT | OPTION_FORMAT | OPTION_QUIET,
     "Print statistics again and again", "\nMeant for a store that another process writes.\n",
     cli_run_follow, NULL},
    {"top", "STORE", 1, 1, OPTION_INTERVAL | OPTION_LIMIT | OPTION_QUIET,
     "Show what a store does, live",
     "\nWhere stdout is not a terminal, frames follow one another.\n", cli_run_top, NULL},
    {"seal", "STORE|- TABLE", 2, 2, OPTIONS_READ | OPTION_INPUT | OPTION_SEAL,
     "Write a map, or records from stdin, as a sealed table",
     "\nA sealed table is a file that is written once and then only read: get, scan, count, stat,\n"
     "verify and dump take one in place of a STORE. TABLE must not be there, unless --replace is\n"
     "given; it appears when it is complete, and whoever has the old one open keeps it.\n"
     "With `-` the records of stdin, or of --input, in the formats of load become the table, in\n"
     "any order; of records with equal keys the last one counts. At a bad line nothing is\n"
     "written. With --keys u8 to u64 the input's keys are decimal numbers; those of a map have\n"
     "to be of that many bytes, the highest first. Expiries are not kept. --map chooses among\n"
     "the maps of a STORE or of the input.\n",
     cli_run_seal, NULL},
    {"unseal", "TABLE STORE", 2, 2, OPTIONS_CHANGE | OPTION_KIND,
     "Put the records of a sealed table into a map",
     "\nStore and map are created if they are not there; the map is sorted unless --kind is\n"
     "given. Keys that are numbers become their bytes, the highest first.\n",
     cli_run_unseal, cli_run_unseal},
    {"attach", "STORE TABLE", 2, 2, OPTIONS_READ, "Put a sealed table under a map",
     "\nWhat the map does not have itself is then looked up in the table. The map is a sorted or\n"
     "a hash map. The store keeps the table by a link, or a copy, of its own; stat lists it.\n"
     "The last table to be attached goes before the others.\n",
     cli_run_attach, NULL},
    {"detach", "STORE", 1, 1, OPTIONS_READ, "Take all sealed tables from under a map",
     "\nWhat only they have is gone from the map. --map has to be given. Exits with 1 if there\n"
     "are none.\n",
     cli_run_detach, NULL},
    {"bench", "STORE", 1, 1, OPTION_DURABLE | OPTION_BENCH | OPTION_QUIET,
     "Measure, and check every answer",
     "\nFills a new map `bench` with numbered keys, reads and overwrites them, and prints how\n"
     "fast and how evenly that went. Refuses a store that has a map `bench`; leaves it there.\n",
     cli_run_bench, NULL},
};
enum { VERB_COUNT = sizeof(verbs) / sizeof(verbs[0]) };

static int print_help(struct cli *cli)
{
    int i;

    cli_write_string(cli, "usage: keepmap VERB [OPTION]... STORE [ARGUMENT]...\n\n"
                          "A persistent map. STORE is the folder that holds it, or a sealed\n"
                          "table for get, count, scan, dump, stat and verify.\n\n");
    for (i = 0; i < VERB_COUNT; i++)
        cli_print(cli, "  %-8s %-24s %s\n", verbs[i].name, verbs[i].arguments, verbs[i].summary);
    cli_write_string(cli, "\n`keepmap VERB --help` shows a verb's options; keepmap(1) has it all.\n"
                          "Exit codes: 0 done, 1 not found, 2 wrong usage or input,\n"
                          "            3 I/O error, locked or full, 4 damaged store or table,\n"
                          "            5 the key is not as the change expected it.\n");
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

/* The first argument is a sealed table, with which the verb can do nothing. */
static int refuse_table(const struct cli *cli)
{
    const char *path = cli->arguments[0];

    if (cli->verb->options & OPTION_DURABLE) {
        cli_message("%.400s is a sealed table, which cannot be changed: `keepmap unseal` puts its "
                    "records into a map",
                    path);
    } else {
        cli_message("%.400s is a sealed table: get, scan, count, stat, verify, dump and unseal are "
                    "for those",
                    path);
    }
    return EXIT_USAGE;
}

static int run_verb(struct cli *cli)
{
    const struct verb *verb = cli->verb;
    const char *path = cli->arguments[0];

    if (verb->run_on_table && cli_is_file(path))
        return verb->run_on_table(cli);
    if (verb->run_on_table == NULL && cli_is_table(path))
        return refuse_table(cli);
    return verb->run(cli);
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
        return run_verb(cli);
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
