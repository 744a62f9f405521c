/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf.h -- values that are protobuf-c messages. Not part of keepmap.h: a program that wants it
 * includes it, and links libprotobuf-c itself (`pkg-config --cflags --libs libprotobuf-c`); the
 * library does not need it. All is inline and uses the public calls only.
 *
 *     Account account = ACCOUNT__INIT;
 *     ProtobufCMessage *found;
 *     ...
 *     rc = km_put_message(map, key, &account.base, NULL);
 *     rc = km_get_message(map, key, &account__descriptor, NULL, &found);
 *     if (rc == KM_OK) {
 *         printf("%s\n", ((Account *)found)->name);
 *         protobuf_c_message_free_unpacked(found, NULL);
 *     }
 *
 * A value is the packed message and nothing else, so other languages and `keepmap get` read it too.
 * It does not say of which type it is: bytes that can be read as the type asked for are, whatever
 * they were written as; fields that the type does not know are kept in unknown_fields, and written
 * again. A message without any field set packs to no bytes, which is a value.
 *
 * For everything that has no call of its own here (batches, compare and set, cursors, snapshots,
 * km_get_many, a value that was there before) there are km_pack_message() and km_unpack_message().
 * Also in a loop: packing into one km_buffer again and again allocates nothing.
 */
#ifndef KEEPMAP_PROTOBUF_H
#define KEEPMAP_PROTOBUF_H

#include <stdlib.h>

#include <protobuf-c/protobuf-c.h>

#include "keepmap/keepmap.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Messages in messages, at most. protobuf-c takes a piece of the stack for each of them, so bytes
 * of a stranger's could end the program without this limit. */
#define KM_MESSAGE_DEPTH_MAX 100u

/* ---- parts of what follows, not for callers ----------------------------------------------- */

/* Passes requests on, and notes whether one failed: protobuf-c tells no memory from bad bytes. */
struct km__message_memory {
    ProtobufCAllocator *allocator; /* the caller's, or NULL */
    int failed;
};

/* Where a walk over packed bytes stands in one of the messages around it. */
struct km__message_level {
    const ProtobufCMessageDescriptor *type;
    const uint8_t *end;
};

/*
 * km__message_alloc, km__message_free, km__message_varint, km__message_content,
 * km__message_is_shallow, km__message_is_type -- inner parts of this header.
 *
 * Returns, Lifetime, Threads, Blocks:  matters of the calls below, which use them.
 */
static inline void *km__message_alloc(void *data, size_t size)
{
    struct km__message_memory *memory = (struct km__message_memory *)data;
    ProtobufCAllocator *allocator = memory->allocator;
    void *block = allocator ? allocator->alloc(allocator->allocator_data, size) : malloc(size);

    if (!block)
        memory->failed = 1;
    return block;
}

static inline void km__message_free(void *data, void *block)
{
    ProtobufCAllocator *allocator = ((struct km__message_memory *)data)->allocator;

    if (allocator)
        allocator->free(allocator->allocator_data, block);
    else
        free(block);
}

/* The byte behind the varint at `at`, NULL if it does not end. Bits over 64 are dropped. */
static inline const uint8_t *km__message_varint(const uint8_t *at, const uint8_t *end,
                                                uint64_t *out_number)
{
    uint64_t number = 0;
    unsigned shift;

    for (shift = 0; shift < 70 && at < end; shift += 7) {
        uint8_t byte = *at++;
        if (shift < 64)
            number |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *out_number = number;
            return at;
        }
    }
    return NULL;
}

/* The contents of a field whose tag ends at `at`, NULL if they are not all there. */
static inline const uint8_t *km__message_content(const uint8_t *at, const uint8_t *end,
                                                 unsigned wire_type, uint64_t *out_size)
{
    const uint8_t *behind;

    switch (wire_type) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        behind = km__message_varint(at, end, out_size);
        if (!behind)
            return NULL;
        *out_size = (uint64_t)(behind - at);
        break;
    case PROTOBUF_C_WIRE_TYPE_64BIT: *out_size = 8; break;
    case PROTOBUF_C_WIRE_TYPE_32BIT: *out_size = 4; break;
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED: at = km__message_varint(at, end, out_size); break;
    default: at = NULL; break;
    }
    return at && *out_size <= (uint64_t)(end - at) ? at : NULL;
}

/*
 * Whether no message in these bytes lies deeper than KM_MESSAGE_DEPTH_MAX, the outermost being 1.
 * A level takes two bytes at least, so most messages need no look, and what is too short to go too
 * deep is stepped over. Bytes that are no message may get either answer: protobuf-c refuses them
 * before it goes deeper than this walk went. Each turn passes a byte or ends a level.
 */
static inline int km__message_is_shallow(const ProtobufCMessageDescriptor *type, km_bytes packed)
{
    struct km__message_level levels[KM_MESSAGE_DEPTH_MAX];
    const ProtobufCFieldDescriptor *field;
    const uint8_t *at = (const uint8_t *)packed.data;
    unsigned depth = 1;
    uint64_t tag, size;

    if (packed.size / 2 < KM_MESSAGE_DEPTH_MAX)
        return 1;
    levels[0].type = type;
    levels[0].end = at + packed.size;
    while (depth > 0) {
        const struct km__message_level *level = &levels[depth - 1];
        if (at == level->end) {
            depth--;
            continue;
        }
        at = km__message_varint(at, level->end, &tag);
        if (at)
            at = km__message_content(at, level->end, (unsigned)(tag & 7), &size);
        if (!at)
            return 0;
        field = protobuf_c_message_descriptor_get_field(level->type, (unsigned)(tag >> 3));
        if (!field || field->type != PROTOBUF_C_TYPE_MESSAGE ||
            (tag & 7) != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED ||
            depth + size / 2 < KM_MESSAGE_DEPTH_MAX) {
            at += size;
            continue;
        }
        if (depth == KM_MESSAGE_DEPTH_MAX)
            return 0;
        levels[depth].type = (const ProtobufCMessageDescriptor *)field->descriptor;
        levels[depth].end = at + size;
        depth++;
    }
    return 1;
}

static inline int km__message_is_type(const ProtobufCMessageDescriptor *type)
{
    return type && type->magic == PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC;
}

/* ---- messages and bytes ------------------------------------------------------------------- */

/*
 * km_pack_message -- write a message into a buffer, as a value.
 *
 *   message    For instance &account.base. Nothing of it is kept.
 *   packed     Holds the bytes on KM_OK, enlarged if need be. After any other status its contents
 *              are undefined, its memory still its own.
 *
 * Returns:   KM_OK.
 *            KM_E_TOO_BIG    it would be over KM_VALUE_SIZE_MAX; found before anything is packed.
 *            KM_E_INVALID    message is no initialized message, a required field is not set, a
 *                            pointer that must not be is NULL, or it is deeper than
 *                            KM_MESSAGE_DEPTH_MAX.
 *            KM_E_NO_MEMORY.
 * Lifetime:  packed belongs to the caller; release it with km_buffer_free().
 * Threads:   any; message and buffer belong to one thread at a time.
 * Blocks:    never.
 */
static inline KM_MUST_CHECK km_status km_pack_message(const ProtobufCMessage *message,
                                                      km_buffer *packed)
{
    void *data;
    size_t size;

    if (!packed || !protobuf_c_message_check(message))
        return KM_E_INVALID;
    size = protobuf_c_message_get_packed_size(message);
    if (size > KM_VALUE_SIZE_MAX)
        return KM_E_TOO_BIG;
    if (size > packed->capacity) {
        /* malloc's memory, as everywhere in a km_buffer; a bit more, for the next message */
        data = realloc(packed->data, size + size / 4);
        if (!data)
            return KM_E_NO_MEMORY;
        packed->data = data;
        packed->capacity = size + size / 4;
    }
    packed->size = size ? protobuf_c_message_pack(message, (uint8_t *)packed->data) : 0;
    if (!km__message_is_shallow(message->descriptor, km_bytes_of(packed->data, packed->size)))
        return KM_E_INVALID;
    return KM_OK;
}

/*
 * km_unpack_message -- make a message of the bytes of a value.
 *
 *   packed       For instance what km_get_ref() or a cursor gave.
 *   type         For instance &account__descriptor.
 *   allocator    Where the message's memory comes from; NULL: malloc().
 *   out_message  Set on KM_OK; cast it to the type's struct.
 *
 * Returns:   KM_OK.
 *            KM_E_INVALID    the bytes are no message of this type (cut short, another type, a
 *                            required field missing, deeper than KM_MESSAGE_DEPTH_MAX), or type is
 *                            no descriptor. That the record was damaged is another matter, and
 *                            KM_E_CORRUPT from the call that read it.
 *            KM_E_NO_MEMORY  the allocator refused.
 * Lifetime:  the message holds copies, nothing of `packed`; release it with
 *            protobuf_c_message_free_unpacked(message, allocator), the same allocator.
 * Threads:   any.
 * Blocks:    never.
 */
static inline KM_MUST_CHECK km_status km_unpack_message(km_bytes packed,
                                                        const ProtobufCMessageDescriptor *type,
                                                        ProtobufCAllocator *allocator,
                                                        ProtobufCMessage **out_message)
{
    static const uint8_t nothing[1] = {0};
    struct km__message_memory memory = {NULL, 0};
    ProtobufCAllocator watching = {km__message_alloc, km__message_free, NULL};
    const uint8_t *data = packed.size ? (const uint8_t *)packed.data : nothing;
    ProtobufCMessage *message;

    if (!out_message || !data || !km__message_is_type(type))
        return KM_E_INVALID;
    if (!km__message_is_shallow(type, packed))
        return KM_E_INVALID;
    memory.allocator = allocator;
    watching.allocator_data = &memory;
    message = protobuf_c_message_unpack(type, &watching, packed.size, data);
    if (!message)
        return memory.failed ? KM_E_NO_MEMORY : KM_E_INVALID;
    *out_message = message;
    return KM_OK;
}

/* ---- messages in maps --------------------------------------------------------------------- */

/*
 * km_put_message -- set a key's value to a message: km_pack_message() and km_put().
 *
 * Returns:   as those two.
 * Lifetime:  key and message are borrowed for the call.
 * Threads:   any; the message belongs to one thread at a time.
 * Blocks:    as km_put().
 */
static inline KM_MUST_CHECK km_status km_put_message(km_map *map, km_bytes key,
                                                     const ProtobufCMessage *message,
                                                     km_write *write)
{
    km_buffer packed = KM_BUFFER_INIT;
    km_status rc;

    rc = km_pack_message(message, &packed);
    if (rc == KM_OK)
        rc = km_put(map, key, km_bytes_of(packed.data, packed.size), write);
    km_buffer_free(&packed);
    return rc;
}

/*
 * km_get_message -- a key's value as a message: km_get() and km_unpack_message().
 *
 *   type, allocator, out_message   As km_unpack_message().
 *
 * Returns:   as those two. With a key, a map and a type that are in order KM_E_INVALID says that
 *            the value is there and is no message of this type; KM_E_CORRUPT, that the record of
 *            the value is damaged.
 * Lifetime:  as km_unpack_message().
 * Threads:   any.
 * Blocks:    as km_get().
 */
static inline KM_MUST_CHECK km_status km_get_message(km_map *map, km_bytes key,
                                                     const ProtobufCMessageDescriptor *type,
                                                     ProtobufCAllocator *allocator,
                                                     ProtobufCMessage **out_message)
{
    km_buffer packed = KM_BUFFER_INIT;
    km_status rc;

    rc = km_get(map, key, &packed);
    if (rc == KM_OK)
        rc = km_unpack_message(km_bytes_of(packed.data, packed.size), type, allocator, out_message);
    km_buffer_free(&packed);
    return rc;
}

/*
 * km_read_message -- the same inside a read section, from the bytes where they lie: km_get_ref()
 * and km_unpack_message(). Saves a copy and an allocation.
 *
 *   reader     An open read section of the map's store.
 *
 * Returns:   as km_get_message(); KM_E_INVALID also if the section is of another store.
 * Lifetime:  as km_unpack_message(): the message outlives the section.
 * Threads:   as km_get_ref().
 * Blocks:    as km_get().
 */
static inline KM_MUST_CHECK km_status km_read_message(km_reader *reader, km_map *map, km_bytes key,
                                                      const ProtobufCMessageDescriptor *type,
                                                      ProtobufCAllocator *allocator,
                                                      ProtobufCMessage **out_message)
{
    km_bytes packed;
    km_status rc;

    rc = km_get_ref(reader, map, key, &packed);
    if (rc == KM_OK)
        rc = km_unpack_message(packed, type, allocator, out_message);
    return rc;
}

/* ---- updates ------------------------------------------------------------------------------ */

/* old_message is NULL if the key is not there, and lives until the callback returns. For
 * KM_UPDATE_PUT *new_message is set to a message of the same type; it is packed right after the
 * callback has returned, so it may use parts of old_message: a copy of the struct with some fields
 * replaced will do. It must not lie on the callback's stack: keep it in the context. */
typedef km_update_verdict (*km_update_message_fn)(void *context,
                                                  const ProtobufCMessage *old_message,
                                                  const km_key_info *old_info,
                                                  const ProtobufCMessage **new_message);

struct km__message_update {
    const ProtobufCMessageDescriptor *type;
    km_update_message_fn update;
    void *context;
    km_buffer packed;
    km_status status; /* of packing and unpacking */
};

/*
 * km__message_update_step -- an inner part of km_update_message(): its km_update_fn.
 *
 * Returns, Lifetime, Threads, Blocks:  as km_update_message(), which uses it.
 */
static inline km_update_verdict km__message_update_step(void *context, const km_bytes *old_value,
                                                        const km_key_info *old_info,
                                                        km_bytes *new_value)
{
    struct km__message_update *step = (struct km__message_update *)context;
    const ProtobufCMessage *new_message = NULL;
    ProtobufCMessage *old_message = NULL;
    km_update_verdict verdict;

    step->status = KM_OK;
    if (old_value)
        step->status = km_unpack_message(*old_value, step->type, NULL, &old_message);
    if (step->status != KM_OK)
        return KM_UPDATE_FAIL;
    verdict = step->update(step->context, old_message, old_info, &new_message);
    if (verdict == KM_UPDATE_PUT) {
        if (!new_message || new_message->descriptor != step->type)
            step->status = KM_E_INVALID;
        else
            step->status = km_pack_message(new_message, &step->packed);
        *new_value = km_bytes_of(step->packed.data, step->packed.size);
    }
    protobuf_c_message_free_unpacked(old_message, NULL);
    return step->status == KM_OK ? verdict : KM_UPDATE_FAIL;
}

/*
 * km_update_message -- change a message according to what is there: km_update() with messages.
 *
 *   type       Of the message that is there and of the new one.
 *   update     As the callback of km_update(); it may be called more than once.
 *   write      As km_update().
 *
 * Returns:   as km_update(); and, with nothing changed, KM_E_INVALID (the value that is there is no
 *            message of this type, or *new_message is none), KM_E_TOO_BIG, KM_E_NO_MEMORY.
 * Lifetime:  nothing to release.
 * Threads:   any.
 * Blocks:    as km_put().
 */
static inline KM_MUST_CHECK km_status km_update_message(km_map *map, km_bytes key,
                                                        const ProtobufCMessageDescriptor *type,
                                                        km_update_message_fn update, void *context,
                                                        km_write *write)
{
    struct km__message_update step = {type, update, context, KM_BUFFER_INIT, KM_OK};
    km_status rc;

    if (!update || !km__message_is_type(type))
        return KM_E_INVALID;
    rc = km_update(map, key, km__message_update_step, &step, write);
    if (rc == KM_STOPPED && step.status != KM_OK)
        rc = step.status;
    km_buffer_free(&step.packed);
    return rc;
}

#ifdef __cplusplus
}
#endif
#endif /* KEEPMAP_PROTOBUF_H */
