/* Other processors: INIT, SIPI, and calls to them. */
#include "cpu.h"

extern char ap_trampoline[], ap_trampoline_end[];
extern volatile uint64_t ap_stack;
extern volatile uint32_t ap_number;
void ap_main(unsigned n);

volatile unsigned cpu_count = 1;

void ap_main(unsigned n)
{
	struct cpu *c = &cpus[n];

	cpu_init(n);
	interrupts_reset();
	__atomic_store_n(&cpu_count, n + 1, __ATOMIC_SEQ_CST);
	for (;;) {
		void (*fn)(void *arg) = __atomic_load_n(&c->call, __ATOMIC_ACQUIRE);

		if (!fn) { /* VECTOR_WAKE ends the halt */
			__asm__ volatile("sti; hlt; cli" : : : "memory");
			continue;
		}
		cr3_set(cr3_get()); /* what earlier tests mapped is no longer there */
		fn(c->call_arg);
		c->call = NULL;
		__atomic_store_n(&c->running, false, __ATOMIC_RELEASE);
	}
}

static unsigned cpus_present(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	return r[1] >> 16 & 0xff;
}

unsigned cpus_start(void)
{
	unsigned n, wait, want = cpus_present();

	if (cpu_count > 1)
		return cpu_count;
	if (want > MAX_CPUS)
		want = MAX_CPUS;
	interrupts_reset();
	memcpy((void *)AP_TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
	for (n = 1; n < want; n++) {
		ap_stack = (uint64_t)cpus[n].stack[4] + STACK_BYTES;
		ap_number = n;
		ipi(n, ICR_INIT);
		delay_us(1000);
		ipi(n, ICR_SIPI | AP_TRAMPOLINE >> 12);
		for (wait = 0; wait < 2000 && cpu_count == n; wait++)
			delay_us(1000);
		if (cpu_count == n)
			break;
	}
	return cpu_count;
}

void cpu_call(unsigned n, void (*fn)(void *arg), void *arg)
{
	cpus[n].running = true;
	cpus[n].call_arg = arg;
	__atomic_store_n(&cpus[n].call, fn, __ATOMIC_SEQ_CST);
	ipi(n, ICR_FIXED | VECTOR_WAKE);
}

bool cpu_wait(unsigned n)
{
	uint64_t until = rdtsc() + 60000 * tsc_per_ms();

	while (__atomic_load_n(&cpus[n].running, __ATOMIC_ACQUIRE)) {
		if (rdtsc() > until)
			return false;
		relax();
	}
	return true;
}
