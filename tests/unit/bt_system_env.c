/* See bt_system_env.h. */
#include "tests/unit/bt_system_env.h"

#include <string.h>

#include "modes/bt/decode.h"

static void no_event(void *opaque, enum machine_event event, unsigned code) {}
static void no_output(void *opaque, unsigned port, const void *bytes, size_t n) {}

const char *env_start(struct env *e)
{
	struct machine_config config = {
		.ram_bytes = ENV_RAM_BYTES, .vcpus = 1, .on_event = no_event, .on_output = no_output,
	};
	const struct ram_region *region;
	uint8_t *low;

	memset(e, 0, sizeof(*e));
	if (machine_create(&config, &e->machine))
		return "no machine could be created";
	if (bt_mode.vm_create(e->machine, &e->vm))
		return "no VM could be created";
	if (bt_mode.vcpu_create(e->vm, 0, &e->vcpu))
		return "no vCPU could be created";
	e->v = ((struct bt_vm *)e->vm)->vcpu[0];
	/* Tests use memory above 1 MiB only; e->ram is indexed by guest-physical address. */
	region = machine_ram_find(e->machine, 1 << 20);
	low = region->host - region->gpa;
	e->ram = low;
	return NULL;
}

void env_stop(struct env *e)
{
	if (e->v)
		bt_fpu_leave(e->v);
	bt_mode.vcpu_destroy(e->vcpu);
	bt_mode.vm_destroy(e->vm);
	machine_destroy(e->machine);
}

static void flat(struct cpu_segment *seg, uint16_t selector, uint16_t access)
{
	seg->selector = selector;
	seg->base = 0;
	seg->limit = 0xffffffff;
	seg->access = access;
}

static uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t access)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(access & 0xf0ff) << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(base >> 24) << 56;
}

static void tables(struct env *e)
{
	memset(e->ram + ENV_GDT, 0, ENV_DATA + 0x10000 - ENV_GDT);
	put64(e, ENV_GDT + (SEL_KCODE64 & ~7), descriptor(0, 0xfffff, 0xa09b));
	put64(e, ENV_GDT + (SEL_KDATA & ~7), descriptor(0, 0xfffff, 0xc093));
	put64(e, ENV_GDT + (SEL_UDATA & ~7), descriptor(0, 0xfffff, 0xc0f2)); /* not yet accessed */
	put64(e, ENV_GDT + (SEL_UCODE64 & ~7), descriptor(0, 0xfffff, 0xa0fb));
	put64(e, ENV_GDT + (SEL_KCODE32 & ~7), descriptor(0, 0xfffff, 0xc09b));
	put64(e, ENV_GDT + (SEL_UCODE32 & ~7), descriptor(0, 0xfffff, 0xc0fb));
	put64(e, ENV_GDT + (SEL_KCODE16 & ~7), descriptor(0, 0xffff, 0x009b));
	put64(e, ENV_GDT + (SEL_KDATA16 & ~7), descriptor(0, 0xffff, 0x0093));
	put64(e, ENV_GDT + (SEL_TSS & ~7), descriptor(ENV_TSS, 0x67, 0x008b));
	put64(e, ENV_GDT + (SEL_DATA_RO & ~7), descriptor(0, 0xfffff, 0xc091));
	put64(e, ENV_GDT + (SEL_NOT_PRESENT & ~7), descriptor(0, 0xfffff, 0xc013));
	put64(e, ENV_GDT + (SEL_EXPAND_DOWN & ~7), descriptor(0, 0xfff, 0x4097));
}

static void common(struct env *e, unsigned cpl)
{
	struct cpu_state *cs = &e->v->cs;

	tables(e);
	bt_fpu_leave(e->v);
	cpu_state_reset(cs, 0);
	cs->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP;
	cs->gdtr.base = ENV_GDT;
	cs->gdtr.limit = 0x7f;
	cs->idtr.base = ENV_IDT;
	*(uint16_t *)(e->ram + ENV_TSS + 0x66) = 0x68; /* no I/O bitmap */
	cs->tr.selector = SEL_TSS;
	cs->tr.base = ENV_TSS;
	cs->tr.limit = 0x67;
	cs->tr.access = 0x8b;
	flat(&cs->seg[SEG_SS], cpl ? SEL_UDATA : SEL_KDATA, cpl ? 0xc0f3 : 0xc093);
	flat(&cs->seg[SEG_DS], cpl ? SEL_UDATA : SEL_KDATA, cpl ? 0xc0f3 : 0xc093);
	flat(&cs->seg[SEG_ES], cpl ? SEL_UDATA : SEL_KDATA, cpl ? 0xc0f3 : 0xc093);
	cs->rip = ENV_CODE;
	cs->gpr[GPR_RSP] = ENV_STACK;
	bt_set_rflags(e->v, 2);
	e->v->kicked = 0;
}

/* 4-level tables that map the first GiB to itself by 2 MiB pages for users. */
void env_long_mode(struct env *e, unsigned cpl)
{
	struct cpu_state *cs = &e->v->cs;
	unsigned i;

	common(e, cpl);
	put64(e, ENV_PML4, (ENV_PML4 + 0x1000) | 7);
	put64(e, ENV_PML4 + 0x1000, (ENV_PML4 + 0x2000) | 7);
	for (i = 0; i < 512; i++)
		put64(e, ENV_PML4 + 0x2000 + i * 8, (uint64_t)i << 21 | 0x87);
	for (i = 0; i < 256; i++) {
		uint64_t offset = ENV_HANDLERS + i * 16;

		put64(e, ENV_IDT + i * 16, (offset & 0xffff) | SEL_KCODE64 << 16 | 0x8e00ull << 32 |
						  (offset & 0xffff0000) << 32);
		put64(e, ENV_IDT + i * 16 + 8, offset >> 32);
	}
	put64(e, ENV_TSS + 4, ENV_RSP0);
	put64(e, ENV_TSS + 36, ENV_IST1);
	cs->idtr.limit = 0xfff;
	cs->cr0 |= CR0_PG;
	cs->cr3 = ENV_PML4;
	cs->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	cs->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	flat(&cs->seg[SEG_CS], cpl ? SEL_UCODE64 : SEL_KCODE64, cpl ? 0xa0fb : 0xa09b);
	bt_tlb_flush(e->v, true);
	bt_mode_changed(e->v);
}

void env_protected(struct env *e, unsigned cpl)
{
	struct cpu_state *cs = &e->v->cs;
	unsigned i;

	common(e, cpl);
	for (i = 0; i < 256; i++) {
		uint64_t offset = ENV_HANDLERS + i * 16;

		put64(e, ENV_IDT + i * 8, (offset & 0xffff) | SEL_KCODE32 << 16 | 0x8e00ull << 32 |
						 (offset & 0xffff0000) << 32);
	}
	put32(e, ENV_TSS + 4, ENV_RSP0);
	put32(e, ENV_TSS + 8, SEL_KDATA);
	cs->idtr.limit = 0x7ff;
	flat(&cs->seg[SEG_CS], cpl ? SEL_UCODE32 : SEL_KCODE32, cpl ? 0xc0fb : 0xc09b);
	bt_tlb_flush(e->v, true);
	bt_mode_changed(e->v);
}

/* Big real mode, so that what the tests have above 1 MiB is in reach. */
void env_real(struct env *e)
{
	struct cpu_state *cs = &e->v->cs;
	unsigned i;

	common(e, 0);
	cs->cr0 = CR0_ET;
	for (i = 0; i < 256; i++)
		put32(e, ENV_IDT + i * 4, 0x1234u << 16 | i * 4);
	cs->idtr.limit = 0x3ff;
	for (i = 0; i < SEG_COUNT; i++) {
		flat(&cs->seg[i], 0, i == SEG_CS ? 0x9b : 0x93);
		cs->seg[i].base = ENV_DATA;
		cs->seg[i].limit = 0xffff;
	}
	cs->seg[SEG_SS].base = ENV_STACK - 0x10000;
	cs->gpr[GPR_RSP] = 0xfff0;
	cs->rip = 0x100;
	bt_tlb_flush(e->v, true);
	bt_mode_changed(e->v);
}

struct call {
	const struct bt_insn *insn;
};

static void call_op(struct bt_vcpu *v, void *arg)
{
	const struct call *c = arg;

	bt_op_table[c->insn->handler](v, c->insn);
}

enum outcome env_op(struct env *e, const uint8_t *code, size_t n)
{
	struct bt_vcpu *v = e->v;
	enum bt_bits bits = bt_code64(v) ? BT_BITS_64 : v->cs.seg[SEG_CS].access & SEG_ACCESS_DB ? BT_BITS_32 : BT_BITS_16;
	struct bt_insn insn;
	struct call c = {&insn};
	int left;

	assert_int_equal(bt_decode(code, n, bits, &insn), BT_DECODE_OK);
	assert_int_equal(insn.len, n);
	assert_int_not_equal(insn.handler, BT_OP_NONE);
	v->exit_reason = BT_EXIT_NONE;
	left = bt_guard(v, call_op, &c);
	bt_fpu_leave(v);
	if (!left) {
		v->cs.rip = bt_next_rip(v, &insn);
		return RAN;
	}
	switch (v->exit_reason) {
	case BT_EXIT_EXCEPTION: return RAISED;
	case BT_EXIT_RESUME: return RESUMED;
	case BT_EXIT_HALT: return HALTED;
	default: return FAILED;
	}
}
