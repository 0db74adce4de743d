/* Interrupt lines: from devices to the 8259 pair and the IOAPIC. */
#include "machine/private.h"

/* The 8259 input `irq` as the OR of its sources. */
static void isa_apply(struct machine *machine, unsigned irq, uint32_t source_bit, bool level)
{
	uint32_t *set = &machine->lines.isa[irq];
	uint32_t now = level ? *set | source_bit : *set & ~source_bit;
	bool was = *set != 0;
	*set = now;
	if (was == (now != 0))
		return;
	if (machine->hooks.pic_line)
		machine->hooks.pic_line(machine->hooks.opaque, irq, now != 0);
	else
		pic_set(&machine->pic, irq, now != 0);
}

static void gsi_apply(struct machine *machine, unsigned gsi, uint32_t source_bit, bool level)
{
	uint32_t *set = &machine->lines.gsi[gsi];
	uint32_t now = level ? *set | source_bit : *set & ~source_bit;
	bool was = *set != 0;
	*set = now;
	if (was == (now != 0))
		return;
	if (machine->hooks.ioapic_line)
		machine->hooks.ioapic_line(machine->hooks.opaque, gsi, now != 0);
	else
		ioapic_set(&machine->ioapic, gsi, now != 0);
}

void irq_isa_set(struct machine *machine, unsigned irq, enum irq_source source, bool level)
{
	BUG_ON(irq >= 16 || (unsigned)source >= 32);
	isa_apply(machine, irq, 1u << source, level);
	gsi_apply(machine, irq == ISA_IRQ_TIMER ? 2 : irq, 1u << source, level);
}

void irq_isa_pulse(struct machine *machine, unsigned irq)
{
	irq_isa_set(machine, irq, IRQ_SOURCE_ISA, false);
	irq_isa_set(machine, irq, IRQ_SOURCE_ISA, true);
	irq_isa_set(machine, irq, IRQ_SOURCE_ISA, false);
}

static void pirq_apply_pic(struct machine *machine, unsigned pirq, uint8_t route, bool level)
{
	/* Bit 7: not routed. IRQs 0, 1, 2, 8 and 13 are reserved for ISA devices (ICH9 13.1.13). */
	unsigned irq = route & 0xf;
	if ((route & 0x80) || irq < 3 || irq == 8 || irq == 13)
		return;
	isa_apply(machine, irq, 1u << (IRQ_SOURCE_PIRQ + pirq), level);
}

void irq_pirq_change(struct machine *machine, unsigned pirq, int delta)
{
	struct irq_lines *lines = &machine->lines;
	BUG_ON(pirq >= 8);
	bool was = lines->pirq[pirq] != 0;
	BUG_ON(delta < 0 && !was);
	lines->pirq[pirq] += (uint32_t)delta;
	bool now = lines->pirq[pirq] != 0;
	if (was == now)
		return;
	pirq_apply_pic(machine, pirq, lines->pirq_route[pirq], now);
	gsi_apply(machine, IRQ_PIRQ_GSI_BASE + pirq, 1u << (IRQ_SOURCE_PIRQ + pirq), now);
}

void irq_pirq_route(struct machine *machine, unsigned pirq, uint8_t route)
{
	struct irq_lines *lines = &machine->lines;
	BUG_ON(pirq >= 8);
	if (lines->pirq_route[pirq] == route)
		return;
	bool level = lines->pirq[pirq] != 0;
	pirq_apply_pic(machine, pirq, lines->pirq_route[pirq], false);
	lines->pirq_route[pirq] = route;
	pirq_apply_pic(machine, pirq, route, level);
}

void machine_msi(struct machine *machine, uint64_t address, uint32_t data)
{
	if ((address & ~0xfffffull) != LAPIC_BASE)
		return;
	if (machine->hooks.msi) {
		machine->hooks.msi(machine->hooks.opaque, address, data);
		return;
	}
	uint32_t dest = address >> 12 & 0xff;
	bool logical = address & 4;
	enum lapic_delivery mode = data >> 8 & 7;
	/* The redirection hint asks for one receiver among the addressed. */
	if ((address & 8) && mode == LAPIC_FIXED && logical)
		mode = LAPIC_LOWEST;
	bool level = data & 0x8000;
	if (level && !(data & 0x4000))
		return; /* level deassert has no meaning to a LAPIC */
	lapic_bus_deliver(machine, dest, logical, mode, (uint8_t)data, level);
}
