/* PCI: enumeration, BAR sizing and moving, INTx, MSI-X; then any access a hostile guest might make. */
#include <string.h>

#include "tests/unit/machine_fixture.h"

/* A device with every kind of BAR, which remembers what it was asked. */
struct probe_device {
	struct pci_device pci;
	uint64_t last_offset, last_value;
	unsigned reads, writes, resets;
};

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned size)
{
	struct probe_device *p = opaque;
	p->reads++;
	p->last_offset = offset;
	return 0x1122334455667788ull;
}

static void probe_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct probe_device *p = opaque;
	p->writes++;
	p->last_offset = offset;
	p->last_value = value;
}

static void probe_reset(struct pci_device *dev)
{
	struct probe_device *p = dev->opaque;
	p->resets++;
}

static const struct bus_ops probe_ops = { .read = probe_read, .write = probe_write, .max = 4 };

#define SLOT 3u

static void probe_add(struct fixture *f, struct probe_device *p)
{
	static const struct pci_identity id = { .vendor = 0x1af4, .device = 0x1042, .subsystem_vendor = 0x1af4,
						.subsystem = 0x1100, .class_device = 0x0100, .interrupt_pin = 1 };
	memset(p, 0, sizeof(*p));
	assert_int_equal(pci_register(f->machine, &p->pci, "io_probe", SLOT, 0, &id), 0);
	p->pci.opaque = p;
	p->pci.reset = probe_reset;
	pci_bar_add(&p->pci, 0, PCI_BAR_IO, 64, &probe_ops, p);
	pci_bar_add(&p->pci, 1, PCI_BAR_MEM32, 0x2000, &probe_ops, p);
	pci_bar_add(&p->pci, 4, PCI_BAR_MEM64, 0x4000, &probe_ops, p);
	assert_int_equal(pci_msix_add(&p->pci, 1, 3, 0x1000, 0x1800), 0);
}

static void test_enumeration(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(pci_get(f, 0, 0), 0x29c08086);
	assert_int_equal(pci_get(f, 0, 0x2c), 0x11001af4);
	assert_int_equal(pci_get(f, 31, 0), 0x29188086);
	assert_int_equal(pci_get(f, 31, 8) >> 16, 0x0601);
	assert_int_equal(pci_get(f, 7, 0), 0xffffffff);
	/* Without the enable bit, or on another bus, there is nothing. */
	out32(f, 0xcf8, 0);
	assert_int_equal(in32(f, 0xcfc), 0xffffffff);
	out32(f, 0xcf8, 0x80010000u);
	assert_int_equal(in32(f, 0xcfc), 0xffffffff);
	/* Bytes and words at any lane; ids are read-only. */
	out32(f, 0xcf8, 0x80000000u);
	assert_int_equal(in16(f, 0xcfe), 0x29c0);
	assert_int_equal(in8(f, 0xcfd), 0x80);
	out16(f, 0xcfe, 0x1234);
	assert_int_equal(pci_get(f, 0, 0), 0x29c08086);
	/* The same space through ECAM, which PCIEXBAR moves. */
	assert_int_equal(mmio32(f, 0, PCI_ECAM_BASE), 0x29c08086);
	assert_int_equal(mmio32(f, 0, PCI_ECAM_BASE + (31 << 15)), 0x29188086);
	assert_int_equal(mmio32(f, 0, PCI_ECAM_BASE + 0x100), 0);
	assert_int_equal(mmio32(f, 0, PCI_ECAM_BASE + (1 << 20)), 0xffffffff);
	pci_put(f, 0, 0x60, 0xe0000001);
	assert_int_equal(mmio32(f, 0, 0xe0000000), 0x29c08086);
	assert_int_equal(mmio32(f, 0, PCI_ECAM_BASE), 0xffffffff);
}

static void test_bars(void **state)
{
	struct fixture *f = *state;
	struct probe_device p;
	probe_add(f, &p);
	/* Sizing. */
	pci_put(f, SLOT, 0x10, 0xffffffff);
	assert_int_equal(pci_get(f, SLOT, 0x10), 0xffffffc1);
	pci_put(f, SLOT, 0x14, 0xffffffff);
	assert_int_equal(pci_get(f, SLOT, 0x14), 0xffffe000);
	pci_put(f, SLOT, 0x20, 0xffffffff);
	pci_put(f, SLOT, 0x24, 0xffffffff);
	assert_int_equal(pci_get(f, SLOT, 0x20), 0xffffc00c);
	assert_int_equal(pci_get(f, SLOT, 0x24), 0xffffffff);
	assert_int_equal(pci_get(f, SLOT, 0x18), 0);
	/* Decoding follows the command register. */
	pci_put(f, SLOT, 0x10, 0xc101);
	pci_put(f, SLOT, 0x14, 0xc1000000);
	pci_put(f, SLOT, 0x20, 0x40000000);
	pci_put(f, SLOT, 0x24, 0x2);
	assert_int_equal(in32(f, 0xc100), 0xffffffff);
	pci_put(f, SLOT, 0x04, 3);
	assert_int_equal(in32(f, 0xc100), 0x55667788);
	assert_int_equal(mmio32(f, 0, 0xc1000010), 0x55667788);
	assert_int_equal(p.last_offset, 0x10);
	mmio32_set(f, 0, 0x240000020ull, 77);
	assert_int_equal(p.last_offset, 0x20);
	assert_int_equal(p.last_value, 77);
	/* Wide and unaligned accesses arrive in pieces. */
	uint8_t wide[64];
	p.reads = 0;
	machine_mmio_read(f->machine, 0, 0xc1000001, wide, 7);
	assert_int_equal(p.reads, 3); /* 1 + 2 + 4 */
	p.reads = 0;
	machine_mmio_read(f->machine, 0, 0xc1000000, wide, 64);
	assert_int_equal(p.reads, 16);
	/* Moving. */
	pci_put(f, SLOT, 0x14, 0xc2000000);
	assert_int_equal(mmio32(f, 0, 0xc1000010), 0xffffffff);
	assert_int_equal(mmio32(f, 0, 0xc2000010), 0x55667788);
	/* An I/O BAR laid over the serial port loses, and gives back what it hid. */
	pci_put(f, SLOT, 0x10, 0x3c1);
	assert_int_equal(in8(f, 0x3fd), 0x60);
	assert_int_equal(in8(f, 0x3c0), 0x88);
	pci_put(f, SLOT, 0x04, 0);
	assert_int_equal(in8(f, 0x3c0), 0xff);
	assert_int_equal(in8(f, 0x3fd), 0x60);
	pci_unregister(&p.pci);
	assert_int_equal(pci_get(f, SLOT, 0), 0xffffffff);
}

static void test_assign(void **state)
{
	struct fixture *f = *state;
	struct probe_device p;
	probe_add(f, &p);
	pci_assign_bars(f->machine);
	assert_int_equal(pci_get(f, SLOT, 0x04) & 3, 3);
	uint32_t bar = pci_get(f, SLOT, 0x14);
	assert_in_range(bar, PCI_HOLE_BASE, PCI_HOLE_END - 0x2000);
	assert_int_equal(mmio32(f, 0, bar), 0x55667788);
	uint64_t bar64 = (uint64_t)pci_get(f, SLOT, 0x24) << 32 | (pci_get(f, SLOT, 0x20) & ~15u);
	assert_true(bar64 >= pci_window64_base(f->machine));
	assert_int_equal(mmio32(f, 0, bar64), 0x55667788);
	assert_in_range(pci_get(f, SLOT, 0x3c) & 0xff, 10, 11);
	machine_reset(f->machine);
	assert_int_equal(p.resets, 1);
	assert_int_equal(pci_get(f, SLOT, 0x14), 0);
	assert_int_equal(mmio32(f, 0, bar), 0xffffffff);
	pci_unregister(&p.pci);
}

static void intx(struct fixture *f, struct probe_device *p, bool level)
{
	machine_lock(f->machine);
	pci_intx_set(&p->pci, level);
	machine_unlock(f->machine);
}

static void test_intx(void **state)
{
	struct fixture *f = *state;
	struct probe_device p;
	probe_add(f, &p);
	lapic_on(f, 0);
	unsigned gsi = 16 + pci_intx_pirq(SLOT, 0);
	assert_int_equal(gsi, 23);
	ioapic_route(f, gsi, 0x8000 | 0x71);
	intx(f, &p, true);
	assert_int_equal(take(f, 0), 0x71);
	assert_true(pci_get(f, SLOT, 4) & 0x80000); /* interrupt status */
	pci_put(f, SLOT, 4, 0x400);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), -1);
	pci_put(f, SLOT, 4, 0);
	assert_int_equal(take(f, 0), 0x71);
	intx(f, &p, false);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), -1);
	/* To the 8259 by the LPC bridge's routing. */
	pic_program(f, 0xffff);
	out8(f, 0x4d1, 0x0c);
	mmio32_set(f, 0, LAPIC_AT(0x350), 0x700);
	pci_put(f, 31, 0x68, 0x0b808080); /* PIRQH -> IRQ 11 */
	ioapic_route(f, gsi, 0x10000);
	intx(f, &p, true);
	assert_int_equal(take(f, 0), 0x2b);
	intx(f, &p, false);
	pci_unregister(&p.pci);
}

static void notify(struct fixture *f, struct probe_device *p, unsigned n)
{
	machine_lock(f->machine);
	pci_msix_notify(&p->pci, n);
	machine_unlock(f->machine);
}

static void test_msix(void **state)
{
	struct fixture *f = *state;
	struct probe_device p;
	probe_add(f, &p);
	lapic_on(f, 0);
	pci_put(f, SLOT, 0x14, 0xc1000000);
	pci_put(f, SLOT, 4, 6);
	assert_true(pci_get(f, SLOT, 4) & 0x100000);
	unsigned cap = pci_get(f, SLOT, 0x34) & 0xff;
	assert_int_equal(pci_get(f, SLOT, cap) & 0xff, 0x11);
	assert_int_equal(pci_get(f, SLOT, cap) >> 16 & 0x7ff, 2);
	assert_int_equal(pci_get(f, SLOT, cap + 4), 0x1001);
	assert_int_equal(pci_get(f, SLOT, cap + 8), 0x1801);
	const gpa_t table = 0xc1001000, pba = 0xc1001800;
	assert_int_equal(mmio32(f, 0, table + 12), 1); /* masked at reset */
	mmio32_set(f, 0, table + 16, 0xfee00000);
	mmio32_set(f, 0, table + 24, 0x81);
	assert_int_equal(mmio32(f, 0, table + 24), 0x81);
	notify(f, &p, 1);
	assert_int_equal(mmio32(f, 0, pba), 0); /* not enabled: nothing */
	pci_put(f, SLOT, cap, 0xc0000000); /* enabled, all masked */
	mmio32_set(f, 0, table + 28, 0);
	notify(f, &p, 1);
	assert_int_equal(mmio32(f, 0, pba), 2);
	mmio32_set(f, 0, pba, 0);
	assert_int_equal(mmio32(f, 0, pba), 2); /* read-only */
	assert_int_equal(take(f, 0), -1);
	pci_put(f, SLOT, cap, 0x80000000);
	assert_int_equal(take(f, 0), 0x81);
	assert_int_equal(mmio32(f, 0, pba), 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	notify(f, &p, 1);
	assert_int_equal(take(f, 0), 0x81);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	/* One vector masked: pending until its mask goes. */
	mmio32_set(f, 0, table + 28, 1);
	notify(f, &p, 1);
	assert_int_equal(take(f, 0), -1);
	mmio32_set(f, 0, table + 28, 0);
	assert_int_equal(take(f, 0), 0x81);
	notify(f, &p, 3);
	notify(f, &p, 4000000000u);
	/* INTx keeps quiet while MSI-X is on. */
	ioapic_route(f, 23, 0x8000 | 0x71);
	intx(f, &p, true);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	assert_int_equal(take(f, 0), -1);
	/* The device's own part of the BAR is still the device's. */
	assert_int_equal(mmio32(f, 0, 0xc1000ffc), 0x55667788);
	assert_int_equal(mmio32(f, 0, 0xc1001ffc), 0x55667788);
	intx(f, &p, false);
	pci_unregister(&p.pci);
}

/* ---- hostile guests ---------------------------------------------------------------------------- */

static uint64_t rng_state;

static uint64_t random64(void)
{
	/* xorshift64* */
	rng_state ^= rng_state >> 12;
	rng_state ^= rng_state << 25;
	rng_state ^= rng_state >> 27;
	return rng_state * 0x2545f4914f6cdd1dull;
}

/* Every port, every size, several values; then the machine still works after a reset. */
static void test_hostile_ports(void **state)
{
	struct fixture *f = *state;
	struct probe_device p;
	probe_add(f, &p);
	rng_state = 0x9e3779b97f4a7c15ull;
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned port = 0; port < 0x10000; port++) {
			unsigned size = 1u << random64() % 3;
			if (random64() & 1)
				machine_pio_write(f->machine, round & 1, (uint16_t)port, (uint32_t)random64(), size);
			uint32_t value = machine_pio_read(f->machine, round & 1, (uint16_t)port, size);
			assert_true(size == 4 || value < 1u << size * 8);
			machine_intr_ack(f->machine, 0);
		}
	}
	/* The known devices, harder. */
	static const uint16_t bases[] = { 0x20, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x92, 0xa0, 0xb2, 0x2f8, 0x3f8, 0x4d0,
					  0x510, 0x514, 0x600, 0x620, 0x660, 0xcf8, 0xcfc, 0xcf9 };
	for (unsigned i = 0; i < 400000; i++) {
		uint16_t port = bases[random64() % ARRAY_SIZE(bases)] + random64() % 8;
		unsigned size = 1u << random64() % 3;
		if (random64() % 3)
			machine_pio_write(f->machine, 1, port, (uint32_t)random64(), size);
		else
			machine_pio_read(f->machine, 1, port, size);
		if (random64() % 8 == 0)
			machine_intr_ack(f->machine, random64() & 1);
		f->output_bytes[0] = f->output_bytes[1] = f->output_bytes[2] = 0;
	}
	machine_reset(f->machine);
	assert_int_equal(pci_get(f, 0, 0), 0x29c08086);
	assert_int_equal(in8(f, 0x3fd), 0x60);
	assert_int_equal(take(f, 0), -1);
	pci_unregister(&p.pci);
}

static void test_hostile_mmio(void **state)
{
	struct fixture *f = *state;
	struct machine *m = f->machine;
	struct probe_device p;
	probe_add(f, &p);
	pci_assign_bars(m);
	static const gpa_t bases[] = { LAPIC_BASE, LAPIC_BASE, IOAPIC_BASE, PCI_ECAM_BASE, PCI_ECAM_BASE + (SLOT << 15),
				       PCI_ECAM_BASE + (31 << 15), PCI_HOLE_BASE, PCI_HOLE_BASE + 0x1000, 0xa0000, 0xf0000,
				       0xfffff000ull, 0x7ffffffffffff000ull, UINT64_MAX - 63 };
	rng_state = 0xd1b54a32d192ed03ull;
	for (unsigned i = 0; i < 400000; i++) {
		uint8_t buf[64];
		unsigned size = 1 + (unsigned)(random64() % 64);
		gpa_t gpa = bases[random64() % ARRAY_SIZE(bases)] + random64() % (random64() & 1 ? 64 : 4096);
		if (gpa + size < gpa)
			continue;
		if (random64() & 1)
			size = 4, gpa &= ~3ull;
		for (unsigned b = 0; b < sizeof(buf); b++)
			buf[b] = (uint8_t)random64();
		if (random64() & 1)
			machine_mmio_write(m, i & 1, gpa, buf, size);
		else
			machine_mmio_read(m, i & 1, gpa, buf, size);
		if (random64() % 8 == 0)
			machine_intr_ack(m, i & 1);
		if (random64() % 64 == 0)
			notify(f, &p, (unsigned)random64() % 5);
		if (random64() % 64 == 0)
			intx(f, &p, random64() & 1);
	}
	machine_reset(m);
	intx(f, &p, false);
	assert_int_equal(mmio32(f, 0, IOAPIC_BASE + 0x10), 0);
	assert_int_equal(mmio32(f, 0, PCI_ECAM_BASE), 0x29c08086);
	pci_unregister(&p.pci);
}

static void test_hostile_msrs(void **state)
{
	struct fixture *f = *state;
	uint64_t value;
	rng_state = 0xbf58476d1ce4e5b9ull;
	for (unsigned i = 0; i < 200000; i++) {
		uint32_t msr = random64() % 16 == 0 ? 0x1b : random64() % 16 == 0 ? 0x6e0 : 0x800 + random64() % 0x40;
		uint64_t bits = random64() & 1 ? random64() : random64() & 0xfff;
		if (msr == 0x1b && (random64() & 1))
			bits = LAPIC_BASE | (random64() & 0xd00);
		if (random64() & 1)
			machine_apic_msr_write(f->machine, i & 1, msr, bits);
		else
			machine_apic_msr_read(f->machine, i & 1, msr, &value);
		if (random64() % 4 == 0)
			machine_intr_ack(f->machine, i & 1);
		if (random64() % 64 == 0)
			machine_vcpu_take_events(f->machine, i & 1, NULL);
	}
	machine_reset(f->machine);
	assert_true(machine_apic_msr_read(f->machine, 0, 0x1b, &value));
	assert_int_equal(value, 0xfee00900);
	assert_int_equal(take(f, 0), -1);
}

static void test_stats(void **state)
{
	struct fixture *f = *state;
	struct machine_stat rows[64];
	in8(f, 0x3fd);
	in8(f, 0x2fd);
	in8(f, 0x1234);
	size_t n = machine_stats(f->machine, rows, ARRAY_SIZE(rows));
	uint64_t uart = 0, unclaimed = 0;
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(rows[i].name, "io_uart0"))
			uart = rows[i].value;
		if (!strcmp(rows[i].name, "pio_unclaimed"))
			unclaimed = rows[i].value;
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(rows[i].name, rows[j].name);
	}
	assert_int_equal(uart, 1);
	assert_int_equal(unclaimed, 1);
	assert_int_equal(machine_stats(f->machine, rows, 2), 2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(test_enumeration), T(test_bars), T(test_assign), T(test_intx), T(test_msix), T(test_hostile_ports),
		T(test_hostile_mmio), T(test_hostile_msrs), T(test_stats),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
