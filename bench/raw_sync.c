/* SPDX-License-Identifier: Apache-2.0
 *
 * raw_sync.c -- no store: the cheapest way this disk and file system have to make bytes durable.
 *
 * A put is a pwritev2 of 4 KiB with RWF_DSYNC into a file that was filled with zeroes and synced
 * beforehand, so no metadata changes. Threads take places of their own and share nothing. What a
 * store achieves in the power class stands beside this figure, taken in the same run.
 */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RAW_BLOCK_SIZE = 4096, RAW_BLOCK_COUNT = 16384 };

struct raw_handle {
    int fd;
    atomic_uint_fast64_t next_block;
};

struct raw_session {
    struct raw_handle *handle;
    unsigned char *block;
};

static int raw_failed(const char *what)
{
    fprintf(stderr, "raw: %s: %s\n", what, strerror(errno));
    return PEER_FAILED;
}

static int raw_fill(int fd)
{
    static const unsigned char zeroes[64 * RAW_BLOCK_SIZE];
    int i;

    for (i = 0; i < RAW_BLOCK_COUNT / 64; i++) {
        if (write(fd, zeroes, sizeof(zeroes)) != (ssize_t)sizeof(zeroes))
            return PEER_FAILED;
    }
    return fsync(fd) ? PEER_FAILED : PEER_OK;
}

static int raw_open(const struct peer_options *options, void **out_handle)
{
    struct raw_handle *handle = calloc(1, sizeof(*handle));
    char path[4096];

    if (!handle)
        return PEER_FAILED;
    snprintf(path, sizeof(path), "%s/data", options->path);
    handle->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (handle->fd < 0 || raw_fill(handle->fd) != PEER_OK) {
        (void)raw_failed("open");
        if (handle->fd >= 0)
            close(handle->fd);
        free(handle);
        return PEER_FAILED;
    }
    *out_handle = handle;
    return PEER_OK;
}

static void raw_close(void *opaque)
{
    struct raw_handle *handle = opaque;

    close(handle->fd);
    free(handle);
}

static int raw_session_open(void *handle, void **out_session)
{
    struct raw_session *session = calloc(1, sizeof(*session));

    if (!session)
        return PEER_FAILED;
    session->handle = handle;
    session->block = aligned_alloc(RAW_BLOCK_SIZE, RAW_BLOCK_SIZE);
    if (!session->block) {
        free(session);
        return PEER_FAILED;
    }
    memset(session->block, 0, RAW_BLOCK_SIZE);
    *out_session = session;
    return PEER_OK;
}

static void raw_session_close(void *opaque)
{
    struct raw_session *session = opaque;

    free(session->block);
    free(session);
}

static int raw_put(void *opaque, struct peer_bytes key, struct peer_bytes value)
{
    struct raw_session *session = opaque;
    struct iovec part = {session->block, RAW_BLOCK_SIZE};
    size_t value_size = value.size < RAW_BLOCK_SIZE - 32 ? value.size : RAW_BLOCK_SIZE - 32;
    uint64_t block;

    memcpy(session->block, key.data, key.size);
    memcpy(session->block + 32, value.data, value_size);
    /* relaxed: only the number itself is shared */
    block = atomic_fetch_add_explicit(&session->handle->next_block, 1, memory_order_relaxed);
    if (pwritev2(session->handle->fd, &part, 1, (off_t)(block % RAW_BLOCK_COUNT * RAW_BLOCK_SIZE),
                 RWF_DSYNC) != RAW_BLOCK_SIZE)
        return raw_failed("pwritev2");
    return PEER_OK;
}

const struct peer peer_raw = {
    .name = "raw",
    .is_baseline = 1,
    .version = "-",
    .settings = "no store: pwritev2 of 4 KiB with RWF_DSYNC into a zero-filled file",
    .power_note = "the record is durable; nothing could find it again",
    .open = raw_open,
    .close = raw_close,
    .session_open = raw_session_open,
    .session_close = raw_session_close,
    .put = raw_put,
};
