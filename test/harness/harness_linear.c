/* SPDX-License-Identifier: Apache-2.0
 *
 * harness_linear.c -- the search of Wing and Gong, with Lowe's memory of what was tried.
 *
 * A state of the search is (set of calls that have had their moment, value they left). A call may
 * be next if no other one without a moment ended before it began. A state that led nowhere once
 * leads nowhere again, so it is entered in a table. Depth is at most LINEAR_CALL_MAX.
 */
#include "harness/harness_linear.h"

#include <stdio.h>
#include <stdlib.h>

struct tried_state {
    uint64_t done, value;
};

struct search {
    const struct linear_call *calls;
    size_t count;
    uint64_t before[LINEAR_CALL_MAX]; /* the calls that ended before this one began */
    struct tried_state *tried;        /* open addressing; done 0 is an empty place */
    size_t tried_count, tried_capacity;
};

static size_t place_of(const struct search *search, uint64_t done, uint64_t value)
{
    uint64_t hash = (done ^ value * UINT64_C(0x9fb21c651e98df25)) * UINT64_C(0x9e3779b97f4a7c15);
    size_t place = (size_t)(hash >> 20) & (search->tried_capacity - 1);

    while (search->tried[place].done &&
           (search->tried[place].done != done || search->tried[place].value != value))
        place = (place + 1) & (search->tried_capacity - 1); /* ends: the table is never full */
    return place;
}

static void grow_tried(struct search *search)
{
    struct tried_state *old = search->tried;
    size_t old_capacity = search->tried_capacity;

    search->tried_capacity = old_capacity ? old_capacity * 2 : 256;
    search->tried = calloc(search->tried_capacity, sizeof(*search->tried));
    if (!search->tried)
        abort();
    for (size_t i = 0; i < old_capacity; i++) {
        if (old[i].done)
            search->tried[place_of(search, old[i].done, old[i].value)] = old[i];
    }
    free(old);
}

/* Enter a state; 0 if it is there already. */
static int is_new(struct search *search, uint64_t done, uint64_t value)
{
    size_t place;

    if (2 * search->tried_count >= search->tried_capacity)
        grow_tried(search);
    place = place_of(search, done, value);
    if (search->tried[place].done)
        return 0;
    search->tried[place] = (struct tried_state){done, value};
    search->tried_count++;
    return 1;
}

static int is_possible(const struct linear_call *call, uint64_t value)
{
    return call->kind == LINEAR_PUT || call->seen == value;
}

static uint64_t value_after(const struct linear_call *call, uint64_t value)
{
    if (call->kind == LINEAR_GET)
        return value;
    return call->kind == LINEAR_DELETE ? 0 : call->value;
}

static int can_finish(struct search *search, uint64_t done, uint64_t value, size_t depth)
{
    if (depth == search->count)
        return 1;
    for (size_t i = 0; i < search->count; i++) {
        const struct linear_call *call = &search->calls[i];
        uint64_t with = done | UINT64_C(1) << i, after = value_after(call, value);

        if (with == done || (search->before[i] & ~done) || !is_possible(call, value))
            continue;
        if (is_new(search, with, after) && can_finish(search, with, after, depth + 1))
            return 1;
    }
    return 0;
}

int linear_check(const struct linear_call *calls, size_t count)
{
    struct search search = {.calls = calls, .count = count};
    int result;

    if (count > LINEAR_CALL_MAX)
        abort();
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            if (calls[j].end_ns < calls[i].begin_ns)
                search.before[i] |= UINT64_C(1) << j;
        }
    }
    result = can_finish(&search, 0, 0, 0);
    free(search.tried);
    return result;
}

void linear_print(const struct linear_call *calls, size_t count)
{
    static const char *const names[] = {"put", "put-previous", "delete", "get"};

    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "%llu..%llu %s value %llu seen %llu\n",
                (unsigned long long)calls[i].begin_ns, (unsigned long long)calls[i].end_ns,
                names[calls[i].kind], (unsigned long long)calls[i].value,
                (unsigned long long)calls[i].seen);
}
