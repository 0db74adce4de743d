/* ACPI hardware of the ICH9: PM1 event and control blocks, PM timer, GPE0, SMI command port, TCO (ICH9 13.8). */
#include "machine/devices/q35_private.h"
#include "machine/private.h"

#define PM1_TMR 0x0001u
#define PM1_GBL 0x0020u
#define PM1_PWRBTN 0x0100u
#define PM1_RTC 0x0400u
#define PM1_ENABLES (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_RTC)
#define PM1_SCI_EN 0x0001u
#define PM1_SLP_TYP(v) ((v) >> 10 & 7)
#define PM1_SLP_EN 0x2000u
/* "SMIs from the command port are set up already": SeaBIOS then leaves system management mode alone. */
#define SMI_APMC_EN 0x0020u
#define TIMER_BITS 24
#define TIMER_HALF (1u << (TIMER_BITS - 1))

static uint64_t timer_ticks(const struct q35 *q35)
{
	return clock_ns_to_ticks(machine_clock_ns(q35->machine), PM_TIMER_HZ);
}

/* TMR_STS is set whenever the timer's top bit changes. */
static void timer_status(struct q35 *q35)
{
	struct ich9_pm *pm = &q35->pm;
	uint64_t epoch = timer_ticks(q35) / TIMER_HALF;
	if (epoch != pm->timer_epoch)
		pm->pm1_status |= PM1_TMR;
	pm->timer_epoch = epoch;
}

static void sci_update(struct q35 *q35)
{
	struct ich9_pm *pm = &q35->pm;
	bool sci = (pm->pm1_status & pm->pm1_enable & PM1_ENABLES) || (pm->gpe0_status & pm->gpe0_enable);
	irq_isa_set(q35->machine, ISA_IRQ_SCI, IRQ_SOURCE_SCI, sci && (pm->pm1_control & PM1_SCI_EN));
	/* The timer thread is only needed when an overflow would interrupt. */
	clock_timer_cancel(q35->machine, &pm->timer_overflow);
	if ((pm->pm1_enable & PM1_TMR) && !(pm->pm1_status & PM1_TMR))
		clock_timer_arm(q35->machine, &pm->timer_overflow,
				clock_ticks_to_ns((pm->timer_epoch + 1) * TIMER_HALF, PM_TIMER_HZ));
}

static void timer_fired(void *opaque)
{
	timer_status(opaque);
	sci_update(opaque);
}

void q35_power_button(struct q35 *q35)
{
	q35->pm.pm1_status |= PM1_PWRBTN;
	sci_update(q35);
}

static void control_write(struct q35 *q35, uint16_t value)
{
	struct ich9_pm *pm = &q35->pm;
	pm->pm1_control = value & ~PM1_SLP_EN & 0x1c07;
	/* OVMF does not ask the tables: it knows 0, which is QEMU's, and means S5 nowhere else. */
	if ((value & PM1_SLP_EN) && (PM1_SLP_TYP(value) == PM_SLP_TYP_S5 || PM1_SLP_TYP(value) == 0))
		machine_tell(q35->machine, MACHINE_EVENT_POWEROFF, 0);
	sci_update(q35);
}

/* Registers are kept as one image of 16-bit words: any access is made of them. */
static uint16_t word_read(struct q35 *q35, unsigned at)
{
	struct ich9_pm *pm = &q35->pm;
	uint32_t ticks = (uint32_t)timer_ticks(q35) & ((1u << TIMER_BITS) - 1);
	switch (at) {
	case PM_PM1A_EVT:
		timer_status(q35);
		return pm->pm1_status;
	case PM_PM1A_EVT + 2: return pm->pm1_enable;
	case PM_PM1A_CNT: return pm->pm1_control;
	case PM_TMR: return (uint16_t)ticks;
	case PM_TMR + 2: return (uint16_t)(ticks >> 16);
	case PM_GPE0 ... PM_GPE0 + 6: return (uint16_t)(pm->gpe0_status >> (at - PM_GPE0) * 8);
	case PM_GPE0 + 8 ... PM_GPE0 + 14: return (uint16_t)(pm->gpe0_enable >> (at - PM_GPE0 - 8) * 8);
	case PM_SMI_EN: return (uint16_t)pm->smi_enable;
	case PM_SMI_EN + 2: return (uint16_t)(pm->smi_enable >> 16);
	default: return 0;
	}
}

static void word_write(struct q35 *q35, unsigned at, uint16_t value, uint16_t mask)
{
	struct ich9_pm *pm = &q35->pm;
	uint64_t wide = value & mask;
	unsigned shift;
	switch (at) {
	case PM_PM1A_EVT: pm->pm1_status &= ~wide; break; /* write one to clear */
	case PM_PM1A_EVT + 2: pm->pm1_enable = (uint16_t)((pm->pm1_enable & ~mask) | (wide & PM1_ENABLES)); break;
	case PM_PM1A_CNT: control_write(q35, (uint16_t)((pm->pm1_control & ~mask) | wide)); return;
	case PM_GPE0 ... PM_GPE0 + 6: pm->gpe0_status &= ~(wide << (at - PM_GPE0) * 8); break;
	case PM_GPE0 + 8 ... PM_GPE0 + 14:
		shift = (at - PM_GPE0 - 8) * 8;
		pm->gpe0_enable = (pm->gpe0_enable & ~((uint64_t)mask << shift)) | wide << shift;
		break;
	case PM_SMI_EN: pm->smi_enable = (pm->smi_enable & ~(uint32_t)mask) | (uint32_t)wide | SMI_APMC_EN; return;
	case PM_SMI_EN + 2:
		pm->smi_enable = (pm->smi_enable & ~((uint32_t)mask << 16)) | (uint32_t)wide << 16;
		return;
	default: return;
	}
	sci_update(q35);
}

/* The TCO watchdog never fires: its timers hold what is written, its status stays clear. */
static uint8_t tco_read(const struct ich9_pm *pm, unsigned at)
{
	bool status = at >= 4 && at < 8;
	return status ? 0 : pm->tco[at];
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
	struct q35 *q35 = opaque;
	uint32_t value = 0;
	if (offset >= PM_TCO) {
		for (unsigned i = 0; i < size; i++)
			value |= (uint32_t)tco_read(&q35->pm, (unsigned)(offset - PM_TCO) + i) << 8 * i;
		return value;
	}
	unsigned at = (unsigned)offset & ~1u;
	value = word_read(q35, at);
	if (size == 4) {
		/* Both halves of the timer from one instant. */
		if (at == PM_TMR)
			return (uint32_t)timer_ticks(q35) & ((1u << TIMER_BITS) - 1);
		return value | (uint32_t)word_read(q35, at + 2) << 16;
	}
	return value >> (offset & 1) * 8;
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct q35 *q35 = opaque;
	if (offset >= PM_TCO) {
		for (unsigned i = 0; i < size; i++)
			q35->pm.tco[offset - PM_TCO + i] = (uint8_t)(value >> 8 * i);
		return;
	}
	unsigned at = (unsigned)offset & ~1u;
	if (size == 1)
		word_write(q35, at, (uint16_t)(value << (offset & 1) * 8), (uint16_t)(0xff << (offset & 1) * 8));
	else
		word_write(q35, at, (uint16_t)value, 0xffff);
	if (size == 4)
		word_write(q35, at + 2, (uint16_t)(value >> 16), 0xffff);
}

static const struct bus_ops pm_ops = { .read = pm_read, .write = pm_write, .max = 4 };

/* Ports 0xb2 (command) and 0xb3 (status). There is no SMM: ACPI's two commands act at once. */
static uint64_t smi_read(void *opaque, uint64_t offset, unsigned size)
{
	struct q35 *q35 = opaque;
	return offset ? q35->pm.smi_data : q35->pm.smi_cmd;
}

static void smi_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct q35 *q35 = opaque;
	if (offset) {
		q35->pm.smi_data = (uint8_t)value;
		return;
	}
	q35->pm.smi_cmd = (uint8_t)value;
	if (value == PM_ACPI_ENABLE)
		q35->pm.pm1_control |= PM1_SCI_EN;
	else if (value == PM_ACPI_DISABLE)
		q35->pm.pm1_control &= ~PM1_SCI_EN;
	sci_update(q35);
}

static const struct bus_ops smi_ops = { .read = smi_read, .write = smi_write, .max = 1 };

void pm_reset(struct q35 *q35)
{
	struct ich9_pm *pm = &q35->pm;
	pm->pm1_status = pm->pm1_enable = 0;
	pm->pm1_control = PM1_SCI_EN; /* in ACPI mode from the start: no SMI handler would switch */
	pm->gpe0_status = pm->gpe0_enable = 0;
	pm->smi_enable = SMI_APMC_EN;
	pm->smi_cmd = pm->smi_data = 0;
	for (unsigned i = 0; i < sizeof(pm->tco); i++)
		pm->tco[i] = 0;
	pm->timer_epoch = timer_ticks(q35) / TIMER_HALF;
	sci_update(q35);
}

void pm_init(struct machine *machine, struct q35 *q35)
{
	clock_timer_init(&q35->pm.timer_overflow, timer_fired, q35);
	q35->pm.range = (struct bus_range){ .name = "io_acpi_pm", .ops = &pm_ops, .opaque = q35 };
	q35->smi_ports = (struct bus_range){ .name = "io_acpi_pm", .ops = &smi_ops, .opaque = q35 };
	bus_map_pio(machine, &q35->smi_ports, PM_SMI_CMD, 2);
}
