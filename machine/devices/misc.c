/* Small ports: debug consoles, debug exit, pvpanic, POST codes. */
#include "machine/private.h"

#define PVPANIC_PANICKED 1u
#define PVPANIC_CRASHLOADED 2u
#define DEBUG_CONSOLE_READBACK 0xe9u /* how firmware sees that the port is there (QEMU's isa-debugcon, Bochs) */

static uint64_t debug_read(void *opaque, uint64_t offset, unsigned size) { return DEBUG_CONSOLE_READBACK; }

static void debug_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct machine *m = opaque;
	uint8_t byte = (uint8_t)value;
	if (m->config.on_output)
		m->config.on_output(m->config.opaque, 2, &byte, 1);
}

static uint64_t exit_read(void *opaque, uint64_t offset, unsigned size) { return 0; }

static void exit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	machine_tell(opaque, MACHINE_EVENT_DEBUG_EXIT, (unsigned)value);
}

/* Reading tells which events are understood (QEMU docs/specs/pvpanic.rst). */
static uint64_t pvpanic_read(void *opaque, uint64_t offset, unsigned size)
{
	return PVPANIC_PANICKED | PVPANIC_CRASHLOADED;
}

static void pvpanic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	if (value & (PVPANIC_PANICKED | PVPANIC_CRASHLOADED))
		machine_tell(opaque, MACHINE_EVENT_PANIC, value & (PVPANIC_PANICKED | PVPANIC_CRASHLOADED));
}

static uint64_t post_read(void *opaque, uint64_t offset, unsigned size)
{
	struct machine *m = opaque;
	return m->misc.post_code;
}

static void post_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct machine *m = opaque;
	m->misc.post_code = (uint8_t)value;
}

static const struct bus_ops debug_ops = { .read = debug_read, .write = debug_write, .max = 1 };
static const struct bus_ops exit_ops = { .read = exit_read, .write = exit_write, .max = 4 };
static const struct bus_ops pvpanic_ops = { .read = pvpanic_read, .write = pvpanic_write, .max = 1 };
static const struct bus_ops post_ops = { .read = post_read, .write = post_write, .max = 1 };

void misc_init(struct machine *machine)
{
	struct misc_ports *misc = &machine->misc;
	misc->debug402 = (struct bus_range){ .name = "io_debug_console", .ops = &debug_ops, .opaque = machine };
	misc->debug_e9 = (struct bus_range){ .name = "io_debug_console", .ops = &debug_ops, .opaque = machine };
	misc->debug_exit = (struct bus_range){ .name = "io_debug_exit", .ops = &exit_ops, .opaque = machine };
	misc->pvpanic = (struct bus_range){ .name = "io_pvpanic", .ops = &pvpanic_ops, .opaque = machine };
	misc->port80 = (struct bus_range){ .name = "io_port80", .ops = &post_ops, .opaque = machine };
	bus_map_pio(machine, &misc->debug402, 0x402, 1);
	bus_map_pio(machine, &misc->debug_e9, 0xe9, 1);
	bus_map_pio(machine, &misc->pvpanic, 0x505, 1);
	bus_map_pio(machine, &misc->port80, 0x80, 1);
	if (machine->config.debug_exit_port)
		bus_map_pio(machine, &misc->debug_exit, machine->config.debug_exit_port, 4);
}
