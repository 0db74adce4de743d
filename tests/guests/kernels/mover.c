/*
 * A guest that is moved between engines while it runs: it counts, takes timer interrupts and IPIs, reads its clocks, and at
 * the end finds every register as it left it. tests/unit/test_move.c drives it through `box`.
 */
#include "k.h"
#include "mover.h"

#define V_TIMER 0x50
#define V_PIT 0x60
#define V_CALL 0x70
#define KVM_SYSTEM_TIME 0x4b564d01
#define ROUND 100

static struct mover_box box __attribute__((aligned(4096)));

struct pvclock {
	uint32_t version, pad0;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad[2];
};
static volatile struct pvclock clock_page __attribute__((aligned(64)));

static void on_timer(struct frame *f)
{
	box.ticks++;
	lapic_eoi();
}

static void on_pit(struct frame *f)
{
	box.pit_ticks++;
	lapic_eoi();
}

/* On the other processor, out of its halt. */
static void on_call(struct frame *f)
{
	box.calls++;
	lapic_eoi();
}

static void answer_calls(void *arg)
{
	wrmsr(0xc0000082, 0xffffffff81000ad0);
	while (box.goal != MOVER_FINISH)
		__asm__ volatile("sti; hlt; cli" : : : "memory");
	box.other_lstar = rdmsr(0xc0000082);
}

static uint64_t clock_ns(void)
{
	uint64_t ns, tsc;
	uint32_t version;

	do {
		version = clock_page.version & ~1u;
		__asm__ volatile("" : : : "memory");
		tsc = rdtsc() - clock_page.tsc_timestamp;
		if (clock_page.shift < 0)
			tsc >>= -clock_page.shift;
		else
			tsc <<= clock_page.shift;
		ns = clock_page.system_time + (uint64_t)((unsigned __int128)tsc * clock_page.mul >> 32);
		__asm__ volatile("" : : : "memory");
	} while (version != clock_page.version);
	return ns;
}

static uint64_t round_of(uint64_t sum)
{
	for (unsigned i = 0; i < ROUND; i++)
		sum = sum * 6364136223846793005u + 1442695040888963407u;
	return sum;
}

/* ---- registers that nothing here touches meanwhile ------------------------------------------------- */

static const struct {
	uint32_t number;
	uint64_t value;
} msrs[] = {
	{0xc0000081, 0x0023001000000000}, {0xc0000082, 0xffffffff81000010}, {0xc0000083, 0xffffffff81000020},
	{0xc0000084, 0x47700}, {0xc0000100, 0x7ffff7d8a740}, {0xc0000101, 0xffff88807dc00000}, {0xc0000102, 0x7fffdeadbee0},
	{0x174, 0x10}, {0x175, 0xfffffe0000003000}, {0x176, 0xffffffff81000030}, {0x277, 0x0407050600070106},
};

static uint8_t vectors[16][16] __attribute__((aligned(16)));

static void vectors_store(void)
{
#define STORE(n) __asm__ volatile("movaps %%xmm" #n ", %0" : "=m"(vectors[n]))
	STORE(0); STORE(1); STORE(2); STORE(3); STORE(4); STORE(5); STORE(6); STORE(7);
	STORE(8); STORE(9); STORE(10); STORE(11); STORE(12); STORE(13); STORE(14); STORE(15);
}

static void vectors_load(void)
{
#define LOAD(n) __asm__ volatile("movaps %0, %%xmm" #n : : "m"(vectors[n]))
	LOAD(0); LOAD(1); LOAD(2); LOAD(3); LOAD(4); LOAD(5); LOAD(6); LOAD(7);
	LOAD(8); LOAD(9); LOAD(10); LOAD(11); LOAD(12); LOAD(13); LOAD(14); LOAD(15);
}

static uint8_t pattern(unsigned n, unsigned i) { return (uint8_t)(n * 17 + i * 3 + 1); }

static void leave_traces(void)
{
	uint32_t mxcsr = 0x5f80; /* round up */

	for (unsigned n = 0; n < 16; n++)
		for (unsigned i = 0; i < 16; i++)
			vectors[n][i] = pattern(n, i);
	vectors_load();
	__asm__ volatile("ldmxcsr %0; fninit; fldpi; fld1; fldl2e" : : "m"(mxcsr));
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		wrmsr(msrs[i].number, msrs[i].value);
	__asm__ volatile("mov %0, %%dr0; mov %1, %%dr1; mov %2, %%dr2; mov %3, %%dr3"
			 : : "r"(0x1111ul), "r"(0x2222ul), "r"(0x3333ul), "r"(0x4444ul));
}

static void check_traces(void)
{
	uint64_t d[4];
	uint32_t mxcsr;
	uint16_t control;
	double top[3];

	vectors_store();
	for (unsigned n = 0; n < 16; n++)
		for (unsigned i = 0; i < 16; i++)
			if (vectors[n][i] != pattern(n, i)) {
				test_failure(__FILE__, __LINE__, "xmm%u byte %u is 0x%x", n, i, vectors[n][i]);
				break;
			}
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(control));
	SAME(mxcsr & ~0x3fu, 0x5f80);
	SAME(control, 0x37f);
	__asm__ volatile("fstpl %0; fstpl %1; fstpl %2" : "=m"(top[0]), "=m"(top[1]), "=m"(top[2]));
	SAME(*(uint64_t *)&top[0], 0x3ff71547652b82fe); /* log2 e, 1, pi */
	SAME(*(uint64_t *)&top[1], 0x3ff0000000000000);
	SAME(*(uint64_t *)&top[2], 0x400921fb54442d18);
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		if (rdmsr(msrs[i].number) != msrs[i].value)
			test_failure(__FILE__, __LINE__, "MSR 0x%x is 0x%lx, not 0x%lx", msrs[i].number, rdmsr(msrs[i].number),
				     msrs[i].value);
	__asm__ volatile("mov %%dr0, %0; mov %%dr1, %1; mov %%dr2, %2; mov %%dr3, %3"
			 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]));
	for (unsigned i = 0; i < 4; i++)
		SAME(d[i], 0x1111ul * (i + 1));
}

/* ---- the run ------------------------------------------------------------------------------------------- */

static void timers_on(void)
{
	trap_handle(V_TIMER, on_timer);
	trap_handle(V_PIT, on_pit);
	trap_handle(V_CALL, on_call);
	lapic_write(LAPIC_TIMER_DIVIDE, 0xb); /* 1 */
	lapic_write(LAPIC_LVT_TIMER, 0x20000 | V_TIMER);
	lapic_write(LAPIC_TIMER_INIT, 7000000);
	ioapic_write(0x10 + 2 * 2, V_PIT);
	ioapic_write(0x11 + 2 * 2, 0);
	outb(0x43, 0x34); /* counter 0, both bytes, mode 2 */
	outb(0x40, 0x9c); /* 100 Hz */
	outb(0x40, 0x2e);
}

static void timers_off(void)
{
	lapic_write(LAPIC_LVT_TIMER, 0x10000);
	ioapic_write(0x10 + 2 * 2, 0x10000);
	outb(0x43, 0x30);
}

static void moved(void)
{
	uint64_t sum = 1, tsc, last_tsc = 0, ns, last_ns = 0, again = 1;

	SAME(cpus_start(), 2);
	note("box 0x%lx", (uint64_t)&box);
	wrmsr(KVM_SYSTEM_TIME, (uint64_t)&clock_page | 1);
	CHECK(clock_page.version);
	leave_traces();
	timers_on();
	cpu_call(1, answer_calls, NULL);
	sti();
	while (box.goal != MOVER_FINISH) {
		sum = round_of(sum);
		tsc = rdtsc();
		if (tsc < last_tsc)
			box.tsc_back = last_tsc - tsc;
		last_tsc = tsc;
		ns = clock_ns();
		if (ns < last_ns && last_ns - ns > box.clock_back)
			box.clock_back = last_ns - ns;
		if (last_ns && ns > last_ns && ns - last_ns > box.clock_jump)
			box.clock_jump = ns - last_ns;
		last_ns = ns;
		box.steps++;
		if (box.steps % 8 == 0)
			ipi(1, ICR_FIXED | V_CALL);
	}
	cli();
	timers_off();
	check_traces();
	ipi(1, ICR_FIXED | V_CALL);
	CHECK(cpu_wait(1));
	SAME(box.other_lstar, 0xffffffff81000ad0);
	for (uint64_t i = 0; i < box.steps; i++)
		again = round_of(again);
	SAME(sum, again);
	SAME(box.tsc_back, 0);
	wrmsr(KVM_SYSTEM_TIME, 0);
}

TESTS({"moved", moved});
