/* The JSON-RPC socket: connections and their ends. */
#include "api/jsonrpc/private.h"
#include "api/listener.h"
#include "daemon/log.h"
#include "proto/line.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct rpc_server {
	struct daemon *daemon;
	struct listener *listener;
	struct rpc_conn *conns;
};

/* ---- sending --------------------------------------------------------------------- */

void rpc_conn_send(struct rpc_conn *conn, json_object *message)
{
	/* A peer that is gone or too far behind is closed by line_peer; on_close tells. */
	line_peer_send_json(conn->peer, message);
}

void rpc_conn_notify(struct rpc_conn *conn, const char *method, json_object *params)
{
	json_object *message = json_object_new_object();

	json_object_object_add(message, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(message, "method", json_object_new_string(method));
	json_object_object_add(message, "params", params);
	rpc_conn_send(conn, message);
	json_object_put(message);
}

/* ---- one connection ----------------------------------------------------------------- */

/* Calls that can stop waiting do; the others go on without anybody to answer to. */
static void drop_calls(struct rpc_conn *conn)
{
	struct rpc_call *call, *next;

	for (call = conn->calls; call; call = next) {
		next = call->next;
		call->conn = NULL;
		if (call->cancel) {
			call->cancel(call);
			rpc_reply(call, NULL); /* frees it */
		}
	}
	conn->calls = NULL;
}

static void conn_destroy(struct rpc_conn *conn)
{
	struct rpc_server *server = conn->server;

	*conn->prev = conn->next;
	if (conn->next)
		conn->next->prev = conn->prev;
	listener_client_gone(server->listener);
	rpc_subscriptions_drop(conn);
	rpc_streams_drop(conn);
	drop_calls(conn);
	daemon_owner_destroy(conn->owner);
	if (conn->hangup_check)
		event_free(conn->hangup_check);
	line_peer_destroy(conn->peer);
	free(conn);
}

static void on_line(void *opaque, char *text, size_t bytes)
{
	rpc_dispatch(opaque, text, bytes);
}

static void on_close(void *opaque, int error)
{
	struct rpc_conn *conn = opaque;

	if (error)
		log_info("client pid %d: %s", (int)conn->pid,
			 error == ENOBUFS ? "does not read what it is sent; closed" : strerror(error));
	conn_destroy(conn);
}

static void on_too_long(void *opaque)
{
	struct rpc_conn *conn = opaque;
	json_object *response = rpc_error_response(NULL, RPC_INVALID_REQUEST, "a message longer than 16 MiB");

	rpc_conn_send(conn, response);
	json_object_put(response);
	line_peer_finish(conn->peer);
}

/* Nothing to say any more to a client that sends no more. */
void rpc_conn_maybe_finish(struct rpc_conn *conn)
{
	if (conn->eof && !conn->calls && !conn->subscriptions && !conn->streams)
		line_peer_finish(conn->peer);
}

/* POLLHUP: the client's reading half is closed too. */
static bool hung_up(struct rpc_conn *conn)
{
	struct pollfd p = {.fd = line_peer_fd(conn->peer)};

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR | POLLNVAL);
}

static void on_hangup_check(evutil_socket_t fd, short what, void *opaque)
{
	struct rpc_conn *conn = opaque;

	if (hung_up(conn))
		conn_destroy(conn);
}

static void on_eof(void *opaque)
{
	static const struct timeval period = {.tv_sec = 1};
	struct rpc_conn *conn = opaque;

	if (conn->eof)
		return;
	conn->eof = true;
	/* Transient VMs end with their client, and it has said its last word. */
	daemon_owner_destroy(conn->owner);
	conn->owner = NULL;
	if (hung_up(conn)) {
		conn_destroy(conn);
		return;
	}
	rpc_conn_maybe_finish(conn);
	conn->hangup_check = event_new(daemon_base(conn->daemon), -1, EV_PERSIST, on_hangup_check, conn);
	if (conn->hangup_check)
		event_add(conn->hangup_check, &period);
}

/* ---- new connections ----------------------------------------------------------------- */

/* One line, as far as the socket's buffer takes it. */
static void turn_away(int fd, int code, const char *message)
{
	json_object *response = rpc_error_response(NULL, code, message);
	char line[400];
	int n = snprintf(line, sizeof(line), "%s\n", json_object_to_json_string_ext(response, JSON_C_TO_STRING_PLAIN));

	json_object_put(response);
	if (n > 0 && send(fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("a client that was turned away left first");
}

static void on_refused(void *opaque, int fd, bool full)
{
	if (full)
		turn_away(fd, rpc_error_code(DAEMON_LIMIT),
			  "too many clients; max_clients in the configuration sets the limit");
	else
		turn_away(fd, RPC_ERROR_PERMISSION,
			  "this user may not use this daemon; its owner can set socket_group");
}

static void on_client(void *opaque, int fd, const struct ucred *peer)
{
	static const struct line_ops ops = {
		.on_line = on_line, .on_close = on_close, .on_eof = on_eof, .on_too_long = on_too_long};
	struct rpc_server *server = opaque;
	struct rpc_conn *conn = calloc(1, sizeof(*conn));

	if (!conn) {
		close(fd);
		listener_client_gone(server->listener);
		return;
	}
	conn->server = server;
	conn->daemon = server->daemon;
	conn->pid = peer->pid;
	conn->uid = peer->uid;
	conn->peer = line_peer_create(daemon_base(server->daemon), fd, &ops, conn);
	if (!conn->peer) {
		free(conn);
		listener_client_gone(server->listener);
		return;
	}
	conn->next = server->conns;
	conn->prev = &server->conns;
	if (conn->next)
		conn->next->prev = &conn->next;
	server->conns = conn;
}

/* ---- the server -------------------------------------------------------------------------- */

static struct listener_config listener_config(const struct rpc_server_config *config)
{
	return (struct listener_config){.path = config->path,
					.option = "--socket",
					.mode = config->mode,
					.group = config->group,
					.max_clients = config->max_clients};
}

int rpc_server_configure(struct rpc_server *server, const struct rpc_server_config *config, char *error,
			 size_t error_size)
{
	struct listener_config next = listener_config(config);

	return listener_configure(server->listener, &next, error, error_size);
}

int rpc_server_create(struct daemon *daemon, const struct rpc_server_config *config, struct rpc_server **ret_server,
		      char *error, size_t error_size)
{
	static const struct listener_ops ops = {.on_client = on_client, .on_refused = on_refused};
	struct listener_config wanted = listener_config(config);
	struct rpc_server *server = calloc(1, sizeof(*server));
	int rc;

	if (!server) {
		snprintf(error, error_size, "out of memory");
		return -ENOMEM;
	}
	server->daemon = daemon;
	rc = listener_create(daemon_base(daemon), &wanted, &ops, server, &server->listener, error, error_size);
	if (rc)
		free(server);
	else
		*ret_server = server;
	return rc;
}

void rpc_server_destroy(struct rpc_server *server)
{
	if (!server)
		return;
	while (server->conns)
		conn_destroy(server->conns);
	listener_destroy(server->listener);
	free(server);
}
