/* Local APIC of one vCPU: xAPIC page, x2APIC MSRs, timer, interprocessor interrupts (SDM vol. 3, chapter 11). */
#ifndef MACHINE_DEVICES_LAPIC_H
#define MACHINE_DEVICES_LAPIC_H

#include <stdatomic.h>

#include "machine/lock.h"
#include "machine/spin.h"
#include "machine/types.h"

struct machine;

/* The APIC timer's input clock. CPUID leaves that speak of it (0x15's crystal, 0x40000010's bus) must say the same. */
#define LAPIC_BUS_HZ 1000000000ull

/* IA32_APIC_BASE. */
#define LAPIC_BASE_BSP 0x100u
#define LAPIC_BASE_X2APIC 0x400u
#define LAPIC_BASE_ENABLE 0x800u

enum lapic_waiting {
	LAPIC_RUNS,
	LAPIC_SLEEPS, /* or is about to, after one more look at what is pending: needs a futex wake */
	LAPIC_AWAKE,  /* in machine_vcpu_wait, and will look again before it sleeps */
};

enum lapic_delivery {
	LAPIC_FIXED = 0, LAPIC_LOWEST = 1, LAPIC_SMI = 2, LAPIC_NMI = 4, LAPIC_INIT = 5, LAPIC_SIPI = 6, LAPIC_EXTINT = 7
};

/* Why machine_intr_pending should look closer; all clear is the common case. */
#define LAPIC_ATTENTION_IRR 1u    /* some IRR bit may be set */
#define LAPIC_ATTENTION_EXTINT 2u /* the 8259 asks, or an ExtINT message came */

/*
 * Fields marked (any) are set by any thread; the others belong to the vCPU's thread. IRR is written before
 * `attention`, and `attention` before the kick; the reader clears `attention` before it scans IRR.
 */
struct lapic {
	_Atomic uint32_t attention; /* (any) */
	_Atomic uint8_t tpr, ppr;   /* the vCPU's; other threads may look */
	_Atomic uint64_t irr[4];    /* (any) */
	_Atomic uint64_t tmr[4];    /* (any): level-triggered when accepted */
	uint64_t isr[4];
	_Atomic uint32_t events;    /* (any): MACHINE_VCPU_* */
	_Atomic uint8_t sipi_vector; /* (any) */
	_Atomic bool extint_line;   /* (any): the 8259's output */
	_Atomic bool extint_message; /* (any) */

	/* Read by senders on other threads. */
	_Atomic uint64_t base;      /* IA32_APIC_BASE */
	_Atomic uint32_t svr, ldr, dfr;
	_Atomic uint32_t lvt_lint[2];

	uint32_t id;                /* APIC id = index */
	uint32_t lvt_timer, lvt_thermal, lvt_perf, lvt_error;
	_Atomic uint32_t esr_pending; /* (any) */
	uint32_t esr;
	uint64_t icr;
	uint32_t divide;            /* divide configuration register */
	uint32_t initial_count;

	/* Timer. timer_deadline is virtual ns (CLOCK_NEVER: not running); who takes it away, under timer_lock, fires it. */
	_Atomic uint64_t timer_deadline; /* (any) */
	_Atomic uint64_t timer_period;   /* (any): ns; 0 one-shot */
	_Atomic uint64_t timer_tsc;      /* (any): IA32_TSC_DEADLINE; 0 when not armed */
	_Atomic uint32_t timer_vector;   /* (any): LVT timer's low bits and mask, for the clock thread */

	/*
	 * wake_word is 1 to end a wait. While `waiting` is not LAPIC_RUNS the vCPU watches its own timer, and the clock
	 * thread leaves it alone.
	 */
	_Atomic uint32_t wake_word;
	_Atomic uint32_t waiting;
	bool slack_set;             /* the thread's timer slack was lowered */
	bool woken_early;           /* the last sleep ended before its timer */
	struct spin spin;           /* how long it looks for an interrupt before it sleeps */

	struct machine *machine;
	unsigned index;
	uint64_t accepted, eois, ipis, timer_arms;
	_Atomic uint64_t timer_fires, halts;
	/* Held from taking a deadline to accepting its interrupt, and to change the timer: so none comes after that. */
	struct mlock timer_lock;
} __attribute__((aligned(128)));

void lapic_init(struct lapic *lapic, struct machine *machine, unsigned index);
/* Power-on (`init` false) or INIT state, which keeps id and base. On the vCPU's thread, or while it is out of run. */
void lapic_reset(struct lapic *lapic, bool init);

/* A page access by the vCPU itself; offset within the 4 KiB page. [lock-free] */
uint32_t lapic_mmio_read(struct lapic *lapic, unsigned offset);
void lapic_mmio_write(struct lapic *lapic, unsigned offset, uint32_t value);

/* Interrupt bus. [lock-free] Fixed and lowest-priority go to `vector`; returns whether any LAPIC took it. */
bool lapic_bus_deliver(struct machine *machine, uint32_t dest, bool logical, enum lapic_delivery mode, uint8_t vector,
		       bool level);
/* The 8259's INT output changed: LINT0 of every LAPIC. Under the machine lock. */
void lapic_pic_output(struct machine *machine, bool level);
/* LINT1 of every LAPIC. */
void lapic_lint1_pulse(struct machine *machine);

/* See machine/irqchip.h. The vCPU is out of run. */
struct irqchip_lapic;
void lapic_save(struct lapic *lapic, struct irqchip_lapic *ret_state);
void lapic_restore(struct lapic *lapic, const struct irqchip_lapic *state);
/* Nothing pending, no timer, no input: an engine has its place. */
void lapic_idle(struct lapic *lapic);

/* For the clock thread: fires what is due among vCPUs that do not wait themselves; the earliest deadline left. */
uint64_t lapic_timers_run(struct machine *machine, uint64_t now);
/* The earliest deadline of vCPUs that do not wait themselves. */
uint64_t lapic_timers_next(struct machine *machine);

#endif
