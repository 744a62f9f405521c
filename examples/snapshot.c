/* SPDX-License-Identifier: Apache-2.0
 *
 * snapshot.c -- money goes from account to account in one thread, and another adds it up: each
 * transfer is a batch that happens only if both balances are as they were read, each report is of
 * one moment.
 *
 *     cc snapshot.c $(pkg-config --cflags --libs keepmap) -lpthread
 */
#include <keepmap/keepmap.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define ACCOUNT_COUNT 1000u
#define BALANCE_AT_FIRST 10
#define TRANSFER_COUNT 20000u
#define REPORT_COUNT 5

/* A balance is a number as km_increment() has it: 8 bytes, little-endian. */
static km_bytes number_to_bytes(int64_t number, unsigned char bytes[8])
{
    int i;

    for (i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)number >> 8 * i);
    return km_bytes_of(bytes, 8);
}

static int64_t number_of_bytes(const void *data)
{
    const unsigned char *bytes = (const unsigned char *)data;
    uint64_t number = 0;
    int i;

    for (i = 7; i >= 0; i--)
        number = number << 8 | bytes[i];
    return (int64_t)number;
}

/* Let a batch change a balance, provided that nobody else changes it before the commit. */
static km_status add_to_balance(km_batch *batch, km_map *accounts, uint64_t account, int64_t amount)
{
    km_u64_key number = km_u64_key_from(account);
    km_bytes key = km_bytes_of(number.bytes, 8);
    km_buffer value = KM_BUFFER_INIT;
    unsigned char balance[8];
    km_key_info info;
    km_status rc;

    rc = km_get_info(accounts, key, &value, &info);
    if (rc == KM_OK)
        rc = km_batch_expect(batch, accounts, key, info.version);
    if (rc == KM_OK)
        rc = km_batch_put(batch, accounts, key,
                          number_to_bytes(number_of_bytes(value.data) + amount, balance));
    km_buffer_free(&value);
    return rc;
}

/* Two accounts: of the changes that a batch makes to one key, the last one counts. */
static km_status transfer(km_batch *batch, km_map *accounts, uint64_t from, uint64_t to)
{
    km_status rc;

    do { /* again, from the balances as they are by then, if another thread came between */
        km_batch_clear(batch);
        rc = add_to_balance(batch, accounts, from, -1);
        if (rc == KM_OK)
            rc = add_to_balance(batch, accounts, to, 1);
        if (rc == KM_OK)
            rc = km_batch_commit(batch, NULL);
    } while (rc == KM_CONFLICT);
    return rc;
}

struct clerk {
    km_store *store;
    km_map *accounts;
    km_status rc;
};

static void *run_clerk(void *context)
{
    struct clerk *clerk = (struct clerk *)context;
    km_batch *batch;
    uint64_t i;

    clerk->rc = km_batch_create(clerk->store, &batch);
    if (clerk->rc)
        return NULL;
    for (i = 0; clerk->rc == KM_OK && i < TRANSFER_COUNT; i++)
        clerk->rc = transfer(batch, clerk->accounts, i % ACCOUNT_COUNT,
                             (i + ACCOUNT_COUNT / 2) % ACCOUNT_COUNT);
    km_batch_destroy(batch);
    return NULL;
}

/* Whatever the clerk does meanwhile, the money of a snapshot is all there. */
static km_status report(km_snapshot *snapshot, km_map *accounts)
{
    km_cursor_options options = KM_CURSOR_OPTIONS_INIT;
    km_cursor *cursor;
    km_bytes balance;
    int64_t sum = 0;
    km_status rc;

    options.snapshot = snapshot;
    rc = km_cursor_open(accounts, &options, &cursor);
    if (rc)
        return rc;
    while ((rc = km_cursor_next(cursor, NULL, &balance)) == KM_OK)
        sum += number_of_bytes(balance.data);
    km_cursor_close(cursor);
    printf("%d accounts hold %d\n", (int)km_snapshot_count(snapshot, accounts), (int)sum);
    if (sum != (int64_t)ACCOUNT_COUNT * BALANCE_AT_FIRST)
        return KM_STOPPED;
    return rc == KM_END ? KM_OK : rc;
}

static km_status report_many_times(km_store *store, km_map *accounts)
{
    km_snapshot *snapshot;
    km_status rc = KM_OK;
    int i;

    for (i = 0; rc == KM_OK && i < REPORT_COUNT; i++) {
        rc = km_snapshot_open(store, &snapshot);
        if (rc)
            return rc;
        rc = report(snapshot, accounts);
        km_snapshot_close(snapshot); /* as long as it is open, the log keeps all it refers to */
    }
    return rc;
}

/* Into a folder of its own, named by the moment: it is a store, and outlives this process. */
static km_status save(km_store *store)
{
    km_snapshot_info info;
    km_snapshot *snapshot;
    km_error error;
    char path[64];
    km_status rc;

    memset(&info, 0, sizeof(info));
    info.struct_size = sizeof(info);
    rc = km_snapshot_open(store, &snapshot);
    if (rc)
        return rc;
    rc = km_snapshot_describe(snapshot, &info);
    if (rc == KM_OK) {
        snprintf(path, sizeof(path), "bank.%llu", (unsigned long long)info.taken_ms);
        rc = km_snapshot_save(snapshot, path, NULL, NULL, &error);
        if (rc)
            fprintf(stderr, "%s\n", error.message);
        else
            printf("saved as %s\n", path);
    }
    km_snapshot_close(snapshot);
    return rc;
}

static km_status open_accounts(km_store *store, km_map **out_accounts)
{
    unsigned char balance[8];
    uint64_t i;
    km_status rc;

    rc = km_map_open_or_create(store, km_bytes_of_string("accounts"), KM_SORTED, out_accounts);
    for (i = 0; rc == KM_OK && i < ACCOUNT_COUNT; i++) {
        km_u64_key key = km_u64_key_from(i);

        rc = km_put_if_absent(*out_accounts, km_bytes_of(key.bytes, 8),
                              number_to_bytes(BALANCE_AT_FIRST, balance), NULL);
        rc = rc == KM_EXISTS ? KM_OK : rc; /* from an earlier run */
    }
    return rc;
}

static km_status work(km_store *store)
{
    struct clerk clerk;
    pthread_t thread;
    km_status rc;

    clerk.store = store;
    rc = open_accounts(store, &clerk.accounts);
    if (rc)
        return rc;
    if (pthread_create(&thread, NULL, run_clerk, &clerk))
        return KM_E_NO_MEMORY;
    rc = report_many_times(store, clerk.accounts);
    pthread_join(thread, NULL);
    rc = rc ? rc : clerk.rc;
    return rc ? rc : save(store);
}

int main(void)
{
    km_store *store;
    km_error error;
    km_status rc;

    if (km_open("bank.store", NULL, &store, &error))
        return fprintf(stderr, "%s\n", error.message), 1;
    rc = work(store);
    if (rc != KM_OK)
        fprintf(stderr, "%s\n", km_status_name(rc));
    return km_close(store, &error) == KM_OK && rc == KM_OK ? 0 : 1;
}
