/* SPDX-License-Identifier: Apache-2.0
 *
 * verbs_backup.c -- stores and their copies: backup, restore.
 *
 * I1. An older backup is removed only after the new one is there (--keep).
 */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NAME_ATTEMPTS_MAX = 1000 };

/* ---- backup -------------------------------------------------------------------------------- */

/* A backup under way. */
struct backup {
    struct cli *cli;
    km_store *store;
    char *path;     /* of the backup */
    char *previous; /* --previous, or the newest of the set; NULL: none */
    km_backup_result result;
};

static int no_memory(void)
{
    cli_message("not enough memory");
    return EXIT_FAILED;
}

static km_status make_backup(struct backup *backup, km_error *out_error)
{
    struct progress progress;
    km_backup_options options = {.struct_size = sizeof(options)};
    km_status rc;

    memset(out_error, 0, sizeof(*out_error));
    cli_progress_begin(backup->cli, &progress, "backing up");
    options.previous = backup->previous;
    options.copy = backup->cli->settings.copy;
    options.progress = cli_progress_show;
    options.progress_context = &progress;
    rc = km_backup(backup->store, backup->path, &options, &backup->result, out_error);
    cli_progress_end(&progress);
    return rc;
}

static void print_backup(const struct backup *backup)
{
    struct cli *cli = backup->cli;

    cli_write_string(cli, "backup: ");
    cli_write_escaped(cli, km_bytes_of_string(backup->path));
    cli_print(cli, "\nposition: %llu\nlinked_bytes: %llu\ncopied_bytes: %llu\n",
              (unsigned long long)backup->result.position,
              (unsigned long long)backup->result.linked_bytes,
              (unsigned long long)backup->result.copied_bytes);
}

/* DEST is the backup. */
static int backup_once(struct backup *backup)
{
    const struct settings *settings = &backup->cli->settings;
    km_error error;
    km_status rc;

    backup->path = strdup(backup->cli->arguments[1]);
    if (settings->previous_path)
        backup->previous = strdup(settings->previous_path);
    if (backup->path == NULL || (settings->previous_path && backup->previous == NULL))
        return no_memory();
    rc = make_backup(backup, &error);
    if (rc)
        return cli_fail(rc, &error);
    print_backup(backup);
    return EXIT_DONE;
}

static char *join_path(const char *folder, const char *name)
{
    char *path = NULL;

    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* Back up under a name that tells the time; another backup of the same second may have it. */
static int backup_into_set(struct backup *backup, const struct backup_set *set)
{
    int64_t begin = time(NULL);
    char name[BACKUP_NAME_MAX];
    unsigned attempt;
    km_error error;
    km_status rc = KM_EXISTS;

    for (attempt = 1; rc == KM_EXISTS && attempt <= NAME_ATTEMPTS_MAX; attempt++) {
        cli_backup_set_name(begin, attempt, name);
        free(backup->path);
        backup->path = join_path(set->path, name);
        if (backup->path == NULL)
            return no_memory();
        rc = make_backup(backup, &error);
    }
    if (rc)
        return cli_fail(rc, &error);
    print_backup(backup);
    return EXIT_DONE;
}

/* DEST is a folder of backups. */
static int backup_and_keep(struct backup *backup)
{
    uint64_t keep_count = backup->cli->settings.keep_count;
    struct backup_set set = {.fd = -1};
    int code = cli_backup_set_open(&set, backup->cli->arguments[1]);

    if (code) goto out;
    if (set.count) {
        backup->previous = join_path(set.path, set.names[set.count - 1]);
        if (backup->previous == NULL)
            code = no_memory();
    }
    if (code == EXIT_DONE)
        code = backup_into_set(backup, &set);
    if (code == EXIT_DONE && keep_count)
        code = cli_backup_set_prune(backup->cli, &set, keep_count);
out:
    cli_backup_set_close(&set);
    return code;
}

static int check_backup_options(const struct settings *settings)
{
    if (settings->keep_count && settings->incremental) {
        cli_message("--keep and --incremental exclude each other: one removes old backups");
        return EXIT_USAGE;
    }
    if (settings->previous_path && (settings->keep_count || settings->incremental)) {
        cli_message("--previous is for a single backup: --keep and --incremental find it");
        return EXIT_USAGE;
    }
    return EXIT_DONE;
}

int cli_run_backup(struct cli *cli)
{
    struct backup backup = {.cli = cli};
    int code = check_backup_options(&cli->settings);

    if (code)
        return code;
    cli_catch_signals();
    code = cli_open(cli, KM_OPEN_READ_ONLY, &backup.store);
    if (code == EXIT_DONE) {
        code = cli->settings.keep_count || cli->settings.incremental ? backup_and_keep(&backup)
                                                                     : backup_once(&backup);
    }
    free(backup.path);
    free(backup.previous);
    return cli_close(backup.store, code);
}

/* ---- restore ------------------------------------------------------------------------------- */

static km_status restore(struct cli *cli, km_error *out_error)
{
    struct progress progress;
    const char *backup = cli->arguments[0];
    const char *path = cli->arguments[1];
    km_status rc;

    memset(out_error, 0, sizeof(*out_error));
    cli_progress_begin(cli, &progress, "restoring");
    if (cli->settings.in_place) {
        rc = km_restore_in_place(backup, path, cli_progress_show, &progress, out_error);
    } else {
        rc = km_restore(backup, path, cli_progress_show, &progress, out_error);
    }
    cli_progress_end(&progress);
    return rc;
}

int cli_run_restore(struct cli *cli)
{
    km_error error;
    km_status rc;

    cli_catch_signals();
    rc = restore(cli, &error);
    if (rc == KM_OK)
        return EXIT_DONE;
    if (rc != KM_E_NOT_A_STORE || error.message[0])
        return cli_fail(rc, &error);
    if (cli->settings.in_place) {
        cli_message("no backup in %s, or no store in %s", cli->arguments[0], cli->arguments[1]);
    } else {
        cli_message("no backup in %s", cli->arguments[0]);
    }
    return EXIT_FAILED;
}
