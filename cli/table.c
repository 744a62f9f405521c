/* SPDX-License-Identifier: Apache-2.0
 *
 * table.c -- sealed tables: which files are tables, opening them, keys that are numbers.
 *
 * I1. Where the keys of a table are numbers, the tool shows and takes them in decimal, never as the
 *     bytes that the table has.
 *
 * Tables are read by calls, not through a mapping: a disk that fails is an error, and no signal.
 */
#include "cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char magic[] = "KMSEALH1"; /* FORMAT.md, 14.1 */

/* ---- which files ----------------------------------------------------------------------------- */

int cli_is_file(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0 && S_ISREG(about.st_mode);
}

int cli_is_table(const char *path)
{
    char begin[sizeof(magic) - 1];
    ssize_t got;
    int fd;

    if (!cli_is_file(path))
        return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return 0;
    got = pread(fd, begin, sizeof(begin), 0);
    close(fd);
    return got == (ssize_t)sizeof(begin) && memcmp(begin, magic, sizeof(begin)) == 0;
}

/* ---- errors ---------------------------------------------------------------------------------- */

int cli_table_fail(const char *path, km_status status, const km_error *error)
{
    const char *message = error->message[0] ? error->message : cli_advice(status);

    if (status == KM_E_NOT_A_STORE && error->message[0]) {
        cli_message("%.400s is a file, but no sealed table; and a store is a folder", path);
    } else if (status == KM_E_CORRUPT) {
        cli_message("%.400s is damaged: %s", path, message);
    } else {
        cli_message("%.400s: %s", path, message);
    }
    /* no key is missing, but the file: that is for the exit code of a store that is not there */
    return status == KM_NOT_FOUND ? EXIT_FAILED : cli_exit_code(status);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The library follows no symbolic link; what the user names is followed for him. */
km_status cli_table_try_open(struct table *table, struct cli *cli, const char *path,
                             km_error *out_error)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    char *real = realpath(path, NULL);
    km_status rc;

    memset(table, 0, sizeof(*table));
    memset(out_error, 0, sizeof(*out_error));
    table->cli = cli;
    table->path = path;
    options.no_mapping = 1;
    rc = km_sealed_open(real ? real : path, &options, &table->sealed, out_error);
    free(real);
    if (rc)
        return rc;
    table->info.struct_size = sizeof(table->info);
    return km_sealed_get_info(table->sealed, &table->info);
}

int cli_table_open(struct table *table, struct cli *cli, const char *path)
{
    km_error error;
    km_status rc = cli_table_try_open(table, cli, path, &error);

    return rc ? cli_table_fail(path, rc, &error) : EXIT_DONE;
}

void cli_table_close(struct table *table)
{
    km_sealed_close(table->sealed);
    table->sealed = NULL;
}

/* ---- keys ------------------------------------------------------------------------------------ */

int cli_table_has_numbers(const struct table *table)
{
    return table->info.keys != KM_SEALED_BYTES;
}

km_bytes cli_table_key(struct table *table, km_bytes key)
{
    if (!cli_table_has_numbers(table))
        return key;
    snprintf(table->shown, sizeof(table->shown), "%llu", (unsigned long long)km_sealed_number(key));
    return km_bytes_of_string(table->shown);
}

const char *cli_keys_name(km_sealed_keys keys)
{
    switch (keys) {
    case KM_SEALED_BYTES: return "bytes";
    case KM_SEALED_U8: return "u8";
    case KM_SEALED_U16: return "u16";
    case KM_SEALED_U32: return "u32";
    case KM_SEALED_U64: return "u64";
    }
    return "unknown";
}

uint64_t cli_keys_max(km_sealed_keys keys)
{
    return UINT64_MAX >> (64 - 8 * (unsigned)keys);
}

int cli_read_number(km_bytes text, uint64_t *out_number, int *out_is_over)
{
    const unsigned char *digits = text.data;
    uint64_t number = 0;
    int is_over = 0;
    size_t i;

    for (i = 0; i < text.size; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return -1;
        is_over |= __builtin_mul_overflow(number, 10, &number);
        is_over |= __builtin_add_overflow(number, (uint64_t)(digits[i] - '0'), &number);
    }
    if (text.size == 0)
        return -1;
    *out_number = is_over ? UINT64_MAX : number;
    *out_is_over = is_over;
    return 0;
}
