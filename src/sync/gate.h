/* SPDX-License-Identifier: Apache-2.0
 *
 * gate.h -- many pass at once; now and then one closes the gate, waits until nobody is inside, does
 * something in peace, and opens it again.
 *
 * Who passes changes a counter that few others share, so that passing costs some nanoseconds on any
 * number of processors. The sections inside must be short: nothing may be waited for that a thread
 * outside does while it waits for the gate.
 */
#ifndef KM_SYNC_GATE_H
#define KM_SYNC_GATE_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/compiler.h"
#include "sync/eventcount.h"
#include "sync/mutex.h"

#define GATE_SLOT_COUNT 32u

struct gate_slot {
    _Alignas(KM_CACHE_LINE) _Atomic uint64_t inside; /* [a] */
};

struct gate {
    struct gate_slot slots[GATE_SLOT_COUNT];
    _Alignas(KM_CACHE_LINE) _Atomic uint32_t is_closed; /* [a] */
    struct eventcount opened;
    struct mutex lock; /* who closes it */
};

void km__gate_init(struct gate *gate);
void km__gate_fini(struct gate *gate);

/* Waits while the gate is closed. Returns the slot to leave by. Never twice by one thread. */
uint32_t km__gate_enter(struct gate *gate);
void km__gate_leave(struct gate *gate, uint32_t slot);

/* Close it and wait until nobody is inside; open it again. */
void km__gate_close(struct gate *gate);
void km__gate_open(struct gate *gate);

#endif
