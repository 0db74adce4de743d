/* Split virtqueues (virtio 1.2, 2.7), the device's side. */
#include <string.h>
#include <sys/uio.h>

#include "machine/machine.h"
#include "machine/virtio/queue.h"

#define DESC_BYTES 16u
#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u
#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY 1u

/*
 * Rings:  avail { u16 flags, u16 idx, u16 ring[size], u16 used_event }
 *         used  { u16 flags, u16 idx, { u32 id, u32 len } ring[size], u16 avail_event }
 */
#define RING_FLAGS 0u
#define RING_IDX 2u
#define RING_ENTRIES 4u

struct desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags, next;
};

static uint16_t load16(const uint8_t *at) { return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE); }
static void store16(uint8_t *at, uint16_t value) { __atomic_store_n((uint16_t *)(void *)at, value, __ATOMIC_RELEASE); }

/* One fetch of each word: what is checked is what is used. */
static struct desc load_desc(const uint8_t *at)
{
	uint64_t low = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
	uint64_t high = __atomic_load_n((const uint64_t *)(const void *)(at + 8), __ATOMIC_RELAXED);

	return (struct desc){.gpa = low, .bytes = (uint32_t)high, .flags = (uint16_t)(high >> 32), .next = (uint16_t)(high >> 48)};
}

void virtq_reset(struct virtq *q, struct machine *machine)
{
	*q = (struct virtq){.machine = machine, .size = VIRTQ_SIZE_MAX, .vector = 0xffff};
}

bool virtq_enable(struct virtq *q, bool event_index)
{
	q->error = NULL;
	if (q->size == 0 || q->size > VIRTQ_SIZE_MAX || (q->size & (q->size - 1)) != 0)
		q->error = "the queue's size is no power of two";
	else if (q->desc % 16 != 0 || q->avail % 2 != 0 || q->used % 4 != 0)
		q->error = "a ring is not aligned";
	else if (!(q->desc_host = machine_dma_map(q->machine, q->desc, (uint64_t)q->size * DESC_BYTES)))
		q->error = "the descriptor table is not in RAM";
	else if (!(q->avail_host = machine_dma_map(q->machine, q->avail, 6 + 2ull * q->size)))
		q->error = "the available ring is not in RAM";
	else if (!(q->used_host = machine_dma_map(q->machine, q->used, 6 + 8ull * q->size)))
		q->error = "the used ring is not in RAM";
	if (q->error)
		return false;
	q->event_index = event_index;
	q->next_avail = 0;
	q->next_used = 0;
	q->in_flight = 0;
	q->signalled = false;
	q->enabled = true;
	return true;
}

static enum virtq_result broken(struct virtq *q, const char *why)
{
	q->error = why;
	return VIRTQ_BROKEN;
}

/* ---- descriptors ----------------------------------------------------------- */

static const char *add_segment(struct virtq *q, struct virtq_chain *chain, const struct desc *desc)
{
	bool write = desc->flags & DESC_WRITE;
	struct virtq_segment *seg;

	if (!write && chain->writable > 0)
		return "a readable buffer follows a writable one";
	if (desc->bytes == 0)
		return NULL;
	if (chain->readable + chain->writable == VIRTQ_SEGMENTS)
		return "a chain is too long";
	seg = &chain->segment[chain->readable + chain->writable];
	seg->gpa = desc->gpa;
	seg->bytes = desc->bytes;
	seg->host = machine_dma_map(q->machine, desc->gpa, desc->bytes);
	if (!seg->host)
		return "a buffer is not in RAM";
	if (write) {
		chain->writable++;
		chain->writable_bytes += desc->bytes;
	} else {
		chain->readable++;
		chain->readable_bytes += desc->bytes;
	}
	return NULL;
}

/* Follows a chain; NULL or what is wrong with it. */
static const char *walk(struct virtq *q, struct virtq_chain *chain)
{
	const uint8_t *table = q->desc_host;
	uint32_t entries = q->size, index = chain->head, steps = 0;
	bool indirect = false;

	for (;;) {
		struct desc desc = load_desc(table + (size_t)index * DESC_BYTES);
		const char *error;

		/* A loop visits more descriptors than there are. */
		if (++steps > entries || steps > 2 * VIRTQ_SEGMENTS)
			return "a chain is a loop or too long";
		if (desc.flags & DESC_INDIRECT) {
			if (indirect)
				return "an indirect table holds an indirect descriptor";
			if (desc.flags & DESC_NEXT)
				return "an indirect descriptor is chained";
			if (desc.bytes == 0 || desc.bytes % DESC_BYTES != 0 || desc.gpa % 8 != 0)
				return "an indirect table has an odd size or address";
			table = machine_dma_map(q->machine, desc.gpa, desc.bytes);
			if (!table)
				return "an indirect table is not in RAM";
			indirect = true;
			entries = desc.bytes / DESC_BYTES;
			index = 0;
			steps = 0;
			continue;
		}
		error = add_segment(q, chain, &desc);
		if (error)
			return error;
		if (!(desc.flags & DESC_NEXT))
			return NULL;
		index = desc.next;
		if (index >= entries)
			return "a chain leaves its table";
	}
}

bool virtq_pending(const struct virtq *q)
{
	return q->error || (q->enabled && load16(q->avail_host + RING_IDX) != q->next_avail);
}

enum virtq_result virtq_pop(struct virtq *q, struct virtq_chain *ret_chain)
{
	uint16_t index, pending;
	const char *error;

	if (q->error)
		return VIRTQ_BROKEN;
	if (!q->enabled)
		return VIRTQ_EMPTY;
	index = load16(q->avail_host + RING_IDX);
	pending = (uint16_t)(index - q->next_avail);
	if (pending == 0)
		return VIRTQ_EMPTY;
	if (pending > q->size)
		return broken(q, "the available index jumped");
	/* A driver may not offer what it has not got back: only so is it bounded what a device keeps of its requests. */
	if (q->in_flight == q->size)
		return broken(q, "more requests are under way than it has entries");
	ret_chain->head = load16(q->avail_host + RING_ENTRIES + 2 * (size_t)(q->next_avail % q->size));
	if (ret_chain->head >= q->size)
		return broken(q, "a head lies outside the descriptor table");
	ret_chain->readable = 0;
	ret_chain->writable = 0;
	ret_chain->readable_bytes = 0;
	ret_chain->writable_bytes = 0;
	error = walk(q, ret_chain);
	if (error)
		return broken(q, error);
	q->next_avail++;
	q->in_flight++;
	return VIRTQ_CHAIN;
}

/* ---- giving back -------------------------------------------------------------- */

void virtq_stage(struct virtq *q, uint16_t place, uint16_t head, uint32_t written)
{
	size_t at = RING_ENTRIES + 8 * (size_t)((uint16_t)(q->next_used + place) % q->size);
	const uint32_t entry[2] = {head, written};

	memcpy(q->used_host + at, entry, sizeof(entry));
	machine_dma_written(q->machine, q->used + at, sizeof(entry));
}

void virtq_publish(struct virtq *q, uint16_t count)
{
	q->next_used = (uint16_t)(q->next_used + count);
	q->in_flight = (uint16_t)(q->in_flight - count);
	store16(q->used_host + RING_IDX, q->next_used);
	machine_dma_written(q->machine, q->used + RING_IDX, 2);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	virtq_stage(q, 0, head, written);
	virtq_publish(q, 1);
}

void virtq_unpop(struct virtq *q, uint16_t count)
{
	q->next_avail = (uint16_t)(q->next_avail - count);
	q->in_flight = (uint16_t)(q->in_flight - count);
}

bool virtq_wants_interrupt(struct virtq *q)
{
	uint16_t old = q->signalled_used, event;
	bool first = !q->signalled;

	/* The driver sets its wish, then looks at the used index; we moved the index and now look at its wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_index)
		return !(load16(q->avail_host + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	q->signalled_used = q->next_used;
	q->signalled = true;
	event = load16(q->avail_host + RING_ENTRIES + 2 * (size_t)q->size);
	/* Did the used index pass `event` since the last time we asked? */
	return first || (uint16_t)(q->next_used - event - 1) < (uint16_t)(q->next_used - old);
}

void virtq_kicks_off(struct virtq *q)
{
	/* With an event index there is nothing to do: the event stays behind. */
	if (!q->enabled || q->event_index)
		return;
	store16(q->used_host + RING_FLAGS, USED_NO_NOTIFY);
	machine_dma_written(q->machine, q->used + RING_FLAGS, 2);
}

bool virtq_kicks_on(struct virtq *q)
{
	if (!q->enabled || q->error)
		return false;
	if (q->event_index) {
		size_t at = RING_ENTRIES + 8 * (size_t)q->size;

		store16(q->used_host + at, q->next_avail);
		machine_dma_written(q->machine, q->used + at, 2);
	} else {
		store16(q->used_host + RING_FLAGS, 0);
		machine_dma_written(q->machine, q->used + RING_FLAGS, 2);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load16(q->avail_host + RING_IDX) != q->next_avail;
}

/* ---- buffers --------------------------------------------------------------------- */

unsigned virtq_chain_iovec(const struct virtq_chain *chain, bool writable, uint64_t offset, uint64_t n, struct iovec *ret_iov)
{
	const struct virtq_segment *seg = chain->segment + (writable ? chain->readable : 0);
	unsigned count = writable ? chain->writable : chain->readable, used = 0;

	for (unsigned i = 0; i < count && n > 0; i++) {
		uint64_t take;

		if (offset >= seg[i].bytes) {
			offset -= seg[i].bytes;
			continue;
		}
		take = seg[i].bytes - offset < n ? seg[i].bytes - offset : n;
		ret_iov[used++] = (struct iovec){.iov_base = seg[i].host + offset, .iov_len = take};
		offset = 0;
		n -= take;
	}
	return used;
}

size_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *buf, size_t n)
{
	struct iovec iov[VIRTQ_SEGMENTS];
	unsigned count = virtq_chain_iovec(chain, false, offset, n, iov);
	size_t done = 0;

	for (unsigned i = 0; i < count; i++) {
		memcpy((uint8_t *)buf + done, iov[i].iov_base, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	return done;
}

size_t virtq_chain_write(struct machine *machine, const struct virtq_chain *chain, uint64_t offset, const void *buf, size_t n)
{
	struct iovec iov[VIRTQ_SEGMENTS];
	unsigned count = virtq_chain_iovec(chain, true, offset, n, iov);
	size_t done = 0;

	for (unsigned i = 0; i < count; i++) {
		memcpy(iov[i].iov_base, (const uint8_t *)buf + done, iov[i].iov_len);
		done += iov[i].iov_len;
	}
	virtq_chain_written(machine, chain, offset, done);
	return done;
}

void virtq_chain_written(struct machine *machine, const struct virtq_chain *chain, uint64_t offset, uint64_t n)
{
	const struct virtq_segment *seg = chain->segment + chain->readable;

	for (unsigned i = 0; i < chain->writable && n > 0; i++) {
		uint64_t take;

		if (offset >= seg[i].bytes) {
			offset -= seg[i].bytes;
			continue;
		}
		take = seg[i].bytes - offset < n ? seg[i].bytes - offset : n;
		machine_dma_written(machine, seg[i].gpa + offset, take);
		offset = 0;
		n -= take;
	}
}
