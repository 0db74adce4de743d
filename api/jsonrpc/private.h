/* Inside the JSON-RPC API: the tables that describe methods, and calls on their way. */
#ifndef API_JSONRPC_PRIVATE_H
#define API_JSONRPC_PRIVATE_H

#include "api/jsonrpc/rpc.h"
#include "daemon/daemon.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- values as data (schema.c) ------------------------------------------------ */

enum rpc_type {
	RPC_STRING,
	RPC_INTEGER,
	RPC_NUMBER,
	RPC_BOOLEAN,
	RPC_OBJECT,     /* `fields`; NULL: any object */
	RPC_ARRAY,      /* of `fields[0]`; NULL: of anything */
	RPC_DEFINITION, /* a VM's definition: proto/vmdef.h checks and describes it */
	RPC_ANY,
};

#define RPC_REQUIRED 1u
#define RPC_NULLABLE 2u
#define RPC_OPEN 4u /* an object that may have members beyond `fields` */

struct rpc_field {
	const char *name; /* NULL ends a table */
	enum rpc_type type;
	unsigned flags;
	double min, max;           /* numbers, and strings' lengths; both 0: no limit but the type's */
	const char *const *values; /* of a string; NULL-terminated */
	const struct rpc_field *fields;
	const char *summary;
};

/* Whether `value` is what `field` says; otherwise -EINVAL and error names the path ("disks[1].path: …"). */
int rpc_check(const struct rpc_field *field, json_object *value, const char *path, char *error, size_t error_size);
/*
 * Checks a call's parameters (object or array by position, NULL: none) against a table: unknown and missing ones are
 * named. *ret_params is an object for the caller to put. 0 or -EINVAL.
 */
int rpc_check_params(const struct rpc_field *fields, json_object *params, json_object **ret_params, char *error,
		     size_t error_size);
/* JSON Schema (draft 7) of a value. */
json_object *rpc_schema(const struct rpc_field *field);

/* ---- methods as data (methods.c, methods_*.c) ---------------------------------- */

struct rpc_call;

struct rpc_method {
	const char *name;
	const char *summary;
	const struct rpc_field *params; /* NULL: none */
	struct rpc_field result;
	void (*handle)(struct rpc_call *call, json_object *params);
};

/* By number, from 0, in the order of the documentation; NULL: no more. */
const struct rpc_method *rpc_method_at(size_t index);
const struct rpc_method *rpc_method_find(const char *name);

/* Notifications from the server, for the description. */
struct rpc_notification {
	const char *name;
	const char *summary;
	struct rpc_field params;
};
extern const struct rpc_notification rpc_notifications[];
extern const size_t rpc_notification_count;

/* ---- errors as data ------------------------------------------------------------- */

#define RPC_PARSE_ERROR (-32700)
#define RPC_INVALID_REQUEST (-32600)
#define RPC_METHOD_NOT_FOUND (-32601)
#define RPC_INVALID_PARAMS (-32602)
#define RPC_INTERNAL_ERROR (-32603)
#define RPC_ERROR_BUSY (-32010)       /* too many unanswered calls on one connection */
#define RPC_ERROR_PERMISSION (-32011) /* this user may not talk to the daemon */

struct rpc_error_row {
	int code;
	const char *name;
	const char *meaning;
};
extern const struct rpc_error_row rpc_errors[];
extern const size_t rpc_error_count;
int rpc_error_code(enum daemon_error_code code);
/* {"jsonrpc","error":{"code","message","data":{"name"}},"id"}; takes a reference of id (NULL: null). */
json_object *rpc_error_response(json_object *id, int code, const char *message);

json_object *rpc_openrpc(void);

/* ---- calls (dispatch.c) ------------------------------------------------------------ */

struct rpc_conn;
struct rpc_batch;

/* One request on its way to an answer. It outlives its connection when it must; then the answer goes nowhere. */
struct rpc_call {
	struct rpc_call *next, **prev; /* in the connection's list */
	struct rpc_conn *conn;         /* NULL once the connection is gone */
	struct rpc_batch *batch;
	const struct rpc_method *method;
	json_object *id;
	bool notification;
	/* Set by a handler that can stop waiting: called when the connection goes; the call is freed after it. */
	void (*cancel)(struct rpc_call *call);
	void *cancel_data;
};

/* Each ends the call (frees it). result is taken; NULL answers null. */
void rpc_reply(struct rpc_call *call, json_object *result);
void rpc_fail(struct rpc_call *call, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A daemon_done_fn that answers the call it is given as opaque. */
void rpc_done(void *call, const struct daemon_error *error, json_object *result);

/* One line from a client. */
void rpc_dispatch(struct rpc_conn *conn, const char *text, size_t bytes);

/* ---- connections (server.c) ---------------------------------------------------------- */

struct rpc_stream;
struct rpc_subscription;

struct rpc_conn {
	struct rpc_conn *next, **prev;
	struct rpc_server *server;
	struct daemon *daemon;
	struct line_peer *peer;
	struct daemon_owner *owner; /* made when first needed */
	struct rpc_call *calls;     /* not yet answered */
	unsigned open_calls;
	bool eof; /* the client sends no more */
	struct event *hangup_check;
	struct rpc_subscription *subscriptions;
	struct rpc_stream *streams;
	unsigned next_id; /* of subscriptions and streams */
	pid_t pid;
	uid_t uid;
};

void rpc_conn_send(struct rpc_conn *conn, json_object *message);
/* Takes params. */
void rpc_conn_notify(struct rpc_conn *conn, const char *method, json_object *params);
/* After the last answer on a connection whose client sends no more. */
void rpc_conn_maybe_finish(struct rpc_conn *conn);

/* ---- what lives on a connection ---------------------------------------------------------- */

void rpc_subscriptions_drop(struct rpc_conn *conn);
void rpc_streams_drop(struct rpc_conn *conn);

void rpc_events_subscribe(struct rpc_call *call, json_object *params);
void rpc_events_unsubscribe(struct rpc_call *call, json_object *params);
void rpc_console_open(struct rpc_call *call, json_object *params);
void rpc_console_log(struct rpc_call *call, json_object *params);
void rpc_console_write(struct rpc_call *call, json_object *params);
void rpc_console_close(struct rpc_call *call, json_object *params);

/* A required parameter of a checked call. */
static inline const char *rpc_string(json_object *params, const char *name)
{
	json_object *value = NULL;

	return json_object_object_get_ex(params, name, &value) ? json_object_get_string(value) : NULL;
}

static inline bool rpc_boolean(json_object *params, const char *name, bool otherwise)
{
	json_object *value = NULL;

	return json_object_object_get_ex(params, name, &value) && value ? json_object_get_boolean(value) : otherwise;
}

#endif
