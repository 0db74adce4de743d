/* Delivery of exceptions and interrupts through the IDT or the real-mode vector table (SDM vol. 3, chapter 6). */
#include "modes/bt/helper.h"
#include "modes/bt/cache.h"
#include "modes/bt/monitor.h"

#define GATE_IST(d) ((d).hi & 7)
#define ERROR_IDT 2u /* error codes that name a gate of the IDT */
#define TSS64_IST1 36u
#define TSS64_RSP0 4u

struct event {
	unsigned vector;
	bool has_error, soft;
	uint32_t error;
	uint64_t return_rip;
};

/* What the gate says, checked. */
struct target {
	bool task; /* a task gate: selector is a TSS's, and nothing else counts */
	uint16_t selector;
	uint64_t offset;
	struct bt_desc cs;
	unsigned cpl;   /* after */
	unsigned bytes; /* of each value pushed */
	unsigned ist;
	bool interrupt_gate;
};

/* Faults push RF so that an instruction breakpoint does not hit again; traps and interrupts do not. */
static uint64_t pushed_flags(const struct bt_vcpu *v, const struct event *e)
{
	const uint32_t faults = 1u << VEC_DE | 1u << VEC_BR | 1u << VEC_UD | 1u << VEC_NM | 1u << VEC_MF | 1u << VEC_XM;
	bool fault = !e->soft && (e->has_error ? e->vector != VEC_DF : e->vector < 32 && (faults >> e->vector & 1));

	return bt_rflags(v) | (fault ? RFLAGS_RF : 0);
}

/* ---- real mode -------------------------------------------------------------------------------- */

static void deliver_real(struct bt_vcpu *v, const struct event *e)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], mask = bt_sp_mask(v);
	uint32_t entry;

	if (e->vector * 4 + 3 > v->cs.idtr.limit)
		bt_raise_error(v, VEC_GP, e->vector * 8 + ERROR_IDT);
	entry = (uint32_t)bt_load_sys(v, v->cs.idtr.base + e->vector * 4, 4);
	bt_store_sys(v, bt_stack_gva(v, sp - 2, 2, true), bt_rflags(v), 2);
	bt_store_sys(v, bt_stack_gva(v, sp - 4, 2, true), v->cs.seg[SEG_CS].selector, 2);
	bt_store_sys(v, bt_stack_gva(v, sp - 6, 2, true), e->return_rip, 2);
	bt_sp_set(v, mask, sp - 6);
	v->cs.rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
	v->cs.seg[SEG_CS].selector = (uint16_t)(entry >> 16);
	v->cs.seg[SEG_CS].base = (uint64_t)(entry >> 16) << 4;
	v->cs.rip = entry & 0xffff;
}

/* ---- gates ---------------------------------------------------------------------------------------- */

static void target_check(struct bt_vcpu *v, const struct event *e, struct target *t)
{
	unsigned ext = !e->soft;
	bool vm86 = bt_vm86(v);

	if (bt_null(t->selector))
		bt_raise_error(v, VEC_GP, ext);
	t->cs = bt_desc_read(v, t->selector, VEC_GP, ext);
	if ((t->cs.hi & (DESC_S | DESC_CODE)) != (DESC_S | DESC_CODE) || DESC_DPL(t->cs) > v->cpl)
		bt_raise_error(v, VEC_GP, (t->selector & 0xfffc) | ext);
	if (bt_long_mode(v) && (t->cs.hi & (DESC_L | DESC_DB)) != DESC_L)
		bt_raise_error(v, VEC_GP, (t->selector & 0xfffc) | ext);
	if (!(t->cs.hi & DESC_P))
		bt_raise_error(v, VEC_NP, (t->selector & 0xfffc) | ext);
	t->cpl = t->cs.hi & DESC_CONFORMING ? v->cpl : DESC_DPL(t->cs);
	if (vm86 && t->cpl)
		bt_raise_error(v, VEC_GP, (t->selector & 0xfffc) | ext);
	if (!bt_code_offset_ok(v, t->cs, t->offset))
		bt_raise_error(v, VEC_GP, ext);
	bt_desc_accessed(v, t->selector, &t->cs);
}

static void gate_read(struct bt_vcpu *v, const struct event *e, struct target *t)
{
	bool long_mode = bt_long_mode(v);
	unsigned size = long_mode ? 16 : 8, type;
	uint32_t error = e->vector * 8 + ERROR_IDT + !e->soft;
	struct bt_desc d = {0};
	uint64_t raw;

	if (e->vector * size + size - 1 > v->cs.idtr.limit)
		bt_raise_error(v, VEC_GP, error);
	raw = bt_load_sys(v, v->cs.idtr.base + e->vector * size, 8);
	d.lo = (uint32_t)raw;
	d.hi = (uint32_t)(raw >> 32);
	type = DESC_TYPE(d);
	if ((d.hi & DESC_S) || (long_mode ? type != TYPE_INT_GATE && type != TYPE_TRAP_GATE :
					    type != TYPE_TASK_GATE && type != TYPE_INT_GATE16 &&
						    type != TYPE_TRAP_GATE16 && type != TYPE_INT_GATE &&
						    type != TYPE_TRAP_GATE))
		bt_raise_error(v, VEC_GP, error);
	if (e->soft && DESC_DPL(d) < v->cpl)
		bt_raise_error(v, VEC_GP, error);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, error);
	t->selector = (uint16_t)(d.lo >> 16);
	t->task = type == TYPE_TASK_GATE;
	if (t->task)
		return;
	t->interrupt_gate = type == TYPE_INT_GATE || type == TYPE_INT_GATE16;
	t->bytes = long_mode ? 8 : type & 8 ? 4 : 2;
	t->ist = long_mode ? GATE_IST(d) : 0;
	t->offset = t->bytes == 2 ? d.lo & 0xffff : (d.hi & 0xffff0000u) | (d.lo & 0xffff);
	if (long_mode)
		t->offset |= (bt_load_sys(v, v->cs.idtr.base + e->vector * size + 8, 8) & 0xffffffffu) << 32;
	target_check(v, e, t);
}

static void enter_handler(struct bt_vcpu *v, const struct target *t)
{
	uint64_t clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM;

	if (t->interrupt_gate)
		clear |= RFLAGS_IF;
	v->cs.rflags &= ~clear;
	bt_seg_fill(&v->cs.seg[SEG_CS], (uint16_t)((t->selector & 0xfffc) | t->cpl), t->cs);
	v->cs.rip = t->offset;
}

/* ---- long mode ---------------------------------------------------------------------------------------- */

static uint64_t tss64_stack(struct bt_vcpu *v, const struct event *e, unsigned offset)
{
	if (offset + 7 > v->cs.tr.limit)
		bt_raise_error(v, VEC_TS, (v->cs.tr.selector & 0xfffc) | !e->soft);
	return bt_load_sys(v, v->cs.tr.base + offset, 8);
}

static void deliver_long(struct bt_vcpu *v, const struct event *e)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], frame[6], *f = frame;
	unsigned i, n = e->has_error ? 6 : 5;
	bool inner, switched = false;
	struct target t;

	gate_read(v, e, &t);
	inner = t.cpl != v->cpl;
	if (t.ist) {
		sp = tss64_stack(v, e, TSS64_IST1 + (t.ist - 1) * 8);
		switched = true;
	} else if (inner) {
		sp = tss64_stack(v, e, TSS64_RSP0 + t.cpl * 8);
		switched = true;
	} else if (!bt_code64(v)) {
		sp &= bt_sp_mask(v);
	}
	if (switched && !bt_canonical(sp))
		bt_raise_error(v, VEC_SS, !e->soft);
	sp &= ~15ull;
	if (e->has_error)
		*f++ = e->error;
	*f++ = e->return_rip;
	*f++ = v->cs.seg[SEG_CS].selector;
	*f++ = pushed_flags(v, e);
	*f++ = v->cs.gpr[GPR_RSP];
	*f++ = v->cs.seg[SEG_SS].selector;
	if (!bt_canonical(sp - n * 8))
		bt_raise_error(v, VEC_SS, !e->soft);
	if (t.cpl == 3)
		for (i = n; i-- > 0;)
			bt_store(v, sp - (n - i) * 8, frame[i], 8);
	else
		for (i = n; i-- > 0;)
			bt_store_sys(v, sp - (n - i) * 8, frame[i], 8);
	v->cs.gpr[GPR_RSP] = sp - n * 8;
	if (inner) {
		bt_seg_null(&v->cs.seg[SEG_SS], (uint16_t)t.cpl);
		v->cs.seg[SEG_SS].access = (uint16_t)(t.cpl << SEG_ACCESS_DPL_SHIFT);
	}
	enter_handler(v, &t);
}

/* ---- protected mode --------------------------------------------------------------------------------------- */

/* SS:ESP for privilege `cpl` from a 32- or 16-bit TSS. */
static uint32_t tss_stack(struct bt_vcpu *v, const struct event *e, unsigned cpl, struct cpu_segment *ret)
{
	bool tss32 = v->cs.tr.access & 8;
	uint32_t offset = tss32 ? 4 + cpl * 8 : 2 + cpl * 4, sp;
	unsigned ext = !e->soft;
	uint16_t selector;

	if (offset + (tss32 ? 5 : 3) > v->cs.tr.limit)
		bt_raise_error(v, VEC_TS, (v->cs.tr.selector & 0xfffc) | ext);
	sp = (uint32_t)bt_load_sys(v, v->cs.tr.base + offset, tss32 ? 4 : 2);
	selector = (uint16_t)bt_load_sys(v, v->cs.tr.base + offset + (tss32 ? 4 : 2), 2);
	bt_seg_fill(ret, selector, bt_desc_stack(v, selector, cpl, VEC_TS, ext));
	return sp;
}

/* The error code goes onto the new task's stack. */
static void deliver_task(struct bt_vcpu *v, struct event *e, uint16_t selector)
{
	unsigned bytes;
	uint64_t sp;

	bt_task_switch(v, selector, BT_TASK_INT, &e->return_rip);
	if (!e->has_error)
		return;
	bytes = v->cs.tr.access & 8 ? 4 : 2;
	sp = v->cs.gpr[GPR_RSP] - bytes;
	bt_store(v, bt_stack_gva(v, sp, bytes, true), e->error, bytes);
	bt_sp_set(v, bt_sp_mask(v), sp);
}

static void deliver_protected(struct bt_vcpu *v, struct event *e)
{
	static const uint8_t vm86_order[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
	uint64_t value[10], mask;
	uint32_t sp = (uint32_t)v->cs.gpr[GPR_RSP];
	struct cpu_segment stack = v->cs.seg[SEG_SS];
	bool vm86 = bt_vm86(v), inner;
	unsigned i, n = 0, b;
	struct target t;

	gate_read(v, e, &t);
	if (t.task) {
		deliver_task(v, e, t.selector);
		return;
	}
	inner = vm86 || t.cpl != v->cpl;
	if (inner)
		sp = tss_stack(v, e, t.cpl, &stack);
	b = t.bytes;
	for (i = 0; vm86 && i < ARRAY_SIZE(vm86_order); i++)
		value[n++] = v->cs.seg[vm86_order[i]].selector;
	if (inner) {
		value[n++] = v->cs.seg[SEG_SS].selector;
		value[n++] = v->cs.gpr[GPR_RSP];
	}
	value[n++] = pushed_flags(v, e);
	value[n++] = v->cs.seg[SEG_CS].selector;
	value[n++] = e->return_rip;
	if (e->has_error)
		value[n++] = e->error;

	mask = stack.access & SEG_ACCESS_DB ? 0xffffffffull : 0xffffull;
	for (i = 0; i < n; i++) {
		uint32_t at = (sp - (i + 1) * b) & (uint32_t)mask;
		gva_t gva = (uint32_t)(stack.base + at);

		if (!bt_seg_contains(&stack, at, b))
			bt_raise_error(v, VEC_SS, inner ? (stack.selector & 0xfffcu) | !e->soft : (unsigned)!e->soft);
		if (t.cpl == 3)
			bt_store(v, gva, value[i], b);
		else
			bt_store_sys(v, gva, value[i], b);
	}
	v->cs.seg[SEG_SS] = stack;
	bt_sp_set(v, mask, sp - n * b);
	for (i = 0; vm86 && i < ARRAY_SIZE(vm86_order); i++)
		bt_seg_null(&v->cs.seg[vm86_order[i]], 0);
	enter_handler(v, &t);
}

/* ---- events -------------------------------------------------------------------------------------------------- */

static void deliver_event(struct bt_vcpu *v, void *arg)
{
	struct event *e = arg;

	if (!(v->cs.cr0 & CR0_PE))
		deliver_real(v, e);
	else if (bt_long_mode(v))
		deliver_long(v, e);
	else
		deliver_protected(v, e);
	if (!e->soft && e->vector == VEC_DB && !e->has_error)
		v->cs.dr7 &= ~0x2000ull; /* GD */
	if (!e->soft && e->vector == VEC_NMI)
		v->cs.nmi_blocked = 1;
	v->cs.interrupt_shadow = 0;
	bt_mode_changed(v);
}

void bt_deliver_now(struct bt_vcpu *v, unsigned vector, bool has_error, uint32_t error, bool soft,
		    uint64_t return_rip)
{
	struct event e = {vector, has_error, soft, error, return_rip};

	if (v->vm->monitor)
		v->vm->monitor->exception(v, &(struct bt_event){.vector = vector, .has_error = has_error, .soft = soft, .error = error, .return_rip = return_rip});
	else
		deliver_event(v, &e);
}

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE };

/* SDM vol. 3, table 6-4. An external interrupt may have such a vector too, but carries no error code in these. */
static enum fault_class fault_class(const struct event *e)
{
	if (e->soft)
		return BENIGN;
	switch (e->vector) {
	case VEC_DE: return CONTRIBUTORY;
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP: return e->has_error ? CONTRIBUTORY : BENIGN;
	case VEC_PF: return e->has_error ? PAGE_FAULT : BENIGN;
	case VEC_DF: return e->has_error ? DOUBLE : BENIGN;
	default: return BENIGN;
	}
}

/*
 * Delivery in real mode raises exceptions without error codes there, but has_error says which they are: callers pass it
 * as the exception has it in protected mode, and deliver_real ignores it.
 */
bool bt_deliver(struct bt_vcpu *v, unsigned vector, bool has_error, uint32_t error, bool soft, uint64_t return_rip)
{
	struct event e = {vector, has_error, soft, error, return_rip};
	enum fault_class first, second;

	if (v->vm->monitor)
		return v->vm->monitor->exception(v, &(struct bt_event){.vector = vector, .has_error = has_error, .soft = soft, .error = error, .return_rip = return_rip});
	while (bt_guard(v, deliver_event, &e)) {
		first = fault_class(&e);
		v->cs.exception_pending = 0;
		e.vector = v->cs.exception_vector;
		e.has_error = v->cs.exception_has_error;
		e.error = v->cs.exception_error;
		e.soft = false;
		second = fault_class(&e);
		if (first == DOUBLE && second != BENIGN)
			return false;
		if ((first == CONTRIBUTORY && second == CONTRIBUTORY) || (first == PAGE_FAULT && second != BENIGN)) {
			e.vector = VEC_DF;
			e.has_error = true;
			e.error = 0;
		}
	}
	return true;
}
