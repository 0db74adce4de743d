/* Doorbells (ioeventfd) and interrupts by eventfd (irqfd) in the kernel, and the table that routes the latter. */
#include "modes/hvm/private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

int hvm_doorbell(void *opaque, bool on, gpa_t gpa, int fd)
{
	struct mode_vm *vm = opaque;
	/* Of any width, where KVM offers that: it then need not decode the instruction. Drivers write 16 bits. */
	struct kvm_ioeventfd e = {
		.addr = gpa, .len = vm->kvm.doorbell_any ? 0 : 2, .fd = fd, .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};

	if (ioctl(vm->fd, KVM_IOEVENTFD, &e) < 0)
		return -errno;
	vm->doorbells += on ? 1u : -1u;
	return 0;
}

/* ---- the routing table: under the machine lock, or before the machine runs ------------------------------- */

static void add_pin(struct kvm_irq_routing *r, unsigned gsi, unsigned chip, unsigned pin)
{
	r->entries[r->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

int hvm_routing_set(struct mode_vm *vm)
{
	size_t max = 16 + IOAPIC_PINS + vm->irqfd_count;
	struct kvm_irq_routing *r = calloc(1, sizeof(*r) + max * sizeof(r->entries[0]));
	int rc;

	if (!r)
		return -ENOMEM;
	for (unsigned n = 0; n < 16; n++)
		add_pin(r, n, n < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, n % 8);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		add_pin(r, pin == HVM_TIMER_PIN ? HVM_GSI_TIMER : HVM_GSI_IOAPIC + pin, KVM_IRQCHIP_IOAPIC, pin);
	for (unsigned i = 0; i < vm->irqfd_count; i++) {
		const struct hvm_irqfd *irqfd = &vm->irqfd[i];

		if (irqfd->fd < 0)
			continue;
		r->entries[r->nr++] = (struct kvm_irq_routing_entry){
			.gsi = HVM_GSI_IRQFD + i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (uint32_t)irqfd->address,
				  .address_hi = (uint32_t)(irqfd->address >> 32),
				  .data = irqfd->data},
		};
	}
	rc = ioctl(vm->fd, KVM_SET_GSI_ROUTING, r) < 0 ? -errno : 0;
	free(r);
	return rc;
}

/* ---- interrupts by eventfd: under the machine lock ----------------------------------------------------------- */

static int attach(struct mode_vm *vm, unsigned i, bool on)
{
	if (vm->irqfd[i].attached == on)
		return 0;
	struct kvm_irqfd request = {
		.fd = (uint32_t)vm->irqfd[i].fd, .gsi = HVM_GSI_IRQFD + i, .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

	if (ioctl(vm->fd, KVM_IRQFD, &request) < 0)
		return -errno;
	vm->irqfd[i].attached = on;
	return 0;
}

static struct hvm_irqfd *find(struct mode_vm *vm, int fd)
{
	for (unsigned i = 0; i < vm->irqfd_count; i++)
		if (vm->irqfd[i].fd == fd)
			return &vm->irqfd[i];
	return NULL;
}

/* One that is free; NULL: KVM's table is full, or memory. */
static struct hvm_irqfd *new_irqfd(struct mode_vm *vm)
{
	struct hvm_irqfd *irqfd = find(vm, -1);

	if (irqfd || HVM_GSI_IRQFD + vm->irqfd_count >= vm->kvm.gsis)
		return irqfd;
	irqfd = realloc(vm->irqfd, (vm->irqfd_count + 1) * sizeof(*irqfd));
	if (!irqfd)
		return NULL;
	vm->irqfd = irqfd;
	irqfd[vm->irqfd_count].fd = -1;
	return &irqfd[vm->irqfd_count++];
}

static int add_irqfd(struct mode_vm *vm, int fd, uint64_t address, uint32_t data)
{
	struct hvm_irqfd *irqfd = new_irqfd(vm);
	int rc;

	if (!irqfd)
		return -ENOSPC;
	*irqfd = (struct hvm_irqfd){.fd = fd, .address = address, .data = data};
	rc = hvm_routing_set(vm);
	/* What waits in it is sent at once. While the machine is paused its controllers are not KVM's: hvm_irqfds_attach. */
	if (!rc && !vm->machine_paused)
		rc = attach(vm, (unsigned)(irqfd - vm->irqfd), true);
	if (rc)
		irqfd->fd = -1;
	else
		vm->irqfds++;
	return rc;
}

int hvm_irqfd(void *opaque, int fd, bool on, uint64_t address, uint32_t data)
{
	struct mode_vm *vm = opaque;
	struct hvm_irqfd *irqfd = find(vm, fd);

	if (on && !irqfd)
		return add_irqfd(vm, fd, address, data);
	if (!irqfd)
		return -ENOENT;
	if (on) {
		struct hvm_irqfd was = *irqfd;
		int rc;

		irqfd->address = address;
		irqfd->data = data;
		rc = hvm_routing_set(vm);
		if (rc)
			*irqfd = was;
		return rc;
	}
	attach(vm, (unsigned)(irqfd - vm->irqfd), false);
	irqfd->fd = -1;
	vm->irqfds--;
	return 0;
}

int hvm_irqfds_attach(struct mode_vm *vm, bool on)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->irqfd_count; i++) {
		int r = vm->irqfd[i].fd < 0 ? 0 : attach(vm, i, on);

		if (r && !rc)
			rc = r;
	}
	return rc;
}
