/* Port I/O and memory-mapped I/O: sizes, strings, read-modify-writes, vectors, and faults next to a device. */
#include "k.h"

#define VA TEST_VA
#define NO_PORT 0x2f0 /* nobody answers there */

/* ---- ports ------------------------------------------------------------------------------ */

static void port_sizes(void)
{
	/* PCI's address register: 32 bits wide, only as a whole. */
	outl(0xcf8, 0x80000000);
	SAME(inl(0xcf8), 0x80000000);
	uint32_t id = inl(0xcfc);
	CHECK(id != 0xffffffff && id != 0);
	SAME(inw(0xcfc), id & 0xffff);
	SAME(inw(0xcfe), id >> 16);
	SAME(inb(0xcfd), id >> 8 & 0xff);
	SAME(inb(0xcff), id >> 24);
	outl(0xcf8, 0x8000ff00); /* no such device */
	SAME(inl(0xcfc), 0xffffffff);
	outl(0xcf8, 0);
	SAME(inb(NO_PORT), 0xff);
	SAME(inw(NO_PORT), 0xffff);
	SAME(inl(NO_PORT), 0xffffffff);
	outb(NO_PORT, 1);
	outw(NO_PORT, 1);
	outl(NO_PORT, 1);
	/* CMOS by halves. */
	outb(0x70, 0x0f);
	uint8_t saved = inb(0x71);
	outb(0x71, 0x5a);
	outb(0x70, 0x0f);
	SAME(inb(0x71), 0x5a);
	outb(0x70, 0x0f);
	outb(0x71, saved);
	/* The UART's scratch register. */
	outb(0x3ff, 0xa5);
	SAME(inb(0x3ff), 0xa5);
	/* A 16-bit write to two byte ports is two byte writes: the modem status takes none, scratch does. */
	outw(0x3fe, 0xc377);
	SAME(inb(0x3ff), 0xc3);
}

CODE(p_in8, "inb %dx, %al\n\t" DONE);
CODE(p_in16, "inw %dx, %ax\n\t" DONE);
CODE(p_in32, "inl %dx, %eax\n\t" DONE);

static void port_registers(void)
{
	struct regs r;

	r = regs0(p_in8);
	r.rax = 0x1122334455667788;
	r.rdx = 0xabcd0000 | NO_PORT;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x11223344556677ff);
	r = regs0(p_in16);
	r.rax = 0x1122334455667788;
	r.rdx = NO_PORT;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0x112233445566ffff);
	r = regs0(p_in32);
	r.rax = 0x1122334455667788;
	r.rdx = NO_PORT;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rax, 0xffffffff);
}

CODE(p_insb, "rep insb\n\t" DONE);
CODE(p_insw, "rep insw\n\t" DONE);
CODE(p_insl, "insl\n\t" DONE);
CODE(p_outsb, "rep outsb\n\t" DONE);
CODE(p_outsl, "rep outsl\n\t" DONE);

static void port_strings(void)
{
	uint8_t *page = page_alloc();
	struct regs r;

	outb(0x3ff, 0x3c);
	r = regs0(p_insb);
	r.rdx = 0x3ff;
	r.rdi = (uint64_t)page + 5;
	r.rcx = 100;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rcx, 0);
	SAME(r.rdi, (uint64_t)page + 105);
	SAME(page[4], 0);
	SAME(page[5], 0x3c);
	SAME(page[104], 0x3c);
	SAME(page[105], 0);
	/* Backwards. */
	r = regs0(p_insw);
	r.rflags |= FLAG_DF;
	r.rdx = NO_PORT;
	r.rdi = (uint64_t)page + 200;
	r.rcx = 3;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rdi, (uint64_t)page + 194);
	SAME(*(uint16_t *)(page + 196), 0xffff);
	SAME(page[195], 0);
	SAME(page[202], 0);
	/* Out: the last one sticks. */
	for (unsigned i = 0; i < 10; i++)
		page[i] = (uint8_t)(i + 1);
	r = regs0(p_outsb);
	r.rdx = 0x3ff;
	r.rsi = (uint64_t)page;
	r.rcx = 10;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rsi, (uint64_t)page + 10);
	SAME(inb(0x3ff), 10);
	r = regs0(p_outsl);
	r.rdx = 0xcf8;
	r.rsi = (uint64_t)page + 500;
	*(uint32_t *)(page + 500) = 0x80001234 & ~3u;
	r.rcx = 1;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(inl(0xcf8), 0x80001234 & ~3u);
	outl(0xcf8, 0);
	/* The destination ends in the middle of a page and of an element. */
	map(VA, page, PTE_P | PTE_W);
	r = regs0(p_insw);
	r.rdx = NO_PORT;
	r.rdi = VA + PAGE - 5;
	r.rcx = 10;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rcx, 8);
	SAME(r.rdi, VA + PAGE - 1);
	SAME(r.cr2, VA + PAGE);
	SAME(page[PAGE - 1], 0);
	SAME(page[PAGE - 2], 0xff);
	r = regs0(p_insl);
	r.rdx = NO_PORT;
	r.rdi = VA + PAGE;
	EXPECT(run_regs(&r), EX_PF(PF_W));
	SAME(r.rdi, VA + PAGE);
	r = regs0(p_outsb);
	r.rdx = 0x3ff;
	r.rsi = VA + PAGE - 1;
	r.rcx = 2;
	page[PAGE - 1] = 0x66;
	EXPECT(run_regs(&r), EX_PF(0));
	SAME(r.rcx, 1);
	SAME(inb(0x3ff), 0x66);
}

/* ---- memory-mapped devices ------------------------------------------------------------------- */

#define TIMER (LAPIC + LAPIC_LVT_TIMER) /* vector, mask and mode bits: a register that only remembers */
#define PUT(v) lapic_write(LAPIC_LVT_TIMER, v)
#define GET() lapic_read(LAPIC_LVT_TIMER)

CODE(m_or, "orl %esi, (%rdi)\n\t" DONE);
CODE(m_and, "andl %esi, (%rdi)\n\t" DONE);
CODE(m_add, "addl %esi, (%rdi)\n\t" DONE);
CODE(m_lock_add, "lock addl %esi, (%rdi)\n\t" DONE);
CODE(m_xchg, "xchgl %esi, (%rdi)\n\t" DONE);
CODE(m_xadd, "lock xaddl %esi, (%rdi)\n\t" DONE);
CODE(m_cmpxchg, "mov $0x10050, %eax\n\tlock cmpxchgl %esi, (%rdi)\n\t" DONE);
CODE(m_inc, "incl (%rdi)\n\t" DONE);
CODE(m_shl, "shll $1, (%rdi)\n\t" DONE);
CODE(m_bts, "btsl $1, (%rdi)\n\t" DONE);
CODE(m_not, "notl (%rdi)\n\t" DONE);
CODE(m_mov_imm, "movl $0x10066, (%rdi)\n\t" DONE);
CODE(m_movnti, "movnti %esi, (%rdi)\n\t" DONE);
CODE(m_movd, "movd %esi, %xmm0\n\tmovd %xmm0, (%rdi)\n\t" DONE);
CODE(m_pop, "push %rsi\n\tmov $4, %ecx\n\tpushw $0\n\tpopw %cx\n\tpop %rsi\n\tmov %esi, (%rdi)\n\t" DONE);
CODE(m_stos, "mov %esi, %eax\n\tstosl\n\t" DONE);
CODE(m_movs, "push %rsi\n\tmov %rsp, %rsi\n\tmovsl\n\tpop %rsi\n\t" DONE);
CODE(m_fst, "push %rsi\n\tflds (%rsp)\n\tfstps (%rdi)\n\tpop %rsi\n\t" DONE);

static void read_modify_writes(void)
{
	static const struct {
		const char *name;
		const void *code;
		uint32_t before, rsi, after;
		uint64_t rsi_after; /* ~0: the same */
	} rows[] = {
		{"or", m_or, 0x10050, 7, 0x10057, ~0ul}, {"and", m_and, 0x10057, 0x100f0, 0x10050, ~0ul}, {"add", m_add, 0x10050, 3, 0x10053, ~0ul},
		{"lock add", m_lock_add, 0x10050, 4, 0x10054, ~0ul}, {"xchg", m_xchg, 0x10050, 0x10061, 0x10061, 0x10050},
		{"xadd", m_xadd, 0x10050, 5, 0x10055, 0x10050}, {"cmpxchg", m_cmpxchg, 0x10050, 0x10062, 0x10062, ~0ul},
		{"cmpxchg that fails", m_cmpxchg, 0x10051, 0x10062, 0x10051, ~0ul}, {"inc", m_inc, 0x10050, 0, 0x10051, ~0ul},
		{"shl", m_shl, 0x10021, 0, 0x20042 & 0x300ff, ~0ul}, {"bts", m_bts, 0x10050, 0, 0x10052, ~0ul},
		{"mov imm", m_mov_imm, 0x10050, 0, 0x10066, ~0ul}, {"movnti", m_movnti, 0x10050, 0x10067, 0x10067, ~0ul},
		{"movd", m_movd, 0x10050, 0x10068, 0x10068, ~0ul}, {"mov", m_pop, 0x10050, 0x10069, 0x10069, ~0ul},
		{"stos", m_stos, 0x10050, 0x1006a, 0x1006a, ~0ul}, {"movs", m_movs, 0x10050, 0x1006b, 0x1006b, ~0ul},
	};
	uint8_t *alias = (uint8_t *)VA;

	interrupts_reset();
	__asm__ volatile("fninit");
	map(VA, (void *)LAPIC, PTE_P | PTE_W | PTE_U | PTE_PCD);
	for (unsigned ring = 0; ring <= 3; ring += 3)
		for (unsigned times = 0; times < 2; times++)
			for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
				struct regs r = ring ? regs3(rows[i].code) : regs0(rows[i].code);
				uint64_t ex;

				PUT(rows[i].before);
				r.rdi = (uint64_t)alias + LAPIC_LVT_TIMER;
				r.rsi = rows[i].rsi;
				ex = run_regs(&r);
				if (ex != EX_DONE || GET() != rows[i].after)
					test_failure(__FILE__, __LINE__, "%s: %s, 0x%x, not 0x%x", rows[i].name, ex_name(ex), GET(), rows[i].after);
				if (rows[i].code != m_movs && r.rsi != (rows[i].rsi_after == ~0ul ? rows[i].rsi : rows[i].rsi_after))
					test_failure(__FILE__, __LINE__, "%s: the register is 0x%lx", rows[i].name, r.rsi);
			}
	PUT(0x10000);
}

CODE(d_add, "addl (%rdi), %esi\n\t" DONE);
CODE(d_cmp, "cmpl %esi, (%rdi)\n\tsetz %al\n\t" DONE);
CODE(d_test, "testl $0x10000, (%rdi)\n\tsetnz %al\n\t" DONE);
CODE(d_movsx, "movslq (%rdi), %rax\n\t" DONE);
CODE(d_movd, "movd (%rdi), %xmm0\n\tmovd %xmm0, %eax\n\t" DONE);
CODE(d_movss, "movss (%rdi), %xmm0\n\tmovd %xmm0, %eax\n\t" DONE);
CODE(d_imul, "imul $2, (%rdi), %eax\n\t" DONE);
CODE(d_push, "push %rbx\n\tmov (%rdi), %ebx\n\tmov %ebx, %eax\n\tpop %rbx\n\t" DONE);
CODE(d_lods, "mov %rdi, %rsi\n\tlodsl\n\t" DONE);
CODE(d_movs, "mov %rdi, %rsi\n\tlea -64(%rsp), %rdi\n\tmovsl\n\tmov -64(%rsp), %eax\n\t" DONE);
CODE(d_bt, "btl $16, (%rdi)\n\tsetc %al\n\t" DONE);
CODE(d_cmov, "xor %eax, %eax\n\tcmovz (%rdi), %eax\n\t" DONE);
CODE(d_popcnt, "bsf (%rdi), %eax\n\t" DONE);

static void reads(void)
{
	static const struct {
		const char *name;
		const void *code;
		uint64_t want;
	} rows[] = {
		{"cmp", d_cmp, 1}, {"test", d_test, 1}, {"movsx", d_movsx, 0x10054}, {"movd", d_movd, 0x10054},
		{"movss", d_movss, 0x10054}, {"imul", d_imul, 0x200a8}, {"mov", d_push, 0x10054}, {"lods", d_lods, 0x10054}, {"movs", d_movs, 0x10054},
		{"bt", d_bt, 1}, {"cmov", d_cmov, 0x10054}, {"bsf", d_popcnt, 2},
	};

	interrupts_reset();
	PUT(0x10054);
	for (unsigned times = 0; times < 2; times++)
		for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
			struct regs r = regs0(rows[i].code);
			uint64_t ex;

			r.rdi = TIMER;
			r.rsi = 0x10054;
			ex = run_regs(&r);
			if (ex != EX_DONE || r.rax != rows[i].want)
				test_failure(__FILE__, __LINE__, "%s: %s, 0x%lx, not 0x%lx", rows[i].name, ex_name(ex), r.rax, rows[i].want);
		}
	struct regs r = regs0(d_add);
	r.rdi = TIMER;
	r.rsi = 1;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rsi, 0x10055);
	PUT(0x10000);
}

/* The ROM under 4 GiB, or nothing there: whatever it is, every size reads the same bytes. */
CODE(v_16, "movups (%rdi), %xmm0\n\tmovups %xmm0, (%rsi)\n\t" DONE);
CODE(v_16a, "movaps (%rdi), %xmm0\n\tmovups %xmm0, (%rsi)\n\t" DONE);
CODE(v_32, "vmovups (%rdi), %ymm0\n\tvmovups %ymm0, (%rsi)\n\tvzeroupper\n\t" DONE);
CODE(v_10, "fldt (%rdi)\n\tfstpt (%rsi)\n\t" DONE);
CODE(v_write16, "pcmpeqd %xmm0, %xmm0\n\tmovups %xmm0, (%rdi)\n\t" DONE);
CODE(v_rep, "rep movsb\n\t" DONE);
CODE(v_rep4, "rep movsl\n\t" DONE);

static void wide_reads(void)
{
	uint64_t at = 0xffffffe0;
	uint8_t bytes[32], *got = page_alloc();
	struct regs r;

	for (unsigned i = 0; i < 32; i++)
		bytes[i] = *(volatile uint8_t *)(at + i);
	for (unsigned i = 0; i < 32; i += 2)
		SAME(*(volatile uint16_t *)(at + i), *(uint16_t *)(bytes + i));
	for (unsigned i = 0; i <= 24; i++) {
		SAME(*(volatile uint32_t *)(at + i), *(uint32_t *)(bytes + i));
		SAME(*(volatile uint64_t *)(at + i), *(uint64_t *)(bytes + i));
	}
	r = regs0(v_16);
	r.rdi = at + 3;
	r.rsi = (uint64_t)got;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(memcmp(got, bytes + 3, 16), 0);
	r = regs0(v_16a);
	r.rdi = at;
	r.rsi = (uint64_t)got;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(memcmp(got, bytes, 16), 0);
	r = regs0(v_rep);
	r.rsi = at;
	r.rdi = (uint64_t)got;
	r.rcx = 32;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(memcmp(got, bytes, 32), 0);
	if (cpu_has(1, 2, 28)) {
		cr4_set(cr4_get() | CR4_OSXSAVE);
		__asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
		memset(got, 0, 32);
		r = regs0(v_32);
		r.rdi = at;
		r.rsi = (uint64_t)got;
		EXPECT(run_regs(&r), EX_DONE);
		SAME(memcmp(got, bytes, 32), 0);
	}
	/* Writes to it are lost, or it is flash and takes no command from ones. */
	EXPECT(run0(v_write16, at), EX_DONE);
	for (unsigned i = 0; i < 32; i++)
		SAME(*(volatile uint8_t *)(at + i), bytes[i]);
	/* Unclaimed space reads as ones. */
	SAME(*(volatile uint64_t *)0xfe000000, ~0ul);
	SAME(*(volatile uint8_t *)0xfe000123, 0xff);
	*(volatile uint64_t *)0xfe000000 = 0;
	SAME(*(volatile uint64_t *)0xfe000000, ~0ul);
}

/* RAM in front, a device behind, and the reverse; and a device in front of nothing. */
static void next_to_a_device(void)
{
	uint8_t *ram = page_alloc();
	uint32_t version;

	interrupts_reset();
	version = lapic_read(LAPIC_VERSION);
	map(VA, ram, PTE_P | PTE_W);
	map(VA + PAGE, (void *)LAPIC, PTE_P | PTE_W | PTE_PCD);
	map(VA + 2 * PAGE, ram, 0);
	memset(ram, 0x5a, PAGE);
	/* Registers are 16 bytes apart; those at 0 and beyond the last one read as something harmless. */
	EXPECT(read0(VA + PAGE - 4, 8), EX_DONE);
	SAME((uint32_t)last_value, 0x5a5a5a5a);
	EXPECT(write0(VA + PAGE - 4, 8), EX_DONE);
	SAME(*(uint32_t *)(ram + PAGE - 4), 0x55667788);
	/* A missing page behind the device: the fault comes, and nothing was written. */
	EXPECT(write0(VA + 2 * PAGE - 4, 8), EX_PF(PF_W));
	SAME(last_cr2, VA + 2 * PAGE);
	EXPECT(read0(VA + 2 * PAGE - 2, 4), EX_PF(0));
	SAME(lapic_read(LAPIC_VERSION), version);
	/* rep movs from a device into a page that cannot be written: what was read is not read again, or does not matter. */
	struct regs r = regs0(v_rep4);
	r.rsi = VA + PAGE + LAPIC_VERSION;
	r.rdi = VA + PAGE - 4;
	map(VA + PAGE, (void *)LAPIC, PTE_P | PTE_PCD);
	r.rcx = 2;
	EXPECT(run_regs(&r), EX_PF(PF_P | PF_W));
	SAME(r.rcx, 1);
	SAME(r.cr2, VA + PAGE);
	SAME(*(uint32_t *)(ram + PAGE - 4), version);
	/* Permissions hold for devices too. */
	EXPECT(write0(VA + PAGE + LAPIC_TPR, 4), EX_PF(PF_P | PF_W));
	EXPECT(read3(VA + PAGE + LAPIC_TPR, 4), EX_PF(PF_P | PF_U));
	/* D and A of a device's page. */
	uint64_t *e = map(VA + PAGE, (void *)LAPIC, PTE_P | PTE_W | PTE_PCD);
	SAME(lapic_read(LAPIC_TPR), 0);
	EXPECT(read0(VA + PAGE + LAPIC_TPR, 4), EX_DONE);
	SAME(*e & (PTE_A | PTE_D), PTE_A);
	struct regs w = regs0(m_or);
	w.rdi = VA + PAGE + LAPIC_TPR;
	w.rsi = 0x20;
	EXPECT(run_regs(&w), EX_DONE);
	SAME(*e & (PTE_A | PTE_D), PTE_A | PTE_D);
	SAME(lapic_read(LAPIC_TPR), 0x20);
	lapic_write(LAPIC_TPR, 0);
}

/* Pushes and pops of 32-bit code, its stack pointer among the LAPIC's registers. */
CODE(push_dev, ".code32\n\tpush %esi\n\tpop %eax\n\t" DONE ".code64\n\t");

static void stack_in_a_device(void)
{
	struct regs r;

	interrupts_reset();
	r = regs0(push_dev);
	r.cs = SEL_CODE32;
	r.rsp = TIMER + 4;
	r.rsi = 0x10055;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(r.rsp, TIMER + 4);
	SAME(r.rax, 0x10055);
	SAME(GET(), 0x10055);
	PUT(0x10000);
}

static void ioapic_registers(void)
{
	uint32_t version;

	SAME(ioapic_read(0) & 0xf0ffffff, 0);
	version = ioapic_read(1);
	CHECK((version >> 16 & 0xff) == 23);
	ioapic_write(0x10 + 2 * 5, 0x10000 | 0xa000 | 0x55);
	SAME(ioapic_read(0x10 + 2 * 5), 0x1a055);
	ioapic_write(0x11 + 2 * 5, 0x03000000);
	SAME(ioapic_read(0x11 + 2 * 5), 0x03000000);
	/* Delivery status and remote IRR are read-only. */
	ioapic_write(0x10 + 2 * 5, 0x10000 | 0x5000 | 0x55);
	SAME(ioapic_read(0x10 + 2 * 5), 0x10055);
	ioapic_write(0x10 + 2 * 5, 0x10000);
	ioapic_write(0x11 + 2 * 5, 0);
	/* The index register reads back. */
	*(volatile uint32_t *)IOAPIC = 0x12;
	SAME(*(volatile uint32_t *)IOAPIC & 0xff, 0x12);
}

static void lapic_registers(void)
{
	interrupts_reset();
	CHECK((lapic_read(LAPIC_VERSION) & 0xf0) == 0x10);
	lapic_write(LAPIC_VERSION, 0);
	CHECK((lapic_read(LAPIC_VERSION) & 0xf0) == 0x10);
	lapic_write(LAPIC_LDR, 0xab123456);
	SAME(lapic_read(LAPIC_LDR), 0xab000000);
	lapic_write(0xe0, 0x0fffffff);
	SAME(lapic_read(0xe0), 0x0fffffff);
	lapic_write(0xe0, 0);
	SAME(lapic_read(0xe0) | 0xf0000000, 0xffffffff); /* the low bits are ones */
	lapic_write(0xe0, 0xffffffff);
	lapic_write(LAPIC_LDR, 0);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xffffffff);
	SAME(lapic_read(LAPIC_TIMER_DIVIDE), 0xb);
	lapic_write(LAPIC_TPR, 0xffffff7f);
	SAME(lapic_read(LAPIC_TPR), 0x7f);
	SAME(lapic_read(0xa0), 0x7f); /* PPR */
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_LINT0, 0x1a7ff & ~0x700);
	SAME(lapic_read(LAPIC_LVT_LINT0), 0x1a7ff & ~0x700);
	lapic_write(LAPIC_LVT_LINT0, 0x10000);
	/* The base can be read by MSR, and has bits that cannot be set. */
	uint64_t base = rdmsr(0x1b);
	SAME(base & ~0xffful, LAPIC);
	EXPECT(wrmsr_try(0x1b, base | 1ul << 60), EX_GP(0));
	EXPECT(wrmsr_try(0x1b, base | 1), EX_GP(0));
	SAME(rdmsr(0x1b), base);
}

TESTS({"port sizes", port_sizes}, {"registers of port reads", port_registers}, {"port strings", port_strings},
      {"read-modify-writes of a device", read_modify_writes}, {"reads of a device", reads}, {"wide and unaligned reads", wide_reads},
      {"next to a device", next_to_a_device}, {"a stack in a device", stack_in_a_device}, {"IOAPIC registers", ioapic_registers},
      {"LAPIC registers", lapic_registers});
