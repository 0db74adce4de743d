/* Streams: the serial console as packets both ways, and files to and from a volume. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bytes the client has not taken at which the console is not read any more; trivisor-vm bounds what piles up there. */
#define STREAM_PAUSE ((size_t)256 << 10)
/* Bytes the guest has not taken at which the stream ends: data is not acknowledged, and nothing can be asked to wait. */
#define STREAM_BACKLOG ((size_t)1 << 20)

struct lv_stream {
	struct lv_stream *next;
	struct lv_conn *conn;
	struct lv_packet header; /* program, procedure, serial of the call that opened it */
	struct bufferevent *bev; /* of a console; NULL: its source has ended, the client has not finished yet */
	struct event *retry;
	int fd; /* of a file, else -1 */
	bool upload;
	uint64_t offset, left; /* of the file */
};

static void stream_free(struct lv_stream *stream)
{
	if (stream->bev)
		bufferevent_free(stream->bev);
	if (stream->retry)
		event_free(stream->retry);
	if (stream->fd >= 0)
		close(stream->fd);
	free(stream);
}

static void stream_drop(struct lv_stream *stream)
{
	for (struct lv_stream **at = &stream->conn->streams; *at; at = &(*at)->next)
		if (*at == stream) {
			*at = stream->next;
			break;
		}
	stream_free(stream);
}

void lv_streams_drop(struct lv_conn *conn)
{
	while (conn->streams) {
		struct lv_stream *stream = conn->streams;

		conn->streams = stream->next;
		stream_free(stream);
	}
}

static void send_packet(struct lv_stream *stream, enum lv_packet_status status, const void *data, size_t bytes)
{
	struct lv_packet header = stream->header;

	header.status = status;
	lv_conn_send(stream->conn, &header, data, bytes);
}

/* Nothing more comes from the source: an empty packet says so, and the client finishes. */
static void end_source(struct lv_stream *stream)
{
	if (!stream->bev)
		return;
	bufferevent_free(stream->bev);
	stream->bev = NULL;
	send_packet(stream, LV_CONTINUE, NULL, 0);
}

static void break_stream(struct lv_stream *stream, int code, const char *message)
{
	struct xdr_writer out = {0};

	lv_put_error(&out, code, message);
	if (out.failed)
		lv_conn_close(stream->conn, "out of memory");
	else
		send_packet(stream, LV_ERROR, out.data, out.used);
	xdr_writer_finish(&out);
	stream_drop(stream);
}

/* ---- from the guest ----------------------------------------------------------------- */

static void pump(struct lv_stream *stream)
{
	static const struct timeval soon = {.tv_usec = 50000};
	struct evbuffer *input = bufferevent_get_input(stream->bev);
	unsigned char chunk[16384];
	int n;

	while (evbuffer_get_length(input)) {
		if (lv_conn_unsent(stream->conn) > STREAM_PAUSE) {
			bufferevent_disable(stream->bev, EV_READ);
			event_add(stream->retry, &soon);
			return;
		}
		n = evbuffer_remove(input, chunk, sizeof(chunk));
		if (n <= 0)
			return;
		send_packet(stream, LV_CONTINUE, chunk, (size_t)n);
	}
}

static void on_read(struct bufferevent *bev, void *opaque)
{
	pump(opaque);
}

static void send_file(struct lv_stream *stream);

static void on_retry(evutil_socket_t fd, short what, void *opaque)
{
	struct lv_stream *stream = opaque;

	if (stream->fd >= 0)
		send_file(stream);
	if (!stream->bev)
		return;
	bufferevent_enable(stream->bev, EV_READ);
	pump(stream);
}

static void on_event(struct bufferevent *bev, short what, void *opaque)
{
	struct lv_stream *stream = opaque;

	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	pump(stream);
	end_source(stream);
}

/* ---- files ------------------------------------------------------------------------------ */

/* A piece at a time, so that others have their turn between. */
static void send_file(struct lv_stream *stream)
{
	static const struct timeval now = {0}, soon = {.tv_usec = 5000};
	unsigned char chunk[LV_STREAM_CHUNK];
	size_t wanted = stream->left < sizeof(chunk) ? (size_t)stream->left : sizeof(chunk);
	ssize_t n;

	if (lv_conn_unsent(stream->conn) > STREAM_PAUSE) {
		event_add(stream->retry, &soon);
		return;
	}
	n = wanted ? pread(stream->fd, chunk, wanted, (off_t)stream->offset) : 0;
	if (n < 0) {
		break_stream(stream, VIR_ERR_SYSTEM_ERROR, strerror(errno));
		return;
	}
	send_packet(stream, LV_CONTINUE, chunk, (size_t)n); /* empty: the end */
	stream->offset += (uint64_t)n;
	stream->left -= (uint64_t)n;
	if (n)
		event_add(stream->retry, &now);
}

/* False: the stream broke. */
static bool write_file(struct lv_stream *stream, const unsigned char *data, size_t bytes)
{
	if (!stream->upload || bytes > stream->left) {
		break_stream(stream, VIR_ERR_OPERATION_FAILED, "operation failed: more data than was announced");
		return false;
	}
	while (bytes) {
		ssize_t n = pwrite(stream->fd, data, bytes, (off_t)stream->offset);

		if (n <= 0) {
			break_stream(stream, VIR_ERR_SYSTEM_ERROR, strerror(n ? errno : EIO));
			return false;
		}
		data += n;
		bytes -= (size_t)n;
		stream->offset += (uint64_t)n;
		stream->left -= (uint64_t)n;
	}
	return true;
}

/* ---- from the client -------------------------------------------------------------------- */

static struct lv_stream *find(struct lv_conn *conn, const struct lv_packet *packet)
{
	for (struct lv_stream *s = conn->streams; s; s = s->next)
		if (s->header.serial == packet->serial && s->header.procedure == packet->procedure &&
		    s->header.program == packet->program)
			return s;
	return NULL;
}

void lv_stream_packet(struct lv_conn *conn, const struct lv_packet *packet)
{
	struct lv_stream *stream = find(conn, packet);

	/* Of one that has ended meanwhile: both sides may close at the same time. */
	if (!stream)
		return;
	if (packet->type != LV_STREAM) {
		break_stream(stream, VIR_ERR_OPERATION_UNSUPPORTED, "no stream here has holes");
	} else if (packet->status == LV_CONTINUE && stream->fd >= 0) {
		write_file(stream, packet->payload, packet->payload_bytes);
	} else if (packet->status == LV_CONTINUE) {
		if (!stream->bev)
			return;
		if (evbuffer_get_length(bufferevent_get_output(stream->bev)) + packet->payload_bytes > STREAM_BACKLOG)
			break_stream(stream, VIR_ERR_OPERATION_FAILED,
				     "operation failed: the guest does not read its console, and 1 MiB waits already");
		else if (packet->payload_bytes &&
			 bufferevent_write(stream->bev, packet->payload, packet->payload_bytes))
			break_stream(stream, VIR_ERR_NO_MEMORY, "out of memory");
	} else { /* finish, or abort: both are acknowledged */
		send_packet(stream, LV_OK, NULL, 0);
		stream_drop(stream);
	}
}

/* ---- opening ------------------------------------------------------------------------------- */

/* Of a console (bev) or of a file (fd); takes either, and replies. NULL: the call has failed. */
static struct lv_stream *stream_create(struct lv_call *call, struct bufferevent *bev, int fd)
{
	struct lv_stream *stream = calloc(1, sizeof(*stream));

	if (stream)
		stream->retry = event_new(daemon_base(call->daemon), -1, 0, on_retry, stream);
	if (!stream || !stream->retry) {
		if (bev)
			bufferevent_free(bev);
		if (fd >= 0)
			close(fd);
		free(stream);
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return NULL;
	}
	stream->fd = fd;
	stream->bev = bev;
	stream->conn = call->conn;
	stream->header = (struct lv_packet){.program = LV_PROGRAM_REMOTE,
					    .version = LV_PROGRAM_VERSION,
					    .procedure = call->procedure->number,
					    .type = LV_STREAM,
					    .serial = call->serial};
	stream->next = call->conn->streams;
	call->conn->streams = stream;
	/* The reply comes before the first byte. */
	lv_reply(call);
	return stream;
}

static void on_console(void *opaque, const struct daemon_error *error, struct bufferevent *bev, bool writer)
{
	struct lv_call *call = opaque;
	struct lv_stream *stream;

	if (!call->conn || error) {
		if (bev)
			bufferevent_free(bev);
		if (error && error->code == DAEMON_WRONG_STATE)
			lv_fail(call, VIR_ERR_OPERATION_FAILED, "Active console session exists for this domain: %s", error->message);
		else
			lv_done(call, error, NULL);
		return;
	}
	stream = stream_create(call, bev, -1);
	if (!stream)
		return;
	bufferevent_setcb(bev, on_read, NULL, on_event, stream);
	bufferevent_setwatermark(bev, EV_READ, 0, STREAM_PAUSE);
	bufferevent_enable(bev, EV_READ | EV_WRITE);
	pump(stream);
}

static bool device_known(const char *name)
{
	return !name || !strcmp(name, "serial0") || !strcmp(name, "console0");
}

void lv_domain_open_console(struct lv_call *call, struct vm *vm)
{
	const char *device = call->args[1].text;
	uint64_t flags = call->args[2].u;
	struct daemon_console wish = {.force = flags & VIR_DOMAIN_CONSOLE_FORCE,
				      .read_if_taken = !(flags & VIR_DOMAIN_CONSOLE_SAFE),
				      .leave = true,
				      .scrollback = -1};
	struct daemon_vm_info info;

	if (!lv_flags(call, flags, VIR_DOMAIN_CONSOLE_FORCE | VIR_DOMAIN_CONSOLE_SAFE))
		return;
	daemon_vm_inspect(vm, &info);
	if (!device_known(device)) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "cannot find character device %.100s", device);
		return;
	}
	if (!daemon_console_path(vm) || (info.running_def && info.running_def->serial == VMDEF_SERIAL_NONE && !info.running_def->virtio_console)) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID,
			daemon_console_path(vm) ? "the domain has no console" : "domain is not running");
		return;
	}
	snprintf(wish.client, sizeof(wish.client), "a libvirt client, process %d of user %u,", (int)call->conn->pid,
		 (unsigned)call->conn->uid);
	daemon_console_attach(vm, &wish, on_console, call);
}

void lv_stream_file(struct lv_call *call, int fd, bool upload, uint64_t offset, uint64_t length)
{
	struct lv_stream *stream = stream_create(call, NULL, fd);

	if (!stream)
		return;
	stream->upload = upload;
	stream->offset = offset;
	stream->left = length ? length : INT64_MAX - (offset <= INT64_MAX ? offset : INT64_MAX);
	if (!upload)
		send_file(stream);
}
