/* What the QEMU guest agent does for users: single commands, and those that take several of its own. */
#include "daemon/private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXEC_POLL_MIN_MS 10
#define EXEC_POLL_MAX_MS 500
#define FILE_TIMEOUT_S 60.0

/* Something that takes several commands. The VM is found anew for each: it may go meanwhile. */
struct guest_op {
	struct daemon *daemon;
	char uuid[VMDEF_UUID_BYTES];
	daemon_done_fn done;
	void *opaque;
	json_object *result;
	/* info */
	unsigned what;
	unsigned row;
	/* exec */
	int64_t pid;
	double deadline; /* monotonic seconds */
	struct event *timer;
	unsigned poll_ms;
	/* files */
	int64_t handle;
	int64_t offset, count;
	json_object *data; /* to write, in base64 */
	struct daemon_error error; /* what went wrong before the file is closed */
	bool failed;
};

static struct guest_op *op_create(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	struct guest_op *op = calloc(1, sizeof(*op));

	if (!op) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return NULL;
	}
	op->daemon = daemon;
	snprintf(op->uuid, sizeof(op->uuid), "%s", vm->uuid);
	op->done = done;
	op->opaque = opaque;
	op->result = json_object_new_object();
	return op;
}

/* Answers with the error, or (NULL) with the result, and frees. */
static void op_end(struct guest_op *op, const struct daemon_error *error)
{
	op->done(op->opaque, error, error ? NULL : op->result);
	if (op->timer)
		event_free(op->timer);
	json_object_put(op->result);
	json_object_put(op->data);
	free(op);
}

/* Takes arguments. */
static void ask(struct guest_op *op, const char *command, json_object *arguments, double timeout, daemon_done_fn next)
{
	struct vm *vm = registry_find_uuid(op->daemon, op->uuid);

	if (vm) {
		daemon_guest_command(op->daemon, vm, command, arguments, timeout, next, op);
		return;
	}
	json_object_put(arguments);
	answer_error(next, op, DAEMON_NOT_FOUND, "the VM is gone");
}

static int64_t int_member(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, key, &value) ? json_object_get_int64(value)
													       : 0;
}

static void put_int(json_object *to, const char *key, int64_t value)
{
	json_object_object_add(to, key, json_object_new_int64(value));
}

/* Copies a member under another name; what is not of the type is left out. */
static void copy(json_object *to, const char *as, json_object *from, const char *key, json_type type)
{
	json_object *value = NULL;

	if (json_object_is_type(from, json_type_object) && json_object_object_get_ex(from, key, &value) && json_object_is_type(value, type))
		json_object_object_add(to, as, json_object_get(value));
}

/* ---- what the guest tells of itself ---------------------------------------------------------- */

static const struct {
	unsigned what;
	const char *key, *command;
	json_type type;
} rows[] = {
	{DAEMON_GUEST_AGENT, "agent", "guest-info", json_type_object},
	{DAEMON_GUEST_OS, "os", "guest-get-osinfo", json_type_object},
	{DAEMON_GUEST_HOSTNAME, "hostname", "guest-get-host-name", json_type_object},
	{DAEMON_GUEST_TIMEZONE, "timezone", "guest-get-timezone", json_type_object},
	{DAEMON_GUEST_USERS, "users", "guest-get-users", json_type_array},
	{DAEMON_GUEST_INTERFACES, "interfaces", "guest-network-get-interfaces", json_type_array},
	{DAEMON_GUEST_FILESYSTEMS, "filesystems", "guest-get-fsinfo", json_type_array},
	{DAEMON_GUEST_DISKS, "disks", "guest-get-disks", json_type_array},
};

static void next_row(struct guest_op *op);

/* Its version, and the names of the commands that it would carry out. */
static json_object *agent_summary(json_object *info)
{
	json_object *summary = json_object_new_object(), *names = json_object_new_array(), *list = NULL;

	copy(summary, "version", info, "version", json_type_string);
	json_object_object_get_ex(info, "supported_commands", &list);
	for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
		json_object *row = json_object_array_get_idx(list, i), *name = NULL, *enabled = NULL;

		if (json_object_is_type(row, json_type_object) && json_object_object_get_ex(row, "name", &name) &&
		    json_object_is_type(name, json_type_string) && json_object_object_get_ex(row, "enabled", &enabled) &&
		    json_object_get_boolean(enabled))
			json_object_array_add(names, json_object_get(name));
	}
	json_object_object_add(summary, "commands", names);
	return summary;
}

static void on_row(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;
	const char *key = rows[op->row].key;
	json_object *failed = NULL;

	/* What this agent cannot tell is left out; one that is not there can tell nothing. */
	if (error && error->code != DAEMON_AGENT_FAILED) {
		op_end(op, error);
		return;
	}
	if (error || !json_object_is_type(result, rows[op->row].type)) {
		if (!json_object_object_get_ex(op->result, "failed", &failed)) {
			failed = json_object_new_object();
			json_object_object_add(op->result, "failed", failed);
		}
		put_text(failed, key, error ? error->message : "the agent's answer has another form");
	} else if (rows[op->row].what == DAEMON_GUEST_AGENT) {
		json_object_object_add(op->result, key, agent_summary(result));
	} else if (rows[op->row].what == DAEMON_GUEST_HOSTNAME) {
		copy(op->result, key, result, "host-name", json_type_string);
	} else {
		json_object_object_add(op->result, key, json_object_get(result));
	}
	op->row++;
	next_row(op);
}

static void next_row(struct guest_op *op)
{
	while (op->row < sizeof(rows) / sizeof(rows[0]) && !(rows[op->row].what & op->what))
		op->row++;
	if (op->row == sizeof(rows) / sizeof(rows[0]))
		op_end(op, NULL);
	else
		ask(op, rows[op->row].command, NULL, DAEMON_GUEST_TIMEOUT_S, on_row);
}

void daemon_guest_info(struct daemon *daemon, struct vm *vm, unsigned what, daemon_done_fn done, void *opaque)
{
	struct guest_op *op = op_create(daemon, vm, done, opaque);

	if (!op)
		return;
	op->what = what;
	next_row(op);
}

/* ---- programs --------------------------------------------------------------------------------- */

static void on_exec_status(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;
	struct timeval wait;
	json_object *exited = NULL;

	if (error) {
		op_end(op, error);
		return;
	}
	if (json_object_is_type(result, json_type_object) && json_object_object_get_ex(result, "exited", &exited) &&
	    json_object_get_boolean(exited)) {
		put_int(op->result, "pid", op->pid);
		copy(op->result, "exit_code", result, "exitcode", json_type_int);
		copy(op->result, "signal", result, "signal", json_type_int);
		copy(op->result, "output_base64", result, "out-data", json_type_string);
		copy(op->result, "errors_base64", result, "err-data", json_type_string);
		copy(op->result, "output_truncated", result, "out-truncated", json_type_boolean);
		copy(op->result, "errors_truncated", result, "err-truncated", json_type_boolean);
		op_end(op, NULL);
		return;
	}
	if (monotonic_seconds() >= op->deadline) {
		struct daemon_error late = {.code = DAEMON_TIMEOUT};

		snprintf(late.message, sizeof(late.message), "the program has not ended in time; it runs on in the guest as process %lld",
			 (long long)op->pid);
		op_end(op, &late);
		return;
	}
	wait = milliseconds(op->poll_ms);
	op->poll_ms = op->poll_ms * 2 < EXEC_POLL_MAX_MS ? op->poll_ms * 2 : EXEC_POLL_MAX_MS;
	event_add(op->timer, &wait);
}

static void on_exec_timer(evutil_socket_t fd, short what, void *opaque)
{
	struct guest_op *op = opaque;
	json_object *arguments = json_object_new_object();

	put_int(arguments, "pid", op->pid);
	ask(op, "guest-exec-status", arguments, DAEMON_GUEST_TIMEOUT_S, on_exec_status);
}

static void on_exec(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;

	if (error) {
		op_end(op, error);
		return;
	}
	op->pid = int_member(result, "pid");
	on_exec_timer(-1, 0, op);
}

void daemon_guest_exec(struct daemon *daemon, struct vm *vm, const struct daemon_guest_exec *exec, daemon_done_fn done, void *opaque)
{
	struct guest_op *op = op_create(daemon, vm, done, opaque);
	json_object *arguments;

	if (!op)
		return;
	op->timer = event_new(daemon->base, -1, 0, on_exec_timer, op);
	if (!op->timer) {
		const struct daemon_error error = {DAEMON_INTERNAL, "out of memory"};

		op_end(op, &error);
		return;
	}
	op->deadline = monotonic_seconds() + exec->timeout;
	op->poll_ms = EXEC_POLL_MIN_MS;
	arguments = json_object_new_object();
	put_text(arguments, "path", exec->path);
	if (exec->arguments)
		json_object_object_add(arguments, "arg", json_object_get(exec->arguments));
	if (exec->environment)
		json_object_object_add(arguments, "env", json_object_get(exec->environment));
	if (exec->input_base64)
		put_text(arguments, "input-data", exec->input_base64);
	json_object_object_add(arguments, "capture-output", json_object_new_boolean(true));
	ask(op, "guest-exec", arguments, DAEMON_GUEST_TIMEOUT_S, on_exec);
}

/* ---- files ------------------------------------------------------------------------------------- */

static void on_closed(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;

	op_end(op, op->failed ? &op->error : error);
}

static void close_file(struct guest_op *op, const struct daemon_error *error)
{
	json_object *arguments = json_object_new_object();

	if (error) {
		op->error = *error;
		op->failed = true;
	}
	put_int(arguments, "handle", op->handle);
	ask(op, "guest-file-close", arguments, FILE_TIMEOUT_S, on_closed);
}

static void on_read(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;

	if (!error) {
		copy(op->result, "data_base64", result, "buf-b64", json_type_string);
		copy(op->result, "bytes", result, "count", json_type_int);
		copy(op->result, "eof", result, "eof", json_type_boolean);
	}
	close_file(op, error);
}

static void read_file(struct guest_op *op)
{
	json_object *arguments = json_object_new_object();

	put_int(arguments, "handle", op->handle);
	put_int(arguments, "count", op->count);
	ask(op, "guest-file-read", arguments, FILE_TIMEOUT_S, on_read);
}

static void on_sought(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;

	if (error)
		close_file(op, error);
	else
		read_file(op);
}

static void on_flushed(void *opaque, const struct daemon_error *error, json_object *result) { close_file(opaque, error); }

static void on_written(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;
	struct daemon_error partly = {.code = DAEMON_AGENT_FAILED};
	json_object *arguments;
	int64_t count = int_member(result, "count");

	if (error) {
		close_file(op, error);
		return;
	}
	put_int(op->result, "bytes", count);
	if (count != op->count) {
		snprintf(partly.message, sizeof(partly.message), "%lld of %lld bytes were written", (long long)count, (long long)op->count);
		close_file(op, &partly);
		return;
	}
	arguments = json_object_new_object();
	put_int(arguments, "handle", op->handle);
	ask(op, "guest-file-flush", arguments, FILE_TIMEOUT_S, on_flushed);
}

static void on_opened(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;
	json_object *arguments;

	if (error) {
		op_end(op, error);
		return;
	}
	op->handle = json_object_get_int64(result);
	if (!op->data && !op->offset) {
		read_file(op);
		return;
	}
	arguments = json_object_new_object();
	put_int(arguments, "handle", op->handle);
	if (op->data) {
		json_object_object_add(arguments, "buf-b64", json_object_get(op->data));
		ask(op, "guest-file-write", arguments, FILE_TIMEOUT_S, on_written);
	} else {
		put_int(arguments, "offset", op->offset);
		put_int(arguments, "whence", 0);
		ask(op, "guest-file-seek", arguments, FILE_TIMEOUT_S, on_sought);
	}
}

static void open_file(struct guest_op *op, const char *path, const char *mode)
{
	json_object *arguments = json_object_new_object();

	put_text(arguments, "path", path);
	put_text(arguments, "mode", mode);
	ask(op, "guest-file-open", arguments, FILE_TIMEOUT_S, on_opened);
}

void daemon_guest_read_file(struct daemon *daemon, struct vm *vm, const char *path, int64_t offset, int64_t count, daemon_done_fn done,
			    void *opaque)
{
	struct guest_op *op = op_create(daemon, vm, done, opaque);

	if (!op)
		return;
	op->offset = offset;
	op->count = count;
	open_file(op, path, "r");
}

void daemon_guest_write_file(struct daemon *daemon, struct vm *vm, const char *path, const char *base64, int64_t bytes, bool append,
			     daemon_done_fn done, void *opaque)
{
	struct guest_op *op = op_create(daemon, vm, done, opaque);

	if (!op)
		return;
	op->data = json_object_new_string(base64);
	op->count = bytes;
	open_file(op, path, append ? "a" : "w");
}

/* ---- its end -------------------------------------------------------------------------------------- */

static void on_shutdown(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;

	op_end(op, error);
}

/* The agent would not: the button, if that was allowed. */
static void on_shutdown_or_button(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct guest_op *op = opaque;
	struct vm *vm = registry_find_uuid(op->daemon, op->uuid);

	if (!error || !vm || (error->code != DAEMON_AGENT_ABSENT && error->code != DAEMON_AGENT_UNRESPONSIVE &&
			      error->code != DAEMON_AGENT_FAILED))
		op_end(op, error);
	else if (op->what)
		daemon_reboot(op->daemon, vm, on_shutdown, op);
	else
		daemon_shutdown(op->daemon, vm, on_shutdown, op);
}

void daemon_guest_end(struct daemon *daemon, struct vm *vm, const char *mode, bool or_button, daemon_done_fn done, void *opaque)
{
	struct guest_op *op = op_create(daemon, vm, done, opaque);
	json_object *arguments;

	if (!op)
		return;
	op->what = !strcmp(mode, "reboot");
	arguments = json_object_new_object();
	put_text(arguments, "mode", mode);
	ask(op, "guest-shutdown", arguments, DAEMON_GUEST_TIMEOUT_S, or_button ? on_shutdown_or_button : on_shutdown);
}
