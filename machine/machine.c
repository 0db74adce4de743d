/* The machine as a whole: creation, reset, pause, and the few calls that belong to no device. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "machine/private.h"
#include "machine/vmware/vmware.h"

static int devices_init(struct machine *m)
{
	for (unsigned i = 0; i < m->config.vcpus; i++)
		lapic_init(&m->lapic[i], m, i);
	ioapic_init(m, &m->ioapic);
	pic_init(m, &m->pic);
	pit_init(m, &m->pit);
	rtc_init(m, &m->rtc);
	uart_init(m, &m->uart[0], 0, 0x3f8, ISA_IRQ_COM1);
	uart_init(m, &m->uart[1], 1, 0x2f8, ISA_IRQ_COM2);
	i8042_init(m, &m->i8042);
	misc_init(m);
	int rc = q35_init(m, &m->q35); /* before the PCI ports: 0xcf9 */
	if (!rc)
		rc = pci_init(m, &m->pci);
	if (!rc)
		rc = fw_cfg_init(m, &m->fw_cfg);
	return rc;
}

static void devices_reset(struct machine *m)
{
	memset(m->lines.isa, 0, sizeof(m->lines.isa));
	memset(m->lines.gsi, 0, sizeof(m->lines.gsi));
	for (unsigned i = 0; i < m->config.vcpus; i++)
		lapic_reset(&m->lapic[i], false);
	/* Controllers first: devices then lower their lines into a clean state. PIRQ counts fall as PCI devices reset. */
	ioapic_reset(&m->ioapic);
	pic_reset(&m->pic);
	pit_reset(&m->pit);
	rtc_reset(&m->rtc);
	uart_reset(&m->uart[0]);
	uart_reset(&m->uart[1]);
	i8042_reset(&m->i8042);
	fw_cfg_reset(&m->fw_cfg);
	q35_reset(&m->q35);
	pci_reset(&m->pci);
	for (struct machine_device *d = m->devices; d; d = d->next)
		if (d->reset)
			d->reset(d->opaque);
}

/*
 * 40 bits, unless RAM takes more: OVMF maps all that the processor could address, in pages of 2 MiB; with the 48 bits of
 * a host it finds no memory for the tables.
 */
static unsigned phys_bits(const struct machine *m)
{
	uint64_t end = pci_window64_base(m) + PCI_WINDOW64_BYTES;
	unsigned bits = 40;
	while (end > (uint64_t)1 << bits)
		bits++;
	return bits;
}

uint64_t machine_spin_most_ns(const struct machine *machine, unsigned others)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
		return 0;
	return machine->config.vcpus + others <= (unsigned)CPU_COUNT(&cpus) ? SPIN_MOST_NS : 0;
}

int machine_create(const struct machine_config *config, struct machine **ret_machine)
{
	if (!config->vcpus || config->vcpus > MACHINE_MAX_VCPUS)
		return -EINVAL;
	struct machine *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->config = *config;
	m->config.cpu_features = NULL;
	m->config.vmware = NULL;
	m->ram.fd = m->clock.timerfd = -1;
	eventfds_init(&m->eventfds);
	atomic_store(&m->a20, true);
	int rc = ram_init(&m->ram, config->ram_bytes, config->display);
	if (!rc)
		rc = clock_init(m);
	m->lapic = aligned_alloc(_Alignof(struct lapic), config->vcpus * sizeof(struct lapic));
	if (!rc && !m->lapic)
		rc = -ENOMEM;
	if (!rc) {
		memset(m->lapic, 0, config->vcpus * sizeof(struct lapic));
		struct cpuid_config cc = { .vcpus = config->vcpus, .tsc_khz = m->clock.tsc_khz, .paravirt = !config->no_paravirt,
					   .vmware = config->vmware, .features = config->cpu_features, .phys_bits_max = phys_bits(m) };
		(config->build_cpuid ? config->build_cpuid : cpuid_model_build)(&m->cpuid, &cc);
		rc = devices_init(m);
	}
	if (!rc && config->vmware)
		rc = machine_add_vmware(m, config->vmware);
	if (!rc) {
		devices_reset(m);
		rc = clock_start(m);
	}
	if (rc) {
		machine_destroy(m);
		return rc;
	}
	*ret_machine = m;
	return 0;
}

void machine_destroy(struct machine *m)
{
	if (!m)
		return;
	clock_finish(m);
	eventfds_finish(m);
	while (m->devices) {
		struct machine_device *d = m->devices;
		m->devices = d->next;
		if (d->destroy)
			d->destroy(d->opaque);
	}
	pci_finish(&m->pci);
	fw_cfg_finish(&m->fw_cfg);
	ram_finish(&m->ram);
	free(m->lapic);
	free(m);
}


void machine_register_device(struct machine *m, struct machine_device *device)
{
	device->next = m->devices;
	m->devices = device;
}

void machine_set_hooks(struct machine *m, const struct machine_hooks *hooks)
{
	machine_lock(m);
	m->hooks = hooks ? *hooks : (struct machine_hooks){ 0 };
	eventfds_rehome(m);
	machine_unlock(m);
}

unsigned machine_vcpus(const struct machine *m) { return m->config.vcpus; }
const struct cpuid_model *machine_cpuid(const struct machine *m) { return &m->cpuid; }
bool machine_a20(const struct machine *m) { return atomic_load_explicit(&m->a20, memory_order_relaxed); }

void machine_tell(struct machine *m, enum machine_event event, unsigned code)
{
	if (m->config.on_event)
		m->config.on_event(m->config.opaque, event, code);
}

static void devices_pause(struct machine *m, bool paused)
{
	for (struct machine_device *d = m->devices; d; d = d->next)
		if (d->pause)
			d->pause(d->opaque, paused);
}

void machine_reset(struct machine *m)
{
	/* Threads of devices finish what they do to guest memory before anything is reset. */
	devices_pause(m, true);
	machine_lock(m);
	devices_reset(m);
	machine_unlock(m);
	if (!atomic_load(&m->clock.paused))
		devices_pause(m, false);
}

void machine_stop_devices(struct machine *m)
{
	if (m)
		devices_pause(m, true);
}

void machine_pause(struct machine *m)
{
	machine_lock(m);
	clock_pause(m);
	machine_unlock(m);
	devices_pause(m, true);
	if (m->hooks.paused)
		m->hooks.paused(m->hooks.opaque);
}

void machine_resume(struct machine *m)
{
	machine_lock(m);
	clock_resume(m);
	machine_unlock(m);
	if (m->hooks.resumed)
		m->hooks.resumed(m->hooks.opaque);
	devices_pause(m, false);
}

size_t machine_serial_input(struct machine *m, unsigned port, const void *bytes, size_t n)
{
	if (port >= ARRAY_SIZE(m->uart))
		return 0;
	machine_lock(m);
	size_t taken = port == 0 && m->console_input ? m->console_input(m->console_opaque, bytes, n)
						       : uart_input(&m->uart[port], bytes, n);
	machine_unlock(m);
	return taken;
}

bool machine_key(struct machine *m, unsigned code, bool down)
{
	machine_lock(m);
	bool taken = i8042_key(&m->i8042, code, down);
	machine_unlock(m);
	return taken;
}

void machine_mouse(struct machine *m, int dx, int dy, int dz, unsigned buttons)
{
	machine_lock(m);
	i8042_mouse_move(&m->i8042, dx, dy, dz, buttons);
	machine_unlock(m);
}

void machine_power_button(struct machine *m)
{
	machine_lock(m);
	q35_power_button(&m->q35);
	machine_unlock(m);
}

void machine_inject_nmi(struct machine *m)
{
	lapic_lint1_pulse(m);
}

/* ---- statistics ---------------------------------------------------------------- */

struct rows {
	struct machine_stat *row;
	size_t count, max;
};

/* Adds to the row of that name. */
static void count(struct rows *rows, const char *name, uint64_t value)
{
	for (size_t i = 0; i < rows->count; i++) {
		if (!strcmp(rows->row[i].name, name)) {
			rows->row[i].value += value;
			return;
		}
	}
	if (rows->count < rows->max)
		rows->row[rows->count++] = (struct machine_stat){ name, value };
}

static void count_ranges(struct rows *rows, const struct bus_range *range, const char *total)
{
	for (; range; range = range->next) {
		count(rows, total, range->reads + range->writes);
		if (range->reads + range->writes)
			count(rows, range->name, range->reads + range->writes);
	}
}

size_t machine_stats(struct machine *m, struct machine_stat *ret_rows, size_t max)
{
	struct rows rows = { ret_rows, 0, max };
	machine_lock(m);
	count(&rows, "pio_total", m->unclaimed_pio);
	count(&rows, "mmio_total", m->unclaimed_mmio);
	count(&rows, "pio_unclaimed", m->unclaimed_pio);
	count(&rows, "mmio_unclaimed", m->unclaimed_mmio);
	count_ranges(&rows, m->pio.ranges, "pio_total");
	count_ranges(&rows, m->mmio.ranges, "mmio_total");
	for (unsigned i = 0; i < m->config.vcpus; i++) {
		const struct lapic *l = &m->lapic[i];
		count(&rows, "interrupts", l->accepted);
		count(&rows, "interrupt_eois", l->eois);
		count(&rows, "ipis", l->ipis);
		count(&rows, "timer_arms", l->timer_arms);
		count(&rows, "timer_fires", atomic_load(&l->timer_fires));
		count(&rows, "halts", atomic_load(&l->halts));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(m->uart); i++) {
		count(&rows, "serial_tx_bytes", m->uart[i].tx_bytes);
		count(&rows, "serial_rx_bytes", m->uart[i].rx_bytes);
	}
	count(&rows, "clock_wakeups", atomic_load(&m->clock.wakeups));
	count(&rows, "clock_rearms", atomic_load(&m->clock.rearms));
	for (struct machine_device *d = m->devices; d; d = d->next)
		if (d->stats && rows.count < rows.max)
			rows.count += d->stats(d->opaque, rows.row + rows.count, rows.max - rows.count);
	machine_unlock(m);
	return rows.count;
}
