/* Workloads of a disk, past the guest's page cache: what the guest's driver, the device and its back end take together. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "guest.h"

enum {
	LARGE = 256 << 10,
	SMALL = 4096,
};

static const char *path;
static int fd = -1;
static uint64_t half; /* the first one is read, the second one written: what is read stays the same */
static uint8_t *buffer;

void disk_is(const char *name)
{
	static char copy[4096];

	for (unsigned i = 0; i < sizeof(copy) - 1 && name[i]; i++)
		copy[i] = name[i];
	path = copy;
}

static void disk_prepare(void)
{
	uint64_t bytes = 0;
	struct stat st;

	if (!path)
		guest_die("the plan names no disk");
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		guest_die(path);
	if (!S_ISBLK(st.st_mode))
		bytes = (uint64_t)st.st_size;
	else if (ioctl(fd, BLKGETSIZE64, &bytes))
		guest_die(path);
	half = bytes / 2;
	if (half < LARGE)
		guest_die("the disk is too small");
	buffer = guest_alloc(LARGE);
}

static uint64_t read_at(uint64_t hash, uint64_t offset, uint64_t bytes)
{
	if (pread(fd, buffer, bytes, (off_t)offset) != (ssize_t)bytes)
		guest_die("read");
	return guest_mix(hash, *(const uint64_t *)(const void *)buffer);
}

static void write_at(uint64_t n, uint64_t offset, uint64_t bytes)
{
	*(uint64_t *)(void *)buffer = n;
	if (pwrite(fd, buffer, bytes, (off_t)(half + offset)) != (ssize_t)bytes)
		guest_die("write");
}

static uint64_t read_run(uint64_t operations)
{
	uint64_t hash = 0;

	for (uint64_t i = 0; i < operations; i++)
		hash = read_at(hash, i % (half / LARGE) * LARGE, LARGE);
	return hash;
}

static uint64_t write_run(uint64_t operations)
{
	for (uint64_t i = 0; i < operations; i++)
		write_at(i, i % (half / LARGE) * LARGE, LARGE);
	return operations;
}

static uint64_t read_small_run(uint64_t operations)
{
	uint32_t state = 1;
	uint64_t hash = 0;

	for (uint64_t i = 0; i < operations; i++)
		hash = read_at(hash, guest_random(&state) % (half / SMALL) * SMALL, SMALL);
	return hash;
}

static uint64_t write_small_run(uint64_t operations)
{
	uint32_t state = 1;

	for (uint64_t i = 0; i < operations; i++)
		write_at(i, guest_random(&state) % (half / SMALL) * SMALL, SMALL);
	return operations;
}

const struct workload disk_workloads[] = {
	{"disk-read", "disk", LARGE / 1024, "KiB", disk_prepare, read_run},
	{"disk-write", "disk", LARGE / 1024, "KiB", disk_prepare, write_run},
	{"disk-read-4k", "disk", 1, "read", disk_prepare, read_small_run},
	{"disk-write-4k", "disk", 1, "write", disk_prepare, write_small_run},
	{0},
};
