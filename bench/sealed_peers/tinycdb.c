/* SPDX-License-Identifier: Apache-2.0
 *
 * tinycdb.c -- tinycdb: a constant hash table in one mapped file of at most 4 GiB.
 *
 * The mapping is advised by its public field: without that each cold get would read ahead.
 */
#include "../sealed.h"

#include <cdb.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* A record has 8 bytes of sizes and two slots of 8 in the hash tables beside key and value. */
#define TINYCDB_RECORD_MAX (0xfffff000u / (SEALED_PAYLOAD_SIZE + 24))

static int tinycdb_failed(const char *what)
{
    fprintf(stderr, "tinycdb: ");
    perror(what);
    return PEER_FAILED;
}

static int tinycdb_open_file(const struct sealed_job *job, int flags)
{
    char path[SEALED_PATH_MAX + 32];

    snprintf(path, sizeof(path), "%s/table.cdb", job->path);
    return open(path, flags | O_CLOEXEC, 0600);
}

static int tinycdb_build(const struct sealed_job *job)
{
    int fd = tinycdb_open_file(job, O_RDWR | O_CREAT | O_TRUNC);
    unsigned char key_bytes[SEALED_KEY_SIZE];
    unsigned char value[SEALED_VALUE_SIZE];
    struct cdb_make make;
    uint64_t place, key;
    int rc;

    if (fd < 0)
        return tinycdb_failed("create");
    rc = cdb_make_start(&make, fd);
    for (place = 0; place < job->record_count && !rc; place++) {
        key = sealed_input_key(job, place);
        sealed_key_bytes(key, key_bytes);
        sealed_make_value(job->seed, key, value);
        rc = cdb_make_add(&make, key_bytes, sizeof(key_bytes), value, sizeof(value));
    }
    if (!rc)
        rc = cdb_make_finish(&make);
    if (!rc)
        rc = fsync(fd);
    if (rc)
        (void)tinycdb_failed("build");
    close(fd);
    return rc ? PEER_FAILED : PEER_OK;
}

static void tinycdb_close(void *opaque)
{
    struct cdb *self = opaque;
    int fd = cdb_fileno(self);

    cdb_free(self);
    close(fd);
    free(self);
}

static int tinycdb_open(const struct sealed_job *job, void **out_handle)
{
    int fd = tinycdb_open_file(job, O_RDONLY);
    struct cdb *self = calloc(1, sizeof(*self));

    if (fd < 0 || !self || cdb_init(self, fd)) {
        (void)tinycdb_failed("open");
        if (fd >= 0)
            close(fd);
        free(self);
        return PEER_FAILED;
    }
    if (job->use != SEALED_COLD_SCAN)
        madvise((void *)self->cdb_mem, self->cdb_fsize, MADV_RANDOM); /* a wish */
    *out_handle = self;
    return PEER_OK;
}

static int tinycdb_get(void *opaque, uint64_t key, struct sealed_check *check)
{
    struct cdb *self = opaque;
    unsigned char key_bytes[SEALED_KEY_SIZE];
    int rc;

    sealed_key_bytes(key, key_bytes);
    rc = cdb_find(self, key_bytes, sizeof(key_bytes));
    if (rc < 0)
        return tinycdb_failed("find");
    if (!rc)
        return PEER_NOT_FOUND;
    sealed_check_value(check, key, cdb_getdata(self), cdb_datalen(self));
    return PEER_OK;
}

static int tinycdb_walk(void *opaque, struct sealed_walk *walk)
{
    struct cdb *self = opaque;
    unsigned position;
    int rc;

    cdb_seqinit(&position, self);
    while ((rc = cdb_seqnext(&position, self)) > 0)
        sealed_walk_add(walk, sealed_key_number(cdb_getkey(self)), cdb_getdata(self),
                        cdb_datalen(self));
    return rc < 0 ? tinycdb_failed("walk") : PEER_OK;
}

#define TINYCDB_TEXT_OF(number) #number
#define TINYCDB_TEXT(number) TINYCDB_TEXT_OF(number)

const struct sealed_peer sealed_peer_tinycdb = {
    .name = "tinycdb",
    .record_max = TINYCDB_RECORD_MAX,
    .version = TINYCDB_TEXT(TINYCDB_VERSION),
    .settings = "hash file without order or checksums; mapped, MADV_RANDOM but for the cold scan",
    .sorted_note = "cdb_make_add, which looks for no duplicates; fsync at the end",
    .random_note = "the same: it need not sort",
    .build = tinycdb_build,
    .open = tinycdb_open,
    .close = tinycdb_close,
    .get = tinycdb_get,
    .walk = tinycdb_walk,
};
