/* A machine for unit tests, poked at as a guest would. */
#include <string.h>
#include <time.h>

#include "tests/unit/machine_fixture.h"

static void on_event(void *opaque, enum machine_event event, unsigned code)
{
	struct fixture *f = opaque;
	f->events[event]++;
	f->event_code = code;
}

static void on_output(void *opaque, unsigned port, const void *bytes, size_t n)
{
	struct fixture *f = opaque;
	if (port > 2 || f->output_bytes[port] + n >= sizeof(f->output[port]))
		return;
	memcpy(f->output[port] + f->output_bytes[port], bytes, n);
	f->output_bytes[port] += n;
}

static void on_kick(void *opaque, unsigned vcpu)
{
	struct fixture *f = opaque;
	f->kicks[vcpu]++;
}

static void on_ram_written(void *opaque, gpa_t gpa, uint64_t n)
{
	struct fixture *f = opaque;
	f->ram_written += n;
}

static void on_map_changed(void *opaque, gpa_t gpa, uint64_t n)
{
	struct fixture *f = opaque;
	f->map_changes++;
}

struct fixture *fixture_new(uint64_t ram_bytes, unsigned vcpus)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct machine_config config = { .ram_bytes = ram_bytes, .vcpus = vcpus, .on_event = on_event,
					 .on_output = on_output, .opaque = f, .debug_exit_port = 0xf4 };
	struct machine_hooks hooks = { .kick = on_kick, .ram_written = on_ram_written, .map_changed = on_map_changed,
				       .opaque = f };
	if (!f || machine_create(&config, &f->machine) < 0) {
		free(f);
		return NULL;
	}
	machine_set_hooks(f->machine, &hooks);
	return f;
}

void fixture_free(struct fixture *f)
{
	machine_destroy(f->machine);
	free(f);
}

int fixture_setup(void **state)
{
	*state = fixture_new(64 << 20, 2);
	return *state ? 0 : -1;
}

int fixture_teardown(void **state)
{
	fixture_free(*state);
	return 0;
}

uint32_t mmio32(struct fixture *f, unsigned vcpu, gpa_t gpa)
{
	uint32_t value = 0;
	machine_mmio_read(f->machine, vcpu, gpa, &value, 4);
	return value;
}

void mmio32_set(struct fixture *f, unsigned vcpu, gpa_t gpa, uint32_t value)
{
	machine_mmio_write(f->machine, vcpu, gpa, &value, 4);
}

uint32_t ioapic_get(struct fixture *f, unsigned reg)
{
	mmio32_set(f, 0, IOAPIC_BASE, reg);
	return mmio32(f, 0, IOAPIC_BASE + 0x10);
}

void ioapic_put(struct fixture *f, unsigned reg, uint32_t value)
{
	mmio32_set(f, 0, IOAPIC_BASE, reg);
	mmio32_set(f, 0, IOAPIC_BASE + 0x10, value);
}

void ioapic_route(struct fixture *f, unsigned pin, uint64_t entry)
{
	ioapic_put(f, 0x11 + 2 * pin, (uint32_t)(entry >> 32));
	ioapic_put(f, 0x10 + 2 * pin, (uint32_t)entry);
}

void lapic_on(struct fixture *f, unsigned vcpu)
{
	mmio32_set(f, vcpu, LAPIC_AT(0xf0), 0x1ff);
}

int take(struct fixture *f, unsigned vcpu)
{
	return machine_intr_pending(f->machine, vcpu) ? machine_intr_ack(f->machine, vcpu) : -1;
}

bool await(struct fixture *f, unsigned vcpu)
{
	for (int i = 0; i < 5000; i++) {
		if (machine_intr_pending(f->machine, vcpu))
			return true;
		struct timespec ms = { 0, 1000000 };
		nanosleep(&ms, NULL);
	}
	return false;
}

void lines_isa(struct fixture *f, unsigned irq, bool level)
{
	machine_lock(f->machine);
	irq_isa_set(f->machine, irq, IRQ_SOURCE_ISA, level);
	machine_unlock(f->machine);
}

void pic_program(struct fixture *f, uint16_t unmasked)
{
	static const uint8_t words[2][4] = { { 0x11, 0x20, 0x04, 0x01 }, { 0x11, 0x28, 0x02, 0x01 } };
	for (unsigned chip = 0; chip < 2; chip++) {
		uint16_t port = chip ? 0xa0 : 0x20;
		out8(f, port, words[chip][0]);
		for (unsigned i = 1; i < 4; i++)
			out8(f, port + 1, words[chip][i]);
		out8(f, port + 1, (uint8_t)~(unmasked >> 8 * chip));
	}
}

uint32_t pci_get(struct fixture *f, unsigned slot, unsigned reg)
{
	out32(f, 0xcf8, 0x80000000u | slot << 11 | (reg & 0xfc));
	return in32(f, 0xcfc);
}

void pci_put(struct fixture *f, unsigned slot, unsigned reg, uint32_t value)
{
	out32(f, 0xcf8, 0x80000000u | slot << 11 | (reg & 0xfc));
	out32(f, 0xcfc, value);
}
