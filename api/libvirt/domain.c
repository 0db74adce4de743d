/* Domains: finding them, lists, states, and what is known of each. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/host.h"
#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names for domains ------------------------------------------------------------- */

static int hex(char c)
{
	return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

void lv_uuid_bytes(const char *text, unsigned char ret[16])
{
	for (unsigned i = 0; i < 16; i++) {
		while (*text == '-')
			text++;
		ret[i] = (unsigned char)(hex(text[0]) << 4 | hex(text[1]));
		text += 2;
	}
}

void lv_uuid_text(const void *bytes, char ret[VMDEF_UUID_BYTES])
{
	const unsigned char *b = bytes;

	snprintf(ret, VMDEF_UUID_BYTES, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
		 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

void lv_put_domain(struct xdr_writer *out, const struct vm *vm)
{
	struct daemon_vm_info info;
	unsigned char uuid[16];

	daemon_vm_inspect(vm, &info);
	lv_uuid_bytes(info.uuid, uuid);
	xdr_put_string(out, info.name);
	xdr_put_fixed(out, uuid, sizeof(uuid));
	xdr_put_i32(out, info.id);
}

/* By UUID only: name and number in it are what the client remembers. */
struct vm *lv_find_domain(struct lv_call *call, const struct xdr_value *domain)
{
	char uuid[VMDEF_UUID_BYTES];
	struct vm *vm;

	lv_uuid_text(domain->items[1].text, uuid);
	vm = daemon_find(call->daemon, uuid);
	if (!vm)
		lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching uuid '%s' (%.100s)", uuid,
			domain->items[0].text);
	return vm;
}

static void reply_domain(struct lv_call *call, struct vm *vm)
{
	lv_put_domain(&call->out, vm);
	lv_reply(call);
}

void lv_domain_lookup_by_id(struct lv_call *call, struct vm *unused)
{
	struct vm *vm = daemon_find_id(call->daemon, (int)call->args[0].i);

	if (vm)
		reply_domain(call, vm);
	else
		lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching id %lld", (long long)call->args[0].i);
}

void lv_domain_lookup_by_name(struct lv_call *call, struct vm *unused)
{
	struct vm *vm = daemon_find(call->daemon, call->args[0].text);
	struct daemon_vm_info info;

	if (vm)
		daemon_vm_inspect(vm, &info);
	if (vm && !strcmp(info.name, call->args[0].text))
		reply_domain(call, vm);
	else
		lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching name '%.200s'", call->args[0].text);
}

void lv_domain_lookup_by_uuid(struct lv_call *call, struct vm *unused)
{
	char uuid[VMDEF_UUID_BYTES];
	struct vm *vm;

	lv_uuid_text(call->args[0].text, uuid);
	vm = daemon_find(call->daemon, uuid);
	if (vm)
		reply_domain(call, vm);
	else
		lv_fail(call, VIR_ERR_NO_DOMAIN, "no domain with matching uuid '%s'", uuid);
}

/* ---- states --------------------------------------------------------------------------- */

int lv_domain_state(const struct daemon_vm_info *info, int *ret_reason)
{
	if (!info->ran) {
		*ret_reason = VIR_DOMAIN_SHUTOFF_UNKNOWN;
		return VIR_DOMAIN_SHUTOFF;
	}
	switch (info->state) {
	case VM_STARTING: *ret_reason = VIR_DOMAIN_PAUSED_STARTING_UP; return VIR_DOMAIN_PAUSED;
	case VM_RUNNING: *ret_reason = VIR_DOMAIN_RUNNING_BOOTED; return VIR_DOMAIN_RUNNING;
	case VM_PAUSED: *ret_reason = VIR_DOMAIN_PAUSED_USER; return VIR_DOMAIN_PAUSED;
	case VM_SHUTDOWN: *ret_reason = VIR_DOMAIN_SHUTOFF_SHUTDOWN; break;
	case VM_DESTROYED: *ret_reason = VIR_DOMAIN_SHUTOFF_DESTROYED; break;
	case VM_CRASHED: *ret_reason = VIR_DOMAIN_SHUTOFF_CRASHED; break;
	case VM_FAILED: *ret_reason = VIR_DOMAIN_SHUTOFF_FAILED; break;
	case VM_STATE_COUNT: break;
	}
	/* A process that was just adopted, or is about to be recorded, still is one. */
	return info->active ? VIR_DOMAIN_RUNNING : VIR_DOMAIN_SHUTOFF;
}

void lv_domain_get_state(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;
	int reason = 0;

	daemon_vm_inspect(vm, &info);
	xdr_put_i32(&call->out, lv_domain_state(&info, &reason));
	xdr_put_i32(&call->out, reason);
	lv_reply(call);
}

static const struct vmdef *current_def(const struct daemon_vm_info *info)
{
	return info->running_def ? info->running_def : info->def;
}

void lv_domain_get_info(struct lv_call *call, struct vm *vm)
{
	struct host_times times = {0};
	struct daemon_vm_info info;
	int reason = 0;

	daemon_vm_inspect(vm, &info);
	if (info.active)
		host_process_times(info.pid, 0, &times);
	xdr_put_i32(&call->out, lv_domain_state(&info, &reason));
	xdr_put_u64(&call->out, (uint64_t)current_def(&info)->memory_mib * 1024);
	xdr_put_u64(&call->out, info.active ? info.memory_kib : (uint64_t)(info.def->current_memory_mib ? info.def->current_memory_mib
												   : info.def->memory_mib) * 1024);
	xdr_put_u32(&call->out, current_def(&info)->vcpus);
	xdr_put_u64(&call->out, times.total);
	lv_reply(call);
}

void lv_domain_get_control_info(struct lv_call *call, struct vm *vm)
{
	xdr_put_u32(&call->out, VIR_DOMAIN_CONTROL_OK);
	xdr_put_u32(&call->out, 0);
	xdr_put_u64(&call->out, 0);
	lv_reply(call);
}

/* ---- lists ------------------------------------------------------------------------------ */

/* Of a pair of filter bits none or both mean no filter. */
static bool passes(uint64_t flags, uint64_t yes_bit, uint64_t no_bit, bool is)
{
	uint64_t both = yes_bit | no_bit;

	return !(flags & both) || (flags & both) == both || (flags & (is ? yes_bit : no_bit));
}

bool lv_domain_listed(const struct daemon_vm_info *info, uint64_t flags)
{
	const uint64_t states = VIR_CONNECT_LIST_DOMAINS_RUNNING | VIR_CONNECT_LIST_DOMAINS_PAUSED |
				VIR_CONNECT_LIST_DOMAINS_SHUTOFF | VIR_CONNECT_LIST_DOMAINS_OTHER;
	int reason, state = lv_domain_state(info, &reason);
	uint64_t bit = state == VIR_DOMAIN_RUNNING   ? VIR_CONNECT_LIST_DOMAINS_RUNNING
		       : state == VIR_DOMAIN_PAUSED  ? VIR_CONNECT_LIST_DOMAINS_PAUSED
		       : state == VIR_DOMAIN_SHUTOFF ? VIR_CONNECT_LIST_DOMAINS_SHUTOFF
						     : VIR_CONNECT_LIST_DOMAINS_OTHER;

	return passes(flags, VIR_CONNECT_LIST_DOMAINS_ACTIVE, VIR_CONNECT_LIST_DOMAINS_INACTIVE, info->active) &&
	       passes(flags, VIR_CONNECT_LIST_DOMAINS_TRANSIENT, VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
		      info->transient) &&
	       passes(flags, VIR_CONNECT_LIST_DOMAINS_AUTOSTART, VIR_CONNECT_LIST_DOMAINS_NO_AUTOSTART,
		      info->def->autostart) &&
	       passes(flags, VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE, VIR_CONNECT_LIST_DOMAINS_NO_MANAGEDSAVE, false) &&
	       passes(flags, VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT, VIR_CONNECT_LIST_DOMAINS_NO_SNAPSHOT, false) &&
	       passes(flags, VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT, VIR_CONNECT_LIST_DOMAINS_NO_CHECKPOINT, false) &&
	       (!(flags & states) || flags & bit);
}

void lv_connect_list_all_domains(struct lv_call *call, struct vm *unused)
{
	uint64_t flags = call->args[1].u;
	struct daemon_vm_info info;
	size_t at = call->out.used;
	struct vm *vm = NULL;
	uint32_t n = 0;

	if (!lv_flags(call, flags, 0xffff))
		return;
	xdr_put_u32(&call->out, 0);
	while ((vm = daemon_next(call->daemon, vm))) {
		daemon_vm_inspect(vm, &info);
		if (!lv_domain_listed(&info, flags))
			continue;
		n++;
		if (call->args[0].i)
			lv_put_domain(&call->out, vm);
	}
	if (call->args[0].i)
		xdr_patch_u32(&call->out, at, n);
	xdr_put_u32(&call->out, n);
	lv_reply(call);
}

static void reply_count(struct lv_call *call, bool active)
{
	struct daemon_vm_info info;
	struct vm *vm = NULL;
	int32_t n = 0;

	while ((vm = daemon_next(call->daemon, vm))) {
		daemon_vm_inspect(vm, &info);
		n += info.active == active;
	}
	xdr_put_i32(&call->out, n);
	lv_reply(call);
}

void lv_connect_num_of_domains(struct lv_call *call, struct vm *vm)
{
	reply_count(call, true);
}

void lv_connect_num_of_defined_domains(struct lv_call *call, struct vm *vm)
{
	reply_count(call, false);
}

static void reply_names(struct lv_call *call, bool active)
{
	struct daemon_vm_info info;
	size_t at = call->out.used;
	struct vm *vm = NULL;
	int64_t n = 0;

	xdr_put_u32(&call->out, 0);
	while ((vm = daemon_next(call->daemon, vm)) && n < call->args[0].i) {
		daemon_vm_inspect(vm, &info);
		if (info.active != active)
			continue;
		n++;
		if (active)
			xdr_put_i32(&call->out, info.id);
		else
			xdr_put_string(&call->out, info.name);
	}
	xdr_patch_u32(&call->out, at, (uint32_t)n);
	lv_reply(call);
}

void lv_connect_list_domains(struct lv_call *call, struct vm *vm)
{
	reply_names(call, true);
}

void lv_connect_list_defined_domains(struct lv_call *call, struct vm *vm)
{
	reply_names(call, false);
}

/* ---- what is known of one ------------------------------------------------------------------ */

void lv_domain_get_xml_desc(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;
	char *xml;

	if (!lv_flags(call, call->args[1].u,
		      VIR_DOMAIN_XML_SECURE | VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_UPDATE_CPU |
			      VIR_DOMAIN_XML_MIGRATABLE))
		return;
	/* There are no secrets in it, so this is only what libvirt promises of such connections. */
	if (call->args[1].u & VIR_DOMAIN_XML_SECURE && call->conn && call->conn->readonly) {
		lv_fail(call, VIR_ERR_OPERATION_DENIED, "read only access prevents virDomainGetXMLDesc with secure flag");
		return;
	}
	daemon_vm_inspect(vm, &info);
	xml = lv_xml_format(&info, (unsigned)call->args[1].u);
	if (!xml) {
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return;
	}
	xdr_put_string(&call->out, xml);
	free(xml);
	lv_reply(call);
}

void lv_domain_get_os_type(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	xdr_put_string(&call->out, info.def->mode == VMDEF_MODE_PV ? "xen" : "hvm");
	lv_reply(call);
}

static void reply_int(struct lv_call *call, int32_t value)
{
	xdr_put_i32(&call->out, value);
	lv_reply(call);
}

void lv_domain_is_active(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	reply_int(call, info.active);
}

void lv_domain_is_persistent(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	reply_int(call, !info.transient);
}

/* Whether its next start will be another than this run. */
void lv_domain_is_updated(struct lv_call *call, struct vm *vm)
{
	reply_int(call, 0);
}

void lv_answer_zero(struct lv_call *call, struct vm *vm)
{
	reply_int(call, 0);
}

void lv_domain_get_autostart(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	reply_int(call, info.def->autostart);
}

void lv_domain_get_max_memory(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	xdr_put_u64(&call->out, (uint64_t)current_def(&info)->memory_mib * 1024);
	lv_reply(call);
}

void lv_domain_get_max_vcpus(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	reply_int(call, (int32_t)current_def(&info)->vcpus);
}

void lv_domain_get_vcpus_flags(struct lv_call *call, struct vm *vm)
{
	uint64_t flags = call->args[1].u;
	struct daemon_vm_info info;

	if (!lv_flags(call, flags,
		      VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_VCPU_MAXIMUM |
			      VIR_DOMAIN_VCPU_GUEST))
		return;
	daemon_vm_inspect(vm, &info);
	if (flags & VIR_DOMAIN_VCPU_GUEST)
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "QEMU guest agent is not configured");
	else if (flags & VIR_DOMAIN_AFFECT_LIVE && !info.active)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "domain is not running");
	else
		reply_int(call, (int32_t)(flags & VIR_DOMAIN_AFFECT_CONFIG ? info.def : current_def(&info))->vcpus);
}

/* No operation here goes on behind an answer: there never is a job. */
void lv_domain_get_job_info(struct lv_call *call, struct vm *vm)
{
	xdr_put_i32(&call->out, VIR_DOMAIN_JOB_NONE);
	for (unsigned i = 0; i < 11; i++)
		xdr_put_u64(&call->out, 0);
	lv_reply(call);
}

void lv_domain_get_job_stats(struct lv_call *call, struct vm *vm)
{
	if (!lv_flags(call, call->args[1].u, VIR_DOMAIN_JOB_STATS_COMPLETED | VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED))
		return;
	xdr_put_i32(&call->out, VIR_DOMAIN_JOB_NONE);
	xdr_put_u32(&call->out, 0);
	lv_reply(call);
}

/* What of its XML has no effect, a message each. */
void lv_domain_get_messages(struct lv_call *call, struct vm *vm)
{
	size_t at = call->out.used;
	struct daemon_vm_info info;
	char *text, *line, *rest = NULL;
	uint32_t n = 0;

	if (!lv_flags(call, call->args[1].u, VIR_DOMAIN_MESSAGE_DEPRECATION | VIR_DOMAIN_MESSAGE_TAINTING))
		return;
	daemon_vm_inspect(vm, &info);
	text = lv_xml_without_effect(current_def(&info));
	xdr_put_u32(&call->out, 0);
	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line && n < 2048; line = strtok_r(NULL, "\n", &rest)) {
		xdr_put_string(&call->out, line);
		n++;
	}
	xdr_patch_u32(&call->out, at, n);
	free(text);
	lv_reply(call);
}
