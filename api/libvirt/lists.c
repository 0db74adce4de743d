/* Kinds of objects that this version has none of: lists are empty, and lookups say so with the right code. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"

/* An empty array, and its length. */
void lv_none_all(struct lv_call *call, struct vm *vm)
{
	xdr_put_u32(&call->out, 0);
	xdr_put_u32(&call->out, 0);
	lv_reply(call);
}

void lv_none_count(struct lv_call *call, struct vm *vm)
{
	xdr_put_u32(&call->out, 0);
	lv_reply(call);
}

void lv_none_names(struct lv_call *call, struct vm *vm)
{
	xdr_put_u32(&call->out, 0);
	lv_reply(call);
}

/* The name that was looked for, or its UUID. */
static void missing(struct lv_call *call, int code, const char *kind)
{
	const struct xdr_value *what = &call->args[0];
	char uuid[VMDEF_UUID_BYTES];

	while (what->items)
		what = &what->items[0];
	if (call->procedure->arguments[0] == 'G') {
		lv_uuid_text(what->text, uuid);
		lv_fail(call, code, "no %s with matching uuid '%s'", kind, uuid);
	} else {
		lv_fail(call, code, "no %s with matching name '%.200s'", kind, what->text);
	}
}

void lv_no_interface(struct lv_call *call, struct vm *vm)
{
	missing(call, VIR_ERR_NO_INTERFACE, "interface");
}

void lv_no_node_device(struct lv_call *call, struct vm *vm)
{
	missing(call, VIR_ERR_NO_NODE_DEVICE, "node device");
}

void lv_no_nwfilter(struct lv_call *call, struct vm *vm)
{
	missing(call, VIR_ERR_NO_NWFILTER, "nwfilter");
}

void lv_no_secret(struct lv_call *call, struct vm *vm)
{
	missing(call, VIR_ERR_NO_SECRET, "secret");
}

void lv_no_snapshot(struct lv_call *call, struct vm *vm)
{
	lv_fail(call, VIR_ERR_NO_DOMAIN_SNAPSHOT, "no domain snapshot with matching name '%.200s'",
		call->args[1].present && call->args[1].text ? call->args[1].text : "current");
}
