/* The local APIC's registers: as a page, as MSRs, and at reset. */
#include "machine/devices/lapic_private.h"
#include "machine/irqchip.h"
#include "machine/private.h"

/* Callers may hold a guest's vector state in the host's registers. */
#pragma GCC target("general-regs-only")

#define LAPIC_VERSION 0x00050014u /* six LVT entries, no EOI-broadcast suppression */

/* Registers by number: the xAPIC offset / 16, which is also the MSR - 0x800. */
enum lapic_register {
	REG_ID = 0x02, REG_VERSION = 0x03, REG_TPR = 0x08, REG_APR = 0x09, REG_PPR = 0x0a, REG_EOI = 0x0b,
	REG_RRD = 0x0c, REG_LDR = 0x0d, REG_DFR = 0x0e, REG_SVR = 0x0f, REG_ISR = 0x10, REG_TMR = 0x18, REG_IRR = 0x20,
	REG_ESR = 0x28, REG_ICR = 0x30, REG_ICR_HIGH = 0x31, REG_LVT_TIMER = 0x32, REG_LVT_THERMAL = 0x33,
	REG_LVT_PERF = 0x34, REG_LVT_LINT0 = 0x35, REG_LVT_LINT1 = 0x36, REG_LVT_ERROR = 0x37, REG_INITIAL = 0x38,
	REG_CURRENT = 0x39, REG_DIVIDE = 0x3e, REG_SELF_IPI = 0x3f,
};

static uint32_t set_word(const uint64_t set[4], unsigned i) { return (uint32_t)(set[i / 2] >> (i % 2) * 32); }
static uint32_t atomic_word(const _Atomic uint64_t set[4], unsigned i)
{
	return (uint32_t)(atomic_load_explicit(&set[i / 2], memory_order_relaxed) >> (i % 2) * 32);
}

/* False: there is no such register to read. */
static bool register_read(struct lapic *l, unsigned reg, uint32_t *ret)
{
	switch (reg) {
	case REG_ID: *ret = lapic_x2(l) ? l->id : l->id << 24; return true;
	case REG_VERSION: *ret = LAPIC_VERSION; return true;
	case REG_TPR: *ret = atomic_load_explicit(&l->tpr, memory_order_relaxed); return true;
	case REG_PPR: *ret = atomic_load_explicit(&l->ppr, memory_order_relaxed); return true;
	case REG_LDR: *ret = relaxed32(&l->ldr); return true;
	case REG_SVR: *ret = relaxed32(&l->svr); return true;
	case REG_ISR ... REG_ISR + 7: *ret = set_word(l->isr, reg - REG_ISR); return true;
	case REG_TMR ... REG_TMR + 7: *ret = atomic_word(l->tmr, reg - REG_TMR); return true;
	case REG_IRR ... REG_IRR + 7: *ret = atomic_word(l->irr, reg - REG_IRR); return true;
	case REG_ESR: *ret = l->esr; return true;
	case REG_ICR: *ret = (uint32_t)l->icr; return true;
	case REG_LVT_TIMER: *ret = l->lvt_timer; return true;
	case REG_LVT_THERMAL: *ret = l->lvt_thermal; return true;
	case REG_LVT_PERF: *ret = l->lvt_perf; return true;
	case REG_LVT_LINT0: *ret = relaxed32(&l->lvt_lint[0]); return true;
	case REG_LVT_LINT1: *ret = relaxed32(&l->lvt_lint[1]); return true;
	case REG_LVT_ERROR: *ret = l->lvt_error; return true;
	case REG_INITIAL: *ret = l->initial_count; return true;
	case REG_CURRENT: *ret = lapic_timer_current(l); return true;
	case REG_DIVIDE: *ret = l->divide; return true;
	default: break;
	}
	if (lapic_x2(l))
		return false;
	switch (reg) {
	case REG_APR: case REG_RRD: *ret = 0; return true;
	case REG_DFR: *ret = relaxed32(&l->dfr); return true;
	case REG_ICR_HIGH: *ret = (uint32_t)(l->icr >> 32); return true;
	default: return false;
	}
}

static void svr_write(struct lapic *l, uint32_t value)
{
	atomic_store_explicit(&l->svr, value & 0x1ff, memory_order_relaxed);
	if (value & SVR_ENABLE)
		return;
	/* Switched off by software: every LVT entry is masked (SDM 11.4.7.2). */
	lapic_timer_write_lvt(l, l->lvt_timer | LVT_MASKED);
	l->lvt_thermal |= LVT_MASKED;
	l->lvt_perf |= LVT_MASKED;
	l->lvt_error |= LVT_MASKED;
	atomic_fetch_or(&l->lvt_lint[0], LVT_MASKED);
	atomic_fetch_or(&l->lvt_lint[1], LVT_MASKED);
}

static void lint_write(struct lapic *l, unsigned pin, uint32_t value)
{
	atomic_store(&l->lvt_lint[pin], value & 0x1a7ff);
	if (pin == 0 && atomic_load(&l->extint_line)) {
		atomic_fetch_or(&l->attention, LAPIC_ATTENTION_EXTINT);
		lapic_recheck(l);
	}
}

static bool register_write(struct lapic *l, unsigned reg, uint32_t value)
{
	uint32_t masked = relaxed32(&l->svr) & SVR_ENABLE ? 0 : LVT_MASKED;
	switch (reg) {
	case REG_TPR: lapic_set_tpr(l, (uint8_t)value); return true;
	case REG_EOI: lapic_eoi(l); return true;
	case REG_SVR: svr_write(l, value); return true;
	case REG_ESR: l->esr = atomic_exchange(&l->esr_pending, 0); return true;
	case REG_LVT_TIMER: lapic_timer_write_lvt(l, (value & 0x700ff) | masked); return true;
	case REG_LVT_THERMAL: l->lvt_thermal = (value & 0x107ff) | masked; return true;
	case REG_LVT_PERF: l->lvt_perf = (value & 0x107ff) | masked; return true;
	case REG_LVT_LINT0: lint_write(l, 0, value | masked); return true;
	case REG_LVT_LINT1: lint_write(l, 1, value | masked); return true;
	case REG_LVT_ERROR: l->lvt_error = (value & 0x100ff) | masked; return true;
	case REG_INITIAL: lapic_timer_write_initial(l, value); return true;
	case REG_DIVIDE: lapic_timer_write_divide(l, value); return true;
	default: break;
	}
	if (lapic_x2(l))
		return false;
	switch (reg) {
	case REG_LDR: atomic_store_explicit(&l->ldr, value & 0xff000000u, memory_order_relaxed); return true;
	case REG_DFR: atomic_store_explicit(&l->dfr, value | 0x0fffffffu, memory_order_relaxed); return true;
	case REG_ICR_HIGH: l->icr = (l->icr & 0xffffffffu) | (uint64_t)(value & 0xff000000u) << 32; return true;
	case REG_ICR:
		l->icr = (l->icr & ~0xffffffffull) | (value & ~0x1000u); /* never busy */
		lapic_send_ipi(l, l->icr);
		return true;
	case REG_ID: case REG_APR: case REG_RRD: return true; /* ids are fixed */
	default: return false;
	}
}

uint32_t lapic_mmio_read(struct lapic *l, unsigned offset)
{
	uint32_t value = 0;
	if (offset & 15)
		return 0;
	if (!register_read(l, offset >> 4, &value))
		atomic_fetch_or(&l->esr_pending, ESR_REGISTER);
	return value;
}

void lapic_mmio_write(struct lapic *l, unsigned offset, uint32_t value)
{
	if (!register_write(l, offset >> 4, value))
		atomic_fetch_or(&l->esr_pending, ESR_REGISTER);
}

/* ---- MSRs --------------------------------------------------------------------------------------------- */

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC 0x800u

static void x2apic_ldr(struct lapic *l)
{
	atomic_store_explicit(&l->ldr, (l->id >> 4) << 16 | 1u << (l->id & 15), memory_order_relaxed);
}

static void x2apic_enter(struct lapic *l)
{
	x2apic_ldr(l);
	l->icr = 0;
}

static bool base_write(struct lapic *l, uint64_t value)
{
	uint64_t old = lapic_base(l), max = (uint64_t)1 << l->machine->cpuid.phys_bits;
	uint64_t reserved = 0x2ff | ~(max - 1);
	bool was_x2 = old & LAPIC_BASE_X2APIC, was_on = old & LAPIC_BASE_ENABLE;
	bool x2 = value & LAPIC_BASE_X2APIC, on = value & LAPIC_BASE_ENABLE;
	/* SDM 11.12.5: x2APIC is entered from xAPIC and left only by switching off. */
	if ((value & reserved) || (x2 && !on) || (x2 && !was_on) || (was_x2 && on && !x2))
		return false;
	atomic_store(&l->base, value);
	if (!on && was_on) {
		lapic_reset(l, true);
		atomic_store(&l->base, value);
	} else if (x2 && !was_x2) {
		x2apic_enter(l);
	}
	return true;
}

bool machine_apic_msr_read(struct machine *machine, unsigned vcpu, uint32_t msr, uint64_t *ret_value)
{
	struct lapic *l = &machine->lapic[vcpu];
	uint32_t value;
	if (msr == MSR_APIC_BASE) {
		*ret_value = lapic_base(l);
		return true;
	}
	if (msr == MSR_TSC_DEADLINE) {
		*ret_value = atomic_load(&l->timer_tsc);
		return true;
	}
	if (msr - MSR_X2APIC > 0xff || !lapic_x2(l))
		return false;
	if (msr == MSR_X2APIC + REG_ICR) {
		*ret_value = l->icr;
		return true;
	}
	if (!register_read(l, msr - MSR_X2APIC, &value))
		return false;
	*ret_value = value;
	return true;
}

bool machine_apic_msr_write(struct machine *machine, unsigned vcpu, uint32_t msr, uint64_t value)
{
	struct lapic *l = &machine->lapic[vcpu];
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_write_tsc(l, value);
		return true;
	}
	if (msr == MSR_APIC_BASE)
		return base_write(l, value);
	unsigned reg = msr - MSR_X2APIC;
	if (reg > 0xff || !lapic_x2(l))
		return false;
	switch (reg) {
	case REG_EOI:
		if (value)
			return false;
		lapic_eoi(l);
		return true;
	case REG_ICR:
		l->icr = value & ~0x1000ull;
		lapic_send_ipi(l, value);
		return true;
	case REG_SELF_IPI:
		if (value >> 8)
			return false;
		lapic_send_ipi(l, value | 1u << 18);
		return true;
	case REG_TPR:
		if (value >> 8)
			return false;
		break;
	case REG_ESR:
		if (value)
			return false;
		break;
	default: break;
	}
	return !(value >> 32) && register_write(l, reg, (uint32_t)value);
}

/* ---- lifecycle ------------------------------------------------------------------------------------------ */

void lapic_reset(struct lapic *l, bool init)
{
	lapic_timer_stop(l);
	atomic_store(&l->attention, 0);
	for (int i = 0; i < 4; i++) {
		atomic_store(&l->irr[i], 0);
		atomic_store(&l->tmr[i], 0);
		l->isr[i] = 0;
	}
	atomic_store(&l->tpr, 0);
	atomic_store(&l->ppr, 0);
	atomic_store(&l->svr, 0xff);
	atomic_store(&l->dfr, UINT32_MAX);
	atomic_store(&l->lvt_lint[0], LVT_MASKED);
	atomic_store(&l->lvt_lint[1], LVT_MASKED);
	l->lvt_timer = l->lvt_thermal = l->lvt_perf = l->lvt_error = LVT_MASKED;
	atomic_store(&l->timer_vector, LVT_MASKED);
	atomic_store(&l->esr_pending, 0);
	atomic_store(&l->extint_message, false);
	l->esr = 0;
	l->icr = 0;
	l->divide = 0;
	l->initial_count = 0;
	atomic_store(&l->ldr, 0);
	if (init) {
		if (lapic_x2(l))
			x2apic_enter(l);
		if (atomic_load(&l->extint_line))
			atomic_fetch_or(&l->attention, LAPIC_ATTENTION_EXTINT);
		return;
	}
	atomic_store(&l->events, 0);
	atomic_store(&l->extint_line, false);
	atomic_store(&l->wake_word, 0);
	atomic_store(&l->base, LAPIC_BASE | LAPIC_BASE_ENABLE | (l->index == 0 ? LAPIC_BASE_BSP : 0));
}

void lapic_init(struct lapic *l, struct machine *machine, unsigned index)
{
	l->machine = machine;
	l->index = index;
	l->id = index;
	spin_init(&l->spin, machine_spin_most_ns(machine, 1));
	lapic_reset(l, false);
}

/* ---- as a whole (machine/irqchip.h) ------------------------------------------------------------------------ */

void lapic_save(struct lapic *l, struct irqchip_lapic *ret_state)
{
	struct irqchip_lapic *s = ret_state;
	for (unsigned reg = 0; reg < IRQCHIP_LAPIC_REGISTERS; reg++)
		register_read(l, reg, &s->reg[reg]);
	s->base = lapic_base(l);
	s->tsc_deadline = atomic_load(&l->timer_tsc);
	/* What an x2APIC does not show. */
	s->reg[REG_DFR] = relaxed32(&l->dfr);
	s->reg[REG_ICR_HIGH] = (uint32_t)(l->icr >> 32);
	s->reg[REG_ESR] |= relaxed32(&l->esr_pending);
}

static uint64_t pair(const uint32_t *reg) { return reg[0] | (uint64_t)reg[1] << 32; }

void lapic_restore(struct lapic *l, const struct irqchip_lapic *s)
{
	lapic_timer_stop(l);
	atomic_store(&l->base, s->base);
	atomic_store(&l->svr, s->reg[REG_SVR] & 0x1ff);
	atomic_store(&l->ldr, s->reg[REG_LDR]);
	if (lapic_x2(l))
		x2apic_ldr(l);
	atomic_store(&l->dfr, s->reg[REG_DFR] | 0x0fffffffu);
	for (unsigned i = 0; i < 4; i++) {
		l->isr[i] = pair(&s->reg[REG_ISR + 2 * i]);
		atomic_store(&l->tmr[i], pair(&s->reg[REG_TMR + 2 * i]));
		atomic_store(&l->irr[i], pair(&s->reg[REG_IRR + 2 * i]));
	}
	l->esr = s->reg[REG_ESR];
	atomic_store(&l->esr_pending, 0);
	l->icr = (s->reg[REG_ICR] & ~0x1000u) | (uint64_t)s->reg[REG_ICR_HIGH] << 32;
	l->lvt_timer = s->reg[REG_LVT_TIMER] & 0x700ff;
	l->lvt_thermal = s->reg[REG_LVT_THERMAL] & 0x107ff;
	l->lvt_perf = s->reg[REG_LVT_PERF] & 0x107ff;
	l->lvt_error = s->reg[REG_LVT_ERROR] & 0x100ff;
	atomic_store(&l->lvt_lint[0], s->reg[REG_LVT_LINT0] & 0x1a7ff);
	atomic_store(&l->lvt_lint[1], s->reg[REG_LVT_LINT1] & 0x1a7ff);
	l->divide = s->reg[REG_DIVIDE] & 0xb;
	l->initial_count = s->reg[REG_INITIAL];
	lapic_timer_restore(l, s->reg[REG_CURRENT], s->tsc_deadline);
	atomic_fetch_or(&l->attention, LAPIC_ATTENTION_IRR | LAPIC_ATTENTION_EXTINT);
	lapic_set_tpr(l, (uint8_t)s->reg[REG_TPR]);
}

void lapic_idle(struct lapic *l)
{
	lapic_timer_stop(l);
	for (unsigned i = 0; i < 4; i++) {
		atomic_store(&l->irr[i], 0);
		l->isr[i] = 0;
	}
	atomic_store(&l->extint_line, false);
	atomic_store(&l->extint_message, false);
	atomic_store(&l->attention, 0);
}
