/* The VM process's control socket: JSON-RPC 2.0, one object a line, from the daemon (or anybody with the same uid). */
#include "config.h"
#include "vm/private.h"

#include "proto/keys.h"
#include "machine/vmware/vmware.h"
#include "proto/line.h"
#include "proto/sock.h"

#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS_MAX 64
#define AGENT_TIMEOUT_S 30.0

#define RPC_METHOD_NOT_FOUND (-32601)
#define RPC_INVALID_PARAMS (-32602)
#define RPC_INTERNAL_ERROR (-32603)

/* A request that is answered later. */
struct deferred {
	LIST_ENTRY(deferred) link; /* of the client's */
	struct control_client *client; /* NULL: it has gone */
	bool wants_answer; /* it is no notification */
	struct json_object *id;
};

struct control_client {
	LIST_ENTRY(control_client) link;
	LIST_HEAD(, deferred) deferred;
	struct vm_control *control;
	struct line_peer *peer;
};

struct vm_control {
	struct vm *vm;
	int listener;
	struct event *acceptable;
	LIST_HEAD(, control_client) clients;
	unsigned client_count;
};

/* What a method answers: a result, or an error with its code. */
struct reply {
	struct json_object *result;
	int code;
	char message[256];
	/* Done after the answer is queued. */
	void (*after)(struct vm *vm);
	struct control_client *client;
	struct deferred *later; /* the method answers through answer_later, which takes this */
};

__attribute__((format(printf, 3, 4))) static void error(struct reply *reply, int code, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(reply->message, sizeof(reply->message), format, ap);
	va_end(ap);
	reply->code = code;
}

static void put_string(struct json_object *to, const char *key, const char *value)
{
	json_object_object_add(to, key, json_object_new_string(value));
}

/* ---- methods ---- */

static void do_hello(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *r = reply->result;
	json_object_object_add(r, "protocol", json_object_new_int(CONTROL_VERSION));
	json_object_object_add(r, "pid", json_object_new_int(getpid()));
	put_string(r, "uuid", vm->def->uuid);
	put_string(r, "name", vm->def->name);
	put_string(r, "mode", vm->mode->name);
	put_string(r, "mode_reason", vm->options.mode_reason);
	put_string(r, "version", PACKAGE_VERSION);
	if (vm->machine)
		json_object_object_add(r, "cpu", vm_cpu_json(vm));
}

static void do_status(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *r = reply->result;
	uint64_t paused = vm->paused_ns + (vm->state == VM_PAUSED ? vm_now_ns() - vm->pause_began_ns : 0);
	put_string(r, "state", vm_state_name(vm->state));
	put_string(r, "reason", vm->reason);
	json_object_object_add(r, "pid", json_object_new_int(getpid()));
	json_object_object_add(r, "started", json_object_new_double(vm->started));
	if (vm_state_is_final(vm->state))
		json_object_object_add(r, "ended", json_object_new_double(vm->ended));
	json_object_object_add(r, "paused_seconds", json_object_new_double((double)paused / 1e9));
	json_object_object_add(r, "no_reboot", json_object_new_boolean(vm->no_reboot));
	json_object_object_add(r, "memory_kib", json_object_new_int64((int64_t)vm_balloon_kib(vm)));
	json_object_object_add(r, "agent", json_object_new_boolean(vm_agent_is_open(vm)));
	json_object_object_add(r, "channels", vm_channels_json(vm));
}

static void state_error(struct vm *vm, int rc, const char *what, struct reply *reply)
{
	if (rc == -EPERM)
		error(reply, CONTROL_ERROR_STATE, "cannot %s it: a debugger has stopped it; continue there, or detach", what);
	else if (rc == -EBUSY)
		error(reply, CONTROL_ERROR_STATE, "cannot %s a VM that is %s", what, vm_state_name(vm->state));
	else if (rc)
		error(reply, RPC_INTERNAL_ERROR, "cannot %s: %s", what, strerror(-rc));
}

static void do_pause(struct vm *vm, struct json_object *params, struct reply *reply)
{
	state_error(vm, vm_pause(vm), "pause", reply);
}

static void do_resume(struct vm *vm, struct json_object *params, struct reply *reply)
{
	state_error(vm, vm_resume(vm), "resume", reply);
}

static void do_power_button(struct vm *vm, struct json_object *params, struct reply *reply)
{
	if (vm->state == VM_RUNNING)
		machine_power_button(vm->machine);
	else
		state_error(vm, -EBUSY, "press the power button of", reply);
}

static void do_reset(struct vm *vm, struct json_object *params, struct reply *reply)
{
	state_error(vm, vm_reset(vm), "reset", reply);
}

static void do_reboot(struct vm *vm, struct json_object *params, struct reply *reply)
{
	state_error(vm, vm_reboot(vm), "reboot", reply);
}

static void do_nmi(struct vm *vm, struct json_object *params, struct reply *reply)
{
	if (vm->state == VM_RUNNING)
		machine_inject_nmi(vm->machine);
	else
		state_error(vm, -EBUSY, "send an NMI to", reply);
}

static void destroy_after(struct vm *vm)
{
	vm_finish(vm, VM_DESTROYED, VM_EXIT_DESTROYED, "destroyed by request");
}

static void do_destroy(struct vm *vm, struct json_object *params, struct reply *reply)
{
	reply->after = destroy_after;
}

static void do_stats(struct vm *vm, struct json_object *params, struct reply *reply)
{
	json_object_put(reply->result);
	reply->result = vm_stats_json(vm);
	if (!reply->result)
		error(reply, RPC_INTERNAL_ERROR, "out of memory");
}

static void do_set(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value;
	json_object_object_foreach(params, key, unused)
	{
		if (strcmp(key, "no_reboot")) {
			error(reply, RPC_INVALID_PARAMS, "%.80s: unknown key; known: no_reboot", key);
			return;
		}
		(void)unused;
	}
	if (!json_object_object_get_ex(params, "no_reboot", &value))
		return;
	if (json_object_is_type(value, json_type_boolean))
		vm->no_reboot = json_object_get_boolean(value);
	else
		error(reply, RPC_INVALID_PARAMS, "no_reboot: true or false is wanted");
}

/* A parameter that must be a whole number from 0 on; `otherwise` when it is absent. False: it is something else. */
static bool number_param(struct json_object *params, const char *key, int64_t max, int64_t otherwise, int64_t *ret,
			 struct reply *reply)
{
	struct json_object *value;
	*ret = otherwise;
	if (!params || !json_object_object_get_ex(params, key, &value) || !value)
		return true;
	if (json_object_is_type(value, json_type_int)) {
		*ret = json_object_get_int64(value);
		if (*ret >= 0 && *ret <= max)
			return true;
	}
	error(reply, RPC_INVALID_PARAMS, "%s: a whole number from 0 to %lld is wanted", key, (long long)max);
	return false;
}

static bool flag_param(struct json_object *params, const char *key)
{
	struct json_object *value;
	return params && json_object_object_get_ex(params, key, &value) && json_object_get_boolean(value);
}

static void do_regs(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *list = NULL;
	int64_t vcpu;
	if (!number_param(params, "vcpu", vm->vcpu_count - 1, -1, &vcpu, reply))
		return;
	int rc = vm_registers_json(vm, (int)vcpu, flag_param(params, "vector"), &list);
	if (rc == -ENOTSUP)
		error(reply, CONTROL_ERROR_STATE, "mode %s does not give its registers", vm->mode->name);
	else
		state_error(vm, rc, "read the registers of", reply);
	if (!rc)
		json_object_object_add(reply->result, "vcpus", list);
}

static void do_disassemble(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value;
	int64_t vcpu, count, bits;
	uint64_t address = 0;
	bool has_address = params && json_object_object_get_ex(params, "address", &value) && value;
	if (has_address) {
		const char *text = json_object_get_string(value);
		char *end;
		errno = 0;
		address = strtoull(text, &end, 16);
		if (!json_object_is_type(value, json_type_string) || errno || *end || end == text || text[0] == '-') {
			error(reply, RPC_INVALID_PARAMS, "address: a linear address such as \"0xffffffff81000000\" is wanted");
			return;
		}
	}
	if (!number_param(params, "vcpu", vm->vcpu_count - 1, 0, &vcpu, reply) ||
	    !number_param(params, "count", VM_DISASSEMBLE_MAX, 16, &count, reply) ||
	    !number_param(params, "bits", 64, 0, &bits, reply))
		return;
	if (bits && bits != 16 && bits != 32 && bits != 64) {
		error(reply, RPC_INVALID_PARAMS, "bits: 16, 32 or 64 is wanted");
		return;
	}
	int rc = vm_disassembly_json(vm, (unsigned)vcpu, has_address ? &address : NULL, (unsigned)count, (unsigned)bits,
				     reply->result);
	if (rc == -EFAULT)
		error(reply, RPC_INVALID_PARAMS, "address: vCPU %d has nothing mapped there", (int)vcpu);
	else if (rc == -ENOTSUP)
		error(reply, CONTROL_ERROR_STATE, "mode %s does not show its code", vm->mode->name);
	else
		state_error(vm, rc, "disassemble", reply);
}

static void do_perf_map(struct vm *vm, struct json_object *params, struct reply *reply)
{
	char path[PATH_MAX] = "";
	int rc = vm_write_perf_map(vm, path, sizeof(path));
	if (rc == -ENOTSUP)
		error(reply, CONTROL_ERROR_STATE, "mode %s translates nothing", vm->mode->name);
	else if (rc && rc != -EBUSY)
		error(reply, RPC_INTERNAL_ERROR, "%s: %s", path, strerror(-rc));
	else
		state_error(vm, rc, "write a perf map for", reply);
	put_string(reply->result, "path", path);
	json_object_object_add(reply->result, "pid", json_object_new_int(getpid()));
	json_object_object_add(reply->result, "usable", json_object_new_boolean(vm->def->perf_map));
}

static void answer(struct control_client *client, struct json_object *id, struct reply *reply);

/* NULL: out of memory, and the reply says so. */
static struct deferred *defer(struct reply *reply)
{
	struct deferred *deferred = calloc(1, sizeof(*deferred));
	if (!deferred) {
		error(reply, RPC_INTERNAL_ERROR, "out of memory");
		return NULL;
	}
	deferred->client = reply->client;
	LIST_INSERT_HEAD(&reply->client->deferred, deferred, link);
	return deferred;
}

static void deferred_free(struct deferred *deferred)
{
	if (deferred->client)
		LIST_REMOVE(deferred, link);
	json_object_put(deferred->id);
	free(deferred);
}

/* Takes both over. */
static void answer_later(struct deferred *deferred, struct reply *reply)
{
	if (deferred->client && deferred->wants_answer)
		answer(deferred->client, json_object_get(deferred->id), reply);
	else
		json_object_put(reply->result);
	deferred_free(deferred);
}

static void hot_blocks_done(void *opaque, struct json_object *result)
{
	struct reply reply = {.result = result ? result : json_object_new_object()};
	if (!result)
		error(&reply, CONTROL_ERROR_STATE, "the VM has ended meanwhile");
	answer_later(opaque, &reply);
}

static void do_hot_blocks(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value;
	double seconds = 1;
	int64_t top;
	if (params && json_object_object_get_ex(params, "seconds", &value) && value)
		seconds = json_object_get_double(value);
	if (!(seconds > 0 && seconds <= 60)) {
		error(reply, RPC_INVALID_PARAMS, "seconds: more than 0 and at most 60 are wanted");
		return;
	}
	if (!number_param(params, "top", 1000, 10, &top, reply))
		return;
	struct deferred *deferred = defer(reply);
	if (!deferred)
		return;
	int rc = vm_profile_start(vm, seconds, (unsigned)top, hot_blocks_done, deferred);
	if (rc == -EALREADY)
		error(reply, CONTROL_ERROR_STATE, "somebody else samples it at present; try again");
	else if (rc == -ENOTSUP)
		error(reply, CONTROL_ERROR_STATE, "mode %s cannot be sampled", vm->mode->name);
	else
		state_error(vm, rc, "sample", reply);
	if (rc)
		deferred_free(deferred);
	else
		reply->later = deferred;
}

/* A call that has not returned yet: whether it was answered before it did. */
struct guest_call {
	struct deferred *deferred;
	struct reply *reply; /* NULL: handle_request is through with it */
};

static void guest_done(void *opaque, int code, const char *message, struct json_object *result)
{
	struct guest_call *call = opaque;
	struct reply later = {.result = json_object_new_object()}, *reply = call->reply ? call->reply : &later;
	if (code)
		error(reply, code, "%s", message);
	else
		json_object_object_add(reply->result, "return", json_object_get(result));
	if (call->reply) {
		json_object_put(later.result);
		call->reply = NULL;
		deferred_free(call->deferred);
		call->deferred = NULL;
		return;
	}
	answer_later(call->deferred, &later);
	free(call);
}

static void do_guest(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *command = NULL, *arguments = NULL, *value = NULL;
	double timeout = AGENT_TIMEOUT_S;
	if (!json_object_object_get_ex(params, "command", &command) || !json_object_is_type(command, json_type_string)) {
		error(reply, RPC_INVALID_PARAMS, "command: the name of one of the agent's commands is wanted");
		return;
	}
	if (json_object_object_get_ex(params, "arguments", &arguments) && arguments && !json_object_is_type(arguments, json_type_object)) {
		error(reply, RPC_INVALID_PARAMS, "arguments: an object is wanted");
		return;
	}
	if (json_object_object_get_ex(params, "timeout", &value) && value)
		timeout = json_object_get_double(value);
	if (!(timeout > 0 && timeout <= CONTROL_AGENT_TIMEOUT_MAX_S)) {
		error(reply, RPC_INVALID_PARAMS, "timeout: more than 0 and at most %d seconds are wanted", CONTROL_AGENT_TIMEOUT_MAX_S);
		return;
	}
	struct guest_call *call = calloc(1, sizeof(*call));
	struct deferred *deferred = call ? defer(reply) : NULL;
	if (!deferred) {
		free(call);
		error(reply, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	*call = (struct guest_call){deferred, reply};
	vm_agent_call(vm, json_object_get_string(command), arguments, timeout, guest_done, call);
	if (!call->reply) {
		free(call);
		return;
	}
	call->reply = NULL;
	reply->later = deferred;
}

static void do_gdb(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value;
	if (json_object_object_get_ex(params, "architecture", &value)) {
		static const char *const names[] = {"auto", "i8086", "i386", "x86-64"};
		const char *name = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
		unsigned i = 0;
		while (i < ARRAY_SIZE(names) && strcmp(names[i], name))
			i++;
		if (i == ARRAY_SIZE(names)) {
			error(reply, RPC_INVALID_PARAMS, "architecture: auto, i8086, i386 or x86-64 is wanted");
			return;
		}
		vm_gdb_set_architecture(vm, (enum vmdef_gdb_architecture)i);
	}
	if (json_object_object_get_ex(params, "enable", &value) && json_object_get_boolean(value)) {
		if (!(vm->mode->capabilities & MODE_CAP_DEBUG)) {
			error(reply, CONTROL_ERROR_STATE, "mode %s has no debugger's support", vm->mode->name);
			return;
		}
		int rc = vm_gdb_enable(vm);
		if (rc) {
			error(reply, RPC_INTERNAL_ERROR, "%s: %s", vm_gdb_path(vm), strerror(-rc));
			return;
		}
	}
	put_string(reply->result, "path", vm_gdb_path(vm));
	json_object_object_add(reply->result, "enabled", json_object_new_boolean(vm_gdb_enabled(vm)));
	json_object_object_add(reply->result, "connected", json_object_new_boolean(vm_gdb_connected(vm)));
}

/* Until the VM's end: its definition stays as it is. */
static void do_nic_set(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value = NULL;
	int64_t nic, receive, transmit, receive_burst, transmit_burst;
	if (!vm->def->nic_count) {
		error(reply, CONTROL_ERROR_STATE, "this VM has no network interface");
		return;
	}
	if (!number_param(params, "nic", vm->def->nic_count - 1, 0, &nic, reply))
		return;
	struct vmdef_nic *def = &vm->def->nics[nic];
	if (!number_param(params, "receive_kib", VMDEF_LIMIT_KIB_MAX, def->receive.kib_per_second, &receive, reply) ||
	    !number_param(params, "receive_burst_kib", VMDEF_LIMIT_KIB_MAX, def->receive.burst_kib, &receive_burst, reply) ||
	    !number_param(params, "transmit_kib", VMDEF_LIMIT_KIB_MAX, def->transmit.kib_per_second, &transmit, reply) ||
	    !number_param(params, "transmit_burst_kib", VMDEF_LIMIT_KIB_MAX, def->transmit.burst_kib, &transmit_burst, reply))
		return;
	if (params && json_object_object_get_ex(params, "link", &value)) {
		const char *word = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
		if (strcmp(word, "up") && strcmp(word, "down")) {
			error(reply, RPC_INVALID_PARAMS, "link: up or down is wanted");
			return;
		}
		def->link = strcmp(word, "up") ? VMDEF_LINK_DOWN : VMDEF_LINK_UP;
	}
	def->receive = (struct vmdef_limit){(unsigned)receive, (unsigned)receive_burst};
	def->transmit = (struct vmdef_limit){(unsigned)transmit, (unsigned)transmit_burst};
	vm_nic_apply(vm, (unsigned)nic);
}

static void no_screen(struct reply *reply)
{
	error(reply, CONTROL_ERROR_STATE, "this VM has no screen: \"display\" in its definition gives it one");
}

static void do_screenshot(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value = NULL;
	const char *format = "png";
	if (params && json_object_object_get_ex(params, "format", &value))
		format = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
	if (strcmp(format, "png") && strcmp(format, "ppm")) {
		error(reply, RPC_INVALID_PARAMS, "format: png or ppm is wanted");
		return;
	}
	int rc = vm_screenshot_json(vm, !strcmp(format, "ppm"), reply->result);
	if (rc == -ENODEV)
		no_screen(reply);
	else
		state_error(vm, rc, "take a picture of", reply);
}

static void do_console_size(struct vm *vm, struct json_object *params, struct reply *reply)
{
	int64_t columns, rows;
	if (!number_param(params, "columns", UINT16_MAX, 0, &columns, reply) || !number_param(params, "rows", UINT16_MAX, 0, &rows, reply))
		return;
	if (columns && rows)
		vm_console_set_size(vm, (unsigned)columns, (unsigned)rows);
	else
		error(reply, RPC_INVALID_PARAMS, "columns and rows are wanted, each at least 1");
}

static void typed(struct vm *vm, int rc, struct reply *reply)
{
	if (rc == -ENODEV)
		no_screen(reply);
	else if (rc == -EAGAIN)
		error(reply, CONTROL_ERROR_STATE, "more keys wait to be typed than this VM takes: it does not read them; try again later");
	else
		state_error(vm, rc, "type into", reply);
}

/* A name, or Linux's number. */
static unsigned key_of(struct json_object *value)
{
	if (json_object_is_type(value, json_type_int)) {
		int64_t code = json_object_get_int64(value);
		return code > 0 && code < 256 ? key_from(KEY_SET_LINUX, (unsigned)code) : 0;
	}
	return json_object_is_type(value, json_type_string) ? key_by_name(json_object_get_string(value)) : 0;
}

static void do_send_key(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *list = NULL;
	unsigned keys[KEYS_AT_ONCE];
	int64_t hold;
	if (params)
		json_object_object_get_ex(params, "keys", &list);
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
	if (n < 1 || n > KEYS_AT_ONCE) {
		error(reply, RPC_INVALID_PARAMS, "keys: an array of 1 to %u keys is wanted", KEYS_AT_ONCE);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(list, i);
		keys[i] = key_of(item);
		if (!keys[i]) {
			error(reply, RPC_INVALID_PARAMS,
			      "keys[%zu]: there is no key %.60s; names are those of Linux, such as KEY_ENTER or leftctrl", i,
			      json_object_to_json_string(item));
			return;
		}
	}
	if (number_param(params, "hold_ms", 60000, 100, &hold, reply))
		typed(vm, vm_send_keys(vm, keys, (unsigned)n, (unsigned)hold), reply);
}

static void do_send_text(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value = NULL;
	size_t bad = 0;
	if (!params || !json_object_object_get_ex(params, "text", &value) || !json_object_is_type(value, json_type_string) ||
	    strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value)) {
		error(reply, RPC_INVALID_PARAMS, "text: a string without NULs is wanted");
		return;
	}
	int rc = vm_send_text(vm, json_object_get_string(value), &bad);
	if (rc == -EILSEQ)
		error(reply, RPC_INVALID_PARAMS, "text: no key of a US keyboard has the character at byte %zu", bad);
	else
		typed(vm, rc, reply);
}

static void tools_error(int rc, struct reply *reply)
{
	if (rc == -ENOTSUP)
		error(reply, CONTROL_ERROR_STATE, "this VM has no port for guest tools; define it with \"tools\": \"vmware\"");
	else if (rc == -EAGAIN)
		error(reply, CONTROL_ERROR_STATE, "no tools answer in the guest; is open-vm-tools installed, and running?");
	else if (rc)
		error(reply, RPC_INTERNAL_ERROR, "guest tools: %s", strerror(-rc));
}

static void do_shutdown(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *value = NULL;
	enum vm_shutdown_by by = VM_SHUTDOWN_ANY;
	if (params && json_object_object_get_ex(params, "by", &value) && value) {
		const char *word = json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
		if (strcmp(word, "tools") && strcmp(word, "acpi")) {
			error(reply, RPC_INVALID_PARAMS, "by: tools or acpi is wanted");
			return;
		}
		by = strcmp(word, "acpi") ? VM_SHUTDOWN_TOOLS : VM_SHUTDOWN_ACPI;
	}
	int rc = vm_shutdown(vm, by);
	if (rc == -EBUSY)
		state_error(vm, rc, "shut down", reply);
	else
		tools_error(rc, reply);
}

static void do_guest_tools(struct vm *vm, struct json_object *params, struct reply *reply)
{
	tools_error(vm_tools_json(vm, reply->result), reply);
}

static void do_guest_variables(struct vm *vm, struct json_object *params, struct reply *reply)
{
	tools_error(vm_tools_variables_json(vm, reply->result), reply);
}

static void do_guest_variable_set(struct vm *vm, struct json_object *params, struct reply *reply)
{
	struct json_object *name = NULL, *value = NULL;
	if (params) {
		json_object_object_get_ex(params, "name", &name);
		json_object_object_get_ex(params, "value", &value);
	}
	if (!json_object_is_type(name, json_type_string) || (value && !json_object_is_type(value, json_type_string))) {
		error(reply, RPC_INVALID_PARAMS, "name: a string is wanted; value: a string, or null to take the variable away");
		return;
	}
	int rc = vmware_variable_set(vm->machine, json_object_get_string(name), value ? json_object_get_string(value) : NULL,
				     value ? (size_t)json_object_get_string_len(value) : 0);
	if (rc == -EINVAL)
		error(reply, RPC_INVALID_PARAMS, "name: 1 to %u characters without spaces are wanted", VMWARE_NAME_MAX);
	else if (rc == -ENOSPC)
		error(reply, CONTROL_ERROR_STATE, "the variables of a VM may take %u KiB together, and be %u",
		      VMWARE_VARIABLES_BYTES_MAX >> 10, VMWARE_VARIABLES_MAX);
	else
		tools_error(rc, reply);
}

static void do_guest_time_sync(struct vm *vm, struct json_object *params, struct reply *reply)
{
	tools_error(vmware_time_sync(vm->machine), reply);
}

static void do_balloon(struct vm *vm, struct json_object *params, struct reply *reply)
{
	int64_t memory, seconds;
	struct json_object *state;
	if (!number_param(params, "memory_mib", vm->def->memory_mib, 0, &memory, reply) ||
	    !number_param(params, "stats_seconds", VMDEF_STATS_SECONDS_MAX, -1, &seconds, reply))
		return;
	if (memory && memory < VMDEF_MEMORY_MIN_MIB) {
		error(reply, RPC_INVALID_PARAMS, "memory_mib: from %d to %u are wanted", VMDEF_MEMORY_MIN_MIB, vm->def->memory_mib);
		return;
	}
	if (vm_balloon_set(vm, memory, seconds)) {
		error(reply, CONTROL_ERROR_STATE, "this VM has no balloon%s",
		      vm->def->passthrough_count ? ": it has a device of the host" : ": balloon.device of its definition is none");
		return;
	}
	state = vm_balloon_json(vm);
	json_object_put(reply->result);
	reply->result = state;
}

static const struct {
	const char *name;
	void (*run)(struct vm *vm, struct json_object *params, struct reply *reply);
	bool has_params;
} methods[] = {
	{CONTROL_HELLO, do_hello, false},     {CONTROL_STATUS, do_status, false},
	{CONTROL_PAUSE, do_pause, false},     {CONTROL_RESUME, do_resume, false},
	{CONTROL_STATS, do_stats, false},     {CONTROL_POWER_BUTTON, do_power_button, false},
	{CONTROL_DESTROY, do_destroy, false}, {CONTROL_SET, do_set, true},
	{CONTROL_NMI, do_nmi, false},         {CONTROL_RESET, do_reset, false},
	{CONTROL_REBOOT, do_reboot, false}, {CONTROL_GDB, do_gdb, true},
	{CONTROL_REGS, do_regs, true},
	{CONTROL_DISASSEMBLE, do_disassemble, true},
	{CONTROL_HOT_BLOCKS, do_hot_blocks, true},
	{CONTROL_PERF_MAP, do_perf_map, false},
	{CONTROL_NIC_SET, do_nic_set, true},
	{CONTROL_SCREENSHOT, do_screenshot, true},
	{CONTROL_GUEST, do_guest, true},
	{CONTROL_CONSOLE_SIZE, do_console_size, true},
	{CONTROL_SEND_KEY, do_send_key, true},
	{CONTROL_SEND_TEXT, do_send_text, true},
	{CONTROL_SHUTDOWN, do_shutdown, true},
	{CONTROL_GUEST_TOOLS, do_guest_tools, false},
	{CONTROL_GUEST_VARIABLES, do_guest_variables, false},
	{CONTROL_GUEST_VARIABLE_SET, do_guest_variable_set, true},
	{CONTROL_GUEST_TIME_SYNC, do_guest_time_sync, false},
	{CONTROL_BALLOON, do_balloon, true},
};

/* ---- requests ---- */

/* Takes over `id` and reply->result. */
static void answer(struct control_client *client, struct json_object *id, struct reply *reply)
{
	struct json_object *out = json_object_new_object();
	put_string(out, "jsonrpc", "2.0");
	json_object_object_add(out, "id", id);
	if (reply->code) {
		struct json_object *e = json_object_new_object();
		json_object_object_add(e, "code", json_object_new_int(reply->code));
		put_string(e, "message", reply->message);
		json_object_object_add(out, "error", e);
		json_object_put(reply->result);
	} else {
		json_object_object_add(out, "result", reply->result);
	}
	line_peer_send_json(client->peer, out);
	json_object_put(out);
}

static void dispatch(struct vm *vm, const char *method, struct json_object *params, struct reply *reply)
{
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
		if (strcmp(methods[i].name, method))
			continue;
		bool empty = !params || (json_object_is_type(params, json_type_object) && !json_object_object_length(params));
		if (methods[i].has_params && params && !json_object_is_type(params, json_type_object))
			error(reply, RPC_INVALID_PARAMS, "params: an object is wanted");
		else if (!methods[i].has_params && !empty)
			error(reply, RPC_INVALID_PARAMS, "%s takes no parameters", method);
		else
			methods[i].run(vm, params, reply);
		return;
	}
	error(reply, RPC_METHOD_NOT_FOUND, "no method \"%.80s\"", method);
}

static void handle_request(struct control_client *client, struct json_object *request)
{
	struct vm *vm = client->control->vm;
	struct reply reply = {.result = json_object_new_object(), .client = client};
	struct json_object *id = NULL, *method = NULL, *version = NULL, *params = NULL;
	bool has_id = false;
	if (json_object_is_type(request, json_type_object)) {
		has_id = json_object_object_get_ex(request, "id", &id);
		json_object_object_get_ex(request, "method", &method);
		json_object_object_get_ex(request, "jsonrpc", &version);
		json_object_object_get_ex(request, "params", &params);
	}
	bool id_ok = !id || json_object_is_type(id, json_type_int) || json_object_is_type(id, json_type_string) ||
		     json_object_is_type(id, json_type_double);
	bool valid = id_ok && json_object_is_type(method, json_type_string) && version &&
		     json_object_is_type(version, json_type_string) && !strcmp(json_object_get_string(version), "2.0");
	if (valid)
		dispatch(vm, json_object_get_string(method), params, &reply);
	else
		error(&reply, CONTROL_INVALID_REQUEST, "this is not a JSON-RPC 2.0 request");
	void (*after)(struct vm *) = reply.after;
	if (reply.later) {
		reply.later->wants_answer = has_id;
		reply.later->id = json_object_get(id);
		json_object_put(reply.result);
		return;
	}
	if (has_id || !valid)
		answer(client, id_ok ? json_object_get(id) : NULL, &reply);
	else
		json_object_put(reply.result);
	if (after)
		after(vm);
}

static void on_line(void *opaque, char *text, size_t bytes)
{
	struct json_object *request = NULL;
	const char *why;
	if (line_parse_json(text, bytes, &request, &why)) {
		struct reply reply = {0};
		error(&reply, CONTROL_PARSE_ERROR, "this is not JSON: %s", why);
		answer(opaque, NULL, &reply);
		return;
	}
	handle_request(opaque, request);
	json_object_put(request);
}

static void client_free(struct control_client *client)
{
	while (!LIST_EMPTY(&client->deferred)) {
		struct deferred *deferred = LIST_FIRST(&client->deferred);
		LIST_REMOVE(deferred, link);
		deferred->client = NULL;
		if (vm_profile_cancel(client->control->vm, deferred))
			deferred_free(deferred);
	}
	LIST_REMOVE(client, link);
	client->control->client_count--;
	line_peer_destroy(client->peer);
	free(client);
}

static void on_close(void *opaque, int error_number)
{
	client_free(opaque);
}

static const struct line_ops client_ops = {.on_line = on_line, .on_close = on_close};

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	struct vm_control *control = arg;
	int sock = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (sock < 0)
		return;
	struct control_client *client = control->client_count < CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(sock);
		return;
	}
	client->control = control;
	LIST_INIT(&client->deferred);
	client->peer = line_peer_create(control->vm->base, sock, &client_ops, client);
	if (!client->peer) {
		free(client);
		return;
	}
	LIST_INSERT_HEAD(&control->clients, client, link);
	control->client_count++;
}

void vm_control_notify(struct vm *vm, const char *event, struct json_object *params)
{
	struct json_object *out = json_object_new_object();
	put_string(out, "jsonrpc", "2.0");
	put_string(out, "method", CONTROL_NOTIFY);
	put_string(params, "event", event);
	json_object_object_add(params, "time", json_object_new_double(vm_epoch_seconds()));
	json_object_object_add(out, "params", params);
	struct control_client *client;
	if (vm->control)
		LIST_FOREACH(client, &vm->control->clients, link)
			line_peer_send_json(client->peer, out);
	json_object_put(out);
}

size_t vm_control_unsent(const struct vm *vm)
{
	size_t unsent = 0;
	const struct control_client *client;
	LIST_FOREACH(client, &vm->control->clients, link)
		unsent += line_peer_unsent(client->peer);
	return unsent;
}

int vm_control_open(struct vm *vm)
{
	struct vm_control *control = calloc(1, sizeof(*control));
	if (!control)
		return -ENOMEM;
	control->vm = vm;
	control->listener = -1;
	LIST_INIT(&control->clients);
	vm->control = control;
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_SOCKET, vm->options.dir);
	int fd = sock_listen(path, 0600);
	if (fd < 0)
		return fd;
	control->listener = fd;
	control->acceptable = event_new(vm->base, fd, EV_READ | EV_PERSIST, on_acceptable, control);
	if (!control->acceptable || event_add(control->acceptable, NULL) < 0)
		return -ENOMEM;
	return 0;
}

void vm_control_close(struct vm *vm)
{
	struct vm_control *control = vm->control;
	if (!control)
		return;
	while (!LIST_EMPTY(&control->clients))
		client_free(LIST_FIRST(&control->clients));
	if (control->acceptable)
		event_free(control->acceptable);
	if (control->listener >= 0) {
		char path[PATH_MAX];
		close(control->listener);
		snprintf(path, sizeof(path), "%s/" CONTROL_FILE_SOCKET, vm->options.dir);
		unlink(path);
	}
	free(control);
	vm->control = NULL;
}
