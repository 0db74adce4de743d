/* Split virtqueues (virtio 1.2, 2.7), the device's side: every word a guest wrote is read once and then checked. */
#ifndef MACHINE_VIRTIO_QUEUE_H
#define MACHINE_VIRTIO_QUEUE_H

#include "machine/types.h"

struct machine;

#define VIRTQ_SIZE_MAX 256
/* Buffers in a chain, indirect ones included; a longer chain is a broken one. */
#define VIRTQ_SEGMENTS 256

/* A buffer in guest RAM. */
struct virtq_segment {
	gpa_t gpa;
	uint32_t bytes;
	uint8_t *host;
};

/* A request: buffers the device reads, then buffers it writes. */
struct virtq_chain {
	uint16_t head;
	unsigned readable, writable; /* how many of segment[], in this order */
	uint64_t readable_bytes, writable_bytes;
	struct virtq_segment segment[VIRTQ_SEGMENTS];
};

struct virtq {
	struct machine *machine;
	/* What the driver configures. */
	uint16_t size;
	uint16_t vector; /* MSI-X */
	bool enabled;
	uint64_t desc, avail, used;
	/* From virtq_enable on. */
	bool event_index;
	const uint8_t *desc_host;
	uint8_t *avail_host, *used_host;
	uint16_t next_avail, next_used;
	uint16_t in_flight;	 /* popped, not yet pushed */
	uint16_t signalled_used; /* next_used when the driver was last interrupted */
	bool signalled;
	const char *error; /* why it is broken; static; NULL: it is not */
};

/* Power-on state with the largest size. */
void virtq_reset(struct virtq *q, struct machine *machine);
/* The driver says that size and addresses are final. False: they are no rings in RAM; q->error tells why. */
bool virtq_enable(struct virtq *q, bool event_index);

enum virtq_result { VIRTQ_EMPTY, VIRTQ_CHAIN, VIRTQ_BROKEN };
/* Takes the next request. VIRTQ_BROKEN: the driver must reset the device; q->error tells why. */
enum virtq_result virtq_pop(struct virtq *q, struct virtq_chain *ret_chain);
/* Whether virtq_pop has anything to say. */
bool virtq_pending(const struct virtq *q);
/* Gives a request back, with how many bytes of its writable buffers were written. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/*
 * The same in two steps, for what a driver must see all at once: entries 0, 1, ... of a number of requests, then so many
 * become visible. Nothing else is pushed in between.
 */
void virtq_stage(struct virtq *q, uint16_t place, uint16_t head, uint32_t written);
void virtq_publish(struct virtq *q, uint16_t count);
/* The last `count` requests popped were not taken: virtq_pop gives them again. */
void virtq_unpop(struct virtq *q, uint16_t count);
/* After pushes: whether the driver wants an interrupt for them. */
bool virtq_wants_interrupt(struct virtq *q);
/* While busy with the queue, kicks are of no use. */
void virtq_kicks_off(struct virtq *q);
/* Wants kicks again. True: requests came in meanwhile, and perhaps without one. */
bool virtq_kicks_on(struct virtq *q);

/* Copies from the readable, to the writable buffers; how many bytes there were. Writes tell the engine. */
size_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t n);
size_t virtq_chain_write(struct machine *machine, const struct virtq_chain *chain, uint64_t offset, const void *buf, size_t n);
/* The bytes [offset, offset+n) of one direction's buffers as an iovec of at most VIRTQ_SEGMENTS entries; how many. */
struct iovec;
unsigned virtq_chain_iovec(const struct virtq_chain *chain, bool writable, uint64_t offset, uint64_t n, struct iovec *ret_iov);
/* Tells the engine that [offset, offset+n) of the writable buffers was written through an iovec. */
void virtq_chain_written(struct machine *machine, const struct virtq_chain *chain, uint64_t offset, uint64_t n);

#endif
