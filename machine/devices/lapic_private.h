/* What lapic.c, lapic_timer.c and lapic_registers.c share. */
#ifndef MACHINE_DEVICES_LAPIC_PRIVATE_H
#define MACHINE_DEVICES_LAPIC_PRIVATE_H

#include "machine/devices/lapic.h"

#define SVR_ENABLE 0x100u
#define LVT_MASKED 0x10000u
#define LVT_MODE(lvt) ((enum lapic_delivery)((lvt) >> 8 & 7))
#define ESR_SEND_VECTOR 0x20u
#define ESR_RECEIVE_VECTOR 0x40u
#define ESR_REGISTER 0x80u

static inline uint32_t relaxed32(const _Atomic uint32_t *p) { return atomic_load_explicit(p, memory_order_relaxed); }
static inline uint64_t lapic_base(const struct lapic *l)
{
	return atomic_load_explicit(&l->base, memory_order_relaxed);
}
static inline bool lapic_x2(const struct lapic *l) { return lapic_base(l) & LAPIC_BASE_X2APIC; }

/* A fixed interrupt for this LAPIC, which is enabled. Any thread. */
void lapic_accept(struct lapic *l, uint8_t vector, bool level);
/* Looks again whether something is deliverable, and kicks this vCPU if so. The vCPU's own thread. */
void lapic_recheck(struct lapic *l);
void lapic_eoi(struct lapic *l);
void lapic_set_tpr(struct lapic *l, uint8_t tpr);
void lapic_send_ipi(struct lapic *l, uint64_t icr);

/* Timer, all on the vCPU's thread. */
void lapic_timer_stop(struct lapic *l);
void lapic_timer_write_initial(struct lapic *l, uint32_t count);
void lapic_timer_write_divide(struct lapic *l, uint32_t value);
void lapic_timer_write_lvt(struct lapic *l, uint32_t value);
void lapic_timer_write_tsc(struct lapic *l, uint64_t tsc);
uint32_t lapic_timer_current(struct lapic *l);
/* Goes on from a count or a TSC deadline, the LVT entry, divisor and initial count being in place. */
void lapic_timer_restore(struct lapic *l, uint32_t current, uint64_t tsc);
/* Fires a timer that is due. Any thread: whoever swaps the deadline away does it. */
void lapic_timer_check(struct lapic *l, uint64_t now);

#endif
