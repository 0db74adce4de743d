/* The calibration guest's virtio disk (virtio 1.x over PCI, polled): finds it, sets one queue up, reads. */
#include "calibrate/guest.h"

/* Virtio 1.2, 4.1.4.3: struct virtio_pci_common_cfg. */
#define COMMON_FEATURE_SELECT 8
#define COMMON_FEATURE 12
#define COMMON_STATUS 20
#define COMMON_QUEUE_SELECT 22
#define COMMON_QUEUE_SIZE 24
#define COMMON_QUEUE_ENABLE 28
#define COMMON_QUEUE_NOTIFY_OFF 30
#define COMMON_QUEUE_DESC 32
#define COMMON_QUEUE_DRIVER 40
#define COMMON_QUEUE_DEVICE 48

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

#define VENDOR_VIRTIO 0x1af4u
#define DEVICE_BLOCK 0x1042u
#define CAP_VENDOR 9u
#define CAP_COMMON 1u
#define CAP_NOTIFY 2u
#define QUEUE 8u
/* Where no firmware has placed the device's registers: in the hole below 4 GiB that every PC keeps for PCI. */
#define BAR_AT 0xe8000000u
#define BAR_STRIDE 0x01000000u
#define PATIENCE_TICKS 8000000000ull

static struct {
	struct {
		uint64_t address;
		uint32_t length;
		uint16_t flags, next;
	} desc[QUEUE];
	struct {
		uint16_t flags, index, ring[QUEUE], unused;
	} driver;
	uint8_t pad[64];
	volatile struct {
		uint16_t flags, index;
		struct {
			uint32_t id, length;
		} ring[QUEUE];
	} device;
} queue __attribute__((aligned(4096)));
static struct {
	uint32_t type, reserved;
	uint64_t sector;
} request;
static volatile uint8_t request_status;
static uint8_t block[PAGE_BYTES] __attribute__((aligned(4096)));
static volatile uint16_t *notify;

static uint32_t pci_read(uint32_t device, uint32_t at)
{
	outl(0xcf8, 0x80000000u | device << 11 | (at & ~3u));
	return inl(0xcfc);
}

static void pci_write(uint32_t device, uint32_t at, uint32_t value)
{
	outl(0xcf8, 0x80000000u | device << 11 | (at & ~3u));
	outl(0xcfc, value);
}

static uint32_t pci_byte(uint32_t device, uint32_t at)
{
	return pci_read(device, at) >> 8 * (at & 3) & 0xff;
}

/* The BAR's address, given one if it has none; all BARs here are memory. */
static uint64_t bar_address(uint32_t device, uint32_t bar)
{
	uint32_t at = 0x10 + 4 * bar, low = pci_read(device, at);

	if (!(low & ~15u)) {
		pci_write(device, at, BAR_AT + BAR_STRIDE * bar);
		if ((low & 6) == 4)
			pci_write(device, at + 4, 0);
		low = pci_read(device, at);
	}
	return low & ~15u;
}

/* One structure of the device: type CAP_COMMON or CAP_NOTIFY; 0 when there is none. */
static uint64_t structure(uint32_t device, uint32_t type, uint32_t *ret_extra)
{
	uint32_t at = pci_byte(device, 0x34);

	for (unsigned n = 0; at && n < 32; n++, at = pci_byte(device, at + 1))
		if (pci_byte(device, at) == CAP_VENDOR && pci_byte(device, at + 3) == type) {
			*ret_extra = pci_read(device, at + 16);
			return bar_address(device, pci_byte(device, at + 4)) + pci_read(device, at + 8);
		}
	return 0;
}

static volatile void *reg(uint64_t base, unsigned at)
{
	return (volatile void *)(base + at);
}

static void put8(uint64_t base, unsigned at, uint8_t value) { *(volatile uint8_t *)reg(base, at) = value; }
static void put16(uint64_t base, unsigned at, uint16_t value) { *(volatile uint16_t *)reg(base, at) = value; }
static void put32(uint64_t base, unsigned at, uint32_t value) { *(volatile uint32_t *)reg(base, at) = value; }
static uint16_t get16(uint64_t base, unsigned at) { return *(volatile uint16_t *)reg(base, at); }

static void put_address(uint64_t base, unsigned at, const volatile void *address)
{
	put32(base, at, (uint32_t)(uint64_t)address);
	put32(base, at + 4, (uint32_t)((uint64_t)address >> 32));
}

static const char *start(uint32_t device)
{
	uint32_t extra = 0, multiplier = 0;
	uint64_t common = structure(device, CAP_COMMON, &extra), doorbell = structure(device, CAP_NOTIFY, &multiplier);

	if (!common || !doorbell)
		return "the virtio disk has no registers";
	pci_write(device, 4, (pci_read(device, 4) & 0xffff) | 6); /* memory, bus master */
	put8(common, COMMON_STATUS, 0);
	put8(common, COMMON_STATUS, STATUS_ACKNOWLEDGE);
	put8(common, COMMON_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
	put32(common, COMMON_FEATURE_SELECT, 0);
	put32(common, COMMON_FEATURE, 0);
	put32(common, COMMON_FEATURE_SELECT, 1);
	put32(common, COMMON_FEATURE, 1); /* VIRTIO_F_VERSION_1 */
	put8(common, COMMON_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
	put16(common, COMMON_QUEUE_SELECT, 0);
	if (get16(common, COMMON_QUEUE_SIZE) < QUEUE)
		return "the virtio disk has no queue";
	put16(common, COMMON_QUEUE_SIZE, QUEUE);
	put_address(common, COMMON_QUEUE_DESC, &queue.desc);
	put_address(common, COMMON_QUEUE_DRIVER, &queue.driver);
	put_address(common, COMMON_QUEUE_DEVICE, &queue.device);
	notify = reg(doorbell, get16(common, COMMON_QUEUE_NOTIFY_OFF) * multiplier);
	put16(common, COMMON_QUEUE_ENABLE, 1);
	put8(common, COMMON_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
	queue.driver.flags = 1; /* polled: no interrupts */
	return NULL;
}

const char *virtio_prepare(void)
{
	if (notify)
		return NULL;
	for (uint32_t device = 0; device < 32; device++)
		if (pci_read(device, 0) == (DEVICE_BLOCK << 16 | VENDOR_VIRTIO))
			return start(device);
	return "there is no virtio disk";
}

/* Blocks 0 and 1 in turn: what the host's page cache has, so that the path is measured and no device behind it. */
uint64_t virtio_run(uint64_t operations)
{
	uint64_t begin = ticks();

	queue.desc[0].address = (uint64_t)&request;
	queue.desc[0].length = sizeof(request);
	queue.desc[0].flags = 1; /* NEXT */
	queue.desc[0].next = 1;
	queue.desc[1].address = (uint64_t)block;
	queue.desc[1].length = sizeof(block);
	queue.desc[1].flags = 3; /* NEXT, WRITE */
	queue.desc[1].next = 2;
	queue.desc[2].address = (uint64_t)&request_status;
	queue.desc[2].length = 1;
	queue.desc[2].flags = 2;
	for (uint64_t i = 0; i < operations; i++) {
		uint16_t used = queue.device.index;
		uint64_t since;

		request.sector = (i & 1) * (PAGE_BYTES / 512);
		request_status = 0xff;
		queue.driver.ring[queue.driver.index % QUEUE] = 0;
		__atomic_store_n(&queue.driver.index, queue.driver.index + 1, __ATOMIC_SEQ_CST);
		*notify = 0;
		for (since = ticks(); queue.device.index == used;) {
			__asm__ __volatile__("pause");
			if (ticks() - since > PATIENCE_TICKS) {
				run_failure = "the virtio disk does not answer";
				return 0;
			}
		}
		if (request_status) {
			run_failure = "the virtio disk answers with an error";
			return 0;
		}
	}
	return ticks() - begin;
}
