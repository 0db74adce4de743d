/* Inside the libvirt API: connections, calls on their way, and the table of procedures. */
#ifndef API_LIBVIRT_PRIVATE_H
#define API_LIBVIRT_PRIVATE_H

#include "api/libvirt/lv.h"
#include "api/libvirt/packet.h"
#include "api/libvirt/xdr.h"
#include "daemon/daemon.h"
#include "proto/vmdef.h"

#include <json-c/json.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

/* What this server speaks as: the protocol as libvirt 9.0.0 defines it. */
#define LV_LIBVIRT_VERSION 9000000u

struct bufferevent;
struct event;
struct lv_call;
struct lv_events;
struct lv_stream;
struct listener;

/* ---- procedures as data (procedures.c) --------------------------------------------- */

#define LV_READ 1u      /* also on a read-only connection */
#define LV_UNOPENED 2u  /* also before connect_open */
#define LV_DOMAIN 4u    /* the first argument is a domain that must exist */
#define LV_RUNNING 8u   /* … and must be running */
#define LV_STREAMING 16u /* a good reply opens a stream */

struct lv_procedure {
	int number;
	const char *name;
	const char *arguments, *result; /* layouts, xdr.h */
	unsigned flags;
	/* Ends with lv_reply or lv_fail, at once or later. vm is the domain of LV_DOMAIN, else NULL. */
	void (*handle)(struct lv_call *call, struct vm *vm);
};

const struct lv_procedure *lv_procedure_find(int number);
/* The same of the program for QEMU's own: the guest agent. */
const struct lv_procedure *lv_qemu_procedure_find(int number);
extern const struct lv_procedure lv_procedures[];
extern const size_t lv_procedure_count;

/* ---- connections (server.c) ------------------------------------------------------------ */

struct lv_conn {
	struct lv_conn *next, **prev;
	struct lv_server *server;
	struct daemon *daemon;
	struct listener *listener;
	struct bufferevent *bev;
	struct event *close_event;
	struct lv_call *calls; /* not yet answered */
	unsigned open_calls;
	struct lv_stream *streams;
	struct lv_events *events;   /* made when first needed */
	struct daemon_owner *owner; /* of domains that end with this connection; made when first needed */
	bool opened, readonly, closing, paused, wants_close_event;
	char uri[64];
	pid_t pid;
	uid_t uid;
};

struct lv_server {
	struct daemon *daemon;
	struct listener *listener, *ro_listener;
	struct lv_conn *conns;
};

/* Queues one packet. A peer that is gone or too far behind is closed, from the loop. */
void lv_conn_send(struct lv_conn *conn, const struct lv_packet *header, const void *payload, size_t bytes);
/* Bytes that the peer has not taken yet. */
size_t lv_conn_unsent(const struct lv_conn *conn);
/* Ends the connection, from the loop. */
void lv_conn_close(struct lv_conn *conn, const char *why);
/* After a call has ended: there may be room for the next. */
void lv_conn_continue(struct lv_conn *conn);

/* ---- calls (dispatch.c) ------------------------------------------------------------------ */

/* It outlives its connection when it must; then the answer goes nowhere. */
struct lv_call {
	struct lv_call *next, **prev; /* in the connection's list */
	struct lv_conn *conn;         /* NULL once the connection is gone */
	struct daemon *daemon;
	const struct lv_procedure *procedure;
	uint32_t serial, program;
	struct xdr_arena arena;
	struct xdr_value args[XDR_ARGUMENTS_MAX];
	struct xdr_writer out;
	char uuid[VMDEF_UUID_BYTES]; /* of the domain it is about */
	json_object *json;           /* a handler's own; put at the end */
};

/* One packet from a client. */
void lv_dispatch(struct lv_conn *conn, const struct lv_packet *packet);
/* Calls that are on their way go on without anybody to answer to. */
void lv_calls_drop(struct lv_conn *conn);

/* Each ends the call (frees it). */
void lv_reply(struct lv_call *call);
/* code: VIR_ERR_*; the text that libvirt puts before such errors is added here. */
void lv_fail(struct lv_call *call, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void lv_fail_daemon(struct lv_call *call, const struct daemon_error *error);
/* "this function is not supported by the connection driver": clients go on without it. */
void lv_unsupported(struct lv_call *call, const char *why);
/* daemon_done_fn, with the call as opaque: an empty reply, or the error. */
void lv_done(void *call, const struct daemon_error *error, json_object *result);
/* The same; the reply is the domain call->uuid. */
void lv_done_domain(void *call, const struct daemon_error *error, json_object *result);
/* An event. */
void lv_conn_message(struct lv_conn *conn, int procedure, const char *layout, struct xdr_writer *payload);
/* An error record for a packet. */
void lv_put_error(struct xdr_writer *out, int code, const char *message);

/* Whether flags (an argument) has no bits but these; otherwise the call was failed. */
bool lv_flags(struct lv_call *call, uint64_t flags, uint64_t known);

/* ---- domains (domain.c) --------------------------------------------------------------------- */

void lv_put_domain(struct xdr_writer *out, const struct vm *vm);
/* Of a D argument; NULL: the call was failed. */
struct vm *lv_find_domain(struct lv_call *call, const struct xdr_value *domain);
void lv_uuid_bytes(const char *text, unsigned char ret[16]);
void lv_uuid_text(const void *bytes, char ret[VMDEF_UUID_BYTES]);
/* virDomainState, and its reason. */
int lv_domain_state(const struct daemon_vm_info *info, int *ret_reason);
/* Whether VIR_CONNECT_LIST_DOMAINS_* let it through. */
bool lv_domain_listed(const struct daemon_vm_info *info, uint64_t flags);

/* ---- domain XML (xml_parse.c, xml_format.c) ----------------------------------------------------- */

#define LV_XML_MAX ((size_t)512 << 10)

/*
 * A definition (proto/vmdef.h, as JSON, for the caller to put) from domain XML. -EINVAL: *ret_code is the VIR_ERR_*,
 * error names the element by its path. old may be NULL: what XML cannot say (autostart) is taken from it.
 */
int lv_xml_parse(const char *xml, const struct vmdef *old, json_object **ret_definition, int *ret_code, char *error,
		 size_t error_size);
/* malloc'd; NULL: out of memory. */
char *lv_xml_format(const struct daemon_vm_info *info, unsigned flags);
/* What of the definition's XML is kept but has no effect: lines, malloc'd; NULL: nothing, or out of memory. */
char *lv_xml_without_effect(const struct vmdef *def);

/* ---- changes to domain XML (xml_edit.c): malloc'd texts; NULL: error says why ---- */

/* The element of <metadata> with that namespace, its prefix taken away. NULL with error "": there is none. */
char *lv_xml_metadata_get(const struct daemon_vm_info *info, const char *uri, char *error, size_t error_size);
/* The domain's XML with that element replaced by `text` (NULL: taken away), under the prefix `key`. */
char *lv_xml_metadata_set(const struct daemon_vm_info *info, const char *uri, const char *key, const char *text,
			  char *error, size_t error_size);
enum lv_device_change { LV_DEVICE_ATTACH, LV_DEVICE_DETACH, LV_DEVICE_UPDATE };
/* The domain's XML with a device added, taken away or replaced; *ret_code is the VIR_ERR_* of a failure. */
char *lv_xml_change_device(const struct daemon_vm_info *info, bool running, const char *device, enum lv_device_change change,
			   int *ret_code, char *error, size_t error_size);

/* ---- streams (stream.c) -------------------------------------------------------------------------- */

void lv_stream_packet(struct lv_conn *conn, const struct lv_packet *packet);
void lv_streams_drop(struct lv_conn *conn);
/* Replies to the call and moves bytes between its stream and fd (taken): length 0 is to the end of what there is. */
void lv_stream_file(struct lv_call *call, int fd, bool upload, uint64_t offset, uint64_t length);

/* ---- events (events.c) ------------------------------------------------------------------------------ */

void lv_events_drop(struct lv_conn *conn);
/* To everybody who registered for storage pools: VIR_STORAGE_POOL_EVENT_*. */
void lv_events_pool(struct lv_server *server, const char *name, const char *uuid, int event);

#endif
