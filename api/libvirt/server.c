/* The libvirt sockets: connections, their packets, and their ends. */
#include "api/libvirt/private.h"
#include "api/listener.h"
#include "daemon/log.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Calls without an answer at which a connection is not read any more; libvirtd takes 5. */
#define OPEN_CALLS_MAX 32u
/* Bytes a peer has not taken at which it is not read any more, and at which it is given up. */
#define UNSENT_PAUSE ((size_t)1 << 20)
#define UNSENT_MAX ((size_t)64 << 20)

/* ---- sending --------------------------------------------------------------------- */

size_t lv_conn_unsent(const struct lv_conn *conn)
{
	return evbuffer_get_length(bufferevent_get_output(conn->bev));
}

void lv_conn_close(struct lv_conn *conn, const char *why)
{
	if (conn->closing)
		return;
	log_info("libvirt client pid %d: %s", (int)conn->pid, why);
	conn->closing = true;
	event_active(conn->close_event, EV_TIMEOUT, 0);
}

void lv_conn_send(struct lv_conn *conn, const struct lv_packet *header, const void *payload, size_t bytes)
{
	struct lv_packet packet = *header;
	unsigned char head[LV_HEADER_BYTES];

	if (conn->closing)
		return;
	if (lv_conn_unsent(conn) > UNSENT_MAX) {
		lv_conn_close(conn, "does not read what it is sent; closed");
		return;
	}
	packet.payload_bytes = bytes;
	lv_packet_header(&packet, head);
	if (bufferevent_write(conn->bev, head, sizeof(head)) ||
	    (bytes && bufferevent_write(conn->bev, payload, bytes)))
		lv_conn_close(conn, "out of memory");
}

/* ---- receiving ---------------------------------------------------------------------- */

static void answer_ping(struct lv_conn *conn, const struct lv_packet *packet)
{
	enum { PING = 1, PONG = 2 };
	const struct lv_packet pong = {.program = LV_PROGRAM_KEEPALIVE,
				       .version = LV_PROGRAM_VERSION,
				       .procedure = PONG,
				       .type = LV_MESSAGE};

	if (packet->procedure == PING)
		lv_conn_send(conn, &pong, NULL, 0);
}

static void take_packet(struct lv_conn *conn, const struct lv_packet *packet)
{
	if (packet->program == LV_PROGRAM_KEEPALIVE)
		answer_ping(conn, packet);
	else if (packet->type == LV_STREAM || packet->type == LV_STREAM_HOLE)
		lv_stream_packet(conn, packet);
	else if (packet->type == LV_CALL)
		lv_dispatch(conn, packet);
	else /* descriptors were never offered, and the rest is what servers send */
		lv_conn_close(conn, "sent a packet of a type that clients do not send; closed");
}

static bool busy(const struct lv_conn *conn)
{
	return conn->open_calls >= OPEN_CALLS_MAX || lv_conn_unsent(conn) > UNSENT_PAUSE;
}

static void on_read(struct bufferevent *bev, void *opaque)
{
	struct evbuffer *input = bufferevent_get_input(bev);
	struct lv_conn *conn = opaque;
	unsigned char first[4];

	while (!conn->closing && evbuffer_copyout(input, first, sizeof(first)) == (ssize_t)sizeof(first)) {
		ssize_t length = lv_packet_length(first);
		struct lv_packet packet;

		if (busy(conn)) {
			conn->paused = true;
			bufferevent_disable(bev, EV_READ);
			return;
		}
		if (length < 0) {
			lv_conn_close(conn, "sent what is no packet of libvirt's protocol; closed");
			return;
		}
		if (evbuffer_get_length(input) < (size_t)length)
			return;
		if (lv_packet_parse(evbuffer_pullup(input, length), (size_t)length, &packet) <= 0) {
			lv_conn_close(conn, "out of memory");
			return;
		}
		take_packet(conn, &packet);
		evbuffer_drain(input, (size_t)length);
	}
}

void lv_conn_continue(struct lv_conn *conn)
{
	if (!conn->paused || conn->closing || busy(conn))
		return;
	conn->paused = false;
	bufferevent_enable(conn->bev, EV_READ);
	/* What came before the pause makes no new event. */
	bufferevent_trigger(conn->bev, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

static void on_written(struct bufferevent *bev, void *opaque)
{
	lv_conn_continue(opaque);
}

/* ---- the end -------------------------------------------------------------------------- */

static void conn_destroy(struct lv_conn *conn)
{
	*conn->prev = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	lv_calls_drop(conn);
	lv_events_drop(conn);
	lv_streams_drop(conn);
	daemon_owner_destroy(conn->owner);
	listener_client_gone(conn->listener);
	bufferevent_free(conn->bev);
	event_free(conn->close_event);
	free(conn);
}

static void on_close(evutil_socket_t fd, short what, void *opaque)
{
	conn_destroy(opaque);
}

static void on_event(struct bufferevent *bev, short what, void *opaque)
{
	struct lv_conn *conn = opaque;

	if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) {
		conn->closing = true;
		event_active(conn->close_event, EV_TIMEOUT, 0);
	}
}

/* ---- new connections ------------------------------------------------------------------- */

static struct lv_conn *conn_create(struct lv_server *server, struct listener *listener, int fd)
{
	struct event_base *base = daemon_base(server->daemon);
	struct lv_conn *conn = calloc(1, sizeof(*conn));

	if (conn) {
		conn->close_event = event_new(base, -1, 0, on_close, conn);
		conn->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
	}
	if (!conn || !conn->close_event || !conn->bev) {
		if (conn && conn->bev)
			bufferevent_free(conn->bev);
		else
			close(fd);
		if (conn && conn->close_event)
			event_free(conn->close_event);
		free(conn);
		listener_client_gone(listener);
		return NULL;
	}
	conn->server = server;
	conn->daemon = server->daemon;
	conn->listener = listener;
	conn->next = server->conns;
	conn->prev = &server->conns;
	if (conn->next)
		conn->next->prev = &conn->next;
	server->conns = conn;
	bufferevent_setcb(conn->bev, on_read, on_written, on_event, conn);
	/* Room for one whole packet; beyond it the socket's own buffer fills. */
	bufferevent_setwatermark(conn->bev, EV_READ, 0, LV_PACKET_MAX);
	bufferevent_setwatermark(conn->bev, EV_WRITE, UNSENT_PAUSE / 2, 0);
	bufferevent_enable(conn->bev, EV_READ | EV_WRITE);
	return conn;
}

static void take_client(struct lv_server *server, struct listener *listener, int fd, const struct ucred *peer)
{
	struct lv_conn *conn = conn_create(server, listener, fd);

	if (!conn)
		return;
	conn->pid = peer->pid;
	conn->uid = peer->uid;
	conn->readonly = listener == server->ro_listener;
}

static void on_client(void *opaque, int fd, const struct ucred *peer)
{
	struct lv_server *server = opaque;

	take_client(server, server->listener, fd, peer);
}

static void on_ro_client(void *opaque, int fd, const struct ucred *peer)
{
	struct lv_server *server = opaque;

	take_client(server, server->ro_listener, fd, peer);
}

/* The protocol has no packet that a server may send unasked; the end of the connection must do, as with libvirtd. */
static void on_refused(void *opaque, int fd, bool full)
{
}

/* ---- the server -------------------------------------------------------------------------- */

static struct listener_config listener_config(const struct lv_server_config *config, bool readonly)
{
	return (struct listener_config){.path = readonly ? config->ro_path : config->path,
					.option = readonly ? "--libvirt-socket-ro" : "--libvirt-socket",
					.mode = config->mode,
					.group = config->group,
					.max_clients = config->max_clients};
}

int lv_server_configure(struct lv_server *server, const struct lv_server_config *config, char *error,
			size_t error_size)
{
	struct listener_config wanted = listener_config(config, false), ro_wanted = listener_config(config, true);
	int rc = 0;

	if (server && server->listener)
		rc = listener_configure(server->listener, &wanted, error, error_size);
	if (!rc && server && server->ro_listener)
		rc = listener_configure(server->ro_listener, &ro_wanted, error, error_size);
	return rc;
}

int lv_server_create(struct daemon *daemon, const struct lv_server_config *config, struct lv_server **ret_server,
		     char *error, size_t error_size)
{
	static const struct listener_ops ops = {.on_client = on_client, .on_refused = on_refused};
	static const struct listener_ops ro_ops = {.on_client = on_ro_client, .on_refused = on_refused};
	struct listener_config wanted = listener_config(config, false), ro_wanted = listener_config(config, true);
	struct lv_server *server = calloc(1, sizeof(*server));
	int rc = 0;

	if (!server) {
		snprintf(error, error_size, "out of memory");
		return -ENOMEM;
	}
	server->daemon = daemon;
	if (config->path)
		rc = listener_create(daemon_base(daemon), &wanted, &ops, server, &server->listener, error, error_size);
	if (!rc && config->ro_path)
		rc = listener_create(daemon_base(daemon), &ro_wanted, &ro_ops, server, &server->ro_listener, error,
				     error_size);
	if (rc)
		lv_server_destroy(server);
	else
		*ret_server = server;
	return rc;
}

void lv_server_destroy(struct lv_server *server)
{
	if (!server)
		return;
	while (server->conns)
		conn_destroy(server->conns);
	listener_destroy(server->listener);
	listener_destroy(server->ro_listener);
	free(server);
}
