/* The few pieces of host code between C and translations, emitted once at the start of the code cache. */
#include "modes/bt/cache.h"
#include "modes/bt/emit.h"

#define V_OFF(field) ((int32_t)offsetof(struct bt_vcpu, field))
#define V_GPR(g) ((int32_t)(offsetof(struct bt_vcpu, cs.gpr) + 8 * (g)))

/* Guest registers that live in host registers; `off`: how far rsp is below the vCPU. r13 carries the guest's rsp. */
static void save_regs(struct emit *e, int32_t off)
{
	for (unsigned g = GPR_RAX; g <= GPR_R12; g++)
		e_store(e, MEM_BD(H_RSP, off + V_GPR(g)), g == GPR_RSP ? H_GUEST_RSP : g);
}

static void load_regs(struct emit *e, int32_t off)
{
	for (unsigned g = GPR_RAX; g <= GPR_R12; g++)
		e_load(e, g == GPR_RSP ? H_GUEST_RSP : g, MEM_BD(H_RSP, off + V_GPR(g)));
}

static void call_c(struct emit *e, const void *fn)
{
	e_mov_imm(e, H_RAX, (uintptr_t)fn);
	e8(e, 0xff);
	e8(e, 0xd0); /* call rax */
}

static void jmp_r15(struct emit *e)
{
	e8(e, 0x41);
	e8(e, 0xff);
	e8(e, 0xe7);
}

static void add_rsp(struct emit *e, int8_t n) { e_lea(e, H_RSP, MEM_BD(H_RSP, n)); }

static const uint8_t callee_saved[] = {H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15};

static void push_pop(struct emit *e, unsigned op, unsigned reg)
{
	if (reg >= 8)
		e8(e, 0x41);
	e8(e, op | (reg & 7));
}

/* C calls these: enter(v, code), reenter(v, code), leave(v). */
static void make_entry(struct emit *e, struct bt_thunks *t)
{
	t->enter = (void (*)(struct bt_vcpu *, const void *))(uintptr_t)(e->p + e->exec);
	for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
		push_pop(e, 0x50, callee_saved[i]);
	e_store(e, MEM_BD(H_RDI, V_OFF(host_rsp)), H_RSP);

	t->reenter = (__typeof__(t->reenter))(uintptr_t)(e->p + e->exec);
	e_mov_rr(e, H_RSP, H_RDI);
	e_mov_rr(e, H_R15, H_RSI);
	load_regs(e, 0);
	jmp_r15(e);

	t->save_exit = e->p + e->exec;
	save_regs(e, 0);
	e_mov_rr(e, H_RDI, H_RSP);
	t->leave = (__typeof__(t->leave))(uintptr_t)(e->p + e->exec);
	e_load(e, H_RSP, MEM_BD(H_RDI, V_OFF(host_rsp)));
	for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
		push_pop(e, 0x58, callee_saved[i]);
	e8(e, 0xc3);
}

/* call op, with r15 = instruction, r14 = helper */
static void make_op(struct emit *e, struct bt_thunks *t)
{
	t->op = e->p + e->exec;
	save_regs(e, 8);
	e_lea(e, H_RDI, MEM_BD(H_RSP, 8));
	e_mov_rr(e, H_RSI, H_R15);
	e_store(e, MEM_BD(H_RSP, 8 + V_OFF(op_insn)), H_R15);
	add_rsp(e, -8);
	e8(e, 0x41);
	e8(e, 0xff);
	e8(e, 0xd6); /* call r14 */
	add_rsp(e, 8);
	/* It may have changed the code behind itself: that is left then, for what is there now. */
	e_op_mem(e, 0, 0x80, 7, MEM_BD(H_RSP, 8 + V_OFF(code_hit)));
	e8(e, 0);
	uint8_t *changed = e_jcc_fwd(e, COND_NE);
	load_regs(e, 8);
	e8(e, 0xc3);
	e_fix32(changed, e->p);
	add_rsp(e, 8);
	e_mov_rr(e, H_RDI, H_RSP);
	call_c(e, (const void *)(uintptr_t)bt_code_changed);
}

/* call mem, with r15 = gva; a struct bt_site follows. Goes on with r14 = host address, r15 = 0. */
static void make_mem(struct emit *e, struct bt_thunks *t)
{
	t->mem = e->p + e->exec;
	save_regs(e, 8);
	e_lea(e, H_RDI, MEM_BD(H_RSP, 8));
	e_mov_rr(e, H_RSI, H_R15);
	e_load(e, H_RDX, MEM_BD(H_RSP, 0));
	add_rsp(e, -8);
	call_c(e, (const void *)(uintptr_t)bt_mem_slow);
	add_rsp(e, 16);
	e_mov_rr(e, H_R14, H_RAX);
	e_store(e, MEM_BD(H_RSP, V_OFF(tmp[3])), H_RDX);
	load_regs(e, 0);
	e_mov_imm(e, H_R15, 0);
	e_op_mem(e, 0, 0xff, 4, MEM_BD(H_RSP, V_OFF(tmp[3]))); /* jmp [tmp3] */
}

/* call commit: flags and all registers survive */
static void make_commit(struct emit *e, struct bt_thunks *t)
{
	t->commit = e->p + e->exec;
	e8(e, 0x9c); /* pushfq */
	save_regs(e, 16);
	e_lea(e, H_RDI, MEM_BD(H_RSP, 16));
	call_c(e, (const void *)(uintptr_t)bt_mem_commit);
	load_regs(e, 16);
	e8(e, 0x9d); /* popfq */
	e8(e, 0xc3);
}

/* jmp there with `arg` in a scratch register; goes on where the C function says. */
static const uint8_t *make_jump(struct emit *e, const void *fn, unsigned arg)
{
	const uint8_t *start = e->p + e->exec;

	save_regs(e, 0);
	e_mov_rr(e, H_RDI, H_RSP);
	e_mov_rr(e, H_RSI, arg);
	call_c(e, fn);
	e_mov_rr(e, H_R15, H_RAX);
	load_regs(e, 0);
	jmp_r15(e);
	return start;
}

/*
 * jmp there, with r15 = rip, flags in flags_ax: a translation that the jump cache led to was not the one, or there was none.
 * Where the second table has another, it goes into the jump cache and is jumped to; the one that the jump cache has
 * already has just refused.
 */
static const uint8_t *make_lookup(struct emit *e, bool user)
{
	const uint8_t *slow = make_jump(e, (const void *)(uintptr_t)bt_do_lookup, H_R15), *start = e->p + e->exec;
	int32_t jc = (int32_t)offsetof(struct bt_vcpu_block, jc[user]), jc2 = (int32_t)offsetof(struct bt_vcpu_block, jc2[user]);

	BUG_ON(sizeof(struct bt_jc2) != 16);
	e8(e, 0x4d), e8(e, 0x69), e8(e, 0xf7), e32(e, BT_JC2_FACTOR); /* imul r14, r15, FACTOR */
	e8(e, 0x49), e8(e, 0xc1), e8(e, 0xee), e8(e, BT_JC2_SHIFT - 4); /* shr r14, SHIFT - 4 */
	e8(e, 0x41), e8(e, 0x81), e8(e, 0xe6), e32(e, (BT_JC2_ENTRIES - 1) << 4); /* and r14d, mask */
	e_op_mem(e, 1, 0x3b, H_R15, MEM_BID(H_RSP, H_R14, jc2)); /* cmp r15, [rip] */
	e8(e, 0x0f), e8(e, 0x85), e_rel32_to(e, slow);           /* jne slow */
	e_load(e, H_R14, MEM_BID(H_RSP, H_R14, jc2 + (int32_t)offsetof(struct bt_jc2, exec)));
	e_store(e, MEM_BD(H_RSP, V_OFF(slot_rax)), H_RAX);
	e8(e, 0x41), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xc7); /* movzx eax, r15w */
	struct emit_mem entry = {.base = H_RSP, .index = H_RAX, .scale = 3, .disp = jc};
	e_op_mem(e, 1, 0x3b, H_R14, entry); /* cmp r14, [jc + rax * 8] */
	uint8_t *same = e_jcc_fwd(e, COND_E);
	e_store(e, entry, H_R14);
	e_load(e, H_RAX, MEM_BD(H_RSP, V_OFF(slot_rax)));
	e8(e, 0x41), e8(e, 0xff), e8(e, 0xe6); /* jmp r14 */
	e_fix32(same, e->p);
	e_load(e, H_RAX, MEM_BD(H_RSP, V_OFF(slot_rax)));
	e_jmp(e, slow);
	return start;
}

static int32_t tlb_off(unsigned mmu, size_t field)
{
	return (int32_t)(offsetof(struct bt_vcpu, tlb) + mmu * sizeof(((struct bt_vcpu *)0)->tlb[0]) + field);
}

/* call trouble's part of a slot thunk: rsp is 8 below the vCPU, the site's return address there */
static const uint8_t *make_trouble(struct emit *e)
{
	const uint8_t *start = e->p + e->exec;

	save_regs(e, 8);
	e_lea(e, H_RDI, MEM_BD(H_RSP, 8));
	e_load(e, H_RSI, MEM_BD(H_RSP, 0));
	add_rsp(e, -8);
	call_c(e, (const void *)(uintptr_t)bt_slot_trouble);
	add_rsp(e, 8);
	load_regs(e, 8);
	e8(e, 0xc3);
	return start;
}

/*
 * call slot, with r15 = address + the slot's tag: looks the address up in the TLB. r15 = offset in the page and r14 = the
 * page's host address, the slot filled; or r15 = something huge. slot_gva is the address either way.
 */
static const uint8_t *make_slot(struct emit *e, const struct bt_vm *vm, unsigned mmu, unsigned write, unsigned slot,
				const uint8_t *trouble)
{
	const uint8_t *start = e->p + e->exec;
	int32_t s = 8 + (int32_t)(offsetof(struct bt_vcpu, slot) +
				  ((mmu * 2 + write) * BT_SLOTS + slot) * sizeof(struct bt_slot));
	int32_t tag = 8 + tlb_off(mmu, write ? offsetof(struct bt_tlb_entry, write) : offsetof(struct bt_tlb_entry, read));
	int32_t host = 8 + tlb_off(mmu, offsetof(struct bt_tlb_entry, host));
	uint8_t *miss;

	e_op_mem(e, 1, 0x2b, H_R15, MEM_BD(H_RSP, s)); /* sub r15, [slot.tag] */
	e_store(e, MEM_BD(H_RSP, 8 + V_OFF(slot_gva)), H_R15);
	e_tlb_index(e, vm->has_bmi2);
	e_op_mem(e, 1, 0x03, H_R15, MEM_BID(H_RSP, H_R14, tag)); /* add r15, [tag] */
	e8(e, 0x49), e8(e, 0x81), e8(e, 0xff);                   /* cmp r15, 4095 */
	e32(e, 4095);
	miss = e_jcc_fwd(e, COND_A);
	e_store(e, MEM_BD(H_RSP, 8 + V_OFF(slot_rax)), H_RAX);
	e_load(e, H_RAX, MEM_BID(H_RSP, H_R14, tag));
	e_store(e, MEM_BD(H_RSP, s), H_RAX);
	e_load(e, H_RAX, MEM_BD(H_RSP, 8 + V_OFF(slot_rax)));
	e_load(e, H_R14, MEM_BID(H_RSP, H_R14, host));
	e_store(e, MEM_BD(H_RSP, s + 8), H_R14);
	e_op_mem(e, 0, 0xff, 1, MEM_BD(H_RSP, 8 + V_OFF(slot_budget))); /* dec */
	e8(e, 0x0f), e8(e, 0x84);                                      /* jz trouble */
	e_rel32_to(e, trouble);
	e_fix32(miss, e->p);
	e8(e, 0xc3);
	return start;
}

static void make_slots(struct emit *e, struct bt_vm *vm)
{
	const uint8_t *trouble = make_trouble(e);

	for (unsigned mmu = 0; mmu < BT_MMU_COUNT; mmu++)
		for (unsigned write = 0; write < 2; write++)
			for (unsigned slot = 0; slot < BT_SLOTS; slot++)
				vm->thunk.slot[mmu][write][slot] = make_slot(e, vm, mmu, write, slot, trouble);
}

void bt_thunks_make(struct bt_vm *vm)
{
	struct bt_cache *c = &vm->cache;
	struct emit e = {.p = c->next, .exec = c->exec - c->rw};

	make_entry(&e, &vm->thunk);
	make_op(&e, &vm->thunk);
	make_mem(&e, &vm->thunk);
	make_commit(&e, &vm->thunk);
	vm->thunk.link = make_jump(&e, (const void *)(uintptr_t)bt_do_link, H_R14);
	make_slots(&e, vm);
	for (unsigned user = 0; user < 2; user++)
		vm->thunk.lookup[user] = make_lookup(&e, user);
	c->next = c->rw + ((e.p - c->rw + 63) & ~63l);
	c->first = c->next;
}
