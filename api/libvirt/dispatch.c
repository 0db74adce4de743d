/* Calls: from a packet to a handler, and back as a reply or an error. */
#include "api/libvirt/private.h"
#include "daemon/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ------------------------------------------------------------------------ */

/* The words libvirt puts before an error's own text: scripts and cluster agents look for them. */
static const char *prefix_of(int code)
{
	static const struct {
		int code;
		const char *prefix;
	} rows[] = {
		{VIR_ERR_INTERNAL_ERROR, "internal error"},
		{VIR_ERR_NO_SUPPORT, "this function is not supported by the connection driver"},
		{VIR_ERR_NO_CONNECT, "no connection driver available for"},
		{VIR_ERR_INVALID_ARG, "invalid argument"},
		{VIR_ERR_OPERATION_FAILED, "operation failed"},
		{VIR_ERR_XML_ERROR, "XML error"},
		{VIR_ERR_OPERATION_DENIED, "operation forbidden"},
		{VIR_ERR_XML_DETAIL, NULL},
		{VIR_ERR_NO_DOMAIN, "Domain not found"},
		{VIR_ERR_NO_NETWORK, "Network not found"},
		{VIR_ERR_NO_STORAGE_POOL, "Storage pool not found"},
		{VIR_ERR_NO_STORAGE_VOL, "Storage volume not found"},
		{VIR_ERR_NO_NODE_DEVICE, "Node device not found"},
		{VIR_ERR_NO_INTERFACE, "Interface not found"},
		{VIR_ERR_NO_NWFILTER, "Network filter not found"},
		{VIR_ERR_NO_SECRET, "Secret not found"},
		{VIR_ERR_NO_DOMAIN_SNAPSHOT, "Domain snapshot not found"},
		{VIR_ERR_NO_DOMAIN_METADATA, "metadata not found"},
		{VIR_ERR_OPERATION_INVALID, "Requested operation is not valid"},
		{VIR_ERR_CONFIG_UNSUPPORTED, "unsupported configuration"},
		{VIR_ERR_ARGUMENT_UNSUPPORTED, "argument unsupported"},
		{VIR_ERR_OPERATION_UNSUPPORTED, "Operation not supported"},
		{VIR_ERR_OPERATION_TIMEOUT, "Timed out during operation"},
		{VIR_ERR_RESOURCE_BUSY, "resource busy"},
		{VIR_ERR_DEVICE_MISSING, "device not found"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].code == code)
			return rows[i].prefix;
	return NULL;
}

/* Who says it: only text and a few checks of clients depend on it. */
static int domain_of(int code)
{
	switch (code) {
	case VIR_ERR_RPC: return VIR_FROM_RPC;
	case VIR_ERR_XML_DETAIL: return VIR_FROM_XML;
	case VIR_ERR_NO_NETWORK: return VIR_FROM_NETWORK;
	case VIR_ERR_NO_STORAGE_POOL:
	case VIR_ERR_NO_STORAGE_VOL: return VIR_FROM_STORAGE;
	case VIR_ERR_NO_NODE_DEVICE: return VIR_FROM_NODEDEV;
	case VIR_ERR_NO_INTERFACE: return VIR_FROM_INTERFACE;
	case VIR_ERR_NO_NWFILTER: return VIR_FROM_NWFILTER;
	case VIR_ERR_NO_SECRET: return VIR_FROM_SECRET;
	case VIR_ERR_NO_DOMAIN_SNAPSHOT: return VIR_FROM_DOMAIN_SNAPSHOT;
	}
	return VIR_FROM_DOMAIN;
}

/* code, domain, message, level, domain object, three strings, two numbers, network object. */
void lv_put_error(struct xdr_writer *out, int code, const char *message)
{
	xdr_put_i32(out, code);
	xdr_put_i32(out, domain_of(code));
	xdr_put_optional(out, message);
	xdr_put_i32(out, VIR_ERR_ERROR);
	xdr_put_u32(out, 0);
	xdr_put_optional(out, message);
	xdr_put_optional(out, NULL);
	xdr_put_optional(out, NULL);
	xdr_put_i32(out, -1);
	xdr_put_i32(out, -1);
	xdr_put_u32(out, 0);
}

static void send_error(struct lv_conn *conn, const struct lv_packet *to, int code, const char *message)
{
	struct lv_packet reply = *to;
	struct xdr_writer out = {0};

	reply.type = LV_REPLY;
	reply.status = LV_ERROR;
	lv_put_error(&out, code, message);
	if (out.failed)
		lv_conn_close(conn, "out of memory");
	else
		lv_conn_send(conn, &reply, out.data, out.used);
	xdr_writer_finish(&out);
}

/* ---- answers ------------------------------------------------------------------------- */

static struct lv_packet reply_header(const struct lv_call *call)
{
	return (struct lv_packet){.program = call->program,
				  .version = LV_PROGRAM_VERSION,
				  .procedure = call->procedure->number,
				  .type = LV_REPLY,
				  .serial = call->serial};
}

static void call_free(struct lv_call *call)
{
	struct lv_conn *conn = call->conn;

	if (conn) {
		*call->prev = call->next;
		if (call->next)
			call->next->prev = call->prev;
		conn->open_calls--;
		lv_conn_continue(conn);
	}
	xdr_arena_free(&call->arena);
	xdr_writer_finish(&call->out);
	json_object_put(call->json);
	free(call);
}

void lv_reply(struct lv_call *call)
{
	struct lv_packet header = reply_header(call);

	if (!call->conn) {
		call_free(call);
		return;
	}
	if (call->out.failed) {
		lv_conn_close(call->conn, "out of memory");
	} else if (!xdr_matches(call->procedure->result, call->out.data, call->out.used)) {
		/* A client would misread it: better an error that names our bug. */
		log_error("libvirt: the reply of %s is not of the layout \"%s\"", call->procedure->name,
			  call->procedure->result);
		send_error(call->conn, &header, VIR_ERR_INTERNAL_ERROR, "internal error: a reply of the wrong form");
	} else {
		lv_conn_send(call->conn, &header, call->out.data, call->out.used);
	}
	call_free(call);
}

static void fail_text(struct lv_call *call, int code, const char *text)
{
	const char *prefix = prefix_of(code);
	struct lv_packet header = reply_header(call);
	char message[1400];

	snprintf(message, sizeof(message), "%s%s%s", prefix ? prefix : "", prefix ? code == VIR_ERR_NO_CONNECT ? " " : ": " : "",
		 text);
	if (call->conn)
		send_error(call->conn, &header, code, message);
	call_free(call);
}

void lv_fail(struct lv_call *call, int code, const char *format, ...)
{
	char text[1200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fail_text(call, code, text);
}

void lv_unsupported(struct lv_call *call, const char *why)
{
	lv_fail(call, VIR_ERR_NO_SUPPORT, "%s: %s", call->procedure->name, why);
}

void lv_fail_daemon(struct lv_call *call, const struct daemon_error *error)
{
	static const int codes[DAEMON_ERROR_COUNT] = {
		[DAEMON_INVALID] = VIR_ERR_CONFIG_UNSUPPORTED,
		[DAEMON_NOT_FOUND] = VIR_ERR_NO_DOMAIN,
		[DAEMON_EXISTS] = VIR_ERR_OPERATION_FAILED,
		[DAEMON_WRONG_STATE] = VIR_ERR_OPERATION_INVALID,
		[DAEMON_STORAGE] = VIR_ERR_SYSTEM_ERROR,
		[DAEMON_START] = VIR_ERR_OPERATION_FAILED,
		[DAEMON_VM] = VIR_ERR_OPERATION_FAILED,
		[DAEMON_LIMIT] = VIR_ERR_OPERATION_FAILED,
		[DAEMON_TIMEOUT] = VIR_ERR_OPERATION_TIMEOUT,
		[DAEMON_UNSUPPORTED] = VIR_ERR_OPERATION_UNSUPPORTED,
		[DAEMON_AGENT_ABSENT] = VIR_ERR_ARGUMENT_UNSUPPORTED,
		[DAEMON_AGENT_UNRESPONSIVE] = VIR_ERR_AGENT_UNRESPONSIVE,
		[DAEMON_AGENT_FAILED] = VIR_ERR_INTERNAL_ERROR,
		[DAEMON_INTERNAL] = VIR_ERR_INTERNAL_ERROR,
	};

	fail_text(call, codes[error->code], error->message);
}

void lv_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (error)
		lv_fail_daemon(call, error);
	else
		lv_reply(call);
}

void lv_done_domain(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	struct vm *vm = error ? NULL : daemon_find(call->daemon, call->uuid);

	if (error) {
		lv_fail_daemon(call, error);
	} else if (!vm) {
		lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching uuid '%s'", call->uuid);
	} else {
		lv_put_domain(&call->out, vm);
		lv_reply(call);
	}
}

void lv_conn_message(struct lv_conn *conn, int procedure, const char *layout, struct xdr_writer *payload)
{
	const struct lv_packet header = {.program = LV_PROGRAM_REMOTE,
					 .version = LV_PROGRAM_VERSION,
					 .procedure = procedure,
					 .type = LV_MESSAGE};

	if (payload->failed)
		lv_conn_close(conn, "out of memory");
	else if (!xdr_matches(layout, payload->data, payload->used))
		log_error("libvirt: message %d is not of the layout \"%s\"", procedure, layout);
	else
		lv_conn_send(conn, &header, payload->data, payload->used);
}

bool lv_flags(struct lv_call *call, uint64_t flags, uint64_t known)
{
	if (!(flags & ~known))
		return true;
	lv_fail(call, VIR_ERR_INVALID_ARG, "unsupported flags (0x%llx) in function %s",
		(unsigned long long)(flags & ~known), call->procedure->name);
	return false;
}

/* ---- calls --------------------------------------------------------------------------- */

static struct lv_call *call_create(struct lv_conn *conn, const struct lv_procedure *procedure, uint32_t serial, uint32_t program)
{
	struct lv_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->conn = conn;
	call->daemon = conn->daemon;
	call->procedure = procedure;
	call->serial = serial;
	call->program = program;
	call->next = conn->calls;
	call->prev = &conn->calls;
	if (call->next)
		call->next->prev = &call->next;
	conn->calls = call;
	conn->open_calls++;
	return call;
}

void lv_calls_drop(struct lv_conn *conn)
{
	struct lv_call *call, *next;

	for (call = conn->calls; call; call = next) {
		next = call->next;
		call->conn = NULL;
	}
	conn->calls = NULL;
}

static void run(struct lv_call *call)
{
	const struct lv_procedure *p = call->procedure;
	struct daemon_vm_info info;
	struct vm *vm = NULL;

	if (p->flags & LV_DOMAIN) {
		vm = lv_find_domain(call, &call->args[0]);
		if (!vm)
			return;
		daemon_vm_inspect(vm, &info);
		snprintf(call->uuid, sizeof(call->uuid), "%s", info.uuid);
		if (p->flags & LV_RUNNING && !info.active) {
			lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
			return;
		}
	}
	p->handle(call, vm);
}

static void refuse(struct lv_conn *conn, const struct lv_packet *packet, int code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static void refuse(struct lv_conn *conn, const struct lv_packet *packet, int code, const char *format, ...)
{
	char text[300], message[500];
	const char *prefix = prefix_of(code);
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(message, sizeof(message), "%s%s%s", prefix ? prefix : "", prefix ? ": " : "", text);
	send_error(conn, packet, code, message);
}

void lv_dispatch(struct lv_conn *conn, const struct lv_packet *packet)
{
	const struct lv_procedure *p;
	const char *why = NULL;
	struct lv_call *call;
	int rc;

	if ((packet->program != LV_PROGRAM_REMOTE && packet->program != LV_PROGRAM_QEMU) || packet->version != LV_PROGRAM_VERSION) {
		refuse(conn, packet, VIR_ERR_RPC, "Cannot find program %#x version %u", packet->program, packet->version);
		return;
	}
	p = packet->program == LV_PROGRAM_QEMU ? lv_qemu_procedure_find(packet->procedure) : lv_procedure_find(packet->procedure);
	if (!p) {
		/* go-libvirt knows an unsupported call by these two words. */
		refuse(conn, packet, VIR_ERR_NO_SUPPORT, "unknown procedure: %d", (int)packet->procedure);
		return;
	}
	if (!conn->opened && !(p->flags & LV_UNOPENED)) {
		refuse(conn, packet, VIR_ERR_INTERNAL_ERROR, "connection not open");
		return;
	}
	if (conn->readonly && !(p->flags & (LV_READ | LV_UNOPENED))) {
		refuse(conn, packet, VIR_ERR_OPERATION_DENIED, "read only access prevents %s", p->name);
		return;
	}
	call = call_create(conn, p, packet->serial, packet->program);
	if (!call) {
		lv_conn_close(conn, "out of memory");
		return;
	}
	rc = xdr_decode(p->arguments, packet->payload, packet->payload_bytes, &call->arena, call->args, &why);
	if (rc)
		lv_fail(call, rc == -ENOMEM ? VIR_ERR_NO_MEMORY : VIR_ERR_RPC, "Unable to decode message payload of %s: %s",
			p->name, why);
	else
		run(call);
}
