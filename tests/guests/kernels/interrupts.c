/* Interrupts: controllers, timers, what holds them up, and that every kind of loop can be interrupted. */
#include "k.h"

#define V_TIMER 0x50
#define V_A 0x60
#define V_B 0x70
#define PIT_HZ 1193182u
#define APIC_BASE 0x1b

static volatile unsigned hits;
static volatile uint64_t hit_rip;

static void count(struct frame *f)
{
	hits++;
	hit_rip = f->rip;
	lapic_eoi();
}

static unsigned apic_id(void) { return lapic_read(LAPIC_ID) >> 24; }

static bool pending(unsigned vector) { return lapic_read(LAPIC_IRR + (vector >> 5) * 0x10) >> (vector & 31) & 1; }
static bool in_service(unsigned vector) { return lapic_read(LAPIC_ISR + (vector >> 5) * 0x10) >> (vector & 31) & 1; }

/* Waits with interrupts on until `hits` reaches n; false after `ms` milliseconds. */
static bool wait_hits(unsigned n, unsigned ms)
{
	uint64_t until = rdtsc() + ms * tsc_per_ms();

	sti();
	while (hits < n && rdtsc() < until)
		relax();
	cli();
	return hits >= n;
}

/* Nothing armed, nothing pending. */
static void fresh(void)
{
	static const uint8_t used[] = {5, V_TIMER, V_A, V_A + 1, V_B};

	interrupts_reset();
	for (unsigned i = 0; i < sizeof(used); i++)
		trap_handle(used[i], count);
	sti();
	for (volatile int i = 0; i < 100; i++)
		;
	cli();
	for (unsigned i = 0; i < sizeof(used); i++)
		trap_handle(used[i], NULL);
	hits = 0;
	hit_rip = 0;
}

/* ---- PIT, 8259, IOAPIC ------------------------------------------------------------------ */

static void pit_rate(unsigned hz)
{
	unsigned count0 = PIT_HZ / hz;

	outb(0x43, 0x34);
	outb(0x40, (uint8_t)count0);
	outb(0x40, (uint8_t)(count0 >> 8));
}

static void pit_stop(void)
{
	outb(0x43, 0x30); /* mode 0, and no count */
}

static void pic_eoi(struct frame *f)
{
	hits++;
	outb(0x20, 0x20);
}

static void pic_init(uint8_t master, uint8_t slave, uint8_t icw4)
{
	outb(0x20, 0x11);
	outb(0x21, master);
	outb(0x21, 4);
	outb(0x21, icw4);
	outb(0xa0, 0x11);
	outb(0xa1, slave);
	outb(0xa1, 2);
	outb(0xa1, 1);
}

static void pit_through_the_8259(void)
{
	uint64_t from;

	fresh();
	trap_handle(0x30, pic_eoi);
	pic_init(0x30, 0x38, 1);
	lapic_write(LAPIC_LVT_LINT0, 0x700);
	outb(0xa1, 0xff);
	outb(0x21, 0xfe);
	pit_rate(500);
	from = rdtsc();
	CHECK(wait_hits(20, 10000));
	CHECK(rdtsc() - from > 19 * 2 * tsc_per_ms() * 9 / 10 / 1); /* not faster than asked */
	/* Masked at the 8259, then at LINT0. */
	outb(0x21, 0xff);
	wait_hits(~0u, 20);
	hits = 0;
	CHECK(!wait_hits(1, 20));
	outb(0x21, 0xfe);
	CHECK(wait_hits(1, 5000));
	lapic_write(LAPIC_LVT_LINT0, 0x10700);
	wait_hits(~0u, 20);
	hits = 0;
	CHECK(!wait_hits(1, 20));
	lapic_write(LAPIC_LVT_LINT0, 0x700);
	CHECK(wait_hits(1, 5000));
	/* In service: no second one before the EOI. Automatic EOI: no need of one. */
	trap_handle(0x30, count);
	wait_hits(~0u, 20);
	hits = 0;
	wait_hits(2, 30);
	CHECK(hits <= 1);
	outb(0x20, 0x0b);
	CHECK(inb(0x20) & 1);
	outb(0x20, 0x60); /* specific EOI of 0 */
	CHECK(!(inb(0x20) & 1));
	pic_init(0x30, 0x38, 3);
	outb(0x21, 0xfe);
	hits = 0;
	CHECK(wait_hits(5, 5000));
	outb(0x21, 0xff);
	pic_init(0x30, 0x38, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	pit_stop();
}

static void pit_through_the_ioapic(void)
{
	fresh();
	trap_handle(V_TIMER, count);
	/* The interrupt source override that every PC has: ISA 0 is pin 2. */
	ioapic_write(0x15, apic_id() << 24);
	ioapic_write(0x14, V_TIMER);
	pit_rate(1000);
	CHECK(wait_hits(20, 10000));
	ioapic_write(0x14, 0x10000 | V_TIMER);
	wait_hits(~0u, 20);
	hits = 0;
	CHECK(!wait_hits(1, 20));
	/* Logical destination, lowest priority. */
	lapic_write(0xe0, 0xffffffff);
	lapic_write(LAPIC_LDR, 0x04000000);
	ioapic_write(0x15, 0x04000000);
	ioapic_write(0x14, 0x900 | V_TIMER);
	CHECK(wait_hits(5, 5000));
	ioapic_write(0x15, 0x08000000); /* nobody */
	wait_hits(~0u, 20);
	hits = 0;
	CHECK(!wait_hits(1, 20));
	ioapic_write(0x14, 0x10000);
	pit_stop();
}

static void pit_counts(void)
{
	unsigned a, b, wraps = 0;

	pit_rate(20);
	outb(0x43, 0);
	a = inb(0x40);
	a |= inb(0x40) << 8;
	delay_us(5000);
	outb(0x43, 0);
	b = inb(0x40);
	b |= inb(0x40) << 8;
	CHECK(a <= PIT_HZ / 20 && b <= PIT_HZ / 20);
	for (int i = 0; i < 3; i++, a = b) {
		delay_us(20000);
		outb(0x43, 0);
		b = inb(0x40);
		b |= inb(0x40) << 8;
		wraps += b > a;
	}
	CHECK(wraps >= 1 && wraps <= 3);
	pit_stop();
}

/* ---- the local APIC's timer ------------------------------------------------------------------ */

/* Ticks of the timer in a millisecond, divided by 1: measured. */
static uint64_t timer_per_ms(void)
{
	static uint64_t known;

	if (!known) {
		lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
		lapic_write(LAPIC_LVT_TIMER, 0x10000 | V_TIMER);
		lapic_write(LAPIC_TIMER_INIT, 0xffffffff);
		uint64_t from = rdtsc(), left, to = from + 10 * tsc_per_ms();
		while (rdtsc() < to)
			relax();
		left = lapic_read(LAPIC_TIMER_NOW);
		known = (0xffffffff - left) / 10;
		lapic_write(LAPIC_TIMER_INIT, 0);
	}
	return known;
}

static void arm_ms(unsigned ms) { lapic_write(LAPIC_TIMER_INIT, (uint32_t)(ms * timer_per_ms())); }

static void timer_one_shot(void)
{
	uint64_t from, to;

	fresh();
	CHECK(timer_per_ms() > 0);
	trap_handle(V_TIMER, count);
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	from = rdtsc();
	arm_ms(20);
	CHECK(wait_hits(1, 5000));
	to = rdtsc();
	CHECK(to - from >= 18 * tsc_per_ms());
	SAME(lapic_read(LAPIC_TIMER_NOW), 0);
	CHECK(!wait_hits(2, 50)); /* once */
	/* Stopped in time. */
	hits = 0;
	arm_ms(20);
	lapic_write(LAPIC_TIMER_INIT, 0);
	CHECK(!wait_hits(1, 40));
	/* Masked: it runs down without an interrupt. */
	lapic_write(LAPIC_LVT_TIMER, 0x10000 | V_TIMER);
	arm_ms(5);
	CHECK(!wait_hits(1, 20));
	SAME(lapic_read(LAPIC_TIMER_NOW), 0);
	/* The divider. */
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	lapic_write(LAPIC_TIMER_DIVIDE, 0x3); /* by 16 */
	from = rdtsc();
	lapic_write(LAPIC_TIMER_INIT, (uint32_t)(timer_per_ms() * 32 / 16));
	CHECK(wait_hits(1, 5000));
	CHECK(rdtsc() - from >= 28 * tsc_per_ms());
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb);
}

static void timer_periodic(void)
{
	uint64_t from, to, ms = tsc_per_ms();

	fresh();
	timer_per_ms();
	trap_handle(V_TIMER, count);
	lapic_write(LAPIC_LVT_TIMER, 0x20000 | V_TIMER);
	from = rdtsc();
	arm_ms(2);
	CHECK(wait_hits(25, 10000));
	to = rdtsc();
	CHECK(to - from >= 45 * ms);
	lapic_write(LAPIC_TIMER_INIT, 0);
	wait_hits(~0u, 1); /* one that came before the end still waits */
	hits = 0;
	CHECK(!wait_hits(1, 20));
}

static void timer_deadline(void)
{
	uint64_t from, ms = tsc_per_ms(), v;

	if (!cpu_has(1, 2, 24)) {
		test_skip("no TSC deadline");
		return;
	}
	fresh();
	trap_handle(V_TIMER, count);
	lapic_write(LAPIC_LVT_TIMER, 0x40000 | V_TIMER);
	__asm__ volatile("mfence");
	from = rdtsc();
	wrmsr(0x6e0, from + 10 * ms);
	SAME(rdmsr(0x6e0), from + 10 * ms);
	CHECK(wait_hits(1, 5000));
	CHECK(rdtsc() >= from + 10 * ms);
	SAME(rdmsr(0x6e0), 0);
	/* In the past: at once. Zero: disarmed. */
	wrmsr(0x6e0, 1);
	CHECK(wait_hits(2, 5000));
	wrmsr(0x6e0, rdtsc() + 10 * ms);
	wrmsr(0x6e0, 0);
	hits = 0;
	CHECK(!wait_hits(1, 30));
	/* The count register means nothing in this mode. */
	lapic_write(LAPIC_TIMER_INIT, 1000);
	SAME(lapic_read(LAPIC_TIMER_NOW), 0);
	CHECK(!wait_hits(1, 10));
	/* And the deadline nothing in the others. */
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	EXPECT(wrmsr_try(0x6e0, rdtsc() + ms), EX_DONE);
	EXPECT(rdmsr_try(0x6e0, &v), EX_DONE);
	SAME(v, 0);
	CHECK(!wait_hits(1, 10));
}

/* ---- IPIs, priorities --------------------------------------------------------------------------- */

static void self_ipi(void)
{
	fresh();
	trap_handle(V_A, count);
	ipi_self(ICR_FIXED | V_A);
	CHECK(pending(V_A));
	SAME(hits, 0); /* IF is clear */
	CHECK(wait_hits(1, 5000));
	CHECK(!pending(V_A) && !in_service(V_A));
	ipi(apic_id(), ICR_FIXED | V_A);
	CHECK(wait_hits(2, 5000));
	/* Two of the same vector are one. */
	ipi_self(ICR_FIXED | V_A);
	ipi_self(ICR_FIXED | V_A);
	CHECK(!wait_hits(4, 5));
	SAME(hits, 3);
	/* Nobody there; all but self, of one. */
	ipi(0x77, ICR_FIXED | V_A);
	CHECK(!pending(V_A));
	lapic_write(LAPIC_ICR, ICR_FIXED | V_A | 0x80000);
	CHECK(pending(V_A)); /* all including self */
	CHECK(wait_hits(4, 5000));
	/* A vector below 16 is an error. */
	trap_handle(5, count);
	lapic_write(0x280, 0);
	ipi_self(ICR_FIXED | 5);
	lapic_write(0x280, 0);
	CHECK(lapic_read(0x280) & 0x60);
	lapic_write(0x280, 0);
	wait_hits(~0u, 2); /* should it have come all the same */
}

static unsigned order[8], order_n;

static void note_order(struct frame *f)
{
	if (order_n < ARRAY_SIZE(order))
		order[order_n++] = (unsigned)f->vector;
	lapic_eoi();
}

static void nested_low(struct frame *f)
{
	order[order_n++] = (unsigned)f->vector;
	CHECK(in_service(V_A));
	/* A higher one comes in between, one of the same class waits. */
	ipi_self(ICR_FIXED | V_B);
	ipi_self(ICR_FIXED | (V_A + 1));
	sti();
	for (volatile int i = 0; i < 100; i++)
		;
	cli();
	order[order_n++] = 0;
	CHECK(pending(V_A + 1));
	lapic_eoi();
}

static void priorities(void)
{
	fresh();
	order_n = 0;
	trap_handle(V_A, note_order);
	trap_handle(V_B, note_order);
	ipi_self(ICR_FIXED | V_A);
	ipi_self(ICR_FIXED | V_B);
	wait_hits(~0u, 2);
	SAME(order_n, 2);
	SAME(order[0], V_B);
	SAME(order[1], V_A);
	order_n = 0;
	trap_handle(V_A, nested_low);
	trap_handle(V_A + 1, note_order);
	ipi_self(ICR_FIXED | V_A);
	wait_hits(~0u, 2);
	SAME(order_n, 4);
	SAME(order[0], V_A);
	SAME(order[1], V_B);
	SAME(order[2], 0);
	SAME(order[3], V_A + 1);
}

static void task_priority(void)
{
	fresh();
	trap_handle(V_A, count);
	cr8_set(6);
	SAME(lapic_read(LAPIC_TPR), 0x60);
	ipi_self(ICR_FIXED | V_A);
	CHECK(!wait_hits(1, 5));
	CHECK(pending(V_A));
	cr8_set(5);
	CHECK(wait_hits(1, 5000));
	lapic_write(LAPIC_TPR, 0x6f);
	SAME(cr8_get(), 6);
	ipi_self(ICR_FIXED | V_A);
	CHECK(!wait_hits(2, 5));
	/* Lowered with IF set: right there. */
	sti();
	lapic_write(LAPIC_TPR, 0x5f);
	for (volatile int i = 0; i < 1000; i++)
		;
	SAME(hits, 2);
	cr8_set(15);
	ipi_self(ICR_FIXED | V_A);
	for (volatile int i = 0; i < 1000; i++)
		;
	SAME(hits, 2);
	cr8_set(0);
	for (volatile int i = 0; i < 1000; i++)
		;
	SAME(hits, 3);
	cli();
}

static void apic_off(void)
{
	fresh();
	trap_handle(V_A, count);
	lapic_write(LAPIC_SVR, 0xff); /* software-disabled: fixed interrupts are refused, LVT masked */
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	CHECK(lapic_read(LAPIC_LVT_TIMER) & 0x10000);
	ipi(apic_id(), ICR_FIXED | V_A);
	CHECK(!pending(V_A));
	lapic_write(LAPIC_SVR, 0x1ff);
	ipi(apic_id(), ICR_FIXED | V_A);
	CHECK(wait_hits(1, 5000));
}

static void x2apic(void)
{
	uint64_t base = rdmsr(APIC_BASE), v;

	if (!cpu_has(1, 2, 21)) {
		test_skip("no x2APIC");
		return;
	}
	fresh();
	EXPECT(rdmsr_try(0x802, &v), EX_GP(0));
	EXPECT(wrmsr_try(APIC_BASE, (base & ~0x800ul) | 0x400), EX_GP(0)); /* x2APIC without enable */
	EXPECT(wrmsr_try(APIC_BASE, base | 0x400), EX_DONE);
	trap_handle(V_A, count);
	uint64_t id = rdmsr(0x802);
	wrmsr(0x83f, V_A); /* self */
	SAME(rdmsr(0x820 + (V_A >> 5)) >> (V_A & 31) & 1, 1);
	sti();
	for (volatile int i = 0; i < 1000; i++)
		;
	cli();
	SAME(hits, 1);
	wrmsr(0x80b, 0);
	wrmsr(0x830, id << 32 | ICR_FIXED | V_A);
	sti();
	for (volatile int i = 0; i < 1000; i++)
		;
	cli();
	SAME(hits, 2);
	wrmsr(0x80b, 0);
	EXPECT(wrmsr_try(0x80b, 1), EX_GP(0));       /* EOI wants 0 */
	EXPECT(wrmsr_try(0x802, 1), EX_GP(0));       /* read-only */
	EXPECT(rdmsr_try(0x80e, &v), EX_GP(0));      /* no DFR */
	EXPECT(rdmsr_try(0x831, &v), EX_GP(0));      /* no second half of the ICR */
	EXPECT(rdmsr_try(0x80b, &v), EX_GP(0));      /* write-only */
	EXPECT(wrmsr_try(0x808, 0x100), EX_GP(0));   /* TPR has 8 bits */
	EXPECT(rdmsr_try(0x803, &v), EX_DONE);
	SAME(rdmsr(0x80d), (id & 0xf) << 0 ? 1ul << (id & 15) | (id >> 4) << 16 : 1ul);
	cr8_set(7);
	SAME(rdmsr(0x808), 0x70);
	cr8_set(0);
	EXPECT(wrmsr_try(APIC_BASE, base), EX_GP(0)); /* back only through off */
	wrmsr(APIC_BASE, base & ~0x800ul);
	wrmsr(APIC_BASE, base);
	EXPECT(rdmsr_try(0x802, &v), EX_GP(0));
	interrupts_reset();
	ipi_self(ICR_FIXED | V_A);
	CHECK(wait_hits(3, 5000));
}

/* ---- what holds interrupts up --------------------------------------------------------------------- */

CODE(h_sti, "sti\n\tnop\n\th_sti_2: nop\n\tnop\n\t" DONE);
CODE(h_sti_cli, "sti\n\tcli\n\tnop\n\t" DONE);
CODE(h_sti_sti, "sti\n\tsti\n\th_sti_sti_2: nop\n\t" DONE);
CODE(h_sti_jmp, "sti\n\tjmp 1f\n\tnop\n\t1: h_sti_jmp_2: nop\n\t" DONE);
CODE(h_sti_ret, "lea h_sti_ret_2(%rip), %rax\n\tpush %rax\n\tsti\n\tret\n\tnop\n\th_sti_ret_2: nop\n\t" DONE);
CODE(h_sti_store, "sti\n\tmovl $1, (%rdi)\n\th_sti_store_2: nop\n\t" DONE);
CODE(h_sti_hlt, "sti\n\thlt\n\th_sti_hlt_2: nop\n\t" DONE);
CODE(h_sti_rdmsr, "mov $0x10, %ecx\n\tsti\n\trdmsr\n\th_sti_rdmsr_2: nop\n\t" DONE);
CODE(h_popf, "push $0x202\n\tpopf\n\th_popf_2: nop\n\t" DONE);
CODE(h_movss, "mov %ss, %eax\n\tsti\n\tmov %eax, %ss\n\th_movss_1: nop\n\th_movss_2: nop\n\t" DONE);
CODE(h_nop, "h_nop_at: nop\n\t" DONE);
CODE(h_fault, "sti\n\th_fault_at: ud2\n\t" DONE);
CODE(h_rep, "sti\n\trep stosb\n\th_rep_end: nop\n\t" DONE);
LABEL(h_sti_2);
LABEL(h_sti_sti_2);
LABEL(h_sti_jmp_2);
LABEL(h_sti_ret_2);
LABEL(h_sti_store_2);
LABEL(h_sti_hlt_2);
LABEL(h_sti_rdmsr_2);
LABEL(h_popf_2);
LABEL(h_movss_1);
LABEL(h_movss_2);
LABEL(h_fault_at);

static void shadows(void)
{
	static const struct {
		const char *name;
		const void *code, *at; /* where the interrupt comes */
	} rows[] = {
		{"sti; nop", h_sti, h_sti_2}, {"sti; sti", h_sti_sti, h_sti_sti_2}, {"sti; jmp", h_sti_jmp, h_sti_jmp_2},
		{"sti; ret", h_sti_ret, h_sti_ret_2}, {"sti; store", h_sti_store, h_sti_store_2}, {"sti; hlt", h_sti_hlt, h_sti_hlt_2},
		{"sti; rdmsr", h_sti_rdmsr, h_sti_rdmsr_2}, {"popf", h_popf, h_popf_2},
	};
	uint64_t *page = page_alloc();
	struct regs r;

	fresh();
	for (unsigned times = 0; times < 2; times++)
		for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
			/* Pending before, so that the first moment counts. No handler: run_regs gets it. */
			ipi_self(ICR_FIXED | V_A);
			r = regs0(rows[i].code);
			r.rdi = (uint64_t)page;
			uint64_t ex = run_regs(&r);
			if (ex != EX(V_A, 0) || r.rip != (uint64_t)rows[i].at)
				test_failure(__FILE__, __LINE__, "%s: %s at 0x%lx, not 0x%lx", rows[i].name, ex_name(ex), r.rip, (uint64_t)rows[i].at);
			lapic_eoi();
		}
	/* sti; cli lets nothing in. */
	ipi_self(ICR_FIXED | V_A);
	for (unsigned i = 0; i < 10; i++)
		EXPECT(run0(h_sti_cli, 0), EX_DONE);
	CHECK(pending(V_A));
	/* iret into IF=1: before the first instruction. */
	r = regs0(h_nop);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX(V_A, 0));
	SAME(r.rip, (uint64_t)h_nop);
	lapic_eoi();
	ipi_self(ICR_FIXED | V_A);
	r = regs3(h_nop);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX(V_A, 0));
	SAME(r.rip, (uint64_t)h_nop);
	SAME(r.cs, SEL_USER64);
	lapic_eoi();
	/* sti; mov ss: a second shadow in a row may count or not. */
	ipi_self(ICR_FIXED | V_A);
	r = regs0(h_movss);
	EXPECT(run_regs(&r), EX(V_A, 0));
	CHECK(r.rip == (uint64_t)h_movss_1 || r.rip == (uint64_t)h_movss_2);
	lapic_eoi();
	/* A fault in the shadow is delivered first; the interrupt then waits for the handler's IF. */
	ipi_self(ICR_FIXED | V_A);
	r = regs0(h_fault);
	EXPECT(run_regs(&r), EX_UD);
	SAME(r.rip, (uint64_t)h_fault_at);
	CHECK(pending(V_A));
	trap_handle(V_A, count);
	CHECK(wait_hits(1, 5000));
}

CODE(mov_ss_if, "mov %ss, %eax\n\t.rept 64\n\tmov %eax, %ss\n\t1: nop\n\t.endr\n\tjmp mov_ss_if\n\t");

/* Interrupts that come at any time never come right behind a mov to ss. */
static void mov_ss_shadow(void)
{
	struct regs r;
	unsigned bad = 0;

	fresh();
	timer_per_ms();
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	for (unsigned i = 0; i < 50; i++) {
		arm_ms(1);
		r = regs0(mov_ss_if);
		r.rflags |= FLAG_IF;
		EXPECT(run_regs(&r), EX(V_TIMER, 0));
		lapic_eoi();
		/* The body: mov %ss, %eax (2 bytes), then 64 times mov (2), nop (1), then jmp. */
		uint64_t off = r.rip - (uint64_t)mov_ss_if;
		bad += off > 2 && off < 2 + 64 * 3 && (off - 2) % 3 == 2;
	}
	SAME(bad, 0);
}

/* ---- hlt --------------------------------------------------------------------------------------------- */

CODE(hlt_only, "hlt\n\thlt_end: " DONE);
LABEL(hlt_end);

static void halt_wakes(void)
{
	struct regs r;
	uint64_t from;

	fresh();
	timer_per_ms();
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	for (unsigned i = 0; i < 5; i++) {
		from = rdtsc();
		arm_ms(4);
		r = regs0(h_sti_hlt);
		EXPECT(run_regs(&r), EX(V_TIMER, 0));
		SAME(r.rip, (uint64_t)h_sti_hlt_2);
		CHECK(rdtsc() - from >= 3 * tsc_per_ms());
		lapic_eoi();
	}
	/* Already there: no sleep. */
	ipi_self(ICR_FIXED | V_A);
	r = regs0(hlt_only);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX(V_A, 0));
	SAME(r.rip, (uint64_t)hlt_only);
	lapic_eoi();
	/* A handler returns behind the hlt. */
	trap_handle(V_TIMER, count);
	arm_ms(3);
	r = regs0(hlt_only);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(hits, 1);
	/* With the PIT through the IOAPIC, which another thread raises. */
	trap_handle(V_B, count);
	ioapic_write(0x15, apic_id() << 24);
	ioapic_write(0x14, V_B);
	pit_rate(200);
	for (unsigned i = 0; i < 5; i++) {
		r = regs0(hlt_only);
		r.rflags |= FLAG_IF;
		EXPECT(run_regs(&r), EX_DONE);
	}
	CHECK(hits >= 6);
	ioapic_write(0x14, 0x10000);
	pit_stop();
}

/* ---- NMI ------------------------------------------------------------------------------------------------ */

static volatile unsigned nmis, nmi_depth, nmi_max_depth, nmi_send, nmi_trap;

static void on_nmi(struct frame *f)
{
	nmis++;
	nmi_depth++;
	if (nmi_depth > nmi_max_depth)
		nmi_max_depth = nmi_depth;
	/* A nested one must not use this one's stack. */
	idt[VEC_NMI].ist = 0;
	for (; nmi_send; nmi_send--)
		ipi(apic_id(), ICR_NMI);
	for (volatile int i = 0; i < 1000; i++)
		;
	if (nmi_trap) {
		nmi_trap = 0;
		__asm__ volatile("int $0x80"); /* its iret lets the next one in */
		for (volatile int i = 0; i < 1000; i++)
			;
	}
	nmi_depth--;
}

static void ignore(struct frame *f) {}

static void nmi(void)
{
	fresh();
	trap_handle(VEC_NMI, on_nmi);
	trap_handle(0x80, ignore);
	nmis = nmi_depth = nmi_max_depth = 0;
	ipi(apic_id(), ICR_NMI);
	for (volatile int i = 0; i < 1000; i++)
		;
	SAME(nmis, 1); /* IF is clear */
	/* Blocked until iret; of several, one is kept. */
	nmi_send = 2;
	ipi(apic_id(), ICR_NMI);
	for (volatile int i = 0; i < 1000; i++)
		;
	SAME(nmis, 3);
	SAME(nmi_max_depth, 1);
	/* Any iret ends the blocking. */
	nmi_send = 1;
	nmi_trap = 1;
	ipi(apic_id(), ICR_NMI);
	for (volatile int i = 0; i < 1000; i++)
		;
	SAME(nmis, 5);
	SAME(nmi_max_depth, 2);
	/* Through LINT1? Nothing drives that line; through the timer: an LVT may say NMI only at LINT, so no. It wakes a halt. */
	struct regs r = regs0(hlt_only);
	extern char nmi_hlt[];
	__asm__(".pushsection .user\n\tnmi_hlt: mov %esi, 0x310(%rdi)\n\tmovl $0x4400, 0x300(%rdi)\n\thlt\n\t" DONE ".popsection");
	r = regs0(nmi_hlt);
	r.rdi = LAPIC;
	r.rsi = apic_id() << 24;
	/* It may come before the hlt, which then sleeps for ever: a timer ends that. */
	trap_handle(V_TIMER, count);
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	arm_ms(100);
	r.rflags |= FLAG_IF;
	EXPECT(run_regs(&r), EX_DONE);
	SAME(nmis, 6);
}

/* ---- every loop can be interrupted ------------------------------------------------------------------------- */

CODE(loop_jmp, "1: jmp 1b\n\t");
CODE(loop_jmp_two, "1: jmp 2f\n\t2: jmp 1b\n\t");
CODE(loop_call, "1: call 2f\n\tjmp 1b\n\t2: ret\n\t");
CODE(loop_call_only, "mov %rsp, %rbp\n\t1: mov %rbp, %rsp\n\tcall 1b\n\t");
CODE(loop_indirect, "lea 1f(%rip), %rax\n\t1: jmp *%rax\n\t");
CODE(loop_indirect_call, "lea 2f(%rip), %rax\n\t1: call *%rax\n\tjmp 1b\n\t2: ret\n\t");
CODE(loop_ret, "lea 1f(%rip), %rax\n\t1: push %rax\n\tret\n\t");
CODE(loop_jcc, "1: inc %rax\n\tor $1, %eax\n\tjnz 1b\n\t");
CODE(loop_loop, "1: mov $-1, %rcx\n\t2: loop 2b\n\tjmp 1b\n\t");
CODE(loop_forward, "1: cmp %eax, %eax\n\tje 2f\n\tud2\n\t2: lock incl (%rdi)\n\tjmp 1b\n\t");
CODE(loop_memory, "1: incl (%rdi)\n\tadd %rsi, (%rdi)\n\tjmp 1b\n\t");
CODE(loop_pause, "1: pause\n\tcmpl $0, 8(%rdi)\n\tje 1b\n\tud2\n\t");
CODE(loop_cpuid, "1: xor %eax, %eax\n\tcpuid\n\tjmp 1b\n\t");
CODE(loop_port, "1: inb $0x80, %al\n\tjmp 1b\n\t");
CODE(loop_stos, "1: mov %rdi, %rdx\n\tmov $100, %ecx\n\trep stosb\n\tmov %rdx, %rdi\n\tjmp 1b\n\t");
CODE(loop_x87, "1: fld1\n\tfaddp\n\tfld1\n\tjmp 1b\n\t");
CODE(loop_sti, "1: cli\n\tincl (%rdi)\n\tsti\n\tincl (%rdi)\n\tjmp 1b\n\t");
CODE(loop_popf, "1: pushf\n\tcli\n\tincl (%rdi)\n\tpopf\n\tjmp 1b\n\t");

/* Names each loop before it runs, for one that hangs. */
#define DEBUG_LOOPS 0

static void loops(void)
{
	static const struct {
		const char *name;
		const void *code;
		bool kernel_only;
	} rows[] = {
		{"jmp", loop_jmp, false}, {"two jmps", loop_jmp_two, false}, {"call and ret", loop_call, false}, {"call", loop_call_only, false},
		{"jmp reg", loop_indirect, false}, {"call reg", loop_indirect_call, false}, {"push and ret", loop_ret, false}, {"jnz", loop_jcc, false},
		{"loop", loop_loop, false}, {"jcc forward", loop_forward, false}, {"memory", loop_memory, false}, {"pause", loop_pause, false},
		{"cpuid", loop_cpuid, false}, {"port", loop_port, true}, {"rep stos", loop_stos, false}, {"x87", loop_x87, false},
		{"cli and sti", loop_sti, true}, {"cli and popf", loop_popf, true},
	};
	uint8_t *page = page_alloc();

	fresh();
	timer_per_ms();
	map(TEST_VA, page, PTE_P | PTE_W | PTE_U);
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned ring = 0; ring <= 3; ring += 3)
			for (unsigned times = 0; times < 3; times++) {
				struct regs r = ring ? regs3(rows[i].code) : regs0(rows[i].code);
				uint64_t from = rdtsc(), ex;

				if (ring && rows[i].kernel_only)
					continue;
				r.rflags |= FLAG_IF;
				r.rdi = TEST_VA;
				if (DEBUG_LOOPS)
					note("%s at %u", rows[i].name, ring);
				arm_ms(1);
				ex = run_regs(&r);
				lapic_eoi();
				if (ex != EX(V_TIMER, 0))
					test_failure(__FILE__, __LINE__, "%s at %u: %s at 0x%lx", rows[i].name, ring, ex_name(ex), r.rip);
				if (rdtsc() - from > 5000 * tsc_per_ms())
					test_failure(__FILE__, __LINE__, "%s at %u: took %lu ms", rows[i].name, ring, (rdtsc() - from) / tsc_per_ms());
				if (!(r.rflags & FLAG_IF))
					test_failure(__FILE__, __LINE__, "%s at %u: IF was clear", rows[i].name, ring);
			}
}

/* A long rep is interrupted in between, and goes on as if it had not been. */
CODE(long_movs, "rep movsb\n\tlong_movs_end: " DONE);
CODE(long_stos, "rep stosl\n\tlong_stos_end: " DONE);
CODE(long_scas, "repne scasb\n\t" DONE);

static void long_strings(void)
{
	uint8_t *a = (uint8_t *)0x2000000, *b = (uint8_t *)0x2800000; /* 32 MiB, 40 MiB */
	uint64_t n = 8 * MIB;
	struct regs r;
	unsigned cuts = 0;

	fresh();
	timer_per_ms();
	memset(a, 0x11, n);
	memset(b, 0, n);
	a[0] = 1;
	a[n - 1] = 2;
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	/* Again where the host was late with every timer. */
	for (unsigned attempt = 0; attempt < 20 && !cuts; attempt++) {
		r = regs0(long_movs);
		r.rsi = (uint64_t)a;
		r.rdi = (uint64_t)b;
		r.rcx = n;
		r.rflags |= FLAG_IF;
		memset(b, 0, n);
		lapic_write(LAPIC_TIMER_INIT, (uint32_t)timer_per_ms() / 20);
		while (run_regs(&r) != EX_DONE) {
			EXPECT(EX(r.vector, 0), EX(V_TIMER, 0));
			lapic_eoi();
			SAME(r.rsi - (uint64_t)a, r.rdi - (uint64_t)b);
			SAME(r.rsi - (uint64_t)a + r.rcx, n);
			CHECK(r.rip == (uint64_t)long_movs || r.rip == (uint64_t)long_movs + 2);
			if (r.rip == (uint64_t)long_movs && r.rcx != n)
				cuts++;
			if (cuts > 5)
				r.rflags &= ~FLAG_IF;
			else
				lapic_write(LAPIC_TIMER_INIT, (uint32_t)timer_per_ms() / 20);
		}
	}
	CHECK(cuts > 0);
	SAME(memcmp(a, b, n), 0);
	cuts = 0;
	r = regs3(long_stos);
	map_at(TEST_VA, (uint64_t)large_page, PTE_P | PTE_W | PTE_U, 2);
	for (unsigned i = 0; i < 20; i++) {
		r = regs3(long_stos);
		r.rdi = TEST_VA;
		r.rax = i;
		r.rcx = 2 * MIB / 4;
		r.rflags |= FLAG_IF;
		lapic_write(LAPIC_TIMER_INIT, (uint32_t)timer_per_ms() / 50);
		while (run_regs(&r) != EX_DONE) {
			lapic_eoi();
			SAME((r.rdi - TEST_VA) / 4 + r.rcx, 2 * MIB / 4);
			cuts += r.rcx != 0;
		}
		SAME(((uint32_t *)large_page)[2 * MIB / 4 - 1], i);
		lapic_write(LAPIC_TIMER_INIT, 0);
		trap_handle(V_TIMER, count);
		wait_hits(~0u, 1);
		trap_handle(V_TIMER, NULL);
	}
	note("rep stos was interrupted %s", cuts ? "in between" : "never in between");
}

/* A storm: handlers that come as fast as they can, under code that checks itself. */
CODE(self_check, "1: mov %rdi, %rax\n\tadd $1, %rax\n\tpush %rax\n\tpop %rdx\n\tsub $1, %rdx\n\tcmp %rdi, %rdx\n\tjne 2f\n\tstc\n\tmov (%rsi), %r8\n\tjnc 2f\n\tadd $1, %r8\n\tmov %r8, (%rsi)\n\tdec %ecx\n\tjnz 1b\n\t" DONE "2: ud2\n\t");

static void rearm(struct frame *f)
{
	hits++;
	lapic_eoi();
	lapic_write(LAPIC_TIMER_INIT, (uint32_t)(timer_per_ms() / 20));
}

static void storm(void)
{
	uint64_t *page = page_alloc();

	fresh();
	timer_per_ms();
	map(TEST_VA, page, PTE_P | PTE_W | PTE_U);
	trap_handle(V_TIMER, rearm);
	lapic_write(LAPIC_LVT_TIMER, V_TIMER);
	/* Again where the host was late with every timer. */
	for (unsigned times = 0; times < 2 || (times < 60 && hits <= 10); times++) {
		struct regs r = times & 1 ? regs3(self_check) : regs0(self_check);

		*page = 0;
		r.rdi = 0x123456789abc;
		r.rsi = TEST_VA;
		r.rcx = 2000000;
		r.rflags |= FLAG_IF;
		lapic_write(LAPIC_TIMER_INIT, 1);
		EXPECT(run_regs(&r), EX_DONE);
		lapic_write(LAPIC_TIMER_INIT, 0);
		SAME(*page, 2000000);
	}
	CHECK(hits > 10);
}

TESTS({"PIT through the 8259", pit_through_the_8259}, {"PIT through the IOAPIC", pit_through_the_ioapic}, {"PIT counts", pit_counts},
      {"LAPIC timer, one-shot", timer_one_shot}, {"LAPIC timer, periodic", timer_periodic}, {"LAPIC timer, TSC deadline", timer_deadline},
      {"self-IPI", self_ipi}, {"priorities", priorities}, {"TPR and CR8", task_priority}, {"APIC off", apic_off}, {"x2APIC", x2apic},
      {"sti and other shadows", shadows}, {"mov ss shadow", mov_ss_shadow}, {"hlt", halt_wakes}, {"NMI", nmi}, {"loops", loops},
      {"long string instructions", long_strings}, {"a storm", storm});
