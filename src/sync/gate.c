/* SPDX-License-Identifier: Apache-2.0
 *
 * gate.c -- see gate.h.
 *
 * I1. Between the return of close() and open() nobody is inside, and what they did there is seen by
 *     who closed it; what is done then is seen by all who enter later.
 *
 * Entering writes its counter and then reads is_closed; closing writes is_closed and then reads the
 * counters. All four are seq_cst: with weaker orders each might read what was before the other's
 * write, and both go on.
 */
#include "sync/gate.h"

#include <sched.h>

#include "sync/thread.h"

#define GATE_SPINS 200u

static _Atomic uint32_t gate_next_slot;
static _Thread_local uint32_t gate_own_slot; /* + 1; 0: none yet */

static uint32_t own_gate_slot(void)
{
    if (KM_UNLIKELY(gate_own_slot == 0)) /* relaxed: any number serves */
        gate_own_slot = 1 + atomic_fetch_add_explicit(&gate_next_slot, 1, memory_order_relaxed) %
                                GATE_SLOT_COUNT;
    return gate_own_slot - 1;
}

void km__gate_init(struct gate *gate)
{
    for (uint32_t i = 0; i < GATE_SLOT_COUNT; i++)
        atomic_init(&gate->slots[i].inside, 0);
    atomic_init(&gate->is_closed, 0);
    km__eventcount_init(&gate->opened);
    km__mutex_init(&gate->lock);
}

void km__gate_fini(struct gate *gate)
{
    km__mutex_fini(&gate->lock);
}

static KM_NOINLINE void await_open(struct gate *gate)
{
    for (uint32_t i = 0; i < GATE_SPINS; i++) {
        /* acquire: as in km__gate_enter(), which looks again */
        if (!atomic_load_explicit(&gate->is_closed, memory_order_acquire))
            return;
        km__thread_pause();
    }
    for (;;) { /* ends: who closes a gate opens it */
        uint32_t ticket = km__eventcount_prepare(&gate->opened);

        if (!atomic_load_explicit(&gate->is_closed, memory_order_acquire)) {
            km__eventcount_cancel(&gate->opened);
            return;
        }
        km__eventcount_wait(&gate->opened, ticket, KM__WAIT_FOREVER);
    }
}

uint32_t km__gate_enter(struct gate *gate)
{
    uint32_t slot = own_gate_slot();

    for (;;) { /* ends: a gate is closed now and then */
        atomic_fetch_add_explicit(&gate->slots[slot].inside, 1, memory_order_seq_cst);
        /* seq_cst: see the head of this file. Pairs with km__gate_open(): what was done there */
        if (KM_LIKELY(!atomic_load_explicit(&gate->is_closed, memory_order_seq_cst)))
            return slot;
        km__gate_leave(gate, slot);
        await_open(gate);
    }
}

void km__gate_leave(struct gate *gate, uint32_t slot)
{
    /* release: pairs with km__gate_close(): what was done inside */
    atomic_fetch_sub_explicit(&gate->slots[slot].inside, 1, memory_order_release);
}

void km__gate_close(struct gate *gate)
{
    km__mutex_lock(&gate->lock);
    atomic_store_explicit(&gate->is_closed, 1, memory_order_seq_cst); /* see the head */
    for (uint32_t i = 0; i < GATE_SLOT_COUNT; i++) {
        uint32_t spins = 0;

        /* seq_cst: see the head; acquires what km__gate_leave() released */
        while (atomic_load_explicit(&gate->slots[i].inside, memory_order_seq_cst)) {
            if (++spins < GATE_SPINS) /* ends: sections are short, and no new ones begin */
                km__thread_pause();
            else
                sched_yield();
        }
    }
}

void km__gate_open(struct gate *gate)
{
    /* release: pairs with km__gate_enter() */
    atomic_store_explicit(&gate->is_closed, 0, memory_order_release);
    km__eventcount_notify(&gate->opened);
    km__mutex_unlock(&gate->lock);
}
