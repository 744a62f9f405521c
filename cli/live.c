/* SPDX-License-Identifier: Apache-2.0
 *
 * live.c -- look at a store for long, beside whoever writes it.
 *
 * I1. No writer is kept out: a store that is read without a writer is locked against writers, so it
 *     is let go of once it has been read.
 */
#include "cli.h"

#include <string.h>

/* What the folder tells; returns 0 where it cannot be read at the moment. */
static int inspect(const struct live *live, km_inspection *out)
{
    memset(out, 0, sizeof(*out));
    out->struct_size = sizeof(*out);
    return km_inspect(live->cli->arguments[0], out, NULL) == KM_OK;
}

int cli_live_open(struct live *live, struct cli *cli)
{
    memset(live, 0, sizeof(*live));
    live->cli = cli;
    return cli_open(cli, KM_OPEN_READ_ONLY, &live->store);
}

int cli_live_is_alone(const struct live *live)
{
    km_stats stats = {.struct_size = sizeof(stats)};

    return live->store && km_store_stats(live->store, &stats) == KM_OK && !stats.is_follower;
}

void cli_live_let_go(struct live *live)
{
    km_inspection inspection;

    if (!live->is_told) {
        cli_note(live->cli, "%s is not open for writing in another process: nothing changes",
                 live->cli->arguments[0]);
        live->is_told = 1;
    }
    if (inspect(live, &inspection))
        live->log_bytes = inspection.log_bytes; /* before a writer can have come */
    km_close(live->store, NULL);
    live->store = NULL;
}

int cli_live_reopen(struct live *live)
{
    km_inspection inspection;
    km_error error;
    km_status rc;

    if (live->store || !inspect(live, &inspection))
        return EXIT_DONE;
    if (!inspection.is_open && inspection.log_bytes == live->log_bytes)
        return EXIT_DONE;
    rc = cli_try_open(live->cli, KM_OPEN_READ_ONLY, &live->store, &error);
    if (rc == KM_E_LOCKED)
        return EXIT_DONE; /* the writer is still recovering: later */
    if (rc)
        return cli_fail_at(live->cli->arguments[0], rc, &error);
    live->is_told = live->is_told && !inspection.is_open;
    return EXIT_DONE;
}

int cli_live_close(struct live *live, int code)
{
    return cli_close(live->store, code);
}
