/* What lives on a connection: event subscriptions and console streams. */
#include "api/jsonrpc/methods.h"
#include "proto/base64.h"
#include "proto/line.h"

#include <errno.h>
#include <limits.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

/* Unsent output at which a console stream waits for its client; trivisor-vm bounds what then piles up at its end. */
#define STREAM_PAUSE_BYTES (256u << 10)
#define STREAM_CHUNK 16384
#define STREAM_WRITE_MAX (1u << 20)
#define CONSOLE_LOG_BYTES ((size_t)4 << 20) /* base64 of it fits well into one answer */

/* ---- events -------------------------------------------------------------------- */

struct rpc_subscription {
	struct rpc_subscription *next;
	struct rpc_conn *conn;
	unsigned id;
	char uuid[64];      /* "": all VMs */
	json_object *kinds; /* NULL: all */
	struct daemon_listener *listener;
};

static bool wanted(const struct rpc_subscription *s, json_object *event)
{
	const char *uuid = rpc_string(event, "uuid"), *kind = rpc_string(event, "event");

	if (s->uuid[0] && (!uuid || strcmp(uuid, s->uuid)))
		return false;
	if (!s->kinds)
		return true;
	for (size_t i = 0; i < json_object_array_length(s->kinds); i++)
		if (kind && !strcmp(kind, json_object_get_string(json_object_array_get_idx(s->kinds, i))))
			return true;
	return false;
}

static void on_event(void *opaque, json_object *event)
{
	struct rpc_subscription *s = opaque;
	json_object *params;

	if (!wanted(s, event))
		return;
	params = json_object_new_object();
	json_object_object_add(params, "subscription", json_object_new_int64(s->id));
	json_object_object_foreach(event, key, value) json_object_object_add(params, key, json_object_get(value));
	rpc_conn_notify(s->conn, "event", params);
}

static void subscription_free(struct rpc_subscription *s)
{
	daemon_unlisten(s->listener);
	json_object_put(s->kinds);
	free(s);
}

void rpc_events_subscribe(struct rpc_call *call, json_object *params)
{
	struct rpc_conn *conn = call->conn;
	const char *name = rpc_string(params, "vm");
	struct rpc_subscription *s;
	json_object *kinds = NULL, *result;
	struct vm *vm = NULL;

	if (name) {
		vm = daemon_find(conn->daemon, name);
		if (!vm) {
			rpc_fail(call, rpc_error_code(DAEMON_NOT_FOUND),
				 "there is no VM \"%.200s\"; vm.list names them", name);
			return;
		}
	}
	s = calloc(1, sizeof(*s));
	if (s)
		s->listener = daemon_listen(conn->daemon, on_event, s);
	if (!s || !s->listener) {
		free(s);
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	s->conn = conn;
	s->id = ++conn->next_id;
	if (vm)
		snprintf(s->uuid, sizeof(s->uuid), "%s", daemon_vm_uuid(vm));
	json_object_object_get_ex(params, "events", &kinds);
	s->kinds = json_object_get(kinds);
	s->next = conn->subscriptions;
	conn->subscriptions = s;
	result = json_object_new_object();
	json_object_object_add(result, "subscription", json_object_new_int64(s->id));
	rpc_reply(call, result);
}

void rpc_events_unsubscribe(struct rpc_call *call, json_object *params)
{
	json_object *id = json_object_object_get(params, "subscription");

	for (struct rpc_subscription **at = &call->conn->subscriptions; *at; at = &(*at)->next) {
		struct rpc_subscription *s = *at;

		if (s->id != json_object_get_int64(id))
			continue;
		*at = s->next;
		subscription_free(s);
		rpc_reply(call, json_object_new_object());
		return;
	}
	rpc_fail(call, RPC_INVALID_PARAMS, "subscription: there is no %s on this connection",
		 json_object_get_string(id));
}

void rpc_subscriptions_drop(struct rpc_conn *conn)
{
	while (conn->subscriptions) {
		struct rpc_subscription *s = conn->subscriptions;

		conn->subscriptions = s->next;
		subscription_free(s);
	}
}

/* ---- console streams ------------------------------------------------------------------ */

struct rpc_stream {
	struct rpc_stream *next;
	struct rpc_conn *conn;
	unsigned id;
	struct bufferevent *bev;
	struct event *retry; /* looks again whether the client has read */
};

static void stream_free(struct rpc_stream *stream)
{
	if (stream->bev)
		bufferevent_free(stream->bev);
	if (stream->retry)
		event_free(stream->retry);
	free(stream);
}

static void stream_drop(struct rpc_stream *stream)
{
	for (struct rpc_stream **at = &stream->conn->streams; *at; at = &(*at)->next)
		if (*at == stream) {
			*at = stream->next;
			break;
		}
	stream_free(stream);
}

static void stream_pump(struct rpc_stream *stream)
{
	static const struct timeval soon = {.tv_usec = 50000};
	struct evbuffer *input = bufferevent_get_input(stream->bev);
	unsigned char chunk[STREAM_CHUNK];

	while (evbuffer_get_length(input)) {
		json_object *params;
		char *data;
		int n;

		if (line_peer_unsent(stream->conn->peer) > STREAM_PAUSE_BYTES) {
			bufferevent_disable(stream->bev, EV_READ);
			event_add(stream->retry, &soon);
			return;
		}
		n = evbuffer_remove(input, chunk, sizeof(chunk));
		data = n > 0 ? base64_encode(chunk, (size_t)n) : NULL;
		if (!data)
			return;
		params = json_object_new_object();
		json_object_object_add(params, "stream", json_object_new_int64(stream->id));
		json_object_object_add(params, "data", json_object_new_string(data));
		free(data);
		rpc_conn_notify(stream->conn, "console.data", params);
	}
}

static void on_stream_read(struct bufferevent *bev, void *opaque)
{
	stream_pump(opaque);
}

static void on_stream_retry(evutil_socket_t fd, short what, void *opaque)
{
	struct rpc_stream *stream = opaque;

	bufferevent_enable(stream->bev, EV_READ);
	stream_pump(stream);
}

static void on_stream_event(struct bufferevent *bev, short what, void *opaque)
{
	struct rpc_stream *stream = opaque;
	struct rpc_conn *conn = stream->conn;
	json_object *params;

	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	stream_pump(stream);
	params = json_object_new_object();
	json_object_object_add(params, "stream", json_object_new_int64(stream->id));
	json_object_object_add(params, "reason", json_object_new_string("the VM's process closed its console"));
	rpc_conn_notify(conn, "console.end", params);
	stream_drop(stream);
	rpc_conn_maybe_finish(conn);
}

/* Takes bev. */
static struct rpc_stream *stream_create(struct rpc_conn *conn, struct bufferevent *bev)
{
	struct rpc_stream *stream = calloc(1, sizeof(*stream));

	if (stream)
		stream->retry = event_new(daemon_base(conn->daemon), -1, 0, on_stream_retry, stream);
	if (!stream || !stream->retry) {
		bufferevent_free(bev);
		free(stream);
		return NULL;
	}
	stream->conn = conn;
	stream->bev = bev;
	stream->id = ++conn->next_id;
	stream->next = conn->streams;
	conn->streams = stream;
	bufferevent_setcb(bev, on_stream_read, NULL, on_stream_event, stream);
	bufferevent_setwatermark(bev, EV_READ, 0, STREAM_PAUSE_BYTES);
	return stream;
}

/* A call of vm.console that waits for the console's answer. */
struct opening {
	struct rpc_call *call;
	char path[PATH_MAX];
};

static void on_console(void *opaque, const struct daemon_error *error, struct bufferevent *bev, bool writer)
{
	struct opening *opening = opaque;
	struct rpc_call *call = opening->call;
	struct rpc_stream *stream;
	json_object *result = json_object_new_object();

	json_object_object_add(result, "path", json_object_new_string(opening->path));
	free(opening);
	if (error || !call->conn) {
		if (bev)
			bufferevent_free(bev);
		json_object_put(result);
		rpc_done(call, error, NULL);
		return;
	}
	stream = stream_create(call->conn, bev);
	if (!stream) {
		json_object_put(result);
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	json_object_object_add(result, "stream", json_object_new_int64(stream->id));
	json_object_object_add(result, "writer", json_object_new_boolean(writer));
	/* The answer goes out before the first byte. */
	rpc_reply(call, result);
	bufferevent_enable(bev, EV_READ | EV_WRITE);
	stream_pump(stream);
}

static void open_stream(struct rpc_call *call, json_object *params, struct vm *vm, const char *path)
{
	struct daemon_console wish = {.read_only = rpc_boolean(params, "read_only", false),
				      .force = rpc_boolean(params, "force", false),
				      .scrollback = -1};
	struct opening *opening = calloc(1, sizeof(*opening));
	json_object *scrollback = NULL;

	if (!opening) {
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	opening->call = call;
	snprintf(opening->path, sizeof(opening->path), "%s", path);
	if (json_object_object_get_ex(params, "scrollback", &scrollback) && scrollback)
		wish.scrollback = json_object_get_int64(scrollback);
	snprintf(wish.client, sizeof(wish.client), "process %d of user %u", (int)call->conn->pid, (unsigned)call->conn->uid);
	daemon_console_attach(vm, &wish, on_console, opening);
}

void rpc_console_open(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	const char *path = vm ? daemon_console_path(vm) : NULL;
	json_object *result;

	if (!vm)
		return;
	if (!path) {
		rpc_fail(call, rpc_error_code(DAEMON_WRONG_STATE), "VM \"%.200s\" does not run; start it with vm.start",
			 rpc_string(params, "vm"));
		return;
	}
	if (rpc_boolean(params, "stream", false)) {
		open_stream(call, params, vm, path);
		return;
	}
	result = json_object_new_object();
	json_object_object_add(result, "path", json_object_new_string(path));
	json_object_object_add(result, "stream", NULL);
	rpc_reply(call, result);
}

void rpc_console_log(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *max = NULL, *result;
	unsigned char *bytes = NULL;
	size_t count = 0;
	uint64_t before = 0;
	char *data;
	int rc;

	if (!vm)
		return;
	json_object_object_get_ex(params, "bytes", &max);
	rc = daemon_console_read(vm, max ? (size_t)json_object_get_int64(max) : CONSOLE_LOG_BYTES, &bytes, &count, &before);
	if (rc && rc != -ENOENT) {
		rpc_fail(call, rpc_error_code(DAEMON_STORAGE), "VM \"%.200s\": its console's output cannot be read: %s",
			 rpc_string(params, "vm"), rc == -EBADMSG ? "the file is damaged" : strerror(-rc));
		return;
	}
	data = base64_encode(bytes ? bytes : (const unsigned char *)"", count);
	result = json_object_new_object();
	json_object_object_add(result, "data", json_object_new_string(data ? data : ""));
	json_object_object_add(result, "before", json_object_new_int64((int64_t)before));
	free(data);
	free(bytes);
	rpc_reply(call, result);
}

static struct rpc_stream *find_stream(struct rpc_call *call, json_object *params)
{
	json_object *id = json_object_object_get(params, "stream");

	for (struct rpc_stream *stream = call->conn->streams; stream; stream = stream->next)
		if (stream->id == json_object_get_int64(id))
			return stream;
	rpc_fail(call, RPC_INVALID_PARAMS, "stream: there is no %s on this connection", json_object_get_string(id));
	return NULL;
}

void rpc_console_write(struct rpc_call *call, json_object *params)
{
	const char *text = rpc_string(params, "text"), *data = rpc_string(params, "data");
	struct rpc_stream *stream = find_stream(call, params);
	unsigned char *bytes = NULL;
	ssize_t n = 0;

	if (!stream)
		return;
	if (!text == !data) {
		rpc_fail(call, RPC_INVALID_PARAMS, "give exactly one of \"text\" and \"data\"");
		return;
	}
	if (data) {
		bytes = malloc(strlen(data) + 4);
		n = bytes ? base64_decode(data, strlen(data), bytes) : -ENOMEM;
		if (n < 0) {
			free(bytes);
			if (n == -ENOMEM)
				rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
			else
				rpc_fail(call, RPC_INVALID_PARAMS, "data: no base64");
			return;
		}
	} else {
		n = (ssize_t)strlen(text);
	}
	if (evbuffer_get_length(bufferevent_get_output(stream->bev)) + (size_t)n > STREAM_WRITE_MAX)
		rpc_fail(call, RPC_ERROR_BUSY, "the guest does not read its console: 1 MiB waits already");
	else if (bufferevent_write(stream->bev, bytes ? (const void *)bytes : text, (size_t)n) < 0)
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
	else
		rpc_reply(call, json_object_new_object());
	free(bytes);
}

void rpc_console_close(struct rpc_call *call, json_object *params)
{
	struct rpc_stream *stream = find_stream(call, params);

	if (!stream)
		return;
	stream_drop(stream);
	rpc_reply(call, json_object_new_object());
}

void rpc_streams_drop(struct rpc_conn *conn)
{
	while (conn->streams) {
		struct rpc_stream *stream = conn->streams;

		conn->streams = stream->next;
		stream_free(stream);
	}
}
