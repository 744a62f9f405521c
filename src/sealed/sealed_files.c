/* SPDX-License-Identifier: Apache-2.0
 *
 * sealed_files.c -- the files of a build: names beside the table's, locks that tell a build under
 * way from what one left behind, files without a name.
 *
 * I1. A file of a build is called NAME.<16 hexadecimal digits>.sealing, NAME being the table's; the
 *     digits are random, so no name is ever used twice.
 * I2. Its build holds a lock on it for as long as it has that name. Who can lock it may remove it.
 * I3. A build goes on only with a file that had its name after it was locked: a sweep that came
 *     between creating and locking has taken that away. So what is renamed to the table's name is
 *     the file that was written.
 */
#include <stdio.h>
#include <string.h>

#include "sealed/sealed_internal.h"

#define SEALED_TRY_MAX 16   /* names that a sweep may take away, one after the other */
#define SEALED_SWEEP_MAX 64 /* files that one sweep removes; the next one goes on */

static const char sealed_temp_end[] = ".sealing";

/* ---- the folder -------------------------------------------------------------------------- */

/* Where the last component of a path begins. */
static size_t sealed_name_start(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? (size_t)(slash - path) + 1 : 0;
}

static km_status sealed_open_parent(struct os *os, const char *path, size_t size,
                                    struct os_dir **out_dir)
{
    char *parent;
    km_status rc;

    if (size == 0)
        return os->ops->open_dir(os, ".", out_dir);
    parent = km__allocate(&os->allocator, size + 1);
    if (!parent)
        return KM_E_NO_MEMORY;
    memcpy(parent, path, size); /* with the slash: so that "/" stays what it is */
    parent[size] = '\0';
    rc = os->ops->open_dir(os, parent, out_dir);
    km__release(&os->allocator, parent, size + 1);
    return rc;
}

km_status km__sealed_folder_open(struct os *os, const char *path, struct sealed_folder *out,
                                 km_error *error)
{
    size_t start = sealed_name_start(path);
    size_t size = strlen(path + start);
    km_status rc;

    if (size == 0 || size > SEALED_TABLE_NAME_MAX || strcmp(path + start, ".") == 0 ||
        strcmp(path + start, "..") == 0)
        return km__fail(error, KM_E_INVALID, NULL, 0, 0,
                        "the path has to end in a file's name of 1 to %u bytes",
                        SEALED_TABLE_NAME_MAX);
    out->os = os;
    out->dir = NULL;
    memcpy(out->name, path + start, size + 1);
    rc = sealed_open_parent(os, path, start, &out->dir);
    if (rc)
        return km__fail(error, rc, out->name, 0, os->ops->last_error(os),
                        "cannot open the folder of the table");
    return KM_OK;
}

void km__sealed_folder_close(struct sealed_folder *folder)
{
    folder->os->ops->close_dir(folder->dir);
    folder->dir = NULL;
}

/* An open tells. That a file cannot be read is of no account here. */
km_status km__sealed_folder_check_name(struct sealed_folder *folder)
{
    const struct os_ops *ops = folder->os->ops;
    struct os_file *file = NULL;
    km_status rc = ops->open_file(folder->dir, folder->name, OS_OPEN_READ, &file);

    ops->close_file(file);
    return rc == KM_E_INVALID || rc == KM_E_NO_MEMORY ? rc : KM_OK;
}

/* ---- names of temporary files ------------------------------------------------------------ */

static int sealed_is_hex_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* Whether this is what the name of a build's file has behind the table's. */
static int sealed_is_temp_end(const char *end)
{
    if (*end++ != '.')
        return 0;
    for (int i = 0; i < 16; i++, end++) {
        if (!sealed_is_hex_digit(*end)) /* the end of the name neither */
            return 0;
    }
    return strcmp(end, sealed_temp_end) == 0;
}

static int sealed_is_temp_name(const char *table, const char *name)
{
    size_t size = strlen(table);

    return strncmp(name, table, size) == 0 && sealed_is_temp_end(name + size);
}

int km__sealed_name_is_temp(const char *name)
{
    size_t size = strlen(name);

    return size >= SEALED_TEMP_END_SIZE && sealed_is_temp_end(name + size - SEALED_TEMP_END_SIZE);
}

struct sealed_sweep {
    const char *table;
    size_t count;
    char names[SEALED_SWEEP_MAX][SEALED_NAME_MAX + 1];
};

static km_status sealed_note_litter(void *context, const char *name)
{
    struct sealed_sweep *sweep = context;

    if (!sealed_is_temp_name(sweep->table, name))
        return KM_OK;
    strcpy(sweep->names[sweep->count++], name); /* as long as a name of ours: it fits */
    return sweep->count < SEALED_SWEEP_MAX ? KM_OK : KM_END;
}

static void sealed_sweep_file(struct sealed_folder *folder, const char *name)
{
    const struct os_ops *ops = folder->os->ops;
    struct os_file *file = NULL;

    if (ops->open_file(folder->dir, name, OS_OPEN_WRITE, &file) != KM_OK)
        return; /* gone, or no file of ours */
    if (ops->lock(file, OS_LOCK_EXCLUSIVE) == KM_OK)
        km__ignore(ops->unlink(folder->dir, name), "litter harms nobody");
    ops->close_file(file);
}

void km__sealed_folder_sweep(struct sealed_folder *folder)
{
    struct os *os = folder->os;
    struct sealed_sweep *sweep = km__allocate(&os->allocator, sizeof(*sweep));

    if (!sweep)
        return;
    sweep->table = folder->name;
    km__ignore(os->ops->list(folder->dir, sealed_note_litter, sweep), "litter harms nobody");
    for (size_t i = 0; i < sweep->count; i++)
        sealed_sweep_file(folder, sweep->names[i]);
    km__release(&os->allocator, sweep, sizeof(*sweep));
}

static km_status sealed_choose_name(struct sealed_folder *folder, char name[SEALED_NAME_MAX + 1])
{
    uint8_t random[8];
    km_status rc = folder->os->ops->random(folder->os, random, sizeof(random));

    if (rc)
        return rc;
    (void)snprintf(name, SEALED_NAME_MAX + 1, "%.*s.%016llx%s", (int)SEALED_TABLE_NAME_MAX,
                   folder->name, (unsigned long long)km__load64(random), sealed_temp_end);
    return KM_OK;
}

/* KM_NOT_FOUND: a sweep was there first (I3). */
static km_status sealed_hold(struct sealed_folder *folder, struct os_file *file, const char *name)
{
    const struct os_ops *ops = folder->os->ops;
    struct os_file *again = NULL;
    km_status rc = ops->lock(file, OS_LOCK_EXCLUSIVE);

    if (rc)
        return rc == KM_E_LOCKED ? KM_NOT_FOUND : rc;
    rc = ops->open_file(folder->dir, name, OS_OPEN_READ, &again);
    ops->close_file(again);
    return rc;
}

km_status km__sealed_temp_create(struct sealed_folder *folder, struct sealed_temp *out)
{
    const struct os_ops *ops = folder->os->ops;
    char name[SEALED_NAME_MAX + 1];
    struct os_file *file = NULL;
    km_status rc = KM_OK;

    for (int i = 0; i < SEALED_TRY_MAX; i++) {
        rc = sealed_choose_name(folder, name);
        if (rc)
            return rc;
        rc = ops->open_file(folder->dir, name, OS_CREATE_NEW, &file);
        if (rc)
            return rc;
        rc = sealed_hold(folder, file, name);
        if (!rc) {
            out->file = file;
            memcpy(out->name, name, sizeof(out->name));
            return KM_OK;
        }
        km__ignore(ops->unlink(folder->dir, name), "litter harms nobody");
        ops->close_file(file);
        file = NULL;
        if (rc != KM_NOT_FOUND)
            return rc;
    }
    return KM_E_IO; /* something removes all our files */
}

km_status km__sealed_temp_unlink(struct sealed_folder *folder, struct sealed_temp *temp)
{
    km_status rc = folder->os->ops->unlink(folder->dir, temp->name);

    if (!rc)
        temp->name[0] = '\0';
    return rc;
}

void km__sealed_temp_discard(struct sealed_folder *folder, struct sealed_temp *temp)
{
    if (temp->name[0] != '\0')
        km__ignore(km__sealed_temp_unlink(folder, temp), "the next build sweeps it away");
    temp->name[0] = '\0';
    folder->os->ops->close_file(temp->file);
    temp->file = NULL;
}

/* ---- spill ------------------------------------------------------------------------------- */

km_status km__sealed_spill_open(struct sealed_spill *spill)
{
    km_status rc;

    if (spill->temp.file)
        return KM_OK;
    rc = km__sealed_temp_create(spill->folder, &spill->temp);
    if (rc)
        return rc;
    return km__sealed_temp_unlink(spill->folder, &spill->temp);
}

km_status km__sealed_spill_append(struct sealed_spill *spill, const void *bytes, size_t size)
{
    km_status rc = km__sealed_spill_open(spill);

    if (rc)
        return rc;
    rc = spill->folder->os->ops->write_at(spill->temp.file, spill->size, bytes, size);
    if (!rc)
        spill->size += size;
    return rc;
}
