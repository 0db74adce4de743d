/* Domain events: registrations of both kinds, and what the daemon tells turned into libvirt's messages. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one connection. */
#define REGISTRATIONS_MAX 1024u

struct registration {
	struct registration *next;
	int callback;
	int event; /* VIR_DOMAIN_EVENT_ID_*; -1: of an object this version has none of */
	bool any;  /* of the older way: one for each event, without a callback's number */
	char uuid[VMDEF_UUID_BYTES]; /* "": of all domains */
};

struct lv_events {
	struct daemon_listener *listener;
	struct registration *registrations;
	unsigned count;
	int last_callback;
	bool lifecycle; /* the oldest way */
};

/* Event numbers, and the messages that carry them: the older ones, and those with a callback's number. */
static const struct {
	int event, old_message, message;
	const char *layout; /* of what follows the domain */
} messages[] = {
	{VIR_DOMAIN_EVENT_ID_LIFECYCLE, 107, 318, "ii"},
	{VIR_DOMAIN_EVENT_ID_REBOOT, 169, 319, ""},
	{VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, 276, 331, "U"},
	{VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, 0, 348, "ii"},
	{VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 0, 379, "is?"},
};

/* Registrations for storage pools are kept under this number. */
#define EVENT_POOL (-2)
/* And those for networks. */
#define EVENT_NETWORK (-3)

static void send_one(struct lv_conn *conn, const struct registration *r, int event, const struct xdr_writer *domain,
		     const struct xdr_writer *rest)
{
	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
		struct xdr_writer out = {0};
		char layout[32];
		bool old = !r || r->any;

		if (messages[i].event != event || (old && !messages[i].old_message))
			continue;
		if (!old)
			xdr_put_i32(&out, r->callback);
		xdr_put_fixed(&out, domain->data, domain->used);
		xdr_put_fixed(&out, rest->data, rest->used);
		snprintf(layout, sizeof(layout), "%sD%s", old ? "" : "i", messages[i].layout);
		lv_conn_message(conn, old ? messages[i].old_message : messages[i].message, layout, &out);
		xdr_writer_finish(&out);
	}
}

static void send_all(struct lv_conn *conn, const char *uuid, int event, const struct xdr_writer *domain,
		     const struct xdr_writer *rest)
{
	struct lv_events *events = conn->events;

	if (domain->failed || rest->failed) {
		lv_conn_close(conn, "out of memory");
		return;
	}
	if (events->lifecycle && event == VIR_DOMAIN_EVENT_ID_LIFECYCLE)
		send_one(conn, NULL, event, domain, rest);
	for (struct registration *r = events->registrations; r; r = r->next)
		if (r->event == event && (!r->uuid[0] || !strcmp(r->uuid, uuid)))
			send_one(conn, r, event, domain, rest);
}

/* ---- what the daemon tells ------------------------------------------------------------ */

static const char *text_of(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(object, key, &value) && value ? json_object_get_string(value) : "";
}

struct lifecycle {
	const char *event, *state, *was; /* NULL: whatever it is */
	int type, detail;
};

/* The first row that fits. */
static const struct lifecycle lifecycles[] = {
	{"defined", "renamed", NULL, VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_RENAMED},
	{"defined", "updated", NULL, VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_UPDATED},
	{"defined", NULL, NULL, VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_ADDED},
	{"undefined", NULL, NULL, VIR_DOMAIN_EVENT_UNDEFINED, VIR_DOMAIN_EVENT_UNDEFINED_REMOVED},
	{"started", NULL, NULL, VIR_DOMAIN_EVENT_STARTED, VIR_DOMAIN_EVENT_STARTED_BOOTED},
	{"state", "paused", NULL, VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_PAUSED},
	{"state", "running", "paused", VIR_DOMAIN_EVENT_RESUMED, VIR_DOMAIN_EVENT_RESUMED_UNPAUSED},
	{"panic", NULL, NULL, VIR_DOMAIN_EVENT_CRASHED, VIR_DOMAIN_EVENT_CRASHED_PANICKED},
	{"ended", "shutdown", NULL, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN},
	{"ended", "destroyed", NULL, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_DESTROYED},
	{"ended", "crashed", NULL, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_CRASHED},
	{"ended", "failed", NULL, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED},
};

static void tell_lifecycle(struct lv_conn *conn, json_object *event, const struct xdr_writer *domain)
{
	const char *state = text_of(event, strcmp(text_of(event, "event"), "defined") ? "state" : "change");

	for (size_t i = 0; i < sizeof(lifecycles) / sizeof(lifecycles[0]); i++) {
		const struct lifecycle *l = &lifecycles[i];
		struct xdr_writer rest = {0};

		if (strcmp(l->event, text_of(event, "event")) || (l->state && strcmp(l->state, state)) ||
		    (l->was && strcmp(l->was, text_of(event, "was"))))
			continue;
		xdr_put_i32(&rest, l->type);
		xdr_put_i32(&rest, l->detail);
		send_all(conn, text_of(event, "uuid"), VIR_DOMAIN_EVENT_ID_LIFECYCLE, domain, &rest);
		xdr_writer_finish(&rest);
		return;
	}
}

static void tell_metadata(struct lv_conn *conn, json_object *event, const struct xdr_writer *domain)
{
	static const char *const kinds[] = {"description", "title", "element"};
	struct xdr_writer rest = {0};
	const char *uri = text_of(event, "uri");

	for (int i = 0; i < 3; i++)
		if (!strcmp(kinds[i], text_of(event, "kind"))) {
			xdr_put_i32(&rest, i);
			xdr_put_optional(&rest, uri[0] ? uri : NULL);
			send_all(conn, text_of(event, "uuid"), VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, domain, &rest);
		}
	xdr_writer_finish(&rest);
}

/* What the guest has now, and whether its agent is there. */
static void tell_guest(struct lv_conn *conn, json_object *event, const struct xdr_writer *domain)
{
	struct xdr_writer rest = {0};
	json_object *value = NULL;

	if (json_object_object_get_ex(event, "memory_kib", &value)) {
		xdr_put_u64(&rest, (uint64_t)json_object_get_int64(value));
		send_all(conn, text_of(event, "uuid"), VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, domain, &rest);
	} else if (json_object_object_get_ex(event, "connected", &value)) {
		xdr_put_i32(&rest, json_object_get_boolean(value) ? VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
								  : VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED);
		xdr_put_i32(&rest, VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_REASON_CHANNEL);
		send_all(conn, text_of(event, "uuid"), VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, domain, &rest);
	}
	xdr_writer_finish(&rest);
}

static void tell_network(struct lv_conn *conn, json_object *event)
{
	enum { NETWORK_LIFECYCLE = 315 };
	static const char *const changes[] = {[VIR_NETWORK_EVENT_DEFINED] = "defined", [VIR_NETWORK_EVENT_UNDEFINED] = "undefined",
					      [VIR_NETWORK_EVENT_STARTED] = "started", [VIR_NETWORK_EVENT_STOPPED] = "stopped"};
	const char *uuid = text_of(event, "uuid");
	unsigned char bytes[16];
	int change = 0;

	while (change < 3 && strcmp(changes[change], text_of(event, "change")))
		change++;
	lv_uuid_bytes(uuid, bytes);
	for (struct registration *r = conn->events->registrations; r; r = r->next) {
		struct xdr_writer out = {0};

		if (r->event != EVENT_NETWORK || (r->uuid[0] && strcmp(r->uuid, uuid)))
			continue;
		xdr_put_i32(&out, r->callback);
		xdr_put_string(&out, text_of(event, "name"));
		xdr_put_fixed(&out, bytes, sizeof(bytes));
		xdr_put_i32(&out, change);
		xdr_put_i32(&out, 0);
		lv_conn_message(conn, NETWORK_LIFECYCLE, "iNii", &out);
		xdr_writer_finish(&out);
	}
}

static void on_daemon_event(void *opaque, json_object *event)
{
	struct lv_conn *conn = opaque;
	struct vm *vm = daemon_find(conn->daemon, text_of(event, "uuid"));
	struct xdr_writer domain = {0}, nothing = {0};

	if (!conn->closing && !strcmp(text_of(event, "event"), "network"))
		tell_network(conn, event);
	if (!vm || conn->closing)
		return;
	lv_put_domain(&domain, vm);
	/* Its process is about to be forgotten; clients take the number for "it runs". */
	if (!strcmp(text_of(event, "event"), "ended") && domain.used >= 4)
		xdr_patch_u32(&domain, domain.used - 4, UINT32_MAX);
	if (!strcmp(text_of(event, "event"), "reset"))
		send_all(conn, text_of(event, "uuid"), VIR_DOMAIN_EVENT_ID_REBOOT, &domain, &nothing);
	else if (!strcmp(text_of(event, "event"), "metadata"))
		tell_metadata(conn, event, &domain);
	else if (!strcmp(text_of(event, "event"), "balloon") || !strcmp(text_of(event, "event"), "agent"))
		tell_guest(conn, event, &domain);
	else
		tell_lifecycle(conn, event, &domain);
	xdr_writer_finish(&domain);
}

/* ---- registrations ------------------------------------------------------------------------ */

/* NULL: the call was failed. */
static struct lv_events *events_of(struct lv_call *call)
{
	struct lv_conn *conn = call->conn;

	if (!conn->events) {
		conn->events = calloc(1, sizeof(*conn->events));
		if (conn->events)
			conn->events->listener = daemon_listen(conn->daemon, on_daemon_event, conn);
		if (conn->events && !conn->events->listener) {
			free(conn->events);
			conn->events = NULL;
		}
	}
	if (!conn->events)
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
	return conn->events;
}

void lv_events_drop(struct lv_conn *conn)
{
	struct lv_events *events = conn->events;

	if (!events)
		return;
	daemon_unlisten(events->listener);
	while (events->registrations) {
		struct registration *r = events->registrations;

		events->registrations = r->next;
		free(r);
	}
	free(events);
	conn->events = NULL;
}

/* NULL: the call was failed. */
static struct registration *add(struct lv_call *call, int event, bool any)
{
	struct lv_events *events = events_of(call);
	struct registration *r;

	if (!events)
		return NULL;
	if (events->count >= REGISTRATIONS_MAX) {
		lv_fail(call, VIR_ERR_OPERATION_FAILED, "%u events are registered on this connection already",
			events->count);
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (!r) {
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return NULL;
	}
	r->event = event;
	r->any = any;
	r->callback = ++events->last_callback;
	r->next = events->registrations;
	events->registrations = r;
	events->count++;
	return r;
}

/* Kinds that this daemon never has anything to tell of may be registered too: clients do so in a row. */
static bool event_known(struct lv_call *call, int64_t event)
{
	if (event >= 0 && event <= VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE)
		return true;
	lv_fail(call, VIR_ERR_INVALID_ARG, "unsupported event ID %lld", (long long)event);
	return false;
}

void lv_event_register_callback(struct lv_call *call, struct vm *unused)
{
	const struct xdr_value *domain = &call->args[1];
	struct registration *r;

	if (!event_known(call, call->args[0].i) || (domain->present && !lv_find_domain(call, domain)))
		return;
	r = add(call, (int)call->args[0].i, false);
	if (!r)
		return;
	if (domain->present)
		lv_uuid_text(domain->items[1].text, r->uuid);
	xdr_put_i32(&call->out, r->callback);
	lv_reply(call);
}

void lv_events_pool(struct lv_server *server, const char *name, const char *uuid, int event)
{
	enum { POOL_LIFECYCLE = 370 };
	unsigned char bytes[16];

	lv_uuid_bytes(uuid, bytes);
	for (struct lv_conn *conn = server->conns; conn; conn = conn->next)
		for (struct registration *r = conn->events ? conn->events->registrations : NULL; r; r = r->next) {
			struct xdr_writer out = {0};

			if (r->event != EVENT_POOL || (r->uuid[0] && strcmp(r->uuid, uuid)))
				continue;
			xdr_put_i32(&out, r->callback);
			xdr_put_string(&out, name);
			xdr_put_fixed(&out, bytes, sizeof(bytes));
			xdr_put_i32(&out, event);
			xdr_put_i32(&out, 0);
			lv_conn_message(conn, POOL_LIFECYCLE, "iPii", &out);
			xdr_writer_finish(&out);
		}
}

/* Of one object, or of all of its kind. */
static void register_object(struct lv_call *call, int event)
{
	const struct xdr_value *object = &call->args[1];
	struct registration *r = add(call, event, false);

	if (!r)
		return;
	if (object->present)
		lv_uuid_text(object->items[1].text, r->uuid);
	xdr_put_i32(&call->out, r->callback);
	lv_reply(call);
}

void lv_event_register_pool(struct lv_call *call, struct vm *unused)
{
	/* A refresh changes nothing here: directories are looked at each time. */
	register_object(call, call->args[0].i == VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE ? EVENT_POOL : -1);
}

void lv_event_register_network(struct lv_call *call, struct vm *unused)
{
	register_object(call, call->args[0].i == VIR_NETWORK_EVENT_ID_LIFECYCLE ? EVENT_NETWORK : -1);
}

/* Of node devices and secrets: there are none to tell of. */
void lv_event_register_other(struct lv_call *call, struct vm *unused)
{
	struct registration *r = add(call, -1, false);

	if (!r)
		return;
	xdr_put_i32(&call->out, r->callback);
	lv_reply(call);
}

static void remove_where(struct lv_call *call, int callback, int event)
{
	struct lv_events *events = call->conn->events;

	for (struct registration **at = events ? &events->registrations : NULL; at && *at; at = &(*at)->next) {
		struct registration *r = *at;

		if (callback ? r->any || r->callback != callback : !r->any || r->event != event)
			continue;
		*at = r->next;
		events->count--;
		free(r);
		lv_reply(call);
		return;
	}
	if (callback)
		lv_fail(call, VIR_ERR_INVALID_ARG, "domain event callback %d not registered", callback);
	else
		lv_fail(call, VIR_ERR_INVALID_ARG, "domain event %d not registered", event);
}

void lv_event_deregister_callback(struct lv_call *call, struct vm *unused)
{
	remove_where(call, (int)call->args[0].i, 0);
}

void lv_event_register_any(struct lv_call *call, struct vm *unused)
{
	int64_t event = call->args[0].i;

	if (!event_known(call, event))
		return;
	for (struct registration *r = call->conn->events ? call->conn->events->registrations : NULL; r; r = r->next)
		if (r->any && r->event == event) {
			lv_fail(call, VIR_ERR_INVALID_ARG, "domain event %lld already registered", (long long)event);
			return;
		}
	if (add(call, (int)event, true))
		lv_reply(call);
}

void lv_event_deregister_any(struct lv_call *call, struct vm *unused)
{
	remove_where(call, 0, (int)call->args[0].i);
}

void lv_event_register(struct lv_call *call, struct vm *unused)
{
	struct lv_events *events = events_of(call);

	if (!events)
		return;
	if (events->lifecycle) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "domain event %d already registered", VIR_DOMAIN_EVENT_ID_LIFECYCLE);
		return;
	}
	events->lifecycle = true;
	xdr_put_i32(&call->out, 1);
	lv_reply(call);
}

void lv_event_deregister(struct lv_call *call, struct vm *unused)
{
	if (!call->conn->events || !call->conn->events->lifecycle) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "domain event %d not registered", VIR_DOMAIN_EVENT_ID_LIFECYCLE);
		return;
	}
	call->conn->events->lifecycle = false;
	xdr_put_i32(&call->out, 0);
	lv_reply(call);
}
