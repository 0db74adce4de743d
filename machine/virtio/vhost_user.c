/* The front end of vhost-user: its messages, and the rings that we share with the server. */
#include "machine/virtio/vhost_user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Requests (vhost-user.rst, "Front-end message types"). */
enum message_type {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
};
#define MESSAGE_VERSION 1u
#define MESSAGE_REPLY 4u
#define REGIONS_MAX 8u
#define ANSWER_SECONDS 20

struct message {
	uint32_t type, flags, bytes;
	union {
		uint64_t u64;
		struct {
			uint32_t index, num;
		} state;
		struct {
			uint32_t index, flags;
			uint64_t descriptors, used, available, log;
		} address;
		struct {
			uint32_t count, padding;
			struct {
				uint64_t gpa, bytes, address, offset;
			} region[REGIONS_MAX];
		} memory;
	};
} __attribute__((packed));
#define HEAD offsetof(struct message, u64)

/* Where things are in a ring, and in the memory that is shared. */
#define DESC_BYTES 16u
#define RING_AVAIL (VHOST_RING * DESC_BYTES)
#define RING_USED (RING_AVAIL + 4096u)
#define RING_BYTES (RING_USED + 12288u)
#define COPIES_AT (VHOST_QUEUES * RING_BYTES)
#define MEMORY_BYTES (COPIES_AT + VHOST_COPIES * VHOST_COPY_BYTES)
#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define END 0xffffu

/* ---- messages ------------------------------------------------------------------------------------- */

static int send_message(struct vhost_user *vhost, struct message *message, const int *fds, unsigned count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(REGIONS_MAX * sizeof(int))];
	} control = {0};
	struct iovec iov = {message, HEAD + message->bytes};
	struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	message->flags = MESSAGE_VERSION;
	if (count) {
		header.msg_control = &control;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.header = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	}
	do
		n = sendmsg(vhost->socket, &header, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)iov.iov_len)
		return 0;
	return n < 0 && errno != EPIPE ? -errno : -ECONNRESET;
}

static int receive_u64(struct vhost_user *vhost, enum message_type type, uint64_t *ret)
{
	struct message answer;
	size_t have = 0, want = HEAD + sizeof(uint64_t);

	while (have < want) {
		ssize_t n = recv(vhost->socket, (uint8_t *)&answer + have, want - have, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
		have += (size_t)n;
	}
	if (answer.type != type || answer.bytes != sizeof(uint64_t) || !(answer.flags & MESSAGE_REPLY))
		return -EPROTO;
	*ret = answer.u64;
	return 0;
}

static int send_u64(struct vhost_user *vhost, enum message_type type, uint64_t value, int fd)
{
	struct message message = {.type = type, .bytes = sizeof(value), .u64 = value};

	return send_message(vhost, &message, &fd, fd >= 0);
}

static int agree_on_features(struct vhost_user *vhost)
{
	struct message ask = {.type = GET_FEATURES}, own = {.type = SET_OWNER};
	uint64_t offered = 0;
	int rc = send_message(vhost, &own, NULL, 0);

	if (rc == 0)
		rc = send_message(vhost, &ask, NULL, 0);
	if (rc == 0)
		rc = receive_u64(vhost, GET_FEATURES, &offered);
	if (rc == 0 && !(offered & VIRTIO_VERSION_1))
		rc = -EPROTO;
	/* Nothing else: our rings have neither indirect tables nor event indexes, and are in use from the first kick. */
	return rc ? rc : send_u64(vhost, SET_FEATURES, VIRTIO_VERSION_1, -1);
}

/* RAM, and what we share. "Addresses" are those of this process, as far as the protocol is concerned. */
static int give_memory(struct vhost_user *vhost)
{
	struct machine_ram *ram = &vhost->machine->ram;
	struct message message = {.type = SET_MEM_TABLE};
	int fds[REGIONS_MAX];
	unsigned n = 0;
	const struct {
		uint64_t gpa, bytes, offset;
		uint8_t *host;
		int fd;
	} regions[] = {
		{0, ram->low_bytes, 0, ram->host, ram->fd},
		{RAM_HIGH_BASE, ram->high_bytes, ram->low_bytes, ram->host + ram->low_bytes, ram->fd},
		{vhost->gpa, MEMORY_BYTES, 0, vhost->host, vhost->memory},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(regions); i++) {
		if (!regions[i].bytes)
			continue;
		message.memory.region[n].gpa = regions[i].gpa;
		message.memory.region[n].bytes = regions[i].bytes;
		message.memory.region[n].address = (uintptr_t)regions[i].host;
		message.memory.region[n].offset = regions[i].offset;
		fds[n++] = regions[i].fd;
	}
	message.memory.count = n;
	message.bytes = 8 + n * (uint32_t)sizeof(message.memory.region[0]);
	return send_message(vhost, &message, fds, n);
}

static int give_ring(struct vhost_user *vhost, unsigned queue)
{
	struct vhost_ring *ring = &vhost->ring[queue];
	uintptr_t at = (uintptr_t)ring->host;
	struct message num = {.type = SET_VRING_NUM, .bytes = 8}, base = {.type = SET_VRING_BASE, .bytes = 8},
		       address = {.type = SET_VRING_ADDR, .bytes = sizeof(address.address)};
	int rc;

	num.state.index = base.state.index = queue;
	num.state.num = VHOST_RING;
	address.address.index = queue;
	address.address.descriptors = at;
	address.address.available = at + RING_AVAIL;
	address.address.used = at + RING_USED;
	rc = send_message(vhost, &num, NULL, 0);
	if (rc == 0)
		rc = send_message(vhost, &base, NULL, 0);
	if (rc == 0)
		rc = send_message(vhost, &address, NULL, 0);
	if (rc == 0)
		rc = send_u64(vhost, SET_VRING_CALL, queue, ring->call);
	return rc ? rc : send_u64(vhost, SET_VRING_KICK, queue, ring->kick);
}

/* ---- life -------------------------------------------------------------------------------------------- */

static int make_memory(struct vhost_user *vhost)
{
	vhost->memory = memfd_create("trivisor-vhost", MFD_CLOEXEC);
	if (vhost->memory < 0 || ftruncate(vhost->memory, MEMORY_BYTES) < 0)
		return -errno;
	vhost->host = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vhost->memory, 0);
	if (vhost->host == MAP_FAILED) {
		vhost->host = NULL;
		return -errno;
	}
	/* Where no guest could have RAM. */
	vhost->gpa = pci_window64_base(vhost->machine) + PCI_WINDOW64_BYTES;
	for (unsigned i = 0; i < VHOST_COPIES; i++)
		vhost->copy_free[i] = (uint16_t)i;
	vhost->copies_free = VHOST_COPIES;
	return 0;
}

static int make_ring(struct vhost_user *vhost, unsigned queue)
{
	struct vhost_ring *ring = &vhost->ring[queue];

	ring->host = vhost->host + queue * RING_BYTES;
	ring->free_count = VHOST_RING;
	for (unsigned i = 0; i < VHOST_RING; i++)
		ring->next_free[i] = (uint16_t)(i + 1 < VHOST_RING ? i + 1 : END);
	ring->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return ring->kick < 0 || ring->call < 0 ? -errno : 0;
}

int vhost_user_init(struct vhost_user *vhost, struct machine *machine, int socket)
{
	const struct timeval patience = {ANSWER_SECONDS, 0};
	int rc;

	*vhost = (struct vhost_user){.socket = socket, .machine = machine, .memory = -1};
	for (unsigned i = 0; i < VHOST_QUEUES; i++)
		vhost->ring[i].kick = vhost->ring[i].call = -1;
	setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	rc = make_memory(vhost);
	for (unsigned i = 0; rc == 0 && i < VHOST_QUEUES; i++)
		rc = make_ring(vhost, i);
	if (rc == 0)
		rc = agree_on_features(vhost);
	if (rc == 0)
		rc = give_memory(vhost);
	for (unsigned i = 0; rc == 0 && i < VHOST_QUEUES; i++)
		rc = give_ring(vhost, i);
	if (rc < 0) {
		vhost->socket = -1;
		vhost_user_finish(vhost);
	}
	return rc;
}

void vhost_user_finish(struct vhost_user *vhost)
{
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		if (vhost->ring[i].kick >= 0)
			close(vhost->ring[i].kick);
		if (vhost->ring[i].call >= 0)
			close(vhost->ring[i].call);
	}
	if (vhost->host)
		munmap(vhost->host, MEMORY_BYTES);
	if (vhost->memory >= 0)
		close(vhost->memory);
	if (vhost->socket >= 0)
		close(vhost->socket);
	vhost->socket = vhost->memory = -1;
	vhost->host = NULL;
}

/* ---- rings -------------------------------------------------------------------------------------------- */

static uint16_t load16(const uint8_t *at) { return __atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE); }

bool vhost_user_has_room(const struct vhost_user *vhost, unsigned queue)
{
	return vhost->ring[queue].free_count > VIRTQ_SEGMENTS && vhost->copies_free > 0;
}

/* Puts a descriptor behind `last` (END: it is the first of its chain). */
static uint16_t add_descriptor(struct vhost_ring *ring, uint16_t last, uint64_t gpa, uint32_t bytes, bool write)
{
	uint16_t i = ring->free_head, flags = write ? DESC_WRITE : 0;
	uint8_t *at = ring->host + i * DESC_BYTES;

	ring->free_head = ring->next_free[i];
	ring->free_count--;
	ring->next_free[i] = END;
	memcpy(at, &gpa, 8);
	memcpy(at + 8, &bytes, 4);
	memcpy(at + 12, &flags, 2);
	if (last != END) {
		uint8_t *before = ring->host + last * DESC_BYTES;

		memcpy(&flags, before + 12, 2);
		flags |= DESC_NEXT;
		memcpy(before + 12, &flags, 2);
		memcpy(before + 14, &i, 2);
		ring->next_free[last] = i;
	}
	return i;
}

static void publish(struct vhost_ring *ring, uint16_t head, struct vhost_slot slot)
{
	uint8_t *avail = ring->host + RING_AVAIL;

	slot.used = true;
	ring->slot[head] = slot;
	ring->under_way++;
	memcpy(avail + 4 + 2 * (ring->next_avail % VHOST_RING), &head, 2);
	__atomic_store_n((uint16_t *)(void *)(avail + 2), ++ring->next_avail, __ATOMIC_RELEASE);
}

/* Its place in memory that only we and the server have. */
static uint16_t take_copy(struct vhost_user *vhost, const void *bytes, size_t n, uint64_t *ret_gpa)
{
	uint16_t copy = vhost->copy_free[--vhost->copies_free];
	uint64_t at = COPIES_AT + (uint64_t)copy * VHOST_COPY_BYTES;

	memcpy(vhost->host + at, bytes, n);
	*ret_gpa = vhost->gpa + at;
	return (uint16_t)(copy + 1);
}

void vhost_user_put(struct vhost_user *vhost, unsigned queue, struct virtio_request *request, const void *copied)
{
	struct vhost_ring *ring = &vhost->ring[queue];
	const struct virtq_chain *chain = &request->chain;
	struct vhost_slot slot = {.request = request};
	uint16_t head = ring->free_head, last = END;
	unsigned from = 0;

	if (copied && chain->readable_bytes) {
		uint64_t gpa;

		slot.copy = take_copy(vhost, copied, chain->readable_bytes, &gpa);
		last = add_descriptor(ring, last, gpa, (uint32_t)chain->readable_bytes, false);
		from = chain->readable;
	}
	for (unsigned i = from; i < chain->readable + chain->writable; i++)
		last = add_descriptor(ring, last, chain->segment[i].gpa, chain->segment[i].bytes, i >= chain->readable);
	slot.descriptors = (uint16_t)(chain->readable + chain->writable - from + (slot.copy != 0));
	publish(ring, head, slot);
}

void vhost_user_put_own(struct vhost_user *vhost, unsigned queue, const void *bytes, size_t n, size_t answer)
{
	struct vhost_ring *ring = &vhost->ring[queue];
	struct vhost_slot slot = {.own = true, .descriptors = 2};
	uint16_t head = ring->free_head, last;
	uint64_t gpa;

	slot.copy = take_copy(vhost, bytes, n, &gpa);
	last = add_descriptor(ring, END, gpa, (uint32_t)n, false);
	add_descriptor(ring, last, gpa + n, (uint32_t)answer, true);
	publish(ring, head, slot);
}

void vhost_user_kick(struct vhost_user *vhost, unsigned queue)
{
	const uint64_t one = 1;

	if (write(vhost->ring[queue].kick, &one, sizeof(one)) < 0)
		return; /* full: it has been told often enough */
}

/* The chain's descriptors are free again. By what we remember, not by what is in shared memory. */
static struct virtio_request *release(struct vhost_user *vhost, struct vhost_ring *ring, uint16_t head)
{
	struct virtio_request *request = ring->slot[head].request;
	uint16_t last = head;

	while (ring->next_free[last] != END)
		last = ring->next_free[last];
	ring->next_free[last] = ring->free_count ? ring->free_head : END;
	ring->free_head = head;
	ring->free_count = (uint16_t)(ring->free_count + ring->slot[head].descriptors);
	if (ring->slot[head].copy)
		vhost->copy_free[vhost->copies_free++] = (uint16_t)(ring->slot[head].copy - 1);
	ring->slot[head] = (struct vhost_slot){0};
	ring->under_way--;
	return request;
}

struct virtio_request *vhost_user_take(struct vhost_user *vhost, unsigned queue, uint32_t *ret_written)
{
	struct vhost_ring *ring = &vhost->ring[queue];
	const uint8_t *used = ring->host + RING_USED;

	while (!vhost->dead && ring->under_way && load16(used + 2) != ring->next_used) {
		uint32_t entry[2];
		struct virtio_request *request;

		memcpy(entry, used + 4 + 8 * (ring->next_used % VHOST_RING), sizeof(entry));
		ring->next_used++;
		if (entry[0] >= VHOST_RING || !ring->slot[entry[0]].used)
			continue; /* none of ours */
		request = release(vhost, ring, (uint16_t)entry[0]);
		if (!request)
			continue;
		*ret_written = entry[1] < request->chain.writable_bytes ? entry[1] : (uint32_t)request->chain.writable_bytes;
		return request;
	}
	return NULL;
}

struct virtio_request *vhost_user_abandon(struct vhost_user *vhost, unsigned queue)
{
	struct vhost_ring *ring = &vhost->ring[queue];

	for (unsigned i = 0; i < VHOST_RING && ring->under_way; i++)
		if (ring->slot[i].used) {
			struct virtio_request *request = release(vhost, ring, (uint16_t)i);

			if (request)
				return request;
		}
	return NULL;
}
