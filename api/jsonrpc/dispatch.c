/* From a line to answers: requests, notifications and batches as JSON-RPC 2.0 defines them. */
#include "api/jsonrpc/private.h"
#include "proto/line.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Bounds on what one message may ask of us; a message of 16 MiB could hold millions of tiny values. policy.plan of 1000
 * hosts with all that host.probe answers, and of 10,000 VMs, has some 500,000.
 */
#define BATCH_MAX 1000
#define VALUES_MAX 800000
#define OPEN_CALLS_MAX 1024

/* Answers of a batch, sent together when the last one is there. */
struct rpc_batch {
	json_object *responses;
	unsigned open;
	bool reading; /* requests are still being dispatched */
};

const struct rpc_error_row rpc_errors[] = {
	{RPC_PARSE_ERROR, "parse_error", "the message is not JSON"},
	{RPC_INVALID_REQUEST, "invalid_request",
	 "the message is JSON, but no JSON-RPC 2.0 request, or it is too large"},
	{RPC_METHOD_NOT_FOUND, "method_not_found", "there is no such method"},
	{RPC_INVALID_PARAMS, "invalid_params",
	 "a parameter is missing, unknown, or not what the method takes; the message names it"},
	{RPC_INTERNAL_ERROR, "internal_error", "out of memory, or a bug in the daemon"},
	{-32001, "not_found", "there is no such VM"},
	{-32002, "exists", "the name or UUID is taken"},
	{-32003, "wrong_state", "not possible in the VM's present state"},
	{-32004, "storage", "the state or runtime directory cannot be written (full, read-only); nothing was changed"},
	{-32005, "start_failed", "the VM could not be started"},
	{-32006, "vm_error", "the VM's process answered with an error, or not at all"},
	{-32007, "limit", "a limit of the daemon's configuration is reached"},
	{-32008, "timeout", "the time given by the caller has passed"},
	{-32009, "unsupported", "not in this version"},
	{-32012, "agent_absent", "the VM has no channel for a guest agent (guest_agent in its definition)"},
	{-32013, "agent_unresponsive", "no guest agent answers there, or it answers with nonsense"},
	{-32014, "agent_failed", "the guest agent refused, or could not; the message is its own"},
	{RPC_ERROR_BUSY, "busy", "too many unanswered calls on this connection"},
	{RPC_ERROR_PERMISSION, "permission", "this user may not talk to this daemon"},
};
const size_t rpc_error_count = sizeof(rpc_errors) / sizeof(rpc_errors[0]);

int rpc_error_code(enum daemon_error_code code)
{
	static const int codes[] = {
		[DAEMON_INVALID] = RPC_INVALID_PARAMS,
		[DAEMON_NOT_FOUND] = -32001,
		[DAEMON_EXISTS] = -32002,
		[DAEMON_WRONG_STATE] = -32003,
		[DAEMON_STORAGE] = -32004,
		[DAEMON_START] = -32005,
		[DAEMON_VM] = -32006,
		[DAEMON_LIMIT] = -32007,
		[DAEMON_TIMEOUT] = -32008,
		[DAEMON_UNSUPPORTED] = -32009,
		[DAEMON_AGENT_ABSENT] = -32012,
		[DAEMON_AGENT_UNRESPONSIVE] = -32013,
		[DAEMON_AGENT_FAILED] = -32014,
		[DAEMON_INTERNAL] = RPC_INTERNAL_ERROR,
	};
	_Static_assert(sizeof(codes) / sizeof(codes[0]) == DAEMON_ERROR_COUNT, "each daemon error has a code");

	return codes[code];
}

static const char *error_name(int code)
{
	for (size_t i = 0; i < rpc_error_count; i++)
		if (rpc_errors[i].code == code)
			return rpc_errors[i].name;
	return "error";
}

json_object *rpc_error_response(json_object *id, int code, const char *message)
{
	json_object *response = json_object_new_object(), *error = json_object_new_object(),
		    *data = json_object_new_object();

	json_object_object_add(data, "name", json_object_new_string(error_name(code)));
	json_object_object_add(error, "code", json_object_new_int(code));
	json_object_object_add(error, "message", json_object_new_string(message));
	json_object_object_add(error, "data", data);
	json_object_object_add(response, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(response, "error", error);
	json_object_object_add(response, "id", json_object_get(id));
	return response;
}

/* ---- answers ------------------------------------------------------------------ */

static void batch_maybe_send(struct rpc_conn *conn, struct rpc_batch *batch)
{
	if (batch->open || batch->reading)
		return;
	/* A batch of notifications only is answered by nothing at all. */
	if (conn && json_object_array_length(batch->responses))
		rpc_conn_send(conn, batch->responses);
	json_object_put(batch->responses);
	free(batch);
}

/* Takes response. */
static void answer(struct rpc_conn *conn, struct rpc_batch *batch, json_object *response)
{
	if (batch) {
		json_object_array_add(batch->responses, response);
		return;
	}
	rpc_conn_send(conn, response);
	json_object_put(response);
}

static void call_free(struct rpc_call *call)
{
	struct rpc_conn *conn = call->conn;

	if (conn) {
		*call->prev = call->next;
		if (call->next)
			call->next->prev = call->prev;
		conn->open_calls--;
	}
	if (call->batch) {
		call->batch->open--;
		batch_maybe_send(conn, call->batch);
	}
	json_object_put(call->id);
	free(call);
	if (conn)
		rpc_conn_maybe_finish(conn);
}

/* Takes response (NULL: none is due). */
static void finish(struct rpc_call *call, json_object *response)
{
	if (call->conn && !call->notification)
		answer(call->conn, call->batch, response);
	else
		json_object_put(response);
	call_free(call);
}

void rpc_reply(struct rpc_call *call, json_object *result)
{
	json_object *response = json_object_new_object();

	json_object_object_add(response, "jsonrpc", json_object_new_string("2.0"));
	json_object_object_add(response, "result", result);
	json_object_object_add(response, "id", json_object_get(call->id));
	finish(call, response);
}

void rpc_fail(struct rpc_call *call, int code, const char *format, ...)
{
	char message[1400];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	finish(call, rpc_error_response(call->id, code, message));
}

void rpc_done(void *call, const struct daemon_error *error, json_object *result)
{
	if (error)
		rpc_fail(call, rpc_error_code(error->code), "%s", error->message);
	else
		rpc_reply(call, json_object_get(result));
}

/* ---- requests ----------------------------------------------------------------- */

/* json-c takes an integer beyond 64 bits for the nearest one that fits: whether the text holds such. */
static bool has_huge_integer(const char *text, size_t bytes)
{
	bool in_string = false;
	size_t n;

	for (size_t i = 0; i < bytes; i += n) {
		n = 1;
		if (text[i] == '"') {
			in_string = !in_string;
		} else if (in_string) {
			n = text[i] == '\\' ? 2 : 1;
		} else if (text[i] == '-' || (text[i] >= '0' && text[i] <= '9')) {
			n = 1 + strspn(text + i + 1, "0123456789");
			if (strchr(".Ee", text[i + n])) {
				n += strspn(text + i + n, "+-.0123456789Ee");
				continue;
			}
			errno = 0;
			if (text[i] == '-')
				strtoll(text + i, NULL, 10);
			else
				strtoull(text + i, NULL, 10);
			if (errno == ERANGE)
				return true;
		}
	}
	return false;
}

/* One of the two values that json-c gives such integers. */
static bool at_limit(json_object *id)
{
	return json_object_is_type(id, json_type_int) &&
	       (json_object_get_int64(id) == INT64_MIN || json_object_get_uint64(id) == UINT64_MAX);
}

static bool id_valid(json_object *id)
{
	switch (json_object_get_type(id)) {
	case json_type_null:
	case json_type_string:
	case json_type_int: return true;
	case json_type_double: return isfinite(json_object_get_double(id));
	default: return false;
	}
}

/* NULL, or why it is no request. *ret_id is set whenever there is a usable one. huge: the message holds integers beyond
   64 bits. */
static const char *request_problem(json_object *request, bool huge, json_object **ret_id)
{
	json_object *value = NULL, *params = NULL;

	if (!json_object_is_type(request, json_type_object))
		return "a request is a JSON object, or an array of them";
	if (json_object_object_get_ex(request, "id", &value)) {
		if (!id_valid(value))
			return "id: expected a string, a number or null";
		if (huge && at_limit(value))
			return "id: an integer beyond 64 bits";
		*ret_id = value;
	}
	if (!json_object_object_get_ex(request, "jsonrpc", &value) || !json_object_is_type(value, json_type_string) ||
	    strcmp(json_object_get_string(value), "2.0"))
		return "jsonrpc: expected \"2.0\"";
	if (!json_object_object_get_ex(request, "method", &value) || !json_object_is_type(value, json_type_string))
		return "method: expected a string";
	if (json_object_object_get_ex(request, "params", &params) && !json_object_is_type(params, json_type_object) &&
	    !json_object_is_type(params, json_type_array))
		return "params: expected an object or an array";
	json_object_object_foreach(request, key, child)
	{
		(void)child;
		if (strcmp(key, "jsonrpc") && strcmp(key, "method") && strcmp(key, "params") && strcmp(key, "id"))
			return "a request has the members jsonrpc, method, params and id, and no others";
	}
	return NULL;
}

static struct rpc_call *call_create(struct rpc_conn *conn, struct rpc_batch *batch, json_object *id, bool notification)
{
	struct rpc_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->conn = conn;
	call->batch = batch;
	call->id = json_object_get(id);
	call->notification = notification;
	call->next = conn->calls;
	call->prev = &conn->calls;
	if (call->next)
		call->next->prev = &call->next;
	conn->calls = call;
	conn->open_calls++;
	if (batch)
		batch->open++;
	return call;
}

static void dispatch_one(struct rpc_conn *conn, struct rpc_batch *batch, json_object *request, bool huge)
{
	json_object *id = NULL, *params = NULL, *checked = NULL;
	const char *problem = request_problem(request, huge, &id);
	const char *name;
	struct rpc_call *call;
	char error[1024];

	if (problem) {
		answer(conn, batch, rpc_error_response(id, RPC_INVALID_REQUEST, problem));
		return;
	}
	if (conn->open_calls >= OPEN_CALLS_MAX) {
		answer(conn, batch,
		       rpc_error_response(id, RPC_ERROR_BUSY, "too many unanswered calls on this connection"));
		return;
	}
	call = call_create(conn, batch, id, !json_object_object_get_ex(request, "id", NULL));
	if (!call) {
		answer(conn, batch, rpc_error_response(id, RPC_INTERNAL_ERROR, "out of memory"));
		return;
	}
	name = rpc_string(request, "method");
	call->method = rpc_method_find(name);
	if (!call->method) {
		rpc_fail(call, RPC_METHOD_NOT_FOUND, "there is no method \"%.100s\"; rpc.discover lists them", name);
		return;
	}
	json_object_object_get_ex(request, "params", &params);
	if (rpc_check_params(call->method->params, params, &checked, error, sizeof(error))) {
		rpc_fail(call, RPC_INVALID_PARAMS, "%s", error);
		return;
	}
	call->method->handle(call, checked);
	json_object_put(checked);
}

static void dispatch_batch(struct rpc_conn *conn, json_object *requests, bool huge)
{
	size_t n = json_object_array_length(requests);
	struct rpc_batch *batch;
	char message[100];

	if (n == 0 || n > BATCH_MAX) {
		snprintf(message, sizeof(message),
			 n ? "a batch of %zu requests; at most %d are taken" : "an empty batch", n, BATCH_MAX);
		answer(conn, NULL, rpc_error_response(NULL, RPC_INVALID_REQUEST, message));
		return;
	}
	batch = calloc(1, sizeof(*batch));
	if (!batch) {
		answer(conn, NULL, rpc_error_response(NULL, RPC_INTERNAL_ERROR, "out of memory"));
		return;
	}
	batch->responses = json_object_new_array();
	batch->reading = true;
	for (size_t i = 0; i < n; i++)
		dispatch_one(conn, batch, json_object_array_get_idx(requests, i), huge);
	batch->reading = false;
	batch_maybe_send(conn, batch);
}

/* Counts separators outside strings, so that a flood of tiny values is refused before it is built. */
static bool too_many_values(const char *text, size_t bytes)
{
	size_t values = 0;
	bool in_string = false;

	for (size_t i = 0; i < bytes; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == ',' || c == '[' || c == '{') {
			values++;
		}
	}
	return values > VALUES_MAX;
}

void rpc_dispatch(struct rpc_conn *conn, const char *text, size_t bytes)
{
	json_object *message = NULL;
	const char *why = NULL;
	char error[200];
	bool huge;

	if (strspn(text, " \t\r") == bytes)
		return; /* an empty line between messages */
	if (too_many_values(text, bytes)) {
		snprintf(error, sizeof(error), "more than %d values in one message", VALUES_MAX);
		answer(conn, NULL, rpc_error_response(NULL, RPC_INVALID_REQUEST, error));
		return;
	}
	if (line_parse_json(text, bytes, &message, &why)) {
		snprintf(error, sizeof(error), "not JSON: %s", why);
		answer(conn, NULL, rpc_error_response(NULL, RPC_PARSE_ERROR, error));
		return;
	}
	huge = has_huge_integer(text, bytes);
	if (json_object_is_type(message, json_type_array))
		dispatch_batch(conn, message, huge);
	else
		dispatch_one(conn, NULL, message, huge);
	json_object_put(message);
}
