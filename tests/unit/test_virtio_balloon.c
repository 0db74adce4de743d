/* virtio-balloon: memory that really goes back to the host, figures, and drivers that lie. */
#include <linux/virtio_balloon.h>
#include <string.h>
#include <sys/stat.h>

#include "machine/private.h"
#include "tests/unit/virtio_driver.h"

enum { INFLATE, DEFLATE, STATS, REPORT, QUEUES };
#define PAGE 4096u
#define AREA 0x800000u /* what is given back: 4 MiB, half a large page in front of it */

static _Atomic unsigned told;
static _Atomic uint64_t discarded_gpa, discarded_bytes;

static void on_event(void *opaque, enum machine_event event, unsigned code) { told += event == MACHINE_EVENT_BALLOON; }

static void on_discard(void *opaque, gpa_t gpa, uint64_t n)
{
	discarded_gpa = gpa;
	discarded_bytes += n;
}

static struct driver open_balloon(uint64_t guest_bytes)
{
	const struct machine_balloon config = {.guest_bytes = guest_bytes, .free_page_reporting = true, .deflate_on_oom = true};
	const struct machine_hooks hooks = {.ram_discarded = on_discard};
	struct machine *machine = driver_machine(1, on_event, NULL);
	const char *why = "";
	struct driver d;

	machine_set_hooks(machine, &hooks);
	assert_int_equal(machine_add_balloon(machine, &config, &why), 0);
	d = driver_open(machine, 0x1045);
	d.queues = (1u << QUEUES) - 1;
	driver_start(&d, 0);
	memset(ram(&d, AREA), 0xa5, 4u << 20);
	memset(ram(&d, DRIVER_BUF(INFLATE)), 0, 64 << 10);
	discarded_bytes = 0;
	return d;
}

/* What the host has allocated for guest RAM. */
static uint64_t host_bytes(struct driver *d)
{
	struct stat st;

	assert_int_equal(fstat(machine_ram_fd(d->machine), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void give_pages(struct driver *d, const uint32_t *pages, unsigned n)
{
	memcpy(ram(d, DRIVER_BUF(INFLATE)), pages, n * sizeof(*pages));
	desc_of(d, INFLATE)[0] = (struct desc){DRIVER_BUF(INFLATE), n * (uint32_t)sizeof(*pages), 0, 0};
	offer(d, INFLATE, 0);
	wait_used(d, INFLATE);
}

static void test_inflate(void **state)
{
	struct driver d = open_balloon(12u << 20);
	uint32_t pages[256];
	uint64_t before = host_bytes(&d);

	assert_true(d.features & 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	assert_int_equal(rd(&d, d.device, 4), 1024);
	/* As Linux gives them: in no order, and each once. */
	for (unsigned i = 0; i < 256; i++)
		pages[i] = AREA / PAGE + (i * 97) % 256;
	give_pages(&d, pages, 256);
	assert_int_equal(host_bytes(&d), before - (1u << 20));
	assert_int_equal(discarded_bytes, 1u << 20);
	assert_int_equal(discarded_gpa, AREA);
	assert_int_equal(*ram(&d, AREA + (1u << 20)), 0xa5);
	assert_int_equal(stat_of(&d, "virtio_balloon_inflated_bytes"), 1u << 20);
	wr(&d, d.device + 4, 256, 4);
	assert_int_equal(told, 1);
	struct machine_balloon_state now;
	assert_true(machine_balloon_get(d.machine, &now));
	assert_int_equal(now.wished_bytes, 12u << 20);
	assert_int_equal(now.guest_bytes, 15u << 20);
	/* It takes them back, and they are there. */
	desc_of(&d, DEFLATE)[0] = (struct desc){DRIVER_BUF(INFLATE), 1024, 0, 0};
	offer(&d, DEFLATE, 0);
	wait_used(&d, DEFLATE);
	*ram(&d, AREA + 5) = 7;
	assert_int_equal(host_bytes(&d), before - (1u << 20) + PAGE);
	for (unsigned i = 64; i < (1u << 20); i += 64)
		assert_int_equal(*ram(&d, AREA + i), 0);
	/* Another wish comes as an interrupt, and is seen by its generation. */
	uint64_t generation = rd(&d, d.common + 21, 1);
	assert_true(machine_balloon_set(d.machine, 16u << 20));
	assert_int_equal(rd(&d, d.device, 4), 0);
	assert_int_not_equal(rd(&d, d.common + 21, 1), generation);
	driver_reset(&d);
	assert_true(machine_balloon_get(d.machine, &now));
	assert_int_equal(now.guest_bytes, 16u << 20);
	machine_destroy(d.machine);
}

static void test_report(void **state)
{
	struct driver d = open_balloon(16u << 20);
	uint64_t before = host_bytes(&d);

	desc_of(&d, REPORT)[0] = (struct desc){AREA, 1u << 20, NEXT | WRITE, 1};
	/* Whole pages only: what lies beside them is in use. */
	desc_of(&d, REPORT)[1] = (struct desc){AREA + (2u << 20) + 100, 3 * PAGE, WRITE, 0};
	offer(&d, REPORT, 0);
	wait_used(&d, REPORT);
	assert_int_equal(host_bytes(&d), before - (1u << 20) - 2 * PAGE);
	assert_int_equal(*ram(&d, AREA + (2u << 20) + 100), 0xa5);
	assert_int_equal(*ram(&d, AREA + (2u << 20) + PAGE), 0);
	assert_int_equal(*ram(&d, AREA + (2u << 20) + 3 * PAGE), 0xa5);
	machine_destroy(d.machine);
	/* A driver that does not know the figures calls this queue by another number. */
	d = open_balloon(16u << 20);
	d.queues = 1u << INFLATE | 1u << DEFLATE | 1u << STATS;
	driver_start(&d, 1ull << VIRTIO_BALLOON_F_STATS_VQ);
	before = host_bytes(&d);
	desc_of(&d, STATS)[0] = (struct desc){AREA, 1u << 20, WRITE, 0};
	offer(&d, STATS, 0);
	wait_used(&d, STATS);
	assert_int_equal(host_bytes(&d), before - (1u << 20));
	machine_destroy(d.machine);
}

static void put_figures(struct driver *d, uint64_t free)
{
	const struct virtio_balloon_stat figures[] = {
		{VIRTIO_BALLOON_S_MEMFREE, free}, {VIRTIO_BALLOON_S_MEMTOT, 16u << 20}, {0xfff0, 1}, {VIRTIO_BALLOON_S_MAJFLT, 3}};

	memcpy(ram(d, DRIVER_BUF(STATS)), figures, sizeof(figures));
	desc_of(d, STATS)[0] = (struct desc){DRIVER_BUF(STATS), sizeof(figures), 0, 0};
	offer(d, STATS, 0);
}

static uint64_t wanted;
static bool has_figures(struct driver *d)
{
	struct machine_balloon_state now;

	return machine_balloon_get(d->machine, &now) && now.figures.present >> VIRTIO_BALLOON_S_MEMFREE & 1 &&
	       now.figures.value[VIRTIO_BALLOON_S_MEMFREE] == wanted;
}

static void test_figures(void **state)
{
	struct driver d = open_balloon(16u << 20);
	struct machine_balloon_state now;

	assert_true(machine_balloon_get(d.machine, &now));
	assert_int_equal(now.figures.time_ns, 0);
	wanted = 5000;
	put_figures(&d, wanted);
	wait_for(has_figures, &d);
	assert_int_equal(used_index(&d, STATS), 0);
	/* Whoever wants newer ones gets them, as often as that is; a pause in between does no harm. */
	for (wanted = 6000; wanted < 6020; wanted++) {
		if (wanted % 4 == 0) {
			machine_pause(d.machine);
			machine_resume(d.machine);
		}
		assert_true(machine_balloon_ask(d.machine, -1));
		wait_used(&d, STATS);
		put_figures(&d, wanted);
		wait_for(has_figures, &d);
	}
	machine_balloon_get(d.machine, &now);
	assert_int_equal(now.figures.present, 1u << VIRTIO_BALLOON_S_MEMFREE | 1u << VIRTIO_BALLOON_S_MEMTOT | 1u << VIRTIO_BALLOON_S_MAJFLT);
	assert_int_equal(now.figures.value[VIRTIO_BALLOON_S_MAJFLT], 3);
	/* By itself, every second. */
	assert_true(machine_balloon_ask(d.machine, 1));
	for (wanted = 7000; wanted < 7003; wanted++) {
		wait_used(&d, STATS);
		put_figures(&d, wanted);
		wait_for(has_figures, &d);
	}
	machine_destroy(d.machine);
}

static void test_hostile(void **state)
{
	struct driver d = open_balloon(16u << 20);
	uint32_t random = 3, pages[] = {0xffffffff, 0x00100000, 4097, 0xb0000, 0xa0, 0xfee00, 4095};
	struct machine_balloon_state now;

	/* Pages that are no RAM are not given; the last one is the last page. */
	discarded_bytes = 0;
	give_pages(&d, pages, ARRAY_SIZE(pages));
	assert_int_equal(discarded_bytes, PAGE);
	/* An odd length, none at all, and one beyond what is taken at once. */
	desc_of(&d, INFLATE)[0] = (struct desc){DRIVER_BUF(INFLATE), 7, 0, 0};
	offer(&d, INFLATE, 0);
	wait_used(&d, INFLATE);
	desc_of(&d, INFLATE)[0] = (struct desc){AREA, 4u << 20, 0, 0};
	offer(&d, INFLATE, 0);
	wait_used(&d, INFLATE);
	assert_false(is_broken(&d));
	wr(&d, d.device + 4, 0xffffffff, 4);
	wr(&d, d.device + 3, 0xffffffff, 4);
	wr(&d, d.device + 7, 0xff, 1);
	assert_true(machine_balloon_get(d.machine, &now));
	assert_true(now.guest_bytes <= 16u << 20);
	for (unsigned q = 0; q < QUEUES; q++) {
		driver_start(&d, 0);
		desc_of(&d, q)[0] = (struct desc){0xfffffffffffff000, 4096, q == REPORT ? WRITE : 0, 0};
		offer(&d, q, 0);
		wait_for(is_broken, &d);
	}
	/* The rings themselves, and whatever else: only the guest has the harm. */
	for (unsigned round = 0; round < 200; round++) {
		driver_start(&d, round % 2 ? 0 : 1ull << 29);
		for (unsigned q = 0; q < QUEUES; q++) {
			for (unsigned i = 0; i < 200; i++)
				((uint32_t *)(void *)ram(&d, DRIVER_BUF(q)))[i] = 0x100 + next_random(&random) % 0x300;
			for (unsigned i = 0; i < 4; i++) {
				desc_of(&d, q)[i] = (struct desc){DRIVER_BUF(q) + next_random(&random) % 256, next_random(&random) % 3000,
								  q == REPORT ? WRITE : 0, 0};
				offer(&d, q, (uint16_t)i);
			}
		}
		machine_balloon_ask(d.machine, -1);
		if (round % 16 == 0) {
			machine_pause(d.machine);
			machine_resume(d.machine);
		}
	}
	driver_start(&d, 0);
	memset(ram(&d, AREA), 0xa5, PAGE);
	pages[0] = AREA / PAGE;
	give_pages(&d, pages, 1);
	assert_int_equal(*ram(&d, AREA), 0);
	machine_destroy(d.machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inflate), cmocka_unit_test(test_report), cmocka_unit_test(test_figures), cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
