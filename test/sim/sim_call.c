/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_call.c -- how every fallible call runs on the simulated machine.
 *
 * I1. A step happens wholly between its two hook calls, under the lock: no thread sees half of it.
 * I2. After a cut nothing reaches the disk.
 */
#include "sim/sim_internal.h"

#include <errno.h>

static _Thread_local int sim_last_error; /* as errno: of the thread, not of a machine */

int km__sim_last_error(struct os *os)
{
    (void)os;
    return sim_last_error;
}

void km__sim_set_last_error(int os_error)
{
    sim_last_error = os_error;
}

km_status km__sim_fail(struct sim_call *call, km_status status, int os_error)
{
    call->os_error = os_error;
    return status;
}

static int is_step_op(enum sim_op op)
{
    switch (op) {
    case SIM_CREATE_DIR:
    case SIM_CREATE_SUBDIR:
    case SIM_SYNC_DIR:
    case SIM_RENAME:
    case SIM_UNLINK:
    case SIM_LINK:
    case SIM_RMDIR:
    case SIM_EXCHANGE:
    case SIM_CREATE_FILE:
    case SIM_WRITE:
    case SIM_ALLOCATE:
    case SIM_SYNC:
    case SIM_MAP_SHARED: return 1;
    default: return 0;
    }
}

/* The fault that this call meets, if any; counts all that wait for such a call down. */
static struct sim_fault *take_fault(struct sim *sim, enum sim_op op)
{
    struct sim_fault *met = NULL;
    size_t i;

    for (i = 0; i < SIM_FAULT_COUNT; i++) {
        struct sim_fault *fault = &sim->faults[i];
        if (fault->countdown == 0 || (fault->op != SIM_ANY && fault->op != op))
            continue;
        if (fault->countdown > 1) {
            fault->countdown--;
            continue;
        }
        if (!fault->is_sticky)
            fault->countdown = 0;
        if (!met)
            met = fault;
    }
    return met;
}

static km_status fail_by_fault(struct sim *sim, struct sim_call *call,
                               const struct sim_fault *fault)
{
    if (call->op == SIM_WRITE && fault->is_short && call->size > 0) {
        call->size = km__sim_below(&sim->rng, call->size);
        (void)call->apply(sim, call); /* what it came to, nobody learns */
    }
    if (call->op == SIM_SYNC || call->op == SIM_SYNC_DIR) {
        km__sim_node_sync_failed(call->node, &sim->rng);
    }
    return km__sim_fail(call, fault->status, fault->os_error);
}

/* Do a part of the call, at most, and die. Of a sync it is all or nothing: what a power cut makes
 * of writes not synced includes every part. */
static km_status cut_call(struct sim *sim, struct sim_call *call)
{
    if (call->op == SIM_WRITE) {
        call->size = km__sim_below(&sim->rng, call->size + 1);
        (void)call->apply(sim, call); /* what it came to, nobody learns */
    } else if (call->op != SIM_MAP_SHARED && km__sim_below(&sim->rng, 2) == 0) {
        (void)call->apply(sim, call); /* what it came to, nobody learns */
    }
    km__sim_freeze_all(sim);
    sim->is_dead = 1;
    if (sim->is_running && pthread_equal(sim->run_thread, pthread_self())) {
        sim->pending = NULL;
        km__sim_unlock(sim); /* steps begin with the lock free: once is enough */
        longjmp(sim->run_end, 1);
    }
    return km__sim_fail(call, KM_E_IO, EIO);
}

static void run_hook(struct sim *sim, uint64_t number)
{
    if (!sim->hook)
        return;
    sim->is_in_hook = 1;
    sim->hook(sim->hook_context, number);
    sim->is_in_hook = 0;
}

static km_status run_step(struct sim *sim, struct sim_call *call)
{
    uint64_t number = sim->step_count++;
    const struct sim_fault *fault;
    km_status rc;

    sim->pending = call;
    sim->current_op = call->op;
    run_hook(sim, 2 * number);
    if (sim->cut_countdown > 0 && --sim->cut_countdown == 0) {
        rc = cut_call(sim, call);
        sim->pending = NULL;
        return rc;
    }
    fault = take_fault(sim, call->op);
    rc = fault ? fail_by_fault(sim, call, fault) : call->apply(sim, call);
    sim->pending = NULL;
    return rc;
}

static km_status run_locked(struct sim *sim, struct sim_call *call)
{
    const struct sim_fault *fault;

    if (sim->is_dead)
        return km__sim_fail(call, KM_E_IO, EIO);
    if (sim->is_in_hook)
        return call->apply(sim, call);
    sim->call_counts[SIM_ANY]++;
    sim->call_counts[call->op]++;
    if (is_step_op(call->op))
        return run_step(sim, call);
    fault = take_fault(sim, call->op);
    return fault ? fail_by_fault(sim, call, fault) : call->apply(sim, call);
}

km_status km__sim_call(struct sim *sim, struct sim_call *call,
                       void (*finish)(struct sim *sim, struct sim_call *call))
{
    km_status rc;

    km__sim_lock(sim);
    sim->now_ns += 1000;
    rc = run_locked(sim, call);
    if (rc == KM_OK && finish)
        finish(sim, call);
    if (is_step_op(call->op) && !sim->is_dead && !sim->is_in_hook) {
        run_hook(sim, 2 * (sim->step_count - 1) + 1);
        sim->current_op = SIM_ANY;
    }
    km__sim_unlock(sim);
    if (rc)
        km__sim_set_last_error(call->os_error);
    return rc;
}

/* ---- controls ---- */

static void add_fault(struct os *os, struct sim_fault wanted)
{
    struct sim *sim = km__sim_of(os);
    size_t i;

    km__sim_lock(sim);
    for (i = 0; i < SIM_FAULT_COUNT && sim->faults[i].countdown > 0; i++) {
    }
    if (i == SIM_FAULT_COUNT)
        km__sim_abort("too many faults pending");
    sim->faults[i] = wanted;
    km__sim_unlock(sim);
}

void km__sim_fail_call(struct os *sim, enum sim_op op, uint64_t nth, km_status status, int os_error)
{
    add_fault(sim, (struct sim_fault){
                       .op = op, .countdown = nth, .status = status, .os_error = os_error});
}

void km__sim_fail_from(struct os *sim, enum sim_op op, uint64_t nth, km_status status, int os_error)
{
    add_fault(
        sim,
        (struct sim_fault){
            .op = op, .countdown = nth, .is_sticky = 1, .status = status, .os_error = os_error});
}

void km__sim_fail_write_short(struct os *sim, uint64_t nth, km_status status, int os_error)
{
    add_fault(sim, (struct sim_fault){.op = SIM_WRITE,
                                      .countdown = nth,
                                      .is_short = 1,
                                      .status = status,
                                      .os_error = os_error});
}

void km__sim_clear_faults(struct os *os)
{
    struct sim *sim = km__sim_of(os);
    size_t i;

    km__sim_lock(sim);
    for (i = 0; i < SIM_FAULT_COUNT; i++) {
        sim->faults[i].countdown = 0;
    }
    km__sim_unlock(sim);
}

void km__sim_on_step(struct os *os, void (*fn)(void *context, uint64_t step), void *context)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->hook = fn;
    sim->hook_context = context;
    km__sim_unlock(sim);
}

void km__sim_set_cut(struct os *os, uint64_t nth_step)
{
    struct sim *sim = km__sim_of(os);

    km__sim_lock(sim);
    sim->cut_countdown = nth_step;
    km__sim_unlock(sim);
}

int km__sim_run(struct os *os, void (*body)(void *context), void *context)
{
    struct sim *sim = km__sim_of(os);

    sim->run_thread = pthread_self();
    sim->is_running = 1;
    if (setjmp(sim->run_end)) {
        sim->is_running = 0;
        return 1;
    }
    body(context);
    sim->is_running = 0;
    return 0;
}
