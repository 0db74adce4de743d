/* What every device that shows a disk has in common: counts, messages, and what is done when the host fails a request. */
#ifndef MACHINE_BLOCK_DISK_H
#define MACHINE_BLOCK_DISK_H

#include "machine/block/block.h"
#include "machine/private.h"

enum disk_stat {
	DISK_READS,
	DISK_WRITES,
	DISK_FLUSHES,
	DISK_DISCARDS, /* and zeros */
	DISK_READ_BYTES,
	DISK_WRITTEN_BYTES,
	DISK_DISCARDED_BYTES,
	DISK_READ_NS,
	DISK_WRITE_NS,
	DISK_FLUSH_NS,
	DISK_ERRORS,
	DISK_STATS
};

struct disk {
	struct machine *machine;
	struct block *block;
	uint64_t sectors;
	bool writes_through; /* each write is a lasting one; there is nothing to flush */
	char *path;
	unsigned number; /* in the order in which disks were added */
	enum machine_on_error on_error;
	char stat_name[DISK_STATS][40];
	_Atomic uint64_t stat[DISK_STATS]; /* written by the device's worker */
	unsigned complaints;
};

/*
 * Opens what is to be shown, by a device that the machine knows as `device`; rows of statistics begin with stat_prefix and the
 * disk's number. 0, or -errno and *ret_error; disk_close takes it then, too.
 */
int disk_open(struct disk *disk, struct machine *machine, const struct machine_disk *what, const char *device, const char *stat_prefix,
	      const char **ret_error);
void disk_close(struct disk *disk);
static inline bool disk_in_range(const struct disk *disk, uint64_t sector, uint64_t sectors)
{
	return sector <= disk->sectors && sectors <= disk->sectors - sector;
}
/* CLOCK_MONOTONIC, for disk_count. */
uint64_t disk_now_ns(void);
/* On the worker: a request that began then has been done. */
void disk_count(struct disk *disk, enum block_op op, uint64_t bytes, uint64_t began_ns);
/*
 * On the worker: the host failed it, with this errno, which the log is told. True: the VM is to stop, and the request is to wait
 * until it goes on, and to be tried again; call disk_tell then. False: the guest is told.
 */
bool disk_failed(struct disk *disk, const struct block_request *request, int error);
/* Stops the VM for that; once the request is put aside, and with no lock of the device's held. */
void disk_tell(struct disk *disk, int error);
size_t disk_stats(const struct disk *disk, struct machine_stat *ret_rows, size_t max);

#endif
