/* The daemon's end of one trivisor-vm's control socket: calls with answers, and its notifications. */
#ifndef DAEMON_VMLINK_H
#define DAEMON_VMLINK_H

#include <json-c/json.h>

struct event_base;
struct vmlink;

/* code: 0, or the peer's JSON-RPC error code, or VMLINK_LOST. result and message are valid during the call. */
#define VMLINK_LOST 1 /* the connection ended, or no answer came in time */
typedef void (*vmlink_done_fn)(void *opaque, int code, const char *message, json_object *result);

struct vmlink_ops {
	/* A notification's parameters. */
	void (*on_event)(void *opaque, json_object *params);
	/* The connection has ended; every call was answered with VMLINK_LOST. Destroy the link from here or later. */
	void (*on_close)(void *opaque);
};

/* Takes over fd. NULL: out of memory. */
struct vmlink *vmlink_create(struct event_base *base, int fd, const struct vmlink_ops *ops, void *opaque);
/* Calls in flight are answered with VMLINK_LOST first. Accepts NULL. */
void vmlink_destroy(struct vmlink *link);
/* Takes params (NULL: none). done is called once, from the loop, within timeout_s seconds. */
void vmlink_call(struct vmlink *link, const char *method, json_object *params, unsigned timeout_s, vmlink_done_fn done,
		 void *opaque);

#endif
