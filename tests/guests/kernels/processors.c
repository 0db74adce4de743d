/* Several processors: start, interrupts between them, atomics, shootdowns, patching each other's code, time. */
#include "k.h"

#define VA TEST_VA
#define V_IPI 0x60
#define V_SYNC 0x61

static volatile unsigned stop, ready;
static unsigned n_cpus;

/* Runs fn on all others, and on this one if `self`. False: somebody did not come back. */
static bool everywhere(void (*fn)(void *), void *arg, bool self)
{
	bool ok = true;

	ready = 0;
	for (unsigned i = 1; i < n_cpus; i++)
		cpu_call(i, fn, arg);
	if (self)
		fn(arg);
	for (unsigned i = 1; i < n_cpus; i++)
		ok &= cpu_wait(i);
	return ok;
}

static void arrive(void)
{
	__atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
}

static void wait_all(unsigned n)
{
	while (ready < n)
		relax();
}

static bool have_several(void)
{
	n_cpus = cpus_start();
	if (n_cpus > 1)
		return true;
	test_error(__FILE__, __LINE__, "only one processor runs");
	return false;
}

static unsigned own_apic_id(void) { return lapic_read(LAPIC_ID) >> 24; }

/* ---- start ------------------------------------------------------------------------------ */

static volatile unsigned ids[MAX_CPUS], cpuid_ids[MAX_CPUS];

static void tell_id(void *arg)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	ids[cpu_number()] = own_apic_id();
	cpuid_ids[cpu_number()] = r[1] >> 24;
}

static void all_start(void)
{
	uint32_t r[4];

	if (!have_several())
		return;
	cpuid(1, 0, r);
	SAME(n_cpus, (r[1] >> 16 & 0xff) < MAX_CPUS ? r[1] >> 16 & 0xff : MAX_CPUS);
	CHECK(everywhere(tell_id, NULL, true));
	for (unsigned i = 0; i < n_cpus; i++) {
		SAME(ids[i], i);
		SAME(cpuid_ids[i], i);
	}
	SAME(rdmsr(0x1b) >> 8 & 1, 1); /* this is the boot processor */
}

static volatile uint64_t ap_base;
static void read_apic_base(void *arg) { ap_base = rdmsr(0x1b); }

static void bsp_flag(void)
{
	if (!have_several())
		return;
	cpu_call(1, read_apic_base, NULL);
	CHECK(cpu_wait(1));
	SAME(ap_base >> 8 & 1, 0);
	SAME(ap_base >> 11 & 1, 1);
}

/* ---- atomics ------------------------------------------------------------------------------ */

#define ROUNDS 20000

static struct shared {
	volatile uint64_t inc, xadd, cas, lock, plain, bits, half, wide[2] __attribute__((aligned(16)));
	uint8_t split[256] __attribute__((aligned(64)));
} *shared;
static uint8_t *edge; /* 8 bytes across two pages */

static void hammer(void *arg)
{
	arrive();
	wait_all(n_cpus);
	for (unsigned i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incq %0" : "+m"(shared->inc));
		uint64_t three = 3;
		__asm__ volatile("lock xaddq %1, %0" : "+m"(shared->xadd), "+r"(three));
		__asm__ volatile("lock addw $1, %0" : "+m"(shared->half));
		uint64_t old = shared->cas;
		while (!__atomic_compare_exchange_n(&shared->cas, &old, old + 7, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		while (__atomic_exchange_n(&shared->lock, 1, __ATOMIC_ACQUIRE))
			relax();
		shared->plain++;
		__atomic_store_n(&shared->lock, 0, __ATOMIC_RELEASE);
		uint64_t lo, hi;
		uint8_t ok;
		do {
			lo = shared->wide[0];
			hi = shared->wide[1];
			__asm__ volatile("lock cmpxchg16b %0\n\tsetz %1" : "+m"(*(__int128 *)shared->wide), "=q"(ok), "+a"(lo), "+d"(hi)
					 : "b"(lo + 1), "c"(hi + 2) : "memory", "cc");
		} while (!ok);
		if (i % 8 == 0) { /* split across cache lines; slow on any processor */
			__asm__ volatile("lock addl $1, %0" : "+m"(*(uint32_t *)(shared->split + 62)));
		}
	}
}

static void atomics(void)
{
	if (!have_several())
		return;
	shared = page_alloc();
	CHECK(everywhere(hammer, NULL, true));
	SAME(shared->inc, (uint64_t)ROUNDS * n_cpus);
	SAME(shared->xadd, (uint64_t)ROUNDS * n_cpus * 3);
	SAME((uint16_t)shared->half, (uint16_t)(ROUNDS * n_cpus));
	SAME(shared->cas, (uint64_t)ROUNDS * n_cpus * 7);
	SAME(shared->plain, (uint64_t)ROUNDS * n_cpus);
	SAME(shared->wide[0], (uint64_t)ROUNDS * n_cpus);
	SAME(shared->wide[1], (uint64_t)ROUNDS * n_cpus * 2);
	SAME(*(uint32_t *)(shared->split + 62), ROUNDS / 8 * n_cpus);
}

static void hammer_edge(void *arg)
{
	arrive();
	wait_all(n_cpus);
	for (unsigned i = 0; i < 2000; i++)
		__asm__ volatile("lock addq $1, %0" : "+m"(*(uint64_t *)edge));
}

/* Locked operations across two pages that are not even neighbours in memory. */
static void atomics_across_pages(void)
{
	if (!have_several())
		return;
	uint8_t *a = page_alloc(), *gap = page_alloc(), *b = page_alloc();

	(void)gap;
	map(VA, a, PTE_P | PTE_W);
	map(VA + PAGE, b, PTE_P | PTE_W);
	edge = (uint8_t *)VA + PAGE - 3;
	*(uint64_t *)edge = 0x00fffe00;
	CHECK(everywhere(hammer_edge, NULL, true));
	SAME(*(uint64_t *)edge, 0x00fffe00 + 2000ul * n_cpus);
	(void)b;
}

/* Locked operations on a page that holds code: every store to it goes a longer way. */
static void hammer_code_page(void *arg)
{
	volatile uint64_t *counter = arg;

	arrive();
	wait_all(n_cpus);
	for (unsigned i = 0; i < 3000; i++) {
		__asm__ volatile("lock incq %0" : "+m"(*counter));
		uint32_t one = 1;
		__asm__ volatile("lock xaddl %1, %0" : "+m"(*(uint32_t *)(counter + 1)), "+r"(one));
		__asm__ volatile("call *%0" : : "r"((uint64_t)counter & ~4095ul) : "rax", "memory", "cc");
	}
}

static void atomics_in_a_code_page(void)
{
	if (!have_several())
		return;
	uint8_t *page = page_alloc();

	memcpy(page, "\xb8\x01\x00\x00\x00\xc3", 6);
	CHECK(everywhere(hammer_code_page, page + 2048, true));
	SAME(*(uint64_t *)(page + 2048), 3000ul * n_cpus);
	SAME(*(uint32_t *)(page + 2056), 3000ul * n_cpus);
}

/* ---- order of memory ------------------------------------------------------------------------- */

static volatile uint64_t *flag_a, *flag_b;
static volatile unsigned broken;

/* Message passing: data, then the flag; whoever sees the flag sees the data. */
static void receive(void *arg)
{
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		while (*flag_b < i)
			relax();
		if (*flag_a < i)
			broken++;
	}
}

static void message_passing(void)
{
	if (!have_several())
		return;
	flag_a = page_alloc();
	flag_b = page_alloc();
	broken = 0;
	cpu_call(1, receive, NULL);
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		*flag_a = i;
		*flag_b = i;
	}
	CHECK(cpu_wait(1));
	SAME(broken, 0);
}

static volatile uint64_t seen[2][ROUNDS], turn[2];

static void dekker(void *arg)
{
	unsigned me = arg != NULL;

	for (uint64_t i = 0; i < ROUNDS; i++) {
		__atomic_fetch_add(&turn[me], 1, __ATOMIC_SEQ_CST);
		while (turn[!me] < i + 1)
			relax();
		*(me ? flag_a : flag_b) = i + 1;
		__asm__ volatile("mfence" : : : "memory");
		seen[me][i] = *(me ? flag_b : flag_a);
	}
}

static void store_then_load(void)
{
	unsigned both_old = 0;

	if (!have_several())
		return;
	flag_a = page_alloc();
	flag_b = page_alloc();
	turn[0] = turn[1] = 0;
	cpu_call(1, dekker, (void *)1);
	dekker(NULL);
	CHECK(cpu_wait(1));
	for (uint64_t i = 0; i < ROUNDS; i++)
		both_old += seen[0][i] < i + 1 && seen[1][i] < i + 1;
	SAME(both_old, 0);
}

/* ---- interrupts between processors --------------------------------------------------------------- */

static volatile unsigned ipis[MAX_CPUS], nmis[MAX_CPUS];

static void count_ipi(struct frame *f)
{
	ipis[cpu_number()]++;
	lapic_eoi();
}
static void count_nmi(struct frame *f) { nmis[cpu_number()]++; }

static void spin_open(void *arg)
{
	arrive();
	sti();
	while (!stop)
		relax();
	cli();
}

static void halt_open(void *arg)
{
	arrive();
	while (!stop)
		__asm__ volatile("sti; hlt; cli" : : : "memory");
}

static bool wait_for(volatile unsigned *what, unsigned n)
{
	uint64_t until = rdtsc() + 30000 * tsc_per_ms();

	while (*what < n)
		if (rdtsc() > until)
			return false;
		else
			relax();
	return true;
}

static void begin(void (*fn)(void *), void *arg)
{
	stop = 0;
	ready = 0;
	for (unsigned i = 1; i < n_cpus; i++)
		cpu_call(i, fn, arg);
	wait_all(n_cpus - 1);
}

static void end(void)
{
	stop = 1;
	lapic_write(LAPIC_ICR, 0xc0000 | ICR_FIXED | V_IPI); /* wakes the halted */
	for (unsigned i = 1; i < n_cpus; i++)
		CHECK(cpu_wait(i));
}

static void ipi_kinds(void (*how)(void *))
{
	trap_handle(V_IPI, count_ipi);
	trap_handle(VEC_NMI, count_nmi);
	for (unsigned i = 0; i < MAX_CPUS; i++)
		ipis[i] = nmis[i] = 0;
	begin(how, NULL);
	for (unsigned round = 1; round <= 20; round++) {
		for (unsigned i = 1; i < n_cpus; i++) {
			ipi(i, ICR_FIXED | V_IPI);
			CHECK(wait_for(&ipis[i], round));
		}
		SAME(ipis[0], 0);
	}
	for (unsigned round = 21; round <= 40; round++) {
		lapic_write(LAPIC_ICR, 0xc0000 | ICR_FIXED | V_IPI); /* all but self */
		for (unsigned i = 1; i < n_cpus; i++)
			CHECK(wait_for(&ipis[i], round));
	}
	for (unsigned round = 1; round <= 20; round++)
		for (unsigned i = 1; i < n_cpus; i++) {
			ipi(i, ICR_NMI);
			CHECK(wait_for(&nmis[i], round));
		}
	SAME(ipis[0], 0);
	SAME(nmis[0], 0);
	end();
}

static void ipis_to_spinning(void)
{
	if (have_several())
		ipi_kinds(spin_open);
}

static void ipis_to_halted(void)
{
	if (have_several())
		ipi_kinds(halt_open);
}

/* Everybody interrupts everybody. */
static void send_to_all(void *arg)
{
	arrive();
	wait_all(n_cpus);
	sti();
	for (unsigned i = 0; i < 100; i++) {
		unsigned me = cpu_number(), to = (me + 1 + i % (n_cpus - 1)) % n_cpus, before = ipis[to];

		ipi(to, ICR_FIXED | V_IPI);
		while (ipis[to] == before)
			relax();
	}
	arrive(); /* and stay open for those who still send here */
	wait_all(2 * n_cpus);
	cli();
}

static void ipi_storm(void)
{
	if (!have_several())
		return;
	trap_handle(V_IPI, count_ipi);
	stop = 0;
	ready = 0;
	for (unsigned i = 0; i < MAX_CPUS; i++)
		ipis[i] = 0;
	for (unsigned i = 1; i < n_cpus; i++)
		cpu_call(i, send_to_all, NULL);
	send_to_all(NULL);
	for (unsigned i = 1; i < n_cpus; i++)
		CHECK(cpu_wait(i));
}

/* ---- shootdowns ------------------------------------------------------------------------------------ */

static volatile unsigned acks, stale;
static volatile uint64_t generation;

static void flush_ipi(struct frame *f)
{
	invlpg(VA);
	__atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
	lapic_eoi();
}

static void flush_ipi_cr3(struct frame *f)
{
	cr3_set(cr3_get());
	__atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST);
	lapic_eoi();
}

static bool shoot(unsigned vector)
{
	acks = 0;
	lapic_write(LAPIC_ICR, 0xc0000 | ICR_FIXED | vector);
	invlpg(VA);
	return wait_for(&acks, n_cpus - 1);
}

static void read_generations(void *arg)
{
	arrive();
	sti();
	while (!stop) {
		uint64_t g = __atomic_load_n(&generation, __ATOMIC_ACQUIRE);
		uint64_t v = *(volatile uint64_t *)VA;

		if (v < g)
			stale++;
	}
	cli();
}

static void shootdown_of_reads(void)
{
	if (!have_several())
		return;
	uint64_t *pages = pages_alloc(64), *e;

	stale = 0;
	generation = 0;
	e = map(VA, pages, PTE_P | PTE_W);
	trap_handle(V_SYNC, flush_ipi);
	trap_handle(V_IPI, count_ipi);
	begin(read_generations, NULL);
	for (uint64_t g = 1; g < 150; g++) {
		uint64_t *page = pages + g % 64 * 512;

		*page = g;
		*(volatile uint64_t *)e = (uint64_t)page | PTE_P | PTE_W;
		if (!shoot(V_SYNC)) {
			CHECK(!"acknowledged");
			break;
		}
		/* The old page may be reused: it must not be read any more. */
		pages[(g - 1) % 64 * 512] = 0;
		__atomic_store_n(&generation, g, __ATOMIC_RELEASE);
	}
	end();
	SAME(stale, 0);
}

static void call_generations(void *arg)
{
	arrive();
	sti();
	while (!stop) {
		uint64_t g = __atomic_load_n(&generation, __ATOMIC_ACQUIRE), v;

		__asm__ volatile("xor %%eax, %%eax\n\tcall *%1" : "=a"(v) : "r"(VA) : "memory", "cc");
		if ((uint32_t)v < g)
			stale++;
	}
	cli();
}

/* The same with code: after the acknowledgement nobody runs the old page. */
static void shootdown_of_code(void)
{
	if (!have_several())
		return;
	uint8_t *pages = pages_alloc(16);
	uint64_t *e;

	stale = 0;
	generation = 0;
	for (unsigned i = 0; i < 16; i++)
		memcpy(pages + i * PAGE, "\xb8\x00\x00\x00\x00\xc3", 6);
	e = map(VA, pages, PTE_P);
	trap_handle(V_SYNC, flush_ipi_cr3);
	trap_handle(V_IPI, count_ipi);
	begin(call_generations, NULL);
	for (uint32_t g = 1; g < 80; g++) {
		uint8_t *page = pages + g % 16 * PAGE;

		memcpy(page + 1, &g, 4);
		*(volatile uint64_t *)e = (uint64_t)page | PTE_P;
		if (!shoot(V_SYNC)) {
			CHECK(!"acknowledged");
			break;
		}
		__atomic_store_n(&generation, g, __ATOMIC_RELEASE);
	}
	end();
	SAME(stale, 0);
}

CODE(incs, "1: incq (%rdi)\n\tjmp 1b\n\tincs_end: " DONE);
LABEL(incs_end);
/* Ends such a loop. */
static void end_incs(struct frame *f)
{
	if (f->rip - (uint64_t)incs < (uint64_t)(incs_end - incs))
		f->rip = (uint64_t)incs_end;
	lapic_eoi();
}

static uint64_t *guarded_entry;
static volatile uint64_t faults;

/* Writes on and on; a fault waits until the page is writable again. */
static void write_on(void *arg)
{
	struct regs r = regs0(incs);

	arrive();
	r.rdi = VA + 8 * cpu_number();
	r.rflags |= FLAG_IF;
	while (!stop) {
		uint64_t ex = run_regs(&r);

		if (ex == EX_PF(PF_P | PF_W))
			__atomic_fetch_add(&faults, 1, __ATOMIC_SEQ_CST);
		else if (ex != EX_DONE)
			__atomic_fetch_add(&broken, 1, __ATOMIC_SEQ_CST);
		sti();
		while (!stop && !(*(volatile uint64_t *)guarded_entry & PTE_W))
			relax();
		cli();
		r.rflags |= FLAG_IF;
	}
}

static void shootdown_of_writes(void)
{
	if (!have_several())
		return;
	uint64_t *page = page_alloc(), copy[MAX_CPUS];
	unsigned changed = 0;

	faults = broken = 0;
	guarded_entry = map(VA, page, PTE_P | PTE_W);
	trap_handle(V_SYNC, flush_ipi);
	trap_handle(V_IPI, end_incs);
	begin(write_on, NULL);
	for (unsigned round = 0; round < 50; round++) {
		delay_us(200);
		__asm__ volatile("lock andq $-3, %0" : "+m"(*guarded_entry));
		if (!shoot(V_SYNC)) {
			CHECK(!"acknowledged");
			break;
		}
		memcpy(copy, page, sizeof(copy));
		for (volatile int i = 0; i < 3000; i++)
			;
		changed += memcmp(copy, page, sizeof(copy)) != 0;
		__asm__ volatile("lock orq $2, %0" : "+m"(*guarded_entry));
	}
	end();
	SAME(changed, 0);
	SAME(broken, 0);
	CHECK(faults > 0);
	for (unsigned i = 1; i < n_cpus; i++)
		CHECK(page[i] > 0);
}

/* A and D are set by others while this one changes other bits of the same entry: no update is lost. */
static void touch(void *arg)
{
	arrive();
	while (!stop) {
		invlpg(VA);
		(void)*(volatile uint64_t *)VA;
		invlpg(VA);
		*(volatile uint64_t *)(VA + 8 * cpu_number()) = 1;
	}
}

static void entries_are_updated_atomically(void)
{
	if (!have_several())
		return;
	uint64_t *e = map(VA, page_alloc(), PTE_P | PTE_W);

	begin(touch, NULL);
	for (unsigned i = 0; i < 3000; i++) {
		__asm__ volatile("lock addq %1, %0" : "+m"(*e) : "r"(1ul << 52)); /* bits 52.. are ignored ones, mod 1024 */
		if (i % 1024 == 1023)
			__asm__ volatile("lock andq %1, %0" : "+m"(*e) : "r"(~(0x7fful << 52)));
		if (i % 16 == 0)
			__asm__ volatile("lock andq %1, %0" : "+m"(*e) : "r"(~(PTE_A | PTE_D)));
	}
	stop = 1;
	for (unsigned i = 1; i < n_cpus; i++)
		CHECK(cpu_wait(i));
	SAME(*e >> 52, 3000 % 1024);
}

/* ---- patching each other's code ------------------------------------------------------------------------ */

static uint8_t *target;
static volatile unsigned torn, breakpoints;
static volatile uint32_t last_seen[MAX_CPUS];

static void sync_ipi(struct frame *f)
{
	__atomic_fetch_add(&acks, 1, __ATOMIC_SEQ_CST); /* iret serializes */
	lapic_eoi();
}

static void on_breakpoint(struct frame *f)
{
	__atomic_fetch_add(&breakpoints, 1, __ATOMIC_SEQ_CST);
	f->rip--; /* again, until it is code */
}

static void call_target(void *arg)
{
	arrive();
	sti();
	while (!stop) {
		uint32_t v;

		__asm__ volatile("call *%1" : "=a"(v) : "r"(target) : "memory", "cc");
		/* Four equal bytes, whichever version. */
		if ((v & 0xff) * 0x01010101u != v)
			torn++;
		last_seen[cpu_number()] = v;
	}
	cli();
}

static void sync_all(void)
{
	acks = 0;
	lapic_write(LAPIC_ICR, 0xc0000 | ICR_FIXED | V_SYNC);
	CHECK(wait_for(&acks, n_cpus - 1));
}

static void text_poke(void)
{
	if (!have_several())
		return;
	torn = breakpoints = 0;
	target = (uint8_t *)page_alloc() + PAGE - 3; /* mov $imm32, %eax across two pages */
	page_alloc();
	memcpy(target, "\xb8\x00\x00\x00\x00\xc3", 6);
	trap_handle(V_SYNC, sync_ipi);
	trap_handle(V_IPI, count_ipi);
	trap_handle(VEC_BP, on_breakpoint);
	for (unsigned where = 0; where < 2; where++) {
		begin(call_target, NULL);
		for (unsigned i = 1; i < 40; i++) {
			*(volatile uint8_t *)target = 0xcc;
			sync_all();
			for (unsigned k = 1; k <= 4; k++)
				*(volatile uint8_t *)(target + k) = (uint8_t)i;
			sync_all();
			*(volatile uint8_t *)target = 0xb8;
			sync_all();
			uint32_t want = (i & 0xff) * 0x01010101u;
			for (unsigned c = 1; c < n_cpus; c++) {
				uint64_t until = rdtsc() + 20000 * tsc_per_ms();
				while (last_seen[c] != want && rdtsc() < until)
					relax();
				if (last_seen[c] != want)
					test_failure(__FILE__, __LINE__, "cpu %u still sees 0x%x, not 0x%x", c, last_seen[c], want);
			}
		}
		end();
		target = (uint8_t *)page_alloc() + 100; /* and within one */
		memcpy(target, "\xb8\x00\x00\x00\x00\xc3", 6);
	}
	SAME(torn, 0);
	note("%s", breakpoints ? "breakpoints were hit" : "no breakpoint was hit");
}

/* An aligned store over an immediate: old or new, never a mixture, and new before long, with no synchronization. */
static void aligned_patch(void)
{
	if (!have_several())
		return;
	torn = 0;
	target = (uint8_t *)page_alloc() + 64 - 1;
	memcpy(target, "\xb8\x00\x00\x00\x00\xc3", 6);
	trap_handle(V_IPI, count_ipi);
	begin(call_target, NULL);
	for (unsigned i = 1; i < 60; i++) {
		uint32_t want = (i & 0xff) * 0x01010101u;

		*(volatile uint32_t *)(target + 1) = want;
		for (unsigned c = 1; c < n_cpus; c++) {
			uint64_t until = rdtsc() + 20000 * tsc_per_ms();
			while (last_seen[c] != want && rdtsc() < until)
				relax();
			if (last_seen[c] != want)
				test_failure(__FILE__, __LINE__, "cpu %u still sees 0x%x, not 0x%x", c, last_seen[c], want);
		}
	}
	end();
	SAME(torn, 0);
}

/* New code, then a flag: whoever saw the flag and serialized runs the new code. */
static void follow(void *arg)
{
	uint32_t r[4], v;

	for (uint64_t i = 1; i <= 120; i++) {
		while (__atomic_load_n(flag_a, __ATOMIC_ACQUIRE) < i)
			relax();
		cpuid(0, 0, r);
		__asm__ volatile("call *%1" : "=a"(v) : "r"(target) : "memory", "cc");
		if (v != i)
			torn++;
		__atomic_fetch_add(flag_b, 1, __ATOMIC_SEQ_CST);
	}
}

static void modify_then_flag(void)
{
	if (!have_several())
		return;
	torn = 0;
	flag_a = page_alloc();
	flag_b = page_alloc();
	target = page_alloc();
	memcpy(target, "\xb8\x00\x00\x00\x00\xc3", 6);
	for (unsigned c = 1; c < n_cpus; c++)
		cpu_call(c, follow, NULL);
	for (uint32_t i = 1; i <= 120; i++) {
		memcpy(target + 1, &i, 4);
		__atomic_store_n(flag_a, i, __ATOMIC_RELEASE);
		while (*flag_b < (uint64_t)i * (n_cpus - 1))
			relax();
	}
	for (unsigned c = 1; c < n_cpus; c++)
		CHECK(cpu_wait(c));
	SAME(torn, 0);
}

/* Everybody patches and runs code of their own in one shared page. */
static void patch_own(void *arg)
{
	uint8_t *at = target + 256 * cpu_number();
	uint32_t v;

	arrive();
	wait_all(n_cpus);
	memcpy(at, "\xb8\x00\x00\x00\x00\xc3", 6);
	for (uint32_t i = 0; i < 1000; i++) {
		memcpy(at + 1, &i, 4);
		__asm__ volatile("call *%1" : "=a"(v) : "r"(at) : "memory", "cc");
		if (v != i)
			__atomic_fetch_add(&torn, 1, __ATOMIC_SEQ_CST);
	}
}

static void patching_in_one_page(void)
{
	if (!have_several())
		return;
	torn = 0;
	target = page_alloc();
	CHECK(everywhere(patch_own, NULL, true));
	SAME(torn, 0);
}

/* ---- time ---------------------------------------------------------------------------------------------------- */

static volatile uint64_t last_tsc;
static volatile unsigned backwards;

static void watch_tsc(void *arg)
{
	arrive();
	wait_all(n_cpus);
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t seen_tsc = __atomic_load_n(&last_tsc, __ATOMIC_ACQUIRE), now;

		__asm__ volatile("lfence" : : : "memory");
		now = rdtsc();
		if (now < seen_tsc)
			__atomic_fetch_add(&backwards, 1, __ATOMIC_SEQ_CST);
		while (now > seen_tsc && !__atomic_compare_exchange_n(&last_tsc, &seen_tsc, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
	}
}

static void tsc_is_monotonic(void)
{
	if (!have_several())
		return;
	last_tsc = 0;
	backwards = 0;
	CHECK(everywhere(watch_tsc, NULL, true));
	SAME(backwards, 0);
}

/* ---- INIT again ---------------------------------------------------------------------------------------------------- */

extern char probe_16[], probe_16_end[];
__asm__(".text\n\t.code16\n"
	"probe_16: mov %eax, %cs:0x104\n\tmov %edx, %cs:0x10c\n\tmov %cr0, %eax\n\tmov %eax, %cs:0x100\n\tmov %cs, %ax\n\tmov %ax, %cs:0x110\n\t"
	"mov %ds, %ax\n\tmov %ax, %cs:0x112\n\tpushfl\n\tpopl %eax\n\tmov %eax, %cs:0x108\n\tmovw $0x5a5a, %cs:0x114\n\t1: hlt\n\tjmp 1b\n"
	"probe_16_end:\n\t.code64");

static void init_and_sipi_again(void)
{
	volatile uint8_t *page = (uint8_t *)0x9000;
	uint64_t until;

	if (!have_several())
		return;
	memset((void *)page, 0, PAGE);
	memcpy((void *)page, probe_16, (size_t)(probe_16_end - probe_16));
	/* Its stack for pushf: ss:esp is 0:0 after INIT, so the push goes to 0xfffc, which is RAM. */
	ipi(n_cpus - 1, ICR_INIT);
	delay_us(1000);
	ipi(n_cpus - 1, ICR_SIPI | 9);
	until = rdtsc() + 30000 * tsc_per_ms();
	while (*(volatile uint16_t *)(page + 0x114) != 0x5a5a && rdtsc() < until)
		relax();
	SAME(*(volatile uint16_t *)(page + 0x114), 0x5a5a);
	SAME(*(volatile uint32_t *)(page + 0x100) & 0x9fffffff, 0x10); /* CD and NW are kept by INIT */
	SAME(*(volatile uint32_t *)(page + 0x104), 0);
	SAME(*(volatile uint32_t *)(page + 0x108) & ~0x8d5u, 2);
	SAME(*(volatile uint16_t *)(page + 0x110), 0x900);
	SAME(*(volatile uint16_t *)(page + 0x112), 0);
	/* A SIPI to one that runs is ignored. */
	*(volatile uint16_t *)(page + 0x114) = 0;
	ipi(n_cpus - 1, ICR_SIPI | 9);
	delay_us(2000);
	SAME(*(volatile uint16_t *)(page + 0x114), 0);
	cpu_count = n_cpus = n_cpus - 1; /* it is lost to what follows */
}

TESTS({"all start", all_start}, {"the boot processor's flag", bsp_flag}, {"atomics", atomics}, {"atomics across pages", atomics_across_pages},
      {"atomics in a code page", atomics_in_a_code_page}, {"message passing", message_passing}, {"store, fence, load", store_then_load},
      {"IPIs to spinning processors", ipis_to_spinning}, {"IPIs to halted processors", ipis_to_halted}, {"everybody to everybody", ipi_storm},
      {"shootdown of reads", shootdown_of_reads}, {"shootdown of code", shootdown_of_code}, {"shootdown of writes", shootdown_of_writes},
      {"entries are updated atomically", entries_are_updated_atomically}, {"text_poke", text_poke}, {"an aligned patch", aligned_patch},
      {"modify, then flag", modify_then_flag}, {"patching in one page", patching_in_one_page}, {"the TSC is monotonic", tsc_is_monotonic},
      {"INIT and SIPI again", init_and_sipi_again});
