/* virtio-vsock (virtio 1.2, 5.10): what its files share. Everything here belongs to the device's worker. */
#ifndef MACHINE_VIRTIO_VSOCK_H
#define MACHINE_VIRTIO_VSOCK_H

#include <linux/virtio_vsock.h>
#include <sys/queue.h>

#include "machine/virtio/virtio.h"

#define VSOCK_HOST_CID 2u
enum { VSOCK_RX, VSOCK_TX, VSOCK_EVENT, VSOCK_QUEUES };

/* Bytes of a stream from the guest that the host's program has not taken yet: what we promise to keep. */
#define VSOCK_WINDOW (128u << 10)
/* What is read of a host's socket at once. */
#define VSOCK_SCRATCH (64u << 10)
/* Streams, and what else has a descriptor of the host. */
#define VSOCK_STREAMS_MAX 512u
#define VSOCK_CLIENTS_MAX 64u
/* Refusals that wait for a buffer of the driver's; then its packets wait. */
#define VSOCK_REFUSALS_MAX 64u
#define VSOCK_CONNECT_SECONDS 20

/* Packets of a stream to the guest that are due, as bits. In this order. */
#define DUE_REQUEST 1u
#define DUE_RESPONSE 2u
#define DUE_SHUTDOWN 4u
#define DUE_CREDIT_REQUEST 8u
#define DUE_CREDIT_UPDATE 16u
#define DUE_RESET 32u

#define SHUTDOWN_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

enum vsock_state {
	VSOCK_ASKED_HOST,  /* the guest's request: the connector looks for who listens */
	VSOCK_ASKED_GUEST, /* a host program's: the guest has not answered */
	VSOCK_OPEN,
	VSOCK_LINGERS, /* over for the guest, no longer found; the host's program still gets what was sent */
};

struct vsock_stream {
	struct vsock *vsock;
	LIST_ENTRY(vsock_stream) link;
	TAILQ_ENTRY(vsock_stream) ready_link;
	uint32_t host_port, guest_port;
	uint32_t id; /* in questions to the connector */
	enum vsock_state state;
	unsigned due;
	bool ready; /* in the list of those that have something for the guest */

	int fd; /* the host's socket; -1: none yet */
	struct event *readable, *writable, *timer;
	bool may_read; /* there may be more to read */
	bool host_ended; /* nothing more comes from the host */
	bool host_deaf;	 /* nothing reaches it any more: what the guest sends is dropped */
	unsigned told_shutdown, guest_shutdown; /* VIRTIO_VSOCK_SHUTDOWN_*: what we sent, what it did */

	/* Credit (5.10.6.3): all modulo 2^32. */
	uint32_t guest_room, guest_taken, sent; /* its buffer, what it has taken of it, what we put there */
	uint32_t got, forwarded, told;		/* from the guest; of it to the host; as the guest knows it */
	bool asked_credit;

	uint8_t *backlog; /* VSOCK_WINDOW bytes around which the rest goes; NULL: empty */
	uint32_t backlog_at, backlog_bytes;
};

struct vsock_refusal {
	uint64_t cid;
	uint32_t host_port, guest_port;
	uint16_t type;
};

LIST_HEAD(vsock_streams, vsock_stream);
LIST_HEAD(vsock_clients, vsock_client);

struct vsock {
	struct virtio_device dev;
	struct virtio_vsock_config config;
	uint64_t cid;
	_Atomic bool was_reset;

	struct vsock_streams streams;
	TAILQ_HEAD(, vsock_stream) ready;
	unsigned count; /* of streams */
	struct vsock_refusal refusal[VSOCK_REFUSALS_MAX];
	unsigned refusals;
	bool tx_waits; /* for room among the refusals */

	/* What was read of one stream's socket and is not with the guest yet. */
	struct vsock_stream *scratch_of;
	uint32_t scratch_at, scratch_bytes;
	uint8_t scratch[VSOCK_SCRATCH];

	/* host side */
	int listener, connector; /* owned */
	struct event *acceptable, *answered;
	struct vsock_clients clients;
	unsigned client_count;
	uint32_t next_port, next_id;

	_Atomic uint64_t rx_bytes, tx_bytes, opened, refused;
};

/* ---- vsock.c ---- */
/* The guest hears that this packet's stream does not exist. */
void vsock_refuse(struct vsock *vsock, uint64_t cid, uint32_t host_port, uint32_t guest_port, uint16_t type);
/* This stream has something for the guest. */
void vsock_ready(struct vsock_stream *stream);

/* ---- vsock_stream.c ---- */
struct vsock_stream *vsock_find(struct vsock *vsock, uint32_t host_port, uint32_t guest_port);
/* NULL: there are too many. */
struct vsock_stream *vsock_stream_new(struct vsock *vsock, uint32_t host_port, uint32_t guest_port, enum vsock_state state);
/* The stream ends at once for the guest (which hears nothing of it here); the host's program still gets what is there for it. */
void vsock_stream_end(struct vsock_stream *stream);
/* It is gone. */
void vsock_stream_free(struct vsock_stream *stream);
/* The host's socket, which the stream takes over. False: no memory. */
bool vsock_stream_attach(struct vsock_stream *stream, int fd);
/* It is connected at both ends. */
void vsock_stream_opened(struct vsock_stream *stream);
/* A packet of the guest for it. May free it. */
void vsock_stream_packet(struct vsock_stream *stream, const struct virtio_vsock_hdr *header, const struct virtq_chain *chain);
/* Reads the host's socket into the scratch. False: nothing came, for now or for ever. */
bool vsock_stream_read(struct vsock_stream *stream);

/* ---- vsock_host.c ---- */
int vsock_host_prepare(struct vsock *vsock);
/* Asks who listens for this port on the host. False: nobody can be asked. */
bool vsock_host_ask(struct vsock_stream *stream);
/* The guest has answered a host program's request. */
void vsock_host_welcome(struct vsock_stream *stream);
void vsock_host_retire(struct vsock *vsock);

#endif
