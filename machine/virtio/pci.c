/* The PCI transport of virtio 1.x (4.1): capabilities, the registers behind them, and interrupts. */
#include <errno.h>
#include <string.h>

#include "machine/virtio/virtio.h"

#define VENDOR_REDHAT 0x1af4
#define DEVICE_MODERN 0x1040 /* + virtio device id */
#define SUBSYSTEM 0x1100
#define ISR_QUEUE 1u

/* BAR 1: MSI-X. BAR 4: the four structures, a page each. */
#define MSIX_BAR 1
#define MSIX_BAR_BYTES 0x1000
#define MSIX_PBA 0x800
#define REGS_BAR 4
#define REGS_BAR_BYTES 0x4000
#define COMMON_AT 0x0000
#define COMMON_BYTES 56
#define ISR_AT 0x1000
#define CONFIG_AT 0x2000
#define NOTIFY_AT 0x3000
#define NOTIFY_MULTIPLIER 4
#define PAGE 0x1000

enum cap_type { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };

/* struct virtio_pci_cap's fields, from the capability's start. */
#define CAP_LENGTH 2
#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_BYTES 12
#define CAP_EXTRA 16 /* notify: multiplier; pci_cfg: data window */

/* struct virtio_pci_common_cfg (4.1.4.3). */
enum common_register {
	COMMON_DEVICE_FEATURE_SELECT = 0,
	COMMON_DEVICE_FEATURE = 4,
	COMMON_DRIVER_FEATURE_SELECT = 8,
	COMMON_DRIVER_FEATURE = 12,
	COMMON_CONFIG_VECTOR = 16,
	COMMON_QUEUES = 18,
	COMMON_STATUS = 20,
	COMMON_GENERATION = 21,
	COMMON_QUEUE_SELECT = 22,
	COMMON_QUEUE_SIZE = 24,
	COMMON_QUEUE_VECTOR = 26,
	COMMON_QUEUE_ENABLE = 28,
	COMMON_QUEUE_NOTIFY_OFF = 30,
	COMMON_QUEUE_DESC = 32,
	COMMON_QUEUE_AVAIL = 40,
	COMMON_QUEUE_USED = 48,
};

void virtio_pci_interrupt(struct virtio_device *dev, uint16_t vector, uint8_t isr_bit)
{
	if (pci_msix_enabled(&dev->pci)) {
		if (vector != 0xffff)
			pci_msix_notify(&dev->pci, vector);
		return;
	}
	dev->isr |= isr_bit;
	pci_intx_set(&dev->pci, true);
}

/* ---- common configuration ------------------------------------------------------ */

static struct virtq *selected(struct virtio_device *dev)
{
	return dev->queue_select < dev->queues ? &dev->queue[dev->queue_select] : NULL;
}

static uint16_t valid_vector(const struct virtio_device *dev, uint16_t vector)
{
	return vector < dev->pci.msix.vectors ? vector : 0xffff;
}

static uint32_t half(uint64_t value, uint64_t at) { return (uint32_t)(at & 4 ? value >> 32 : value); }

static void set_half(uint64_t *value, uint64_t at, uint32_t half_value)
{
	if (at & 4)
		*value = (*value & 0xffffffff) | (uint64_t)half_value << 32;
	else
		*value = (*value & ~0xffffffffull) | half_value;
}

static uint32_t queue_read(struct virtio_device *dev, uint64_t at)
{
	const struct virtq *q = selected(dev);

	/* A queue that does not exist has the size 0. */
	if (!q)
		return 0;
	switch (at) {
	case COMMON_QUEUE_SIZE: return q->size;
	case COMMON_QUEUE_VECTOR: return q->vector;
	case COMMON_QUEUE_ENABLE: return q->enabled;
	case COMMON_QUEUE_NOTIFY_OFF: return dev->queue_select;
	case COMMON_QUEUE_DESC:
	case COMMON_QUEUE_DESC + 4: return half(q->desc, at);
	case COMMON_QUEUE_AVAIL:
	case COMMON_QUEUE_AVAIL + 4: return half(q->avail, at);
	case COMMON_QUEUE_USED:
	case COMMON_QUEUE_USED + 4: return half(q->used, at);
	default: return 0;
	}
}

static uint32_t common_read(struct virtio_device *dev, uint64_t at)
{
	switch (at) {
	case COMMON_DEVICE_FEATURE_SELECT: return dev->feature_select;
	case COMMON_DEVICE_FEATURE: return dev->feature_select < 2 ? (uint32_t)(dev->features >> (32 * dev->feature_select)) : 0;
	case COMMON_DRIVER_FEATURE_SELECT: return dev->driver_feature_select;
	case COMMON_DRIVER_FEATURE:
		return dev->driver_feature_select < 2 ? (uint32_t)(dev->driver_features >> (32 * dev->driver_feature_select)) : 0;
	case COMMON_CONFIG_VECTOR: return dev->config_vector;
	case COMMON_QUEUES: return dev->queues;
	case COMMON_STATUS: return virtio_status_read(dev);
	case COMMON_GENERATION: return dev->config_generation;
	case COMMON_QUEUE_SELECT: return dev->queue_select;
	default: return queue_read(dev, at);
	}
}

static void queue_write(struct virtio_device *dev, uint64_t at, uint32_t value)
{
	struct virtq *q = selected(dev);

	if (!q)
		return;
	if (at == COMMON_QUEUE_ENABLE && value == 1) {
		virtio_queue_enable(dev, dev->queue_select);
		return;
	}
	pthread_mutex_lock(&dev->lock);
	if (at == COMMON_QUEUE_VECTOR) {
		q->vector = valid_vector(dev, (uint16_t)value);
	} else if (!q->enabled) {
		/* Final once enabled: the rings are mapped then. */
		switch (at) {
		case COMMON_QUEUE_SIZE: q->size = (uint16_t)value; break;
		case COMMON_QUEUE_DESC:
		case COMMON_QUEUE_DESC + 4: set_half(&q->desc, at, value); break;
		case COMMON_QUEUE_AVAIL:
		case COMMON_QUEUE_AVAIL + 4: set_half(&q->avail, at, value); break;
		case COMMON_QUEUE_USED:
		case COMMON_QUEUE_USED + 4: set_half(&q->used, at, value); break;
		default: break;
		}
	}
	pthread_mutex_unlock(&dev->lock);
}

static void common_write(struct virtio_device *dev, uint64_t at, uint32_t value)
{
	if (at == COMMON_STATUS) {
		virtio_status_write(dev, (uint8_t)value);
		return;
	}
	/* Until a reset is over, only its status means anything; then these registers are at their defaults. */
	if (dev->reset_pending)
		return;
	switch (at) {
	case COMMON_DEVICE_FEATURE_SELECT: dev->feature_select = value; break;
	case COMMON_DRIVER_FEATURE_SELECT: dev->driver_feature_select = value; break;
	case COMMON_DRIVER_FEATURE:
		if (dev->driver_feature_select < 2 && !(dev->status & VIRTIO_FEATURES_OK))
			set_half(&dev->driver_features, dev->driver_feature_select * 4, value);
		break;
	case COMMON_CONFIG_VECTOR: dev->config_vector = valid_vector(dev, (uint16_t)value); break;
	case COMMON_QUEUE_SELECT: dev->queue_select = (uint16_t)value; break;
	default: queue_write(dev, at, value); break;
	}
}

/* ---- the BAR ---------------------------------------------------------------------- */

static uint64_t isr_read(struct virtio_device *dev)
{
	uint8_t isr = dev->isr;

	/* Reading acknowledges. */
	dev->isr = 0;
	pci_intx_set(&dev->pci, false);
	return isr;
}

static uint64_t config_read(const struct virtio_device *dev, uint64_t at, unsigned size)
{
	uint64_t value = 0;

	if (at < dev->config_bytes)
		memcpy(&value, dev->config + at, size < dev->config_bytes - at ? size : dev->config_bytes - at);
	return value;
}

static uint64_t regs_read(void *opaque, uint64_t offset, unsigned size)
{
	struct virtio_device *dev = opaque;

	switch (offset & ~(uint64_t)(PAGE - 1)) {
	case COMMON_AT: return offset < COMMON_BYTES ? common_read(dev, offset) : 0;
	case ISR_AT: return offset == ISR_AT ? isr_read(dev) : 0;
	case CONFIG_AT: return config_read(dev, offset - CONFIG_AT, size);
	default: return 0;
	}
}

static void regs_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct virtio_device *dev = opaque;
	static const uint32_t mask[5] = {0, 0xff, 0xffff, 0, 0xffffffff};

	value &= mask[size];
	switch (offset & ~(uint64_t)(PAGE - 1)) {
	case COMMON_AT: common_write(dev, offset, (uint32_t)value); break;
	case CONFIG_AT:
		if (dev->ops->config_write && offset - CONFIG_AT + size <= dev->config_bytes)
			dev->ops->config_write(dev, offset - CONFIG_AT, value, size);
		break;
	case NOTIFY_AT: virtio_kick(dev, (unsigned)(offset - NOTIFY_AT) / NOTIFY_MULTIPLIER); break;
	default: break;
	}
}

static const struct bus_ops regs_ops = {.read = regs_read, .write = regs_write, .max = 4};

/* ---- the window in configuration space (4.1.4.9) -------------------------------------- */

/* What the driver set up: [offset, offset + size) of a BAR. False: nothing we can do an access to. */
static bool window(const struct virtio_device *dev, uint32_t *ret_offset, unsigned *ret_size)
{
	unsigned cap = dev->cfg_cap;
	uint32_t offset = pci_config_u32(&dev->pci, cap + CAP_OFFSET), size = pci_config_u32(&dev->pci, cap + CAP_BYTES);

	if (dev->pci.config[cap + CAP_BAR] != REGS_BAR || (size != 1 && size != 2 && size != 4) || offset % size != 0 ||
	    offset > REGS_BAR_BYTES - size)
		return false;
	*ret_offset = offset;
	*ret_size = size;
	return true;
}

static bool touches_window(const struct virtio_device *dev, unsigned offset, unsigned size)
{
	unsigned data = dev->cfg_cap + CAP_EXTRA;

	return offset < data + 4 && offset + size > data;
}

static void cfg_read(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio_device *dev = pci->opaque;
	uint32_t at;
	unsigned n;

	if (touches_window(dev, offset, size) && window(dev, &at, &n))
		pci_config_set_u32(pci, dev->cfg_cap + CAP_EXTRA, (uint32_t)regs_read(dev, at, n));
}

static void cfg_written(struct pci_device *pci, unsigned offset, unsigned size)
{
	struct virtio_device *dev = pci->opaque;
	uint32_t at;
	unsigned n;

	if (touches_window(dev, offset, size) && window(dev, &at, &n))
		regs_write(dev, at, pci_config_u32(pci, dev->cfg_cap + CAP_EXTRA), n);
}

/* ---- set-up ------------------------------------------------------------------------------ */

static unsigned add_cap(struct virtio_device *dev, enum cap_type type, uint32_t offset, uint32_t bytes, unsigned extra)
{
	const uint8_t vendor_specific = 9;
	unsigned at = pci_capability_add(&dev->pci, vendor_specific, CAP_EXTRA + extra);

	dev->pci.config[at + CAP_LENGTH] = (uint8_t)(CAP_EXTRA + extra);
	dev->pci.config[at + CAP_TYPE] = (uint8_t)type;
	dev->pci.config[at + CAP_BAR] = type == CAP_PCI_CFG ? 0 : REGS_BAR;
	pci_config_set_u32(&dev->pci, at + CAP_OFFSET, offset);
	pci_config_set_u32(&dev->pci, at + CAP_BYTES, bytes);
	return at;
}

int virtio_pci_init(struct virtio_device *dev)
{
	const struct pci_identity identity = {
		.vendor = VENDOR_REDHAT,
		.device = (uint16_t)(DEVICE_MODERN + dev->ops->id),
		.subsystem_vendor = VENDOR_REDHAT,
		.subsystem = SUBSYSTEM,
		.revision = 1,
		.class_device = dev->ops->pci_class,
		.interrupt_pin = 1,
	};
	unsigned at;
	int rc;

	dev->pci.opaque = dev;
	rc = pci_register(dev->machine, &dev->pci, dev->ops->name, PCI_SLOT_ANY, 0, &identity);
	if (rc < 0)
		return rc;
	pci_bar_add(&dev->pci, MSIX_BAR, PCI_BAR_MEM32, MSIX_BAR_BYTES, NULL, NULL);
	pci_bar_add(&dev->pci, REGS_BAR, PCI_BAR_MEM64, REGS_BAR_BYTES, &regs_ops, dev);
	/* One vector for each queue and one for the configuration. */
	rc = pci_msix_add(&dev->pci, MSIX_BAR, dev->queues + 1, 0, MSIX_PBA);
	if (rc == 0)
		rc = pci_msix_add_irqfds(&dev->pci, false);
	if (rc < 0) {
		pci_unregister(&dev->pci);
		return rc;
	}
	add_cap(dev, CAP_COMMON, COMMON_AT, COMMON_BYTES, 0);
	add_cap(dev, CAP_ISR, ISR_AT, 1, 0);
	if (dev->config_bytes)
		add_cap(dev, CAP_DEVICE, CONFIG_AT, (uint32_t)dev->config_bytes, 0);
	at = add_cap(dev, CAP_NOTIFY, NOTIFY_AT, dev->queues * NOTIFY_MULTIPLIER, 4);
	pci_config_set_u32(&dev->pci, at + CAP_EXTRA, NOTIFY_MULTIPLIER);
	at = add_cap(dev, CAP_PCI_CFG, 0, 0, 4);
	dev->cfg_cap = (uint8_t)at;
	dev->pci.wmask[at + CAP_BAR] = 0xff;
	memset(&dev->pci.wmask[at + CAP_OFFSET], 0xff, 12);
	dev->pci.config_read = cfg_read;
	dev->pci.config_written = cfg_written;
	for (unsigned i = 0; i < dev->queues; i++)
		doorbell_add(dev->machine, &dev->pci.bar[REGS_BAR].range, &dev->bell[i], NOTIFY_AT + i * NOTIFY_MULTIPLIER,
			     dev->worker.doorbell);
	return 0;
}

void virtio_pci_unlink(struct virtio_device *dev)
{
	machine_lock(dev->machine);
	for (unsigned i = 0; i < dev->queues; i++)
		doorbell_remove(dev->machine, &dev->pci.bar[REGS_BAR].range, &dev->bell[i]);
	machine_unlock(dev->machine);
}
