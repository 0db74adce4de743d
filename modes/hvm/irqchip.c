/* Interrupt controllers and timer in the kernel: lines and messages to them, their state out and in. */
#include "modes/hvm/private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define LAPIC_REG_ID 0x02
#define LAPIC_REG_LINT1 0x36
#define LVT_MASKED 0x10000u
#define LVT_MODE_NMI 0x400u
#define IOAPIC_LEVEL 0x8000u
#define IOAPIC_MASKED 0x10000u
#define PIT_MODE_NONE 0xff /* KVM's word for a counter that was never programmed */

int hvm_irqchip_create(struct mode_vm *vm)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY}; /* port 0x61 too */

	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return -errno;
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		return -errno;
	return hvm_routing_set(vm);
}

/* ---- lines and messages ----------------------------------------------------------------------------- */

static void set_gsi(const struct mode_vm *vm, unsigned gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	ioctl(vm->fd, KVM_IRQ_LINE, &line);
}

void hvm_pic_line(void *opaque, unsigned input, bool level)
{
	if (input != HVM_GSI_TIMER)
		set_gsi(opaque, input, level);
}

void hvm_ioapic_line(void *opaque, unsigned pin, bool level)
{
	if (pin != HVM_TIMER_PIN)
		set_gsi(opaque, HVM_GSI_IOAPIC + pin, level);
}

void hvm_msi(void *opaque, uint64_t address, uint32_t data)
{
	struct mode_vm *vm = opaque;
	struct kvm_msi msi = {.address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};

	ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

/* ---- LAPICs --------------------------------------------------------------------------------------------- */

static int lapic_get(struct mode_vcpu *vcpu, uint32_t *ret_reg)
{
	struct kvm_lapic_state page;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &page) < 0)
		return -errno;
	for (unsigned i = 0; i < IRQCHIP_LAPIC_REGISTERS; i++)
		memcpy(&ret_reg[i], page.regs + i * 16, 4);
	return 0;
}

bool hvm_lint1_open(struct mode_vcpu *vcpu)
{
	uint32_t reg[IRQCHIP_LAPIC_REGISTERS];

	return !lapic_get(vcpu, reg) && !(reg[LAPIC_REG_LINT1] & LVT_MASKED) && (reg[LAPIC_REG_LINT1] & 0x700) == LVT_MODE_NMI;
}

/* What the vCPU's TSC is ahead of the machine's, by which deadlines differ. */
static int tsc_ahead(struct mode_vcpu *vcpu, uint64_t *ret_ahead)
{
	uint64_t offset;
	int rc = 0;

	if (vcpu->vm->machine_paused) {
		*ret_ahead = vcpu->tsc_delta;
	} else {
		rc = hvm_tsc_offset_get(vcpu, &offset);
		if (!rc)
			*ret_ahead = offset - machine_tsc_offset(vcpu->vm->machine);
	}
	return rc;
}

static int lapic_to_machine(struct mode_vcpu *vcpu)
{
	struct irqchip_lapic s;
	uint64_t ahead;
	int rc = lapic_get(vcpu, s.reg);

	if (!rc)
		rc = hvm_msr_get(vcpu, MSR_APIC_BASE, &s.base);
	if (!rc)
		rc = hvm_msr_get(vcpu, MSR_TSC_DEADLINE, &s.tsc_deadline);
	if (!rc)
		rc = tsc_ahead(vcpu, &ahead);
	if (rc)
		return rc;
	if (s.tsc_deadline)
		s.tsc_deadline -= ahead;
	machine_lapic_set(vcpu->vm->machine, vcpu->index, &s);
	return 0;
}

static int lapic_from_machine(struct mode_vcpu *vcpu)
{
	struct kvm_lapic_state page = {0};
	struct irqchip_lapic s;
	uint64_t ahead = 0;
	int rc = tsc_ahead(vcpu, &ahead);

	machine_lapic_get(vcpu->vm->machine, vcpu->index, &s);
	/* KVM has the id in the upper byte in either mode. */
	s.reg[LAPIC_REG_ID] = vcpu->index << 24;
	for (unsigned i = 0; i < IRQCHIP_LAPIC_REGISTERS; i++)
		memcpy(page.regs + i * 16, &s.reg[i], 4);
	/* The mode first, which says what the registers mean; the deadline last, which needs the timer's. */
	if (!rc)
		rc = hvm_msr_set(vcpu, MSR_APIC_BASE, s.base);
	if (!rc && ioctl(vcpu->fd, KVM_SET_LAPIC, &page) < 0)
		rc = -errno;
	return rc ? rc : hvm_msr_set(vcpu, MSR_TSC_DEADLINE, s.tsc_deadline ? s.tsc_deadline + ahead : 0);
}

/* ---- 8259 pair -------------------------------------------------------------------------------------------- */

/* Which initialization word comes next: ours count the words, KVM from 0. */
static uint8_t init_to_kvm(uint8_t step) { return step ? step - 1 : 0; }
static uint8_t init_from_kvm(uint8_t state) { return state ? state + 1 : 0; }

static void pic_to_kvm(const struct irqchip_state *s, unsigned n, struct kvm_pic_state *ret)
{
	static const uint8_t elcr_mask[2] = {0xf8, 0xde};
	const struct pic_chip *c = &s->pic[n];
	uint8_t lines = (uint8_t)(s->pic_lines >> n * 8);

	*ret = (struct kvm_pic_state){
		.last_irr = lines,
		.irr = (uint8_t)((c->irr & ~c->elcr) | (lines & c->elcr)),
		.imr = c->imr,
		.isr = c->isr,
		.priority_add = c->priority_add,
		.irq_base = c->vector_base,
		.read_reg_select = c->read_isr,
		.poll = c->poll,
		.special_mask = c->special_mask,
		.init_state = init_to_kvm(c->init_step),
		.auto_eoi = c->auto_eoi,
		.rotate_on_auto_eoi = c->rotate_auto_eoi,
		.special_fully_nested_mode = c->special_nested,
		.init4 = c->icw4_needed,
		.elcr = c->elcr,
		.elcr_mask = elcr_mask[n],
	};
}

static void pic_from_kvm(const struct kvm_pic_state *k, struct pic_chip *ret)
{
	*ret = (struct pic_chip){
		.irr = k->irr & ~k->elcr,
		.imr = k->imr,
		.isr = k->isr,
		.elcr = k->elcr,
		.vector_base = k->irq_base,
		.priority_add = k->priority_add & 7,
		.init_step = init_from_kvm(k->init_state),
		.icw4_needed = k->init4,
		.auto_eoi = k->auto_eoi,
		.rotate_auto_eoi = k->rotate_on_auto_eoi,
		.special_mask = k->special_mask,
		.special_nested = k->special_fully_nested_mode,
		.poll = k->poll,
		.read_isr = k->read_reg_select,
	};
}

static int chip_ioctl(const struct mode_vm *vm, unsigned long request, unsigned id, struct kvm_irqchip *chip)
{
	chip->chip_id = id;
	return ioctl(vm->fd, request, chip) < 0 ? -errno : 0;
}

/* ---- IOAPIC -------------------------------------------------------------------------------------------------- */

static int ioapic_to_kvm(const struct mode_vm *vm, const struct irqchip_state *s, bool masked)
{
	struct kvm_irqchip chip;
	struct kvm_ioapic_state *k = &chip.chip.ioapic;
	int rc = chip_ioctl(vm, KVM_GET_IRQCHIP, KVM_IRQCHIP_IOAPIC, &chip);

	if (rc)
		return rc;
	k->ioregsel = s->ioapic_index;
	k->id = s->ioapic_id;
	k->irr = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		k->redirtbl[pin].bits = s->ioapic_entry[pin] | (masked ? IOAPIC_MASKED : 0);
		/* An edge has been delivered when it came; a level counts while it lasts. */
		if (!masked && (s->ioapic_entry[pin] & IOAPIC_LEVEL) && (s->ioapic_lines >> pin & 1))
			k->irr |= 1u << pin;
	}
	return chip_ioctl(vm, KVM_SET_IRQCHIP, KVM_IRQCHIP_IOAPIC, &chip);
}

static int pics_to_kvm(const struct mode_vm *vm, const struct irqchip_state *s, bool masked)
{
	int rc = 0;

	for (unsigned n = 0; n < 2 && !rc; n++) {
		struct kvm_irqchip chip = {0};

		pic_to_kvm(s, n, &chip.chip.pic);
		if (masked)
			chip.chip.pic.imr = 0xff;
		rc = chip_ioctl(vm, KVM_SET_IRQCHIP, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, &chip);
	}
	return rc;
}

/* ---- 8254 ------------------------------------------------------------------------------------------------------ */

/* Host CLOCK_MONOTONIC at virtual time 0, if virtual time ran now. */
static uint64_t virtual_zero(const struct mode_vm *vm)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec - machine_clock_ns(vm->machine);
}

/* KVM's byte sequencers: 1 low, 2 high, 3 low of two, 4 high of two. */
static uint8_t sequencer(const struct pit_channel *ch, bool high_next)
{
	return ch->access == 3 && high_next ? 4 : ch->access;
}

static void channel_to_kvm(const struct pit_channel *ch, uint64_t zero, struct kvm_pit_channel_state *ret)
{
	bool untouched = ch->null_count && ch->mode == 3 && ch->count == 0x10000;

	*ret = (struct kvm_pit_channel_state){
		.count = ch->count,
		.latched_count = ch->latch,
		.count_latched = ch->latched ? sequencer(ch, ch->latched == 1) : 0,
		.status_latched = ch->status_latched,
		.status = ch->status,
		.read_state = sequencer(ch, ch->read_high_next),
		.write_state = sequencer(ch, ch->write_high_next),
		.write_latch = ch->write_low,
		.rw_mode = ch->access,
		.mode = untouched ? PIT_MODE_NONE : ch->mode,
		.bcd = ch->bcd,
		.gate = ch->gate,
		.count_load_time = (int64_t)(zero + ch->start_ns),
	};
}

static void channel_from_kvm(const struct kvm_pit_channel_state *k, uint64_t zero, struct pit_channel *ret)
{
	bool untouched = k->mode == PIT_MODE_NONE;

	*ret = (struct pit_channel){
		.count = k->count && k->count <= 0x10000 ? k->count : 0x10000,
		.start_ns = (uint64_t)k->count_load_time > zero ? (uint64_t)k->count_load_time - zero : 0,
		.mode = untouched ? 3 : k->mode,
		.access = k->rw_mode ? k->rw_mode : 3,
		.bcd = k->bcd,
		.gate = k->gate,
		.null_count = untouched,
		.running = !untouched && k->gate,
		.write_low = k->write_latch,
		.write_high_next = k->write_state == 2 || k->write_state == 4,
		.read_high_next = k->read_state == 2 || k->read_state == 4,
		.latch = k->latched_count,
		.latched = k->count_latched == 3 ? 2 : k->count_latched != 0,
		.status_latched = k->status_latched,
		.status = k->status,
	};
}

static int pit_to_kvm(const struct mode_vm *vm, const struct irqchip_state *s)
{
	struct kvm_pit_state2 k = {0};
	uint64_t zero = virtual_zero(vm);

	for (unsigned i = 0; i < 3; i++)
		channel_to_kvm(&s->pit[i], zero, &k.channels[i]);
	k.flags = s->speaker ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0;
	return ioctl(vm->fd, KVM_SET_PIT2, &k) < 0 ? -errno : 0;
}

static int pit_from_kvm(const struct mode_vm *vm, struct irqchip_state *s)
{
	struct kvm_pit_state2 k;
	uint64_t zero = virtual_zero(vm);

	if (ioctl(vm->fd, KVM_GET_PIT2, &k) < 0)
		return -errno;
	for (unsigned i = 0; i < 3; i++)
		channel_from_kvm(&k.channels[i], zero, &s->pit[i]);
	s->speaker = k.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	return 0;
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

int hvm_devices_from_machine(struct mode_vm *vm)
{
	struct irqchip_state s;
	int rc = 0;

	machine_irqchip_get(vm->machine, &s);
	for (unsigned i = 0; i < vm->vcpus && !rc; i++)
		if (vm->vcpu[i])
			rc = lapic_from_machine(vm->vcpu[i]);
	/* KVM keeps the lines apart from the controllers' state: set them where nobody listens, then open up. */
	if (!rc)
		rc = pics_to_kvm(vm, &s, true);
	if (!rc)
		rc = ioapic_to_kvm(vm, &s, true);
	for (unsigned n = 0; n < 16 && !rc; n++)
		hvm_pic_line(vm, n, s.pic_lines >> n & 1);
	for (unsigned pin = 0; pin < IOAPIC_PINS && !rc; pin++)
		hvm_ioapic_line(vm, pin, s.ioapic_lines >> pin & 1);
	if (!rc)
		rc = pics_to_kvm(vm, &s, false);
	if (!rc)
		rc = ioapic_to_kvm(vm, &s, false);
	if (!rc)
		rc = pit_to_kvm(vm, &s);
	if (rc)
		return rc;
	machine_irqchip_idle(vm->machine);
	vm->kernel_has_devices = true;
	return 0;
}

int hvm_devices_to_machine(struct mode_vm *vm)
{
	struct irqchip_state s;
	struct kvm_irqchip chip;
	int rc = 0;

	machine_irqchip_get(vm->machine, &s);
	for (unsigned n = 0; n < 2 && !rc; n++) {
		rc = chip_ioctl(vm, KVM_GET_IRQCHIP, n ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, &chip);
		if (!rc)
			pic_from_kvm(&chip.chip.pic, &s.pic[n]);
	}
	if (!rc)
		rc = chip_ioctl(vm, KVM_GET_IRQCHIP, KVM_IRQCHIP_IOAPIC, &chip);
	if (!rc) {
		s.ioapic_index = (uint8_t)chip.chip.ioapic.ioregsel;
		s.ioapic_id = (uint8_t)chip.chip.ioapic.id;
		for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
			s.ioapic_entry[pin] = chip.chip.ioapic.redirtbl[pin].bits & ~0x1000ull; /* nothing is under way */
	}
	if (!rc)
		rc = pit_from_kvm(vm, &s);
	for (unsigned i = 0; i < vm->vcpus && !rc; i++)
		if (vm->vcpu[i])
			rc = lapic_to_machine(vm->vcpu[i]);
	if (rc)
		return rc;
	machine_irqchip_set(vm->machine, &s);
	vm->kernel_has_devices = false;
	return 0;
}
