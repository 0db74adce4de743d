/* What the files of a passed-through device share. */
#ifndef MACHINE_VFIO_PRIVATE_H
#define MACHINE_VFIO_PRIVATE_H

#include "machine/private.h"
#include "machine/vfio/vfio.h"

#define VFIO_WINDOWS 12 /* pieces of its BARs that can be mapped */

struct vfio_device;

struct vfio_bar {
	struct vfio_device *dev;
	uint64_t at, bytes; /* in the device's file; bytes 0: none */
	uint32_t flags;     /* VFIO_REGION_INFO_FLAG_* */
};

struct vfio_window {
	struct ram_window window;
	unsigned bar;
	uint64_t offset; /* in the BAR */
};

enum vfio_irq_mode { VFIO_IRQ_NONE, VFIO_IRQ_INTX, VFIO_IRQ_MSI, VFIO_IRQ_MSIX };

/* All under the machine lock. */
struct vfio_device {
	struct pci_device pci;
	struct machine_device node;
	const struct vfio_host *host;
	int fd;
	char name[32];
	bool can_reset;

	uint64_t config_at;
	uint8_t emulated[PCI_CONFIG_BYTES]; /* ours, not the device's */
	uint8_t msi_cap;                    /* 0: none */
	uint8_t msi_bytes;
	bool quiet; /* paused: no DMA */

	struct vfio_bar bar[PCI_BARS];
	struct vfio_window window[VFIO_WINDOWS];
	unsigned windows;

	enum vfio_irq_mode irq_mode;
	unsigned intx_count;
	struct irqfd msi;
	struct eventfd_watch intx;
	bool intx_waits; /* raised, and the guest has not touched the device since */
	struct clock_timer windows_again;
	uint64_t interrupts_refused;
};

static inline int vfio_ioctl(const struct vfio_device *d, unsigned long request, void *argument)
{
	return d->host->ioctl(d->host->opaque, d->fd, request, argument);
}

/* ---- config.c ---- */

/* Fills the configuration space from the device's, with its BARs and capabilities. 0 or -errno, ret_error filled. */
int vfio_config_init(struct vfio_device *d, struct machine *machine, char *ret_error);
/* Tells the device the guest's COMMAND. */
void vfio_command_pass(struct vfio_device *d);
bool vfio_msi_enabled(const struct vfio_device *d);

/* ---- device.c ---- */

/* BARs that can be mapped show where the guest has them, unless accesses are to be seen. */
void vfio_windows_update(struct vfio_device *d);

/* ---- interrupt.c ---- */

int vfio_interrupts_init(struct vfio_device *d, char *ret_error);
/* Has VFIO deliver what the guest has enabled. */
void vfio_interrupts_update(struct vfio_device *d);
void vfio_interrupts_off(struct vfio_device *d);
void vfio_interrupts_finish(struct vfio_device *d);
/* The guest touched the device: if its line was up, it may have served it. */
void vfio_intx_touched(struct vfio_device *d);

#endif
