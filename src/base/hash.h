/* SPDX-License-Identifier: Apache-2.0
 *
 * hash.h -- the hash of keys: XXH3 with a secret of the store's own.
 *
 * The secret is random and stays in the store, so nobody who chooses keys can make them collide.
 */
#ifndef KM_BASE_HASH_H
#define KM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define KM__HASH_SEED_SIZE 32 /* random bytes, kept in the store's IDENTITY */
#define KM__HASH_SECRET_SIZE 192

struct hash_secret {
    uint8_t bytes[KM__HASH_SECRET_SIZE];
};

/* Stretch the seed of a store to the secret that the hash wants. */
void km__hash_secret_init(struct hash_secret *secret, const uint8_t seed[KM__HASH_SEED_SIZE]);

/* Every one of the 64 bits is as good as any other. */
uint64_t km__hash_key(const struct hash_secret *secret, const void *key, size_t key_size);

#endif
