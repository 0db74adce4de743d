/* Streams of virtio-vsock: credit (virtio 1.2, 5.10.6.3), half closes, and the host's socket at their end. */
#include "machine/virtio/vsock.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Of the window: so much taken by the host's program is worth a packet that says so. */
#define UPDATE_BYTES (VSOCK_WINDOW / 4)

struct vsock_stream *vsock_find(struct vsock *vsock, uint32_t host_port, uint32_t guest_port)
{
	struct vsock_stream *stream;

	LIST_FOREACH(stream, &vsock->streams, link)
		if (stream->host_port == host_port && stream->guest_port == guest_port && stream->state != VSOCK_LINGERS)
			return stream;
	return NULL;
}

struct vsock_stream *vsock_stream_new(struct vsock *vsock, uint32_t host_port, uint32_t guest_port, enum vsock_state state)
{
	struct vsock_stream *stream = vsock->count < VSOCK_STREAMS_MAX ? calloc(1, sizeof(*stream)) : NULL;

	if (!stream)
		return NULL;
	stream->vsock = vsock;
	stream->host_port = host_port;
	stream->guest_port = guest_port;
	stream->state = state;
	stream->fd = -1;
	LIST_INSERT_HEAD(&vsock->streams, stream, link);
	vsock->count++;
	return stream;
}

static void free_event(struct event **event)
{
	if (*event)
		event_free(*event);
	*event = NULL;
}

void vsock_stream_free(struct vsock_stream *stream)
{
	struct vsock *vsock = stream->vsock;

	if (vsock->scratch_of == stream)
		vsock->scratch_of = NULL;
	if (stream->ready)
		TAILQ_REMOVE(&vsock->ready, stream, ready_link);
	LIST_REMOVE(stream, link);
	vsock->count--;
	free_event(&stream->readable);
	free_event(&stream->writable);
	free_event(&stream->timer);
	if (stream->fd >= 0)
		close(stream->fd);
	free(stream->backlog);
	free(stream);
}

void vsock_stream_end(struct vsock_stream *stream)
{
	struct vsock *vsock = stream->vsock;

	if (stream->state != VSOCK_OPEN || !stream->backlog_bytes) {
		vsock_stream_free(stream);
		return;
	}
	if (vsock->scratch_of == stream)
		vsock->scratch_of = NULL;
	if (stream->ready)
		TAILQ_REMOVE(&vsock->ready, stream, ready_link);
	stream->ready = false;
	stream->due = 0;
	stream->state = VSOCK_LINGERS;
	free_event(&stream->readable);
}

/* The guest is to hear that the stream does not exist any more. */
static void reset_stream(struct vsock_stream *stream)
{
	stream->due = DUE_RESET;
	vsock_ready(stream);
}

/* ---- to the host -------------------------------------------------------------------------------------- */

static void tell_shutdown(struct vsock_stream *stream, unsigned flags)
{
	if ((stream->told_shutdown | flags) == stream->told_shutdown)
		return;
	stream->told_shutdown |= flags;
	stream->due |= DUE_SHUTDOWN;
	vsock_ready(stream);
}

/* The host's program has gone, or takes nothing more: the rest is dropped, as what the guest may send before it hears of it. */
static void go_deaf(struct vsock_stream *stream)
{
	stream->host_deaf = true;
	stream->forwarded += stream->backlog_bytes;
	stream->backlog_bytes = 0;
	if (stream->state != VSOCK_LINGERS)
		tell_shutdown(stream, VIRTIO_VSOCK_SHUTDOWN_RCV);
}

static void count_forwarded(struct vsock_stream *stream, uint32_t n)
{
	stream->forwarded += n;
	if (stream->forwarded - stream->told < UPDATE_BYTES || stream->state == VSOCK_LINGERS)
		return;
	stream->due |= DUE_CREDIT_UPDATE;
	vsock_ready(stream);
}

/* Everything that the guest sent is with the host. */
static void drained(struct vsock_stream *stream)
{
	free(stream->backlog);
	stream->backlog = NULL;
	stream->backlog_at = 0;
	event_del(stream->writable);
	if (stream->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND)
		shutdown(stream->fd, SHUT_WR);
}

static void on_writable(evutil_socket_t fd, short what, void *opaque)
{
	struct vsock_stream *stream = opaque;

	while (stream->backlog_bytes) {
		uint32_t until_end = VSOCK_WINDOW - stream->backlog_at;
		size_t n = stream->backlog_bytes < until_end ? stream->backlog_bytes : until_end;
		ssize_t r = send(stream->fd, stream->backlog + stream->backlog_at, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN)
			return;
		if (r < 0) {
			go_deaf(stream);
			break;
		}
		stream->backlog_at = (stream->backlog_at + (uint32_t)r) % VSOCK_WINDOW;
		stream->backlog_bytes -= (uint32_t)r;
		count_forwarded(stream, (uint32_t)r);
	}
	drained(stream);
	if (stream->state == VSOCK_LINGERS)
		vsock_stream_free(stream);
}

/* What the socket does not take now; there is room for it. */
static bool keep(struct vsock_stream *stream, const struct virtq_chain *chain, uint64_t offset, uint32_t n)
{
	if (!stream->backlog) {
		stream->backlog = malloc(VSOCK_WINDOW);
		if (!stream->backlog || event_add(stream->writable, NULL) < 0)
			return false;
	}
	while (n) {
		uint32_t at = (stream->backlog_at + stream->backlog_bytes) % VSOCK_WINDOW;
		uint32_t piece = n < VSOCK_WINDOW - at ? n : VSOCK_WINDOW - at;

		virtq_chain_read(chain, offset, stream->backlog + at, piece);
		stream->backlog_bytes += piece;
		offset += piece;
		n -= piece;
	}
	return true;
}

/* Straight from guest memory into the socket. How many bytes it took, or -errno. */
static ssize_t send_at_once(struct vsock_stream *stream, const struct virtq_chain *chain, uint32_t n)
{
	struct iovec iov[VIRTQ_SEGMENTS];
	struct msghdr message = {.msg_iov = iov};
	ssize_t r;

	message.msg_iovlen = virtq_chain_iovec(chain, false, sizeof(struct virtio_vsock_hdr), n, iov);
	do
		r = sendmsg(stream->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static void data(struct vsock_stream *stream, const struct virtq_chain *chain, uint32_t n)
{
	ssize_t r = 0;

	if (stream->state != VSOCK_OPEN || stream->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND ||
	    n > VSOCK_WINDOW - (stream->got - stream->forwarded)) {
		/* Not now, never again, or more than it was allowed. */
		reset_stream(stream);
		return;
	}
	stream->got += n;
	if (!n)
		return;
	if (!stream->host_deaf && !stream->backlog_bytes)
		r = send_at_once(stream, chain, n);
	if (r < 0 && r != -EAGAIN)
		go_deaf(stream);
	if (r < 0)
		r = 0;
	if (stream->host_deaf)
		r = n;
	count_forwarded(stream, (uint32_t)r);
	if ((uint32_t)r < n && !keep(stream, chain, sizeof(struct virtio_vsock_hdr) + (uint64_t)r, n - (uint32_t)r))
		reset_stream(stream);
}

/* ---- from the host -------------------------------------------------------------------------------------- */

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
	struct vsock_stream *stream = opaque;

	stream->may_read = true;
	vsock_ready(stream);
}

bool vsock_stream_attach(struct vsock_stream *stream, int fd)
{
	struct event_base *base = stream->vsock->dev.worker.base;

	stream->fd = fd;
	stream->readable = event_new(base, fd, EV_READ | EV_PERSIST | EV_ET, on_readable, stream);
	stream->writable = event_new(base, fd, EV_WRITE | EV_PERSIST, on_writable, stream);
	return stream->readable && stream->writable;
}

void vsock_stream_opened(struct vsock_stream *stream)
{
	free_event(&stream->timer);
	stream->state = VSOCK_OPEN;
	stream->vsock->opened++;
	/* What it has sent before counts as an edge too. */
	stream->may_read = true;
	if (event_add(stream->readable, NULL) < 0)
		reset_stream(stream);
	vsock_ready(stream);
}

/* Nothing more comes from the host: half of the stream is over, or all of it. */
static void host_ended(struct vsock_stream *stream)
{
	struct pollfd state = {.fd = stream->fd, .events = 0};
	unsigned flags = VIRTIO_VSOCK_SHUTDOWN_SEND;

	/* The other end is closed, not only shut down for writing. */
	if (poll(&state, 1, 0) == 1 && state.revents & (POLLHUP | POLLERR)) {
		go_deaf(stream);
		flags = SHUTDOWN_BOTH;
	}
	stream->host_ended = true;
	tell_shutdown(stream, flags);
}

bool vsock_stream_read(struct vsock_stream *stream)
{
	struct vsock *vsock = stream->vsock;
	uint32_t credit = stream->guest_room - (stream->sent - stream->guest_taken);
	ssize_t r;

	if (stream->state != VSOCK_OPEN || !stream->may_read)
		return false;
	if (stream->host_ended || stream->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV) {
		/* Only one thing is still of interest: whether the other end has been closed by now. */
		host_ended(stream);
		stream->may_read = false;
		return false;
	}
	/* A guest that takes back what it has said of its room has none. */
	if (credit == 0 || credit > stream->guest_room) {
		if (!stream->asked_credit)
			stream->due |= DUE_CREDIT_REQUEST;
		stream->asked_credit = true;
		return false;
	}
	stream->asked_credit = false;
	do
		r = recv(stream->fd, vsock->scratch, credit < VSOCK_SCRATCH ? credit : VSOCK_SCRATCH, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	if (r > 0) {
		vsock->scratch_of = stream;
		vsock->scratch_at = 0;
		vsock->scratch_bytes = (uint32_t)r;
		return true;
	}
	stream->may_read = false;
	if (r == 0 || errno != EAGAIN)
		host_ended(stream);
	return false;
}

/* ---- packets of the guest ---------------------------------------------------------------------------------- */

static void guest_shut_down(struct vsock_stream *stream, uint32_t flags)
{
	stream->guest_shutdown |= flags & SHUTDOWN_BOTH;
	if (stream->state != VSOCK_OPEN || stream->guest_shutdown == SHUTDOWN_BOTH) {
		/* It has closed its end, and waits for this before its port is free. */
		reset_stream(stream);
		return;
	}
	if (stream->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_RCV)
		shutdown(stream->fd, SHUT_RD);
	if (stream->guest_shutdown & VIRTIO_VSOCK_SHUTDOWN_SEND && !stream->backlog_bytes)
		shutdown(stream->fd, SHUT_WR);
}

void vsock_stream_packet(struct vsock_stream *stream, const struct virtio_vsock_hdr *header, const struct virtq_chain *chain)
{
	stream->guest_room = header->buf_alloc;
	stream->guest_taken = header->fwd_cnt;
	if (stream->due & DUE_RESET && header->op != VIRTIO_VSOCK_OP_RST)
		return; /* it will hear of it */
	switch (header->op) {
	case VIRTIO_VSOCK_OP_RST: vsock_stream_end(stream); return;
	case VIRTIO_VSOCK_OP_RESPONSE:
		if (stream->state == VSOCK_ASKED_GUEST)
			vsock_host_welcome(stream);
		else
			reset_stream(stream);
		return;
	case VIRTIO_VSOCK_OP_RW: data(stream, chain, header->len); break;
	case VIRTIO_VSOCK_OP_SHUTDOWN: guest_shut_down(stream, header->flags); break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST: stream->due |= DUE_CREDIT_UPDATE; break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE: break;
	default: reset_stream(stream); break; /* REQUEST, of a stream that is there, and what is no operation */
	}
	if (stream->may_read || stream->due)
		vsock_ready(stream);
}
