/* The daemon's end of one trivisor-vm's control socket: calls with answers, and its notifications. */
#include "daemon/vmlink.h"

#include "daemon/log.h"
#include "proto/control.h"
#include "proto/line.h"

#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

struct call {
	struct call *next, **prev;
	struct vmlink *link;
	int64_t id;
	struct event *timer;
	vmlink_done_fn done;
	void *opaque;
};

struct vmlink {
	struct event_base *base;
	struct line_peer *peer;
	struct vmlink_ops ops;
	void *opaque;
	struct call *calls;
	int64_t next_id;
};

/* Unlinks before it calls: the callback may do anything, even destroy the link. */
static void finish(struct call *call, int code, const char *message, json_object *result)
{
	*call->prev = call->next;
	if (call->next)
		call->next->prev = call->prev;
	if (call->timer)
		event_free(call->timer);
	if (call->done)
		call->done(call->opaque, code, message, result);
	free(call);
}

static void on_timeout(evutil_socket_t fd, short what, void *opaque)
{
	finish(opaque, VMLINK_LOST, "its process does not answer", NULL);
}

static void take_answer(struct vmlink *link, json_object *message, json_object *id)
{
	json_object *error = NULL, *code = NULL, *text = NULL, *result = NULL;
	struct call *call = link->calls;

	while (call && call->id != json_object_get_int64(id))
		call = call->next;
	if (!call)
		return; /* its caller has given up */
	if (json_object_object_get_ex(message, "error", &error)) {
		json_object_object_get_ex(error, "code", &code);
		json_object_object_get_ex(error, "message", &text);
		finish(call, code && json_object_get_int(code) ? json_object_get_int(code) : -32603,
		       text ? json_object_get_string(text) : "an error without a message", NULL);
		return;
	}
	json_object_object_get_ex(message, "result", &result);
	finish(call, 0, NULL, result);
}

static void on_line(void *opaque, char *text, size_t bytes)
{
	struct vmlink *link = opaque;
	json_object *message = NULL, *id = NULL, *method = NULL, *params = NULL;
	const char *why = NULL;

	if (line_parse_json(text, bytes, &message, &why) || !json_object_is_type(message, json_type_object)) {
		log_warning("a VM's process sent what is no JSON-RPC: %s", why ? why : "no object");
		line_peer_finish(link->peer);
	} else if (json_object_object_get_ex(message, "method", &method)) {
		json_object_object_get_ex(message, "params", &params);
		if (json_object_is_type(method, json_type_string) &&
		    !strcmp(json_object_get_string(method), CONTROL_NOTIFY) &&
		    json_object_is_type(params, json_type_object))
			link->ops.on_event(link->opaque, params);
	} else if (json_object_object_get_ex(message, "id", &id)) {
		take_answer(link, message, id);
	}
	json_object_put(message);
}

static void fail_calls(struct vmlink *link, const char *why)
{
	while (link->calls)
		finish(link->calls, VMLINK_LOST, why, NULL);
}

static void on_close(void *opaque, int error)
{
	struct vmlink *link = opaque;

	fail_calls(link, "its process closed the connection");
	link->ops.on_close(link->opaque);
}

struct vmlink *vmlink_create(struct event_base *base, int fd, const struct vmlink_ops *ops, void *opaque)
{
	static const struct line_ops line_ops = {.on_line = on_line, .on_close = on_close};
	struct vmlink *link = calloc(1, sizeof(*link));

	if (!link) {
		evutil_closesocket(fd);
		return NULL;
	}
	link->base = base;
	link->ops = *ops;
	link->opaque = opaque;
	link->peer = line_peer_create(base, fd, &line_ops, link);
	if (!link->peer) {
		free(link);
		return NULL;
	}
	return link;
}

void vmlink_destroy(struct vmlink *link)
{
	if (!link)
		return;
	fail_calls(link, "the connection was given up");
	line_peer_destroy(link->peer);
	free(link);
}

void vmlink_call(struct vmlink *link, const char *method, json_object *params, unsigned timeout_s, vmlink_done_fn done,
		 void *opaque)
{
	struct timeval timeout = {.tv_sec = timeout_s};
	json_object *message = json_object_new_object();
	struct call *call = calloc(1, sizeof(*call));

	if (call)
		call->timer = event_new(link->base, -1, 0, on_timeout, call);
	if (!call || !call->timer) {
		free(call);
		json_object_put(message);
		json_object_put(params);
		if (done)
			done(opaque, VMLINK_LOST, "out of memory", NULL);
		return;
	}
	call->link = link;
	call->id = ++link->next_id;
	call->done = done;
	call->opaque = opaque;
	call->next = link->calls;
	call->prev = &link->calls;
	if (call->next)
		call->next->prev = &call->next;
	link->calls = call;
	event_add(call->timer, &timeout);

	json_object_object_add(message, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(message, "id", json_object_new_int64(call->id));
	json_object_object_add(message, "method", json_object_new_string(method));
	if (params)
		json_object_object_add(message, "params", params);
	/* A failure shows as the connection's end. */
	line_peer_send_json(link->peer, message);
	json_object_put(message);
}
