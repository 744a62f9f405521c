/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_util.h -- what the tests of the simulated machine share: a machine with one durable folder,
 * and files whose sectors are letters.
 */
#ifndef KM_TEST_UNIT_SIM_UTIL_H
#define KM_TEST_UNIT_SIM_UTIL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim/sim.h"

#define SECTOR 512u
#define TRY_COUNT 300u /* seeds; an outcome of probability 1/6 is missed once in 10^23 runs */

static uint64_t base_seed; /* printed; SEED=n repeats a run */

struct fixture {
    struct os *os;
    const struct os_ops *ops;
    struct os_dir *dir; /* "s", durable */
};

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->os = km__sim_create(base_seed);
    f->ops = f->os->ops;
    assert_int_equal(f->ops->create_dir(f->os, "s"), KM_OK);
    assert_int_equal(f->ops->open_dir(f->os, "s", &f->dir), KM_OK);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    f->ops->close_dir(f->dir);
    assert_int_equal(km__sim_open_count(f->os), 0);
    assert_int_equal(km__sim_allocated_bytes(f->os), 0);
    km__sim_destroy(f->os);
    free(f);
    return 0;
}

static inline struct os_file *create(struct fixture *f, const char *name)
{
    struct os_file *file = NULL;

    assert_int_equal(f->ops->open_file(f->dir, name, OS_CREATE_NEW, &file), KM_OK);
    return file;
}

/* Fill whole sectors with one letter. */
static inline void fill(struct fixture *f, struct os_file *file, uint64_t sector, size_t count,
                        char letter)
{
    uint8_t *bytes = malloc(count * SECTOR);

    assert_non_null(bytes);
    memset(bytes, letter, count * SECTOR);
    assert_int_equal(f->ops->write_at(file, sector * SECTOR, bytes, count * SECTOR), KM_OK);
    free(bytes);
}

/* A durable file "s/NAME" of `count` sectors of one letter. */
static inline struct os_file *create_durable(struct fixture *f, const char *name, size_t count,
                                             char letter)
{
    struct os_file *file = create(f, name);

    fill(f, file, 0, count, letter);
    assert_int_equal(f->ops->sync(file), KM_OK);
    assert_int_equal(f->ops->sync_dir(f->dir), KM_OK);
    return file;
}

/* The content of a file as one letter per sector ('?': mixed), and destroy the machine. "-": none.
 */
static inline void letters_of(struct os *sim, const char *path, char letters[64])
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    size_t i;

    strcpy(letters, "-");
    if (km__sim_read_path(sim, path, &bytes, &size) == 0) {
        assert_true(size / SECTOR < 64);
        for (i = 0; i < size / SECTOR; i++) {
            uint8_t *sector = bytes + i * SECTOR;
            int is_mixed = memcmp(sector, sector + 1, SECTOR - 1) != 0;
            letters[i] = (char)(is_mixed ? '?' : sector[0] == 0 ? '0' : sector[0]);
        }
        letters[i] = '\0';
        free(bytes);
    }
    km__sim_destroy(sim);
}

static inline void after_power(struct fixture *f, uint64_t seed, enum sim_power mode,
                               const char *path, char letters[64])
{
    letters_of(km__sim_clone_after_power_cut(f->os, base_seed + seed, mode), path, letters);
}

static inline int exists(struct os *sim, const char *path)
{
    uint8_t *bytes = NULL;
    size_t size;

    if (km__sim_read_path(sim, path, &bytes, &size) != 0)
        return 0;
    free(bytes);
    return 1;
}

static inline uint8_t *map_ring(struct fixture *f, struct os_file *file, size_t sector_count)
{
    uint8_t *ring = NULL;

    assert_int_equal(f->ops->map_shared(file, sector_count * SECTOR, &ring), KM_OK);
    return ring;
}

static inline void choose_seed(void)
{
    const char *given = getenv("SEED");

    base_seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL) * 1000003u;
    printf("SEED=%llu\n", (unsigned long long)base_seed);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
