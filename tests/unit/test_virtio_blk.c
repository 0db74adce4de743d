/* Disks and random numbers, driven from PCI configuration space to the used ring as a driver would. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.h"

#define BUF DRIVER_BUF(0)
#define SECTORS 256u

static uint16_t queue; /* the one that is used */
static char disk_path[64];

static struct machine *new_machine(void) { return driver_machine(1, NULL, NULL); }

static uint8_t *buf_of(struct driver *d) { return ram(d, BUF); }

/* ---- requests -------------------------------------------------------------------- */

/* Header at BUF, data from BUF + 4096 in pieces, status at BUF + 64. Returns the status byte. */
static uint8_t request(struct driver *d, uint32_t type, uint64_t sector, uint32_t bytes, bool to_guest, uint32_t *ret_written)
{
	struct virtio_blk_outhdr *header = (void *)buf_of(d);
	struct desc *desc = desc_of(d, queue);
	uint32_t piece = bytes / 3, written;
	uint16_t n = 1;

	*header = (struct virtio_blk_outhdr){.type = type, .sector = sector};
	buf_of(d)[64] = 0xee;
	desc[0] = (struct desc){BUF, sizeof(*header), NEXT, 1};
	for (uint32_t at = 0; at < bytes; n++) {
		uint32_t take = piece && n < 3 ? piece : bytes - at;

		desc[n] = (struct desc){BUF + 4096 + at, take, (uint16_t)(NEXT | (to_guest ? WRITE : 0)), (uint16_t)(n + 1)};
		at += take;
	}
	desc[n] = (struct desc){BUF + 64, 1, WRITE, 0};
	offer(d, queue, 0);
	written = wait_used(d, queue);
	if (ret_written)
		*ret_written = written;
	return buf_of(d)[64];
}

static int make_disk(void **state)
{
	FILE *f;
	int fd;

	snprintf(disk_path, sizeof(disk_path), "/var/tmp/trivisor-disk-XXXXXX"); /* /tmp may know no direct access */
	fd = mkstemp(disk_path);
	if (fd < 0)
		return -1;
	f = fdopen(fd, "wb");
	for (unsigned i = 0; i < SECTORS * 512; i++)
		fputc((int)((i * 31 + i / 512) & 0xff), f);
	fclose(f);
	return 0;
}

static int remove_disk(void **state) { return unlink(disk_path); }

static uint8_t disk_byte(uint64_t at)
{
	FILE *f = fopen(disk_path, "rb");
	int c;

	assert_non_null(f);
	fseek(f, (long)at, SEEK_SET);
	c = fgetc(f);
	fclose(f);
	return (uint8_t)c;
}

static void use_queue(struct driver *d, uint16_t which)
{
	queue = which;
	d->queues = 1u << which;
}

static struct driver open_disk_with(struct machine *machine, struct machine_disk disk)
{
	const char *message = "";
	struct driver d;

	disk.path = disk_path;
	if (machine_add_disk(machine, &disk, &message) != 0)
		fail_msg("add disk: %s", message);
	d = driver_open(machine, 0x1042);
	use_queue(&d, 0);
	driver_start(&d, 0);
	return d;
}

static struct driver open_disk(struct machine *machine, bool readonly)
{
	return open_disk_with(machine, (struct machine_disk){.readonly = readonly, .discard = true});
}

static void test_config(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);

	assert_int_equal(cfg(&d, 8, 1), 1);
	assert_int_equal(cfg(&d, 0x2c, 2), 0x1af4);
	assert_int_equal(rd(&d, d.device, 4), SECTORS);
	assert_int_equal(rd(&d, d.device + 8, 8) & 0xffffffff00000000, (uint64_t)254 << 32);
	assert_int_equal(rd(&d, d.device + 20, 4), 512);
	assert_int_equal(rd(&d, d.common + 18, 2), 1);
	/* Queues that are not there have no size; features cannot be changed behind FEATURES_OK. */
	wr(&d, d.common + 22, 9, 2);
	assert_int_equal(rd(&d, d.common + 24, 2), 0);
	/* The window in configuration space reaches the same registers. */
	cfg_set(&d, d.cfg_cap + 4, 4, 1);
	cfg_set(&d, d.cfg_cap + 8, 20, 4);
	cfg_set(&d, d.cfg_cap + 12, 1, 4);
	assert_int_equal(cfg(&d, d.cfg_cap + 16, 1), 0xf);
	cfg_set(&d, d.cfg_cap + 16, 0, 1);
	assert_int_equal(status(&d), 0);
	/* Out of the BAR: nothing. */
	cfg_set(&d, d.cfg_cap + 8, 0xfffffffc, 4);
	cfg_set(&d, d.cfg_cap + 12, 4, 4);
	(void)cfg(&d, d.cfg_cap + 16, 4);
	machine_destroy(machine);
}

static void test_features(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);

	driver_reset(&d);
	set_status(&d, 3);
	/* Without VERSION_1, or with what was not offered, FEATURES_OK does not stick. */
	set_status(&d, 0xb);
	assert_int_equal(status(&d), 3);
	wr(&d, d.common + 8, 1, 4);
	wr(&d, d.common + 12, 0x80000001, 4);
	set_status(&d, 0xb);
	assert_int_equal(status(&d), 3);
	wr(&d, d.common + 12, 1, 4);
	set_status(&d, 0xb);
	assert_int_equal(status(&d), 0xb);
	machine_destroy(machine);
}

static void check_read_write(uint64_t refuse, struct machine_disk disk, uint16_t which)
{
	struct machine *machine = driver_machine(which + 1u, NULL, NULL);
	struct driver d = open_disk_with(machine, disk);
	uint32_t written;

	use_queue(&d, which);
	driver_start(&d, refuse);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 3, 4096, true, &written), VIRTIO_BLK_S_OK);
	assert_int_equal(written, 4097);
	for (unsigned i = 0; i < 4096; i++) {
		uint32_t at = 3 * 512 + i;

		assert_int_equal(buf_of(&d)[4096 + i], (at * 31 + at / 512) & 0xff);
	}
	memset(buf_of(&d) + 4096, 0x5a, 1024);
	assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 250, 1024, false, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&d, VIRTIO_BLK_T_FLUSH, 0, 0, false, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(disk_byte(250 * 512), 0x5a);
	assert_int_equal(disk_byte(252 * 512 - 1), 0x5a);
	assert_int_not_equal(disk_byte(252 * 512), 0x5a);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 251, 512, true, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(buf_of(&d)[4096], 0x5a);
	/* More requests than the ring has entries. */
	for (unsigned i = 0; i < 3 * QSIZE; i++) {
		memset(buf_of(&d) + 4096, (int)i, 512);
		assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, i % SECTORS, 512, false, NULL), VIRTIO_BLK_S_OK);
	}
	assert_int_equal(disk_byte(77 * 512 + 9), 77);
	machine_destroy(machine);
}

static void test_read_write(void **state) { check_read_write(0, (struct machine_disk){0}, 0); }
/* Neither event index nor indirect descriptors, nor flushes: then writes are lasting ones. */
static void test_read_write_plain(void **state)
{
	check_read_write(1ull << 28 | 1ull << 29 | 1ull << VIRTIO_BLK_F_FLUSH, (struct machine_disk){0}, 0);
}
static void test_read_write_threads(void **state) { check_read_write(0, (struct machine_disk){.no_io_uring = true}, 0); }
static void test_read_write_direct(void **state)
{
	check_read_write(0, (struct machine_disk){.cache = MACHINE_CACHE_DIRECT}, 0);
}
static void test_read_write_direct_threads(void **state)
{
	check_read_write(0, (struct machine_disk){.cache = MACHINE_CACHE_DIRECTSYNC, .no_io_uring = true}, 0);
}
static void test_read_write_last_queue(void **state) { check_read_write(0, (struct machine_disk){0}, 3); }

/* What the cache mode and the machine's size come to in the driver's eyes. */
static void test_features_of_modes(void **state)
{
	static const struct {
		enum machine_cache cache;
		unsigned vcpus;
		bool flush;
	} mode[] = {
		{MACHINE_CACHE_WRITEBACK, 1, true},
		{MACHINE_CACHE_WRITETHROUGH, 2, false},
		{MACHINE_CACHE_DIRECT, 4, true},
		{MACHINE_CACHE_DIRECTSYNC, 16, false},
		{MACHINE_CACHE_UNSAFE, 3, true},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(mode); i++) {
		struct machine *machine = driver_machine(mode[i].vcpus, NULL, NULL);
		struct driver d = open_disk_with(machine, (struct machine_disk){.cache = mode[i].cache, .serial = "SN-7"});

		assert_int_equal(!!(d.features & 1ull << VIRTIO_BLK_F_FLUSH), mode[i].flush);
		assert_int_equal(!!(d.features & 1ull << VIRTIO_BLK_F_MQ), mode[i].vcpus > 1);
		assert_int_equal(rd(&d, d.common + 18, 2), mode[i].vcpus);
		assert_int_equal(rd(&d, d.device + 34, 2), mode[i].vcpus);
		assert_int_equal(request(&d, VIRTIO_BLK_T_GET_ID, 0, 20, true, NULL), VIRTIO_BLK_S_OK);
		assert_memory_equal(buf_of(&d) + 4096, "SN-7\0", 5);
		machine_destroy(machine);
	}
}

static void note_disk_error(void *opaque, enum machine_event event, unsigned code)
{
	if (event == MACHINE_EVENT_DISK_ERROR)
		atomic_store((atomic_uint *)opaque, code | 1u << 31);
}

/* From here on this process can write no file beyond its first `bytes`; SIGXFSZ does not reach workers. */
static void limit_files(rlim_t bytes)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A host that cannot write: told to the guest, or the request waits until the machine goes on. */
static void check_host_error(bool no_io_uring)
{
	atomic_uint told = 0;
	struct machine *machine = driver_machine(1, note_disk_error, &told);
	struct machine_disk disk = {.on_error = MACHINE_ERROR_PAUSE_FULL, .no_io_uring = no_io_uring};
	struct virtio_blk_outhdr *header;
	struct driver d = open_disk_with(machine, disk);

	limit_files(16 * 512);
	memset(buf_of(&d) + 4096, 0x77, 1024);
	assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 100, 1024, false, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(atomic_load(&told), 0); /* it is not full */
	assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 2, 1024, false, NULL), VIRTIO_BLK_S_OK);
	limit_files(RLIM_INFINITY); /* RAM is a file, too */
	machine_destroy(machine);

	machine = driver_machine(1, note_disk_error, &told);
	disk.on_error = MACHINE_ERROR_PAUSE;
	d = open_disk_with(machine, disk);
	limit_files(16 * 512);
	header = (void *)buf_of(&d);
	*header = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_OUT, .sector = 100};
	memset(buf_of(&d) + 4096, 0x77, 1024);
	desc_of(&d, queue)[0] = (struct desc){BUF, 16, NEXT, 1};
	desc_of(&d, queue)[1] = (struct desc){BUF + 4096, 1024, NEXT, 2};
	desc_of(&d, queue)[2] = (struct desc){BUF + 64, 1, WRITE, 0};
	offer(&d, queue, 0);
	for (unsigned i = 0; i < 10000 && !atomic_load(&told); i++)
		sleep_ms(1);
	assert_int_equal(atomic_load(&told), 1u << 31 | EFBIG);
	assert_int_equal(used_of(&d, queue)[1], 0);
	/* In vain once more, then with room. */
	atomic_store(&told, 0);
	machine_pause(machine);
	machine_resume(machine);
	for (unsigned i = 0; i < 10000 && !atomic_load(&told); i++)
		sleep_ms(1);
	assert_int_equal(atomic_load(&told), 1u << 31 | EFBIG);
	machine_pause(machine);
	limit_files(RLIM_INFINITY);
	machine_resume(machine);
	wait_used(&d, queue);
	assert_int_equal(buf_of(&d)[64], VIRTIO_BLK_S_OK);
	assert_int_equal(disk_byte(100 * 512 + 1023), 0x77);
	/* A reset forgets what waits. */
	limit_files(16 * 512);
	atomic_store(&told, 0);
	offer(&d, queue, 0);
	for (unsigned i = 0; i < 10000 && !atomic_load(&told); i++)
		sleep_ms(1);
	driver_start(&d, 0);
	limit_files(RLIM_INFINITY);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	machine_destroy(machine);
}

static void test_host_error(void **state)
{
	check_host_error(false);
	check_host_error(true);
}

static void test_limits(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);

	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, SECTORS - 1, 512, true, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, SECTORS - 1, 1024, true, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, SECTORS, 512, false, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, UINT64_MAX, 512, false, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, UINT64_MAX / 512, 512, true, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 100, true, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&d, 0x77, 0, 512, true, NULL), VIRTIO_BLK_S_UNSUPP);
	machine_destroy(machine);
}

static void test_id_discard_zero(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);
	struct virtio_blk_discard_write_zeroes range = {.sector = 16, .num_sectors = 8};

	assert_int_equal(request(&d, VIRTIO_BLK_T_GET_ID, 0, 20, true, NULL), VIRTIO_BLK_S_OK);
	assert_memory_equal(buf_of(&d) + 4096, "trivisor-disk-", 14);
	assert_true(d.features & 1u << VIRTIO_BLK_F_WRITE_ZEROES);
	memcpy(buf_of(&d) + 4096, &range, sizeof(range));
	assert_int_equal(request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(range), false, NULL), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(disk_byte((16 + i) * 512 + 17 * i), 0);
	assert_int_not_equal(disk_byte(24 * 512 + 1), 0);
	assert_int_not_equal(disk_byte(16 * 512 - 2), 0);
	range.sector = 40;
	memcpy(buf_of(&d) + 4096, &range, sizeof(range));
	assert_int_equal(request(&d, VIRTIO_BLK_T_DISCARD, 0, sizeof(range), false, NULL), VIRTIO_BLK_S_OK);
	range.num_sectors = SECTORS;
	memcpy(buf_of(&d) + 4096, &range, sizeof(range));
	assert_int_equal(request(&d, VIRTIO_BLK_T_DISCARD, 0, sizeof(range), false, NULL), VIRTIO_BLK_S_IOERR);
	range.num_sectors = 1;
	range.flags = 2;
	memcpy(buf_of(&d) + 4096, &range, sizeof(range));
	assert_int_equal(request(&d, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(range), false, NULL), VIRTIO_BLK_S_UNSUPP);
	machine_destroy(machine);
}

static void test_readonly(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, true);
	uint8_t before = disk_byte(512);

	assert_true(d.features & 1u << VIRTIO_BLK_F_RO);
	memset(buf_of(&d) + 4096, before ^ 0xff, 512);
	assert_int_equal(request(&d, VIRTIO_BLK_T_OUT, 1, 512, false, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_byte(512), before);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 1, 512, true, NULL), VIRTIO_BLK_S_OK);
	machine_destroy(machine);
}

/* Interrupts: INTx with its status register, then MSI-X (a message to the one local APIC). */
static void test_intx(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);

	(void)rd(&d, d.isr, 1);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 2000 && !(cfg(&d, 6, 2) & 8); i++)
		sleep_ms(1);
	assert_int_equal(cfg(&d, 6, 2) & 8, 8);
	assert_int_equal(rd(&d, d.isr, 1), 1);
	assert_int_equal(cfg(&d, 6, 2) & 8, 0);
	assert_int_equal(rd(&d, d.isr, 1), 0);
	machine_destroy(machine);
}

static void test_msix(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);
	unsigned cap = cfg(&d, 0x34, 1);

	while (cap && cfg(&d, cap, 1) != 0x11)
		cap = cfg(&d, cap + 1, 1);
	assert_int_not_equal(cap, 0);
	assert_int_equal(cfg(&d, cap + 2, 2) & 0x7ff, 1);
	/* Vector 1 stays masked, so that its pending bit shows what the device did. */
	wr(&d, DRIVER_MSIX + 16, 0xfee00000, 4);
	wr(&d, DRIVER_MSIX + 24, 0x41, 4);
	wr(&d, DRIVER_MSIX + 28, 1, 4);
	cfg_set(&d, cap + 2, 0x8000, 2);
	wr(&d, d.common + 22, 0, 2);
	wr(&d, d.common + 26, 1, 2);
	assert_int_equal(rd(&d, d.common + 26, 2), 1);
	/* A vector that is not there reads back as none. */
	wr(&d, d.common + 16, 7, 2);
	assert_int_equal(rd(&d, d.common + 16, 2), 0xffff);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 2000 && !(rd(&d, DRIVER_MSIX + 0x800, 8) & 2); i++)
		sleep_ms(1);
	assert_int_equal(rd(&d, DRIVER_MSIX + 0x800, 8), 2);
	assert_int_equal(rd(&d, d.isr, 1), 0);
	machine_destroy(machine);
}

/* A ring that makes no sense stops the device until it is reset, and no longer. */
static void test_hostile(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);

	desc_of(&d, queue)[0] = (struct desc){0xfffffffffffff000, 4096, NEXT, 0};
	offer(&d, queue, 0);
	for (unsigned i = 0; i < 2000 && !(status(&d) & 0x40); i++)
		sleep_ms(1);
	assert_int_equal(status(&d), 0x4f);
	/* Nothing is served now. */
	offer(&d, queue, 0);
	sleep_ms(20);
	assert_int_equal(used_of(&d, queue)[1], 0);
	driver_start(&d, 0);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	/* Rings outside RAM: the same. */
	driver_reset(&d);
	set_status(&d, 3);
	wr(&d, d.common + 8, 1, 4);
	wr(&d, d.common + 12, 1, 4);
	set_status(&d, 0xb);
	wr(&d, d.common + 36, 0x7000, 4);
	wr(&d, d.common + 28, 1, 2);
	assert_int_equal(status(&d) & 0x40, 0x40);
	assert_int_equal(rd(&d, d.common + 28, 2), 0);
	machine_destroy(machine);
}

/* Buffers and rings at random, with grains of sense so that some of it gets far. */
static void make_noise(struct driver *d, uint32_t *state, bool scsi)
{
	static const uint32_t lengths[] = {0, 1, 16, 51, 108, 512, 2048, 4096, 65536, 0xfffffe00, 0xffffffff};
	uint16_t *avail = avail_of(d, queue);

	for (unsigned i = 0; i < QSIZE; i++) {
		struct desc *desc = &desc_of(d, queue)[i];
		uint32_t kind = next_random(state) % 16;

		desc->gpa = kind == 0 ? ((uint64_t)next_random(state) << 40) + next_random(state) : BUF + next_random(state) % 0x100000;
		desc->bytes = lengths[next_random(state) % (kind < 3 ? ARRAY_SIZE(lengths) : 8)];
		desc->flags = (uint16_t)(next_random(state) % 4 | (kind == 1 ? 4 : 0));
		desc->next = (uint16_t)(kind == 2 ? next_random(state) : i + 1);
		if (desc->flags & WRITE || desc->gpa > BUF + 0x100000)
			continue;
		for (unsigned at = 0; at < 64; at++)
			ram(d, desc->gpa)[at] = (uint8_t)next_random(state);
		if (scsi)
			memcpy(ram(d, desc->gpa), "\1\0\0\0\0\0\0\0", 8);
		else
			*(uint32_t *)(void *)ram(d, desc->gpa & ~3ull) = next_random(state) % 16;
	}
	for (unsigned i = 0; i < 8; i++) {
		avail[2 + avail[1] % QSIZE] = (uint16_t)(next_random(state) % (QSIZE + 2));
		avail[1]++;
	}
	if (next_random(state) % 16 == 0)
		avail[1] = (uint16_t)next_random(state);
	kick(d, queue);
}

/* Whatever a driver does, the device is stopped or goes on, and works again after a reset. */
static void check_noise(bool scsi)
{
	struct machine *machine = new_machine();
	struct machine_disk disk = {.path = disk_path, .discard = true};
	const char *message = "";
	uint32_t state = 42;
	struct driver d;

	assert_int_equal(scsi ? machine_add_cdrom(machine, &disk, &message) : machine_add_disk(machine, &disk, &message), 0);
	d = driver_open(machine, scsi ? 0x1048 : 0x1042);
	use_queue(&d, scsi ? 2 : 0);
	for (unsigned round = 0; round < 300; round++) {
		driver_start(&d, 0);
		for (unsigned i = 0; i < 5; i++)
			make_noise(&d, &state, scsi);
	}
	driver_start(&d, 0);
	if (!scsi) {
		assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	} else {
		/* TEST UNIT READY. */
		memset(buf_of(&d), 0, 512);
		buf_of(&d)[0] = 1;
		desc_of(&d, queue)[0] = (struct desc){BUF, 51, NEXT, 1};
		desc_of(&d, queue)[1] = (struct desc){BUF + 256, 108, WRITE, 0};
		buf_of(&d)[256 + 11] = 0xee;
		offer(&d, queue, 0);
		assert_int_equal(wait_used(&d, queue), 108);
		assert_int_equal(buf_of(&d)[256 + 10], 0);
		assert_int_equal(buf_of(&d)[256 + 11], 0);
	}
	machine_destroy(machine);
}

static void test_noise_disk(void **state) { check_noise(false); }
static void test_noise_cdrom(void **state) { check_noise(true); }

/* Resets of every kind while requests are under way. */
static void test_reset_races(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, false);

	for (unsigned i = 0; i < 200; i++) {
		struct virtio_blk_outhdr *header = (void *)buf_of(&d);

		*header = (struct virtio_blk_outhdr){.type = VIRTIO_BLK_T_IN};
		desc_of(&d, queue)[0] = (struct desc){BUF, 16, NEXT, 1};
		desc_of(&d, queue)[1] = (struct desc){BUF + 4096, 65536, NEXT | WRITE, 2};
		desc_of(&d, queue)[2] = (struct desc){BUF + 64, 1, WRITE, 0};
		offer(&d, queue, 0);
		if (i % 3 == 0)
			sched_yield();
		if (i % 2) {
			driver_start(&d, 0);
		} else {
			machine_pause(machine);
			machine_reset(machine);
			/* After it nothing writes to guest memory any more. */
			memset(buf_of(&d) + 4096, 0xcc, 65536);
			machine_resume(machine);
			sched_yield();
			for (unsigned j = 0; j < 65536; j += 4096)
				assert_int_equal(buf_of(&d)[4096 + j], 0xcc);
			d = driver_open(machine, 0x1042);
			driver_start(&d, 0);
		}
	}
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	machine_destroy(machine);
}

static void expect_disk_error(const char *path, bool readonly, int error, const char *word)
{
	struct machine *machine = new_machine();
	const struct machine_disk disk = {.path = path, .readonly = readonly};
	const char *message = NULL;

	assert_int_equal(machine_add_disk(machine, &disk, &message), error);
	assert_non_null(message);
	if (!strstr(message, path) || !strstr(message, word))
		fail_msg("want \"%s\" and \"%s\", got \"%s\"", path, word, message);
	machine_destroy(machine);
}

static void test_bad_disks(void **state)
{
	struct machine *machine = new_machine();
	char path[] = "/tmp/trivisor-tiny-XXXXXX";
	int fd = mkstemp(path);
	struct driver d;

	assert_true(fd >= 0);
	expect_disk_error("/nonexistent/disk.img", false, -ENOENT, "check the path");
	expect_disk_error("/tmp", true, -EINVAL, "directory");
	expect_disk_error(path, false, -EINVAL, "less than a sector");
	/* A disk that one VM writes is nobody else's. */
	d = open_disk(machine, false);
	expect_disk_error(disk_path, false, -EBUSY, "in use");
	expect_disk_error(disk_path, true, -EBUSY, "in use");
	assert_int_equal(status(&d), 0xf);
	machine_destroy(machine);
	close(fd);
	unlink(path);
}

/* The rows of two disks are told apart. */
static void test_stats(void **state)
{
	struct machine *machine = new_machine();
	struct driver d = open_disk(machine, true);
	const struct machine_disk second = {.path = disk_path, .readonly = true};
	struct machine_stat rows[128];
	const char *message = "";
	unsigned first_reads = 0, second_reads = 0;
	size_t n;

	assert_int_equal(machine_add_disk(machine, &second, &message), 0);
	assert_int_equal(request(&d, VIRTIO_BLK_T_IN, 0, 512, true, NULL), VIRTIO_BLK_S_OK);
	n = machine_stats(machine, rows, ARRAY_SIZE(rows));
	for (size_t i = 0; i < n; i++) {
		if (strcmp(rows[i].name, "virtio_blk0_reads") == 0)
			first_reads += 1 + (unsigned)rows[i].value;
		if (strcmp(rows[i].name, "virtio_blk1_reads") == 0)
			second_reads += 1 + (unsigned)rows[i].value;
	}
	assert_int_equal(first_reads, 2);
	assert_int_equal(second_reads, 1);
	machine_destroy(machine);
}

static void test_rng(void **state)
{
	struct machine *machine = new_machine();
	const char *message = "";
	unsigned zeros = 0;
	struct driver d;

	assert_int_equal(machine_add_rng(machine, &message), 0);
	d = driver_open(machine, 0x1044);
	driver_start(&d, 0);
	memset(buf_of(&d), 0, 8192);
	desc_of(&d, queue)[0] = (struct desc){BUF, 100, NEXT | WRITE, 1};
	desc_of(&d, queue)[1] = (struct desc){BUF + 200, 924, WRITE, 0};
	offer(&d, queue, 0);
	assert_int_equal(wait_used(&d, queue), 1024);
	for (unsigned i = 0; i < 1124; i++) {
		if (i < 100 || i >= 200)
			zeros += buf_of(&d)[i] == 0;
		else
			assert_int_equal(buf_of(&d)[i], 0);
	}
	/* 1024 random bytes hold about 4 zeros; 40 would be a wonder. */
	assert_true(zeros < 40);
	machine_destroy(machine);
}

int main(void)
{
	/* A write beyond the limit of limit_files may be this thread's, too. */
	signal(SIGXFSZ, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_config, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_features, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_read_write, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_read_write_plain, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_read_write_threads, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_read_write_direct, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_read_write_direct_threads, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_read_write_last_queue, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_features_of_modes, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_host_error, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_limits, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_id_discard_zero, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_readonly, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_intx, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_msix, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_hostile, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_noise_disk, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_noise_cdrom, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_reset_races, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_bad_disks, make_disk, remove_disk),
		cmocka_unit_test_setup_teardown(test_stats, make_disk, remove_disk),
		cmocka_unit_test(test_rng),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
