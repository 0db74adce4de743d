/* What devices that show a disk have in common. */
#include "machine/block/disk.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* A full disk fails every write: the log has better uses. */
#define COMPLAINTS_MAX 10

static const char *const stat_names[] = {"reads",	  "writes",   "flushes",   "discards",	"read_bytes", "written_bytes",
					 "discarded_bytes", "read_ns", "write_ns", "flush_ns", "errors"};
_Static_assert(ARRAY_SIZE(stat_names) == DISK_STATS, "a name for each");

uint64_t disk_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int disk_open(struct disk *disk, struct machine *machine, const struct machine_disk *what, const char *device, const char *stat_prefix,
	      const char **ret_error)
{
	int rc;

	disk->machine = machine;
	disk->path = strdup(what->path);
	if (!disk->path)
		return block_fail(-ENOMEM, ret_error, "no memory for a disk");
	rc = block_open(what, &disk->block, ret_error);
	if (rc < 0)
		return rc;
	disk->sectors = disk->block->info.bytes / BLOCK_SECTOR;
	disk->writes_through = what->cache == MACHINE_CACHE_WRITETHROUGH || what->cache == MACHINE_CACHE_DIRECTSYNC;
	disk->on_error = what->on_error;
	for (const struct machine_device *node = machine->devices; node; node = node->next)
		disk->number += strcmp(node->name, device) == 0;
	for (unsigned i = 0; i < DISK_STATS; i++)
		snprintf(disk->stat_name[i], sizeof(disk->stat_name[i]), "%s%u_%s", stat_prefix, disk->number, stat_names[i]);
	return 0;
}

void disk_close(struct disk *disk)
{
	block_close(disk->block);
	free(disk->path);
	disk->block = NULL;
	disk->path = NULL;
}

void disk_count(struct disk *disk, enum block_op op, uint64_t bytes, uint64_t began_ns)
{
	uint64_t ns = disk_now_ns() - began_ns;

	switch (op) {
	case BLOCK_READ:
		disk->stat[DISK_READS]++;
		disk->stat[DISK_READ_BYTES] += bytes;
		disk->stat[DISK_READ_NS] += ns;
		break;
	case BLOCK_WRITE:
		disk->stat[DISK_WRITES]++;
		disk->stat[DISK_WRITTEN_BYTES] += bytes;
		disk->stat[DISK_WRITE_NS] += ns;
		break;
	case BLOCK_FLUSH:
		disk->stat[DISK_FLUSHES]++;
		disk->stat[DISK_FLUSH_NS] += ns;
		break;
	case BLOCK_DISCARD:
	case BLOCK_ZERO:
		disk->stat[DISK_DISCARDS]++;
		disk->stat[DISK_DISCARDED_BYTES] += bytes;
		break;
	}
}

bool disk_failed(struct disk *disk, const struct block_request *request, int error)
{
	static const char *const verbs[] = {[BLOCK_READ] = "read", [BLOCK_WRITE] = "write", [BLOCK_FLUSH] = "flush",
					    [BLOCK_DISCARD] = "discard", [BLOCK_ZERO] = "writing of zeros"};
	bool is_full = error == ENOSPC || error == EDQUOT;

	if (disk->complaints++ < COMPLAINTS_MAX)
		fprintf(stderr, "disk %s: %s of %llu bytes at %llu: %s%s\n", disk->path, verbs[request->op], (unsigned long long)request->bytes,
			(unsigned long long)request->offset, strerror(error),
			disk->complaints == COMPLAINTS_MAX ? " (and no more of these will be told)" : "");
	return disk->on_error == MACHINE_ERROR_PAUSE || (disk->on_error == MACHINE_ERROR_PAUSE_FULL && is_full);
}

void disk_tell(struct disk *disk, int error)
{
	machine_lock(disk->machine);
	machine_tell(disk->machine, MACHINE_EVENT_DISK_ERROR, disk->number << 16 | (unsigned)error);
	machine_unlock(disk->machine);
}

size_t disk_stats(const struct disk *disk, struct machine_stat *ret_rows, size_t max)
{
	size_t n = DISK_STATS < max ? DISK_STATS : max;

	for (size_t i = 0; i < n; i++)
		ret_rows[i] = (struct machine_stat){disk->stat_name[i], disk->stat[i]};
	return n;
}
