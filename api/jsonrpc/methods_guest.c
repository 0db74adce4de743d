/* The methods of vm.guest: what the QEMU guest agent does for users. */
#include "api/jsonrpc/methods.h"
#include "proto/base64.h"

#include <stdlib.h>
#include <string.h>

#define READ_MAX (4 << 20)
#define WRITE_MAX (8 << 20)

/* ---- single commands ------------------------------------------------------------------- */

/* arguments is taken. */
static void command(struct rpc_call *call, json_object *params, const char *name, json_object *arguments, daemon_done_fn done)
{
	struct vm *vm = rpc_find_vm(call, params);

	if (vm)
		daemon_guest_command(call->conn->daemon, vm, name, arguments, DAEMON_GUEST_TIMEOUT_S, done, call);
	else
		json_object_put(arguments);
}

/* What the agent answers is of no interest. */
static void empty_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	json_object *nothing = error ? NULL : json_object_new_object();

	rpc_done(opaque, error, nothing);
	json_object_put(nothing);
}

/* {"count": the number that it answers} */
static void count_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	json_object *answer = error ? NULL : json_object_new_object();

	if (answer)
		json_object_object_add(answer, "count", json_object_new_int64(json_object_get_int64(result)));
	rpc_done(opaque, error, answer);
	json_object_put(answer);
}

static void status_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	json_object *answer = error ? NULL : json_object_new_object();

	if (answer)
		json_object_object_add(answer, "frozen", json_object_new_boolean(json_object_is_type(result, json_type_string) &&
										 !strcmp(json_object_get_string(result), "frozen")));
	rpc_done(opaque, error, answer);
	json_object_put(answer);
}

static void time_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	json_object *answer = error ? NULL : json_object_new_object();

	if (answer)
		json_object_object_add(answer, "time", json_object_new_double((double)json_object_get_int64(result) / 1e9));
	rpc_done(opaque, error, answer);
	json_object_put(answer);
}

static double timeout_of(json_object *params)
{
	json_object *value = NULL;

	return json_object_object_get_ex(params, "timeout", &value) && value ? json_object_get_double(value) : DAEMON_GUEST_TIMEOUT_S;
}

static json_object *copied(json_object *params, const char *key, const char *as)
{
	json_object *arguments = json_object_new_object(), *value = NULL;

	if (json_object_object_get_ex(params, key, &value) && value)
		json_object_object_add(arguments, as, json_object_get(value));
	return arguments;
}

static void handle_command(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *arguments = NULL;

	json_object_object_get_ex(params, "arguments", &arguments);
	if (vm)
		daemon_guest_command(call->conn->daemon, vm, rpc_string(params, "command"), json_object_get(arguments), timeout_of(params), rpc_done,
				     call);
}

static void handle_ping(struct rpc_call *call, json_object *params) { command(call, params, "guest-ping", NULL, empty_done); }

static void handle_freeze(struct rpc_call *call, json_object *params)
{
	bool some = json_object_object_get_ex(params, "mountpoints", NULL);

	command(call, params, some ? "guest-fsfreeze-freeze-list" : "guest-fsfreeze-freeze", copied(params, "mountpoints", "mountpoints"),
		count_done);
}

static void handle_thaw(struct rpc_call *call, json_object *params) { command(call, params, "guest-fsfreeze-thaw", NULL, count_done); }

static void handle_freeze_status(struct rpc_call *call, json_object *params)
{
	command(call, params, "guest-fsfreeze-status", NULL, status_done);
}

static void handle_trim(struct rpc_call *call, json_object *params)
{
	command(call, params, "guest-fstrim", copied(params, "minimum", "minimum"), rpc_done);
}

static void handle_time(struct rpc_call *call, json_object *params) { command(call, params, "guest-get-time", NULL, time_done); }

static void handle_set_time(struct rpc_call *call, json_object *params)
{
	json_object *arguments = NULL, *value = NULL;

	/* Without one the guest reads its clock chip, which is the host's time. */
	if (json_object_object_get_ex(params, "time", &value) && value) {
		arguments = json_object_new_object();
		json_object_object_add(arguments, "time", json_object_new_int64((int64_t)(json_object_get_double(value) * 1e9)));
	}
	command(call, params, "guest-set-time", arguments, empty_done);
}

static void handle_set_password(struct rpc_call *call, json_object *params)
{
	const char *password = rpc_string(params, "password");
	char *encoded = base64_encode((const unsigned char *)password, strlen(password));
	json_object *arguments = json_object_new_object();

	if (!encoded) {
		json_object_put(arguments);
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
		return;
	}
	json_object_object_add(arguments, "username", json_object_new_string(rpc_string(params, "user")));
	json_object_object_add(arguments, "password", json_object_new_string(encoded));
	json_object_object_add(arguments, "crypted", json_object_new_boolean(rpc_boolean(params, "crypted", false)));
	free(encoded);
	command(call, params, "guest-set-user-password", arguments, empty_done);
}

static void handle_shutdown(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	const char *mode = rpc_string(params, "mode");

	if (vm)
		daemon_guest_end(call->conn->daemon, vm, mode ? mode : "powerdown", false, empty_done, call);
}

/* ---- several ------------------------------------------------------------------------------- */

static const char *const info_values[] = {"agent", "os", "hostname", "timezone", "users", "interfaces", "filesystems", "disks", NULL};

static void handle_info(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *what = NULL;
	unsigned bits = 0;

	if (!vm)
		return;
	json_object_object_get_ex(params, "what", &what);
	for (size_t i = 0; what && i < json_object_array_length(what); i++)
		for (unsigned k = 0; info_values[k]; k++)
			if (!strcmp(json_object_get_string(json_object_array_get_idx(what, i)), info_values[k]))
				bits |= 1u << k;
	daemon_guest_info(call->conn->daemon, vm, bits ? bits : DAEMON_GUEST_ALL, rpc_done, call);
}

/* How long a valid UTF-8 sequence begins here; 0: none does (Unicode, table 3-7). */
static size_t sequence(const unsigned char *at, size_t n)
{
	size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;

	if (!length || length > n)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f))
		return 0;
	return length;
}

/* Adds what `encoded` is as text, where what is no UTF-8, or NUL, becomes U+FFFD. */
static void add_text(json_object *to, const char *key, json_object *encoded)
{
	const char *text = json_object_get_string(encoded);
	size_t n = text ? strlen(text) : 0, used = 0;
	unsigned char *bytes = malloc(n + 3), *out = malloc(3 * n + 1);
	ssize_t count = bytes && out ? base64_decode(text ? text : "", n, bytes) : -1;

	for (ssize_t i = 0; i < count;) {
		size_t length = bytes[i] ? sequence(bytes + i, (size_t)(count - i)) : 0;

		memcpy(out + used, length ? bytes + i : (const unsigned char *)"\xef\xbf\xbd", length ? length : 3);
		used += length ? length : 3;
		i += (ssize_t)(length ? length : 1);
	}
	if (count >= 0)
		json_object_object_add(to, key, json_object_new_string_len((const char *)out, (int)used));
	free(bytes);
	free(out);
}

static void exec_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	json_object *value = NULL;

	if (!error && json_object_object_get_ex(result, "output_base64", &value))
		add_text(result, "output", value);
	if (!error && json_object_object_get_ex(result, "errors_base64", &value))
		add_text(result, "errors", value);
	rpc_done(opaque, error, result);
}

static void handle_exec(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	struct daemon_guest_exec exec = {.path = rpc_string(params, "path"), .timeout = timeout_of(params)};
	const char *input = rpc_string(params, "input");
	char *encoded = NULL;

	if (!vm)
		return;
	exec.input_base64 = rpc_string(params, "input_base64");
	if (input && exec.input_base64) {
		rpc_fail(call, RPC_INVALID_PARAMS, "input and input_base64 exclude each other");
		return;
	}
	if (input)
		exec.input_base64 = encoded = base64_encode((const unsigned char *)input, strlen(input));
	json_object_object_get_ex(params, "arguments", &exec.arguments);
	json_object_object_get_ex(params, "environment", &exec.environment);
	if (input && !encoded)
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
	else
		daemon_guest_exec(call->conn->daemon, vm, &exec, exec_done, call);
	free(encoded);
}

static int64_t number_of(json_object *params, const char *key, int64_t otherwise)
{
	json_object *value = NULL;

	return json_object_object_get_ex(params, key, &value) && value ? json_object_get_int64(value) : otherwise;
}

static void handle_read_file(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);

	if (vm)
		daemon_guest_read_file(call->conn->daemon, vm, rpc_string(params, "path"), number_of(params, "offset", 0),
				       number_of(params, "count", READ_MAX), rpc_done, call);
}

static void handle_write_file(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	const char *text = rpc_string(params, "data_base64");
	size_t n = strlen(text);
	unsigned char *bytes = vm ? malloc(n + 3) : NULL;
	ssize_t count = bytes ? base64_decode(text, n, bytes) : 0;

	free(bytes);
	if (!vm)
		return;
	if (!bytes)
		rpc_fail(call, RPC_INTERNAL_ERROR, "out of memory");
	else if (count < 0)
		rpc_fail(call, RPC_INVALID_PARAMS, "data_base64: this is no base64");
	else
		daemon_guest_write_file(call->conn->daemon, vm, rpc_string(params, "path"), text, count, rpc_boolean(params, "append", false),
					rpc_done, call);
}

static void handle_balloon(struct rpc_call *call, json_object *params)
{
	struct vm *vm = rpc_find_vm(call, params);
	json_object *wishes = json_object_new_object(), *value = NULL;

	for (const char *const *key = (const char *const[]){"memory_mib", "stats_seconds", NULL}; *key; key++)
		if (json_object_object_get_ex(params, *key, &value) && value)
			json_object_object_add(wishes, *key, json_object_get(value));
	if (vm)
		daemon_inspect(call->conn->daemon, vm, DAEMON_BALLOON, wishes, 0, rpc_done, call);
	else
		json_object_put(wishes);
}

/* clang-format off: tables, a row for each field and method */

#define PATH_FIELD {"path", RPC_STRING, RPC_REQUIRED, 1, 4096, .summary = "a path in the guest"}
#define TIMEOUT_FIELD {"timeout", RPC_NUMBER, 0, 0.1, 3600, .summary = "seconds; 30 when absent"}

static const struct rpc_field command_params[] = {
	VM_FIELD,
	{"command", RPC_STRING, RPC_REQUIRED, 1, 100, .summary = "such as guest-get-vcpus"},
	{"arguments", RPC_OBJECT, 0, .summary = "as the agent's documentation has them"},
	TIMEOUT_FIELD,
	END,
};
static const struct rpc_field info_item[] = {{"what", RPC_STRING, .values = info_values, .summary = "a part"}};
static const struct rpc_field info_params[] = {
	VM_FIELD,
	{"what", RPC_ARRAY, 0, .fields = info_item, .summary = "which parts; all when absent"},
	END,
};
static const struct rpc_field info_fields[] = {
	{"agent", RPC_OBJECT, 0, .summary = "its version, and the commands that it carries out"},
	{"os", RPC_OBJECT, 0, .summary = "name, version, kernel, machine"},
	{"hostname", RPC_STRING, 0, .summary = "the guest's name for itself"},
	{"timezone", RPC_OBJECT, 0, .summary = "name and offset in seconds"},
	{"users", RPC_ARRAY, 0, .summary = "who is logged in"},
	{"interfaces", RPC_ARRAY, 0, .summary = "network interfaces with their addresses"},
	{"filesystems", RPC_ARRAY, 0, .summary = "what is mounted, and on which disks"},
	{"disks", RPC_ARRAY, 0, .summary = "disks and partitions"},
	{"failed", RPC_OBJECT, 0, .summary = "what this agent does not tell, and why"},
	END,
};
static const struct rpc_field exec_params[] = {
	VM_FIELD,
	PATH_FIELD,
	{"arguments", RPC_ARRAY, 0, .fields = rpc_text_item, .summary = "for the program"},
	{"environment", RPC_ARRAY, 0, .fields = rpc_text_item, .summary = "NAME=VALUE each, instead of the agent's"},
	{"input", RPC_STRING, 0, .summary = "what the program reads, as text"},
	{"input_base64", RPC_STRING, 0, .summary = "the same as bytes"},
	TIMEOUT_FIELD,
	END,
};
static const struct rpc_field exec_fields[] = {
	{"pid", RPC_INTEGER, RPC_REQUIRED, .summary = "in the guest"},
	{"exit_code", RPC_INTEGER, 0, .summary = "absent when a signal ended it"},
	{"signal", RPC_INTEGER, 0, .summary = "which signal ended it"},
	{"output", RPC_STRING, 0, .summary = "standard output as text; what is no UTF-8 is replaced"},
	{"errors", RPC_STRING, 0, .summary = "standard error, the same"},
	{"output_base64", RPC_STRING, 0, .summary = "standard output as bytes"},
	{"errors_base64", RPC_STRING, 0, .summary = "standard error as bytes"},
	{"output_truncated", RPC_BOOLEAN, 0, .summary = "there was more than the agent keeps"},
	{"errors_truncated", RPC_BOOLEAN, 0, .summary = "the same of standard error"},
	END,
};
static const struct rpc_field freeze_params[] = {
	VM_FIELD,
	{"mountpoints", RPC_ARRAY, 0, .fields = rpc_text_item, .summary = "only these; all when absent"},
	END,
};
static const struct rpc_field count_fields[] = {{"count", RPC_INTEGER, RPC_REQUIRED, .summary = "of file systems"}, END};
static const struct rpc_field status_fields[] = {{"frozen", RPC_BOOLEAN, RPC_REQUIRED, .summary = "writes wait for vm.guest.thaw"}, END};
static const struct rpc_field trim_params[] = {
	VM_FIELD,
	{"minimum", RPC_INTEGER, 0, 0, 9007199254740992.0, .summary = "bytes; shorter runs of free space are left alone"},
	END,
};
static const struct rpc_field trim_fields[] = {{"paths", RPC_ARRAY, 0, .summary = "each with what was trimmed, or why nothing was"}, END};
static const struct rpc_field time_fields[] = {{"time", RPC_NUMBER, RPC_REQUIRED, .summary = "seconds since the epoch"}, END};
static const struct rpc_field set_time_params[] = {
	VM_FIELD,
	{"time", RPC_NUMBER, 0, 0, 9e9, .summary = "seconds since the epoch; the guest's clock chip's when absent"},
	END,
};
static const struct rpc_field read_params[] = {
	VM_FIELD,
	PATH_FIELD,
	{"offset", RPC_INTEGER, 0, 0, 9007199254740992.0, .summary = "where to begin, in bytes"},
	{"count", RPC_INTEGER, 0, 1, READ_MAX, .summary = "how much at most; 4 MiB when absent"},
	END,
};
static const struct rpc_field read_fields[] = {
	{"data_base64", RPC_STRING, RPC_REQUIRED, .summary = "what was read"},
	{"bytes", RPC_INTEGER, RPC_REQUIRED, .summary = "how much that is"},
	{"eof", RPC_BOOLEAN, RPC_REQUIRED, .summary = "the file ends here"},
	END,
};
static const struct rpc_field write_params[] = {
	VM_FIELD,
	PATH_FIELD,
	{"data_base64", RPC_STRING, RPC_REQUIRED, 0, WRITE_MAX / 3 * 4, .summary = "what to write"},
	{"append", RPC_BOOLEAN, 0, .summary = "behind what is there, instead of in its place"},
	END,
};
static const struct rpc_field write_fields[] = {{"bytes", RPC_INTEGER, RPC_REQUIRED, .summary = "how much was written"}, END};
static const struct rpc_field password_params[] = {
	VM_FIELD,
	{"user", RPC_STRING, RPC_REQUIRED, 1, 256, .summary = "a user of the guest"},
	{"password", RPC_STRING, RPC_REQUIRED, 0, 4096, .summary = "the new password"},
	{"crypted", RPC_BOOLEAN, 0, .summary = "it is crypt(3)'s result already"},
	END,
};
static const char *const end_values[] = {"powerdown", "reboot", "halt", NULL};
static const struct rpc_field shutdown_params[] = {
	VM_FIELD,
	{"mode", RPC_STRING, 0, .values = end_values, .summary = "powerdown when absent"},
	END,
};

static const struct rpc_field balloon_stats_fields[] = {
	{"total_kib", RPC_INTEGER, 0, .summary = "what the guest's kernel has to give"},
	{"unused_kib", RPC_INTEGER, 0, .summary = "of this, what nothing is in"},
	{"available_kib", RPC_INTEGER, 0, .summary = "what programs could have without swapping"},
	{"disk_caches_kib", RPC_INTEGER, 0, .summary = "copies of what is on disks"},
	{"swap_in_kib", RPC_INTEGER, 0, .summary = "read from swap, in all"},
	{"swap_out_kib", RPC_INTEGER, 0, .summary = "written there"},
	{"major_faults", RPC_INTEGER, 0, .summary = "page faults that a disk was read for"},
	{"minor_faults", RPC_INTEGER, 0, .summary = "the others"},
	END,
};
const struct rpc_field rpc_balloon_fields[] = {
	{"memory_kib", RPC_INTEGER, RPC_REQUIRED, .summary = "what the guest has, by its own word"},
	{"wished_kib", RPC_INTEGER, RPC_REQUIRED, .summary = "what it is to have; it follows when and as far as it can"},
	{"stats_seconds", RPC_INTEGER, RPC_REQUIRED, .summary = "how often it is asked for figures; 0: when somebody wants them"},
	{"stats", RPC_OBJECT, RPC_OPEN, .fields = balloon_stats_fields, .summary = "its figures; absent while it has told none"},
	{"stats_age_seconds", RPC_NUMBER, 0, .summary = "how old they are: to ask is to have newer ones made"},
	END,
};
static const struct rpc_field balloon_params[] = {
	VM_FIELD,
	{"memory_mib", RPC_INTEGER, 0, 16, 1048576, .summary = "what the guest is to have, at most the definition's memory_mib"},
	{"stats_seconds", RPC_INTEGER, 0, 0, 86400, .summary = "how often it is asked for figures"},
	END,
};

const struct rpc_method rpc_guest_methods[] = {
	{"vm.guest.ping",
	 "Answered by the QEMU guest agent in the guest (Debian: qemu-guest-agent), if the definition's guest_agent is true.",
	 rpc_vm_only, NOTHING, handle_ping},
	{"vm.guest.info",
	 "What the guest tells of itself through its agent.",
	 info_params, {"result", RPC_OBJECT, RPC_OPEN, .fields = info_fields, .summary = "its parts"}, handle_info},
	{"vm.guest.exec",
	 "Runs a program in the guest, and answers with its output when it has ended.",
	 exec_params, RESULT(exec_fields, "how it ended"), handle_exec},
	{"vm.guest.freeze",
	 "Brings the guest's file systems into a state that a copy of its disks can be made of, and holds writes back.",
	 freeze_params, RESULT(count_fields, "how many were frozen"), handle_freeze},
	{"vm.guest.thaw",
	 "Lets writes go on.",
	 rpc_vm_only, RESULT(count_fields, "how many were thawed"), handle_thaw},
	{"vm.guest.freeze_status",
	 "Whether the guest's file systems are frozen.",
	 rpc_vm_only, RESULT(status_fields, "that"), handle_freeze_status},
	{"vm.guest.trim",
	 "Has the guest discard what its file systems do not use, which gives it back to the host.",
	 trim_params, {"result", RPC_OBJECT, RPC_OPEN, .fields = trim_fields, .summary = "what was trimmed"}, handle_trim},
	{"vm.guest.time",
	 "The guest's idea of the time.",
	 rpc_vm_only, RESULT(time_fields, "the time"), handle_time},
	{"vm.guest.set_time",
	 "Sets the guest's clock.",
	 set_time_params, NOTHING, handle_set_time},
	{"vm.guest.read_file",
	 "Reads a file of the guest's.",
	 read_params, RESULT(read_fields, "the bytes"), handle_read_file},
	{"vm.guest.write_file",
	 "Writes a file of the guest's.",
	 write_params, RESULT(write_fields, "how much"), handle_write_file},
	{"vm.guest.set_password",
	 "Gives a user of the guest a new password.",
	 password_params, NOTHING, handle_set_password},
	{"vm.guest.shutdown",
	 "Has the guest shut itself down. vm.shutdown does it with less help from the guest.",
	 shutdown_params, NOTHING, handle_shutdown},
	{"vm.guest.command",
	 "Any of the agent's commands, and its answer as it is.",
	 command_params, {"result", RPC_ANY, 0, .summary = "what the agent returns"}, handle_command},
	{"vm.balloon",
	 "What a running guest has of its memory, and how it uses it.",
	 rpc_vm_only, {"result", RPC_OBJECT, RPC_OPEN, .fields = rpc_balloon_fields, .summary = "the balloon"}, handle_balloon},
	{"vm.balloon_set",
	 "Takes memory from a running guest, or gives it back; until the VM's end. The definition's current_memory_mib is for its start.",
	 balloon_params, {"result", RPC_OBJECT, RPC_OPEN, .fields = rpc_balloon_fields, .summary = "the balloon"}, handle_balloon},
	{.name = NULL},
};
