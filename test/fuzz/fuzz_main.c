/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_main.c -- runs a fuzz target where libFuzzer is not there. Takes what we use of its
 * arguments:
 *
 *     fuzz_NAME [-runs=N] [-max_total_time=SECONDS] [-seed=N] [-max_len=N] [FILE | FOLDER]...
 *
 * Every file is run as it is. Then come N inputs, random ones or mutations of the files and of each
 * other (default 100,000, or 0 if only files were named; without end if only a time is given). The
 * seed is printed; the environment variable SEED sets it too. Other options that begin with '-' are
 * ignored. There is no coverage feedback. An input that ends the process is left in ./crash-input.
 */
#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CORPUS_MAX 256u
#define INPUT_SIZE_MAX (1u << 20)

struct input {
    uint8_t *bytes;
    size_t size;
};

static struct {
    uint64_t random_state;
    uint64_t runs;
    uint64_t seconds;
    size_t size_max;
    int has_runs;
    struct input corpus[CORPUS_MAX];
    size_t corpus_count;
    struct input current; /* what runs now: for the handler of crashes */
} driver = {.size_max = 4096};

/* splitmix64 */
static uint64_t random_u64(void)
{
    uint64_t z = driver.random_state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static size_t random_below(size_t n)
{
    return n ? (size_t)(random_u64() % n) : 0;
}

static void keep_crash(int signal_number)
{
    FILE *file = fopen("crash-input", "wb"); /* the process is lost anyway */

    if (file) {
        fwrite(driver.current.bytes, 1, driver.current.size, file);
        fclose(file);
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void run(uint8_t *bytes, size_t size)
{
    driver.current.bytes = bytes;
    driver.current.size = size;
    (void)LLVMFuzzerTestOneInput(bytes, size);
}

/* ---- the corpus -------------------------------------------------------------------------- */

/* Keep a copy; once there are many, in the place of another. */
static void keep_input(const uint8_t *bytes, size_t size)
{
    struct input *input = &driver
                               .corpus[driver.corpus_count < CORPUS_MAX ? driver.corpus_count++
                                                                        : random_below(CORPUS_MAX)];

    free(input->bytes);
    input->bytes = malloc(size ? size : 1);
    if (!input->bytes)
        abort();
    if (size)
        memcpy(input->bytes, bytes, size);
    input->size = size;
}

static int run_file(const char *path)
{
    uint8_t *bytes = malloc(INPUT_SIZE_MAX);
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file || !bytes) {
        fprintf(stderr, "cannot read %s\n", path);
        free(bytes);
        if (file)
            fclose(file);
        return 1;
    }
    size = fread(bytes, 1, INPUT_SIZE_MAX, file);
    fclose(file);
    keep_input(bytes, size);
    free(bytes);
    bytes = malloc(size ? size : 1); /* of exactly its size: a read past the end is seen */
    if (!bytes)
        abort();
    if (size)
        memcpy(bytes, driver.corpus[driver.corpus_count - 1].bytes, size);
    run(bytes, size);
    free(bytes);
    return 0;
}

static int run_path(const char *path)
{
    struct stat status;
    struct dirent *entry;
    char name[1024];
    int failed = 0;
    DIR *dir;

    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode))
        return run_file(path);
    dir = opendir(path);
    if (!dir)
        return 1;
    while (driver.corpus_count < CORPUS_MAX && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        failed |= run_file(name);
    }
    closedir(dir);
    return failed;
}

/* ---- mutation ---------------------------------------------------------------------------- */

static void set_interesting(uint8_t *bytes, size_t size)
{
    static const uint64_t values[] = {0,    1,     7,          8,          16,         255,
                                      4096, 65535, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX};
    uint64_t value = values[random_below(sizeof(values) / sizeof(values[0]))];
    size_t width = (size_t)1 << random_below(4);
    size_t at = random_below(size);

    for (size_t i = 0; i < width && at + i < size; i++)
        bytes[at + i] = (uint8_t)(value >> 8 * i);
}

static size_t mutate_once(uint8_t *bytes, size_t size)
{
    size_t at = random_below(size), count;

    switch (size ? random_below(6) : 5) {
    case 0: bytes[at] ^= (uint8_t)(1 << random_below(8)); return size;
    case 1: bytes[at] = (uint8_t)random_u64(); return size;
    case 2: set_interesting(bytes, size); return size;
    case 3: return at; /* cut */
    case 4:            /* take out */
        count = 1 + random_below(size - at < 16 ? size - at : 16);
        memmove(bytes + at, bytes + at + count, size - at - count);
        return size - count;
    default: /* put in */
        count = 1 + random_below(16);
        if (size + count > driver.size_max)
            return size;
        memmove(bytes + at + count, bytes + at, size - at);
        for (size_t i = 0; i < count; i++)
            bytes[at + i] = (uint8_t)(random_below(2) ? random_u64() : 0);
        return size + count;
    }
}

static size_t make_input(uint8_t *bytes)
{
    const struct input *from = &driver.corpus[random_below(driver.corpus_count)];
    size_t size, count;

    if (driver.corpus_count == 0 || random_below(8) == 0) {
        size = random_below(driver.size_max < 128 || random_below(16) == 0 ? driver.size_max + 1
                                                                           : 128);
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)(random_below(3) ? random_u64() : 0);
        return size;
    }
    size = from->size < driver.size_max ? from->size : driver.size_max;
    if (size)
        memcpy(bytes, from->bytes, size);
    for (count = 1 + random_below(6); count > 0; count--)
        size = mutate_once(bytes, size);
    return size;
}

static void run_random(void)
{
    uint8_t *bytes = malloc(driver.size_max + 1), *exact;
    time_t end = time(NULL) + (time_t)driver.seconds;
    uint64_t done;

    if (!bytes)
        abort();
    for (done = 0; !driver.has_runs || done < driver.runs; done++) {
        size_t size = make_input(bytes);

        if (driver.seconds && done % 256 == 0 && time(NULL) >= end)
            break;
        exact = malloc(size ? size : 1);
        if (!exact)
            abort();
        memcpy(exact, bytes, size);
        run(exact, size);
        free(exact);
        if (random_below(64) == 0)
            keep_input(bytes, size);
    }
    free(bytes);
    printf("%llu inputs, no failure\n", (unsigned long long)done);
}

/* ---- arguments --------------------------------------------------------------------------- */

static int option_value(const char *argument, const char *name, uint64_t *out)
{
    size_t size = strlen(name);

    if (strncmp(argument, name, size) != 0)
        return 0;
    *out = strtoull(argument + size, NULL, 0);
    return 1;
}

static void read_options(int argc, char **argv, int *out_file_count)
{
    const char *seed = getenv("SEED");
    uint64_t value;

    driver.random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    for (int i = 1; i < argc; i++) {
        if (option_value(argv[i], "-runs=", &value)) {
            driver.runs = value;
            driver.has_runs = (int64_t)value >= 0; /* -1: without end */
        } else if (option_value(argv[i], "-max_total_time=", &value)) {
            driver.seconds = value;
        } else if (option_value(argv[i], "-seed=", &value)) {
            driver.random_state = value;
        } else if (option_value(argv[i], "-max_len=", &value)) {
            driver.size_max = value && value < INPUT_SIZE_MAX ? (size_t)value : INPUT_SIZE_MAX;
        } else if (argv[i][0] != '-') {
            ++*out_file_count;
        }
    }
}

int main(int argc, char **argv)
{
    int file_count = 0, failed = 0;

    read_options(argc, argv, &file_count);
    if (!driver.has_runs && !driver.seconds) {
        driver.runs = file_count ? 0 : 100000;
        driver.has_runs = 1;
    }
    printf("SEED=%llu\n", (unsigned long long)driver.random_state);
    fflush(stdout);
    signal(SIGABRT, keep_crash);
    signal(SIGSEGV, keep_crash);
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-')
            failed |= run_path(argv[i]);
    }
    run_random();
    for (size_t i = 0; i < driver.corpus_count; i++)
        free(driver.corpus[i].bytes);
    return failed;
}
