/* Interrupt controllers and time for the test kernels. */
#include "cpu.h"

#define PIT_HZ 1193182u

uint32_t ioapic_read(unsigned reg)
{
	*(volatile uint32_t *)IOAPIC = reg;
	return *(volatile uint32_t *)(IOAPIC + 0x10);
}

void ioapic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)IOAPIC = reg;
	*(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

void lapic_eoi(void) { lapic_write(LAPIC_EOI, 0); }

void interrupts_reset(void)
{
	static bool once;
	unsigned reg, pins;

	lapic_write(LAPIC_SVR, 0x1ff);
	lapic_write(LAPIC_TPR, 0);
	for (reg = LAPIC_LVT_TIMER; reg <= 0x370; reg += 0x10)
		lapic_write(reg, 0x10000);
	lapic_write(LAPIC_TIMER_INIT, 0);
	if (__atomic_exchange_n(&once, true, __ATOMIC_SEQ_CST))
		return;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	pins = (ioapic_read(1) >> 16 & 0xff) + 1;
	for (reg = 0; reg < pins; reg++) {
		ioapic_write(0x10 + 2 * reg, 0x10000);
		ioapic_write(0x11 + 2 * reg, 0);
	}
}

static void icr_idle(void)
{
	while (lapic_read(LAPIC_ICR) & 0x1000)
		relax();
}

void ipi(unsigned apic_id, uint32_t icr)
{
	icr_idle();
	lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
	lapic_write(LAPIC_ICR, icr);
	icr_idle();
}

void ipi_self(uint32_t icr)
{
	icr_idle();
	lapic_write(LAPIC_ICR, icr | 0x40000);
	icr_idle();
}

/* Channel 2 in mode 0, its gate by port 0x61, its output there in bit 5. */
void delay_us(unsigned us)
{
	while (us) {
		unsigned part = us > 50000 ? 50000 : us;
		unsigned count = (unsigned)((uint64_t)part * PIT_HZ / 1000000) + 1;

		outb(0x61, (inb(0x61) & ~2) | 1);
		outb(0x43, 0xb0);
		outb(0x42, (uint8_t)count);
		outb(0x42, (uint8_t)(count >> 8));
		while (!(inb(0x61) & 0x20))
			relax();
		us -= part;
	}
}

uint64_t tsc_per_ms(void)
{
	static uint64_t known;

	/* The least of several: a host that is busy elsewhere makes it look longer. */
	for (unsigned i = 0; i < 4 && (i || !known); i++) {
		uint64_t from = rdtsc(), ticks;

		delay_us(5000);
		ticks = (rdtsc() - from) / 5;
		if (!known || ticks < known)
			known = ticks;
	}
	return known;
}
