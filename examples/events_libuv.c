/* SPDX-License-Identifier: Apache-2.0
 *
 * events_libuv.c -- gets of a sealed table in a loop of libuv's: the queue's descriptor is watched
 * like any other, and a function is called for each result.
 *
 *     cc events_libuv.c $(pkg-config --cflags --libs keepmap libuv)
 */
#define _GNU_SOURCE /* uv.h needs what C alone has not */
#include <keepmap/keepmap.h>
#include <stdio.h>
#include <uv.h>

#define RECORD_COUNT 10000u
#define GET_COUNT 1000u

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
    uv_poll_t watcher;
    unsigned submitted;
    unsigned found;
    unsigned failed;
};

static void on_result(void *user, const km_sealed_result *result);

/* One get is begun for each that ends, until there were enough. */
static void submit_next(struct program *program)
{
    unsigned number = program->submitted * 7919u % RECORD_COUNT;

    if (program->submitted == GET_COUNT)
        return;
    program->submitted++;
    if (km_sealed_submit_get_number(program->queue, program->table, number, on_result, program) !=
        KM_OK)
        program->failed++;
}

static void on_result(void *user, const km_sealed_result *result)
{
    struct program *program = (struct program *)user;

    if (result->status == KM_OK)
        program->found++; /* result->value has the value */
    else
        program->failed++;
    submit_next(program);
}

/* The loop calls this while the queue has something to do. */
static void on_readable(uv_poll_t *watcher, int status, int events)
{
    struct program *program = (struct program *)watcher->data;

    (void)events;
    if (status < 0 || km_sealed_queue_poll(program->queue, NULL, 0, 0, NULL) != KM_OK)
        program->failed++;
    if (status < 0 || km_sealed_queue_pending(program->queue) == 0)
        uv_poll_stop(watcher); /* nothing left to watch: the loop ends */
}

static void run_loop(struct program *program, uv_loop_t *loop)
{
    unsigned i;

    if (uv_poll_init(loop, &program->watcher, km_sealed_queue_fd(program->queue)) != 0) {
        program->failed++;
        return;
    }
    program->watcher.data = program;
    for (i = 0; i < 32; i++)
        submit_next(program);
    if (uv_poll_start(&program->watcher, UV_READABLE, on_readable) != 0)
        program->failed++;
    uv_run(loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&program->watcher, NULL); /* before the queue's descriptor is */
    uv_run(loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "numbers.sealed";
    struct program program = {0};
    uv_loop_t loop;
    km_status rc;

    if (uv_loop_init(&loop) != 0)
        return 1;
    rc = build_table(path);
    if (rc == KM_OK)
        rc = km_sealed_open(path, NULL, &program.table, NULL);
    if (rc == KM_OK)
        rc = km_sealed_queue_open(NULL, &program.queue, NULL);
    if (rc == KM_OK)
        run_loop(&program, &loop);
    uv_loop_close(&loop);
    km_sealed_queue_close(program.queue);
    km_sealed_close(program.table);
    if (rc != KM_OK) {
        fprintf(stderr, "%s: %s\n", path, km_status_name(rc));
        return 1;
    }
    printf("%u gets: %u found, %u failed\n", program.submitted, program.found, program.failed);
    return program.failed > 0 || program.found != GET_COUNT;
}
