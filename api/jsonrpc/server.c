/* The JSON-RPC socket: who may connect, connections, and their ends. */
#include "api/jsonrpc/private.h"
#include "daemon/log.h"
#include "proto/line.h"
#include "proto/sock.h"

#include <errno.h>
#include <event2/event.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct rpc_server {
	struct daemon *daemon;
	char path[PATH_MAX];
	int fd;
	bool has_group;
	gid_t group;
	unsigned max_clients, clients;
	struct event *accept_event;
	struct event *accept_retry; /* after we ran out of descriptors */
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
	server->clients--;
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

/* ---- who may connect ------------------------------------------------------------------- */

static bool in_group(int fd, const struct ucred *peer, gid_t group)
{
	gid_t groups[256];
	socklen_t size = sizeof(groups);

	if (peer->gid == group)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof(groups[0]); i++)
		if (groups[i] == group)
			return true;
	return false;
}

/* The file's mode keeps others out already; this also holds where the file was made too open. */
static bool allowed(struct rpc_server *server, int fd, struct ucred *ret_peer)
{
	socklen_t size = sizeof(*ret_peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &size) < 0)
		return false;
	return ret_peer->uid == 0 || ret_peer->uid == geteuid() ||
	       (server->has_group && in_group(fd, ret_peer, server->group));
}

/* One line, as far as the socket's buffer takes it, and goodbye. */
static void turn_away(int fd, int code, const char *message)
{
	json_object *response = rpc_error_response(NULL, code, message);
	char line[400];
	int n = snprintf(line, sizeof(line), "%s\n", json_object_to_json_string_ext(response, JSON_C_TO_STRING_PLAIN));

	json_object_put(response);
	if (n > 0 && send(fd, line, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("a client that was turned away left first");
	close(fd);
}

static void conn_create(struct rpc_server *server, int fd, const struct ucred *peer)
{
	static const struct line_ops ops = {
		.on_line = on_line, .on_close = on_close, .on_eof = on_eof, .on_too_long = on_too_long};
	struct rpc_conn *conn = calloc(1, sizeof(*conn));

	if (!conn) {
		close(fd);
		return;
	}
	conn->server = server;
	conn->daemon = server->daemon;
	conn->pid = peer->pid;
	conn->uid = peer->uid;
	conn->peer = line_peer_create(daemon_base(server->daemon), fd, &ops, conn);
	if (!conn->peer) {
		free(conn);
		return;
	}
	conn->next = server->conns;
	conn->prev = &server->conns;
	if (conn->next)
		conn->next->prev = &conn->next;
	server->conns = conn;
	server->clients++;
}

static void on_accept(evutil_socket_t listening, short what, void *opaque)
{
	static const struct timeval pause = {.tv_usec = 200000};
	struct rpc_server *server = opaque;
	struct ucred peer;
	int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			/* The listening socket stays readable: look away for a while instead of spinning. */
			log_error("cannot accept clients: %s", strerror(errno));
			event_del(server->accept_event);
			event_add(server->accept_retry, &pause);
		}
		return;
	}
	if (!allowed(server, fd, &peer)) {
		log_warning("uid %u (pid %d) may not use this daemon", (unsigned)peer.uid, (int)peer.pid);
		turn_away(fd, RPC_ERROR_PERMISSION,
			  "this user may not use this daemon; its owner can set socket_group");
	} else if (server->clients >= server->max_clients) {
		log_warning("too many clients (%u); pid %d turned away", server->clients, (int)peer.pid);
		turn_away(fd, rpc_error_code(DAEMON_LIMIT),
			  "too many clients; max_clients in the configuration sets the limit");
	} else {
		conn_create(server, fd, &peer);
	}
}

static void on_accept_retry(evutil_socket_t fd, short what, void *opaque)
{
	struct rpc_server *server = opaque;

	event_add(server->accept_event, NULL);
}

/* ---- the server -------------------------------------------------------------------------- */

static int find_group(const char *name, gid_t *ret_gid, char *error, size_t error_size)
{
	const struct group *group = getgrnam(name);

	if (!group) {
		snprintf(error, error_size, "socket_group: there is no group \"%s\"", name);
		return -ENOENT;
	}
	*ret_gid = group->gr_gid;
	return 0;
}

int rpc_server_configure(struct rpc_server *server, const struct rpc_server_config *config, char *error,
			 size_t error_size)
{
	gid_t gid = (gid_t)-1;
	mode_t mode = config->mode;

	if (config->group) {
		int rc = find_group(config->group, &gid, error, error_size);

		if (rc)
			return rc;
		mode |= 0060;
	}
	if ((config->group && chown(server->path, (uid_t)-1, gid) < 0) || chmod(server->path, mode) < 0) {
		int rc = -errno;

		snprintf(error, error_size, "%s: cannot set group and mode: %s", server->path, strerror(errno));
		return rc;
	}
	server->has_group = config->group != NULL;
	server->group = gid;
	server->max_clients = config->max_clients;
	return 0;
}

int rpc_server_create(struct daemon *daemon, const struct rpc_server_config *config, struct rpc_server **ret_server,
		      char *error, size_t error_size)
{
	struct rpc_server *server = calloc(1, sizeof(*server));
	int rc = -ENOMEM;

	snprintf(error, error_size, "out of memory");
	if (!server)
		return rc;
	server->daemon = daemon;
	snprintf(server->path, sizeof(server->path), "%s", config->path);
	server->fd = sock_listen(config->path, 0600);
	if (server->fd < 0) {
		rc = server->fd;
		snprintf(error, error_size, "%s: %s%s", config->path, strerror(-rc),
			 rc == -EADDRINUSE ? "; another trivisord serves it, name another with --socket"
			 : rc == -EEXIST   ? "; something that is no socket is there"
					   : "");
		goto fail;
	}
	rc = rpc_server_configure(server, config, error, error_size);
	if (rc)
		goto fail;
	rc = -ENOMEM;
	server->accept_event = event_new(daemon_base(daemon), server->fd, EV_READ | EV_PERSIST, on_accept, server);
	server->accept_retry = event_new(daemon_base(daemon), -1, 0, on_accept_retry, server);
	if (!server->accept_event || !server->accept_retry || event_add(server->accept_event, NULL))
		goto fail;
	*ret_server = server;
	return 0;
fail:
	rpc_server_destroy(server);
	return rc;
}

void rpc_server_destroy(struct rpc_server *server)
{
	if (!server)
		return;
	while (server->conns)
		conn_destroy(server->conns);
	if (server->accept_event)
		event_free(server->accept_event);
	if (server->accept_retry)
		event_free(server->accept_retry);
	if (server->fd >= 0) {
		unlink(server->path);
		close(server->fd);
	}
	free(server);
}
