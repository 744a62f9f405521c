/* SPDX-License-Identifier: Apache-2.0
 *
 * input.c -- lines of any length up to a limit, from a file or a pipe, without copying them.
 *
 * I1. A byte is searched for a newline once, and moved a bounded number of times: the unread rest
 *     moves to the front of the buffer before the buffer is filled again, and a buffer that one
 *     line fills doubles.
 * I2. A read asks for what there is: a line from a slow pipe is returned as soon as it is whole.
 * I3. A wait for a slow pipe ends soon after a signal, where signals are caught.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    INPUT_BUFFER_SIZE = 256 * 1024,
    WAIT_PIECE_MS = 50 /* another thread may get the signal (signal.c) */
};

int cli_input_open(struct input *input, const char *path)
{
    struct stat about;

    memset(input, 0, sizeof(*input));
    input->name = path ? path : "stdin";
    input->line_max = SIZE_MAX / 4;
    input->fd = path ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (input->fd < 0 || fstat(input->fd, &about) != 0) {
        cli_message("cannot read %s: %s", input->name, strerror(errno));
        cli_input_close(input);
        return EXIT_FAILED;
    }
    if (S_ISREG(about.st_mode))
        input->total_size = (uint64_t)about.st_size;
    return EXIT_DONE;
}

void cli_input_close(struct input *input)
{
    free(input->data);
    input->data = NULL;
    if (input->fd > STDERR_FILENO)
        close(input->fd);
    input->fd = -1;
}

/* Make room behind data[end]. */
static enum input_result make_room(struct input *input)
{
    size_t capacity = input->capacity ? input->capacity * 2 : INPUT_BUFFER_SIZE;
    unsigned char *data;

    if (input->start > 0) {
        memmove(input->data, input->data + input->start, input->end - input->start);
        input->end -= input->start;
        input->start = 0;
    }
    if (input->end < input->capacity)
        return INPUT_LINE;
    data = realloc(input->data, capacity);
    if (data == NULL)
        return INPUT_NO_MEMORY;
    input->data = data;
    input->capacity = capacity;
    return INPUT_LINE;
}

/* Wait until there is something to read, or the end, or a signal asks to stop (I3). */
static enum input_result await_input(const struct input *input)
{
    struct pollfd ready = {.fd = input->fd, .events = POLLIN};

    while (!cli_is_stopped()) {
        if (poll(&ready, 1, WAIT_PIECE_MS) != 0)
            return cli_is_stopped() ? INPUT_STOPPED : INPUT_LINE; /* read() tells of errors */
    }
    return INPUT_STOPPED;
}

/* Read what there is behind data[end]; sets `ended` at the end of the file. */
static enum input_result fill(struct input *input)
{
    enum input_result result = make_room(input);
    ssize_t got;

    if (result == INPUT_LINE)
        result = await_input(input);
    if (result != INPUT_LINE)
        return result;
    do {
        got = read(input->fd, input->data + input->end, input->capacity - input->end);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return INPUT_FAILED;
    if (got == 0)
        input->ended = 1;
    input->end += (size_t)got;
    return INPUT_LINE;
}

/* Size of the line that begins at data[start], reading more as needed. */
static enum input_result find_line(struct input *input, size_t *out_size)
{
    size_t searched = 0; /* bytes of the line known to hold no newline */
    enum input_result result;

    for (;;) {
        size_t size = input->end - input->start;
        unsigned char *line = input->data + input->start;
        unsigned char *newline = NULL;
        if (size > searched)
            newline = memchr(line + searched, '\n', size - searched);
        *out_size = newline ? (size_t)(newline - line) : size;
        if (*out_size > input->line_max)
            return INPUT_TOO_LONG;
        if (newline)
            return INPUT_LINE;
        if (input->ended)
            return size ? INPUT_LINE : INPUT_END;
        searched = size;
        result = fill(input);
        if (result != INPUT_LINE)
            return result;
    }
}

enum input_result cli_input_peek(struct input *input, unsigned char **out_line, size_t *out_size)
{
    enum input_result result = find_line(input, out_size);

    if (result == INPUT_LINE)
        *out_line = input->data + input->start;
    return result;
}

enum input_result cli_input_line(struct input *input, unsigned char **out_line, size_t *out_size)
{
    enum input_result result = cli_input_peek(input, out_line, out_size);
    size_t used = *out_size;

    if (result == INPUT_END)
        return result;
    input->line++;
    if (result != INPUT_LINE)
        return result;
    if (input->start + used < input->end)
        used++; /* the newline; the last line may have none */
    input->start += used;
    input->done_size += used;
    return INPUT_LINE;
}

int cli_read_stdin(size_t size_max, unsigned char **out_data, size_t *out_size)
{
    struct input input = {.fd = STDIN_FILENO, .name = "stdin"};
    enum input_result result = INPUT_LINE;

    while (result == INPUT_LINE && !input.ended && input.end <= size_max)
        result = fill(&input);
    if (result == INPUT_LINE && input.end <= size_max) {
        *out_data = input.data;
        *out_size = input.end;
        return EXIT_DONE;
    }
    if (result == INPUT_FAILED) {
        cli_message("cannot read stdin: %s", strerror(errno));
    } else if (result == INPUT_STOPPED) {
        cli_message("stopped by a signal");
    } else if (result == INPUT_NO_MEMORY) {
        cli_message("not enough memory for the value on stdin");
    } else {
        cli_message("the value on stdin is too big: at most %zu bytes", size_max);
    }
    free(input.data);
    return result == INPUT_LINE ? EXIT_USAGE : EXIT_FAILED;
}
