/* The interrupt controllers' state as a whole, out and in. */
#include "machine/irqchip.h"

#include <string.h>

#include "machine/private.h"

void machine_irqchip_get(struct machine *machine, struct irqchip_state *ret_state)
{
	struct irqchip_state s = { 0 };
	machine_lock(machine);
	memcpy(s.pic, machine->pic.chip, sizeof(s.pic));
	s.ioapic_index = machine->ioapic.index;
	s.ioapic_id = machine->ioapic.id;
	memcpy(s.ioapic_entry, machine->ioapic.entry, sizeof(s.ioapic_entry));
	for (unsigned i = 0; i < ARRAY_SIZE(machine->lines.isa); i++)
		s.pic_lines |= (uint16_t)((machine->lines.isa[i] != 0) << i);
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		s.ioapic_lines |= (uint32_t)(machine->lines.gsi[i] != 0) << i;
	memcpy(s.pit, machine->pit.channel, sizeof(s.pit));
	s.speaker = machine->pit.speaker;
	machine_unlock(machine);
	*ret_state = s;
}

void machine_irqchip_set(struct machine *machine, const struct irqchip_state *state)
{
	machine_lock(machine);
	struct pic *pic = &machine->pic;
	memcpy(pic->chip, state->pic, sizeof(pic->chip));
	for (unsigned i = 0; i < ARRAY_SIZE(machine->lines.isa); i++) {
		uint8_t bit = 1u << i % 8;
		pic->chip[i / 8].lines &= ~bit;
		if (machine->lines.isa[i])
			pic->chip[i / 8].lines |= bit;
	}
	pic_refresh(pic);
	machine->ioapic.index = state->ioapic_index;
	machine->ioapic.id = state->ioapic_id;
	machine->ioapic.level = 0;
	memcpy(machine->ioapic.entry, state->ioapic_entry, sizeof(machine->ioapic.entry));
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		machine->ioapic.level |= (uint32_t)(machine->lines.gsi[i] != 0) << i;
	ioapic_refresh(&machine->ioapic);
	pit_restore(&machine->pit, state->pit, state->speaker);
	machine_unlock(machine);
}

void machine_lapic_get(struct machine *machine, unsigned vcpu, struct irqchip_lapic *ret_state)
{
	memset(ret_state, 0, sizeof(*ret_state));
	machine_lock(machine);
	lapic_save(&machine->lapic[vcpu], ret_state);
	machine_unlock(machine);
}

void machine_lapic_set(struct machine *machine, unsigned vcpu, const struct irqchip_lapic *state)
{
	machine_lock(machine);
	lapic_restore(&machine->lapic[vcpu], state);
	machine_unlock(machine);
}

void machine_irqchip_idle(struct machine *machine)
{
	machine_lock(machine);
	clock_timer_cancel(machine, &machine->pit.timer);
	for (unsigned i = 0; i < machine->config.vcpus; i++)
		lapic_idle(&machine->lapic[i]);
	machine_unlock(machine);
}
