/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sealed_faults.c -- sealed tables where the machine or the file is not as it should be: reads
 * that fail or lie, hostile indexes, names that are taken, bad arguments.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sealed/sealed_internal.h"
#include "test_sealed_util.h"

#define NO_OFFSET UINT64_MAX

static char folder[HARNESS_PATH_SIZE];
static char path[HARNESS_PATH_SIZE];

/* ---- the machine, watched ---------------------------------------------------------------- */

static struct {
    uint64_t bytes;    /* read */
    uint64_t bad_byte; /* in the file: who reads it gets EIO */
    uint64_t flip_at;  /* the read of which a bit is flipped, counted down; 0: none */
    int os_error;
} watch;

static struct os_ops watched_ops;
static struct os watched;

static km_status watched_read(struct os_file *file, uint64_t offset, void *buffer, size_t size)
{
    km_status rc;

    watch.bytes += size;
    watch.os_error = 0;
    if (offset <= watch.bad_byte && watch.bad_byte - offset < size) {
        watch.os_error = EIO;
        return KM_E_IO;
    }
    rc = km__os_linux()->ops->read_at(file, offset, buffer, size);
    if (watch.flip_at > 0 && --watch.flip_at == 0)
        ((uint8_t *)buffer)[sealed_mix(harness_seed() + offset + size) % size] ^= 4;
    return rc;
}

static int watched_last_error(struct os *os)
{
    return watch.os_error ? watch.os_error : km__os_linux()->ops->last_error(os);
}

static int begin_case(void **state)
{
    (void)state;
    memset(&watch, 0, sizeof(watch));
    watch.bad_byte = NO_OFFSET;
    (void)unlink(path);
    return 0;
}

static int names_in_folder(void)
{
    DIR *dir = opendir(folder);
    int count = -2; /* . and .. */

    CHECK(dir != NULL);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static km_status build(uint64_t count, size_t value_size, km_error *error)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    uint8_t value[100];
    km_status rc;

    options.keys = KM_SEALED_U64;
    options.memory_max = KM_SEALED_MEMORY_MIN;
    rc = km__sealed_builder_open(&watched, path, &options, &builder, error);
    for (uint64_t i = 0; !rc && i < count; i++) {
        harness_fill(value, value_size, i);
        rc = km_sealed_builder_add_number(builder, i, km_bytes_of(value, value_size));
    }
    return builder ? km_sealed_builder_finish(builder, error) : rc;
}

static km_sealed *open_table(void)
{
    km_sealed_options options = KM_SEALED_OPTIONS_INIT;
    km_sealed *table = NULL;
    km_error error = {0};

    options.no_mapping = 1;
    CHECK_MSG(km__sealed_open(&watched, path, &options, &table, &error) == KM_OK, "%s",
              error.message);
    return table;
}

static uint64_t count_in_table(void)
{
    km_sealed *table = open_table();
    uint64_t count = km_sealed_count(table);

    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    km_sealed_close(table);
    return count;
}

/* ---- the index --------------------------------------------------------------------------- */

/* A build whose index has no room in memory reads it back: a changed bit ends the build, and the
 * old table stays. */
static void what_is_spilled_of_the_index_is_checked(void **state)
{
    const uint64_t count = 300000;
    uint64_t reads = 0;
    km_error error = {0};

    (void)state;
    CHECK_STATUS(build(10, 1, NULL), KM_OK);
    for (;;) {
        km_status rc;
        watch.flip_at = ++reads;
        rc = build(count, 1, &error);
        if (watch.flip_at > 0) {
            watch.flip_at = 0;
            CHECK_STATUS(rc, KM_OK);
            break;
        }
        CHECK_STATUS(rc, KM_E_CORRUPT);
        CHECK(error.status == KM_E_CORRUPT);
        CHECK(count_in_table() == 10 && names_in_folder() == 1);
    }
    CHECK(reads > 1); /* there were reads to flip */
    CHECK(count_in_table() == count);
}

/* Several pieces, with groups across their edges. */
static void a_large_index_is_read_in_pieces(void **state)
{
    const uint64_t count = 900000;
    km_buffer value = KM_BUFFER_INIT;
    km_sealed *table;

    (void)state;
    CHECK_STATUS(build(count, 1, NULL), KM_OK);
    watch.bytes = 0;
    table = open_table();
    CHECK(table->footer.index_size > (uint64_t)1 << 20);
    CHECK(watch.bytes == table->footer.index_size + 2 * SEALED_PAGE);
    for (uint64_t i = 0; i < count; i += 9973)
        CHECK_STATUS(km_sealed_get_number(table, i, &value), KM_OK);
    CHECK_STATUS(km_sealed_get_number(table, count, &value), KM_NOT_FOUND);
    CHECK_STATUS(km_sealed_verify(table, NULL, NULL, NULL), KM_OK);
    km_sealed_close(table);
    km_buffer_free(&value);
}

/* The bytes of a file, for who changes them. */
struct table_file {
    int fd;
    uint64_t size;
    struct sealed_footer footer;
};

static void open_raw(struct table_file *file)
{
    uint8_t bytes[SEALED_PAGE];
    struct stat status;

    file->fd = open(path, O_RDWR);
    CHECK(file->fd >= 0 && fstat(file->fd, &status) == 0);
    file->size = (uint64_t)status.st_size;
    CHECK(pread(file->fd, bytes, SEALED_PAGE, (off_t)(file->size - SEALED_PAGE)) == SEALED_PAGE);
    CHECK_STATUS(km__sealed_footer_decode(bytes, file->size, &file->footer), KM_OK);
}

/* Put the footer where the size of the index now says, and nothing behind it. */
static void close_raw(struct table_file *file)
{
    uint64_t end = km__round_up(file->footer.index_offset + file->footer.index_size, SEALED_PAGE);
    uint8_t bytes[SEALED_PAGE];

    km__sealed_footer_encode(&file->footer, bytes);
    CHECK(ftruncate(file->fd, (off_t)(file->footer.index_offset + file->footer.index_size)) == 0);
    CHECK(ftruncate(file->fd, (off_t)(end + SEALED_PAGE)) == 0); /* with zeros between */
    CHECK(pwrite(file->fd, bytes, SEALED_PAGE, (off_t)end) == SEALED_PAGE);
    CHECK(close(file->fd) == 0);
}

/* A file that is sparse says that it has an index of any size. */
static void a_hostile_index_is_not_believed(void **state)
{
    static const struct {
        uint32_t first_size; /* 0: as it was */
        uint64_t group_count;
    } cases[] = {{0, 1}, {0, 3}, {1u << 20, 3}, {0x7fffffff, 1}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct table_file file;
        km_sealed *table = NULL;
        km_error error = {0};
        CHECK_STATUS(build(1000, 100, NULL), KM_OK);
        open_raw(&file);
        file.footer.index_size += (uint64_t)256 << 20;
        CHECK(file.footer.group_count == 1);
        file.footer.group_count = cases[i].group_count;
        if (cases[i].first_size)
            CHECK(pwrite(file.fd, &cases[i].first_size, 4, (off_t)file.footer.index_offset + 4) ==
                  4);
        close_raw(&file);
        watch.bytes = 0;
        CHECK_STATUS(km__sealed_open(&watched, path, NULL, &table, &error), KM_E_CORRUPT);
        CHECK_MSG(watch.bytes < (4 << 20), "%llu", (unsigned long long)watch.bytes);
    }
}

struct findings {
    uint32_t count;
    km_error last;
};

static void note_finding(void *context, const km_error *finding)
{
    struct findings *findings = context;

    findings->count++;
    findings->last = *finding;
}

/* The index of one group anew, in which the first separator has a byte. */
static void fill_first_separator(struct table_file *file)
{
    static uint8_t bytes[1 << 16], encoded[1 << 16], separators[1 << 14];
    struct sealed_footer *footer = &file->footer;
    struct sealed_group_plan plan = {.separators = separators};
    struct sealed_group group;
    uint32_t seed = km__sealed_group_seed(km__sealed_id_sum(footer->id), 0);
    uint32_t end = 1; /* the first one: a zero, with which all keys begin */

    CHECK(footer->index_size < sizeof(bytes) && footer->group_count == 1);
    CHECK(pread(file->fd, bytes, footer->index_size, (off_t)footer->index_offset) ==
          (ssize_t)footer->index_size);
    CHECK_STATUS(km__sealed_group_decode(bytes, footer->index_size, seed, &group), KM_OK);
    plan.count = group.count;
    plan.first_page = group.first_page;
    plan.filter = group.filter;
    for (uint32_t i = 0; i < group.count; i++) {
        km_bytes suffix = km__sealed_group_suffix(&group, i);
        CHECK(group.prefix_size == 0);
        if (suffix.size)
            memcpy(separators + end, suffix.data, suffix.size);
        end += (uint32_t)suffix.size;
        plan.separator_ends[i] = end;
        plan.page_ends[i] = km__sealed_group_page_end(&group, i);
        plan.record_ends[i] = km__sealed_group_record_end(&group, i);
    }
    footer->index_size = km__sealed_group_size(&plan);
    km__sealed_group_encode(&plan, seed, encoded);
    CHECK(pwrite(file->fd, encoded, footer->index_size, (off_t)footer->index_offset) ==
          (ssize_t)footer->index_size);
}

static void the_first_separator_is_empty(void **state)
{
    struct findings findings = {0};
    struct table_file file;
    km_sealed *table;

    (void)state;
    CHECK_STATUS(build(1000, 100, NULL), KM_OK);
    open_raw(&file);
    fill_first_separator(&file);
    close_raw(&file);
    table = open_table();
    CHECK_STATUS(km_sealed_verify(table, note_finding, NULL, &findings), KM_E_CORRUPT);
    CHECK(findings.count == 1 && findings.last.offset == table->footer.index_offset);
    CHECK(strstr(findings.last.message, "separator"));
    km_sealed_close(table);
}

/* ---- blocks that cannot be read ---------------------------------------------------------- */

#define COUNT UINT64_C(3000)

/* Walk from one end; the number of records before the first error. */
static uint64_t walk(const km_sealed *table, int reverse)
{
    km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;
    km_sealed_cursor *cursor = NULL;
    uint64_t count = 0;
    km_status rc;

    options.reverse = reverse;
    CHECK_STATUS(km_sealed_cursor_open(table, &options, &cursor), KM_OK);
    while ((rc = km_sealed_cursor_next(cursor, NULL, NULL)) == KM_OK)
        count++;
    CHECK_STATUS(rc, count == COUNT ? KM_END : KM_E_IO);
    km_sealed_cursor_close(cursor);
    return count;
}

static void a_bad_block_does_not_hide_good_ones(void **state)
{
    km_sealed *table;

    (void)state;
    CHECK_STATUS(build(COUNT, 100, NULL), KM_OK);
    table = open_table();
    CHECK(walk(table, 0) == COUNT && walk(table, 1) == COUNT);
    for (uint64_t record = 0; record < COUNT; record += 97) {
        struct sealed_place place;
        km__sealed_place_of_record(table, record, &place);
        watch.bad_byte = place.offset + record % SEALED_PAGE;
        CHECK(walk(table, 0) == place.first_record);
        CHECK(walk(table, 1) == COUNT - place.first_record - place.record_count);
    }
    km_sealed_close(table);
}

static void verify_goes_on_behind_a_bad_block(void **state)
{
    struct findings findings = {0};
    struct sealed_place bad, damaged;
    struct table_file file;
    km_sealed *table;
    km_error error = {0};

    (void)state;
    CHECK_STATUS(build(COUNT, 100, NULL), KM_OK);
    table = open_table();
    km__sealed_place_of_record(table, COUNT / 3, &bad);
    km__sealed_place_of_record(table, COUNT / 3 * 2, &damaged);
    watch.bad_byte = bad.offset;
    CHECK_STATUS(km_sealed_verify(table, note_finding, NULL, &findings), KM_E_IO);
    CHECK(findings.count == 1 && findings.last.status == KM_E_IO);
    CHECK(findings.last.offset == bad.offset && findings.last.os_error == EIO);
    open_raw(&file);
    CHECK(pwrite(file.fd, "damage", 6, (off_t)damaged.offset + 100) == 6);
    close_raw(&file);
    CHECK_STATUS(km_sealed_verify(table, note_finding, NULL, &findings), KM_E_IO);
    CHECK(findings.count == 3 && findings.last.status == KM_E_CORRUPT);
    CHECK(findings.last.offset == damaged.offset);
    km_sealed_close(table);
    CHECK_STATUS(km__sealed_check(&watched, path, note_finding, &findings, &error), KM_E_IO);
    CHECK(findings.count == 5 && error.status == KM_E_IO && error.os_error == EIO);
    watch.bad_byte = NO_OFFSET;
    CHECK_STATUS(km__sealed_check(&watched, path, note_finding, &findings, &error), KM_E_CORRUPT);
    CHECK(findings.count == 6 && error.os_error == 0);
}

/* Header, index and footer, once the table is open. */
static void verify_tells_whatever_cannot_be_read(void **state)
{
    km_sealed *table;
    uint64_t places[3];

    (void)state;
    CHECK_STATUS(build(COUNT, 100, NULL), KM_OK);
    table = open_table();
    places[0] = 0;
    places[1] = table->footer.index_offset;
    places[2] = table->file_size - SEALED_PAGE;
    for (int i = 0; i < 3; i++) {
        struct findings findings = {0};
        watch.bad_byte = places[i];
        CHECK_STATUS(km_sealed_verify(table, note_finding, NULL, &findings), KM_E_IO);
        CHECK(findings.count == 1 && findings.last.offset == places[i]);
    }
    km_sealed_close(table);
}

/* ---- names ------------------------------------------------------------------------------- */

static void make_taken(int kind)
{
    CHECK((kind == 0   ? mkdir(path, 0700)
           : kind == 1 ? mkfifo(path, 0600)
                       : symlink("elsewhere", path)) == 0);
}

static void a_name_that_is_taken_by_no_file_is_refused(void **state)
{
    static const int errors[] = {EISDIR, EINVAL, ELOOP};

    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        for (int is_late = 0; is_late < 2; is_late++) {
            km_sealed_builder *builder = NULL;
            km_error error = {0};
            if (!is_late)
                make_taken(kind);
            CHECK_STATUS(km_sealed_builder_open(path, NULL, &builder, &error),
                         is_late ? KM_OK : KM_E_INVALID);
            if (is_late) {
                CHECK_STATUS(
                    km_sealed_builder_add(builder, km_bytes_of("k", 1), km_bytes_of("v", 1)),
                    KM_OK);
                make_taken(kind);
                CHECK_STATUS(km_sealed_builder_finish(builder, &error), KM_E_INVALID);
            }
            CHECK(error.status == KM_E_INVALID && strstr(error.message, "no file"));
            CHECK(error.os_error == errors[kind]);
            CHECK(names_in_folder() == 1);
            CHECK(remove(path) == 0);
        }
    }
}

static void names_of_builds_files_are_refused(void **state)
{
    static const struct {
        const char *end;
        km_status status;
    } cases[] = {{".0123456789abcdef.sealing", KM_E_INVALID}, {".0123456789abcde.sealing", KM_OK},
                 {".0123456789abcdeF.sealing", KM_OK},        {"0123456789abcdef.sealing", KM_OK},
                 {".0123456789abcdef.sealing2", KM_OK},       {".sealing", KM_OK}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        km_sealed_builder *builder = NULL;
        km_error error = {0};
        char name[HARNESS_PATH_SIZE + 64];
        snprintf(name, sizeof(name), "%s%s", path, cases[i].end);
        CHECK_STATUS(km_sealed_builder_open(name, NULL, &builder, &error), cases[i].status);
        CHECK(error.status == cases[i].status);
        km_sealed_builder_abort(builder);
    }
    CHECK(names_in_folder() == 0);
}

static void the_mode_is_that_of_a_new_file(void **state)
{
    struct stat status;

    (void)state;
    CHECK_STATUS(build(10, 1, NULL), KM_OK);
    CHECK(chmod(path, 0644) == 0);
    CHECK_STATUS(build(10, 1, NULL), KM_OK);
    CHECK(stat(path, &status) == 0 && (status.st_mode & 07777) == 0600);
}

static void a_limit_of_files_sizes_is_told(void **state)
{
    struct rlimit before, limit;
    km_error error = {0};

    (void)state;
    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    limit = before;
    limit.rlim_cur = 1 << 20;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK_STATUS(build(50000, 100, &error), KM_E_FULL);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(error.os_error == EFBIG && strstr(error.message, "limit of a file's size"));
    CHECK(names_in_folder() == 0);
}

/* ---- arguments --------------------------------------------------------------------------- */

static void sizes_without_data_are_refused(void **state)
{
    km_bytes bad = {NULL, 8};
    km_bytes good = {"12345678", 8};
    km_sealed_builder *builder = NULL;
    km_sealed_cursor_options options = KM_SEALED_CURSOR_OPTIONS_INIT;
    km_sealed_cursor *cursor = NULL;
    km_buffer value = KM_BUFFER_INIT;
    km_bytes found;
    km_sealed *table;

    (void)state;
    CHECK_STATUS(km_sealed_builder_open(path, NULL, &builder, NULL), KM_OK);
    CHECK_STATUS(km_sealed_builder_add(builder, bad, good), KM_E_INVALID);
    CHECK_STATUS(km_sealed_builder_add(builder, good, bad), KM_E_INVALID);
    CHECK_STATUS(km_sealed_builder_add(builder, good, good), KM_OK);
    CHECK_STATUS(km_sealed_builder_finish(builder, NULL), KM_OK);
    table = open_table();
    CHECK_STATUS(km_sealed_get(table, bad, &value), KM_E_INVALID);
    CHECK_STATUS(km_sealed_contains(table, bad), KM_E_INVALID);
    CHECK_STATUS(km_sealed_get_many(table, &bad, 1, &value, &found, NULL), KM_E_INVALID);
    CHECK_STATUS(km_sealed_cursor_open(table, NULL, &cursor), KM_OK);
    CHECK_STATUS(km_sealed_cursor_seek(cursor, bad), KM_E_INVALID);
    CHECK_STATUS(km_sealed_cursor_next(cursor, NULL, NULL), KM_OK);
    km_sealed_cursor_close(cursor);
    options.range.prefix = bad;
    CHECK_STATUS(km_sealed_cursor_open(table, &options, &cursor), KM_E_INVALID);
    CHECK_STATUS(km_sealed_get(table, good, &value), KM_OK);
    km_sealed_close(table);
    km_buffer_free(&value);
}

/* Without memory for so many records: it is not touched. */
static void an_arena_has_as_many_records_as_can_be_counted(void **state)
{
    struct sealed_arena arena = {.size = (size_t)1 << 40, .count = UINT32_MAX - 1};
    km_bytes small = {"k", 1};

    (void)state;
    CHECK(km__sealed_arena_has_room(&arena, small, small));
    arena.count++;
    CHECK(!km__sealed_arena_has_room(&arena, small, small));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup(name, begin_case)
        CASE(what_is_spilled_of_the_index_is_checked),
        CASE(a_large_index_is_read_in_pieces),
        CASE(a_hostile_index_is_not_believed),
        CASE(the_first_separator_is_empty),
        CASE(a_bad_block_does_not_hide_good_ones),
        CASE(verify_goes_on_behind_a_bad_block),
        CASE(verify_tells_whatever_cannot_be_read),
        CASE(a_name_that_is_taken_by_no_file_is_refused),
        CASE(names_of_builds_files_are_refused),
        CASE(the_mode_is_that_of_a_new_file),
        CASE(a_limit_of_files_sizes_is_told),
        CASE(sizes_without_data_are_refused),
        CASE(an_arena_has_as_many_records_as_can_be_counted),
    };

    harness_begin();
    harness_make_folder(folder);
    harness_path(path, folder, "table");
    watched = *km__os_linux();
    watched_ops = *watched.ops;
    watched_ops.read_at = watched_read;
    watched_ops.last_error = watched_last_error;
    watched.ops = &watched_ops;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
