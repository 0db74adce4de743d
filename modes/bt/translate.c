/*
 * The translator: decodes a block, finds out which flags are live where, and emits it class by class.
 *
 * A block ends at an unconditional transfer, at an instruction that changes what decoding depends on, at the end of its
 * page, or when it is long enough. Conditional jumps leave by side exits and the block goes on behind them.
 */
#include "modes/bt/translate.h"

#include <sys/syscall.h>

/* ---- fetching and decoding ------------------------------------------------------ */

static enum bt_bits bits_of(uint32_t key)
{
	return key & KEY_BITS64 ? BT_BITS_64 : key & KEY_BITS32 ? BT_BITS_32 : BT_BITS_16;
}

static bool ends_block(const struct bt_insn *in)
{
	switch (in->cls) {
	case BT_CLASS_INVALID:
	case BT_CLASS_CALL:
	case BT_CLASS_CALL_IND:
	case BT_CLASS_JMP:
	case BT_CLASS_JMP_IND:
	case BT_CLASS_LOOP:
	case BT_CLASS_RET: return true;
	case BT_CLASS_JCC: return false; /* a side exit: the block goes on behind it */
	default: return in->flags & BT_I_ENDS;
	}
}

static void make_invalid(struct bt_insn *in, unsigned vector)
{
	unsigned len = in->len ? in->len : 1;

	bt_fill(in, 0, sizeof(*in));
	in->len = (uint8_t)len;
	in->cls = BT_CLASS_INVALID;
	in->imm = vector;
	in->flags = BT_I_ENDS;
	in->flags_read = BT_FLAGS_ARITH;
	in->name = "(bad)";
}

/* How many of the n bytes from rip on may be fetched. */
static unsigned room_in_segment(const struct trans *t, uint64_t rip, unsigned n)
{
	uint64_t room = t->bits == 64 ? n : (uint64_t)t->tb->cs_limit + 1 - rip;

	return room < n ? (unsigned)room : n;
}

/* An instruction whose bytes lie in two pages: fetches the second, which may fault. */
static void decode_across(struct trans *t, struct bt_insn *ret)
{
	gva_t second = (t->gva & GUEST_PAGE_MASK) + GUEST_PAGE_SIZE;
	unsigned room = (unsigned)(second - t->gva), n = room < 15 ? room : 15;
	uint32_t id = t->tb->page_id, id2;
	uint8_t code[32];

	if (room_in_segment(t, t->rip, room + 1) <= room) { /* CS ends first */
		make_invalid(ret, VEC_GP);
		return;
	}
	if (t->bits != 64)
		second = (uint32_t)second;
	id2 = bt_code_page(t->v, second);
	bt_copy(code, t->vm->cache.pages[id].host + (t->gva & 0xfff), n);
	bt_copy(code + n, t->vm->cache.pages[id2].host, 15);
	enum bt_decode_result r = bt_decode(code, room_in_segment(t, t->rip, n + 15), t->bits, ret);
	if (r != BT_DECODE_OK)
		make_invalid(ret, r == BT_DECODE_INVALID ? VEC_UD : VEC_GP);
	if (ret->len > room) {
		t->tb->page_id2 = id2;
		bt_code_mark(t->v, t->vm->cache.pages[id2].gpa, ret->len - room);
	}
}

/*
 * Emitted as itself, an instruction that the host lacks is #UD too, but only once its operand has been found: a processor
 * does not look at that. These are the extensions that hosts of today differ in (CPUID 7.0).
 */
static bool host_lacks(const struct bt_vm *vm, const struct bt_insn *in)
{
	bool wide = in->encoding == BT_ENC_VEX && in->vex_l;
	uint32_t ebx = 0, ecx = 0;

	if (in->map == BT_MAP_0F38 && in->encoding == BT_ENC_LEGACY && in->opcode >= 0xc8 && in->opcode <= 0xcd)
		ebx = 1u << 29; /* SHA */
	else if (in->map == BT_MAP_0F3A && in->encoding == BT_ENC_LEGACY && in->opcode == 0xcc)
		ebx = 1u << 29;
	else if ((in->map == BT_MAP_0F38 && in->opcode == 0xcf) || (in->map == BT_MAP_0F3A && (in->opcode & 0xfe) == 0xce))
		ecx = 1u << 8; /* GFNI */
	else if (in->map == BT_MAP_0F38 && wide && in->opcode >= 0xdc && in->opcode <= 0xdf)
		ecx = 1u << 9; /* VAES */
	else if (in->map == BT_MAP_0F3A && wide && in->opcode == 0x44)
		ecx = 1u << 10; /* VPCLMULQDQ */
	return (vm->host_7b & ebx) != ebx || (vm->host_7c & ecx) != ecx;
}

static void decode_block(struct trans *t)
{
	const uint8_t *host = t->vm->cache.pages[t->tb->page_id].host;
	unsigned off = (unsigned)(t->gva & 0xfff), start = off, side = 0;
	unsigned max = t->key & KEY_ONE ? 1 : TB_MAX_INSNS;
	bool points = t->vm->cache.pages[t->tb->page_id].points;

	while (t->n < max) {
		struct bt_insn *in = &t->insn[t->n];
		if (points && t->n && bt_debug_exec_point(t->v, t->gva + (off - start)))
			break;
		unsigned room = off < 4096 ? room_in_segment(t, t->rip + off - start, 4096 - off) : 0;
		enum bt_decode_result r = room ? bt_decode(host + off, room, t->bits, in) : BT_DECODE_SHORT;
		if (r == BT_DECODE_SHORT) {
			if (t->n)
				break;
			if (off + room < 4096)
				make_invalid(in, VEC_GP);
			else
				decode_across(t, in);
		} else if (r != BT_DECODE_OK) {
			make_invalid(in, r == BT_DECODE_TOO_LONG ? VEC_GP : VEC_UD);
		}
		if (in->flags & BT_I_SSE && in->flags & BT_I_MEM && host_lacks(t->vm, in))
			make_invalid(in, VEC_UD);
		t->off[t->n++] = (uint16_t)(off - start);
		off += in->len;
		if (ends_block(in) || t->tb->page_id2 || off - start > 220)
			break;
		if (in->cls == BT_CLASS_JCC && ++side == TB_MAX_SIDE_EXITS)
			break;
	}
	t->off[t->n] = (uint16_t)(off - start);
	t->tb->guest_bytes = (uint16_t)(off - start);
	t->tb->dep_first = (uint16_t)start;
	t->tb->dep_end = (uint16_t)(off < 4096 ? off : 4096);
}

/* ---- liveness --------------------------------------------------------------------- */

/* An address in code, cut to the operand size. */
static uint64_t cut_rip(const struct trans *t, uint64_t rip, unsigned opsize)
{
	return opsize == 2 ? (uint16_t)rip : t->bits == 64 ? rip : (uint32_t)rip;
}

#define LOOKAHEAD 8

/* Which flags may be read from `rip` on before they are written; looks only within the block's own page. */
static uint16_t live_at(struct trans *t, uint64_t rip)
{
	const uint8_t *host = t->vm->cache.pages[t->tb->page_id].host;
	gva_t gva = t->gva + (rip - t->rip);
	uint16_t live = 0, unknown = BT_FLAGS_ARITH;

	if ((gva ^ t->gva) >= GUEST_PAGE_SIZE || t->tb->page_id2 || t->bits == 16)
		return BT_FLAGS_ARITH;
	unsigned off = (unsigned)(gva & 0xfff), first = off;

	for (unsigned i = 0; i < LOOKAHEAD && unknown; i++) {
		struct bt_insn in;
		if (off >= 4096 || bt_decode(host + off, 4096 - off, t->bits, &in) != BT_DECODE_OK)
			break;
		live |= in.flags_read & unknown;
		if (in.cls == BT_CLASS_JCC || ends_block(&in) || in.cls == BT_CLASS_SYSTEM)
			break;
		unknown &= (uint16_t)~in.flags_killed;
		off += in.len;
	}
	/* What was looked at is part of this translation now: a write there must reach it. */
	if (off > t->tb->dep_end)
		t->tb->dep_end = (uint16_t)(off < 4096 ? off : 4096);
	if (first < t->tb->dep_first)
		t->tb->dep_first = (uint16_t)first;
	return live | unknown;
}

static void analyse(struct trans *t)
{
	const struct bt_insn *last = &t->insn[t->n - 1];
	uint16_t live = BT_FLAGS_ARITH;

	if (last->cls == BT_CLASS_JMP || last->cls == BT_CLASS_CALL)
		live = live_at(t, cut_rip(t, t->rip + t->off[t->n] + (uint64_t)last->imm, last->opsize));
	t->live_taken[t->n - 1] = t->live_end = live;
	if (!ends_block(last))
		t->live_end = live = live_at(t, t->rip + t->off[t->n]);
	for (unsigned i = t->n; i-- > 0;) {
		const struct bt_insn *in = &t->insn[i];
		if (in->cls == BT_CLASS_JCC && (t->key & KEY_ONE) == 0)
			live |= t->live_taken[i] = live_at(t, cut_rip(t, t->rip + t->off[i + 1] + (uint64_t)in->imm, in->opsize));
		else if (in->cls == BT_CLASS_JCC || in->cls == BT_CLASS_LOOP)
			live = BT_FLAGS_ARITH;
		t->live_out[i] = live;
		live = (uint16_t)((live & ~in->flags_killed) | in->flags_read);
		t->live_in[i] = live;
	}
	/* Whoever debugs wants to see them all. */
	if (t->vm->precise_flags || t->key & KEY_ONE || t->vm->cache.pages[t->tb->page_id].points) {
		for (unsigned i = 0; i < t->n; i++)
			t->live_in[i] = t->live_out[i] = t->live_taken[i] = BT_FLAGS_ARITH;
		t->live_end = BT_FLAGS_ARITH;
	}
	t->tb->live_in = t->live_in[0];
}

/* ---- helpers ------------------------------------------------------------------------- */

static void raise_insn(struct bt_vcpu *v, const struct bt_insn *in)
{
	if (in->imm2 & 0x100)
		bt_raise_error(v, (enum bt_vector)in->imm, 0);
	bt_raise(v, (enum bt_vector)in->imm);
}

static void emit_call_helper(struct trans *t, const struct bt_insn *in, bt_op_fn *fn)
{
	struct emit *e = &t->e;
	struct bt_insn *copy = bt_meta_alloc(t->vm, sizeof(*copy));

	*copy = *in;
	if (t->live_in[t->i])
		bt_flags_to_mem(t);
	e_mov_imm(e, H_T0, t->at);
	e_store(e, V_MEM(cs.rip), H_T0);
	e_mov_imm(e, H_T0, (uintptr_t)copy);
	e_mov_imm(e, H_T1, (uintptr_t)fn);
	e_call(e, t->vm->thunk.op);
	t->fl = FL_MEM;
}

static void emit_raise(struct trans *t, const struct bt_insn *in, unsigned vector, bool error)
{
	struct bt_insn copy = *in;

	copy.imm = vector;
	copy.imm2 = error ? 0x100 : 0;
	emit_call_helper(t, &copy, raise_insn);
}

/* An x87 or MMX instruction under CR0.TS or CR0.EM: MMX has no emulation to ask for. */
static void raise_fpu(struct bt_vcpu *v, const struct bt_insn *in)
{
	bt_raise(v, in->map == BT_MAP_0F && v->cs.cr0 & CR0_EM ? VEC_UD : VEC_NM);
}

/* Code segments are not writable in protected mode; an x87 exception that waits comes first. */
static void raise_code_segment(struct bt_vcpu *v, const struct bt_insn *in)
{
	if (bt_waits_for_x87(in) && bt_fpu_pending())
		bt_raise(v, VEC_MF);
	bt_raise_error(v, VEC_GP, 0);
}

static bool writes_code_segment(const struct trans *t, const struct bt_insn *in)
{
	return t->bits != 64 && in->seg == SEG_CS && in->access & BT_ACCESS_WRITE && !(t->key & (KEY_REAL | KEY_VM86));
}

/* fwait asks for MP and TS, and does not care for EM. */
static void check_fwait(struct bt_vcpu *v, const struct bt_insn *in)
{
	if ((v->cs.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		bt_raise(v, VEC_NM);
}

/*
 * Whoever pauses waits for another vCPU, which may itself wait for this host processor: now and then it is let go. (Linux
 * spins for some 2^15 pauses before it gives up.)
 */
static void pause_a_little(struct bt_vcpu *v, const struct bt_insn *in)
{
	long rc;

	if (++v->pauses % BT_PAUSES_TO_YIELD)
		__builtin_ia32_pause();
	else /* sched_yield, without libc: vector registers are the guest's here */
		__asm__ volatile("syscall" : "=a"(rc) : "a"(SYS_sched_yield) : "rcx", "r11", "memory");
}

static bool is_fwait(const struct bt_insn *in) { return in->map == BT_MAP_1 && in->opcode == 0x9b; }

static void emit_op(struct trans *t, const struct bt_insn *in)
{
	emit_call_helper(t, in, bt_op_table[in->handler]);
	if (in->flags & BT_I_ENDS) {
		/* Anything may have changed: no link, but a lookup with the mode as it is then. */
		e_mov_imm(&t->e, H_T0, t->next);
		t->fl = FL_MEM;
		if (t->key & KEY_ONE)
			bt_emit_indirect(t, false);
		else
			e_jmp(&t->e, t->vm->thunk.lookup[bt_user_code(t)]);
	}
}

/* ---- classes --------------------------------------------------------------------------- */

static unsigned stack_bytes(const struct trans *t, const struct bt_insn *in) { return in->opsize; }

/* T0 = linear address of the stack top moved by `delta`, checked for the access outside 64-bit code. */
static void emit_stack_address(struct trans *t, int delta, unsigned bytes, unsigned access)
{
	struct emit *e = &t->e;

	if (t->bits == 64) {
		e_lea(e, H_T0, MEM_BD(H_GUEST_RSP, delta));
		return;
	}
	e_lea32(e, H_T0, MEM_BD(H_GUEST_RSP, delta));
	if (!(t->key & KEY_SS32))
		e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xff); /* movzx r15d, r15w */
	bt_emit_segment_check(t, SEG_SS, bytes, access, !(t->key & KEY_SS32), NULL);
	if (!(t->key & KEY_FLAT)) {
		e_load(e, H_T1, V_MEM(cs.seg[SEG_SS].base));
		e_lea32(e, H_T0, MEM_BI(H_T0, H_T1));
	}
}

static void emit_move_rsp(struct trans *t, int delta)
{
	struct emit *e = &t->e;

	if (t->bits == 64) {
		e_lea(e, H_GUEST_RSP, MEM_BD(H_GUEST_RSP, delta));
	} else if (t->key & KEY_SS32) {
		e_lea32(e, H_GUEST_RSP, MEM_BD(H_GUEST_RSP, delta));
	} else { /* sp only; the rest of esp stays */
		e_lea32(e, H_T1, MEM_BD(H_GUEST_RSP, delta));
		e8(e, 0x66), e8(e, 0x45), e8(e, 0x89), e8(e, 0xf5); /* mov r13w, r14w */
	}
}

static void store_sized(struct trans *t, unsigned bytes, unsigned reg, struct emit_mem m)
{
	if (bytes == 8)
		e_store(&t->e, m, reg);
	else if (bytes == 4)
		e_store32(&t->e, m, reg);
	else
		e_store16(&t->e, m, reg);
}

static void load_sized(struct trans *t, unsigned bytes, unsigned reg, struct emit_mem m)
{
	if (bytes == 8)
		e_load(&t->e, reg, m);
	else if (bytes == 4)
		e_load32(&t->e, reg, m);
	else
		e_load16(&t->e, reg, m);
}

/* Pushes tmp[0] (reg == H_NONE) or a host register. */
static void emit_push_value(struct trans *t, unsigned bytes, unsigned reg)
{
	struct emit *e = &t->e;

	emit_stack_address(t, -(int)bytes, bytes, BT_ACCESS_WRITE);
	bt_emit_check(t, bytes, BT_ACCESS_WRITE, GPR_RSP, BT_SITE_STACK);
	if (reg == H_NONE) {
		e_lea(e, H_T0, MEM_BI(H_T1, H_T0));
		e_load(e, H_T1, V_MEM(tmp[0]));
		store_sized(t, bytes, H_T1, MEM_BD(H_T0, 0));
	} else {
		store_sized(t, bytes, reg, MEM_BI(H_T1, H_T0));
	}
	bt_emit_access_end(t);
	emit_move_rsp(t, -(int)bytes);
}

/* tmp[0] = the instruction's memory operand */
static void emit_load_operand(struct trans *t, const struct bt_insn *in, unsigned bytes)
{
	bt_emit_operand(t, in, 0, bytes, BT_ACCESS_READ);
	load_sized(t, bytes, H_T0, MEM_BI(H_T1, H_T0));
	bt_emit_access_end(t);
	e_store(&t->e, V_MEM(tmp[0]), H_T0);
}

/* Inside a group: the slot is checked already, 8 bytes at `offset` from rsp. */
static void emit_grouped_push(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	struct emit_mem slot = bt_group_operand(t, -8);

	if (in->flags & (BT_I_OPREG | BT_I_MODRM)) {
		unsigned g = in->flags & BT_I_OPREG ? in->opreg : in->modrm_rm, h = host_of(g);
		if (spilled(g)) {
			h = H_T0;
			e_load(e, h, V_GPR(g));
		}
		e_store(e, slot, h);
	} else {
		e_store_imm(e, slot, (int32_t)in->imm);
	}
	emit_move_rsp(t, -8);
	t->group_delta -= 8;
}

static void emit_grouped_pop(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	struct emit_mem slot = bt_group_operand(t, 0);

	if (spilled(in->opreg)) {
		e_load(e, H_T0, slot);
		e_store(e, V_GPR(in->opreg), H_T0);
	} else {
		e_load(e, host_of(in->opreg), slot);
	}
	emit_move_rsp(t, 8);
	t->group_delta += 8;
}

static void emit_push(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	unsigned bytes = stack_bytes(t, in);

	if (t->grouped) {
		emit_grouped_push(t, in);
		return;
	}
	bt_flags_clobber(t, t->live_in[t->i]);
	if (in->flags & BT_I_OPREG || (in->flags & BT_I_MODRM && !(in->flags & BT_I_MEM))) {
		unsigned g = in->flags & BT_I_OPREG ? in->opreg : in->modrm_rm;
		if (spilled(g)) {
			emit_stack_address(t, -(int)bytes, bytes, BT_ACCESS_WRITE);
			bt_emit_check(t, bytes, BT_ACCESS_WRITE, GPR_RSP, BT_SITE_STACK);
			e_lea(e, H_T0, MEM_BI(H_T1, H_T0));
			e_load(e, H_T1, V_GPR(g));
			store_sized(t, bytes, H_T1, MEM_BD(H_T0, 0));
			bt_emit_access_end(t);
			emit_move_rsp(t, -(int)bytes);
		} else {
			emit_push_value(t, bytes, host_of(g));
		}
	} else if (in->flags & BT_I_MEM) {
		emit_load_operand(t, in, bytes);
		emit_push_value(t, bytes, H_NONE);
	} else { /* imm */
		e_mov_imm(e, H_T0, (uint64_t)in->imm);
		e_store(e, V_MEM(tmp[0]), H_T0);
		emit_push_value(t, bytes, H_NONE);
	}
}

/* T0 = popped value; rsp is not moved yet. */
static void emit_pop_value(struct trans *t, unsigned bytes)
{
	emit_stack_address(t, 0, bytes, BT_ACCESS_READ);
	bt_emit_check(t, bytes, BT_ACCESS_READ, GPR_RSP, BT_SITE_STACK);
	load_sized(t, bytes, H_T0, MEM_BI(H_T1, H_T0));
	bt_emit_access_end(t);
}

/* General register g = T0, as an instruction of this operand size writes it. */
static void emit_set_gpr(struct trans *t, unsigned g, unsigned bytes)
{
	struct emit *e = &t->e;

	if (bytes == 2) {
		if (spilled(g)) {
			e_store16(e, V_GPR(g), H_T0);
		} else {
			e8(e, 0x66);
			e_op_rr(e, 0, 0x89, H_T0, host_of(g));
		}
	} else if (spilled(g)) {
		e_store(e, V_GPR(g), H_T0);
	} else {
		e_mov_rr(e, host_of(g), H_T0);
	}
}

static void emit_pop(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	unsigned bytes = stack_bytes(t, in);

	if (t->grouped) {
		emit_grouped_pop(t, in);
		return;
	}
	bt_flags_clobber(t, t->live_in[t->i]);
	if (!(in->flags & BT_I_MEM)) {
		unsigned g = in->flags & BT_I_OPREG ? in->opreg : in->modrm_rm;
		if (bytes == 8 && !spilled(g) && g != GPR_RSP) {
			emit_stack_address(t, 0, bytes, BT_ACCESS_READ);
			bt_emit_check(t, bytes, BT_ACCESS_READ, GPR_RSP, BT_SITE_STACK);
			e_load(e, host_of(g), MEM_BI(H_T1, H_T0));
			bt_emit_access_end(t);
			emit_move_rsp(t, 8);
			return;
		}
		emit_pop_value(t, bytes);
		emit_move_rsp(t, (int)bytes);
		emit_set_gpr(t, g, bytes);
		return;
	}
	emit_pop_value(t, bytes);
	if (writes_code_segment(t, in)) {
		emit_call_helper(t, in, raise_code_segment);
		return;
	}
	e_store(e, V_MEM(tmp[0]), H_T0);
	bt_emit_operand(t, in, (int)bytes, bytes, BT_ACCESS_WRITE);
	e_lea(e, H_T0, MEM_BI(H_T1, H_T0));
	e_load(e, H_T1, V_MEM(tmp[0]));
	store_sized(t, bytes, H_T1, MEM_BD(H_T0, 0));
	bt_emit_access_end(t);
	emit_move_rsp(t, (int)bytes);
}

static void emit_leave_insn(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	unsigned bytes = stack_bytes(t, in);

	bt_flags_clobber(t, t->live_in[t->i]);
	if (t->bits == 64) {
		e_mov_rr(e, H_T0, H_RBP);
	} else {
		e_mov_rr32(e, H_T0, H_RBP);
		if (!(t->key & KEY_SS32))
			e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xff);
		bt_emit_segment_check(t, SEG_SS, bytes, BT_ACCESS_READ, !(t->key & KEY_SS32), NULL);
		if (!(t->key & KEY_FLAT)) {
			e_load(e, H_T1, V_MEM(cs.seg[SEG_SS].base));
			e_lea32(e, H_T0, MEM_BI(H_T0, H_T1));
		}
	}
	bt_emit_check(t, bytes, BT_ACCESS_READ, GPR_RBP, BT_SITE_STACK);
	load_sized(t, bytes, H_T0, MEM_BI(H_T1, H_T0));
	bt_emit_access_end(t);
	if (t->bits == 64)
		e_lea(e, H_GUEST_RSP, MEM_BD(H_RBP, (int)bytes));
	else if (t->key & KEY_SS32)
		e_lea32(e, H_GUEST_RSP, MEM_BD(H_RBP, (int)bytes));
	else {
		e_lea32(e, H_T1, MEM_BD(H_RBP, (int)bytes));
		e8(e, 0x66), e8(e, 0x45), e8(e, 0x89), e8(e, 0xf5); /* mov r13w, r14w */
	}
	emit_set_gpr(t, GPR_RBP, bytes);
}

static void emit_push_return(struct trans *t, unsigned bytes)
{
	struct emit *e = &t->e;

	if (t->grouped) {
		struct emit_mem slot = bt_group_operand(t, -8);
		if (fits_i32((int64_t)t->next)) {
			e_store_imm(e, slot, (int32_t)t->next);
		} else {
			e_mov_imm(e, H_T0, t->next);
			e_store(e, slot, H_T0);
		}
		emit_move_rsp(t, -8);
		t->grouped = false; /* T1 is free again for the exit */
		return;
	}
	if (bytes == 8 && fits_i32((int64_t)t->next)) {
		emit_stack_address(t, -8, 8, BT_ACCESS_WRITE);
		bt_emit_check(t, 8, BT_ACCESS_WRITE, GPR_RSP, BT_SITE_STACK);
		e_store_imm(e, MEM_BI(H_T1, H_T0), (int32_t)t->next);
	} else {
		emit_stack_address(t, -(int)bytes, bytes, BT_ACCESS_WRITE);
		bt_emit_check(t, bytes, BT_ACCESS_WRITE, GPR_RSP, BT_SITE_STACK);
		e_lea(e, H_T0, MEM_BI(H_T1, H_T0));
		e_mov_imm(e, H_T1, t->next);
		store_sized(t, bytes, H_T1, MEM_BD(H_T0, 0));
	}
	bt_emit_access_end(t);
	emit_move_rsp(t, -(int)bytes);
}

static void emit_call(struct trans *t, const struct bt_insn *in)
{
	uint64_t target = cut_rip(t, t->next + (uint64_t)in->imm, in->opsize);

	if (!bt_target_allowed(t, target)) {
		t->grouped = false;
		emit_raise(t, in, VEC_GP, true);
		return;
	}
	bt_flags_clobber(t, t->live_out[t->i]);
	emit_push_return(t, stack_bytes(t, in));
	bt_emit_exit(t, target, t->live_out[t->i]);
}

static void emit_jmp(struct trans *t, const struct bt_insn *in)
{
	uint64_t target = cut_rip(t, t->next + (uint64_t)in->imm, in->opsize);

	if (bt_target_allowed(t, target))
		bt_emit_exit(t, target, t->live_taken[t->i]);
	else
		emit_raise(t, in, VEC_GP, true);
}

/* T0 is where an indirect jump goes: refuses it beyond CS. */
static void emit_check_target(struct trans *t, const struct bt_insn *in)
{
	uint8_t *skip = bt_emit_target_check(t, in->opsize);

	if (!skip)
		return;
	emit_raise(t, in, VEC_GP, true);
	e_fix32(skip, t->e.p);
}

/* tmp[1] = where an indirect call or jump goes */
static void emit_target(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;

	if (in->flags & BT_I_MEM) {
		bt_emit_operand(t, in, 0, in->opsize, BT_ACCESS_READ);
		load_sized(t, in->opsize, H_T0, MEM_BI(H_T1, H_T0));
		bt_emit_access_end(t);
	} else if (spilled(in->modrm_rm)) {
		load_sized(t, in->opsize, H_T0, V_GPR(in->modrm_rm));
	} else {
		e_mov_rr(e, H_T0, host_of(in->modrm_rm));
		if (in->opsize == 2)
			e8(e, 0x45), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xff);
		else if (in->opsize == 4)
			e_mov_rr32(e, H_T0, H_T0);
	}
}

static void emit_indirect_insn(struct trans *t, const struct bt_insn *in)
{
	bt_flags_to_mem(t);
	emit_target(t, in);
	emit_check_target(t, in);
	if (in->cls == BT_CLASS_CALL_IND) {
		e_store(&t->e, V_MEM(tmp[1]), H_T0);
		emit_push_return(t, stack_bytes(t, in));
		e_load(&t->e, H_T0, V_MEM(tmp[1]));
	}
	bt_emit_indirect(t, true);
}

static void emit_ret(struct trans *t, const struct bt_insn *in)
{
	unsigned bytes = stack_bytes(t, in);

	bt_flags_to_mem(t);
	if (t->grouped)
		e_load(&t->e, H_T0, bt_group_operand(t, 0));
	else
		emit_pop_value(t, bytes);
	t->grouped = false;
	emit_check_target(t, in);
	emit_move_rsp(t, (int)bytes + (int)(uint16_t)in->imm);
	bt_emit_indirect(t, true);
}

static void emit_jcc(struct trans *t, const struct bt_insn *in)
{
	uint64_t target = cut_rip(t, t->next + (uint64_t)in->imm, in->opsize);

	bt_flags_to_host(t);
	if (bt_target_allowed(t, target)) {
		bt_emit_side_exit(t, in->cond, target, t->live_taken[t->i]);
		return;
	}
	uint8_t *skip = e_jcc_fwd(&t->e, in->cond ^ 1u);
	emit_raise(t, in, VEC_GP, true);
	t->fl = FL_HOST;
	e_fix32(skip, t->e.p);
}

/* The counter as it was, and #GP. */
static void emit_loop_refused(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;

	if (in->opcode != 0xe3 && in->addrsize == 2) {
		e_lea32(e, H_T0, MEM_BD(H_RCX, 1));
		e8(e, 0x66);
		e_op_rr(e, 0, 0x89, H_T0, H_RCX); /* mov cx, r15w */
	} else if (in->opcode != 0xe3) {
		e_op_mem(e, in->addrsize == 8, 0x8d, H_RCX, MEM_BD(H_RCX, 1));
	}
	emit_raise(t, in, VEC_GP, true);
}

/* loop, loope, loopne, jcxz: the host's own, around a jump. Not with a 16-bit counter, which the host lacks. */
static void emit_loop(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	uint64_t taken = cut_rip(t, t->next + (uint64_t)in->imm, in->opsize);
	uint8_t *rel8;

	bt_flags_to_host(t);
	if (in->addrsize == 2) {
		/* cx alone: work on a zero-extended copy in rcx, put back afterwards. loop: cx--, rest of ecx kept. */
		if (in->opcode != 0xe3) {
			e_lea32(e, H_T0, MEM_BD(H_RCX, -1));
			e8(e, 0x66);
			e_op_rr(e, 0, 0x89, H_T0, H_RCX); /* mov cx, r15w */
		}
		e_mov_rr(e, H_T1, H_RCX);
		e8(e, 0x0f), e8(e, 0xb7), e8(e, 0xc9); /* movzx ecx, cx */
		if (in->opcode == 0xe3) {
			e8(e, 0xe3); /* jrcxz taken */
			rel8 = e->p++;
		} else {
			uint8_t *zero, *cond = NULL;
			e8(e, 0xe3); /* jrcxz not taken */
			zero = e->p++;
			if (in->opcode != 0xe2) {
				bool equal = t->v->sys.amd && in->flags & (BT_I_REP | BT_I_REPNE) ? in->flags & BT_I_REP
													    : in->opcode == 0xe1;
				e8(e, equal ? 0x75 : 0x74); /* loope: jnz out; loopne: jz out */
				cond = e->p++;
			}
			e8(e, 0xeb);
			rel8 = e->p++;
			*zero = (uint8_t)(e->p - (zero + 1));
			if (cond)
				*cond = (uint8_t)(e->p - (cond + 1));
		}
	} else {
		if (in->addrsize == 4)
			e8(e, 0x67);
		if (in->flags & (BT_I_REP | BT_I_REPNE)) /* AMD's loopne with f3 is loope */
			e8(e, in->flags & BT_I_REP ? 0xf3 : 0xf2);
		e8(e, in->opcode);
		rel8 = e->p++;
	}
	uint8_t *not_taken = NULL;
	if (in->addrsize == 2)
		e_mov_rr(e, H_RCX, H_T1);
	not_taken = e_jmp_fwd(e);
	*rel8 = (uint8_t)(e->p - (rel8 + 1));
	if (in->addrsize == 2)
		e_mov_rr(e, H_RCX, H_T1);
	if (bt_target_allowed(t, taken))
		bt_emit_exit(t, taken, BT_FLAGS_ARITH);
	else
		emit_loop_refused(t, in);
	e_fix32(not_taken, e->p);
	t->fl = FL_HOST;
	bt_emit_exit(t, t->next, BT_FLAGS_ARITH);
}

static void emit_segment_push(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	int32_t off = V_OFF(cs.seg) + (int32_t)(in->modrm_reg * sizeof(struct cpu_segment) +
						offsetof(struct cpu_segment, selector));

	bt_flags_clobber(t, t->live_in[t->i]);
	e_load16(e, H_T0, MEM_BD(H_VCPU, off));
	e_store(e, V_MEM(tmp[0]), H_T0);
	emit_push_value(t, stack_bytes(t, in), H_NONE);
}

static void emit_cli(struct trans *t)
{
	/* and byte [rflags + 1], ~2 */
	bt_flags_clobber(t, t->live_in[t->i]);
	e_op_mem(&t->e, 0, 0x80, 4, MEM_BD(H_VCPU, V_OFF(cs.rflags) + 1));
	e8(&t->e, 0xfd);
}

/* stac, clac at privilege 0: AC, and the table that C code's accesses go to. */
static void emit_ac(struct trans *t, const struct bt_insn *in)
{
	struct emit *e = &t->e;
	bool set = in->handler == BT_OP_stac;

	bt_flags_clobber(t, t->live_in[t->i]);
	e_op_mem(e, 0, 0x80, set ? 1 : 4, MEM_BD(H_VCPU, V_OFF(cs.rflags) + 2)); /* or, and */
	e8(e, set ? RFLAGS_AC >> 16 : ~(RFLAGS_AC >> 16) & 0xff);
	if (t->op_mmu != BT_MMU_KERNEL_SMAP)
		return;
	e_op_mem(e, 0, 0xc6, 0, V_MEM(mmu));
	e8(e, set ? BT_MMU_KERNEL : BT_MMU_KERNEL_SMAP);
}

bool bt_forbidden(const struct trans *t, const struct bt_insn *in)
{
	return in->cls == BT_CLASS_INVALID || (in->flags & BT_I_PRIV && t->key & KEY_CPL) ||
	       (in->flags & BT_I_AVX && t->key & KEY_AVX_OFF) || (in->flags & BT_I_SSE && t->key & (KEY_SSE_OFF | KEY_TS)) ||
	       (in->flags & BT_I_AVX && t->key & KEY_TS) || (in->flags & BT_I_FPU && t->key & KEY_FPU_NM);
}

/* What the mode forbids: emits the fault, true. */
static bool emit_forbidden(struct trans *t, const struct bt_insn *in)
{
	if (in->cls == BT_CLASS_INVALID) {
		emit_raise(t, in, (unsigned)in->imm, in->imm == VEC_GP);
		return true;
	}
	if (in->flags & BT_I_PRIV && t->key & KEY_CPL) {
		emit_raise(t, in, VEC_GP, true);
		return true;
	}
	if (writes_code_segment(t, in) && in->cls == BT_CLASS_NATIVE && !(in->flags & BT_I_MASKED)) {
		emit_call_helper(t, in, raise_code_segment);
		return true;
	}
	if (in->flags & BT_I_AVX && t->key & KEY_AVX_OFF) {
		emit_raise(t, in, VEC_UD, false);
		return true;
	}
	if (in->flags & BT_I_SSE && !(in->flags & BT_I_AVX) && t->key & KEY_SSE_OFF) {
		emit_raise(t, in, VEC_UD, false);
		return true;
	}
	if (in->flags & BT_I_FPU && t->key & KEY_FPU_NM) {
		emit_call_helper(t, in, is_fwait(in) ? check_fwait : raise_fpu);
		return !is_fwait(in);
	}
	if (in->flags & (BT_I_SSE | BT_I_AVX) && t->key & KEY_TS) {
		emit_raise(t, in, VEC_NM, false);
		return true;
	}
	return false;
}

static void emit_insn(struct trans *t, const struct bt_insn *in)
{
	if (emit_forbidden(t, in)) {
		if (!ends_block(in))
			t->n = t->i + 1; /* nothing behind it is reached */
		return;
	}
	switch ((enum bt_class)in->cls) {
	case BT_CLASS_NATIVE:
		if (in->flags & BT_I_MASKED && writes_code_segment(t, in))
			emit_op(t, in); /* only what the mask selects faults */
		else
			bt_emit_native(t, in);
		break;
	case BT_CLASS_LEA: bt_emit_lea(t, in); break;
	case BT_CLASS_NOP:
		if (in->opcode == 0x90 && in->flags & BT_I_REP && t->vm->vcpus == 1)
			e8(&t->e, 0xf3), e8(&t->e, 0x90); /* pause */
		else if (in->opcode == 0x90 && in->flags & BT_I_REP)
			emit_call_helper(t, in, pause_a_little);
		break;
	case BT_CLASS_PUSH:
		if (in->handler == BT_OP_push_sreg)
			emit_segment_push(t, in);
		else
			emit_push(t, in);
		break;
	case BT_CLASS_POP: emit_pop(t, in); break;
	case BT_CLASS_LEAVE: emit_leave_insn(t, in); break;
	case BT_CLASS_CALL: emit_call(t, in); break;
	case BT_CLASS_CALL_IND:
	case BT_CLASS_JMP_IND: emit_indirect_insn(t, in); break;
	case BT_CLASS_JMP: emit_jmp(t, in); break;
	case BT_CLASS_JCC: emit_jcc(t, in); break;
	case BT_CLASS_LOOP: emit_loop(t, in); break;
	case BT_CLASS_RET: emit_ret(t, in); break;
	case BT_CLASS_FLAG_SYS:
		if (in->handler == BT_OP_cli && t->key & KEY_IOPL_OK)
			emit_cli(t);
		else
			emit_op(t, in);
		break;
	case BT_CLASS_SYSTEM:
		if ((in->handler == BT_OP_stac || in->handler == BT_OP_clac) && !(t->key & KEY_CPL) &&
		    t->v->sys.cr4_allowed & CR4_SMAP) {
			emit_ac(t, in);
			break;
		}
		emit_op(t, in);
		break;
	default: emit_op(t, in); break;
	}
}

/* ---- the whole ------------------------------------------------------------------------------ */

static unsigned count_exits(const struct trans *t)
{
	unsigned n = 2; /* the end, and its copy out of line */

	for (unsigned i = 0; i < t->n; i++)
		n += (t->insn[i].cls == BT_CLASS_JCC && i < t->loop.last) + (t->insn[i].cls == BT_CLASS_JCC || t->insn[i].cls == BT_CLASS_LOOP);
	return n;
}

void bt_emit_one(struct trans *t, unsigned i)
{
	t->i = i;
	t->at = t->rip + t->off[i];
	t->next = cut_rip(t, t->rip + t->off[i + 1], 4);
	if (!t->grouped && !t->fast) {
		t->loop.plain[i] = t->e.p;
		t->loop.plain_fl[i] = (uint8_t)t->fl;
	}
	bt_map_add(t, t->off[i], 0);
	emit_insn(t, &t->insn[i]);
}

static void emit_block(struct trans *t)
{
	for (unsigned i = 0; i < t->n;) {
		struct group g;
		unsigned len = bt_group_scan(t, i, &g);
		if (len)
			bt_group_emit(t, &g);
		else
			bt_emit_one(t, i);
		i += len ? len : 1;
		if (t->loop.last && i == t->loop.last + 1u)
			t->loop.after = t->e.p;
	}
	const struct bt_insn *last = &t->insn[t->n - 1];
	if (!ends_block(last))
		bt_emit_exit(t, t->next, t->live_end);
}

struct bt_tb *bt_translate(struct bt_vcpu *v, uint32_t page_id)
{
	static __thread struct trans trans;
	struct trans *t = &trans;
	struct bt_vm *vm = v->vm;
	struct bt_cache *c = &vm->cache;
	struct bt_tb *tb = bt_meta_alloc(vm, sizeof(*tb));

	t->v = v;
	t->vm = vm;
	t->e = (struct emit){.p = c->next, .exec = c->exec - c->rw};
	t->tb = tb;
	t->key = v->tb_key;
	t->bits = bits_of(t->key);
	t->op_mmu = (t->key & KEY_MMU) >> KEY_MMU_SHIFT;
	t->rip = v->cs.rip;
	tb->cs_base = t->bits == 64 ? 0 : v->cs.seg[SEG_CS].base;
	t->gva = t->bits == 64 ? t->rip : (uint32_t)(tb->cs_base + t->rip);
	tb->cs_limit = t->bits == 64 ? ~0u : v->cs.seg[SEG_CS].limit;
	t->n = t->slow_count = t->segment_slow_count = t->todo_count = t->map_count = t->group_count = 0;
	t->grouped = t->fast = t->cold = false;
	tb->rip = t->rip;
	tb->key = t->key;
	tb->page_id = page_id;
	tb->exec = c->next + t->e.exec;
	tb->cold = c->cold_next + t->e.exec;

	/* Mark first, read then: a store that comes later takes the slow path and finds the TB. */
	gpa_t gpa = t->gpa = c->pages[page_id].gpa | (t->gva & 0xfff);
	bt_code_mark(v, gpa, 1);
	decode_block(t);
	analyse(t);
	bt_loop_find(t);
	bt_code_mark(v, (gpa & GUEST_PAGE_MASK) + tb->dep_first, tb->dep_end - tb->dep_first);

	tb->exit_count = (uint8_t)count_exits(t);
	tb->exits = bt_meta_alloc(vm, tb->exit_count * sizeof(*tb->exits));
	bt_emit_entry(t);
	emit_block(t);
	bt_loop_emit(t);
	bt_emit_exit_transfers(t);
	bt_emit_direct_entry(t);
	tb->bytes = (uint32_t)(t->e.p - c->next);
	tb->map_hot = (uint8_t)t->map_count;
	c->next = c->rw + ((t->e.p - c->rw + 15) & ~15l);

	t->cold = true;
	t->e.p = c->cold_next;
	bt_group_emit_slow(t);
	bt_emit_exit_stubs(t);
	bt_emit_slow_paths(t);
	bt_emit_segment_slow(t);
	tb->cold_bytes = (uint32_t)(t->e.p - c->cold_next);
	c->cold_next = t->e.p;

	tb->exit_count = (uint8_t)t->todo_count;
	tb->insns = (uint8_t)t->n;
	tb->map_count = (uint8_t)t->map_count;
	tb->map = bt_meta_alloc(vm, t->map_count * sizeof(*tb->map));
	bt_copy(tb->map, t->map, t->map_count * sizeof(*tb->map));
	bt_tb_insert(vm, tb);
	return tb;
}
