/* A machine for unit tests, poked at as a guest would. */
#ifndef TESTS_UNIT_MACHINE_FIXTURE_H
#define TESTS_UNIT_MACHINE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/private.h"

struct fixture {
	struct machine *machine;
	_Atomic unsigned events[8]; /* by enum machine_event */
	_Atomic unsigned event_code;
	_Atomic unsigned kicks[MACHINE_MAX_VCPUS];
	unsigned map_changes;
	uint64_t ram_written;
	char output[3][4096];
	size_t output_bytes[3];
};

/* cmocka setup and teardown: 64 MiB of RAM, two vCPUs, debug exit at 0xf4. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
struct fixture *fixture_new(uint64_t ram_bytes, unsigned vcpus);
void fixture_free(struct fixture *f);

static inline uint32_t in8(struct fixture *f, uint16_t port) { return machine_pio_read(f->machine, 0, port, 1); }
static inline uint32_t in16(struct fixture *f, uint16_t port) { return machine_pio_read(f->machine, 0, port, 2); }
static inline uint32_t in32(struct fixture *f, uint16_t port) { return machine_pio_read(f->machine, 0, port, 4); }
static inline void out8(struct fixture *f, uint16_t port, uint32_t v) { machine_pio_write(f->machine, 0, port, v, 1); }
static inline void out16(struct fixture *f, uint16_t port, uint32_t v) { machine_pio_write(f->machine, 0, port, v, 2); }
static inline void out32(struct fixture *f, uint16_t port, uint32_t v) { machine_pio_write(f->machine, 0, port, v, 4); }
uint32_t mmio32(struct fixture *f, unsigned vcpu, gpa_t gpa);
void mmio32_set(struct fixture *f, unsigned vcpu, gpa_t gpa, uint32_t value);

/* IOAPIC registers through index and data. */
uint32_t ioapic_get(struct fixture *f, unsigned reg);
void ioapic_put(struct fixture *f, unsigned reg, uint32_t value);
void ioapic_route(struct fixture *f, unsigned pin, uint64_t entry);

/* Software-enables a LAPIC in xAPIC mode. */
void lapic_on(struct fixture *f, unsigned vcpu);
#define LAPIC_AT(offset) (LAPIC_BASE + (offset))
/* Acknowledges and returns the vector, -1 when none is pending. */
int take(struct fixture *f, unsigned vcpu);
/* Waits up to some seconds for an interrupt to become pending. */
bool await(struct fixture *f, unsigned vcpu);
void lines_isa(struct fixture *f, unsigned irq, bool level);
/* The 8259 pair as a PC's firmware leaves it: vectors at 0x20 and 0x28, everything masked but `unmasked`. */
void pic_program(struct fixture *f, uint16_t unmasked);

uint32_t pci_get(struct fixture *f, unsigned slot, unsigned reg);
void pci_put(struct fixture *f, unsigned slot, unsigned reg, uint32_t value);

#endif
