/* struct machine, for the files of machine/. Nobody outside includes this. */
#ifndef MACHINE_PRIVATE_H
#define MACHINE_PRIVATE_H

#include "machine/bus.h"
#include "machine/clock.h"
#include "machine/cpuid.h"
#include "machine/devices/fw_cfg.h"
#include "machine/devices/i8042.h"
#include "machine/devices/ioapic.h"
#include "machine/devices/lapic.h"
#include "machine/devices/pci.h"
#include "machine/devices/pic.h"
#include "machine/devices/pit.h"
#include "machine/devices/q35.h"
#include "machine/devices/rtc.h"
#include "machine/devices/uart.h"
#include "machine/eventfd.h"
#include "machine/irq.h"
#include "machine/lock.h"
#include "machine/machine.h"
#include "machine/ram.h"

struct vmware;

/* A device that joins the machine's lifecycle (virtio, boot). Owned by the device; hooks may be NULL. */
struct machine_device {
	const char *name;
	void (*reset)(void *opaque);   /* power-on state; under the machine lock */
	void (*destroy)(void *opaque); /* in reverse order of registration; frees the device; not under the lock */
	/* Appends rows; how many. Under the machine lock. */
	size_t (*stats)(void *opaque, struct machine_stat *ret_rows, size_t max);
	/*
	 * Threads of its own stop, and go on: when this returns, nothing is written to guest memory and no interrupt is sent
	 * any more. With virtual time, and around a reset. Idempotent. Not under the machine lock.
	 */
	void (*pause)(void *opaque, bool paused);
	void *opaque;
	struct machine_device *next;
};
void machine_register_device(struct machine *machine, struct machine_device *device);

struct misc_ports {
	struct bus_range debug402, debug_e9, debug_exit, pvpanic, port80;
	uint8_t post_code;
};

struct machine {
	struct machine_config config;
	struct machine_hooks hooks;
	struct mlock lock; /* every device model's state, except what is marked lock-free */

	struct machine_ram ram;
	struct bus_pio pio;
	struct bus_mmio mmio;
	struct machine_clock clock;
	struct irq_lines lines;
	struct machine_eventfds eventfds;
	struct cpuid_model cpuid;
	_Atomic bool a20;

	struct lapic *lapic; /* config.vcpus of them */
	struct ioapic ioapic;
	struct pic pic;
	struct pit pit;
	struct rtc rtc;
	struct uart uart[2];
	/* Who takes what is typed into the first of them instead of it (machine_serial_divert). */
	size_t (*console_input)(void *opaque, const void *bytes, size_t n);
	void *console_opaque;
	struct i8042 i8042;
	struct pci_bus pci;
	struct q35 q35;
	struct fw_cfg fw_cfg;
	struct misc_ports misc;
	struct vmware *vmware; /* NULL: none; machine/vmware */

	struct machine_device *devices; /* last registered first */
	uint64_t unclaimed_pio, unclaimed_mmio;
};

/*
 * How long a thread may look for something before it sleeps (machine/spin.h): as long as there are processors for all vCPUs
 * and so many other threads that are busy meanwhile.
 */
uint64_t machine_spin_most_ns(const struct machine *machine, unsigned others);

static inline void machine_lock(struct machine *machine) { mlock_lock(&machine->lock); }
static inline void machine_unlock(struct machine *machine) { mlock_unlock(&machine->lock); }

/* Under the machine lock. */
void machine_tell(struct machine *machine, enum machine_event event, unsigned code);
void misc_init(struct machine *machine);

#endif
