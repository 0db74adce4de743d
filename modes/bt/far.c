/* Far control flow: jumps, calls and returns between segments and privileges, call gates, iret, fast system calls. */
#include "modes/bt/helper.h"
#include "modes/bt/cache.h"
#include "modes/bt/monitor.h"

static uint64_t pop_value(struct bt_vcpu *v, uint64_t *sp, unsigned bytes)
{
	uint64_t value = bt_load(v, bt_stack_gva(v, *sp, bytes, false), bytes);

	*sp += bytes;
	return value;
}

/* CS as checked, with the privilege it runs at in the selector's low bits. */
static void cs_commit(struct bt_vcpu *v, uint16_t selector, unsigned cpl, struct bt_desc d, uint64_t rip)
{
	bt_seg_fill(&v->cs.seg[SEG_CS], (uint16_t)((selector & 0xfffc) | cpl), d);
	v->cs.rip = rip;
}

/* Real mode and vm86: CS is a paragraph number; limit and attributes stay. */
BT_NORETURN static void far_real(struct bt_vcpu *v, uint16_t selector, uint64_t offset)
{
	v->cs.seg[SEG_CS].selector = selector;
	v->cs.seg[SEG_CS].base = (uint64_t)selector << 4;
	v->cs.rip = offset;
	bt_mode_changed(v);
	bt_resume(v);
}

static void real_target_check(struct bt_vcpu *v, uint64_t offset)
{
	if (offset > v->cs.seg[SEG_CS].limit)
		bt_raise_error(v, VEC_GP, 0);
}

/* In long mode L and D together are reserved. */
static bool code_size_ok(const struct bt_vcpu *v, struct bt_desc d)
{
	return !bt_long_mode(v) || (d.hi & (DESC_L | DESC_DB)) != (DESC_L | DESC_DB);
}

static bool is_code(struct bt_desc d)
{
	return (d.hi & (DESC_S | DESC_CODE)) == (DESC_S | DESC_CODE);
}

static void code_present_check(struct bt_vcpu *v, uint16_t selector, struct bt_desc d, uint64_t offset)
{
	if (!code_size_ok(v, d))
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	if (!bt_code_offset_ok(v, d, offset))
		bt_raise_error(v, VEC_GP, 0);
}

/* A direct far jump or call to a code segment: privilege stays. */
static void direct_check(struct bt_vcpu *v, uint16_t selector, struct bt_desc d, uint64_t offset)
{
	if (d.hi & DESC_CONFORMING) {
		if (DESC_DPL(d) > v->cpl)
			bt_raise_error(v, VEC_GP, selector & 0xfffc);
	} else if ((selector & 3u) > v->cpl || DESC_DPL(d) != v->cpl) {
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	}
	code_present_check(v, selector, d, offset);
}

/* ---- call gates ----------------------------------------------------------------------------- */

struct gate {
	uint16_t selector;
	uint64_t offset;
	unsigned bytes; /* operand size of what is pushed */
	unsigned params;
	struct bt_desc cs;
};

/* Reads and checks the call gate at `selector` and the code segment it leads to (SDM vol. 3, 6.8.3 and 6.8.4). */
static void gate_read(struct bt_vcpu *v, uint16_t selector, struct bt_desc d, struct gate *g)
{
	uint16_t error = selector & 0xfffc;
	gva_t gva;

	g->bytes = DESC_TYPE(d) == TYPE_CALL_GATE16 ? 2 : 4;
	if (DESC_DPL(d) < v->cpl || DESC_DPL(d) < (selector & 3u))
		bt_raise_error(v, VEC_GP, error);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, error);
	g->selector = (uint16_t)(d.lo >> 16);
	g->offset = g->bytes == 2 ? d.lo & 0xffff : (d.hi & 0xffff0000u) | (d.lo & 0xffff);
	g->params = d.hi & 31;
	if (bt_long_mode(v)) {
		uint64_t high;

		if (!bt_desc_find(v, selector, &gva) || !bt_desc_find(v, (uint16_t)(selector + 8), &gva))
			bt_raise_error(v, VEC_GP, error);
		high = bt_load_sys(v, gva, 8);
		if (high >> 40 & 0x1f)
			bt_raise_error(v, VEC_GP, error);
		g->offset |= (high & 0xffffffffu) << 32;
		g->bytes = 8;
		g->params = 0;
	}
	if (bt_null(g->selector))
		bt_raise_error(v, VEC_GP, 0);
	g->cs = bt_desc_read(v, g->selector, VEC_GP, 0);
	if (!is_code(g->cs) || DESC_DPL(g->cs) > v->cpl)
		bt_raise_error(v, VEC_GP, g->selector & 0xfffc);
	if (bt_long_mode(v) && (g->cs.hi & (DESC_L | DESC_DB)) != DESC_L)
		bt_raise_error(v, VEC_GP, g->selector & 0xfffc);
}

static bool is_call_gate(const struct bt_vcpu *v, struct bt_desc d)
{
	if (d.hi & DESC_S)
		return false;
	return DESC_TYPE(d) == TYPE_CALL_GATE || (DESC_TYPE(d) == TYPE_CALL_GATE16 && !bt_long_mode(v));
}

/* What is neither code nor a call gate: a task, or a mistake. */
BT_NORETURN static void system_target(struct bt_vcpu *v, uint16_t selector, struct bt_desc d, enum bt_task_cause cause,
				    uint64_t next)
{
	unsigned type = DESC_TYPE(d);
	bool gate = type == TYPE_TASK_GATE;

	if ((d.hi & DESC_S) || bt_long_mode(v) ||
	    (!gate && type != TYPE_TSS16_AVAILABLE && type != TYPE_TSS_AVAILABLE) || DESC_DPL(d) < v->cpl ||
	    DESC_DPL(d) < (selector & 3u))
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	bt_task_switch(v, gate ? (uint16_t)(d.lo >> 16) : selector, cause, &next);
	bt_resume(v);
}

/* ---- jmp ---------------------------------------------------------------------------------------- */

BT_NORETURN static void far_jump(struct bt_vcpu *v, const struct bt_insn *insn, uint16_t selector, uint64_t offset)
{
	struct bt_desc d;
	struct gate g;

	if (!bt_protected(v)) {
		real_target_check(v, offset);
		far_real(v, selector, offset);
	}
	if (bt_null(selector))
		bt_raise_error(v, VEC_GP, 0);
	d = bt_desc_read(v, selector, VEC_GP, 0);
	if (is_call_gate(v, d)) {
		gate_read(v, selector, d, &g);
		if (!(g.cs.hi & DESC_CONFORMING) && DESC_DPL(g.cs) != v->cpl)
			bt_raise_error(v, VEC_GP, g.selector & 0xfffc);
		code_present_check(v, g.selector, g.cs, g.offset);
		selector = g.selector;
		offset = g.offset;
		d = g.cs;
	} else if (is_code(d)) {
		direct_check(v, selector, d, offset);
	} else {
		system_target(v, selector, d, BT_TASK_JMP, bt_next_rip(v, insn));
	}
	bt_desc_accessed(v, selector, &d);
	cs_commit(v, selector, v->cpl, d, offset);
	bt_mode_changed(v);
	bt_resume(v);
}

void bt_op_jmp_far(struct bt_vcpu *v, const struct bt_insn *insn)
{
	far_jump(v, insn, (uint16_t)insn->imm2, (uint64_t)insn->imm & bt_size_mask(insn->opsize));
}

/* m16:64 exists on Intel processors only; AMD's take REX.W as 32 bits. */
static unsigned far_mem_bytes(const struct bt_vcpu *v, const struct bt_insn *insn)
{
	return insn->opsize == 8 && v->sys.amd ? 4 : insn->opsize;
}

static uint16_t far_mem(struct bt_vcpu *v, const struct bt_insn *insn, uint64_t *ret_offset)
{
	unsigned bytes = far_mem_bytes(v, insn);
	gva_t gva = bt_operand_gva(v, insn, bytes + 2, false);

	*ret_offset = bt_load(v, gva, bytes);
	return (uint16_t)bt_load(v, gva + bytes, 2);
}

void bt_op_jmp_far_mem(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t offset;
	uint16_t selector = far_mem(v, insn, &offset);

	far_jump(v, insn, selector, offset);
}

/* ---- call ------------------------------------------------------------------------------------------ */

/* Two pushes at the present privilege, CS then the return address; returns the new stack pointer. */
static uint64_t push_return(struct bt_vcpu *v, unsigned bytes, uint64_t next)
{
	uint64_t sp = v->cs.gpr[GPR_RSP];

	bt_probe_store(v, bt_stack_gva(v, sp - bytes, bytes, true), bytes);
	bt_probe_store(v, bt_stack_gva(v, sp - 2 * bytes, bytes, true), bytes);
	bt_store(v, bt_stack_gva(v, sp - bytes, bytes, true), v->cs.seg[SEG_CS].selector, bytes);
	bt_store(v, bt_stack_gva(v, sp - 2 * bytes, bytes, true), next, bytes);
	return sp - 2 * bytes;
}

/* To a more privileged level through a gate of a 16- or 32-bit system: new stack from the TSS, parameters copied. */
static void call_inner(struct bt_vcpu *v, struct gate *g, uint64_t next)
{
	unsigned dpl = DESC_DPL(g->cs), b = g->bytes, i;
	uint64_t old_sp = v->cs.gpr[GPR_RSP] & bt_sp_mask(v), mask;
	uint16_t old_ss = v->cs.seg[SEG_SS].selector, ss;
	bool tss32 = v->cs.tr.access & 8;
	uint32_t offset = tss32 ? 4 + dpl * 8 : 2 + dpl * 4, sp;
	uint64_t params[31];
	struct cpu_segment stack;
	struct bt_desc d;

	if (offset + (tss32 ? 5 : 3) > v->cs.tr.limit)
		bt_raise_error(v, VEC_TS, v->cs.tr.selector & 0xfffc);
	sp = (uint32_t)bt_load_sys(v, v->cs.tr.base + offset, tss32 ? 4 : 2);
	ss = (uint16_t)bt_load_sys(v, v->cs.tr.base + offset + (tss32 ? 4 : 2), 2);
	d = bt_desc_stack(v, ss, dpl, VEC_TS, 0);
	bt_seg_fill(&stack, ss, d);
	mask = stack.access & SEG_ACCESS_DB ? 0xffffffffull : 0xffffull;
	for (i = 0; i < g->params; i++)
		params[i] = bt_load(v, bt_stack_gva(v, old_sp + i * b, b, false), b);
	sp = (sp - (4 + g->params) * b) & mask;
	if (!bt_seg_contains(&stack, sp, (4 + g->params) * b))
		bt_raise_error(v, VEC_SS, ss & 0xfffc);
	bt_store_sys(v, (uint32_t)(stack.base + sp), next, b);
	bt_store_sys(v, (uint32_t)(stack.base + sp + b), v->cs.seg[SEG_CS].selector, b);
	for (i = 0; i < g->params; i++)
		bt_store_sys(v, (uint32_t)(stack.base + sp + (2 + i) * b), params[i], b);
	bt_store_sys(v, (uint32_t)(stack.base + sp + (2 + g->params) * b), old_sp, b);
	bt_store_sys(v, (uint32_t)(stack.base + sp + (3 + g->params) * b), old_ss, b);
	v->cs.seg[SEG_SS] = stack;
	bt_sp_set(v, mask, sp);
}

/* The same in long mode: the stack is RSPn of the TSS, SS becomes null. */
static void call_inner64(struct bt_vcpu *v, struct gate *g, uint64_t next)
{
	unsigned dpl = DESC_DPL(g->cs);
	uint32_t offset = 4 + dpl * 8;
	uint64_t sp;

	if (offset + 7 > v->cs.tr.limit)
		bt_raise_error(v, VEC_TS, v->cs.tr.selector & 0xfffc);
	sp = bt_load_sys(v, v->cs.tr.base + offset, 8);
	if (!bt_canonical(sp) || !bt_canonical(sp - 32))
		bt_raise_error(v, VEC_SS, 0);
	bt_store_sys(v, sp - 8, v->cs.seg[SEG_SS].selector, 8);
	bt_store_sys(v, sp - 16, v->cs.gpr[GPR_RSP], 8);
	bt_store_sys(v, sp - 24, v->cs.seg[SEG_CS].selector, 8);
	bt_store_sys(v, sp - 32, next, 8);
	bt_seg_null(&v->cs.seg[SEG_SS], (uint16_t)dpl);
	v->cs.seg[SEG_SS].access = (uint16_t)(dpl << SEG_ACCESS_DPL_SHIFT);
	v->cs.gpr[GPR_RSP] = sp - 32;
}

BT_NORETURN static void far_call(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes, uint16_t selector,
			       uint64_t offset)
{
	uint64_t next = bt_next_rip(v, insn), sp, mask = bt_sp_mask(v);
	unsigned cpl = v->cpl;
	struct bt_desc d;
	struct gate g;

	if (!bt_protected(v)) {
		real_target_check(v, offset);
		sp = push_return(v, bytes, next);
		bt_sp_set(v, mask, sp);
		far_real(v, selector, offset);
	}
	if (bt_null(selector))
		bt_raise_error(v, VEC_GP, 0);
	d = bt_desc_read(v, selector, VEC_GP, 0);
	if (is_code(d)) {
		direct_check(v, selector, d, offset);
		bt_desc_accessed(v, selector, &d);
		sp = push_return(v, bytes, next);
		bt_sp_set(v, mask, sp);
	} else if (is_call_gate(v, d)) {
		gate_read(v, selector, d, &g);
		code_present_check(v, g.selector, g.cs, g.offset);
		bt_desc_accessed(v, g.selector, &g.cs);
		if (!(g.cs.hi & DESC_CONFORMING) && DESC_DPL(g.cs) < v->cpl) {
			cpl = DESC_DPL(g.cs);
			if (bt_long_mode(v))
				call_inner64(v, &g, next);
			else
				call_inner(v, &g, next);
		} else {
			sp = push_return(v, g.bytes, next);
			bt_sp_set(v, mask, sp);
		}
		selector = g.selector;
		offset = g.offset;
		d = g.cs;
	} else {
		system_target(v, selector, d, BT_TASK_CALL, next);
	}
	cs_commit(v, selector, cpl, d, offset);
	bt_mode_changed(v);
	bt_resume(v);
}

void bt_op_call_far(struct bt_vcpu *v, const struct bt_insn *insn)
{
	far_call(v, insn, insn->opsize, (uint16_t)insn->imm2, (uint64_t)insn->imm & bt_size_mask(insn->opsize));
}

void bt_op_call_far_mem(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t offset;
	uint16_t selector = far_mem(v, insn, &offset);

	far_call(v, insn, far_mem_bytes(v, insn), selector, offset);
}

/* ---- returns ------------------------------------------------------------------------------------------- */

/* The code segment a return goes to: the selector's RPL is the privilege to return to, never an inner one. */
static struct bt_desc return_cs(struct bt_vcpu *v, uint16_t selector, uint64_t rip)
{
	unsigned rpl = selector & 3;
	struct bt_desc d;

	if (bt_null(selector))
		bt_raise_error(v, VEC_GP, 0);
	if (rpl < v->cpl)
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	d = bt_desc_read(v, selector, VEC_GP, 0);
	if (!is_code(d) || (d.hi & DESC_CONFORMING ? DESC_DPL(d) > rpl : DESC_DPL(d) != rpl))
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	code_present_check(v, selector, d, rip);
	bt_desc_accessed(v, selector, &d);
	return d;
}

/* The stack segment that goes with it; null is allowed for 64-bit code below privilege 3. */
static void return_ss(struct bt_vcpu *v, uint16_t selector, unsigned rpl, struct bt_desc cs, struct cpu_segment *ret)
{
	if (bt_null(selector)) {
		if (!bt_long_mode(v) || !(cs.hi & DESC_L) || rpl == 3)
			bt_raise_error(v, VEC_GP, 0);
		bt_seg_null(ret, selector);
		ret->access = (uint16_t)(rpl << SEG_ACCESS_DPL_SHIFT);
		return;
	}
	bt_seg_fill(ret, selector, bt_desc_stack(v, selector, rpl, VEC_GP, 0));
}

/* rsp of the returned-to stack: 16, 32 or 64 bits of it, by where we now are. */
static void return_sp(struct bt_vcpu *v, uint64_t sp)
{
	bt_sp_set(v, bt_sp_mask(v), sp);
}

void bt_op_ret_far(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], mask = bt_sp_mask(v), release = insn->imm_bytes ? insn->imm & 0xffff : 0;
	unsigned bytes = insn->opsize, rpl;
	uint64_t rip = pop_value(v, &sp, bytes), outer_sp;
	uint16_t selector = (uint16_t)pop_value(v, &sp, bytes), ss;
	struct cpu_segment stack;
	struct bt_desc d;

	if (!bt_protected(v)) {
		real_target_check(v, rip);
		bt_sp_set(v, mask, sp + release);
		far_real(v, selector, rip);
	}
	d = return_cs(v, selector, rip);
	rpl = selector & 3;
	if (rpl == v->cpl) {
		bt_sp_set(v, mask, sp + release);
		cs_commit(v, selector, rpl, d, rip);
	} else {
		sp += release;
		outer_sp = pop_value(v, &sp, bytes);
		ss = (uint16_t)pop_value(v, &sp, bytes);
		return_ss(v, ss, rpl, d, &stack);
		cs_commit(v, selector, rpl, d, rip);
		v->cs.seg[SEG_SS] = stack;
		return_sp(v, outer_sp + release);
		bt_segs_outer(v, rpl);
	}
	bt_mode_changed(v);
	bt_resume(v);
}

/*
 * For a monitor: cs and ss of a return to privilege 3, whatever the present ones are. Raises as iret does.
 */
void bt_return_outer(struct bt_vcpu *v, uint16_t cs, uint16_t ss)
{
	struct bt_desc d = return_cs(v, cs | 3, 0);
	struct cpu_segment stack;

	return_ss(v, ss | 3, 3, d, &stack);
	v->cs.seg[SEG_SS] = stack;
	bt_seg_fill(&v->cs.seg[SEG_CS], cs | 3, d);
	bt_mode_changed(v);
}

/* ---- iret ------------------------------------------------------------------------------------------------ */

static void iret_done(struct bt_vcpu *v)
{
	v->cs.nmi_blocked = 0;
	bt_mode_changed(v);
	bt_resume(v);
}

/* RF lasts for one instruction: it is taken only where there is a breakpoint to resume over. cs and rip are the new ones. */
static void iret_flags(struct bt_vcpu *v, uint64_t value, uint64_t writable)
{
	uint64_t rflags = ((bt_rflags(v) & ~writable) | (value & writable)) & ~(uint64_t)RFLAGS_RF;

	if (value & writable & RFLAGS_RF && bt_debug_exec_point(v, bt_debug_rip(v)))
		rflags |= RFLAGS_RF;
	bt_set_rflags(v, rflags);
}

static void iret_real(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], mask = bt_sp_mask(v), rip, flags, writable;
	unsigned bytes = insn->opsize;
	uint16_t selector;

	if (bt_vm86(v) && bt_iopl(v) < 3)
		bt_raise_error(v, VEC_GP, 0);
	rip = pop_value(v, &sp, bytes);
	selector = (uint16_t)pop_value(v, &sp, bytes);
	flags = pop_value(v, &sp, bytes);
	real_target_check(v, rip);
	writable = bt_flags_writable(v, bytes) & ~(uint64_t)(RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP);
	bt_sp_set(v, mask, sp);
	v->cs.seg[SEG_CS].selector = selector;
	v->cs.seg[SEG_CS].base = (uint64_t)selector << 4;
	v->cs.rip = rip;
	iret_flags(v, flags, writable);
	iret_done(v);
}

/* From privilege 0 to vm86: nine values, data segments too (SDM vol. 3, 21.2.2). */
static void iret_to_vm86(struct bt_vcpu *v, uint64_t sp, uint64_t rip, uint16_t cs, uint64_t flags)
{
	static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint16_t selector[ARRAY_SIZE(order)];
	uint64_t new_sp = pop_value(v, &sp, 4);
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(order); i++)
		selector[i] = (uint16_t)pop_value(v, &sp, 4);
	bt_set_rflags(v, flags & 0x3f7fd5 & ~(uint64_t)RFLAGS_RF);
	v->cs.seg[SEG_CS].access = 0;
	bt_sreg_load(v, SEG_CS, cs);
	for (i = 0; i < ARRAY_SIZE(order); i++)
		bt_sreg_load(v, order[i], selector[i]);
	v->cs.gpr[GPR_RSP] = (uint32_t)new_sp;
	v->cs.rip = rip & 0xffff;
	iret_done(v);
}

/* NT: back to the task that the present one's TSS links to. */
static void iret_task(struct bt_vcpu *v, uint64_t next)
{
	uint16_t link = (uint16_t)bt_load_sys(v, v->cs.tr.base, 2);

	bt_task_switch(v, link, BT_TASK_IRET, &next);
	iret_done(v);
}

void bt_op_iret(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t sp = v->cs.gpr[GPR_RSP], mask = bt_sp_mask(v), rip, flags, outer_sp, writable;
	unsigned bytes = insn->opsize, rpl;
	uint16_t selector, ss;
	struct cpu_segment stack;
	struct bt_desc d;
	bool code64 = bt_code64(v), outer;

	if (!bt_protected(v)) {
		iret_real(v, insn);
		return;
	}
	if (v->cs.rflags & RFLAGS_NT) {
		if (bt_long_mode(v))
			bt_raise_error(v, VEC_GP, 0);
		iret_task(v, bt_next_rip(v, insn));
	}
	rip = pop_value(v, &sp, bytes);
	selector = (uint16_t)pop_value(v, &sp, bytes);
	flags = pop_value(v, &sp, bytes);
	if (bytes == 4 && (flags & RFLAGS_VM) && v->cpl == 0 && !bt_long_mode(v))
		iret_to_vm86(v, sp, rip, selector, flags);
	d = return_cs(v, selector, rip);
	rpl = selector & 3;
	outer = rpl != v->cpl;
	writable = bt_flags_writable(v, bytes);
	if (outer || code64) { /* 64-bit code pops a stack always */
		outer_sp = pop_value(v, &sp, bytes);
		ss = (uint16_t)pop_value(v, &sp, bytes);
		return_ss(v, ss, rpl, d, &stack);
		v->cs.seg[SEG_SS] = stack;
		cs_commit(v, selector, rpl, d, rip);
		return_sp(v, outer_sp);
	} else {
		cs_commit(v, selector, rpl, d, rip);
		bt_sp_set(v, mask, sp);
	}
	iret_flags(v, flags, writable & ~(uint64_t)RFLAGS_VM);
	if (outer)
		bt_segs_outer(v, rpl);
	iret_done(v);
}

/* ---- software interrupts ------------------------------------------------------------------------------------ */

BT_NORETURN static void software_interrupt(struct bt_vcpu *v, const struct bt_insn *insn, unsigned vector, bool soft)
{
	bt_deliver_now(v, vector, false, 0, soft, bt_next_rip(v, insn));
	v->no_trap = true;
	bt_resume(v);
}

void bt_op_int(struct bt_vcpu *v, const struct bt_insn *insn)
{
	if (bt_vm86(v) && bt_iopl(v) < 3)
		bt_raise_error(v, VEC_GP, 0);
	software_interrupt(v, insn, insn->imm & 0xff, true);
}

void bt_op_int3(struct bt_vcpu *v, const struct bt_insn *insn)
{
	software_interrupt(v, insn, VEC_BP, true);
}

/* icebp: a #DB trap that no gate's privilege stops. */
void bt_op_int1(struct bt_vcpu *v, const struct bt_insn *insn)
{
	software_interrupt(v, insn, VEC_DB, false);
}

void bt_op_into(struct bt_vcpu *v, const struct bt_insn *insn)
{
	if (bt_rflags(v) & BT_OF)
		software_interrupt(v, insn, VEC_OF, true);
}

/* ---- fast system calls ---------------------------------------------------------------------------------------- */

#define FLAT_CODE64 0xa09b /* G, L, present, code, read, accessed */
#define FLAT_CODE32 0xc09b
#define FLAT_DATA 0xc093

static void flat(struct cpu_segment *seg, unsigned selector, unsigned access, unsigned dpl)
{
	seg->selector = (uint16_t)((selector & 0xfffc) | dpl);
	seg->base = 0;
	seg->limit = 0xffffffffu;
	seg->access = (uint16_t)(access | dpl << SEG_ACCESS_DPL_SHIFT);
}

void bt_op_syscall(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t rflags = bt_rflags(v) & ~(uint64_t)RFLAGS_RF, next = bt_next_rip(v, insn);
	unsigned selector = v->cs.star >> 32 & 0xfffc;
	bool code64 = bt_code64(v);

	/* Only AMD knows syscall outside 64-bit code. */
	if (!(v->cs.efer & EFER_SCE) || !(v->cs.cr0 & CR0_PE) || (!code64 && !v->sys.amd))
		bt_raise(v, VEC_UD);
	v->stats.syscalls++;
	if (v->vm->monitor) {
		v->vm->monitor->system_call(v, next);
		bt_resume(v);
	}
	if (bt_long_mode(v)) {
		v->cs.gpr[GPR_RCX] = next;
		v->cs.gpr[GPR_R11] = rflags;
		v->cs.rip = code64 ? v->cs.lstar : v->cs.cstar;
		flat(&v->cs.seg[SEG_CS], selector, FLAT_CODE64, 0);
		bt_set_rflags(v, rflags & ~v->cs.sfmask);
	} else {
		v->cs.gpr[GPR_RCX] = (uint32_t)next;
		v->cs.rip = (uint32_t)v->cs.star;
		flat(&v->cs.seg[SEG_CS], selector, FLAT_CODE32, 0);
		bt_set_rflags(v, rflags & ~(uint64_t)(RFLAGS_VM | RFLAGS_IF));
	}
	flat(&v->cs.seg[SEG_SS], selector + 8, FLAT_DATA, 0);
	bt_mode_changed(v);
	bt_resume(v);
}

void bt_op_sysret(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned selector = v->cs.star >> 48 & 0xfffc;
	uint64_t rip = v->cs.gpr[GPR_RCX];

	if (!(v->cs.efer & EFER_SCE) || !bt_protected(v) || (!bt_code64(v) && !v->sys.amd))
		bt_raise(v, VEC_UD);
	bt_need_cpl0(v);
	if (insn->opsize == 8) {
		/* AMD would fault at the target instead: there no canonical check, but a #GP at privilege 3. */
		if (!v->sys.amd && !bt_canonical(rip))
			bt_raise_error(v, VEC_GP, 0);
		flat(&v->cs.seg[SEG_CS], selector + 16, FLAT_CODE64, 3);
	} else {
		rip = (uint32_t)rip;
		flat(&v->cs.seg[SEG_CS], selector, FLAT_CODE32, 3);
	}
	flat(&v->cs.seg[SEG_SS], selector + 8, FLAT_DATA, 3);
	if (bt_long_mode(v))
		bt_set_rflags(v, v->cs.gpr[GPR_R11] & 0x3c7fd7);
	else
		bt_set_rflags(v, bt_rflags(v) | RFLAGS_IF);
	v->cs.rip = rip;
	bt_mode_changed(v);
	bt_resume(v);
}

/* AMD has sysenter in legacy mode only. */
static void sysenter_check(struct bt_vcpu *v)
{
	if (v->sys.amd && bt_long_mode(v))
		bt_raise(v, VEC_UD);
	if (!(v->cs.cr0 & CR0_PE))
		bt_raise_error(v, VEC_GP, 0);
}

void bt_op_sysenter(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned selector = v->cs.sysenter_cs & 0xfffc;
	bool long_mode = bt_long_mode(v);

	sysenter_check(v);
	if (!selector)
		bt_raise_error(v, VEC_GP, 0);
	v->stats.syscalls++;
	bt_set_rflags(v, bt_rflags(v) & ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
	flat(&v->cs.seg[SEG_CS], selector, long_mode ? FLAT_CODE64 : FLAT_CODE32, 0);
	flat(&v->cs.seg[SEG_SS], selector + 8, FLAT_DATA, 0);
	v->cs.gpr[GPR_RSP] = long_mode ? v->cs.sysenter_esp : (uint32_t)v->cs.sysenter_esp;
	v->cs.rip = long_mode ? v->cs.sysenter_eip : (uint32_t)v->cs.sysenter_eip;
	bt_mode_changed(v);
	bt_resume(v);
}

void bt_op_sysexit(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned selector = v->cs.sysenter_cs & 0xfffc;
	uint64_t rip = v->cs.gpr[GPR_RDX], sp = v->cs.gpr[GPR_RCX];

	sysenter_check(v);
	if (!selector || v->cpl || !bt_protected(v))
		bt_raise_error(v, VEC_GP, 0);
	if (insn->opsize == 8) {
		if (!bt_canonical(rip) || !bt_canonical(sp))
			bt_raise_error(v, VEC_GP, 0);
		flat(&v->cs.seg[SEG_CS], selector + 32, FLAT_CODE64, 3);
		flat(&v->cs.seg[SEG_SS], selector + 40, FLAT_DATA, 3);
	} else {
		rip = (uint32_t)rip;
		sp = (uint32_t)sp;
		flat(&v->cs.seg[SEG_CS], selector + 16, FLAT_CODE32, 3);
		flat(&v->cs.seg[SEG_SS], selector + 24, FLAT_DATA, 3);
	}
	v->cs.rip = rip;
	v->cs.gpr[GPR_RSP] = sp;
	bt_mode_changed(v);
	bt_resume(v);
}
