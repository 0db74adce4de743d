/* A driver of virtio devices for unit tests: from PCI configuration space to the used ring. */
#include "tests/unit/virtio_driver.h"

#include <string.h>
#include <time.h>

#define EVENT_INDEX (1ull << 29)
#define NEEDS_RESET 0x40
#define PATIENCE_MS 20000

static void ignore_event(void *opaque, enum machine_event event, unsigned code) {}
static void ignore_output(void *opaque, unsigned port, const void *bytes, size_t n) {}

struct machine *driver_machine(unsigned vcpus, void (*on_event)(void *, enum machine_event, unsigned), void *opaque)
{
	const struct machine_config config = {.ram_bytes = 16u << 20, .vcpus = vcpus, .on_event = on_event ? on_event : ignore_event,
					      .on_output = ignore_output, .opaque = opaque};
	struct machine *machine = NULL;

	assert_int_equal(machine_create(&config, &machine), 0);
	return machine;
}

/* ---- registers ------------------------------------------------------------------ */

uint64_t rd(struct driver *d, uint64_t gpa, unsigned n)
{
	uint64_t v = 0;

	machine_mmio_read(d->machine, 0, gpa, &v, n);
	return v;
}

void wr(struct driver *d, uint64_t gpa, uint64_t v, unsigned n) { machine_mmio_write(d->machine, 0, gpa, &v, n); }

uint32_t cfg(struct driver *d, unsigned at, unsigned n)
{
	machine_pio_write(d->machine, 0, 0xcf8, 0x80000000u | d->slot << 11 | (at & 0xfc), 4);
	return machine_pio_read(d->machine, 0, (uint16_t)(0xcfc + (at & 3)), n);
}

void cfg_set(struct driver *d, unsigned at, uint32_t v, unsigned n)
{
	machine_pio_write(d->machine, 0, 0xcf8, 0x80000000u | d->slot << 11 | (at & 0xfc), 4);
	machine_pio_write(d->machine, 0, (uint16_t)(0xcfc + (at & 3)), v, n);
}

static bool find_device(struct driver *d, uint16_t device)
{
	for (d->slot = 0; d->slot < 32; d->slot++) {
		if (cfg(d, 0, 4) == (0x1af4u | (uint32_t)device << 16))
			return true;
	}
	return false;
}

static void find_caps(struct driver *d)
{
	assert_true(cfg(d, 6, 2) & 0x10);
	for (unsigned at = cfg(d, 0x34, 1); at; at = cfg(d, at + 1, 1)) {
		uint64_t where;

		if (cfg(d, at, 1) != 9)
			continue;
		where = DRIVER_BAR + (uint64_t)cfg(d, at + 8, 4);
		switch (cfg(d, at + 3, 1)) {
		case 1: d->common = where; break;
		case 2:
			d->notify = where;
			d->notify_multiplier = cfg(d, at + 16, 4);
			break;
		case 3: d->isr = where; break;
		case 4: d->device = where; break;
		case 5: d->cfg_cap = at; break;
		default: fail_msg("unknown capability");
		}
		if (cfg(d, at + 3, 1) != 5)
			assert_int_equal(cfg(d, at + 4, 1), 4);
	}
	assert_true(d->common && d->notify && d->isr && d->cfg_cap);
}

struct driver driver_open(struct machine *machine, uint16_t device)
{
	struct driver d = {.machine = machine};

	assert_true(find_device(&d, device));
	cfg_set(&d, 0x20, DRIVER_BAR, 4);
	cfg_set(&d, 0x24, 0, 4);
	cfg_set(&d, 0x14, DRIVER_MSIX, 4);
	cfg_set(&d, 4, 6, 2);
	find_caps(&d);
	return d;
}

void driver_reset(struct driver *d)
{
	set_status(d, 0);
	for (unsigned i = 0; i < PATIENCE_MS && status(d) != 0; i++)
		sleep_ms(1);
	assert_int_equal(status(d), 0);
}

static void set_up_queue(struct driver *d, unsigned q)
{
	memset(ram(d, DRIVER_RING(q)), 0, 0x3000);
	wr(d, d->common + 22, q, 2);
	assert_true(rd(d, d->common + 24, 2) >= QSIZE);
	wr(d, d->common + 24, QSIZE, 2);
	wr(d, d->common + 32, DRIVER_RING(q), 4);
	wr(d, d->common + 36, 0, 4);
	wr(d, d->common + 40, DRIVER_RING(q) + 0x1000, 4);
	wr(d, d->common + 44, 0, 4);
	wr(d, d->common + 48, DRIVER_RING(q) + 0x2000, 8);
	wr(d, d->common + 28, 1, 2);
	assert_int_equal(rd(d, d->common + 28, 2), 1);
	d->seen[q] = 0;
}

void driver_start(struct driver *d, uint64_t refuse)
{
	driver_reset(d);
	set_status(d, 1);
	set_status(d, 3);
	d->features = 0;
	for (unsigned i = 0; i < 2; i++) {
		wr(d, d->common, i, 4);
		d->features |= rd(d, d->common + 4, 4) << (32 * i);
	}
	assert_true(d->features & 1ull << 32);
	d->features &= ~refuse;
	for (unsigned i = 0; i < 2; i++) {
		wr(d, d->common + 8, i, 4);
		wr(d, d->common + 12, (uint32_t)(d->features >> (32 * i)), 4);
	}
	set_status(d, 0xb);
	assert_int_equal(status(d), 0xb);
	for (unsigned q = 0; q < DRIVER_QUEUES; q++)
		if ((d->queues ? d->queues : 1u) >> q & 1)
			set_up_queue(d, q);
	set_status(d, 0xf);
	assert_int_equal(status(d), 0xf);
}

/* ---- rings ------------------------------------------------------------------------ */

uint8_t *ram(struct driver *d, uint64_t gpa)
{
	uint8_t *at = machine_dma_map(d->machine, gpa, 1);

	assert_non_null(at);
	return at;
}

void kick(struct driver *d, unsigned q) { wr(d, d->notify + q * d->notify_multiplier, q, 2); }

void offer(struct driver *d, unsigned q, uint16_t head)
{
	uint16_t *avail = avail_of(d, q), index = avail[1], event;

	avail[2 + index % QSIZE] = head;
	__atomic_store_n(&avail[1], (uint16_t)(index + 1), __ATOMIC_SEQ_CST);
	/* Only where it is wanted, as a driver would: a kick that the device forgets to want is a request that waits for ever. */
	event = __atomic_load_n(&used_of(d, q)[2 + 4 * QSIZE], __ATOMIC_SEQ_CST);
	if (!(d->features & EVENT_INDEX) || index == event)
		kick(d, q);
}

uint16_t used_index(struct driver *d, unsigned q) { return __atomic_load_n(&used_of(d, q)[1], __ATOMIC_ACQUIRE); }

uint32_t used_bytes(struct driver *d, unsigned q, uint16_t at)
{
	return ((const uint32_t *)(const void *)(used_of(d, q) + 2))[2 * (at % QSIZE) + 1];
}

uint32_t wait_used(struct driver *d, unsigned q)
{
	for (unsigned i = 0; i < PATIENCE_MS && used_index(d, q) == d->seen[q]; i++)
		sleep_ms(1);
	assert_int_not_equal(used_index(d, q), d->seen[q]);
	return used_bytes(d, q, d->seen[q]++);
}

/* ---- odds and ends ------------------------------------------------------------------ */

void sleep_ms(unsigned ms)
{
	const struct timespec ts = {.tv_nsec = (long)ms * 1000000};

	nanosleep(&ts, NULL);
}

void wait_for(bool (*holds)(struct driver *d), struct driver *d)
{
	for (unsigned i = 0; i < PATIENCE_MS && !holds(d); i++)
		sleep_ms(1);
	assert_true(holds(d));
}

bool is_broken(struct driver *d) { return status(d) & NEEDS_RESET; }

uint64_t stat_of(struct driver *d, const char *name)
{
	struct machine_stat rows[200];
	size_t n = machine_stats(d->machine, rows, ARRAY_SIZE(rows));

	for (size_t i = 0; i < n; i++)
		if (strcmp(rows[i].name, name) == 0)
			return rows[i].value;
	fail_msg("no row %s", name);
	return 0;
}

uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}
