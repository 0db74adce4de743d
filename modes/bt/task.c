/* Hardware task switches through task-state segments (SDM vol. 3, chapter 8): protected mode only. */
#include "modes/bt/helper.h"

#define TSS32_LIMIT 0x67u
#define TSS16_LIMIT 0x2bu
#define TYPE_BUSY 2u
#define TYPE_32 8u
#define DR7_LOCAL_ENABLES 0x155u

/* Where the parts of a TSS are, by its size. */
struct layout {
	unsigned bytes; /* of each register */
	unsigned ip, flags, gpr, seg, segs, ldt;
};

static const struct layout layout16 = {2, 0x0e, 0x10, 0x12, 0x22, 4, 0x2a};
static const struct layout layout32 = {4, 0x20, 0x24, 0x28, 0x48, 6, 0x60};

#define TSS32_CR3 0x1cu
#define TSS32_TRAP 0x64u

/* What the new task's TSS held, read before anything changes. */
struct image {
	uint64_t ip, flags, gpr[8], cr3;
	uint16_t seg[SEG_COUNT], ldt, link;
	bool trap;
};

static gva_t at(uint64_t base, unsigned offset)
{
	return (uint32_t)(base + offset);
}

/* The TSS descriptor, checked for being available (or busy, for a return). */
static struct bt_desc tss_read(struct bt_vcpu *v, uint16_t selector, enum bt_task_cause cause)
{
	enum bt_vector vector = cause == BT_TASK_IRET ? VEC_TS : VEC_GP;
	struct bt_desc d;
	unsigned type;

	if (bt_null(selector) || (selector & 4))
		bt_raise_error(v, vector, selector & 0xfffc);
	d = bt_desc_read(v, selector, vector, 0);
	type = DESC_TYPE(d);
	if ((d.hi & DESC_S) || (type & ~(TYPE_32 | TYPE_BUSY)) != TYPE_TSS16_AVAILABLE ||
	    !(type & TYPE_BUSY) == (cause == BT_TASK_IRET))
		bt_raise_error(v, vector, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	if (bt_desc_limit(d) < (type & TYPE_32 ? TSS32_LIMIT : TSS16_LIMIT))
		bt_raise_error(v, VEC_TS, selector & 0xfffc);
	return d;
}

static void image_read(struct bt_vcpu *v, uint64_t base, const struct layout *l, struct image *m)
{
	unsigned i;

	m->ip = bt_load_sys(v, at(base, l->ip), l->bytes);
	m->flags = bt_load_sys(v, at(base, l->flags), l->bytes);
	for (i = 0; i < 8; i++)
		m->gpr[i] = bt_load_sys(v, at(base, l->gpr + i * l->bytes), l->bytes);
	for (i = 0; i < SEG_COUNT; i++)
		m->seg[i] = i < l->segs ? (uint16_t)bt_load_sys(v, at(base, l->seg + i * l->bytes), 2) : 0;
	m->ldt = (uint16_t)bt_load_sys(v, at(base, l->ldt), 2);
	m->cr3 = l->bytes == 4 ? bt_load_sys(v, at(base, TSS32_CR3), 4) : v->cs.cr3;
	m->trap = l->bytes == 4 && (bt_load_sys(v, at(base, TSS32_TRAP), 2) & 1);
}

static void image_write(struct bt_vcpu *v, uint64_t base, const struct layout *l, uint64_t ip, uint64_t flags)
{
	unsigned i;

	bt_store_sys(v, at(base, l->ip), ip, l->bytes);
	bt_store_sys(v, at(base, l->flags), flags, l->bytes);
	for (i = 0; i < 8; i++)
		bt_store_sys(v, at(base, l->gpr + i * l->bytes), v->cs.gpr[i], l->bytes);
	for (i = 0; i < l->segs; i++)
		bt_store_sys(v, at(base, l->seg + i * l->bytes), v->cs.seg[i].selector, 2);
}

static void busy_set(struct bt_vcpu *v, uint16_t selector, bool busy)
{
	uint8_t type;
	gva_t gva;

	if (!bt_desc_find(v, selector, &gva))
		return;
	type = (uint8_t)bt_load_sys(v, gva + 5, 1);
	bt_store_sys(v, gva + 5, busy ? type | TYPE_BUSY : type & ~TYPE_BUSY, 1);
}

/* ---- the new task's segments: faults are its own, with #TS --------------------------------------- */

static void load_ldt(struct bt_vcpu *v, uint16_t selector)
{
	struct bt_desc d;

	bt_seg_null(&v->cs.ldtr, selector);
	if (bt_null(selector))
		return;
	if (selector & 4)
		bt_raise_error(v, VEC_TS, selector & 0xfffc);
	d = bt_desc_read(v, selector, VEC_TS, 0);
	if ((d.hi & DESC_S) || DESC_TYPE(d) != TYPE_LDT || !(d.hi & DESC_P))
		bt_raise_error(v, VEC_TS, selector & 0xfffc);
	bt_seg_fill(&v->cs.ldtr, selector, d);
}

static void load_code(struct bt_vcpu *v, uint16_t selector)
{
	unsigned rpl = selector & 3;
	struct bt_desc d;

	if (bt_null(selector))
		bt_raise_error(v, VEC_TS, 0);
	d = bt_desc_read(v, selector, VEC_TS, 0);
	if ((d.hi & (DESC_S | DESC_CODE)) != (DESC_S | DESC_CODE) ||
	    (d.hi & DESC_CONFORMING ? DESC_DPL(d) > rpl : DESC_DPL(d) != rpl))
		bt_raise_error(v, VEC_TS, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	bt_desc_accessed(v, selector, &d);
	bt_seg_fill(&v->cs.seg[SEG_CS], selector, d);
}

static void load_data(struct bt_vcpu *v, enum cpu_seg which, uint16_t selector, unsigned cpl)
{
	unsigned rpl = selector & 3;
	struct bt_desc d;

	if (bt_null(selector))
		return;
	d = bt_desc_read(v, selector, VEC_TS, 0);
	if (!(d.hi & DESC_S) || (d.hi & (DESC_CODE | DESC_RW)) == DESC_CODE ||
	    ((d.hi & (DESC_CODE | DESC_CONFORMING)) != (DESC_CODE | DESC_CONFORMING) &&
	     (DESC_DPL(d) < rpl || DESC_DPL(d) < cpl)))
		bt_raise_error(v, VEC_TS, selector & 0xfffc);
	if (!(d.hi & DESC_P))
		bt_raise_error(v, VEC_NP, selector & 0xfffc);
	bt_desc_accessed(v, selector, &d);
	bt_seg_fill(&v->cs.seg[which], selector, d);
}

static void load_segments(struct bt_vcpu *v, const struct image *m)
{
	static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
	unsigned i, cpl = m->seg[SEG_CS] & 3;

	load_ldt(v, m->ldt);
	if (v->cs.rflags & RFLAGS_VM) {
		for (i = 0; i < SEG_COUNT; i++)
			bt_sreg_load(v, i, m->seg[i]);
		return;
	}
	load_code(v, m->seg[SEG_CS]);
	bt_seg_fill(&v->cs.seg[SEG_SS], m->seg[SEG_SS], bt_desc_stack(v, m->seg[SEG_SS], cpl, VEC_TS, 0));
	for (i = 0; i < ARRAY_SIZE(data); i++)
		load_data(v, data[i], m->seg[data[i]], cpl);
}

void bt_task_switch(struct bt_vcpu *v, uint16_t selector, enum bt_task_cause cause, uint64_t *return_rip)
{
	struct bt_desc d = tss_read(v, selector, cause);
	const struct layout *from = v->cs.tr.access & TYPE_32 ? &layout32 : &layout16;
	const struct layout *to = DESC_TYPE(d) & TYPE_32 ? &layout32 : &layout16;
	uint64_t old_base = v->cs.tr.base, new_base = bt_desc_base(d), flags = bt_rflags(v);
	bool nested = cause == BT_TASK_CALL || cause == BT_TASK_INT;
	uint16_t old_selector = v->cs.tr.selector;
	struct image m;
	unsigned i;

	if (v->cs.tr.limit < (from->bytes == 4 ? TSS32_LIMIT : TSS16_LIMIT))
		bt_raise_error(v, VEC_TS, old_selector & 0xfffc);
	if (cause == BT_TASK_IRET)
		flags &= ~(uint64_t)RFLAGS_NT;
	image_read(v, new_base, to, &m);
	bt_probe_store_sys(v, at(old_base, from->ip), from->ldt - from->ip);
	if (nested)
		bt_probe_store_sys(v, at(new_base, 0), 2);
	image_write(v, old_base, from, *return_rip, flags);
	if (!nested)
		busy_set(v, old_selector, false);
	if (cause != BT_TASK_IRET)
		busy_set(v, selector, true);
	if (nested)
		bt_store_sys(v, at(new_base, 0), old_selector, 2);

	/* From here on faults are the new task's, at its first instruction. */
	bt_seg_fill(&v->cs.tr, selector, d);
	v->cs.tr.access |= TYPE_BUSY;
	if ((v->cs.cr0 & CR0_PG) && m.cr3 != v->cs.cr3) {
		v->cs.cr3 = m.cr3;
		bt_tlb_flush(v, false);
	}
	v->cs.cr0 |= CR0_TS;
	v->cs.dr7 &= ~(uint64_t)DR7_LOCAL_ENABLES;
	bt_debug_registers(v);
	for (i = 0; i < 8; i++)
		v->cs.gpr[i] = to->bytes == 4 ? m.gpr[i] : (v->cs.gpr[i] & 0xffff0000) | m.gpr[i];
	m.flags = (m.flags & 0x3f7fd5) | (nested ? RFLAGS_NT : 0);
	bt_set_rflags(v, m.flags & ~(uint64_t)RFLAGS_RF);
	v->cs.rip = *return_rip = m.ip;
	for (i = 0; i < SEG_COUNT; i++)
		bt_seg_null(&v->cs.seg[i], m.seg[i]);
	v->cs.seg[SEG_SS].access = (uint16_t)((m.seg[SEG_CS] & 3) << SEG_ACCESS_DPL_SHIFT);
	bt_mode_changed(v);
	load_segments(v, &m);
	bt_mode_changed(v);
	if (!(v->cs.rflags & RFLAGS_VM) && m.ip > v->cs.seg[SEG_CS].limit)
		bt_raise_error(v, VEC_GP, 0);
	if (m.trap) {
		v->cs.dr6 |= 1u << 15; /* BT */
		bt_raise(v, VEC_DB);
	}
}
