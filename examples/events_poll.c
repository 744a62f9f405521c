/* SPDX-License-Identifier: Apache-2.0
 *
 * events_poll.c -- a loop of events with poll(): a program that has other things to do has many
 * gets of a sealed table under way at once, and is told when results are there.
 *
 *     cc events_poll.c $(pkg-config --cflags --libs keepmap)
 */
#include <keepmap/keepmap.h>
#include <poll.h>
#include <stdio.h>

#define RECORD_COUNT 100000u
#define GET_COUNT 20000u
#define TICK_MS 10

static km_status build_table(const char *path)
{
    km_sealed_build_options options = KM_SEALED_BUILD_OPTIONS_INIT;
    km_sealed_builder *builder = NULL;
    unsigned number;
    km_status rc;

    options.keys = KM_SEALED_U64;
    rc = km_sealed_builder_open(path, &options, &builder, NULL);
    if (rc != KM_OK)
        return rc;
    for (number = 0; rc == KM_OK && number < RECORD_COUNT; number++) {
        char text[32];
        int size = snprintf(text, sizeof(text), "record %u", number);
        rc = km_sealed_builder_add_number(builder, number, km_bytes_of(text, (size_t)size));
    }
    if (rc == KM_OK)
        return km_sealed_builder_finish(builder, NULL);
    km_sealed_builder_abort(builder);
    return rc;
}

struct program {
    km_sealed_queue *queue;
    km_sealed *table;
    unsigned submitted;
    unsigned found;
    unsigned absent;
    unsigned failed;
    unsigned ticks;
};

/* Keep the queue full. */
static void submit_gets(struct program *program)
{
    while (program->submitted < GET_COUNT) {
        /* a third of the numbers is beyond the table */
        unsigned number = program->submitted * 7919u % (RECORD_COUNT + RECORD_COUNT / 2);
        km_status rc = km_sealed_submit_get_number(program->queue, program->table, number, NULL,
                                                   NULL);
        if (rc == KM_BUSY) /* enough for now: further ones when some have ended */
            return;
        program->submitted++;
        program->failed += rc != KM_OK;
    }
}

static void take_results(struct program *program)
{
    km_sealed_result results[64];
    size_t count = 0, i;

    if (km_sealed_queue_poll(program->queue, results, 64, 0, &count) != KM_OK)
        return;
    for (i = 0; i < count; i++) {
        switch (results[i].status) {
        case KM_OK: program->found++; break; /* results[i].value is valid until the next poll */
        case KM_NOT_FOUND: program->absent++; break;
        default: program->failed++; break;
        }
    }
}

static void run_loop(struct program *program)
{
    struct pollfd watched;

    watched.fd = km_sealed_queue_fd(program->queue);
    watched.events = POLLIN; /* other descriptors would stand beside it */
    submit_gets(program);
    while (km_sealed_queue_pending(program->queue) > 0) {
        int ready = poll(&watched, 1, TICK_MS);
        if (ready > 0)
            take_results(program);
        else
            program->ticks++; /* time for something else */
        submit_gets(program);
    }
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "numbers.sealed";
    struct program program = {NULL, NULL, 0, 0, 0, 0, 0};
    km_status rc;

    rc = build_table(path);
    if (rc == KM_OK)
        rc = km_sealed_open(path, NULL, &program.table, NULL);
    if (rc == KM_OK)
        rc = km_sealed_queue_open(NULL, &program.queue, NULL);
    if (rc == KM_OK)
        run_loop(&program);
    km_sealed_queue_close(program.queue); /* before the table */
    km_sealed_close(program.table);
    if (rc != KM_OK) {
        fprintf(stderr, "%s: %s\n", path, km_status_name(rc));
        return 1;
    }
    printf("%u gets: %u found, %u absent, %u failed\n", program.submitted, program.found,
           program.absent, program.failed);
    return program.failed > 0;
}
