/* Segment registers and descriptor tables: loads with their checks, addresses, and the instructions that read them. */
#include "modes/bt/cache.h"
#include "modes/bt/helper.h"

/* ---- addresses ----------------------------------------------------------------------------- */

bool bt_seg_contains(const struct cpu_segment *seg, uint32_t offset, uint32_t bytes)
{
	uint64_t last = (uint64_t)offset + bytes - 1;

	/* Expand-down data: valid above the limit, up to 64 KiB or 4 GiB. */
	if ((seg->access & (SEG_ACCESS_S | 0xc)) == (SEG_ACCESS_S | 4)) {
		uint32_t top = seg->access & SEG_ACCESS_DB ? 0xffffffffu : 0xffffu;

		return offset > seg->limit && last <= top;
	}
	return last <= seg->limit;
}

gva_t bt_seg_gva(struct bt_vcpu *v, enum cpu_seg which, uint64_t offset, unsigned bytes, bool write)
{
	const struct cpu_segment *seg = &v->cs.seg[which];
	enum bt_vector vector = which == SEG_SS ? VEC_SS : VEC_GP;
	uint64_t gva;

	if (bt_code64(v)) {
		gva = offset;
		if (which == SEG_FS || which == SEG_GS)
			gva += seg->base;
		if (!bt_canonical(gva) || !bt_canonical(gva + bytes - 1))
			bt_raise_error(v, vector, 0);
		return gva;
	}
	if (bt_protected(v)) {
		bool code = seg->access & 8, rw = seg->access & 2;

		if (!(seg->access & SEG_ACCESS_P))
			bt_raise_error(v, vector, 0);
		if (write ? code || !rw : code && !rw)
			bt_raise_error(v, VEC_GP, 0);
	}
	if (!bt_seg_contains(seg, (uint32_t)offset, bytes))
		bt_raise_error(v, vector, 0);
	return (uint32_t)(seg->base + (uint32_t)offset);
}

/* How far from offset 0 every access of the kind is allowed; an expand-down segment is left to C. */
static uint64_t span(const struct bt_vcpu *v, const struct cpu_segment *seg, bool write)
{
	bool code = seg->access & 8, rw = seg->access & 2;

	if (bt_protected(v) && (!(seg->access & SEG_ACCESS_P) || (write ? code || !rw : code && !rw)))
		return 0;
	if ((seg->access & (SEG_ACCESS_S | 0xc)) == (SEG_ACCESS_S | 4))
		return 0;
	return (uint64_t)seg->limit + 1;
}

uint32_t bt_segments_key(struct bt_vcpu *v)
{
	const struct cpu_segment *seg = v->cs.seg;
	uint64_t es, ss, ds;
	bool zero = !(seg[SEG_ES].base | seg[SEG_SS].base | seg[SEG_DS].base);
	uint32_t key = 0;

	for (unsigned i = 0; i < SEG_COUNT; i++) {
		v->seg_span[i][0] = span(v, &seg[i], false);
		v->seg_span[i][1] = span(v, &seg[i], true);
	}
	es = v->seg_span[SEG_ES][1];
	ss = v->seg_span[SEG_SS][1];
	ds = v->seg_span[SEG_DS][1];
	/* Only at base 0 does an access past 4 GiB show in the linear address (bt_mem_slow). */
	if (es == 1ull << 32 && ss == es && ds == es && zero)
		key = KEY_BIG;
	else if (es == 0x10000 && ss == es && ds == es)
		key = KEY_64K;
	if (seg[SEG_CS].limit != 0xffffffffu)
		key |= seg[SEG_CS].limit == 0xffff ? KEY_CS_64K : KEY_CS_LIMIT;
	else if (key == KEY_BIG && !seg[SEG_CS].base)
		key |= KEY_FLAT;
	return key;
}

void bt_segment_check(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint32_t a = v->seg_access;

	if (a >> 5 & 1 && bt_fpu_pending())
		bt_raise(v, VEC_MF);
	bt_seg_gva(v, a & 15, v->seg_offset, a >> 8, a >> 4 & 1);
}

uint64_t bt_operand_offset(const struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t offset = (uint64_t)insn->disp;

	if (insn->flags & BT_I_RIP_REL)
		offset += v->cs.rip + insn->len;
	if (insn->base != 0xff)
		offset += v->cs.gpr[insn->base];
	if (insn->index != 0xff)
		offset += v->cs.gpr[insn->index] << insn->scale;
	return offset & bt_size_mask(insn->addrsize);
}

gva_t bt_operand_gva(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes, bool write)
{
	return bt_seg_gva(v, insn->seg, bt_operand_offset(v, insn), bytes, write);
}

/* ---- descriptors ------------------------------------------------------------------------------ */

bool bt_desc_find(struct bt_vcpu *v, uint16_t selector, gva_t *ret_gva)
{
	uint32_t offset = selector & 0xfff8;
	uint64_t base = v->cs.gdtr.base, limit = v->cs.gdtr.limit;

	if (selector & 4) {
		if (!(v->cs.ldtr.access & SEG_ACCESS_P))
			return false;
		base = v->cs.ldtr.base;
		limit = v->cs.ldtr.limit;
	}
	if (offset + 7 > limit)
		return false;
	*ret_gva = base + offset;
	if (!bt_long_mode(v))
		*ret_gva = (uint32_t)*ret_gva;
	return true;
}

struct bt_desc bt_desc_read(struct bt_vcpu *v, uint16_t selector, enum bt_vector vector, unsigned ext)
{
	struct bt_desc d = {0};
	uint64_t raw;
	gva_t gva;

	if (!bt_desc_find(v, selector, &gva))
		bt_raise_error(v, vector, (selector & 0xfffc) | ext);
	raw = bt_load_sys(v, gva, 8);
	d.lo = (uint32_t)raw;
	d.hi = (uint32_t)(raw >> 32);
	return d;
}

void bt_desc_accessed(struct bt_vcpu *v, uint16_t selector, struct bt_desc *d)
{
	gva_t gva;

	if ((d->hi & DESC_ACCESSED) || !bt_desc_find(v, selector, &gva))
		return;
	bt_store_sys(v, gva + 5, (d->hi >> 8 | 1) & 0xff, 1);
	d->hi |= DESC_ACCESSED;
}

/* The upper half of a 16-byte system descriptor in long mode. */
static void desc_read_high(struct bt_vcpu *v, uint16_t selector, struct bt_desc *d)
{
	uint64_t raw;
	gva_t gva;

	if (!bt_desc_find(v, selector, &gva) || (selector & 0xfff8u) + 15 > v->cs.gdtr.limit)
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	raw = bt_load_sys(v, gva + 8, 8);
	if (raw >> 40 & 0x1f)
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	d->base_hi = (uint32_t)raw;
}

struct bt_desc bt_desc_stack(struct bt_vcpu *v, uint16_t selector, unsigned cpl, enum bt_vector vector, unsigned ext)
{
	struct bt_desc d;

	if (bt_null(selector))
		bt_raise_error(v, vector, ext);
	d = bt_desc_read(v, selector, vector, ext);
	if ((selector & 3u) != cpl || DESC_DPL(d) != cpl || !(d.hi & DESC_S) || (d.hi & DESC_CODE) ||
	    !(d.hi & DESC_RW))
		bt_raise_error(v, vector, (selector & 0xfffc) | ext);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_SS, (selector & 0xfffc) | ext);
	bt_desc_accessed(v, selector, &d);
	return d;
}

/* ---- loading segment registers -------------------------------------------------------------------- */

/* Real mode keeps limit and attributes (big real mode); vm86 has them fixed. */
static void sreg_load_real(struct bt_vcpu *v, enum cpu_seg which, uint16_t selector)
{
	struct cpu_segment *seg = &v->cs.seg[which];

	seg->selector = selector;
	seg->base = (uint64_t)selector << 4;
	if (bt_vm86(v)) {
		seg->limit = 0xffff;
		seg->access = 0xf3;
	} else if (!(seg->access & SEG_ACCESS_P)) {
		seg->limit = 0xffff;
		seg->access = 0x93;
	}
}

void bt_sreg_load(struct bt_vcpu *v, enum cpu_seg which, uint16_t selector)
{
	unsigned rpl = selector & 3;
	struct bt_desc d;

	if (!bt_protected(v)) {
		sreg_load_real(v, which, selector);
		return;
	}
	if (bt_null(selector)) {
		if (which == SEG_SS) {
			if (!bt_code64(v) || v->cpl == 3 || rpl != v->cpl)
				bt_raise_error(v, VEC_GP, 0);
			bt_seg_null(&v->cs.seg[SEG_SS], selector);
			v->cs.seg[SEG_SS].access = (uint16_t)(v->cpl << SEG_ACCESS_DPL_SHIFT);
			return;
		}
		bt_seg_null(&v->cs.seg[which], selector);
		return;
	}
	if (which == SEG_SS) {
		d = bt_desc_stack(v, selector, v->cpl, VEC_GP, 0);
	} else {
		d = bt_desc_read(v, selector, VEC_GP, 0);
		if (!(d.hi & DESC_S) || (d.hi & (DESC_CODE | DESC_RW)) == DESC_CODE)
			bt_raise_error(v, VEC_GP, selector & 0xfffc);
		if ((d.hi & (DESC_CODE | DESC_CONFORMING)) != (DESC_CODE | DESC_CONFORMING) &&
		    (DESC_DPL(d) < rpl || DESC_DPL(d) < v->cpl))
			bt_raise_error(v, VEC_GP, selector & 0xfffc);
		if (!(d.hi & DESC_P))
			bt_raise_error(v, VEC_NP, selector & 0xfffc);
		bt_desc_accessed(v, selector, &d);
	}
	bt_seg_fill(&v->cs.seg[which], selector, d);
}

/* A null register stays as it is (its base may have come from an MSR). */
void bt_segs_outer(struct bt_vcpu *v, unsigned cpl)
{
	static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(order); i++) {
		struct cpu_segment *seg = &v->cs.seg[order[i]];
		unsigned dpl = seg->access >> SEG_ACCESS_DPL_SHIFT & 3;

		if (bt_null(seg->selector) || dpl >= cpl)
			continue;
		if ((seg->access & 0xc) != 0xc) /* all but conforming code */
			bt_seg_null(seg, 0);
	}
}

bool bt_code_offset_ok(const struct bt_vcpu *v, struct bt_desc cs, uint64_t offset)
{
	if (bt_long_mode(v) && (cs.hi & DESC_L))
		return bt_canonical(offset);
	return offset <= bt_desc_limit(cs);
}

/* Translations may depend on what was loaded; after a load of SS nothing may interrupt before the next instruction. */
static void sreg_loaded(struct bt_vcpu *v, const struct bt_insn *insn, enum cpu_seg which)
{
	uint32_t key = v->tb_key;

	if (which == SEG_SS) {
		v->cs.interrupt_shadow = 1;
		v->no_trap = true; /* a single-step trap waits for the next instruction's end, too */
	}
	bt_mode_changed(v);
	if (which == SEG_SS || v->tb_key != key)
		bt_resume_next(v, insn);
}

void bt_op_mov_to_sreg(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint16_t selector = (uint16_t)bt_rm(v, insn, 2);

	bt_sreg_load(v, insn->modrm_reg, selector);
	sreg_loaded(v, insn, insn->modrm_reg);
}

void bt_op_mov_from_sreg(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint16_t selector = v->cs.seg[insn->modrm_reg].selector;

	bt_rm_set(v, insn, insn->flags & BT_I_MEM ? 2 : insn->opsize, selector);
}

void bt_op_push_sreg(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_push(v, insn->opsize, v->cs.seg[insn->modrm_reg].selector);
}

void bt_op_pop_sreg(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t mask = bt_sp_mask(v), sp = v->cs.gpr[GPR_RSP];
	uint16_t selector = (uint16_t)bt_load(v, bt_stack_gva(v, sp, 2, false), 2);

	bt_sreg_load(v, insn->modrm_reg, selector);
	bt_sp_set(v, mask, sp + insn->opsize);
	sreg_loaded(v, insn, insn->modrm_reg);
}

void bt_op_load_far(struct bt_vcpu *v, const struct bt_insn *insn)
{
	gva_t gva = bt_operand_gva(v, insn, insn->opsize + 2u, false);
	uint64_t offset = bt_load(v, gva, insn->opsize);
	uint16_t selector = (uint16_t)bt_load(v, gva + insn->opsize, 2);

	bt_sreg_load(v, insn->opreg, selector);
	bt_gpr_set(v, insn->modrm_reg, insn->opsize, offset);
	sreg_loaded(v, insn, insn->opreg);
}

/* ---- descriptor tables ---------------------------------------------------------------------------------- */

static void dtable_load(struct bt_vcpu *v, const struct bt_insn *insn, struct cpu_dtable *table)
{
	unsigned base_bytes = bt_code64(v) ? 8 : 4;
	uint64_t base;
	uint32_t limit;
	gva_t gva;

	bt_need_cpl0(v);
	gva = bt_operand_gva(v, insn, base_bytes + 2, false);
	limit = (uint32_t)bt_load(v, gva, 2);
	base = bt_load(v, gva + 2, base_bytes);
	if (base_bytes == 4 && insn->opsize == 2)
		base &= 0xffffff;
	if (!bt_canonical(base))
		bt_raise_error(v, VEC_GP, 0);
	table->base = base;
	table->limit = limit;
}

static void umip_check(struct bt_vcpu *v)
{
	if ((v->cs.cr4 & CR4_UMIP) && v->cpl)
		bt_raise_error(v, VEC_GP, 0);
}

static void dtable_store(struct bt_vcpu *v, const struct bt_insn *insn, const struct cpu_dtable *table)
{
	unsigned base_bytes = bt_code64(v) ? 8 : 4;
	gva_t gva;

	umip_check(v);
	gva = bt_operand_gva(v, insn, base_bytes + 2, true);
	bt_probe_store(v, gva, base_bytes + 2);
	bt_store(v, gva, table->limit, 2);
	bt_store(v, gva + 2, table->base, base_bytes);
}

void bt_op_lgdt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	dtable_load(v, insn, &v->cs.gdtr);
}

void bt_op_lidt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	dtable_load(v, insn, &v->cs.idtr);
}

void bt_op_sgdt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	dtable_store(v, insn, &v->cs.gdtr);
}

void bt_op_sidt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	dtable_store(v, insn, &v->cs.idtr);
}

static void need_protected(struct bt_vcpu *v)
{
	if (!bt_protected(v))
		bt_raise(v, VEC_UD);
}

void bt_op_sldt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	need_protected(v);
	umip_check(v);
	bt_rm_set(v, insn, insn->flags & BT_I_MEM ? 2 : insn->opsize, v->cs.ldtr.selector);
}

void bt_op_str(struct bt_vcpu *v, const struct bt_insn *insn)
{
	need_protected(v);
	umip_check(v);
	bt_rm_set(v, insn, insn->flags & BT_I_MEM ? 2 : insn->opsize, v->cs.tr.selector);
}

void bt_op_lldt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct cpu_segment seg;
	struct bt_desc d;
	uint16_t selector;

	need_protected(v);
	bt_need_cpl0(v);
	selector = (uint16_t)bt_rm(v, insn, 2);
	if (bt_null(selector)) {
		bt_seg_null(&v->cs.ldtr, selector);
		return;
	}
	if (selector & 4)
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	d = bt_desc_read(v, selector, VEC_GP, 0);
	if ((d.hi & DESC_S) || DESC_TYPE(d) != TYPE_LDT)
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	if (bt_long_mode(v))
		desc_read_high(v, selector, &d);
	bt_seg_fill(&seg, selector, d);
	seg.base |= (uint64_t)d.base_hi << 32;
	if (!bt_canonical(seg.base))
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	v->cs.ldtr = seg;
}

void bt_op_ltr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct cpu_segment seg;
	struct bt_desc d;
	uint16_t selector;
	gva_t gva;

	need_protected(v);
	bt_need_cpl0(v);
	selector = (uint16_t)bt_rm(v, insn, 2);
	if (bt_null(selector))
		bt_raise_error(v, VEC_GP, 0);
	if (selector & 4)
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	d = bt_desc_read(v, selector, VEC_GP, 0);
	if ((d.hi & DESC_S) || !(DESC_TYPE(d) == TYPE_TSS_AVAILABLE ||
				 (DESC_TYPE(d) == TYPE_TSS16_AVAILABLE && !bt_long_mode(v))))
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	if (bt_long_mode(v))
		desc_read_high(v, selector, &d);
	d.hi |= 2u << 8; /* busy */
	bt_seg_fill(&seg, selector, d);
	seg.base |= (uint64_t)d.base_hi << 32;
	if (!bt_canonical(seg.base))
		bt_raise_error(v, VEC_GP, selector & 0xfffc);
	if (bt_desc_find(v, selector, &gva))
		bt_store_sys(v, gva + 5, d.hi >> 8 & 0xff, 1);
	v->cs.tr = seg;
}

/* ---- asking about descriptors: the answer is ZF -------------------------------------------------------------- */

static void set_zf(struct bt_vcpu *v, bool set)
{
	v->flags_ax = (v->flags_ax & ~((uint64_t)BT_ZF << 8)) | (set ? (uint64_t)BT_ZF << 8 : 0);
}

/* The descriptor, if the selector names one at all. */
static bool desc_ask(struct bt_vcpu *v, uint16_t selector, struct bt_desc *ret)
{
	uint64_t raw;
	gva_t gva;

	if (bt_null(selector) || !bt_desc_find(v, selector, &gva))
		return false;
	raw = bt_load_sys(v, gva, 8);
	ret->lo = (uint32_t)raw;
	ret->hi = (uint32_t)(raw >> 32);
	ret->base_hi = 0;
	return true;
}

static bool desc_reachable(const struct bt_vcpu *v, uint16_t selector, struct bt_desc d)
{
	if ((d.hi & (DESC_S | DESC_CODE | DESC_CONFORMING)) == (DESC_S | DESC_CODE | DESC_CONFORMING))
		return true;
	return DESC_DPL(d) >= v->cpl && DESC_DPL(d) >= (selector & 3u);
}

void bt_op_lar(struct bt_vcpu *v, const struct bt_insn *insn)
{
	/* System types LAR accepts (SDM vol. 2, LAR, table 3-54). */
	uint32_t types = bt_long_mode(v) ? 1u << 2 | 1u << 9 | 1u << 11 | 1u << 12 :
					   1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 9 | 1u << 11 | 1u << 12;
	uint16_t selector;
	struct bt_desc d;
	bool ok;

	need_protected(v);
	selector = (uint16_t)bt_rm(v, insn, 2);
	ok = desc_ask(v, selector, &d) && ((d.hi & DESC_S) || (types >> DESC_TYPE(d) & 1)) &&
	     desc_reachable(v, selector, d);
	if (ok)
		bt_gpr_set(v, insn->modrm_reg, insn->opsize, d.hi & 0x00ffff00);
	set_zf(v, ok);
}

void bt_op_lsl(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint32_t types = bt_long_mode(v) ? 1u << 2 | 1u << 9 | 1u << 11 : 1u << 1 | 1u << 2 | 1u << 3 | 1u << 9 | 1u << 11;
	uint16_t selector;
	struct bt_desc d;
	bool ok;

	need_protected(v);
	selector = (uint16_t)bt_rm(v, insn, 2);
	ok = desc_ask(v, selector, &d) && ((d.hi & DESC_S) || (types >> DESC_TYPE(d) & 1)) &&
	     desc_reachable(v, selector, d);
	if (ok)
		bt_gpr_set(v, insn->modrm_reg, insn->opsize, bt_desc_limit(d));
	set_zf(v, ok);
}

void bt_op_verr(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint16_t selector;
	struct bt_desc d;

	need_protected(v);
	selector = (uint16_t)bt_rm(v, insn, 2);
	set_zf(v, desc_ask(v, selector, &d) && (d.hi & DESC_S) &&
			  (d.hi & (DESC_CODE | DESC_RW)) != DESC_CODE && desc_reachable(v, selector, d));
}

void bt_op_verw(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint16_t selector;
	struct bt_desc d;

	need_protected(v);
	selector = (uint16_t)bt_rm(v, insn, 2);
	set_zf(v, desc_ask(v, selector, &d) && (d.hi & DESC_S) && !(d.hi & DESC_CODE) && (d.hi & DESC_RW) &&
			  desc_reachable(v, selector, d));
}

/* ---- FS and GS bases ------------------------------------------------------------------------------------------- */

static void fsgsbase_check(struct bt_vcpu *v)
{
	if (!bt_code64(v) || !(v->cs.cr4 & CR4_FSGSBASE))
		bt_raise(v, VEC_UD);
}

static void fsgsbase_read(struct bt_vcpu *v, const struct bt_insn *insn, enum cpu_seg which)
{
	fsgsbase_check(v);
	bt_gpr_set(v, insn->modrm_rm, insn->opsize, v->cs.seg[which].base);
}

static void fsgsbase_write(struct bt_vcpu *v, const struct bt_insn *insn, enum cpu_seg which)
{
	uint64_t base = bt_gpr(v, insn->modrm_rm, insn->opsize);

	fsgsbase_check(v);
	if (!bt_canonical(base))
		bt_raise_error(v, VEC_GP, 0);
	v->cs.seg[which].base = base;
}

void bt_op_rdfsbase(struct bt_vcpu *v, const struct bt_insn *insn)
{
	fsgsbase_read(v, insn, SEG_FS);
}

void bt_op_rdgsbase(struct bt_vcpu *v, const struct bt_insn *insn)
{
	fsgsbase_read(v, insn, SEG_GS);
}

void bt_op_wrfsbase(struct bt_vcpu *v, const struct bt_insn *insn)
{
	fsgsbase_write(v, insn, SEG_FS);
}

void bt_op_wrgsbase(struct bt_vcpu *v, const struct bt_insn *insn)
{
	fsgsbase_write(v, insn, SEG_GS);
}

void bt_op_swapgs(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t base = v->cs.seg[SEG_GS].base;

	if (!bt_code64(v))
		bt_raise(v, VEC_UD);
	bt_need_cpl0(v);
	v->cs.seg[SEG_GS].base = v->cs.kernel_gs_base;
	v->cs.kernel_gs_base = base;
}
