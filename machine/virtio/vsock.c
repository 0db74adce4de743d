/*
 * virtio-vsock (virtio 1.2, 5.10): streams between programs of the guest and of the host, whose ends are UNIX sockets. This file
 * moves packets through the queues; streams are vsock_stream.c's, the host's sockets vsock_host.c's.
 */
#include "machine/virtio/vsock.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Packets before the doorbell and the host's sockets are looked at again. */
#define ROUND_PACKETS 256u

/* ---- to the guest ------------------------------------------------------------------------------ */

void vsock_ready(struct vsock_stream *stream)
{
	if (stream->ready || stream->state == VSOCK_LINGERS)
		return;
	stream->ready = true;
	TAILQ_INSERT_TAIL(&stream->vsock->ready, stream, ready_link);
}

void vsock_refuse(struct vsock *vsock, uint64_t cid, uint32_t host_port, uint32_t guest_port, uint16_t type)
{
	vsock->refused++;
	if (vsock->refusals < VSOCK_REFUSALS_MAX)
		vsock->refusal[vsock->refusals++] = (struct vsock_refusal){cid, host_port, guest_port, type};
}

/* A buffer of the driver's. NULL: there is none now, and a kick will tell of one. */
static struct virtio_request *take_buffer(struct vsock *vsock)
{
	struct virtio_device *dev = &vsock->dev;
	struct virtio_request *request;

	do
		request = virtio_take(dev, VSOCK_RX);
	while (!request && virtio_kicks_on(dev, VSOCK_RX));
	if (!request || request->chain.writable_bytes >= sizeof(struct virtio_vsock_hdr))
		return request;
	pthread_mutex_lock(&dev->lock);
	dev->queue[VSOCK_RX].error = "a receive buffer has no room for a header";
	pthread_mutex_unlock(&dev->lock);
	virtio_complete(request, 0);
	virtio_broken(dev, VSOCK_RX);
	return NULL;
}

static void put_packet(struct vsock *vsock, struct virtio_request *request, struct virtio_vsock_hdr *header, const uint8_t *data)
{
	size_t n = sizeof(*header);

	header->dst_cid = vsock->cid;
	virtq_chain_write(vsock->dev.machine, &request->chain, 0, header, n);
	if (header->len)
		n += virtq_chain_write(vsock->dev.machine, &request->chain, n, data, header->len);
	virtio_complete(request, (uint32_t)n);
}

static void put_refusal(struct vsock *vsock, struct virtio_request *request)
{
	const struct vsock_refusal *refusal = &vsock->refusal[0];
	struct virtio_vsock_hdr header = {.src_cid = refusal->cid, .src_port = refusal->host_port, .dst_port = refusal->guest_port,
					  .type = refusal->type, .op = VIRTIO_VSOCK_OP_RST};

	vsock->refusals--;
	memmove(&vsock->refusal[0], &vsock->refusal[1], vsock->refusals * sizeof(vsock->refusal[0]));
	put_packet(vsock, request, &header, NULL);
}

static struct virtio_vsock_hdr stream_header(struct vsock_stream *stream, uint16_t op)
{
	stream->told = stream->forwarded;
	return (struct virtio_vsock_hdr){.src_cid = VSOCK_HOST_CID, .src_port = stream->host_port, .dst_port = stream->guest_port,
					 .type = VIRTIO_VSOCK_TYPE_STREAM, .op = op, .buf_alloc = VSOCK_WINDOW,
					 .fwd_cnt = stream->forwarded};
}

/* The first of its packets that are due. */
static void put_due(struct vsock_stream *stream, struct virtio_request *request)
{
	static const uint16_t ops[] = {VIRTIO_VSOCK_OP_REQUEST,	       VIRTIO_VSOCK_OP_RESPONSE,      VIRTIO_VSOCK_OP_SHUTDOWN,
				       VIRTIO_VSOCK_OP_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_RST};
	unsigned which = (unsigned)__builtin_ctz(stream->due);
	struct virtio_vsock_hdr header = stream_header(stream, ops[which]);

	stream->due &= ~(1u << which);
	/* Every packet tells the credit. */
	stream->due &= ~DUE_CREDIT_UPDATE;
	if (header.op == VIRTIO_VSOCK_OP_SHUTDOWN)
		header.flags = stream->told_shutdown;
	put_packet(stream->vsock, request, &header, NULL);
	if (header.op == VIRTIO_VSOCK_OP_RST)
		vsock_stream_end(stream);
}

/* The next piece of what was read. */
static void put_scratch(struct vsock *vsock, struct virtio_request *request)
{
	struct vsock_stream *stream = vsock->scratch_of;
	struct virtio_vsock_hdr header = stream_header(stream, VIRTIO_VSOCK_OP_RW);
	uint64_t room = request->chain.writable_bytes - sizeof(header);
	uint32_t n = vsock->scratch_bytes < room ? vsock->scratch_bytes : (uint32_t)room;

	/* A buffer for a header alone holds no data: a word about the credit then, which hurts nobody. */
	if (!n)
		header.op = VIRTIO_VSOCK_OP_CREDIT_UPDATE;
	header.len = n;
	put_packet(vsock, request, &header, vsock->scratch + vsock->scratch_at);
	vsock->scratch_at += n;
	vsock->scratch_bytes -= n;
	stream->sent += n;
	vsock->rx_bytes += n;
	if (!vsock->scratch_bytes)
		vsock->scratch_of = NULL;
}

/* Whether anything is to be sent; then scratch_of, refusals or the first ready stream's `due` says what. */
static bool find_work(struct vsock *vsock)
{
	while (!vsock->refusals && !vsock->scratch_of) {
		struct vsock_stream *stream = TAILQ_FIRST(&vsock->ready);

		if (!stream)
			return false;
		if (stream->due)
			return true;
		TAILQ_REMOVE(&vsock->ready, stream, ready_link);
		stream->ready = false;
		if (vsock_stream_read(stream) || stream->due)
			vsock_ready(stream); /* behind the others */
	}
	return true;
}

static void send_packets(struct vsock *vsock)
{
	unsigned left = ROUND_PACKETS;

	for (; left && find_work(vsock); left--) {
		struct virtio_request *request = take_buffer(vsock);

		if (!request)
			break;
		if (vsock->refusals)
			put_refusal(vsock, request);
		else if (vsock->scratch_of)
			put_scratch(vsock, request);
		else
			put_due(TAILQ_FIRST(&vsock->ready), request);
	}
	virtio_signal(&vsock->dev);
	if (!left)
		worker_ring(&vsock->dev.worker);
	if (vsock->tx_waits && vsock->refusals < VSOCK_REFUSALS_MAX) {
		vsock->tx_waits = false;
		/* There may be nothing to take, and then a kick must tell of the next one. */
		if (virtio_kicks_on(&vsock->dev, VSOCK_TX))
			worker_ring(&vsock->dev.worker);
	}
}

/* ---- from the guest ------------------------------------------------------------------------------ */

static void request_stream(struct vsock *vsock, const struct virtio_vsock_hdr *header)
{
	struct vsock_stream *stream = vsock_stream_new(vsock, header->dst_port, header->src_port, VSOCK_ASKED_HOST);

	if (!stream) {
		vsock_refuse(vsock, VSOCK_HOST_CID, header->dst_port, header->src_port, header->type);
		return;
	}
	stream->guest_room = header->buf_alloc;
	stream->guest_taken = header->fwd_cnt;
	if (!vsock_host_ask(stream)) {
		stream->due = DUE_RESET;
		vsock_ready(stream);
	}
}

static void packet(struct vsock *vsock, const struct virtq_chain *chain)
{
	struct virtio_vsock_hdr header;
	struct vsock_stream *stream;

	if (virtq_chain_read(chain, 0, &header, sizeof(header)) != sizeof(header) || header.src_cid != vsock->cid)
		return;
	stream = header.dst_cid == VSOCK_HOST_CID && header.type == VIRTIO_VSOCK_TYPE_STREAM
			 ? vsock_find(vsock, header.dst_port, header.src_port) : NULL;
	if (stream && header.op == VIRTIO_VSOCK_OP_RW && header.len > chain->readable_bytes - sizeof(header)) {
		/* It promises bytes that it does not bring. */
		stream->due = DUE_RESET;
		vsock_ready(stream);
	} else if (stream) {
		vsock_stream_packet(stream, &header, chain);
	} else if (header.op == VIRTIO_VSOCK_OP_REQUEST && header.dst_cid == VSOCK_HOST_CID && header.type == VIRTIO_VSOCK_TYPE_STREAM) {
		request_stream(vsock, &header);
	} else if (header.op != VIRTIO_VSOCK_OP_RST) {
		vsock_refuse(vsock, header.dst_cid, header.dst_port, header.src_port, header.type);
	}
}

static void end_all(struct vsock *vsock)
{
	struct vsock_stream *stream = LIST_FIRST(&vsock->streams), *next;

	for (; stream; stream = next) {
		next = LIST_NEXT(stream, link);
		if (stream->state != VSOCK_LINGERS)
			vsock_stream_end(stream);
	}
	vsock->refusals = 0;
}

/* Streams belong to the driver that the guest had before the reset. */
static void look_for_reset(struct vsock *vsock)
{
	if (atomic_exchange(&vsock->was_reset, false))
		end_all(vsock);
}

static bool work(struct virtio_device *dev, unsigned queue)
{
	struct vsock *vsock = CONTAINER_OF(dev, struct vsock, dev);
	struct virtio_request *request = NULL;

	/* Buffers are taken when there is something to put into them; of events there are none. */
	if (queue != VSOCK_TX)
		return false;
	for (;;) {
		if (vsock->refusals == VSOCK_REFUSALS_MAX) {
			vsock->tx_waits = true;
			return false;
		}
		request = virtio_take(dev, VSOCK_TX);
		if (!request)
			return true;
		look_for_reset(vsock);
		packet(vsock, &request->chain);
		vsock->tx_bytes += request->chain.readable_bytes;
		virtio_complete(request, 0);
	}
}

static void loop(struct virtio_device *dev)
{
	struct vsock *vsock = CONTAINER_OF(dev, struct vsock, dev);

	while (!atomic_load(&dev->worker.quit)) {
		look_for_reset(vsock);
		send_packets(vsock);
		event_base_loop(dev->worker.base, EVLOOP_ONCE);
	}
}

/* ---- life -------------------------------------------------------------------------------------------- */

static int prepare(struct virtio_device *dev) { return vsock_host_prepare(CONTAINER_OF(dev, struct vsock, dev)); }

static void retire(struct virtio_device *dev)
{
	struct vsock *vsock = CONTAINER_OF(dev, struct vsock, dev);

	while (!LIST_EMPTY(&vsock->streams))
		vsock_stream_free(LIST_FIRST(&vsock->streams));
	vsock_host_retire(vsock);
}

/* Under dev->lock. */
static void reset(struct virtio_device *dev)
{
	struct vsock *vsock = CONTAINER_OF(dev, struct vsock, dev);

	atomic_store(&vsock->was_reset, true);
	if (dev->worker.running)
		worker_ring(&dev->worker);
}

static void destroy(struct virtio_device *dev)
{
	struct vsock *vsock = CONTAINER_OF(dev, struct vsock, dev);

	close(vsock->listener);
	close(vsock->connector);
	free(vsock);
}

static size_t stats(struct virtio_device *dev, struct machine_stat *ret_rows, size_t max)
{
	struct vsock *vsock = CONTAINER_OF(dev, struct vsock, dev);
	const struct machine_stat rows[] = {{"vsock_rx_bytes", vsock->rx_bytes},
					    {"vsock_tx_bytes", vsock->tx_bytes},
					    {"vsock_streams", vsock->opened},
					    {"vsock_refused", vsock->refused}};
	size_t n = ARRAY_SIZE(rows) < max ? ARRAY_SIZE(rows) : max;

	memcpy(ret_rows, rows, n * sizeof(rows[0]));
	return n;
}

static const struct virtio_ops vsock_ops = {
	.name = "virtio-vsock",
	.id = 19,
	.pci_class = 0x0780, /* communication controller, other */
	.work = work,
	.loop = loop,
	.prepare = prepare,
	.retire = retire,
	.reset = reset,
	.destroy = destroy,
	.stats = stats,
};

int machine_add_vsock(struct machine *machine, const struct machine_vsock *config, const char **ret_error)
{
	struct vsock *vsock = calloc(1, sizeof(*vsock));
	int rc;

	if (!vsock) {
		*ret_error = "no memory for the vsock device";
		return -ENOMEM;
	}
	vsock->cid = vsock->config.guest_cid = config->cid;
	vsock->listener = config->listener;
	vsock->connector = config->connector;
	TAILQ_INIT(&vsock->ready);
	LIST_INIT(&vsock->streams);
	LIST_INIT(&vsock->clients);
	vsock->dev.ops = &vsock_ops;
	vsock->dev.queues = VSOCK_QUEUES;
	vsock->dev.config = (const uint8_t *)&vsock->config;
	vsock->dev.config_bytes = sizeof(vsock->config);
	rc = virtio_device_init(&vsock->dev, machine);
	if (rc < 0) {
		*ret_error = "the vsock device finds no place on the PCI bus";
		free(vsock);
	}
	return rc;
}
