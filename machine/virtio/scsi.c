/*
 * virtio-scsi (virtio 1.2, 5.6) with one CD-ROM drive as its target 0: what firmware and stock kernels have drivers for. The
 * commands are those of MMC-6 and SPC-4 that they send. The disc may change: by the user's wish, or because the guest ejects it.
 */
#include <endian.h>
#include <errno.h>
#include <linux/virtio_scsi.h>
#include <string.h>
#include <unistd.h>

#include "machine/block/block.h"
#include "machine/virtio/virtio.h"
#include "machine/xen/bus.h"

#define FRAME 2048u /* bytes of a sector of a CD */
#define SENSE_BYTES 18
#define REPLY_MAX 64u
enum { QUEUE_CONTROL, QUEUE_EVENT, QUEUE_REQUEST, QUEUES };

/* Sense key << 16 | additional sense code << 8 | qualifier. */
#define SENSE_BAD_COMMAND 0x052000u
#define SENSE_OUT_OF_RANGE 0x052100u
#define SENSE_BAD_FIELD 0x052400u
#define SENSE_READ_ERROR 0x031100u
#define SENSE_NO_DISC 0x023a00u
#define SENSE_DISC_CHANGED 0x062800u
#define SENSE_LOCKED 0x055302u
/* Codes of media events (MMC-6, 6.7.2.5). */
#define MEDIA_EVENT_NONE 0
#define MEDIA_EVENT_NEW 2
#define MEDIA_EVENT_REMOVED 3
#define STATUS_GOOD 0
#define STATUS_CHECK_CONDITION 2

struct cdrom {
	struct virtio_device dev;
	struct virtio_scsi_config config;
	unsigned number; /* among the drives */
	/* The worker's. */
	struct block *block; /* NULL: no disc */
	char *path;
	uint32_t frames;
	struct cdrom_request *spare;
	unsigned reading; /* requests that are with the block device */
	uint8_t media_event;
	bool attention; /* the next command hears that the disc is another one */

	/* What the main thread wishes, and what it may know. */
	pthread_mutex_t wish_lock;
	pthread_cond_t wish_done;
	_Atomic bool wished;
	bool granted;
	struct block *wish_block;
	char *wish_path;
	_Atomic bool locked; /* the guest has asked for it: it uses the disc */
};

struct cdrom_request {
	struct block_request io;
	struct cdrom *cdrom;
	struct virtio_request *request;
	struct cdrom_request *next;
	struct iovec iov[VIRTQ_SEGMENTS];
};

static void put16(uint8_t *at, uint16_t value) { memcpy(at, &(uint16_t){htobe16(value)}, 2); }
static void put32(uint8_t *at, uint32_t value) { memcpy(at, &(uint32_t){htobe32(value)}, 4); }
static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }
static uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }

static void on_batch_done(void *opaque) { virtio_signal(&((struct cdrom *)opaque)->dev); }
static void put_disc(struct cdrom *cd, struct block *block, char *path);

static uint32_t frames_of(const struct block *block)
{
	return (uint32_t)(block->info.bytes / FRAME < UINT32_MAX ? block->info.bytes / FRAME : UINT32_MAX);
}

/* ---- answers ------------------------------------------------------------------------ */

/* `data` bytes of the data-in buffers are filled; sense 0: it went well. */
static void answer(struct cdrom *cd, struct virtio_request *request, uint8_t response, uint32_t sense, uint64_t data)
{
	struct virtio_scsi_cmd_resp resp = {.response = response};
	uint64_t room = request->chain.writable_bytes;

	if (sense) {
		resp.status = STATUS_CHECK_CONDITION;
		resp.sense_len = SENSE_BYTES;
		resp.sense[0] = 0x70; /* current, fixed format (SPC-4, 4.5.3) */
		resp.sense[2] = (uint8_t)(sense >> 16);
		resp.sense[7] = SENSE_BYTES - 8;
		resp.sense[12] = (uint8_t)(sense >> 8);
		resp.sense[13] = (uint8_t)sense;
	}
	if (room > sizeof(resp) + data)
		resp.resid = (uint32_t)(room - sizeof(resp) - data);
	virtq_chain_write(cd->dev.machine, &request->chain, 0, &resp, room < sizeof(resp) ? room : sizeof(resp));
	virtio_complete(request, (uint32_t)(room < sizeof(resp) ? room : sizeof(resp) + data));
}

/* A reply of n bytes, of which the command wants at most `wanted`. */
static void reply(struct cdrom *cd, struct virtio_request *request, const uint8_t *bytes, uint32_t n, uint32_t wanted)
{
	uint64_t room = request->chain.writable_bytes - sizeof(struct virtio_scsi_cmd_resp);

	if (n > wanted)
		n = wanted;
	if (n > room)
		n = (uint32_t)room;
	virtq_chain_write(cd->dev.machine, &request->chain, sizeof(struct virtio_scsi_cmd_resp), bytes, n);
	answer(cd, request, VIRTIO_SCSI_S_OK, 0, n);
}

/* ---- reading -------------------------------------------------------------------------- */

static void on_read(struct block_request *io, int result)
{
	struct cdrom_request *r = CONTAINER_OF(io, struct cdrom_request, io);
	struct cdrom *cd = r->cdrom;
	struct virtio_request *request = r->request;

	if (result == 0)
		virtq_chain_written(cd->dev.machine, &request->chain, sizeof(struct virtio_scsi_cmd_resp), io->bytes);
	else
		fprintf(stderr, "cdrom %s: read of %llu bytes at %llu: %s\n", cd->path, (unsigned long long)io->bytes,
			(unsigned long long)io->offset, strerror(-result));
	r->next = cd->spare;
	cd->spare = r;
	cd->reading--;
	if (cd->reading == 0 && cd->wished)
		worker_ring(&cd->dev.worker);
	answer(cd, request, VIRTIO_SCSI_S_OK, result ? SENSE_READ_ERROR : 0, result ? 0 : io->bytes);
}

static void read_frames(struct cdrom *cd, struct virtio_request *request, uint32_t first, uint32_t count)
{
	uint64_t bytes = (uint64_t)count * FRAME, head = sizeof(struct virtio_scsi_cmd_resp);
	struct cdrom_request *r = cd->spare;

	if (first > cd->frames || count > cd->frames - first) {
		answer(cd, request, VIRTIO_SCSI_S_OK, SENSE_OUT_OF_RANGE, 0);
		return;
	}
	if (request->chain.writable_bytes - head < bytes) {
		answer(cd, request, VIRTIO_SCSI_S_OVERRUN, 0, 0);
		return;
	}
	if (r)
		cd->spare = r->next;
	else
		r = malloc(sizeof(*r));
	BUG_ON(!r); /* some KiB, and no more of them than the ring has entries */
	r->cdrom = cd;
	r->request = request;
	r->io = (struct block_request){.op = BLOCK_READ, .offset = (uint64_t)first * FRAME, .bytes = bytes, .done = on_read, .iov = r->iov};
	r->io.iov_count = virtq_chain_iovec(&request->chain, true, head, bytes, r->iov);
	cd->reading++;
	block_submit(cd->block, &r->io);
}

/* ---- commands that tell something ---------------------------------------------------------- */

static void inquiry(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	uint8_t data[REPLY_MAX] = {0x05}; /* CD/DVD device */
	uint32_t n = 0;

	if (!(cdb[1] & 1)) {
		data[1] = 0x80; /* removable */
		data[2] = 5;	/* SPC-3 */
		data[3] = 2;
		data[4] = 36 - 5;
		memcpy(data + 8, "TRIVISORCD-ROM          1.0 ", 28);
		n = 36;
	} else if (cdb[2] == 0) { /* the pages that there are */
		data[3] = 2;
		data[5] = 0x83;
		n = 6;
	} else if (cdb[2] == 0x83) { /* device identification: by vendor, ASCII */
		data[3] = 4 + 12;
		data[4] = 2;
		data[5] = 1;
		data[7] = 12;
		memcpy(data + 8, "TRIVISORDISC", 12);
		n = 20;
	}
	if (n)
		reply(cd, request, data, n, get16(cdb + 3));
	else
		answer(cd, request, VIRTIO_SCSI_S_OK, SENSE_BAD_FIELD, 0);
}

/* Only the page of capabilities (MMC-3, 5.5.10): a drive that reads, and locks its tray. */
static void mode_sense(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	bool ten = cdb[0] == 0x5a;
	uint32_t header = ten ? 8 : 4;
	uint8_t data[REPLY_MAX] = {0}, *page = data + header;

	if ((cdb[2] & 0x3f) != 0x2a && (cdb[2] & 0x3f) != 0x3f) {
		answer(cd, request, VIRTIO_SCSI_S_OK, SENSE_BAD_FIELD, 0);
		return;
	}
	page[0] = 0x2a;
	page[1] = 20;
	page[4] = 0x70; /* reads XA forms, multisession */
	page[6] = 0x29; /* tray, lock, eject */
	put16(page + 8, 5632); /* KB/s: 32x */
	put16(page + 14, 5632);
	data[ten ? 1 : 0] = (uint8_t)(header + 22 - (ten ? 2 : 1));
	reply(cd, request, data, header + 22, ten ? get16(cdb + 7) : cdb[4]);
}

/* One data track and the lead-out behind it (MMC-6, 6.25), or the one session. */
static void read_toc(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	unsigned format = cdb[2] & 0xf ? cdb[2] & 0xf : cdb[9] >> 6, at = 4;
	bool msf = cdb[1] & 2;
	uint8_t data[REPLY_MAX] = {0, 0, 1, 1};

	if (format > 1 || (cdb[6] > 1 && cdb[6] != 0xaa)) {
		answer(cd, request, VIRTIO_SCSI_S_OK, SENSE_BAD_FIELD, 0);
		return;
	}
	for (unsigned track = cdb[6] == 0xaa; track < (format ? 1u : 2u); track++, at += 8) {
		uint32_t lba = track ? cd->frames : 0, frames = lba + 150; /* the first two seconds are the lead-in's */

		data[at + 1] = 0x14; /* data, and where it is is told */
		data[at + 2] = track ? 0xaa : 1;
		if (!msf) {
			put32(data + at + 4, lba);
			continue;
		}
		data[at + 5] = (uint8_t)(frames / 75 / 60);
		data[at + 6] = (uint8_t)(frames / 75 % 60);
		data[at + 7] = (uint8_t)(frames % 75);
	}
	put16(data, (uint16_t)(at - 2));
	reply(cd, request, data, at, get16(cdb + 7));
}

static void get_configuration(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	/* The profile list (MMC-6, 5.3.1): a DVD-ROM if it is too large for a CD. */
	uint16_t profile = cd->frames > 80 * 60 * 75 ? 0x0010 : 0x0008;
	uint8_t data[REPLY_MAX] = {0};

	put32(data, 16 - 4);
	put16(data + 6, profile);
	data[10] = 3; /* persistent, current */
	data[11] = 4;
	put16(data + 12, profile);
	data[14] = 1;
	reply(cd, request, data, 16, get16(cdb + 7));
}

static void tell(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	uint8_t data[REPLY_MAX] = {0};

	switch (cdb[0]) {
	case 0x03: /* REQUEST SENSE: each command has brought its own */
		data[0] = 0x70;
		data[7] = SENSE_BYTES - 8;
		reply(cd, request, data, SENSE_BYTES, cdb[4]);
		break;
	case 0x25: /* READ CAPACITY (10) */
		put32(data, cd->frames - 1);
		put32(data + 4, FRAME);
		reply(cd, request, data, 8, 8);
		break;
	case 0x4a: /* GET EVENT STATUS NOTIFICATION: of media */
		data[1] = 6;
		data[2] = 4;
		data[3] = 0x10;
		data[4] = cd->media_event;
		data[5] = cd->block ? 2 : 0;
		cd->media_event = MEDIA_EVENT_NONE;
		reply(cd, request, data, 8, get16(cdb + 7));
		break;
	case 0xa0: /* REPORT LUNS: this one */
		put32(data, 8);
		reply(cd, request, data, 16, get32(cdb + 6));
		break;
	case 0xbd: /* MECHANISM STATUS */ reply(cd, request, data, 8, get16(cdb + 8)); break;
	default: BUG_ON(true);
	}
}

/* START STOP UNIT: with LoEj and without Start, the guest opens the tray. What is closed again is empty. */
static void start_stop(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	bool ejects = (cdb[4] & 3) == 2;

	if (ejects && (cd->locked || cd->reading)) {
		answer(cd, request, VIRTIO_SCSI_S_OK, SENSE_LOCKED, 0);
		return;
	}
	if (ejects && cd->block)
		put_disc(cd, NULL, NULL);
	answer(cd, request, VIRTIO_SCSI_S_OK, 0, 0);
}

/* What a command hears before it is looked at: the disc is another one, or there is none. */
static uint32_t sense_before(struct cdrom *cd, uint8_t opcode)
{
	switch (opcode) {
	case 0x03:
	case 0x12:
	case 0x46:
	case 0x4a:
	case 0xa0: return 0; /* these tell of the drive, whatever is in it */
	}
	if (cd->attention) {
		cd->attention = false;
		return SENSE_DISC_CHANGED;
	}
	switch (opcode) {
	case 0x00:
	case 0x25:
	case 0x28:
	case 0x2f:
	case 0x43:
	case 0xa8: return cd->block ? 0 : SENSE_NO_DISC;
	default: return 0;
	}
}

static void execute(struct cdrom *cd, struct virtio_request *request, const uint8_t *cdb)
{
	uint32_t sense = sense_before(cd, cdb[0]);

	if (sense) {
		answer(cd, request, VIRTIO_SCSI_S_OK, sense, 0);
		return;
	}
	switch (cdb[0]) {
	case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL */
		cd->locked = cdb[4] & 1;
		answer(cd, request, VIRTIO_SCSI_S_OK, 0, 0);
		break;
	case 0x1b: start_stop(cd, request, cdb); break;
	case 0x00: /* TEST UNIT READY */
	case 0x2f: /* VERIFY (10) */
	case 0x35: /* SYNCHRONIZE CACHE (10) */
	case 0xbb: /* SET CD SPEED */ answer(cd, request, VIRTIO_SCSI_S_OK, 0, 0); break;
	case 0x03:
	case 0x25:
	case 0x4a:
	case 0xa0:
	case 0xbd: tell(cd, request, cdb); break;
	case 0x12: inquiry(cd, request, cdb); break;
	case 0x1a:
	case 0x5a: mode_sense(cd, request, cdb); break;
	case 0x28: read_frames(cd, request, get32(cdb + 2), get16(cdb + 7)); break;
	case 0xa8: read_frames(cd, request, get32(cdb + 2), get32(cdb + 6)); break;
	case 0x43: read_toc(cd, request, cdb); break;
	case 0x46: get_configuration(cd, request, cdb); break;
	default: answer(cd, request, VIRTIO_SCSI_S_OK, SENSE_BAD_COMMAND, 0); break;
	}
}

/* ---- the disc changes ---------------------------------------------------------------------- */

/* On the worker, nothing is being read. The one that was in is closed, and the guest hears of it. */
static void put_disc(struct cdrom *cd, struct block *block, char *path)
{
	if (block || cd->block)
		cd->media_event = block ? MEDIA_EVENT_NEW : MEDIA_EVENT_REMOVED;
	block_detach(cd->block);
	block_close(cd->block);
	free(cd->path);
	cd->block = block;
	cd->path = path;
	cd->frames = block ? frames_of(block) : 0;
	cd->attention = block != NULL;
}

/* Nothing is read of the old one any more when the wish is granted. */
static void rung(struct virtio_device *dev)
{
	struct cdrom *cd = CONTAINER_OF(dev, struct cdrom, dev);

	pthread_mutex_lock(&cd->wish_lock);
	if (cd->wished && cd->reading == 0) {
		cd->granted = !cd->wish_block || block_attach(cd->wish_block, &dev->worker, on_batch_done, cd) == 0;
		if (cd->granted)
			put_disc(cd, cd->wish_block, cd->wish_path);
		cd->wished = false;
		pthread_cond_signal(&cd->wish_done);
	}
	pthread_mutex_unlock(&cd->wish_lock);
}

/* ---- queues ---------------------------------------------------------------------------------- */

static void begin(struct cdrom *cd, struct virtio_request *request)
{
	struct virtio_scsi_cmd_req req = {0};
	bool whole = virtq_chain_read(&request->chain, 0, &req, sizeof(req)) == sizeof(req) &&
		     request->chain.writable_bytes >= sizeof(struct virtio_scsi_cmd_resp);

	if (!whole)
		answer(cd, request, VIRTIO_SCSI_S_FAILURE, 0, 0);
	else if (req.lun[0] != 1 || req.lun[1] != 0) /* 5.6.6.1: 1, target, LUN in flat space */
		answer(cd, request, VIRTIO_SCSI_S_BAD_TARGET, 0, 0);
	else if ((get16(req.lun + 2) & 0x3fff) != 0)
		answer(cd, request, VIRTIO_SCSI_S_INCORRECT_LUN, 0, 0);
	else
		execute(cd, request, req.cdb);
}

/* Task management: everything is done in no time, so that whatever is to be aborted has ended already. */
static void control(struct cdrom *cd, struct virtio_request *request)
{
	uint8_t resp[8] = {0}; /* of a notification request: no events, and VIRTIO_SCSI_S_OK */
	uint32_t type = 0;
	size_t n = 1;

	virtq_chain_read(&request->chain, 0, &type, sizeof(type));
	if (type == VIRTIO_SCSI_T_AN_QUERY || type == VIRTIO_SCSI_T_AN_SUBSCRIBE)
		n = sizeof(struct virtio_scsi_ctrl_an_resp);
	n = virtq_chain_write(cd->dev.machine, &request->chain, 0, resp, n);
	virtio_complete(request, (uint32_t)n);
}

static bool work(struct virtio_device *dev, unsigned queue)
{
	struct cdrom *cd = CONTAINER_OF(dev, struct cdrom, dev);
	struct virtio_request *request;

	if (queue == QUEUE_EVENT)
		return false; /* its buffers are for events that never come */
	while ((request = virtio_take(dev, queue))) {
		if (queue == QUEUE_CONTROL)
			control(cd, request);
		else
			begin(cd, request);
	}
	if (cd->block)
		block_commit(cd->block);
	return true;
}

/* ---- life -------------------------------------------------------------------------------------- */

static int prepare(struct virtio_device *dev)
{
	struct cdrom *cd = CONTAINER_OF(dev, struct cdrom, dev);

	return cd->block ? block_attach(cd->block, &dev->worker, on_batch_done, cd) : 0;
}

/* Under dev->lock. A driver that begins has locked nothing. */
static void reset(struct virtio_device *dev) { CONTAINER_OF(dev, struct cdrom, dev)->locked = false; }

static void retire(struct virtio_device *dev) { block_detach(CONTAINER_OF(dev, struct cdrom, dev)->block); }

static void destroy(struct virtio_device *dev)
{
	struct cdrom *cd = CONTAINER_OF(dev, struct cdrom, dev);

	block_close(cd->block);
	while (cd->spare) {
		struct cdrom_request *r = cd->spare;

		cd->spare = r->next;
		free(r);
	}
	pthread_cond_destroy(&cd->wish_done);
	pthread_mutex_destroy(&cd->wish_lock);
	free(cd->path);
	free(cd);
}

static const struct virtio_ops scsi_ops = {
	.name = "virtio-scsi",
	.id = 8,
	.pci_class = 0x0100,
	.rung = rung,
	.reset = reset,
	.work = work,
	.looks = true,
	.prepare = prepare,
	.retire = retire,
	.destroy = destroy,
};

/* Opens a disc; path is its, to be freed. */
static int open_disc(const struct machine_disk *disk, struct block **ret_block, char **ret_path, const char **ret_error)
{
	struct machine_disk readonly = *disk;
	char *path = strdup(disk->path);
	int rc;

	readonly.readonly = true;
	if (!path)
		return block_fail(-ENOMEM, ret_error, "no memory for a disc");
	rc = block_open(&readonly, ret_block, ret_error);
	if (rc == 0 && !frames_of(*ret_block)) {
		block_close(*ret_block);
		*ret_block = NULL;
		rc = block_fail(-EINVAL, ret_error, "cdrom %s is less than a sector of 2048 bytes: name an ISO image", disk->path);
	}
	if (rc < 0)
		free(path);
	else
		*ret_path = path;
	return rc;
}

static struct cdrom *find_drive(struct machine *machine, unsigned number)
{
	for (struct machine_device *node = machine->devices; node; node = node->next) {
		struct virtio_device *dev = node->opaque;

		if (strcmp(node->name, scsi_ops.name) == 0 && CONTAINER_OF(dev, struct cdrom, dev)->number == number)
			return CONTAINER_OF(dev, struct cdrom, dev);
	}
	return NULL;
}

int machine_change_disc(struct machine *machine, unsigned number, const struct machine_disk *disk, bool force, const char **ret_error)
{
	struct cdrom *cd = find_drive(machine, number);
	struct block *block = NULL;
	char *path = NULL;
	int rc = 0;

	if (!cd)
		rc = block_fail(-ENOENT, ret_error, "there is no such CD-ROM drive");
	else if (cd->locked && !force)
		rc = block_fail(-EBUSY, ret_error, "the guest uses the disc and has locked the drive: unmount it there, or use force");
	if (rc < 0) {
		for (unsigned i = 0; disk && disk->opened && i < MACHINE_DISK_FDS; i++)
			if (disk->fds[i] >= 0)
				close(disk->fds[i]);
		if (disk && disk->nbd)
			close(disk->nbd_fd);
		return rc;
	}
	if (disk)
		rc = open_disc(disk, &block, &path, ret_error);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&cd->wish_lock);
	cd->wish_block = block;
	cd->wish_path = path;
	cd->wished = true;
	worker_ring(&cd->dev.worker);
	while (cd->wished)
		pthread_cond_wait(&cd->wish_done, &cd->wish_lock);
	if (!cd->granted)
		rc = block_fail(-ENOMEM, ret_error, "no memory for a disc");
	pthread_mutex_unlock(&cd->wish_lock);
	if (rc < 0) {
		block_close(block);
		free(path);
	}
	return rc;
}

int machine_add_cdrom(struct machine *machine, const struct machine_disk *disk, const char **ret_error)
{
	struct cdrom *cd;
	int rc = 0;

	if (machine->config.xen)
		return xen_blk_add(machine, disk, true, ret_error);
	cd = calloc(1, sizeof(*cd));
	if (!cd)
		return block_fail(-ENOMEM, ret_error, "no memory for a CD-ROM drive");
	pthread_mutex_init(&cd->wish_lock, NULL);
	pthread_cond_init(&cd->wish_done, NULL);
	while (find_drive(machine, cd->number))
		cd->number++;
	if (disk->path[0])
		rc = open_disc(disk, &cd->block, &cd->path, ret_error);
	if (rc < 0)
		goto fail;
	cd->frames = cd->block ? frames_of(cd->block) : 0;
	cd->config = (struct virtio_scsi_config){
		.num_queues = 1,
		.seg_max = VIRTQ_SEGMENTS - 2,
		.max_sectors = 0xffff,
		.cmd_per_lun = 64,
		.event_info_size = sizeof(struct virtio_scsi_event),
		.sense_size = VIRTIO_SCSI_SENSE_SIZE,
		.cdb_size = VIRTIO_SCSI_CDB_SIZE,
	};
	cd->dev.ops = &scsi_ops;
	cd->dev.queues = QUEUES;
	cd->dev.config = (const uint8_t *)&cd->config;
	cd->dev.config_bytes = sizeof(cd->config);
	rc = virtio_device_init(&cd->dev, machine);
	if (rc < 0) {
		block_fail(rc, ret_error, "cdrom %s finds no place on the PCI bus: %s", disk->path, strerror(-rc));
		goto fail;
	}
	return 0;
fail:
	destroy(&cd->dev);
	return rc;
}
