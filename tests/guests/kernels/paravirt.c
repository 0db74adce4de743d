/* KVM's paravirtual interfaces: hypercalls, steal time with flushes that wait, ends of interrupts without an exit. */
#include "k.h"

#define V_A 0x60
#define V_B 0x61
#define MSR_STEAL 0x4b564d03u
#define MSR_EOI 0x4b564d04u
#define HC_KICK 5
#define HC_IPI 10
#define HC_YIELD 11
#define ENOSYS 1000
#define EPERM 1
#define EINVAL 22
#define PREEMPTED 1
#define FLUSH 2

enum { STEAL = 5, EOI = 6, UNHALT = 7, TLB_FLUSH = 9, IPI = 11, YIELD = 13 };

static uint32_t features;

/* KVM's leaves are at the first base that is theirs. */
static bool offered(unsigned bit)
{
	uint32_t k[4];

	for (uint32_t base = 0x40000000; !features && base < 0x40010000 && cpu_has(1, 2, 31); base += 0x100) {
		cpuid(base, 0, k);
		if (k[1] != 0x4b4d564b || k[2] != 0x564b4d56)
			continue;
		cpuid(base + 1, 0, k);
		features = k[0];
	}
	if (features >> bit & 1)
		return true;
	test_skip("KVM's feature %u is not offered", bit);
	return false;
}

/* The processor's vendor decides which of the two it is; hypervisors take both. */
static int64_t hypercall(uint64_t n, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	int64_t answer;

	if (cpu_is_amd())
		__asm__ volatile("vmmcall" : "=a"(answer) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
	else
		__asm__ volatile("vmcall" : "=a"(answer) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
	return answer;
}

static bool have_two(void)
{
	if (cpus_start() > 1)
		return true;
	test_error(__FILE__, __LINE__, "only one processor runs");
	return false;
}

static bool within(volatile unsigned *word, unsigned want)
{
	for (unsigned ms = 0; ms < 20000 && *word != want; ms++)
		delay_us(1000);
	return *word == want;
}

/* ---- hypercalls --------------------------------------------------------------------------------------- */

CODE(x_call_3, "vmcall\n\t" DONE);
CODE(x_call_3_amd, "vmmcall\n\t" DONE);

static void unknown_ones(void)
{
	struct regs r = regs3(cpu_is_amd() ? x_call_3_amd : x_call_3);

	if (!offered(0))
		return;
	SAME(hypercall(0x7fffffff, 1, 2, 3, 4), -ENOSYS);
	SAME(hypercall(~0ul, ~0ul, ~0ul, ~0ul, ~0ul), -ENOSYS);
	r.rax = HC_KICK;
	EXPECT(run_regs(&r), EX_DONE);
	SAME((int64_t)r.rax, -EPERM);
}

static volatile unsigned hits[2], stage;

static void on_a(struct frame *f)
{
	__atomic_fetch_add(&hits[cpu_number() & 1], 1, __ATOMIC_SEQ_CST);
	lapic_eoi();
}

static void ipis(void)
{
	if (!offered(IPI) || !have_two())
		return;
	trap_handle(V_A, on_a);
	hits[0] = hits[1] = 0;
	SAME(hypercall(HC_IPI, 2, 0, 0, V_A), 1);
	CHECK(within(&hits[1], 1));
	SAME(hits[0], 0);
	SAME(hypercall(HC_IPI, 1, 0, 1, V_A), 1); /* the list may begin anywhere */
	CHECK(within(&hits[1], 2));
	/* This one too: it comes when interrupts are let in. */
	SAME(hypercall(HC_IPI, 3, 0, 0, V_A), 2);
	CHECK(within(&hits[1], 3));
	SAME(hits[0], 0);
	sti();
	CHECK(within(&hits[0], 1));
	cli();
	/* Nobody there, nothing that may be sent so, no vector that there is. */
	SAME(hypercall(HC_IPI, ~3ul, ~0ul, 0, V_A), 0);
	SAME(hypercall(HC_IPI, ~0ul, ~0ul, 0xffffff00, V_A), 0);
	SAME(hypercall(HC_IPI, 2, 0, 0, ICR_INIT), -EINVAL);
	SAME(hypercall(HC_IPI, 2, 0, 0, 5), 0);
	SAME(hits[1], 3);
	trap_handle(V_A, NULL);
}

static void halt_deaf(void *arg)
{
	stage = 1;
	__asm__ volatile("cli; hlt" : : : "memory");
	stage = 2;
	/* Kicked before it halts: that halt is none. */
	while (stage != 3)
		relax();
	__asm__ volatile("hlt" : : : "memory");
	stage = 4;
}

static void kicks(void)
{
	if (!offered(UNHALT) || !have_two())
		return;
	stage = 0;
	cpu_call(1, halt_deaf, NULL);
	CHECK(within(&stage, 1));
	delay_us(20000);
	SAME(stage, 1);
	SAME(hypercall(HC_KICK, 0, 1, 0, 0), 0);
	CHECK(within(&stage, 2));
	SAME(hypercall(HC_KICK, 0, 1, 0, 0), 0);
	stage = 3;
	CHECK(within(&stage, 4));
	CHECK(cpu_wait(1));
	SAME(hypercall(HC_KICK, 0, 1234, 0, 0), 0); /* nobody */
	if (offered(YIELD)) {
		SAME(hypercall(HC_YIELD, 1, 0, 0, 0), 0);
		SAME(hypercall(HC_YIELD, 1234, 0, 0, 0), 0);
	}
}

/* ---- steal time ------------------------------------------------------------------------------------------- */

static struct steal {
	volatile uint64_t steal;
	volatile uint32_t version, flags;
	volatile uint8_t preempted;
	uint8_t pad[47];
} *steal;

static void registers(void)
{
	uint64_t value;

	if (!offered(STEAL))
		return;
	steal = page_alloc();
	EXPECT(wrmsr_try(MSR_STEAL, (uint64_t)steal | 3), EX_GP(0));
	EXPECT(wrmsr_try(MSR_STEAL, (uint64_t)steal | 0x20 | 1), EX_GP(0));
	EXPECT(wrmsr_try(MSR_STEAL, (uint64_t)steal | 1), EX_DONE);
	EXPECT(rdmsr_try(MSR_STEAL, &value), EX_DONE);
	SAME(value, (uint64_t)steal | 1);
	for (unsigned i = 0; i < 20; i++)
		delay_us(5000);
	SAME(steal->preempted, 0);
	SAME(steal->version & 1, 0);
	/* Somewhere that is no memory: nothing happens. */
	EXPECT(wrmsr_try(MSR_STEAL, 0x0000fffffffff000ul | 1), EX_DONE);
	delay_us(30000);
	EXPECT(wrmsr_try(MSR_STEAL, 0), EX_DONE);
	if (offered(EOI)) {
		EXPECT(wrmsr_try(MSR_EOI, (uint64_t)steal | 3), EX_GP(0));
		EXPECT(wrmsr_try(MSR_EOI, 0x0000fffffffff000ul | 1), EX_DONE);
		trap_handle(V_A, on_a);
		hits[0] = 0;
		ipi_self(ICR_FIXED | V_A);
		sti();
		CHECK(within(&hits[0], 1));
		cli();
		EXPECT(wrmsr_try(MSR_EOI, 0), EX_DONE);
		trap_handle(V_A, NULL);
	}
}

static volatile unsigned seen[3];

/* Its TLB knows the page; it halts, and reads again when somebody ends that. */
static void look_twice(void *arg)
{
	volatile unsigned *word = (volatile unsigned *)TEST_VA;

	wrmsr(MSR_STEAL, (uint64_t)steal | 1);
	seen[0] = *word;
	stage = 1;
	while (stage != 2)
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	seen[1] = *word;
	wrmsr(MSR_STEAL, 0);
}

static void flushes_wait(void)
{
	if (!offered(TLB_FLUSH) || !have_two())
		return;
	unsigned *one = page_alloc(), *two = page_alloc();
	steal = page_alloc();
	*one = 1;
	*two = 2;
	uint64_t *entry = map(TEST_VA, one, PTE_P | PTE_W);
	stage = 0;
	trap_handle(V_A, on_a);
	cpu_call(1, look_twice, NULL);
	CHECK(within(&stage, 1));
	for (unsigned ms = 0; ms < 20000 && !steal->preempted; ms++)
		delay_us(1000);
	SAME(steal->preempted, PREEMPTED);
	*entry = (uint64_t)two | PTE_P | PTE_W;
	uint8_t expected = PREEMPTED;
	CHECK(__atomic_compare_exchange_n(&steal->preempted, &expected, PREEMPTED | FLUSH, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
	stage = 2;
	ipi(1, ICR_FIXED | V_A);
	CHECK(cpu_wait(1));
	SAME(seen[0], 1);
	SAME(seen[1], 2);
	trap_handle(V_A, NULL);
	unmap_test_area();
}

/* ---- ends of interrupts ------------------------------------------------------------------------------------- */

static volatile uint32_t *word;
static volatile unsigned offers, ends, nested;

/* As Linux does it: a bit that is set is cleared, and that is all. One instruction: it may be taken back before. */
static void end_it(void)
{
	bool was;

	__asm__ volatile("btrl $0, %1" : "=@ccc"(was), "+m"(*word));
	if (was) {
		offers++;
	} else {
		lapic_eoi();
		ends++;
	}
}

static void on_plain(struct frame *f)
{
	hits[0]++;
	end_it();
}

/* Another one of the same class comes while this is being handled: it must still get in afterwards. */
static void on_busy(struct frame *f)
{
	hits[0]++;
	if (nested) {
		nested--;
		hypercall(HC_IPI, 1, 0, 0, V_B);
		for (volatile unsigned i = 0; i < 1000; i++)
			;
	}
	end_it();
}

static void ends_of_interrupts(void)
{
	static const unsigned rounds = 200;

	if (!offered(EOI) || !offered(IPI))
		return;
	interrupts_reset();
	word = page_alloc();
	offers = ends = 0;
	hits[0] = 0;
	trap_handle(V_A, on_plain);
	trap_handle(V_B, on_busy);
	wrmsr(MSR_EOI, (uint64_t)word | 1);
	for (unsigned i = 0; i < rounds; i++) {
		hypercall(HC_IPI, 1, 0, 0, V_A);
		sti();
		CHECK(within(&hits[0], i + 1));
		cli();
	}
	CHECK(offers > 0);
	SAME(offers + ends, rounds);
	SAME(lapic_read(LAPIC_ISR + 0x30), 0); /* vectors 0x60 to 0x7f */
	SAME(*word, 0);
	/* Lower ones are held up as long as it is not ended, and no longer. */
	hits[0] = offers = ends = 0;
	nested = 50;
	hypercall(HC_IPI, 1, 0, 0, V_B);
	sti();
	CHECK(within(&hits[0], 51));
	cli();
	SAME(offers + ends, 51);
	CHECK(ends > 0); /* those behind which one waited were told */
	SAME(lapic_read(LAPIC_ISR + 0x30), 0);
	/* One that ignores the bit. */
	hits[0] = 0;
	trap_handle(V_A, on_a);
	for (unsigned i = 0; i < 10; i++) {
		hypercall(HC_IPI, 1, 0, 0, V_A);
		sti();
		CHECK(within(&hits[0], i + 1));
		cli();
	}
	SAME(lapic_read(LAPIC_ISR + 0x30), 0);
	wrmsr(MSR_EOI, 0);
	trap_handle(V_A, NULL);
	trap_handle(V_B, NULL);
}

TESTS({"unknown hypercalls", unknown_ones}, {"interrupts to a list", ipis}, {"a kick ends a halt", kicks},
      {"registers", registers}, {"flushes wait for who does not run", flushes_wait}, {"ends of interrupts", ends_of_interrupts});
