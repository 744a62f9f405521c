/* SPDX-License-Identifier: Apache-2.0
 *
 * hash.c -- keys through XXH3, inlined, with a secret stretched from the store's seed.
 *
 * Hashes live in memory only, so another version of XXH3's stretching does not matter to the files.
 */
#include "base/hash.h"

#include "base/assert.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(KM__HASH_SECRET_SIZE >= XXH3_SECRET_SIZE_MIN, "XXH3 reads that much of a secret");

void km__hash_secret_init(struct hash_secret *secret, const uint8_t seed[KM__HASH_SEED_SIZE])
{
    XXH_errorcode code = XXH3_generateSecret(secret->bytes, KM__HASH_SECRET_SIZE, seed,
                                             KM__HASH_SEED_SIZE);

    KM_ASSERT(code == XXH_OK); /* fails only for sizes that the line above makes impossible */
}

uint64_t km__hash_key(const struct hash_secret *secret, const void *key, size_t key_size)
{
    return XXH3_64bits_withSecret(key, key_size, secret->bytes, KM__HASH_SECRET_SIZE);
}
