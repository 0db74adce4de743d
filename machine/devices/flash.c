/* A NOR flash of the firmware's variables. (flash.h) */
#include "machine/devices/flash.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "machine/private.h"

#define BUFFER_BYTES 256u /* of one buffered write; the count is a byte */

/* Commands of the first cycle, and of the second. */
#define CMD_PROGRAM_ALIAS 0x10
#define CMD_ERASE 0x20
#define CMD_PROGRAM 0x40
#define CMD_CLEAR_STATUS 0x50
#define CMD_LOCK 0x60
#define CMD_READ_STATUS 0x70
#define CMD_READ_ID 0x90
#define CMD_QUERY 0x98
#define CMD_CONFIRM 0xd0
#define CMD_BUFFER 0xe8
#define CMD_READ_ARRAY 0xff

#define STATUS_READY 0x80u
#define STATUS_ERASE_ERROR 0x20u
#define STATUS_PROGRAM_ERROR 0x10u
#define STATUS_SEQUENCE_ERROR (STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR)

#define ID_MANUFACTURER 0x89 /* Intel */
#define ID_DEVICE 0x18

enum state {
	READ_ARRAY,
	READ_STATUS,
	READ_ID,
	QUERY,
	/* The next write is the second cycle of a command; reads give the status. */
	PROGRAM,
	ERASE,
	LOCK,
	BUFFER_COUNT,
	BUFFER_DATA,
	BUFFER_CONFIRM,
};

struct flash {
	struct machine *machine;
	struct machine_device device;
	struct bus_range range;
	struct ram_region region; /* for machine_ram_find, while in read-array mode */
	uint8_t *array;
	uint64_t bytes;
	int fd;
	enum state state;
	uint8_t status;
	uint64_t block;       /* the second cycle's: offset of the block meant in the first */
	uint64_t dirty, dirty_end; /* programmed, and not in the file yet */
	bool unsynced, told;
	unsigned buffer_count, buffer_done;
	struct {
		uint32_t offset;
		uint8_t value;
	} buffer[BUFFER_BYTES];
	uint64_t programs, erases;
};

/* ---- the file ------------------------------------------------------------------ */

static void tell(struct flash *f, int error)
{
	if (!f->told)
		machine_tell(f->machine, MACHINE_EVENT_NVRAM_ERROR, (unsigned)error);
	f->told = true;
}

static void write_back(struct flash *f)
{
	while (f->dirty < f->dirty_end) {
		ssize_t n = pwrite(f->fd, f->array + f->dirty, f->dirty_end - f->dirty, (off_t)f->dirty);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			tell(f, n < 0 ? errno : EIO);
			break;
		}
		f->dirty += (uint64_t)n;
		f->unsynced = true;
	}
	f->dirty = f->dirty_end = 0;
}

/* One byte after another is the rule: those are written together. */
static void dirtied(struct flash *f, uint64_t at, uint64_t n)
{
	if (f->dirty_end != at) {
		write_back(f);
		f->dirty = at;
	}
	f->dirty_end = at + n;
}

static void sync_file(struct flash *f)
{
	write_back(f);
	if (f->unsynced && fdatasync(f->fd) < 0)
		tell(f, errno);
	f->unsynced = false;
}

/* ---- commands --------------------------------------------------------------------- */

static void enter(struct flash *f, enum state state)
{
	bool was = f->state == READ_ARRAY, is = state == READ_ARRAY;

	f->state = state;
	if (is)
		write_back(f);
	if (was != is)
		ram_flash_set(f->machine, is ? &f->region : NULL);
}

/*
 * Bits can only be cleared in such a chip; QEMU's takes any value, and EDK2's driver for it was never held to more. A
 * firmware that keeps to the rule sees no difference.
 */
static void program(struct flash *f, uint64_t offset, uint8_t value)
{
	f->array[offset] = value;
	f->programs++;
	dirtied(f, offset, 1);
}

static void erase(struct flash *f)
{
	memset(f->array + f->block, 0xff, FLASH_BLOCK_BYTES);
	f->erases++;
	dirtied(f, f->block, FLASH_BLOCK_BYTES);
}

static void done(struct flash *f, unsigned errors)
{
	f->status |= STATUS_READY | errors;
	enter(f, READ_STATUS);
}

static void first_cycle(struct flash *f, uint64_t offset, uint8_t value)
{
	f->block = offset & ~(uint64_t)(FLASH_BLOCK_BYTES - 1);
	switch (value) {
	case CMD_PROGRAM:
	case CMD_PROGRAM_ALIAS: enter(f, PROGRAM); break;
	case CMD_ERASE: enter(f, ERASE); break;
	case CMD_LOCK: enter(f, LOCK); break;
	case CMD_READ_STATUS: enter(f, READ_STATUS); break;
	case CMD_READ_ID: enter(f, READ_ID); break;
	case CMD_QUERY: enter(f, QUERY); break;
	case CMD_BUFFER:
		f->status |= STATUS_READY;
		enter(f, BUFFER_COUNT);
		break;
	case CMD_CLEAR_STATUS:
		/* All of it, with the ready bit: by a status of 0 EDK2 tells a flash from RAM. */
		f->status = 0;
		enter(f, READ_ARRAY);
		break;
	case CMD_READ_ARRAY:
	default: enter(f, READ_ARRAY); break;
	}
}

static void buffer_byte(struct flash *f, uint64_t offset, uint8_t value)
{
	if ((offset & ~(uint64_t)(FLASH_BLOCK_BYTES - 1)) != f->block) {
		done(f, STATUS_SEQUENCE_ERROR);
		return;
	}
	f->buffer[f->buffer_done].offset = (uint32_t)offset;
	f->buffer[f->buffer_done].value = value;
	if (++f->buffer_done == f->buffer_count)
		enter(f, BUFFER_CONFIRM);
}

static void flash_write(void *opaque, uint64_t offset, uint64_t value64, unsigned size)
{
	struct flash *f = opaque;
	uint8_t value = (uint8_t)value64;

	switch (f->state) {
	case READ_ARRAY:
	case READ_STATUS:
	case READ_ID:
	case QUERY: first_cycle(f, offset, value); break;
	case PROGRAM:
		program(f, offset, value);
		done(f, 0);
		break;
	case ERASE:
		if (value == CMD_CONFIRM)
			erase(f);
		done(f, value == CMD_CONFIRM ? 0 : STATUS_SEQUENCE_ERROR);
		break;
	case LOCK: done(f, 0); break; /* blocks have no locks: to set or clear one works */
	case BUFFER_COUNT:
		f->buffer_count = value + 1u;
		f->buffer_done = 0;
		enter(f, BUFFER_DATA);
		break;
	case BUFFER_DATA: buffer_byte(f, offset, value); break;
	case BUFFER_CONFIRM:
		for (unsigned i = 0; value == CMD_CONFIRM && i < f->buffer_count; i++)
			program(f, f->buffer[i].offset, f->buffer[i].value);
		done(f, value == CMD_CONFIRM ? 0 : STATUS_SEQUENCE_ERROR);
		break;
	}
}

/* The query structure (JEP137, JESD68.01), for an 8-bit device: one byte at each address. */
static uint8_t query_byte(const struct flash *f, uint64_t at)
{
	uint32_t blocks = (uint32_t)(f->bytes / FLASH_BLOCK_BYTES) - 1;
	const uint8_t table[] = {
		'Q', 'R', 'Y', 0x01, 0x00, 0x31, 0x00, /* 0x10: Intel's set, its table at 0x31 */
		0, 0, 0, 0,			       /* no other set */
		0x45, 0x55, 0, 0,		       /* volts */
		7, 7, 10, 0, 4, 4, 4, 0,	       /* times: program, buffer, erase a block */
		(uint8_t)(63 - __builtin_clzll(f->bytes * 2 - 1)), /* 2^n bytes hold it all */
		0, 0,				       /* 8 bits wide */
		8, 0,				       /* 2^8 bytes in a buffer */
		1,				       /* one region: blocks less 1, their bytes / 256 */
		(uint8_t)blocks, (uint8_t)(blocks >> 8), (uint8_t)(FLASH_BLOCK_BYTES >> 8), (uint8_t)(FLASH_BLOCK_BYTES >> 16),
		'P', 'R', 'I', '1', '0', 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, /* 0x31 */
	};

	return at >= 0x10 && at - 0x10 < sizeof(table) ? table[at - 0x10] : 0;
}

static uint64_t flash_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct flash *f = opaque;

	switch (f->state) {
	case READ_ARRAY: return f->array[offset];
	case READ_ID: return (offset & 0xff) == 0 ? ID_MANUFACTURER : (offset & 0xff) == 1 ? ID_DEVICE : 0;
	case QUERY: return query_byte(f, offset & 0xff);
	default: return f->status;
	}
}

/* ---- lifecycle ------------------------------------------------------------------------ */

static void flash_reset(void *opaque)
{
	struct flash *f = opaque;

	f->status = STATUS_READY;
	enter(f, READ_ARRAY);
	sync_file(f);
}

static void flash_destroy(void *opaque)
{
	struct flash *f = opaque;

	ram_flash_set(f->machine, NULL);
	if (f->fd >= 0) {
		sync_file(f);
		close(f->fd);
	}
	if (f->array)
		munmap(f->array, f->bytes);
	free(f);
}

static size_t flash_stats(void *opaque, struct machine_stat *ret_rows, size_t max)
{
	const struct flash *f = opaque;

	if (max < 2)
		return 0;
	ret_rows[0] = (struct machine_stat){"nvram_bytes_programmed", f->programs};
	ret_rows[1] = (struct machine_stat){"nvram_blocks_erased", f->erases};
	return 2;
}

static const struct bus_ops flash_ops = {.read = flash_read, .write = flash_write, .max = 1};

static int read_array(struct flash *f)
{
	for (uint64_t done_bytes = 0; done_bytes < f->bytes;) {
		ssize_t n = pread(f->fd, f->array + done_bytes, f->bytes - done_bytes, (off_t)done_bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done_bytes += (uint64_t)n;
	}
	return 0;
}

int flash_create(struct machine *machine, int fd, gpa_t base, uint64_t bytes)
{
	struct flash *f = calloc(1, sizeof(*f));
	void *array;
	int rc;

	BUG_ON(!bytes || base % FLASH_BLOCK_BYTES || bytes % FLASH_BLOCK_BYTES);
	if (!f) {
		close(fd);
		return -ENOMEM;
	}
	f->machine = machine;
	f->fd = fd;
	f->bytes = bytes;
	f->status = STATUS_READY;
	array = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (array == MAP_FAILED) {
		rc = -errno;
		goto fail;
	}
	f->array = array;
	rc = read_array(f);
	if (rc < 0)
		goto fail;
	f->region = (struct ram_region){.gpa = base, .bytes = bytes, .host = f->array, .readonly = true};
	f->range = (struct bus_range){.name = "mmio_flash", .ops = &flash_ops, .opaque = f};
	f->device = (struct machine_device){.name = "flash", .reset = flash_reset, .destroy = flash_destroy, .stats = flash_stats, .opaque = f};
	machine_lock(machine);
	bus_map_mmio(machine, &f->range, base, bytes);
	machine_register_device(machine, &f->device);
	ram_flash_set(machine, &f->region);
	machine_unlock(machine);
	return 0;
fail:
	flash_destroy(f);
	return rc;
}
