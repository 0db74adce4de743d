/* What libvirt asks of a guest through its agent: information, file systems, time, passwords, commands as they are. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/params.h"
#include "api/libvirt/private.h"
#include "proto/base64.h"
#include "proto/line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* virDomainQemuAgentCommandTimeoutValues: forever, the default, not at all; else seconds. */
enum { TIMEOUT_BLOCK = -2, TIMEOUT_DEFAULT = -1, TIMEOUT_NOWAIT = 0 };
#define TIMEOUT_MAX_S 3600.0

static json_object *member(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) ? value : NULL;
}

static const char *text_of(json_object *object, const char *key)
{
	json_object *value = member(object, key);

	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static json_object *list_of(json_object *object, const char *key)
{
	json_object *value = member(object, key);

	return json_object_is_type(value, json_type_array) ? value : NULL;
}

static size_t length(json_object *list) { return list ? json_object_array_length(list) : 0; }

/* In libvirt's words. */
static void agent_fail(struct lv_call *call, const struct daemon_error *error)
{
	const char *text = strstr(error->message, "\": ");

	if (error->code == DAEMON_AGENT_ABSENT)
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "QEMU guest agent is not configured");
	else if (error->code == DAEMON_AGENT_FAILED)
		lv_fail(call, VIR_ERR_INTERNAL_ERROR, "unable to execute QEMU agent command: %s", text ? text + 3 : error->message);
	else
		lv_fail_daemon(call, error);
}

static void done_empty(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (error)
		agent_fail(call, error);
	else
		lv_reply(call);
}

/* The agent's answer is a number, and ours too. */
static void done_count(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;

	if (error) {
		agent_fail(call, error);
		return;
	}
	xdr_put_i32(&call->out, (int32_t)json_object_get_int(result));
	lv_reply(call);
}

/* Takes arguments. */
static void ask(struct lv_call *call, struct vm *vm, const char *command, json_object *arguments, daemon_done_fn done)
{
	daemon_guest_command(call->daemon, vm, command, arguments, DAEMON_GUEST_TIMEOUT_S, done, call);
}

/* ---- file systems, time, passwords ---------------------------------------------------------- */

void lv_domain_fsfreeze(struct lv_call *call, struct vm *vm)
{
	const struct xdr_value *points = &call->args[1];
	json_object *arguments = NULL, *list;

	if (!lv_flags(call, call->args[2].u, 0))
		return;
	if (points->count) {
		arguments = json_object_new_object();
		list = json_object_new_array();
		for (unsigned i = 0; i < points->count; i++)
			json_object_array_add(list, json_object_new_string(points->items[i].text));
		json_object_object_add(arguments, "mountpoints", list);
	}
	ask(call, vm, arguments ? "guest-fsfreeze-freeze-list" : "guest-fsfreeze-freeze", arguments, done_count);
}

void lv_domain_fsthaw(struct lv_call *call, struct vm *vm)
{
	if (!lv_flags(call, call->args[2].u, 0))
		return;
	if (call->args[1].count)
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "Specifying mountpoints is not supported");
	else
		ask(call, vm, "guest-fsfreeze-thaw", NULL, done_count);
}

void lv_domain_fstrim(struct lv_call *call, struct vm *vm)
{
	json_object *arguments;

	if (!lv_flags(call, call->args[3].u, 0))
		return;
	if (call->args[1].present) {
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "Specifying mount point is not supported for now");
		return;
	}
	arguments = json_object_new_object();
	json_object_object_add(arguments, "minimum", json_object_new_int64((int64_t)call->args[2].u));
	ask(call, vm, "guest-fstrim", arguments, done_empty);
}

static void done_time(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	int64_t ns = error ? 0 : json_object_get_int64(result);

	if (error) {
		agent_fail(call, error);
		return;
	}
	xdr_put_u64(&call->out, (uint64_t)(ns / 1000000000));
	xdr_put_u32(&call->out, (uint32_t)(ns % 1000000000));
	lv_reply(call);
}

void lv_domain_get_time(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, 0))
		ask(call, vm, "guest-get-time", NULL, done_time);
}

void lv_domain_set_time(struct lv_call *call, struct vm *vm)
{
	json_object *arguments = NULL;

	if (!lv_flags(call, call->args[3].u, VIR_DOMAIN_TIME_SYNC))
		return;
	if (!(call->args[3].u & VIR_DOMAIN_TIME_SYNC)) {
		if (call->args[1].i < 0 || call->args[1].i > INT64_MAX / 1000000000 - 1 || call->args[2].u >= 1000000000) {
			lv_fail(call, VIR_ERR_INVALID_ARG, "Time '%lld' is too big for guest agent", (long long)call->args[1].i);
			return;
		}
		arguments = json_object_new_object();
		json_object_object_add(arguments, "time", json_object_new_int64(call->args[1].i * 1000000000 + (int64_t)call->args[2].u));
	}
	ask(call, vm, "guest-set-time", arguments, done_empty);
}

void lv_domain_set_user_password(struct lv_call *call, struct vm *vm)
{
	const char *password = call->args[2].text ? call->args[2].text : "";
	char *encoded;
	json_object *arguments;

	if (!lv_flags(call, call->args[3].u, VIR_DOMAIN_PASSWORD_ENCRYPTED))
		return;
	encoded = base64_encode((const unsigned char *)password, strlen(password));
	if (!encoded) {
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
		return;
	}
	arguments = json_object_new_object();
	json_object_object_add(arguments, "username", json_object_new_string(call->args[1].text ? call->args[1].text : ""));
	json_object_object_add(arguments, "password", json_object_new_string(encoded));
	json_object_object_add(arguments, "crypted", json_object_new_boolean(call->args[3].u & VIR_DOMAIN_PASSWORD_ENCRYPTED));
	free(encoded);
	ask(call, vm, "guest-set-user-password", arguments, done_empty);
}

static void done_hostname(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	const char *name = error ? NULL : text_of(result, "hostname");

	if (error) {
		agent_fail(call, error);
	} else if (!name) {
		lv_fail(call, VIR_ERR_NO_HOSTNAME, "no hostname found for the domain");
	} else {
		xdr_put_string(&call->out, name);
		lv_reply(call);
	}
}

void lv_domain_get_hostname(struct lv_call *call, struct vm *vm)
{
	if (!lv_flags(call, call->args[1].u, VIR_DOMAIN_GET_HOSTNAME_AGENT | VIR_DOMAIN_GET_HOSTNAME_LEASE))
		return;
	if (call->args[1].u & VIR_DOMAIN_GET_HOSTNAME_LEASE)
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "names are the guest agent's to tell (--source agent)");
	else
		daemon_guest_info(call->daemon, vm, DAEMON_GUEST_HOSTNAME, done_hostname, call);
}

void lv_domain_pm_suspend(struct lv_call *call, struct vm *vm)
{
	static const char *const commands[] = {"guest-suspend-ram", "guest-suspend-disk", "guest-suspend-hybrid"};

	if (!lv_flags(call, call->args[3].u, 0))
		return;
	if (call->args[2].u)
		lv_fail(call, VIR_ERR_ARGUMENT_UNSUPPORTED, "Duration not supported. Use 0 for now");
	else if (call->args[1].u >= sizeof(commands) / sizeof(commands[0]))
		lv_fail(call, VIR_ERR_INVALID_ARG, "Unknown suspend target: %llu", (unsigned long long)call->args[1].u);
	else
		ask(call, vm, commands[call->args[1].u], NULL, done_empty);
}

/* ---- what the guest tells of itself ------------------------------------------------------------ */

/* A text, if it is there. */
static void put_member(struct lv_params *p, json_object *from, const char *key, const char *name)
{
	if (text_of(from, key))
		LV_PUT_TEXT(p, text_of(from, key), "%s", name);
}

static void put_users(struct lv_params *p, json_object *users)
{
	LV_PUT_U32(p, (uint32_t)length(users), "user.count");
	for (size_t i = 0; i < length(users); i++) {
		json_object *user = json_object_array_get_idx(users, i), *login = member(user, "login-time");
		char name[64];

		snprintf(name, sizeof(name), "user.%zu.name", i);
		put_member(p, user, "user", name);
		snprintf(name, sizeof(name), "user.%zu.domain", i);
		put_member(p, user, "domain", name);
		if (login)
			LV_PUT_U64(p, (uint64_t)(json_object_get_double(login) * 1000), "user.%zu.login-time", i);
	}
}

static void put_os(struct lv_params *p, json_object *os)
{
	static const char *const keys[] = {"id",	     "name",	       "pretty-name", "version", "version-id",
					   "kernel-release", "kernel-version", "machine",     "variant", "variant-id"};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		char name[64];

		snprintf(name, sizeof(name), "os.%s", keys[i]);
		put_member(p, os, keys[i], name);
	}
}

static void put_filesystems(struct lv_params *p, json_object *list)
{
	static const struct {
		const char *key, *name;
	} texts[] = {{"mountpoint", "mountpoint"}, {"name", "name"}, {"type", "fstype"}};

	LV_PUT_U32(p, (uint32_t)length(list), "fs.count");
	for (size_t i = 0; i < length(list); i++) {
		json_object *fs = json_object_array_get_idx(list, i), *disks = list_of(fs, "disk");
		char name[64];

		for (size_t k = 0; k < sizeof(texts) / sizeof(texts[0]); k++) {
			snprintf(name, sizeof(name), "fs.%zu.%s", i, texts[k].name);
			put_member(p, fs, texts[k].key, name);
		}
		for (const char *const *key = (const char *const[]){"total-bytes", "used-bytes", NULL}; *key; key++)
			if (member(fs, *key))
				LV_PUT_U64(p, (uint64_t)json_object_get_int64(member(fs, *key)), "fs.%zu.%s", i, *key);
		LV_PUT_U32(p, (uint32_t)length(disks), "fs.%zu.disk.count", i);
		for (size_t k = 0; k < length(disks); k++) {
			json_object *disk = json_object_array_get_idx(disks, k);

			snprintf(name, sizeof(name), "fs.%zu.disk.%zu.serial", i, k);
			put_member(p, disk, "serial", name);
			snprintf(name, sizeof(name), "fs.%zu.disk.%zu.device", i, k);
			put_member(p, disk, "dev", name);
		}
	}
}

static void put_disks(struct lv_params *p, json_object *list)
{
	LV_PUT_U32(p, (uint32_t)length(list), "disk.count");
	for (size_t i = 0; i < length(list); i++) {
		json_object *disk = json_object_array_get_idx(list, i), *needs = list_of(disk, "dependencies");
		char name[64];

		snprintf(name, sizeof(name), "disk.%zu.name", i);
		put_member(p, disk, "name", name);
		lv_params_head(p, XDR_PARAM_BOOLEAN, "disk.%zu.partition", i);
		xdr_put_i32(p->out, json_object_get_boolean(member(disk, "partition")));
		snprintf(name, sizeof(name), "disk.%zu.guest_alias", i);
		put_member(p, disk, "alias", name);
		snprintf(name, sizeof(name), "disk.%zu.serial", i);
		put_member(p, member(disk, "address"), "serial", name);
		snprintf(name, sizeof(name), "disk.%zu.guest_bus", i);
		put_member(p, member(disk, "address"), "bus-type", name);
		if (!length(needs))
			continue;
		LV_PUT_U32(p, (uint32_t)length(needs), "disk.%zu.dependency.count", i);
		for (size_t k = 0; k < length(needs); k++) {
			json_object *need = json_object_array_get_idx(needs, k);

			if (json_object_is_type(need, json_type_string))
				LV_PUT_TEXT(p, json_object_get_string(need), "disk.%zu.dependency.%zu.name", i, k);
		}
	}
}

static void put_interfaces(struct lv_params *p, json_object *list)
{
	LV_PUT_U32(p, (uint32_t)length(list), "if.count");
	for (size_t i = 0; i < length(list); i++) {
		json_object *nic = json_object_array_get_idx(list, i), *addresses = list_of(nic, "ip-addresses");
		char name[64];

		snprintf(name, sizeof(name), "if.%zu.name", i);
		put_member(p, nic, "name", name);
		snprintf(name, sizeof(name), "if.%zu.hwaddr", i);
		put_member(p, nic, "hardware-address", name);
		LV_PUT_U32(p, (uint32_t)length(addresses), "if.%zu.addr.count", i);
		for (size_t k = 0; k < length(addresses); k++) {
			json_object *address = json_object_array_get_idx(addresses, k);

			snprintf(name, sizeof(name), "if.%zu.addr.%zu.type", i, k);
			put_member(p, address, "ip-address-type", name);
			snprintf(name, sizeof(name), "if.%zu.addr.%zu.addr", i, k);
			put_member(p, address, "ip-address", name);
			LV_PUT_U32(p, (uint32_t)json_object_get_int(member(address, "prefix")), "if.%zu.addr.%zu.prefix", i, k);
		}
	}
}

/* libvirt's bits, the daemon's, and the part's name there. */
static const struct {
	unsigned type, what;
	const char *key;
} parts[] = {
	{VIR_DOMAIN_GUEST_INFO_USERS, DAEMON_GUEST_USERS, "users"},
	{VIR_DOMAIN_GUEST_INFO_OS, DAEMON_GUEST_OS, "os"},
	{VIR_DOMAIN_GUEST_INFO_TIMEZONE, DAEMON_GUEST_TIMEZONE, "timezone"},
	{VIR_DOMAIN_GUEST_INFO_HOSTNAME, DAEMON_GUEST_HOSTNAME, "hostname"},
	{VIR_DOMAIN_GUEST_INFO_FILESYSTEM, DAEMON_GUEST_FILESYSTEMS, "filesystems"},
	{VIR_DOMAIN_GUEST_INFO_DISKS, DAEMON_GUEST_DISKS, "disks"},
	{VIR_DOMAIN_GUEST_INFO_INTERFACES, DAEMON_GUEST_INTERFACES, "interfaces"},
};
#define PARTS (sizeof(parts) / sizeof(parts[0]))

static void put_part(struct lv_params *p, unsigned type, json_object *part)
{
	switch (type) {
	case VIR_DOMAIN_GUEST_INFO_USERS: put_users(p, part); break;
	case VIR_DOMAIN_GUEST_INFO_OS: put_os(p, part); break;
	case VIR_DOMAIN_GUEST_INFO_TIMEZONE:
		put_member(p, part, "zone", "timezone.name");
		LV_PUT_I32(p, json_object_get_int(member(part, "offset")), "timezone.offset");
		break;
	case VIR_DOMAIN_GUEST_INFO_HOSTNAME: LV_PUT_TEXT(p, json_object_get_string(part), "hostname"); break;
	case VIR_DOMAIN_GUEST_INFO_FILESYSTEM: put_filesystems(p, part); break;
	case VIR_DOMAIN_GUEST_INFO_DISKS: put_disks(p, part); break;
	case VIR_DOMAIN_GUEST_INFO_INTERFACES: put_interfaces(p, part); break;
	default: break;
	}
}

static void done_info(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	uint64_t types = call->args[1].u;
	struct lv_params p;

	if (error) {
		agent_fail(call, error);
		return;
	}
	/* Who asks for all gets what there is; who asks for a part wants to know why not. */
	for (size_t i = 0; i < PARTS; i++) {
		const char *why = types & parts[i].type ? text_of(member(result, "failed"), parts[i].key) : NULL;

		if (why) {
			lv_fail(call, VIR_ERR_INTERNAL_ERROR, "unable to execute QEMU agent command: %s: %.300s", parts[i].key, why);
			return;
		}
	}
	p = lv_params_begin(&call->out);
	for (size_t i = 0; i < PARTS; i++)
		if (member(result, parts[i].key))
			put_part(&p, parts[i].type, member(result, parts[i].key));
	lv_params_end(&p);
	lv_reply(call);
}

void lv_domain_get_guest_info(struct lv_call *call, struct vm *vm)
{
	unsigned known = 0, what = 0;

	for (size_t i = 0; i < PARTS; i++) {
		known |= parts[i].type;
		if (!call->args[1].u || call->args[1].u & parts[i].type)
			what |= parts[i].what;
	}
	if (!lv_flags(call, call->args[2].u, 0) || !lv_flags(call, call->args[1].u, known))
		return;
	daemon_guest_info(call->daemon, vm, what, done_info, call);
}

static void done_fsinfo(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	json_object *list = error ? NULL : list_of(result, "filesystems");
	const char *why = error ? NULL : text_of(member(result, "failed"), "filesystems");
	uint32_t n = length(list) < 256 ? (uint32_t)length(list) : 256;

	if (error) {
		agent_fail(call, error);
		return;
	}
	if (why) {
		lv_fail(call, VIR_ERR_INTERNAL_ERROR, "unable to execute QEMU agent command: %.300s", why);
		return;
	}
	xdr_put_u32(&call->out, n);
	for (uint32_t i = 0; i < n; i++) {
		json_object *fs = json_object_array_get_idx(list, i);

		xdr_put_string(&call->out, text_of(fs, "mountpoint"));
		xdr_put_string(&call->out, text_of(fs, "name"));
		xdr_put_string(&call->out, text_of(fs, "type"));
		xdr_put_u32(&call->out, 0); /* which of the domain's disks it is on, nobody can say for sure */
	}
	xdr_put_u32(&call->out, n);
	lv_reply(call);
}

void lv_domain_get_fsinfo(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, 0))
		daemon_guest_info(call->daemon, vm, DAEMON_GUEST_FILESYSTEMS, done_fsinfo, call);
}

static void done_addresses(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	json_object *list = error ? NULL : list_of(result, "interfaces");
	uint32_t n = length(list) < 2048 ? (uint32_t)length(list) : 2048;

	if (error) {
		agent_fail(call, error);
		return;
	}
	xdr_put_u32(&call->out, n);
	for (uint32_t i = 0; i < n; i++) {
		json_object *nic = json_object_array_get_idx(list, i), *addresses = list_of(nic, "ip-addresses");
		uint32_t count = length(addresses) < 2048 ? (uint32_t)length(addresses) : 2048;

		xdr_put_string(&call->out, text_of(nic, "name"));
		xdr_put_optional(&call->out, text_of(nic, "hardware-address"));
		xdr_put_u32(&call->out, count);
		for (uint32_t k = 0; k < count; k++) {
			json_object *address = json_object_array_get_idx(addresses, k);
			const char *type = text_of(address, "ip-address-type");

			xdr_put_i32(&call->out, type && !strcmp(type, "ipv6") ? VIR_IP_ADDR_TYPE_IPV6 : VIR_IP_ADDR_TYPE_IPV4);
			xdr_put_string(&call->out, text_of(address, "ip-address"));
			xdr_put_u32(&call->out, (uint32_t)json_object_get_int(member(address, "prefix")));
		}
	}
	lv_reply(call);
}

void lv_domain_addresses_by_agent(struct lv_call *call, struct vm *vm)
{
	daemon_guest_info(call->daemon, vm, DAEMON_GUEST_INTERFACES, done_addresses, call);
}

/* ---- commands as they are ------------------------------------------------------------------------- */

static void done_command(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	json_object *answer;

	if (error) {
		agent_fail(call, error);
		return;
	}
	answer = json_object_new_object();
	json_object_object_add(answer, "return", json_object_get(result));
	xdr_put_optional(&call->out, json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(answer);
	lv_reply(call);
}

void lv_domain_agent_command(struct lv_call *call, struct vm *vm)
{
	int64_t timeout = call->args[2].i;
	const char *why = NULL, *command;
	json_object *arguments;
	double seconds = timeout == TIMEOUT_BLOCK ? TIMEOUT_MAX_S : timeout == TIMEOUT_DEFAULT ? DAEMON_GUEST_TIMEOUT_S
							     : timeout == TIMEOUT_NOWAIT	? 0.1
												: (double)timeout;

	if (!lv_flags(call, call->args[3].u, 0))
		return;
	if (timeout < TIMEOUT_BLOCK) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "guest agent timeout '%lld' is less than the minimum '-2'", (long long)timeout);
		return;
	}
	if (line_parse_json(call->args[1].text, call->args[1].bytes, &call->json, &why) || !text_of(call->json, "execute")) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "a command such as {\"execute\":\"guest-ping\"} is wanted%s%s", why ? ": " : "", why ? why : "");
		return;
	}
	command = text_of(call->json, "execute");
	arguments = member(call->json, "arguments");
	if (arguments && !json_object_is_type(arguments, json_type_object))
		lv_fail(call, VIR_ERR_INVALID_ARG, "arguments: an object is wanted");
	else
		daemon_guest_command(call->daemon, vm, command, json_object_get(arguments), seconds < TIMEOUT_MAX_S ? seconds : TIMEOUT_MAX_S,
				     done_command, call);
}
