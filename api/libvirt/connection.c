/* Opening a connection, and what it says of itself. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* Feature numbers of connect_supports_feature: those of the protocol itself, which no public header has. */
enum { FEATURE_STRING_PARAMS = 9, FEATURE_KEEPALIVE = 10, FEATURE_EVENT_CALLBACK = 14, FEATURE_CLOSE_CALLBACK = 15 };

/* No authentication beyond the socket's: SO_PEERCRED has decided already. */
void lv_auth_list(struct lv_call *call, struct vm *vm)
{
	enum { AUTH_NONE = 0 };

	xdr_put_u32(&call->out, 1);
	xdr_put_i32(&call->out, AUTH_NONE);
	lv_reply(call);
}

/* trivisor:///system, and qemu:///… for tools that know no other name; the rest of the URI says nothing here. */
static bool name_served(const char *name)
{
	static const char *const schemes[] = {"trivisor", "qemu"};
	static const char *const paths[] = {"/system", "/session"};

	if (!name[0])
		return true;
	for (size_t i = 0; i < 2; i++) {
		size_t n = strlen(schemes[i]);

		if (strncasecmp(name, schemes[i], n) || strncmp(name + n, "://", 3))
			continue;
		for (size_t j = 0; j < 2; j++) {
			const char *path = name + n + 3;
			size_t m = strlen(paths[j]);

			if (!strncmp(path, paths[j], m) && (!path[m] || path[m] == '?'))
				return true;
		}
	}
	return false;
}

void lv_connect_open(struct lv_call *call, struct vm *vm)
{
	const char *name = call->args[0].present ? call->args[0].text : "";
	struct lv_conn *conn = call->conn;

	if (conn->opened) {
		lv_fail(call, VIR_ERR_INTERNAL_ERROR, "connection already open");
	} else if (!name_served(name)) {
		lv_fail(call, VIR_ERR_NO_CONNECT, "%.200s (this server has trivisor:///system, trivisor:///session, "
						  "qemu:///system and qemu:///session)",
			name);
	} else {
		conn->opened = true;
		conn->readonly = conn->readonly || call->args[1].u & VIR_CONNECT_RO;
		snprintf(conn->uri, sizeof(conn->uri), "%.*s", (int)strcspn(name, "?"),
			 name[0] ? name : "trivisor:///system");
		lv_reply(call);
	}
}

/* The client closes once it has the answer. */
void lv_connect_close(struct lv_call *call, struct vm *vm)
{
	lv_reply(call);
}

static bool opened_as_qemu(const struct lv_call *call)
{
	return call->conn && !strncasecmp(call->conn->uri, "qemu:", 5);
}

void lv_connect_get_type(struct lv_call *call, struct vm *vm)
{
	xdr_put_string(&call->out, opened_as_qemu(call) ? "QEMU" : "trivisor");
	lv_reply(call);
}

void lv_connect_get_version(struct lv_call *call, struct vm *vm)
{
	unsigned major = 0, minor = 0, release = 0;

	if (sscanf(PACKAGE_VERSION, "%u.%u.%u", &major, &minor, &release) < 2)
		major = 0;
	xdr_put_u64(&call->out, major * 1000000ull + minor * 1000ull + release);
	lv_reply(call);
}

void lv_connect_get_lib_version(struct lv_call *call, struct vm *vm)
{
	xdr_put_u64(&call->out, LV_LIBVIRT_VERSION);
	lv_reply(call);
}

void lv_connect_get_hostname(struct lv_call *call, struct vm *vm)
{
	char name[256] = "";

	if (gethostname(name, sizeof(name) - 1) < 0 || !name[0])
		snprintf(name, sizeof(name), "localhost");
	xdr_put_string(&call->out, name);
	lv_reply(call);
}

void lv_connect_get_uri(struct lv_call *call, struct vm *vm)
{
	xdr_put_string(&call->out, call->conn->uri);
	lv_reply(call);
}

void lv_connect_supports_feature(struct lv_call *call, struct vm *vm)
{
	switch (call->args[0].i) {
	case FEATURE_STRING_PARAMS:
	case FEATURE_KEEPALIVE:
	case FEATURE_EVENT_CALLBACK:
	case FEATURE_CLOSE_CALLBACK: xdr_put_i32(&call->out, 1); break;
	default: xdr_put_i32(&call->out, 0); break;
	}
	lv_reply(call);
}

/* A UNIX socket does not leave the host. */
void lv_connect_is_secure(struct lv_call *call, struct vm *vm)
{
	xdr_put_i32(&call->out, 1);
	lv_reply(call);
}

void lv_connect_register_close(struct lv_call *call, struct vm *vm)
{
	if (call->conn->wants_close_event) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "close callback is registered already");
		return;
	}
	call->conn->wants_close_event = true;
	lv_reply(call);
}

void lv_connect_unregister_close(struct lv_call *call, struct vm *vm)
{
	if (!call->conn->wants_close_event) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "no close callback is registered");
		return;
	}
	call->conn->wants_close_event = false;
	lv_reply(call);
}

void lv_connect_get_max_vcpus(struct lv_call *call, struct vm *vm)
{
	xdr_put_i32(&call->out, VMDEF_VCPUS_MAX);
	lv_reply(call);
}
