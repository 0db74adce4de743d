/*
 * Ways into and out of a translation.
 *
 * Direct exits jump straight to the next TB once linked. Inside a page the link is unconditional; into another page a
 * guard compares the itlb's entry with the code page the link was made for, since the guest may have mapped something
 * else there. Backward exits poll for kicks. Indirect exits go through the jump cache, whose targets verify themselves.
 */
#include "modes/bt/translate.h"

static int32_t itlb_off(gva_t gva, bool user)
{
	return (int32_t)(offsetof(struct bt_vcpu, itlb) + 4 * bt_itlb_slot(gva, user));
}

void bt_map_add(struct trans *t, unsigned guest, unsigned flags)
{
	struct bt_insn_map *m = &t->map[t->map_count++];

	BUG_ON(t->map_count > ARRAY_SIZE(t->map));
	m->host = (uint16_t)(t->e.p + t->e.exec - (t->cold ? t->tb->cold : t->tb->exec));
	m->guest = (uint8_t)guest;
	m->flags = (uint8_t)(flags | (t->fl == FL_HOST ? BT_MAP_FLAGS_HOST : 0));
}

void bt_map_flags(struct trans *t)
{
	struct bt_insn_map *m = &t->map[t->map_count - 1];

	m->flags = (uint8_t)((m->flags & ~BT_MAP_FLAGS_HOST) | (t->fl == FL_HOST ? BT_MAP_FLAGS_HOST : 0));
}

/* Two loads; the pointer leads to memory that faults when the vCPU has been kicked (run.c). */
static void emit_poll(struct trans *t, unsigned exit_index, unsigned reg)
{
	e_load(&t->e, reg, V_MEM(poll));
	bt_map_add(t, exit_index, BT_MAP_POLL);
	e_load(&t->e, reg, MEM_BD(reg, 0));
}

/* Leaves to the run loop, which goes on at rip: for single-instruction TBs. */
static void emit_leave(struct trans *t)
{
	struct emit *e = &t->e;

	e_op_mem(e, 0, 0xc6, 0, V_MEM(exit_reason));
	e8(e, BT_EXIT_RESUME);
	e_jmp(e, t->vm->thunk.save_exit);
}

static void emit_leave_at(struct trans *t, uint64_t rip)
{
	bt_flags_to_mem(t);
	e_mov_imm(&t->e, H_T0, rip);
	e_store(&t->e, V_MEM(cs.rip), H_T0);
	emit_leave(t);
}

static gva_t linear(const struct trans *t, uint64_t rip)
{
	return t->bits == 64 ? rip : (uint32_t)(t->tb->cs_base + rip);
}

static struct exit_todo *exit_new(struct trans *t, uint64_t rip, uint16_t live)
{
	struct exit_todo *x = &t->todo[t->todo_count];

	x->exit = &t->tb->exits[t->todo_count++];
	BUG_ON(t->todo_count > t->tb->exit_count);
	x->exit->tb = t->tb;
	x->exit->rip = rip;
	x->jump = NULL;
	x->stub_ref[0] = x->stub_ref[1] = NULL;
	x->in_page = (linear(t, rip) ^ t->gva) < GUEST_PAGE_SIZE && !t->tb->page_id2 && t->bits != 16;
	x->backward = rip <= t->at;
	x->live = live;
	x->fl = t->fl;
	return x;
}

/* The jump itself: poll, guard, and a patchable jmp. t->fl tells where the flags are. */
static void emit_transfer(struct trans *t, struct exit_todo *x)
{
	struct emit *e = &t->e;

	if (!x->live)
		t->fl = x->in_page ? FL_HOST : FL_MEM; /* any place will do */
	else if (x->in_page)
		bt_flags_to_host(t);
	else
		bt_flags_to_mem(t);
	if (x->backward)
		emit_poll(t, (unsigned)(x->exit - t->tb->exits), H_T0);
	if (!x->in_page) {
		gva_t gva = linear(t, x->exit->rip);
		e_align4(e, 7); /* 81 /7 sib disp32, then the immediate */
		e_op_mem(e, 0, 0x81, 7, MEM_BD(H_VCPU, itlb_off(gva, bt_user_code(t))));
		x->exit->guard = e->p;
		e32(e, BT_NO_GUARD);
		BUG_ON((uintptr_t)x->exit->guard & 3);
		x->stub_ref[0] = e_jcc_fwd(e, COND_NE);
	}
	e_align4(e, 1);
	x->stub_ref[1] = x->exit->patch = e_jmp_fwd(e);
}

void bt_emit_exit(struct trans *t, uint64_t rip, uint16_t live)
{
	if (t->key & KEY_ONE) {
		emit_leave_at(t, rip);
		return;
	}
	struct exit_todo *x = exit_new(t, rip, live);
	emit_transfer(t, x);
	x->fl = t->fl;
}

void bt_emit_side_exit(struct trans *t, unsigned cond, uint64_t rip, uint16_t live)
{
	struct emit *e = &t->e;

	BUG_ON(t->fl != FL_HOST && cond < 16);
	if (t->key & KEY_ONE) {
		uint8_t *skip = e_jcc_fwd(e, cond ^ 1);
		emit_leave_at(t, rip);
		t->fl = FL_HOST;
		e_fix32(skip, e->p);
		return;
	}
	struct exit_todo *x = exit_new(t, rip, live);
	if (x->in_page) { /* the jcc itself is the patchable jump; a loop's polls in front of it, kicked or not */
		if (x->backward) {
			e_load(e, H_T0, V_MEM(poll));
			bt_map_add(t, t->off[t->i], BT_MAP_POLL_HERE);
			e_load(e, H_T0, MEM_BD(H_T0, 0));
		}
		e_align4(e, 2);
		x->stub_ref[1] = x->exit->patch = e_jcc_fwd(e, cond);
	} else {
		x->jump = e_jcc_fwd(e, cond);
	}
}

void bt_emit_indirect(struct trans *t, bool poll)
{
	struct emit *e = &t->e;

	BUG_ON(t->fl != FL_MEM);
	if (t->key & KEY_ONE) {
		e_store(e, V_MEM(cs.rip), H_T0);
		emit_leave(t);
		return;
	}
	if (poll)
		emit_poll(t, 0xff, H_T1);
	e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xf7); /* movzx r14d, r15w */
	e_op_mem(e, 0, 0xff, 4,
		 (struct emit_mem){.base = H_VCPU, .index = H_T1, .scale = 3,
				   .disp = (int32_t)offsetof(struct bt_vcpu_block, jc[bt_user_code(t)])});
}

void bt_emit_exit_transfers(struct trans *t)
{
	for (unsigned i = 0; i < t->todo_count; i++) {
		struct exit_todo *x = &t->todo[i];
		if (x->jump) {
			e_fix32(x->jump, t->e.p);
			t->fl = FL_HOST; /* jcc reads them there */
			emit_transfer(t, x);
			x->fl = t->fl;
		}
	}
}

void bt_emit_exit_stubs(struct trans *t)
{
	struct emit *e = &t->e;

	for (unsigned i = 0; i < t->todo_count; i++) {
		struct exit_todo *x = &t->todo[i];
		x->exit->stub = e->p + e->exec;
		for (unsigned k = 0; k < 2; k++)
			if (x->stub_ref[k])
				e_fix32(x->stub_ref[k], e->p);
		t->fl = x->in_page ? FL_HOST : FL_MEM;
		if (x->live)
			bt_flags_to_mem(t);
		e_mov_imm(e, H_T1, (uintptr_t)x->exit);
		e_jmp(e, t->vm->thunk.link);
	}
}

/* jne to the lookup thunk */
static void lookup_unless_equal(struct trans *t)
{
	e8(&t->e, 0x0f), e8(&t->e, 0x85);
	e_rel32_to(&t->e, t->vm->thunk.lookup[bt_user_code(t)]);
}

static void compare_itlb(struct trans *t, gva_t gva, uint32_t id)
{
	e_align4(&t->e, 7);
	e_op_mem(&t->e, 0, 0x81, 7, MEM_BD(H_VCPU, itlb_off(gva, bt_user_code(t))));
	e32(&t->e, id);
}

static void compare_imm(struct trans *t, uint64_t v)
{
	struct emit *e = &t->e;

	if (fits_i32((int64_t)v)) {
		e8(e, 0x49), e8(e, 0x81), e8(e, 0xff); /* cmp r15, imm32 */
		e32(e, (uint32_t)v);
	} else {
		e_mov_imm(e, H_T1, v);
		e8(e, 0x4d), e8(e, 0x39), e8(e, 0xf7); /* cmp r15, r14 */
	}
}

void bt_emit_entry(struct trans *t)
{
	struct emit *e = &t->e;
	struct bt_tb *tb = t->tb;

	/* The indirect entry: am I what r15 asks for, here and now? The page's id stands for mapping and mode. */
	if (!(t->key & KEY_ONE)) {
		compare_imm(t, t->rip);
		lookup_unless_equal(t);
		compare_itlb(t, t->gva, tb->page_id);
		tb->id_field = (uint32_t *)(void *)(e->p - 4);
		lookup_unless_equal(t);
	}
	if (!(t->key & (KEY_FLAT | KEY_ONE))) { /* the same offset in another code segment is another address */
		e_mov_imm(e, H_T1, tb->cs_base);
		e_op_mem(e, 1, 0x3b, H_T1, MEM_BD(H_VCPU, V_OFF(cs.seg[SEG_CS].base)));
		lookup_unless_equal(t);
		if (t->key & KEY_CS_LIMIT) {
			e_op_mem(e, 0, 0x81, 7, MEM_BD(H_VCPU, V_OFF(cs.seg[SEG_CS].limit)));
			e32(e, tb->cs_limit);
			lookup_unless_equal(t);
		}
	}

	tb->mem_entry = (uint16_t)(e->p + e->exec - tb->exec);
	if (tb->page_id2 && !(t->key & KEY_ONE)) {
		e_mov_imm(e, H_T0, t->rip);
		compare_itlb(t, t->gva + GUEST_PAGE_SIZE, tb->page_id2);
		lookup_unless_equal(t);
	}
	t->fl = FL_MEM;
	if (t->live_in[0] && !tb->page_id2)
		bt_flags_to_host(t);
	if (!tb->page_id2) {
		t->fl = FL_HOST;
		tb->direct_entry = (uint16_t)(e->p + e->exec - tb->exec);
	}
}

/* A TB that crosses pages checks the second one however it is entered: its direct entry leads to the other. */
void bt_emit_direct_entry(struct trans *t)
{
	if (!t->tb->page_id2)
		return;
	t->tb->direct_entry = (uint16_t)(t->e.p + t->e.exec - t->tb->exec);
	t->fl = FL_HOST;
	bt_flags_to_mem(t);
	e_jmp(&t->e, t->tb->exec + t->tb->mem_entry);
}
