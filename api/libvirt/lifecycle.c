/* Domains come and go: define, start, shut down, destroy. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"

#include <stdio.h>
#include <string.h>

/* ---- definitions --------------------------------------------------------------------- */

static const char *text_of(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(object, key, &value) ? json_object_get_string(value) : NULL;
}

/* libvirt's words for a name or UUID that is taken. False: the call was failed. */
static bool identity_free(struct lv_call *call, json_object *definition)
{
	const char *name = text_of(definition, "name"), *uuid = text_of(definition, "uuid");
	struct vm *named = name ? daemon_find(call->daemon, name) : NULL,
		  *same = uuid ? daemon_find(call->daemon, uuid) : NULL;
	struct daemon_vm_info info;

	if (named) {
		daemon_vm_inspect(named, &info);
		if (!strcmp(info.name, name) && (!uuid || strcasecmp(info.uuid, uuid))) {
			lv_fail(call, VIR_ERR_OPERATION_FAILED, "domain '%s' already exists with uuid %s", name, info.uuid);
			return false;
		}
	}
	if (same) {
		daemon_vm_inspect(same, &info);
		if (name && strcmp(info.name, name)) {
			lv_fail(call, VIR_ERR_OPERATION_FAILED, "domain '%s' is already defined with uuid %s", info.name,
				info.uuid);
			return false;
		}
	}
	return true;
}

/* The call keeps the definition; NULL: it was failed. */
static json_object *parse(struct lv_call *call, const char *xml)
{
	char error[900];
	int code = 0;

	if (lv_xml_parse(xml, NULL, &call->json, &code, error, sizeof(error))) {
		lv_fail(call, code, "%s", error);
		return NULL;
	}
	return identity_free(call, call->json) ? call->json : NULL;
}

/* The UUID may have been made up on the way. */
static void done_with_identity(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (!error)
		snprintf(call->uuid, sizeof(call->uuid), "%s", text_of(result, "uuid"));
	lv_done_domain(call, error, result);
}

void lv_domain_define(struct lv_call *call, struct vm *unused)
{
	json_object *definition;
	struct daemon_vm_info info;
	struct vm *same;

	if (call->args[1].present && !lv_flags(call, call->args[1].u, VIR_DOMAIN_DEFINE_VALIDATE))
		return;
	definition = parse(call, call->args[0].text);
	if (!definition)
		return;
	/* Autostart is no part of the XML, and stays. */
	same = text_of(definition, "uuid") ? daemon_find(call->daemon, text_of(definition, "uuid")) : NULL;
	if (same) {
		daemon_vm_inspect(same, &info);
		json_object_object_add(definition, "autostart", json_object_new_boolean(info.def->autostart));
	}
	daemon_define(call->daemon, definition, done_with_identity, call);
}

void lv_domain_undefine(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	/* Nothing that these flags would remove or keep is ever there: no saved state, no snapshots, no NVRAM. */
	if (call->args[1].present && !lv_flags(call, call->args[1].u, 0x7f))
		return;
	daemon_vm_inspect(vm, &info);
	if (info.transient)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "cannot undefine transient domain");
	else if (info.active)
		daemon_make_transient(call->daemon, vm, lv_done, call);
	else
		daemon_undefine(call->daemon, vm, lv_done, call);
}

/* ---- starts ----------------------------------------------------------------------------- */

#define START_FLAGS \
	(VIR_DOMAIN_START_PAUSED | VIR_DOMAIN_START_AUTODESTROY | VIR_DOMAIN_START_BYPASS_CACHE | \
	 VIR_DOMAIN_START_FORCE_BOOT | VIR_DOMAIN_START_VALIDATE | VIR_DOMAIN_START_RESET_NVRAM)

static bool may_start(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if (!info.active)
		return true;
	lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is already running");
	return false;
}

void lv_domain_create(struct lv_call *call, struct vm *vm)
{
	struct daemon_start options = {0};

	if (may_start(call, vm))
		daemon_start_vm(call->daemon, vm, &options, lv_done, call);
}

void lv_domain_create_with_flags(struct lv_call *call, struct vm *vm)
{
	uint64_t flags = call->args[1].u;
	struct daemon_start options = {.paused = flags & VIR_DOMAIN_START_PAUSED};

	if (!lv_flags(call, flags, START_FLAGS) || !may_start(call, vm))
		return;
	if (flags & VIR_DOMAIN_START_AUTODESTROY)
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED,
			"only a transient domain can end with its client; use virDomainCreateXML");
	else
		daemon_start_vm(call->daemon, vm, &options, lv_done_domain, call);
}

void lv_domain_create_xml(struct lv_call *call, struct vm *unused)
{
	uint64_t flags = call->args[1].u;
	struct daemon_start options = {.paused = flags & VIR_DOMAIN_START_PAUSED};
	struct lv_conn *conn = call->conn;
	struct daemon_vm_info info;
	json_object *definition;
	struct vm *same;

	if (!lv_flags(call, flags, START_FLAGS))
		return;
	definition = parse(call, call->args[0].text);
	if (!definition)
		return;
	same = text_of(definition, "uuid") ? daemon_find(call->daemon, text_of(definition, "uuid")) : NULL;
	if (same) {
		daemon_vm_inspect(same, &info);
		if (info.active)
			lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain '%s' is already active", info.name);
		else
			lv_fail(call, VIR_ERR_OPERATION_FAILED,
				"domain '%s' is defined already; start it, or undefine it first", info.name);
		return;
	}
	if (flags & VIR_DOMAIN_START_AUTODESTROY && !conn->owner)
		conn->owner = daemon_owner_create(call->daemon);
	if (flags & VIR_DOMAIN_START_AUTODESTROY && !conn->owner)
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
	else
		daemon_run(call->daemon, definition, &options, flags & VIR_DOMAIN_START_AUTODESTROY ? conn->owner : NULL,
			   done_with_identity, call);
}

/* ---- ends --------------------------------------------------------------------------------- */

void lv_domain_destroy(struct lv_call *call, struct vm *vm)
{
	if (call->args[1].present &&
	    !lv_flags(call, call->args[1].u, VIR_DOMAIN_DESTROY_GRACEFUL | VIR_DOMAIN_DESTROY_REMOVE_LOGS))
		return;
	daemon_destroy_vm(call->daemon, vm, lv_done, call);
}

static void done_by_agent(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (error && error->code == DAEMON_AGENT_ABSENT)
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "QEMU guest agent is not configured");
	else
		lv_done(call, error, result);
}

/* Whether the power button is meant by flags (0: whatever there is). False: the agent was asked, or the call failed. */
static bool by_acpi(struct lv_call *call, struct vm *vm, const struct xdr_value *flags, const char *mode)
{
	enum { ACPI = 1, AGENT = 2, INITCTL = 4, SIGNAL = 8, PARAVIRT = 16 };

	if (flags->present && !lv_flags(call, flags->u, ACPI | AGENT | INITCTL | SIGNAL | PARAVIRT))
		return false;
	if (!flags->present || !flags->u || (flags->u & (ACPI | AGENT)) == ACPI)
		return true;
	if (flags->u & AGENT)
		daemon_guest_end(call->daemon, vm, mode, flags->u & ACPI, done_by_agent, call);
	else
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "a domain here is told through its ACPI power button, or its agent");
	return false;
}

void lv_domain_shutdown(struct lv_call *call, struct vm *vm)
{
	if (by_acpi(call, vm, &call->args[1], "powerdown"))
		daemon_shutdown(call->daemon, vm, lv_done, call);
}

void lv_domain_reboot(struct lv_call *call, struct vm *vm)
{
	if (by_acpi(call, vm, &call->args[1], "reboot"))
		daemon_reboot(call->daemon, vm, lv_done, call);
}

void lv_domain_reset(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, 0))
		daemon_reset(call->daemon, vm, lv_done, call);
}

void lv_domain_suspend(struct lv_call *call, struct vm *vm)
{
	daemon_pause(call->daemon, vm, lv_done, call);
}

void lv_domain_resume(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if (info.state == VM_RUNNING)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is already running");
	else
		daemon_resume(call->daemon, vm, lv_done, call);
}

void lv_domain_inject_nmi(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, 0))
		daemon_nmi(call->daemon, vm, lv_done, call);
}
