/* SPDX-License-Identifier: Apache-2.0
 *
 * null.c -- no store at all: what the driver itself costs.
 *
 * put does nothing; get makes the words that the check will look at and has them checked. The
 * figures of this peer are contained in those of every other.
 */
#include "../peer.h"

static int null_open(const struct peer_options *options, void **out_handle)
{
    static int handle;

    (void)options;
    *out_handle = &handle;
    return PEER_OK;
}

static void null_close(void *handle)
{
    (void)handle;
}

static int null_session_open(void *handle, void **out_session)
{
    *out_session = handle;
    return PEER_OK;
}

static int null_put(void *session, struct peer_bytes key, struct peer_bytes value)
{
    (void)session;
    /* Keeps the compiler from dropping the making of key and value. */
    __asm__ volatile("" : : "r"(key.data), "r"(value.data) : "memory");
    return PEER_OK;
}

static int null_del(void *session, struct peer_bytes key)
{
    (void)session;
    __asm__ volatile("" : : "r"(key.data) : "memory");
    return PEER_OK;
}

static int null_get(void *session, struct peer_bytes key, struct peer_check *check)
{
    unsigned char value[4096];
    uint64_t tag = ~peer_key_number(check->seed, check->id);
    uint64_t version = check->version_min;
    uint64_t word;
    size_t at;

    (void)session;
    __asm__ volatile("" : : "r"(key.data) : "memory");
    if (check->id >= PEER_ABSENT_ID || check->value_size > sizeof(value))
        return PEER_NOT_FOUND;
    memcpy(value, &tag, 8);
    memcpy(value + 8, &version, 8);
    for (at = 64; at + 8 <= check->value_size; at += 64) {
        word = peer_value_word(tag, version, at);
        memcpy(value + at, &word, 8);
    }
    if (check->value_size >= 24) {
        at = check->value_size / 8 * 8 - 8;
        word = peer_value_word(tag, version, at);
        memcpy(value + at, &word, 8);
    }
    peer_check_value(check, value, check->value_size);
    return PEER_OK;
}

const struct peer peer_null = {
    .name = "null",
    .is_baseline = 1,
    .version = "-",
    .settings = "no store: the cost of the driver itself",
    .process_note = "nothing survives",
    .open = null_open,
    .close = null_close,
    .session_open = null_session_open,
    .session_close = null_close,
    .put = null_put,
    .del = null_del,
    .get = null_get,
};
