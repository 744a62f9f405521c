/* SPDX-License-Identifier: Apache-2.0
 *
 * output.c -- stdout, with every write checked.
 *
 * SIGPIPE is ignored while the tool runs, so that a store is closed in order when the reader of our
 * output goes away; at the very end the signal is raised after all, and the shell sees what it
 * sees of other tools.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OUTPUT_BUFFER_SIZE = 256 * 1024 };

void cli_output_init(struct cli *cli)
{
    static char buffer[OUTPUT_BUFFER_SIZE];
    int fd;

    /* A closed stdout is replaced by one that cannot be written: the failure is reported (I1). */
    do {
        fd = open("/dev/null", O_RDONLY);
    } while (fd >= 0 && fd <= 2);
    if (fd >= 0)
        close(fd);
    signal(SIGPIPE, SIG_IGN);
    cli->output_is_terminal = isatty(STDOUT_FILENO);
    cli->message_is_terminal = isatty(STDERR_FILENO);
    setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
}

static void note_failure(struct cli *cli)
{
    if (cli->output_error == 0)
        cli->output_error = errno ? errno : EIO;
}

void cli_write(struct cli *cli, const void *data, size_t size)
{
    if (cli->output_error || size == 0)
        return;
    if (fwrite(data, 1, size, stdout) != size)
        note_failure(cli);
}

void cli_write_string(struct cli *cli, const char *string)
{
    cli_write(cli, string, strlen(string));
}

void cli_print(struct cli *cli, const char *format, ...)
{
    va_list arguments;

    if (cli->output_error)
        return;
    va_start(arguments, format);
    if (vprintf(format, arguments) < 0)
        note_failure(cli);
    va_end(arguments);
}

int cli_flush(struct cli *cli)
{
    if (cli->output_error == 0 && fflush(stdout) != 0)
        note_failure(cli);
    return cli->output_error;
}

int cli_output_is_gone(struct cli *cli)
{
    struct pollfd stdout_poll = {.fd = STDOUT_FILENO};

    if (poll(&stdout_poll, 1, 0) == 1 && (stdout_poll.revents & POLLERR) && !cli->output_error)
        cli->output_error = EPIPE;
    return cli->output_error != 0;
}

int cli_output_finish(struct cli *cli, int code)
{
    cli_flush(cli);
    if (fclose(stdout) != 0)
        note_failure(cli);
    if (cli->output_error == 0)
        return code;
    if (cli->output_error == EPIPE) {
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    cli_message("cannot write the output: %s", strerror(cli->output_error));
    return code == EXIT_CORRUPT ? code : EXIT_FAILED;
}
