/* SPDX-License-Identifier: Apache-2.0
 *
 * os_util.h -- what the tests of the platform table share: a folder on the real machine or on a
 * simulated one, and what both are asked.
 */
#ifndef KM_TEST_UNIT_OS_UTIL_H
#define KM_TEST_UNIT_OS_UTIL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/os.h"
#include "sim/sim.h"

struct fixture {
    struct os *os;
    const struct os_ops *ops;
    struct os_dir *dir;
    char path[128]; /* of dir */
};

static int use_sim; /* which machine the group runs on */

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    if (use_sim) {
        f->os = km__sim_create(1);
        strcpy(f->path, "base");
        assert_int_equal(f->os->ops->create_dir(f->os, f->path), KM_OK);
    } else {
        f->os = km__os_linux();
        strcpy(f->path, "/tmp/keepmap-test-os-XXXXXX");
        assert_non_null(mkdtemp(f->path));
    }
    f->ops = f->os->ops;
    assert_int_equal(f->ops->open_dir(f->os, f->path, &f->dir), KM_OK);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    char command[256];

    f->ops->close_dir(f->dir);
    if (use_sim) {
        assert_int_equal(km__sim_open_count(f->os), 0);
        assert_int_equal(km__sim_allocated_bytes(f->os), 0);
        km__sim_destroy(f->os);
    } else {
        snprintf(command, sizeof(command), "rm -rf '%s'", f->path);
        assert_int_equal(system(command), 0);
    }
    free(f);
    return 0;
}

static inline struct os_file *create(struct fixture *f, const char *name, const void *bytes,
                                     size_t size)
{
    struct os_file *file = NULL;

    assert_int_equal(f->ops->open_file(f->dir, name, OS_CREATE_NEW, &file), KM_OK);
    assert_int_equal(f->ops->write_at(file, 0, bytes, size), KM_OK);
    return file;
}

static inline struct os_file *open_existing(struct fixture *f, const char *name,
                                            enum os_open_mode mode)
{
    struct os_file *file = NULL;

    assert_int_equal(f->ops->open_file(f->dir, name, mode, &file), KM_OK);
    return file;
}

/* The call failed with this status and left this errno. */
#define ASSERT_FAILS(f, call, status, os_error)                                                    \
    do {                                                                                           \
        assert_int_equal(call, status);                                                            \
        assert_int_equal((f)->ops->last_error((f)->os), os_error);                                 \
    } while (0)

static inline struct os_dir *create_sub(struct fixture *f, const char *name)
{
    struct os_dir *sub = NULL;

    assert_int_equal(f->ops->create_subdir(f->dir, name), KM_OK);
    assert_int_equal(f->ops->open_subdir(f->dir, name, &sub), KM_OK);
    return sub;
}

/* A path below the fixture's folder. */
static inline const char *path_below(struct fixture *f, const char *tail, char buffer[200])
{
    snprintf(buffer, 200, "%s/%s", f->path, tail);
    return buffer;
}

/* Run `body` in a child; true if it returned 1 there. */
static inline int child_says_yes(int (*body)(struct fixture *f, void *context), struct fixture *f,
                                 void *context)
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(body(f, context) ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Both groups on the real machine, the contract on the simulated one too. */
static inline int run_groups(const struct CMUnitTest *contract, size_t contract_count,
                             const struct CMUnitTest *linux_alone, size_t linux_count)
{
    int failed = 0;

    failed += _cmocka_run_group_tests("contract on linux", contract, contract_count, NULL, NULL);
    failed += _cmocka_run_group_tests("linux alone", linux_alone, linux_count, NULL, NULL);
    use_sim = 1;
    failed += _cmocka_run_group_tests("contract on the simulated machine", contract, contract_count,
                                      NULL, NULL);
    return failed != 0;
}

#endif
