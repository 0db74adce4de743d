/* The VMs this daemon knows. */
#include "daemon/private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double clock_seconds(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

double epoch_seconds(void)
{
	return clock_seconds(CLOCK_REALTIME);
}

double monotonic_seconds(void)
{
	return clock_seconds(CLOCK_MONOTONIC);
}

struct timeval milliseconds(unsigned ms)
{
	return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};
}

void answer_error(daemon_done_fn done, void *opaque, enum daemon_error_code code, const char *format, ...)
{
	struct daemon_error error = {.code = code};
	va_list args;

	va_start(args, format);
	vsnprintf(error.message, sizeof(error.message), format, args);
	va_end(args);
	if (done)
		done(opaque, &error, NULL);
}

/* ---- the list ------------------------------------------------------------------ */

int registry_set_definition(struct vm *vm, struct vmdef *def)
{
	json_object *json = vmdef_to_json(def);

	if (!json) {
		vmdef_free(def);
		return -ENOMEM;
	}
	vmdef_free(vm->def);
	json_object_put(vm->definition);
	vm->def = def;
	vm->definition = json;
	snprintf(vm->name, sizeof(vm->name), "%s", def->name);
	snprintf(vm->uuid, sizeof(vm->uuid), "%s", def->uuid);
	return 0;
}

struct vm *registry_add(struct daemon *daemon, struct vmdef *def, double created)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm) {
		vmdef_free(def);
		return NULL;
	}
	vm->daemon = daemon;
	vm->created = created;
	LIST_INIT(&vm->waits);
	if (registry_set_definition(vm, def)) {
		free(vm);
		return NULL;
	}
	TAILQ_INSERT_TAIL(&daemon->vms, vm, link);
	daemon->vm_count++;
	return vm;
}

struct vm *registry_find_uuid(struct daemon *daemon, const char *uuid)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &daemon->vms, link)
	if (!strcasecmp(vm->uuid, uuid))
		return vm;
	return NULL;
}

struct vm *registry_find_name(struct daemon *daemon, const char *name)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &daemon->vms, link)
	if (!strcmp(vm->name, name))
		return vm;
	return NULL;
}

struct vm *daemon_find(struct daemon *daemon, const char *name_or_uuid)
{
	struct vm *vm = registry_find_uuid(daemon, name_or_uuid);

	if (!vm)
		vm = registry_find_name(daemon, name_or_uuid);
	return vm && !vm->storing ? vm : NULL;
}

const char *daemon_vm_uuid(const struct vm *vm)
{
	return vm->uuid;
}

struct vm *daemon_next(struct daemon *daemon, struct vm *after)
{
	struct vm *vm = after ? TAILQ_NEXT(after, link) : TAILQ_FIRST(&daemon->vms);

	while (vm && vm->storing)
		vm = TAILQ_NEXT(vm, link);
	return vm;
}

struct vm *daemon_find_id(struct daemon *daemon, int id)
{
	struct vm *vm;

	TAILQ_FOREACH(vm, &daemon->vms, link)
	if (vm->process && vm->process->id == id)
		return vm;
	return NULL;
}

int registry_take_id(struct daemon *daemon, int wished)
{
	if (wished <= 0 || daemon_find_id(daemon, wished)) {
		do
			wished = daemon->last_id = daemon->last_id == INT_MAX ? 1 : daemon->last_id + 1;
		while (daemon_find_id(daemon, wished));
	}
	if (wished > daemon->last_id)
		daemon->last_id = wished;
	return wished;
}

void daemon_vm_inspect(const struct vm *vm, struct daemon_vm_info *ret_info)
{
	const struct vm_process *process = vm->process;

	*ret_info = (struct daemon_vm_info){
		.uuid = vm->uuid,
		.name = vm->name,
		.def = vm->def,
		.running_def = process ? process->def : NULL,
		.active = process != NULL,
		.transient = vm->transient,
		.ran = vm->ran,
		.state = vm->state,
		.id = process ? process->id : -1,
		.pid = process ? process->pid : 0,
		.mode = process ? process->mode : NULL,
		.started = process ? process->started : 0,
		.dir = process ? process->dir : NULL,
		.agent = process && process->agent,
		.memory_kib = !process ? 0 : process->memory_kib ? process->memory_kib : (uint64_t)process->def->memory_mib << 10,
	};
}

void registry_remove(struct vm *vm)
{
	if (!vm)
		return;
	registry_answer_waits(vm);
	TAILQ_REMOVE(&vm->daemon->vms, vm, link);
	vm->daemon->vm_count--;
	if (vm->owner)
		LIST_REMOVE(vm, owned);
	if (vm->claim_timer)
		event_free(vm->claim_timer);
	vmdef_free(vm->def);
	json_object_put(vm->definition);
	json_object_put(vm->decision);
	json_object_put(vm->result);
	free(vm);
}

const char *vm_state_text(const struct vm *vm)
{
	return vm->ran ? vm_state_name(vm->state) : "defined";
}

static void replace(json_object **slot, json_object *with)
{
	json_object_put(*slot);
	*slot = with;
}

void registry_set_result(struct vm *vm, json_object *result)
{
	json_object *state = NULL;

	replace(&vm->result, result);
	if (json_object_object_get_ex(result, "state", &state))
		vm->ran = vm_state_parse(json_object_get_string(state), &vm->state);
}

void registry_set_decision(struct vm *vm, json_object *decision)
{
	replace(&vm->decision, decision);
}

/* ---- waits ----------------------------------------------------------------------- */

static void wait_free(struct daemon_wait *wait)
{
	LIST_REMOVE(wait, link);
	event_free(wait->timer);
	free(wait);
}

void registry_answer_waits(struct vm *vm)
{
	struct daemon_wait *wait;
	json_object *result = json_object_get(vm->result);

	while ((wait = LIST_FIRST(&vm->waits))) {
		daemon_done_fn done = wait->done;
		void *opaque = wait->opaque;

		wait_free(wait);
		if (result)
			done(opaque, NULL, result);
		else
			answer_error(done, opaque, DAEMON_NOT_FOUND, "the VM is gone");
	}
	json_object_put(result);
}

static void on_wait_timeout(evutil_socket_t fd, short what, void *opaque)
{
	struct daemon_wait *wait = opaque;
	daemon_done_fn done = wait->done;
	void *to = wait->opaque;

	wait_free(wait);
	answer_error(done, to, DAEMON_TIMEOUT, "the VM has not ended within the time given");
}

struct daemon_wait *daemon_wait(struct daemon *daemon, struct vm *vm, double timeout_s, daemon_done_fn done,
				void *opaque)
{
	struct daemon_wait *wait;

	if (!vm->process) {
		if (vm->result)
			done(opaque, NULL, vm->result);
		else
			answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" does not run and never ran",
				     vm->name);
		return NULL;
	}
	wait = calloc(1, sizeof(*wait));
	if (wait)
		wait->timer = event_new(daemon->base, -1, 0, on_wait_timeout, wait);
	if (!wait || !wait->timer) {
		free(wait);
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return NULL;
	}
	wait->done = done;
	wait->opaque = opaque;
	LIST_INSERT_HEAD(&vm->waits, wait, link);
	if (timeout_s >= 0) {
		struct timeval timeout = {.tv_sec = (time_t)timeout_s,
					  .tv_usec = (suseconds_t)((timeout_s - (double)(time_t)timeout_s) * 1e6)};

		event_add(wait->timer, &timeout);
	}
	return wait;
}

void daemon_wait_cancel(struct daemon_wait *wait)
{
	if (wait)
		wait_free(wait);
}

/* ---- as JSON ---------------------------------------------------------------------- */

static const char *mode_text(const struct vm *vm)
{
	return vm->process ? vm->process->mode : vmdef_mode_name(vm->def->mode);
}

static void put_identity(json_object *to, const struct vm *vm)
{
	put_text(to, "uuid", vm->uuid);
	put_text(to, "name", vm->name);
	put_text(to, "state", vm_state_text(vm));
}

json_object *registry_started_json(const struct vm *vm)
{
	json_object *object = json_object_new_object();

	put_identity(object, vm);
	put_text(object, "mode", mode_text(vm));
	put_text(object, "mode_reason", vm->process->mode_reason);
	json_object_object_add(object, "pid", json_object_new_int(vm->process->pid));
	put_text(object, "console", vm->process->console);
	return object;
}

json_object *daemon_list(struct daemon *daemon)
{
	json_object *rows = json_object_new_array();
	struct vm *vm;

	TAILQ_FOREACH(vm, &daemon->vms, link)
	{
		json_object *row;

		if (vm->storing)
			continue;
		row = json_object_new_object();
		put_identity(row, vm);
		put_text(row, "mode", mode_text(vm));
		json_object_object_add(row, "memory_mib", json_object_new_int64(vm->def->memory_mib));
		json_object_object_add(row, "vcpus", json_object_new_int64(vm->def->vcpus));
		json_object_object_add(row, "transient", json_object_new_boolean(vm->transient));
		json_object_object_add(row, "pid", vm->process ? json_object_new_int(vm->process->pid) : NULL);
		json_object_array_add(rows, row);
	}
	return rows;
}

/* Where programs of the host find the guest's; NULL: it has no vsock. */
static json_object *vsock_path(const struct vm_process *process)
{
	char path[PATH_MAX + 16];

	if (!process->def || !process->def->vsock.present)
		return NULL;
	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_VSOCK, process->dir);
	return json_object_new_string(process->def->vsock.path ? process->def->vsock.path : path);
}

static json_object *process_json(const struct vm_process *process)
{
	json_object *object = json_object_new_object();

	json_object_object_add(object, "pid", json_object_new_int(process->pid));
	put_text(object, "mode", process->mode);
	put_text(object, "mode_reason", process->mode_reason);
	put_text(object, "dir", process->dir);
	put_text(object, "console", process->console);
	json_object_object_add(object, "vsock", vsock_path(process));
	json_object_object_add(object, "started", json_object_new_double(process->started));
	json_object_object_add(object, "adopted", json_object_new_boolean(process->adopted));
	json_object_object_add(object, "agent", json_object_new_boolean(process->agent));
	if (process->memory_kib)
		json_object_object_add(object, "memory_kib", json_object_new_int64((int64_t)process->memory_kib));
	json_object_object_add(object, "connected", json_object_new_boolean(process->vmlink != NULL && process->ready));
	json_object_object_add(object, "cpu", json_object_get(process->cpu));
	return object;
}

json_object *daemon_get(struct daemon *daemon, struct vm *vm)
{
	json_object *object = json_object_new_object();

	put_identity(object, vm);
	json_object_object_add(object, "transient", json_object_new_boolean(vm->transient));
	json_object_object_add(object, "created", json_object_new_double(vm->created));
	json_object_object_add(object, "definition", json_object_get(vm->definition));
	json_object_object_add(object, "process", vm->process ? process_json(vm->process) : NULL);
	json_object_object_add(object, "decision", json_object_get(vm->decision));
	json_object_object_add(object, "result", json_object_get(vm->result));
	return object;
}
