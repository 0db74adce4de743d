/* The flash of a firmware's variables: commands as EDK2 and CFI drivers give them, and what is in the file when. */
#include "tests/unit/machine_fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/devices/flash.h"

#define BYTES 0x10000u
#define BASE (0x100000000ull - BYTES)
#define MIB64 (64ull << 20)

struct chip {
	struct fixture *f;
	char path[64];
};

static uint8_t pattern(uint64_t at) { return (uint8_t)(at * 31 + (at >> 8)); }

static void setup(struct chip *c, int flags)
{
	uint8_t bytes[BYTES];
	int fd;

	for (unsigned i = 0; i < BYTES; i++)
		bytes[i] = pattern(i);
	strcpy(c->path, "/tmp/trivisor-flash.XXXXXX");
	fd = mkstemp(c->path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, BYTES), BYTES);
	close(fd);
	fd = open(c->path, flags);
	assert_true(fd >= 0);
	c->f = fixture_new(MIB64, 2);
	assert_non_null(c->f);
	assert_int_equal(flash_create(c->f->machine, fd, BASE, BYTES), 0);
}

static void finish(struct chip *c)
{
	fixture_free(c->f);
	unlink(c->path);
}

static void put(struct chip *c, uint64_t at, uint8_t value) { machine_mmio_write(c->f->machine, 0, BASE + at, &value, 1); }

static uint8_t get(struct chip *c, uint64_t at)
{
	uint8_t value;

	machine_mmio_read(c->f->machine, 0, BASE + at, &value, 1);
	return value;
}

/* As the engine sees it: memory, or not there. */
static const uint8_t *memory(struct chip *c, uint64_t at)
{
	const struct ram_region *r = machine_ram_find(c->f->machine, BASE + at);

	if (!r)
		return NULL;
	assert_true(r->readonly);
	return r->host + (BASE + at - r->gpa);
}

static uint8_t in_file(struct chip *c, uint64_t at)
{
	int fd = open(c->path, O_RDONLY);
	uint8_t value = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &value, 1, (off_t)at), 1);
	close(fd);
	return value;
}

static void reads_as_memory_until_commanded(void **state)
{
	struct chip c;
	unsigned changes;

	setup(&c, O_RDWR);
	for (unsigned at = 0; at < BYTES; at += 777)
		assert_int_equal(*memory(&c, at), pattern(at));
	assert_null(machine_ram_find(c.f->machine, BASE - 1));
	changes = c.f->map_changes;
	put(&c, 5, 0x70);
	assert_null(memory(&c, 5));
	assert_int_equal(c.f->map_changes, changes + 1);
	assert_int_equal(get(&c, 0x5000), 0x80);
	put(&c, 5, 0x70);
	assert_int_equal(c.f->map_changes, changes + 1);
	put(&c, 5, 0xff);
	assert_int_equal(*memory(&c, 5), pattern(5));
	assert_int_equal(c.f->map_changes, changes + 2);
	assert_int_equal(get(&c, 5), pattern(5));
	finish(&c);
}

/* EDK2's QemuFlashDetected: a byte that is none of its commands, then two commands and what they leave there. */
static void edk2_finds_it(void **state)
{
	struct chip c;

	setup(&c, O_RDWR);
	put(&c, 3, 0x50);
	assert_int_equal(get(&c, 3), pattern(3));
	put(&c, 3, 0x70);
	assert_int_equal(get(&c, 3), 0);
	put(&c, 3, 0xff);
	assert_int_equal(get(&c, 3), pattern(3));
	finish(&c);
}

static void programs_and_erases(void **state)
{
	struct chip c;

	setup(&c, O_RDWR);
	for (unsigned i = 0; i < 100; i++) {
		put(&c, 0x2ff0 + i, i & 1 ? 0x10 : 0x40);
		put(&c, 0x2ff0 + i, (uint8_t)(i + 1));
		assert_int_equal(get(&c, 0x2ff0 + i), 0x80);
	}
	put(&c, 0x2ff0, 0xff);
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(*memory(&c, 0x2ff0 + i), i + 1);
		assert_int_equal(in_file(&c, 0x2ff0 + i), i + 1);
	}
	assert_int_equal(in_file(&c, 0x2fef), pattern(0x2fef));
	put(&c, 0x3abc, 0x20);
	put(&c, 0x3abc, 0xd0);
	assert_int_equal(get(&c, 0), 0x80);
	put(&c, 0, 0xff);
	assert_int_equal(*memory(&c, 0x2fff), 0x10);
	for (unsigned i = 0; i < 0x1000; i += 7) {
		assert_int_equal(*memory(&c, 0x3000 + i), 0xff);
		assert_int_equal(in_file(&c, 0x3000 + i), 0xff);
	}
	assert_int_equal(*memory(&c, 0x4000), pattern(0x4000));
	/* An erase that is not confirmed erases nothing, and says so until the status is cleared. */
	put(&c, 0x4000, 0x20);
	put(&c, 0x4000, 0x00);
	assert_int_equal(get(&c, 0x4000), 0xb0);
	put(&c, 0x4000, 0x50);
	assert_int_equal(*memory(&c, 0x4000), pattern(0x4000));
	finish(&c);
}

static void buffered_writes(void **state)
{
	struct chip c;

	setup(&c, O_RDWR);
	put(&c, 0x8000, 0xe8);
	assert_int_equal(get(&c, 0x8000) & 0x80, 0x80);
	put(&c, 0x8000, 31);
	for (unsigned i = 0; i < 32; i++)
		put(&c, 0x8020 + i, (uint8_t)(0xa0 + i));
	put(&c, 0x8000, 0xd0);
	assert_int_equal(get(&c, 0x8000), 0x80);
	put(&c, 0x8000, 0xff);
	for (unsigned i = 0; i < 32; i++) {
		assert_int_equal(*memory(&c, 0x8020 + i), 0xa0 + i);
		assert_int_equal(in_file(&c, 0x8020 + i), 0xa0 + i);
	}
	/* Beyond the block, and never confirmed. */
	put(&c, 0x9ff0, 0xe8);
	put(&c, 0x9ff0, 1);
	put(&c, 0x9fff, 0);
	put(&c, 0xa000, 0);
	assert_int_equal(get(&c, 0x9000), 0xb0);
	put(&c, 0x9ff0, 0x50);
	put(&c, 0x9ff0, 0xe8);
	put(&c, 0x9ff0, 0);
	put(&c, 0x9ff0, 0);
	put(&c, 0x9ff0, 0xff);
	assert_int_equal(get(&c, 0x9000), 0xb0);
	put(&c, 0x9ff0, 0x50);
	for (unsigned at = 0x9ff0; at < 0xa010; at++)
		assert_int_equal(*memory(&c, at), pattern(at));
	finish(&c);
}

static void says_what_it_is(void **state)
{
	struct chip c;

	setup(&c, O_RDWR);
	put(&c, 0x55, 0x98);
	assert_int_equal(get(&c, 0x10), 'Q');
	assert_int_equal(get(&c, 0x11), 'R');
	assert_int_equal(get(&c, 0x12), 'Y');
	assert_int_equal(get(&c, 0x13), 1);
	assert_int_equal(1u << get(&c, 0x27), BYTES);
	assert_int_equal(get(&c, 0x2c), 1);
	assert_int_equal((get(&c, 0x2d) | get(&c, 0x2e) << 8) + 1, BYTES / FLASH_BLOCK_BYTES);
	assert_int_equal((get(&c, 0x2f) | get(&c, 0x30) << 8) * 256, FLASH_BLOCK_BYTES);
	assert_int_equal(get(&c, get(&c, 0x15) | get(&c, 0x16) << 8), 'P');
	put(&c, 0, 0x90);
	assert_int_equal(get(&c, 0), 0x89);
	put(&c, 0, 0x60);
	put(&c, 0, 0xd0);
	assert_int_equal(get(&c, 0), 0x80);
	finish(&c);
}

/* A reset in the middle of a command: read-array mode, and what was programmed is kept. */
static void reset_and_end_keep_everything(void **state)
{
	struct chip c;

	setup(&c, O_RDWR);
	put(&c, 0x100, 0x10);
	put(&c, 0x100, 0x5a);
	put(&c, 0x200, 0x20);
	machine_reset(c.f->machine);
	assert_int_equal(*memory(&c, 0x100), 0x5a);
	assert_int_equal(*memory(&c, 0x200), pattern(0x200));
	assert_int_equal(in_file(&c, 0x100), 0x5a);
	put(&c, 0x101, 0x10);
	put(&c, 0x101, 0xa5);
	fixture_free(c.f);
	assert_int_equal(in_file(&c, 0x101), 0xa5);
	unlink(c.path);
}

static void a_failing_file_is_reported_once(void **state)
{
	struct chip c;

	setup(&c, O_RDONLY);
	for (unsigned i = 0; i < 3; i++) {
		put(&c, 0, 0x10);
		put(&c, 0, 0x42);
		put(&c, 0, 0xff);
	}
	assert_int_equal(*memory(&c, 0), 0x42);
	assert_int_equal(c.f->events[MACHINE_EVENT_NVRAM_ERROR], 1);
	assert_int_equal(c.f->event_code, 9); /* EBADF */
	finish(&c);
}

/* Any bytes anywhere: it comes back, and reset brings the array back. */
static void any_commands(void **state)
{
	struct chip c;
	uint32_t x = 12345;

	setup(&c, O_RDWR);
	for (unsigned i = 0; i < 200000; i++) {
		static const uint8_t often[] = {0x10, 0x20, 0xe8, 0xd0, 0xff, 0x98, 0x70, 0x50};
		uint64_t value = x * 0x9e3779b97f4a7c15ull;
		unsigned size = 1 + (x >> 9 & 7);

		x = x * 1664525 + 1013904223;
		if (x >> 30)
			value = often[x >> 12 & 7];
		machine_mmio_write(c.f->machine, 0, BASE + (x >> 8) % (BYTES - 8), &value, size);
		machine_mmio_read(c.f->machine, 1, BASE + (x >> 5) % (BYTES - 8), &value, size);
	}
	machine_reset(c.f->machine);
	assert_non_null(memory(&c, 0));
	finish(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_as_memory_until_commanded),
		cmocka_unit_test(edk2_finds_it),
		cmocka_unit_test(programs_and_erases),
		cmocka_unit_test(buffered_writes),
		cmocka_unit_test(says_what_it_is),
		cmocka_unit_test(reset_and_end_keep_everything),
		cmocka_unit_test(a_failing_file_is_reported_once),
		cmocka_unit_test(any_commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
