/* A passed-through device's interrupts: VFIO signals eventfds, which the engine or the machine turns into the guest's. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine/vfio/private.h"

#define WINDOWS_AGAIN_NS 100000000u

/* Hands `count` eventfds over, or with none switches the index off. */
static int set_trigger(struct vfio_device *d, uint32_t index, const int32_t *fds, unsigned count)
{
	struct vfio_irq_set *set = calloc(1, sizeof(*set) + PCI_MSIX_MAX * sizeof(int32_t));
	int rc;

	if (!set)
		return -ENOMEM;
	set->argsz = (uint32_t)(sizeof(*set) + count * sizeof(int32_t));
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER | (count ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE);
	set->index = index;
	set->count = count;
	if (count)
		memcpy(set->data, fds, count * sizeof(int32_t));
	rc = vfio_ioctl(d, VFIO_DEVICE_SET_IRQS, set);
	free(set);
	return rc;
}

static void complain(struct vfio_device *d, const char *what, int rc)
{
	if (d->interrupts_refused++ < 5)
		fprintf(stderr, "%s: VFIO does not deliver its %s interrupts: %s\n", d->name, what, strerror(-rc));
}

/* ---- INTx: a level that VFIO masks when it signals -------------------------------------------------------- */

/*
 * When the guest has served its device nobody tells us, but it cannot without touching the device: so while the line is
 * up accesses are let see (no windows), and the first one lowers the line and unmasks it; if that was early, it comes
 * again.
 */
static void on_intx(void *opaque)
{
	struct vfio_device *d = opaque;

	if (!eventfd_take(d->intx.fd) || d->irq_mode != VFIO_IRQ_INTX)
		return;
	d->intx_waits = true;
	vfio_windows_update(d);
	pci_intx_set(&d->pci, true);
}

static void unmask(struct vfio_device *d)
{
	struct vfio_irq_set set = {
		.argsz = sizeof(set),
		.flags = VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_DATA_NONE,
		.index = VFIO_PCI_INTX_IRQ_INDEX,
		.count = 1,
	};
	int rc = vfio_ioctl(d, VFIO_DEVICE_SET_IRQS, &set);

	if (rc < 0)
		complain(d, "further", rc);
}

void vfio_intx_touched(struct vfio_device *d)
{
	if (!d->intx_waits)
		return;
	d->intx_waits = false;
	pci_intx_set(&d->pci, false);
	clock_timer_arm(d->pci.machine, &d->windows_again, machine_clock_ns(d->pci.machine) + WINDOWS_AGAIN_NS);
	unmask(d);
}

static void on_windows_again(void *opaque) { vfio_windows_update(opaque); }

/* ---- which of the three ------------------------------------------------------------------------------------- */

static enum vfio_irq_mode wanted(const struct vfio_device *d)
{
	if (pci_msix_enabled(&d->pci))
		return VFIO_IRQ_MSIX;
	if (vfio_msi_enabled(d))
		return VFIO_IRQ_MSI;
	return d->intx_count && d->pci.config[PCI_INTERRUPT_PIN] ? VFIO_IRQ_INTX : VFIO_IRQ_NONE;
}

static void msix_on(struct vfio_device *d)
{
	int32_t fds[PCI_MSIX_MAX] = {0};
	unsigned n = d->pci.msix.vectors;
	int rc;

	for (unsigned i = 0; i < n; i++)
		fds[i] = d->pci.msix.irqfd[i].fd;
	rc = set_trigger(d, VFIO_PCI_MSIX_IRQ_INDEX, fds, n);
	/* A positive answer: the host has only so many vectors left. */
	if (rc > 0 && (unsigned)rc < n)
		rc = set_trigger(d, VFIO_PCI_MSIX_IRQ_INDEX, fds, (unsigned)rc);
	if (rc)
		complain(d, "MSI-X", rc > 0 ? -ENOSPC : rc);
}

static void msi_route(struct vfio_device *d)
{
	unsigned cap = d->msi_cap;
	bool wide = d->pci.config[cap + 2] & 0x80;
	uint64_t address = pci_config_u32(&d->pci, cap + 4);

	if (wide)
		address |= (uint64_t)pci_config_u32(&d->pci, cap + 8) << 32;
	if (pci_bus_master(&d->pci))
		irqfd_route(&d->msi, address, pci_config_u16(&d->pci, cap + (wide ? 12 : 8)));
	else
		irqfd_unroute(&d->msi);
}

static void on(struct vfio_device *d, enum vfio_irq_mode mode)
{
	const int32_t msi = d->msi.fd, intx = d->intx.fd;
	int rc;

	switch (mode) {
	case VFIO_IRQ_MSIX: msix_on(d); break;
	case VFIO_IRQ_MSI:
		rc = set_trigger(d, VFIO_PCI_MSI_IRQ_INDEX, &msi, 1);
		if (rc)
			complain(d, "MSI", rc > 0 ? -ENOSPC : rc);
		break;
	case VFIO_IRQ_INTX:
		rc = set_trigger(d, VFIO_PCI_INTX_IRQ_INDEX, &intx, 1);
		if (rc)
			complain(d, "INTx", rc);
		break;
	case VFIO_IRQ_NONE: break;
	}
	d->irq_mode = mode;
}

void vfio_interrupts_off(struct vfio_device *d)
{
	static const uint32_t index[] = {[VFIO_IRQ_INTX] = VFIO_PCI_INTX_IRQ_INDEX,
					 [VFIO_IRQ_MSI] = VFIO_PCI_MSI_IRQ_INDEX,
					 [VFIO_IRQ_MSIX] = VFIO_PCI_MSIX_IRQ_INDEX};

	if (d->irq_mode != VFIO_IRQ_NONE)
		set_trigger(d, index[d->irq_mode], NULL, 0);
	if (d->irq_mode == VFIO_IRQ_MSI) {
		irqfd_unroute(&d->msi);
		irqfd_take(&d->msi);
	}
	if (d->irq_mode == VFIO_IRQ_INTX) {
		eventfd_take(d->intx.fd);
		d->intx_waits = false;
		pci_intx_set(&d->pci, false);
	}
	d->irq_mode = VFIO_IRQ_NONE;
}

void vfio_interrupts_update(struct vfio_device *d)
{
	enum vfio_irq_mode mode = wanted(d);

	if (mode != d->irq_mode) {
		vfio_interrupts_off(d);
		on(d, mode);
	}
	if (mode == VFIO_IRQ_MSI)
		msi_route(d);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static unsigned count_of(const struct vfio_device *d, uint32_t index)
{
	struct vfio_irq_info info = {.argsz = sizeof(info), .index = index};

	return vfio_ioctl(d, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0 ? 0 : info.count;
}

int vfio_interrupts_init(struct vfio_device *d, char *ret_error)
{
	int rc = 0;

	clock_timer_init(&d->windows_again, on_windows_again, d);
	d->intx_count = count_of(d, VFIO_PCI_INTX_IRQ_INDEX);
	d->intx = (struct eventfd_watch){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .fn = on_intx, .opaque = d};
	if (d->intx.fd < 0)
		rc = -errno;
	if (!rc && d->pci.msix.vectors)
		rc = pci_msix_add_irqfds(&d->pci, true);
	if (!rc && d->msi_cap)
		rc = irqfd_init(d->pci.machine, &d->msi, true);
	if (!rc && d->intx_count)
		rc = eventfd_watch(d->pci.machine, &d->intx);
	if (rc)
		return vfio_refuse(ret_error, rc, "%s: no eventfds for its interrupts: %s", d->name, strerror(-rc));
	vfio_interrupts_update(d);
	return 0;
}

void vfio_interrupts_finish(struct vfio_device *d)
{
	vfio_interrupts_off(d);
	clock_timer_cancel(d->pci.machine, &d->windows_again);
	irqfd_finish(&d->msi);
	if (d->intx.fn)
		eventfd_unwatch(d->pci.machine, &d->intx);
	if (d->intx.fn && d->intx.fd >= 0)
		close(d->intx.fd);
	d->intx.fn = NULL;
}
