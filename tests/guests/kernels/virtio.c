/*
 * A virtio device behind PCI: doorbells, MSI-X with its masks, INTx. The random number device answers at once. And a NIC: a
 * question goes out by one queue, its answer comes in by another.
 */
#include "k.h"

#define VECTOR 0x61u
#define OTHER 0x62u
#define QUEUE_SIZE 4u
#define BUFFER_BYTES 64u
#define MSIX_ENABLE 0x80000000u
#define MSIX_ALL_MASKED 0x40000000u
#define COMMAND 4
#define COMMAND_INTX_OFF 0x400u
#define REMOTE_IRR 0x4000u

/* struct virtio_pci_common_cfg (virtio 1.2, 4.1.4.3). */
enum { DRIVER_SELECT = 8, DRIVER_FEATURE = 12, STATUS = 20, Q_SELECT = 22, Q_SIZE = 24, Q_VECTOR = 26, Q_ENABLE = 28, Q_OFF = 30, Q_DESC = 32,
       Q_AVAIL = 40, Q_USED = 48 };

struct desc {
	uint64_t address;
	uint32_t bytes;
	uint16_t flags, next;
};
struct avail {
	uint16_t flags, index, ring[QUEUE_SIZE];
};
struct used {
	uint16_t flags, index;
	struct {
		uint32_t id, bytes;
	} ring[QUEUE_SIZE];
};

static struct {
	unsigned slot, msix, multiplier;
	uint64_t at[5], table, pba; /* the capabilities' structures by their type; mapped */
	volatile struct desc *desc;
	volatile struct avail *avail;
	volatile struct used *used;
	uint8_t *buffer;
} d;
enum { NET = 1, RNG = 4 };
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR };

static volatile unsigned hits, other_hits;
/*
 * A message comes once for an answer. kvm_pvm's LAPIC, which calls handlers with the vector still in its IRR, may call one more
 * for it; where a vector is in service, as it must be, each such is a failure.
 */
static volatile unsigned unasked;
static bool in_service;
static uint16_t answers_told;

/* ---- PCI ---------------------------------------------------------------------------------- */

static uint32_t cfg(unsigned at)
{
	outl(0xcf8, 0x80000000 | d.slot << 11 | at);
	return inl(0xcfc);
}

static void cfg_set(unsigned at, uint32_t value)
{
	outl(0xcf8, 0x80000000 | d.slot << 11 | at);
	outl(0xcfc, value);
}

/* Each BAR's first pages show at an address of the test area. */
static uint64_t bar_at(unsigned bar)
{
	uint32_t low = cfg(0x10 + 4 * bar);
	uint64_t pa = low & ~15u, va = TEST_VA + bar * 0x10000;

	if ((low & 6) == 4)
		pa |= (uint64_t)cfg(0x14 + 4 * bar) << 32;
	for (unsigned i = 0; i < 4; i++)
		map_at(va + i * PAGE, pa + i * PAGE, PTE_P | PTE_W | PTE_PCD, 1);
	return va;
}

static void read_caps(void)
{
	for (unsigned at = cfg(0x34) & 0xfc; at; at = cfg(at) >> 8 & 0xfc) {
		unsigned id = cfg(at) & 0xff, type = cfg(at) >> 24;

		if (id == 0x11) {
			d.msix = at;
			d.table = bar_at(cfg(at + 4) & 7) + (cfg(at + 4) & ~7u);
			d.pba = bar_at(cfg(at + 8) & 7) + (cfg(at + 8) & ~7u);
		} else if (id == 9 && type < 5) {
			d.at[type] = bar_at(cfg(at + 4) & 7) + cfg(at + 8);
			if (type == CAP_NOTIFY)
				d.multiplier = cfg(at + 16);
		}
	}
}

/* ---- the device ------------------------------------------------------------------------------ */

static void wr8(uint64_t at, uint8_t v) { *(volatile uint8_t *)at = v; }
static void wr16(uint64_t at, uint16_t v) { *(volatile uint16_t *)at = v; }
static void wr32(uint64_t at, uint32_t v) { *(volatile uint32_t *)at = v; }
static uint32_t rd32(uint64_t at) { return *(volatile uint32_t *)at; }

static void reset_device(void)
{
	wr8(d.at[CAP_COMMON] + STATUS, 0);
	while (*(volatile uint8_t *)(d.at[CAP_COMMON] + STATUS))
		relax();
}

/* The first device of a kind. */
static bool find(unsigned type)
{
	for (d.slot = 1; d.slot < 31; d.slot++)
		if (cfg(0) == ((0x1040 + type) << 16 | 0x1af4))
			return true;
	return false;
}

/* Up to DRIVER_OK, with one queue, whose interrupts are the table's entry 1 if msix. */
static bool set_up(bool msix)
{
	uint64_t common;
	uint8_t *ring;

	if (!find(RNG)) {
		test_skip("no virtio-rng");
		return false;
	}
	interrupts_reset();
	hits = other_hits = unasked = 0;
	in_service = false;
	answers_told = 0;
	cfg_set(COMMAND, 6);
	read_caps();
	if (!d.msix || !d.at[CAP_COMMON] || !d.at[CAP_NOTIFY] || !d.at[CAP_ISR]) {
		test_error(__FILE__, __LINE__, "capabilities are missing");
		return false;
	}
	common = d.at[CAP_COMMON];
	reset_device();
	ring = page_alloc();
	d.buffer = page_alloc();
	d.desc = (void *)ring;
	d.avail = (void *)(ring + 1024);
	d.used = (void *)(ring + 2048);
	cfg_set(d.msix, (cfg(d.msix) & 0xffff) | (msix ? MSIX_ENABLE : 0));
	wr8(common + STATUS, 1 | 2);
	wr32(common + DRIVER_SELECT, 1); /* VERSION_1, and nothing else */
	wr32(common + DRIVER_FEATURE, 1);
	wr32(common + DRIVER_SELECT, 0);
	wr32(common + DRIVER_FEATURE, 0);
	wr8(common + STATUS, 1 | 2 | 8);
	wr16(common + Q_SELECT, 0);
	wr16(common + Q_SIZE, QUEUE_SIZE);
	wr16(common + Q_VECTOR, msix ? 1 : 0xffff);
	wr32(common + Q_DESC, (uint32_t)(uintptr_t)d.desc);
	wr32(common + Q_AVAIL, (uint32_t)(uintptr_t)d.avail);
	wr32(common + Q_USED, (uint32_t)(uintptr_t)d.used);
	wr16(common + Q_ENABLE, 1);
	wr8(common + STATUS, 1 | 2 | 4 | 8);
	return true;
}

static void tear_down(void)
{
	reset_device();
	cfg_set(d.msix, cfg(d.msix) & 0xffff);
	cfg_set(COMMAND, 6);
	trap_handle(VECTOR, NULL);
	trap_handle(OTHER, NULL);
}

static void entry_set(unsigned n, unsigned vector, bool masked)
{
	wr32(d.table + n * 16 + 12, 1);
	wr32(d.table + n * 16, 0xfee00000);
	wr32(d.table + n * 16 + 4, 0);
	wr32(d.table + n * 16 + 8, vector);
	wr32(d.table + n * 16 + 12, masked);
}

/* Asks for random bytes, and rings. */
static void ask(void)
{
	uint16_t n = d.avail->index;

	memset(d.buffer, 0, BUFFER_BYTES);
	d.desc[0].address = (uint64_t)d.buffer;
	d.desc[0].bytes = BUFFER_BYTES;
	d.desc[0].flags = 2;
	d.avail->ring[n % QUEUE_SIZE] = 0;
	d.avail->index = (uint16_t)(n + 1);
	wr16(d.at[CAP_NOTIFY] + *(volatile uint16_t *)(d.at[CAP_COMMON] + Q_OFF) * d.multiplier, 0);
}

static bool answered(void)
{
	for (unsigned i = 0; d.used->index != d.avail->index; i++) {
		if (i == 20000)
			return false;
		delay_us(500);
	}
	uint8_t any = 0;
	for (unsigned i = 0; i < BUFFER_BYTES; i++)
		any |= d.buffer[i];
	return any && d.used->ring[(d.used->index - 1) % QUEUE_SIZE].bytes == BUFFER_BYTES;
}

static void await(const volatile unsigned *count, unsigned n)
{
	sti();
	for (unsigned i = 0; *count < n && i < 20000; i++)
		delay_us(500);
	cli();
	SAME(*count, n);
}

static void on_message(volatile unsigned *count, unsigned vector)
{
	bool served = lapic_read(LAPIC_ISR + vector / 32 * 16) >> vector % 32 & 1;

	if (!served && d.used->index == answers_told)
		unasked++;
	else
		++*count;
	answers_told = d.used->index;
	lapic_eoi();
}

static void on_frame(struct frame *f)
{
	hits++;
	lapic_eoi();
}
static void on_hit(struct frame *f) { on_message(&hits, VECTOR); }
static void on_other(struct frame *f) { on_message(&other_hits, OTHER); }

/* ---- tests -------------------------------------------------------------------------------------- */

static void polled(void)
{
	if (!set_up(true))
		return;
	for (unsigned i = 0; i < 5; i++) {
		ask();
		CHECK(answered());
	}
	tear_down();
}

static void messages(void)
{
	if (!set_up(true))
		return;
	trap_handle(VECTOR, on_hit);
	trap_handle(OTHER, on_other);
	entry_set(1, VECTOR, false);
	for (unsigned i = 1; i <= 5; i++) {
		ask();
		await(&hits, i);
		CHECK(answered());
	}
	/* Sent elsewhere, and back. */
	entry_set(1, OTHER, false);
	ask();
	await(&other_hits, 1);
	wr32(d.table + 16 + 8, VECTOR); /* while it is open */
	ask();
	await(&hits, 6);
	SAME(other_hits, 1);
	tear_down();
}

static void pending(bool by_entry)
{
	unsigned before = hits;

	if (by_entry)
		wr32(d.table + 16 + 12, 1);
	else
		cfg_set(d.msix, (cfg(d.msix) & 0xffff) | MSIX_ENABLE | MSIX_ALL_MASKED);
	ask();
	CHECK(answered());
	for (unsigned i = 0; !(rd32(d.pba) & 2) && i < 20000; i++)
		delay_us(500);
	SAME(rd32(d.pba) & 2, 2);
	sti();
	delay_us(100);
	cli();
	SAME(hits, before);
	if (by_entry)
		wr32(d.table + 16 + 12, 0);
	else
		cfg_set(d.msix, (cfg(d.msix) & 0xffff) | MSIX_ENABLE);
	await(&hits, before + 1);
	SAME(rd32(d.pba) & 2, 0);
}

static void masks(void)
{
	if (!set_up(true))
		return;
	trap_handle(VECTOR, on_hit);
	entry_set(1, VECTOR, false);
	for (unsigned i = 0; i < 3; i++) {
		pending(true);
		pending(false);
	}
	tear_down();
}

/*
 * Level-triggered: comes again until the ISR register is read. The IOAPIC has the pin's remote IRR set from when it sends one
 * to the EOI (82093AA 3.2.4), so one without it no device has asked for. kvm_pvm's LAPIC makes such now and then: it calls
 * handlers with the vector still in its IRR, and may call one more for it. Where a vector is in service, as it must be, each
 * such is a failure.
 */
static unsigned pin;
static void on_line(struct frame *f)
{
	if (!(ioapic_read(0x10 + 2 * pin) & REMOTE_IRR)) {
		unasked++;
		lapic_eoi();
		return;
	}
	in_service |= lapic_read(LAPIC_ISR + VECTOR / 32 * 16) >> VECTOR % 32 & 1;
	hits++;
	if (hits % 2 == 0)
		SAME(*(volatile uint8_t *)d.at[CAP_ISR], 1);
	lapic_eoi();
}

static void line(void)
{
	if (!set_up(false))
		return;
	pin = 16 + 4 + (d.slot & 3); /* Q35: slots below 25 rotate over PIRQ E..H */
	unasked = 0;
	in_service = false;
	trap_handle(VECTOR, on_line);
	ioapic_write(0x10 + 2 * pin, 0x8000 | VECTOR);
	for (unsigned i = 1; i <= 3; i++) {
		ask();
		await(&hits, 2 * i);
	}
	CHECK(answered());
	/* Off by the command register. */
	cfg_set(COMMAND, 6 | COMMAND_INTX_OFF);
	ask();
	CHECK(answered());
	sti();
	delay_us(100);
	cli();
	SAME(hits, 6);
	CHECK(cfg(COMMAND) & 0x80000); /* the status bit tells all the same */
	cfg_set(COMMAND, 6);
	await(&hits, 8);
	if (in_service)
		SAME(unasked, 0);
	else if (unasked)
		note("this LAPIC delivered %u interrupts that nothing had asked for", unasked);
	ioapic_write(0x10 + 2 * pin, 0x10000);
	tear_down();
}

/* ---- a NIC ------------------------------------------------------------------------------------------ */

#define NET_HEADER 12u /* struct virtio_net_hdr_mrg_rxbuf; zero: a plain frame */
#define FRAME_BYTES 60u
#define RX_BYTES 2048u
#define ROUNDS 5u

/* Who has 10.0.2.2? Tell 10.0.2.15. */
static const uint8_t question[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 6, 0, 1, 8, 0, 6, 4, 0,
				   1,	 0x52, 0x54, 0,	   0x12, 0x34, 0x56, 10,   0,	 2, 15,	  0,	0,    0, 0, 0, 0, 10, 0, 2, 2};

static uint8_t *queue_at(unsigned n, unsigned vector)
{
	uint64_t common = d.at[CAP_COMMON];
	uint8_t *ring = page_alloc();

	memset(ring, 0, PAGE);
	wr16(common + Q_SELECT, (uint16_t)n);
	wr16(common + Q_SIZE, QUEUE_SIZE);
	wr16(common + Q_VECTOR, (uint16_t)vector);
	wr32(common + Q_DESC, (uint32_t)(uintptr_t)ring);
	wr32(common + Q_AVAIL, (uint32_t)(uintptr_t)ring + 1024);
	wr32(common + Q_USED, (uint32_t)(uintptr_t)ring + 2048);
	wr16(common + Q_ENABLE, 1);
	return ring;
}

static void give(uint8_t *ring, unsigned n, unsigned buffer, const uint8_t *at, unsigned bytes, unsigned flags)
{
	volatile struct desc *desc = (void *)ring;
	volatile struct avail *avail = (void *)(ring + 1024);

	desc[buffer].address = (uint64_t)at;
	desc[buffer].bytes = bytes;
	desc[buffer].flags = (uint16_t)flags;
	avail->ring[avail->index % QUEUE_SIZE] = (uint16_t)buffer;
	avail->index++;
	wr16(d.at[CAP_COMMON] + Q_SELECT, (uint16_t)n);
	wr16(d.at[CAP_NOTIFY] + *(volatile uint16_t *)(d.at[CAP_COMMON] + Q_OFF) * d.multiplier, (uint16_t)n);
}

static bool is_answer(const uint8_t *frame)
{
	static const uint8_t from[] = {10, 0, 2, 2};
	bool same = frame[12] == 8 && frame[13] == 6 && frame[21] == 2;

	for (unsigned i = 0; i < 4; i++)
		same = same && frame[28 + i] == from[i];
	return same;
}

/* Other frames may come, too: a router tells of itself. */
static bool receive(uint8_t *rx, uint8_t *buffers, uint16_t *seen)
{
	volatile struct used *used = (void *)(rx + 2048);

	for (unsigned i = 0; i < 20000; i++) {
		bool found = false;

		for (; *seen != used->index && !found; ++*seen) {
			unsigned buffer = used->ring[*seen % QUEUE_SIZE].id;
			uint8_t *at = buffers + buffer * RX_BYTES;

			found = used->ring[*seen % QUEUE_SIZE].bytes >= NET_HEADER + FRAME_BYTES - 18 && is_answer(at + NET_HEADER);
			give(rx, 0, buffer, at, RX_BYTES, 2);
		}
		if (found)
			return true;
		delay_us(500);
	}
	return false;
}

static void frames(void)
{
	uint8_t *rx, *tx, *buffers, *frame;
	uint16_t seen = 0;

	if (!find(NET)) {
		test_skip("no virtio-net");
		return;
	}
	interrupts_reset();
	hits = 0;
	cfg_set(COMMAND, 6);
	read_caps();
	reset_device();
	cfg_set(d.msix, (cfg(d.msix) & 0xffff) | MSIX_ENABLE);
	wr8(d.at[CAP_COMMON] + STATUS, 1 | 2);
	wr32(d.at[CAP_COMMON] + DRIVER_SELECT, 1);
	wr32(d.at[CAP_COMMON] + DRIVER_FEATURE, 1);
	wr32(d.at[CAP_COMMON] + DRIVER_SELECT, 0);
	wr32(d.at[CAP_COMMON] + DRIVER_FEATURE, 0);
	wr8(d.at[CAP_COMMON] + STATUS, 1 | 2 | 8);
	trap_handle(VECTOR, on_frame);
	entry_set(1, VECTOR, false);
	rx = queue_at(0, 1);
	tx = queue_at(1, 0xffff);
	wr8(d.at[CAP_COMMON] + STATUS, 1 | 2 | 4 | 8);
	buffers = pages_alloc(QUEUE_SIZE * RX_BYTES / PAGE);
	frame = page_alloc();
	for (unsigned i = 0; i < QUEUE_SIZE; i++)
		give(rx, 0, i, buffers + i * RX_BYTES, RX_BYTES, 2);
	sti();
	for (unsigned i = 0; i < ROUNDS; i++) {
		memset(frame, 0, PAGE);
		for (unsigned k = 0; k < sizeof(question); k++)
			frame[NET_HEADER + k] = question[k];
		give(tx, 1, 0, frame, NET_HEADER + FRAME_BYTES, 0);
		CHECK(receive(rx, buffers, &seen));
	}
	cli();
	CHECK(hits > 0);
	tear_down();
}

TESTS({"a doorbell is heard", polled}, {"MSI-X", messages}, {"masked vectors are pending", masks}, {"INTx", line},
      {"frames go and come", frames});
