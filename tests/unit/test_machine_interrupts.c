/* 8259 pair, IOAPIC, local APIC, MSI, IPIs: who gets which vector when. */
#include <string.h>

#include "machine/irqchip.h"
#include "tests/unit/machine_fixture.h"

/* ---- 8259 -------------------------------------------------------------------------- */

static void test_pic_vectors_and_eoi(void **state)
{
	struct fixture *f = *state;
	/* LINT0 as ExtINT: virtual wire. */
	lapic_on(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0x350), 0x700);
	pic_program(f, 0xffff);
	assert_int_equal(take(f, 0), -1);
	lines_isa(f, 4, true);
	assert_true(f->kicks[0] > 0);
	assert_int_equal(take(f, 0), 0x24);
	lines_isa(f, 4, false);
	/* A lower priority waits for the EOI, a higher one nests. */
	lines_isa(f, 7, true);
	assert_int_equal(take(f, 0), -1);
	lines_isa(f, 1, true);
	assert_int_equal(take(f, 0), 0x21);
	out8(f, 0x20, 0x20);
	assert_int_equal(take(f, 0), -1);
	out8(f, 0x20, 0x20);
	assert_int_equal(take(f, 0), 0x27);
	out8(f, 0x20, 0x0b);
	assert_int_equal(in8(f, 0x20), 0x80); /* ISR */
	out8(f, 0x20, 0x67);                  /* specific EOI of 7 */
	assert_int_equal(in8(f, 0x20), 0);
}

static void test_pic_slave_and_masks(void **state)
{
	struct fixture *f = *state;
	pic_program(f, 1u << 8 | 1u << 2 | 1u << 12);
	/* With the APIC off, INTR is the 8259's. */
	assert_true(machine_apic_msr_write(f->machine, 0, 0x1b, LAPIC_BASE | LAPIC_BASE_BSP));
	lines_isa(f, 14, true);
	assert_int_equal(take(f, 0), -1); /* masked */
	lines_isa(f, 12, true);
	assert_int_equal(take(f, 0), 0x2c);
	/* A higher input of the slave while the master serves the cascade waits for the master's EOI, and is not lost. */
	lines_isa(f, 8, true);
	assert_int_equal(take(f, 0), -1);
	out8(f, 0x20, 0x20);
	assert_int_equal(take(f, 0), 0x28);
	out8(f, 0xa0, 0x20);
	out8(f, 0x20, 0x20);
	out8(f, 0xa0, 0x20);
	assert_int_equal(take(f, 0), -1);
	/* Unmasking delivers the edge that was latched. */
	out8(f, 0xa1, 0x00);
	assert_int_equal(take(f, 0), 0x2e);
}

static void test_pic_level_and_spurious(void **state)
{
	struct fixture *f = *state;
	pic_program(f, 0xffff);
	assert_true(machine_apic_msr_write(f->machine, 0, 0x1b, LAPIC_BASE | LAPIC_BASE_BSP));
	out8(f, 0x4d1, 0xff);
	assert_int_equal(in8(f, 0x4d1), 0xde); /* RTC and coprocessor are edges for ever */
	lines_isa(f, 10, true);
	assert_int_equal(take(f, 0), 0x2a);
	out8(f, 0xa0, 0x20);
	out8(f, 0x20, 0x20);
	assert_int_equal(take(f, 0), 0x2a); /* still high */
	lines_isa(f, 10, false);
	out8(f, 0xa0, 0x20);
	out8(f, 0x20, 0x20);
	assert_int_equal(take(f, 0), -1);
	/* A level that goes away between INTR and INTA: the spurious vector, without an ISR bit. */
	lines_isa(f, 10, true);
	assert_true(machine_intr_pending(f->machine, 0));
	machine_lock(f->machine);
	irq_isa_set(f->machine, 10, IRQ_SOURCE_ISA, false);
	assert_int_equal(pic_ack(&f->machine->pic), 0x27);
	machine_unlock(f->machine);
	out8(f, 0x20, 0x0b);
	assert_int_equal(in8(f, 0x20), 0);
}

static void test_pic_auto_eoi_rotate_poll(void **state)
{
	struct fixture *f = *state;
	static const uint8_t words[] = { 0x20, 0x04, 0x03 };
	assert_true(machine_apic_msr_write(f->machine, 0, 0x1b, LAPIC_BASE | LAPIC_BASE_BSP));
	out8(f, 0x20, 0x11);
	for (unsigned i = 0; i < sizeof(words); i++)
		out8(f, 0x21, words[i]);
	out8(f, 0x21, 0);
	lines_isa(f, 3, true);
	assert_int_equal(take(f, 0), 0x23);
	out8(f, 0x20, 0x0b);
	assert_int_equal(in8(f, 0x20), 0); /* automatic EOI */
	lines_isa(f, 3, false);
	/* Priority 3 made the lowest: 4 is now the highest. */
	out8(f, 0x20, 0xc3);
	lines_isa(f, 3, true);
	lines_isa(f, 4, true);
	assert_int_equal(take(f, 0), 0x24);
	assert_int_equal(take(f, 0), 0x23);
	lines_isa(f, 6, true);
	out8(f, 0x20, 0x0c);
	assert_int_equal(in8(f, 0x20), 0x86); /* poll acknowledges */
	assert_int_equal(take(f, 0), -1);
}

/* ---- IOAPIC ---------------------------------------------------------------------------- */

static void test_ioapic_registers(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(ioapic_get(f, 1), 23 << 16 | 0x20);
	for (unsigned pin = 0; pin < 24; pin++)
		assert_int_equal(ioapic_get(f, 0x10 + 2 * pin), 0x10000);
	ioapic_put(f, 0x12, 0xffffffff);
	assert_int_equal(ioapic_get(f, 0x12), 0x1afff); /* status and remote IRR are read-only */
	ioapic_put(f, 0, 0x0f000000);
	assert_int_equal(ioapic_get(f, 0), 0x0f000000);
	ioapic_put(f, 0xff, 1);
	assert_int_equal(ioapic_get(f, 0xff), 0);
}

static void test_ioapic_edge(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	lines_isa(f, 4, true);
	ioapic_route(f, 4, 0x44);
	assert_int_equal(take(f, 0), -1); /* the edge came while masked */
	lines_isa(f, 4, false);
	lines_isa(f, 4, true);
	assert_int_equal(take(f, 0), 0x44);
	lines_isa(f, 4, false);
	lines_isa(f, 4, true); /* in service: waits in IRR */
	assert_int_equal(take(f, 0), -1);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), 0x44);
	/* IRQ 0 comes in at pin 2. */
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	ioapic_route(f, 2, 0x52);
	lines_isa(f, 0, true);
	assert_int_equal(take(f, 0), 0x52);
}

static void test_ioapic_level(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 1);
	ioapic_route(f, 9, 1ull << 56 | 0x8000 | 0x59);
	lines_isa(f, 9, true);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x59);
	assert_true(ioapic_get(f, 0x10 + 18) & 0x4000); /* remote IRR */
	assert_true(mmio32(f, 1, LAPIC_AT(0x180 + (0x59 / 32) * 16)) & 1u << (0x59 & 31)); /* TMR */
	mmio32_set(f, 1, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 1), 0x59); /* still high: again */
	lines_isa(f, 9, false);
	mmio32_set(f, 1, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 1), -1);
	assert_false(ioapic_get(f, 0x10 + 18) & 0x4000);
	/* A line that is high when it is unmasked is seen. */
	ioapic_route(f, 9, 1ull << 56 | 0x18000 | 0x59);
	lines_isa(f, 9, true);
	assert_int_equal(take(f, 1), -1);
	ioapic_route(f, 9, 1ull << 56 | 0x8000 | 0x59);
	assert_int_equal(take(f, 1), 0x59);
	/* The EOI register does what a LAPIC's broadcast does. */
	lines_isa(f, 9, false);
	mmio32_set(f, 0, IOAPIC_BASE + 0x40, 0x59);
	assert_false(ioapic_get(f, 0x10 + 18) & 0x4000);
}

static void test_shared_pirq(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	lapic_on(f, 0);
	ioapic_route(f, 20, 0x8000 | 0x61);
	machine_lock(m);
	irq_pirq_change(m, 4, 1);
	irq_pirq_change(m, 4, 1);
	irq_pirq_change(m, 4, -1);
	machine_unlock(m);
	assert_int_equal(take(f, 0), 0x61);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), 0x61); /* the other device still asks */
	machine_lock(m);
	irq_pirq_change(m, 4, -1);
	machine_unlock(m);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), -1);
}

/* ---- local APIC ---------------------------------------------------------------------------- */

static void ipi(struct fixture *f, unsigned from, uint32_t dest, uint32_t low)
{
	mmio32_set(f, from, LAPIC_AT(0x310), dest << 24);
	mmio32_set(f, from, LAPIC_AT(0x300), low);
}

static void test_lapic_priorities(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(mmio32(f, 1, LAPIC_AT(0x20)), 1u << 24);
	ipi(f, 0, 0, 0x4000 | 0x41);
	assert_int_equal(take(f, 0), -1); /* software-disabled */
	lapic_on(f, 0);
	ipi(f, 0, 0, 0x4000 | 0x41);
	ipi(f, 0, 0, 0x4000 | 0x93);
	ipi(f, 0, 0, 0x4000 | 0x47);
	machine_tpr_set(f->machine, 0, 9);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x80)), 0x90);
	unsigned kicks = f->kicks[0];
	machine_tpr_set(f->machine, 0, 4);
	assert_true(f->kicks[0] > kicks);
	assert_int_equal(take(f, 0), 0x93);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0xa0)), 0x90);
	machine_tpr_set(f->machine, 0, 0);
	assert_int_equal(take(f, 0), -1); /* class 4 below class 9 in service */
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), 0x47);
	assert_int_equal(take(f, 0), -1); /* same class */
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), 0x41);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0); /* an EOI too many is harmless */
	assert_int_equal(take(f, 0), -1);
}

static void test_lapic_ipis(void **state)
{
	struct fixture *f = *state;
	uint8_t sipi = 0;
	lapic_on(f, 0);
	lapic_on(f, 1);
	ipi(f, 0, 0, 0x40000 | 0x50); /* self */
	assert_int_equal(take(f, 0), 0x50);
	assert_int_equal(take(f, 1), -1);
	ipi(f, 0, 0, 0xc0000 | 0x61); /* all but self */
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x61);
	ipi(f, 1, 0, 0x80000 | 0x72); /* all */
	assert_int_equal(take(f, 0), 0x72);
	assert_int_equal(take(f, 1), 0x72);
	/* Logical, flat: LDR bits. */
	mmio32_set(f, 0, LAPIC_AT(0xd0), 0x01000000);
	mmio32_set(f, 1, LAPIC_AT(0xd0), 0x02000000);
	ipi(f, 0, 2, 0x800 | 0x83);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x83);
	ipi(f, 0, 3, 0x800 | 0x94);
	assert_int_equal(take(f, 0), 0x94);
	assert_int_equal(take(f, 1), 0x94);
	/* Cluster model: one cluster, members 1 and 2. */
	mmio32_set(f, 0, LAPIC_AT(0xe0), 0);
	mmio32_set(f, 1, LAPIC_AT(0xe0), 0);
	mmio32_set(f, 0, LAPIC_AT(0xd0), 0x31000000);
	mmio32_set(f, 1, LAPIC_AT(0xd0), 0x32000000);
	ipi(f, 0, 0x32, 0x800 | 0xa5);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0xa5);
	ipi(f, 0, 0x42, 0x800 | 0xb5);
	assert_int_equal(take(f, 1), -1);
	/* NMI, INIT, SIPI are events. */
	ipi(f, 0, 1, 0x4400);
	assert_int_equal(machine_vcpu_take_events(f->machine, 1, NULL), MACHINE_VCPU_NMI);
	ipi(f, 0, 1, 0xc500);
	assert_true(machine_vcpu_has_work(f->machine, 1));
	ipi(f, 0, 1, 0x8500); /* de-assert: nothing */
	assert_int_equal(machine_vcpu_take_events(f->machine, 1, &sipi), MACHINE_VCPU_INIT);
	assert_int_equal(mmio32(f, 1, LAPIC_AT(0xf0)), 0xff); /* reset by INIT */
	ipi(f, 0, 1, 0x4600 | 0x9a);
	assert_int_equal(machine_vcpu_take_events(f->machine, 1, &sipi), MACHINE_VCPU_SIPI);
	assert_int_equal(sipi, 0x9a);
	assert_int_equal(machine_vcpu_events(f->machine, 1), 0);
	assert_int_equal(machine_vcpu_events(f->machine, 0), 0);
}

static void test_lapic_lowest_priority(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	lapic_on(f, 1);
	mmio32_set(f, 0, LAPIC_AT(0xd0), 0x01000000);
	mmio32_set(f, 1, LAPIC_AT(0xd0), 0x02000000);
	machine_tpr_set(f->machine, 0, 5);
	ioapic_route(f, 4, 3ull << 56 | 0x900 | 0x66);
	lines_isa(f, 4, true);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x66);
	machine_tpr_set(f->machine, 0, 0);
	assert_int_equal(take(f, 0), -1);
}

static void test_x2apic(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	uint64_t value = 0;
	assert_false(machine_apic_msr_read(m, 0, 0x802, &value));
	assert_true(machine_apic_msr_read(m, 0, 0x1b, &value));
	assert_int_equal(value, 0xfee00900);
	assert_false(machine_apic_msr_write(m, 0, 0x1b, 0xfee00500)); /* x2APIC without enable */
	for (unsigned v = 0; v < 2; v++)
		assert_true(machine_apic_msr_write(m, v, 0x1b, 0xfee00c00 | (v ? 0 : 0x100)));
	assert_false(machine_apic_msr_write(m, 0, 0x1b, 0xfee00900)); /* no way straight back */
	assert_false(machine_apic_msr_write(m, 0, 0x1b, 0xfee00c01)); /* reserved bit */
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x30)), UINT32_MAX);   /* the page is gone */
	assert_true(machine_apic_msr_read(m, 1, 0x802, &value));
	assert_int_equal(value, 1);
	assert_true(machine_apic_msr_read(m, 1, 0x80d, &value));
	assert_int_equal(value, 2);
	for (unsigned v = 0; v < 2; v++)
		assert_true(machine_apic_msr_write(m, v, 0x80f, 0x1ff));
	assert_true(machine_apic_msr_write(m, 0, 0x830, 1ull << 32 | 0x45));
	assert_int_equal(take(f, 1), 0x45);
	assert_true(machine_apic_msr_write(m, 1, 0x80b, 0));
	assert_true(machine_apic_msr_write(m, 0, 0x830, 3ull << 32 | 0x800 | 0x46)); /* logical, both */
	assert_int_equal(take(f, 0), 0x46);
	assert_int_equal(take(f, 1), 0x46);
	assert_true(machine_apic_msr_write(m, 0, 0x83f, 0x99));
	assert_int_equal(take(f, 0), 0x99);
	assert_false(machine_apic_msr_write(m, 0, 0x80b, 1));
	assert_false(machine_apic_msr_write(m, 0, 0x83f, 0x100));
	assert_false(machine_apic_msr_write(m, 0, 0x802, 5));
	assert_false(machine_apic_msr_write(m, 0, 0x80e, 0));
	assert_false(machine_apic_msr_read(m, 0, 0x80e, &value));
	assert_false(machine_apic_msr_write(m, 0, 0x808, 1ull << 40));
	/* Off, then xAPIC again. */
	assert_true(machine_apic_msr_write(m, 0, 0x1b, 0xfee00100));
	assert_true(machine_apic_msr_write(m, 0, 0x1b, 0xfee00900));
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x30)) & 0xff, 0x14);
}

static void test_msi(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	lapic_on(f, 0);
	lapic_on(f, 1);
	machine_msi(m, 0xfee01000, 0x4051);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(take(f, 1), 0x51);
	machine_msi(m, 0xfeeff000, 0x62); /* broadcast */
	assert_int_equal(take(f, 0), 0x62);
	assert_int_equal(take(f, 1), 0x62);
	machine_msi(m, 0xfed01000, 0x73); /* not the interrupt bus */
	machine_msi(m, 0x1fee00000ull, 0x73);
	machine_msi(m, 0xfee00000, 0x0005); /* an illegal vector */
	assert_int_equal(take(f, 0), -1);
	mmio32_set(f, 0, LAPIC_AT(0x280), 0);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x280)), 0x40);
	machine_msi(m, 0xfee00000, 0x0400);
	assert_int_equal(machine_vcpu_take_events(m, 0, NULL), MACHINE_VCPU_NMI);
}

static void test_nmi_button(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	lapic_on(f, 1);
	mmio32_set(f, 0, LAPIC_AT(0x360), 0x400);
	machine_inject_nmi(f->machine);
	assert_int_equal(machine_vcpu_take_events(f->machine, 0, NULL), MACHINE_VCPU_NMI);
	assert_int_equal(machine_vcpu_events(f->machine, 1), 0); /* its LINT1 is masked */
}

/* ---- the promise of machine.h about vector registers -------------------------------------------- */

static uint8_t xmm_before[16][16], xmm_after[16][16];

/* Calls fn(a, b, c, d) between loading all vector registers and storing them again. */
static uint64_t call_with_xmm(void *fn, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	uint64_t ret;
	register uint64_t fourth __asm__("rcx") = d;
	__asm__ volatile(
		"mov %%rsp, %%r14\n\tsub $256, %%rsp\n\tand $-64, %%rsp\n\t" /* past the red zone */
		"lea %[before], %%r12\n\tlea %[after], %%r13\n\t"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\tmovdqu \\n*16(%%r12), %%xmm\\n\n\t.endr\n\t"
		"call *%%rax\n\t"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n\tmovdqu %%xmm\\n, \\n*16(%%r13)\n\t.endr\n\t"
		"mov %%r14, %%rsp"
		: "=a"(ret), "+D"(a), "+S"(b), "+d"(c), "+r"(fourth), [after] "=m"(xmm_after)
		: "a"(fn), [before] "m"(xmm_before)
		: "r8", "r9", "r10", "r11", "r12", "r13", "r14", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
		  "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return ret;
}

static void test_vector_registers_untouched(void **state)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
	skip(); /* the sanitizers' own code uses them */
#endif
	struct fixture *f = *state;
	uint64_t m = (uint64_t)(uintptr_t)f->machine, value = 0, far = UINT64_MAX / 2;
	const struct machine_hooks none = { 0 }; /* the fixture's own callbacks promise nothing */
	for (unsigned i = 0; i < sizeof(xmm_before); i++)
		((uint8_t *)xmm_before)[i] = (uint8_t)(i * 37 + 11);
	lapic_on(f, 0);
	ioapic_route(f, 9, 0x8000 | 0x59);
	pic_program(f, 0xffff);
	machine_set_hooks(f->machine, &none);
	for (unsigned v = 0; v < 2; v++) {
		assert_true(machine_apic_msr_write(f->machine, v, 0x1b, 0xfee00c00 | (v ? 0 : 0x100)));
		assert_true(machine_apic_msr_write(f->machine, v, 0x80f, 0x1ff));
		assert_true(machine_apic_msr_write(f->machine, v, 0x832, 0x40070));
	}
	lines_isa(f, 9, true); /* taken below, with its EOI broadcast */
	const struct {
		void *fn;
		uint64_t b, c, d;
	} calls[] = {
		{ machine_apic_msr_write, 0, 0x6e0, machine_tsc_khz(f->machine) * 3600000 },
		{ machine_apic_msr_write, 0, 0x6e0, 1 },
		{ machine_apic_msr_write, 0, 0x6e0, far },
		{ machine_apic_msr_write, 0, 0x830, 1ull << 32 | 0x46 },
		{ machine_apic_msr_write, 0, 0x830, 0xc0047 },
		{ machine_apic_msr_write, 0, 0x83f, 0x48 },
		{ machine_apic_msr_read, 0, 0x839, (uintptr_t)&value },
		{ machine_intr_pending, 0, 0, 0 },
		{ machine_intr_ack, 0, 0, 0 },
		{ machine_apic_msr_write, 0, 0x80b, 0 },
		{ machine_intr_ack, 0, 0, 0 },
		{ machine_apic_msr_write, 0, 0x80b, 0 },
		{ machine_intr_ack, 0, 0, 0 },
		{ machine_apic_msr_write, 0, 0x80b, 0 },
		{ machine_intr_ack, 0, 0, 0 },
		{ machine_apic_msr_write, 0, 0x80b, 0 },
		{ machine_tpr_set, 0, 7, 0 },
		{ machine_tpr_get, 0, 0, 0 },
		{ machine_vcpu_has_work, 0, 0, 0 },
		{ machine_vcpu_wake, 0, 0, 0 },
		{ machine_vcpu_wait, 0, 0, 0 },
		{ machine_vcpu_take_events, 0, 0, 0 },
		{ machine_clock_ns, 0, 0, 0 },
		{ machine_tsc_offset, 0, 0, 0 },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
		memset(xmm_after, 0, sizeof(xmm_after));
		call_with_xmm(calls[i].fn, m, calls[i].b, calls[i].c, calls[i].d);
		if (memcmp(xmm_before, xmm_after, sizeof(xmm_before)))
			print_error("call %u\n", i);
		assert_memory_equal(xmm_before, xmm_after, sizeof(xmm_before));
	}
	/* The level-triggered one was among what was served. */
	assert_true(f->machine->lapic[0].eois >= 4);
	assert_true(f->machine->ioapic.delivered[9] >= 2);
}

/* ---- controllers of an engine's own (machine/irqchip.h) ---------------------------------------------- */

static void test_state_out_and_in(void **state)
{
	struct fixture *f = *state;
	struct irqchip_state chips;
	struct irqchip_lapic lapic;

	lapic_on(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0x350), 0x700); /* LINT0: ExtINT */
	mmio32_set(f, 0, LAPIC_AT(0x80), 0x20);
	pic_program(f, 1u << 4);
	ioapic_route(f, 5, 0x8055); /* level-triggered */
	/* One in service, one in IRR, one latched in the 8259, a timer under way. */
	ipi(f, 0, 0, 0x40090);
	assert_int_equal(take(f, 0), 0x90);
	lines_isa(f, 5, true);
	lines_isa(f, 4, true);
	mmio32_set(f, 0, LAPIC_AT(0x3e0), 0xb);
	mmio32_set(f, 0, LAPIC_AT(0x320), 0x66);
	mmio32_set(f, 0, LAPIC_AT(0x380), 4000000000u);

	machine_irqchip_get(f->machine, &chips);
	machine_lapic_get(f->machine, 0, &lapic);
	assert_int_equal(chips.pic_lines, 1u << 4 | 1u << 5);
	assert_int_equal(chips.ioapic_lines, 1u << 4 | 1u << 5);
	machine_irqchip_idle(f->machine);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x390)), 0);
	mmio32_set(f, 0, LAPIC_AT(0x80), 0xf0);
	mmio32_set(f, 0, LAPIC_AT(0x350), 0x10000);
	ioapic_route(f, 5, 0x10000);

	machine_lapic_set(f->machine, 0, &lapic);
	machine_irqchip_set(f->machine, &chips);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x80)), 0x20);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0x140)), 1u << 16);
	assert_int_equal(ioapic_get(f, 0x10 + 10), 0xc055);
	assert_in_range(mmio32(f, 0, LAPIC_AT(0x390)), 1, 4000000000u);
	/* The 8259's passes the LAPIC by; the other waits for the one in service. */
	assert_int_equal(take(f, 0), 0x24);
	assert_int_equal(take(f, 0), -1);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), 0x55);
	lines_isa(f, 5, false);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), -1);
}

static void test_x2apic_and_deadline_out_and_in(void **state)
{
	struct fixture *f = *state;
	struct irqchip_lapic lapic;
	uint64_t value, deadline = __builtin_ia32_rdtsc() + machine_tsc_offset(f->machine) + 3600 * 1000 * machine_tsc_khz(f->machine);

	assert_true(machine_apic_msr_write(f->machine, 1, 0x1b, LAPIC_BASE | 0xc00));
	assert_true(machine_apic_msr_write(f->machine, 1, 0x80f, 0x1ff));
	assert_true(machine_apic_msr_write(f->machine, 1, 0x832, 0x40077));
	assert_true(machine_apic_msr_write(f->machine, 1, 0x6e0, deadline));
	assert_true(machine_apic_msr_write(f->machine, 1, 0x830, 0x100004033)); /* to itself */
	machine_lapic_get(f->machine, 1, &lapic);
	machine_reset(f->machine);
	machine_lapic_set(f->machine, 1, &lapic);
	assert_true(machine_apic_msr_read(f->machine, 1, 0x6e0, &value));
	assert_int_equal(value, deadline);
	assert_true(machine_apic_msr_read(f->machine, 1, 0x80d, &value));
	assert_int_equal(value, 2); /* LDR: cluster 0, bit 1 */
	assert_true(machine_apic_msr_read(f->machine, 1, 0x830, &value));
	assert_int_equal(value, 0x100004033);
	assert_int_equal(take(f, 1), 0x33);
}

struct engine {
	unsigned pic, ioapic, msis, paused, resumed;
	bool running_when_resumed;
	struct machine *machine;
};

static void engine_pic(void *opaque, unsigned input, bool level) { ((struct engine *)opaque)->pic = input << 8 | level; }
static void engine_ioapic(void *opaque, unsigned pin, bool level) { ((struct engine *)opaque)->ioapic = pin << 8 | level; }
static void engine_msi(void *opaque, uint64_t address, uint32_t data) { ((struct engine *)opaque)->msis += data; }
static void engine_paused(void *opaque) { ((struct engine *)opaque)->paused++; }
static void engine_resumed(void *opaque)
{
	struct engine *e = opaque;
	e->resumed++;
	e->running_when_resumed = !e->machine->clock.paused;
}

static void test_lines_of_an_engine(void **state)
{
	struct fixture *f = *state;
	struct engine e = { .machine = f->machine };
	const struct machine_hooks hooks = { .pic_line = engine_pic, .ioapic_line = engine_ioapic, .msi = engine_msi,
					     .paused = engine_paused, .resumed = engine_resumed, .opaque = &e };

	lapic_on(f, 0);
	mmio32_set(f, 0, LAPIC_AT(0x350), 0x700);
	pic_program(f, 0xffff);
	ioapic_route(f, 4, 0x44);
	machine_set_hooks(f->machine, &hooks);
	lines_isa(f, 4, true);
	assert_int_equal(e.pic, 0x401);
	assert_int_equal(e.ioapic, 0x401);
	machine_msi(f->machine, LAPIC_BASE, 0x4051);
	assert_int_equal(e.msis, 0x4051);
	machine_msi(f->machine, 0x1000, 0x4051); /* memory, not the interrupt bus */
	assert_int_equal(e.msis, 0x4051);
	assert_int_equal(take(f, 0), -1);
	/* Its LAPICs know what LINT1 does. */
	machine_inject_nmi(f->machine);
	assert_int_equal(machine_vcpu_take_events(f->machine, 1, NULL), MACHINE_VCPU_NMI);
	machine_pause(f->machine);
	assert_int_equal(e.paused, 1);
	machine_resume(f->machine);
	assert_int_equal(e.resumed, 1);
	assert_true(e.running_when_resumed);
}

static void test_reset_clears(void **state)
{
	struct fixture *f = *state;
	lapic_on(f, 0);
	ioapic_route(f, 4, 0x44);
	lines_isa(f, 4, true);
	assert_true(machine_intr_pending(f->machine, 0));
	machine_reset(f->machine);
	assert_int_equal(take(f, 0), -1);
	assert_int_equal(mmio32(f, 0, LAPIC_AT(0xf0)), 0xff);
	assert_int_equal(ioapic_get(f, 0x10 + 8), 0x10000);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_pic_vectors_and_eoi), T(test_pic_slave_and_masks), T(test_pic_level_and_spurious),
		T(test_pic_auto_eoi_rotate_poll), T(test_ioapic_registers), T(test_ioapic_edge), T(test_ioapic_level),
		T(test_shared_pirq), T(test_lapic_priorities), T(test_lapic_ipis), T(test_lapic_lowest_priority),
		T(test_x2apic), T(test_msi), T(test_nmi_button),
		T(test_vector_registers_untouched), T(test_state_out_and_in), T(test_x2apic_and_deadline_out_and_in),
		T(test_lines_of_an_engine), T(test_reset_clears),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
