/* SPDX-License-Identifier: Apache-2.0
 *
 * machine.c -- what the figures were taken on, and the clock they were taken with.
 */
#include "bench.h"
#include "ticks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    SETTLE_STEP_MS = 20,
    SETTLE_QUIET_STEPS = 3, /* so many quiet steps in a row are the end */
    SETTLE_QUIET_US = 1000, /* CPU time of a quiet step */
    SETTLE_STEPS_MAX = 3000 /* a minute */
};

static void sleep_ms(unsigned ms)
{
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&time, NULL);
}

double ticks_calibrate(void)
{
    uint64_t ticks = ticks_now();
    uint64_t ns = ticks_clock_ns();

    sleep_ms(100);
    ticks = ticks_now() - ticks;
    ns = ticks_clock_ns() - ns;
    return (double)ticks / (double)ns;
}

double ticks_overhead_ns(double ticks_per_ns)
{
    enum { READING_COUNT = 1000000 };
    uint64_t start = ticks_now();
    uint64_t last = start;
    unsigned i;

    for (i = 0; i < READING_COUNT; i++) {
        last = ticks_now();
        __asm__ volatile("" : : "r"(last));
    }
    return (double)(last - start) / READING_COUNT / ticks_per_ns;
}

/* The rest of the first line of a file that starts with `name`, without leading blanks. */
static void read_line(const char *path, const char *name, char *out_text, size_t text_size)
{
    FILE *file = fopen(path, "r");
    size_t name_size = strlen(name);
    char line[512];

    snprintf(out_text, text_size, "unknown");
    if (!file)
        return;
    while (fgets(line, sizeof(line), file)) {
        if (strncmp(line, name, name_size))
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out_text, text_size, "%s", line + name_size + strspn(line + name_size, " \t:"));
        break;
    }
    fclose(file);
}

static uint64_t proc_bytes(const char *path, const char *name)
{
    char text[128];

    read_line(path, name, text, sizeof(text));
    return strtoull(text, NULL, 10) * 1024; /* these files count in KiB */
}

uint64_t machine_available_bytes(void)
{
    return proc_bytes("/proc/meminfo", "MemAvailable:");
}

uint64_t machine_status_bytes(const char *name)
{
    return proc_bytes("/proc/self/status", name);
}

uint64_t machine_written_bytes(void)
{
    char text[128];

    read_line("/proc/self/io", "write_bytes:", text, sizeof(text));
    return strtoull(text, NULL, 10);
}

void machine_print_header(const char *folder)
{
    struct utsname system;
    char cpu[128];
    char huge_pages[128];

    read_line("/proc/cpuinfo", "model name", cpu, sizeof(cpu));
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", "", huge_pages, sizeof(huge_pages));
    uname(&system);
    printf("# cpu\t%s\n", cpu);
    printf("# cores\t%ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    printf("# memory\t%.1f GiB, %.1f available\n",
           (double)proc_bytes("/proc/meminfo", "MemTotal:") / (1u << 30),
           (double)machine_available_bytes() / (1u << 30));
    printf("# kernel\t%s %s\n", system.sysname, system.release);
    printf("# huge pages\t%s\n", huge_pages);
    printf("# file system\t%s\n", folder_filesystem(folder));
    printf("# compiler\t%s\n", __VERSION__);
}

static uint64_t cpu_us(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

uint64_t machine_settle_ns(void)
{
    uint64_t start = cpu_us();
    uint64_t before = start;
    uint64_t after;
    unsigned quiet = 0;
    unsigned i;

    for (i = 0; i < SETTLE_STEPS_MAX && quiet < SETTLE_QUIET_STEPS; i++) {
        sleep_ms(SETTLE_STEP_MS);
        after = cpu_us();
        quiet = after - before < SETTLE_QUIET_US ? quiet + 1 : 0;
        before = after;
    }
    return (before - start) * 1000;
}
