/* What the APIs ask for: definitions, starts and ends, and calls to running VMs. */
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/paths.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_S 10

/* An answer that is due later, about one VM (named, because it may go meanwhile). */
struct op {
	struct daemon *daemon;
	char uuid[VMDEF_UUID_BYTES];
	char name[VMDEF_NAME_MAX + 1]; /* of a definition */
	struct vmdef *def;
	const char *event;    /* of a change; NULL: "defined" */
	json_object *details; /* of that event */
	daemon_done_fn done;
	void *opaque;
};

static struct op *op_create(struct daemon *daemon, const char *uuid, daemon_done_fn done, void *opaque)
{
	struct op *op = calloc(1, sizeof(*op));

	if (!op) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return NULL;
	}
	op->daemon = daemon;
	snprintf(op->uuid, sizeof(op->uuid), "%s", uuid);
	op->done = done;
	op->opaque = opaque;
	return op;
}

static void op_free(struct op *op)
{
	vmdef_free(op->def);
	json_object_put(op->details);
	free(op);
}

static void answer_empty(daemon_done_fn done, void *opaque)
{
	json_object *result = json_object_new_object();

	done(opaque, NULL, result);
	json_object_put(result);
}

static void answer_identity(struct vm *vm, daemon_done_fn done, void *opaque)
{
	json_object *result = json_object_new_object();

	put_text(result, "uuid", vm->uuid);
	put_text(result, "name", vm->name);
	done(opaque, NULL, result);
	json_object_put(result);
}

/* ---- definitions ------------------------------------------------------------------ */

/* A checked definition, or NULL and the error was answered. */
static struct vmdef *parse(json_object *json, daemon_done_fn done, void *opaque)
{
	char error[VMDEF_ERROR_BYTES] = "";
	struct vmdef *def = NULL;
	int rc = vmdef_from_json(json, &def, error);

	if (!rc)
		return def;
	if (rc == -EINVAL)
		answer_error(done, opaque, DAEMON_INVALID, "definition: %s", error);
	else
		answer_error(done, opaque, DAEMON_INTERNAL, "%s", strerror(-rc));
	return NULL;
}

/* A transient one is transient no more. */
static void keep(struct vm *vm)
{
	vm->keeping = vm->transient = false;
	if (vm->owner)
		LIST_REMOVE(vm, owned);
	vm->owner = NULL;
	if (vm->process && vmdir_write_note(vm, vm->process->dir, vm->process->mode, vm->process->id))
		log_warning("VM %s: its note for the next daemon cannot be written", vm->name);
}

static void copy_text(char **to, const char *from)
{
	char *copy = from ? strdup(from) : NULL;

	if (from && !copy)
		return;
	free(*to);
	*to = copy;
}

/* What is for people holds for the running VM too. */
static void refresh_running(struct vm *vm)
{
	if (!vm->process || !vm->process->def)
		return;
	copy_text(&vm->process->def->title, vm->def->title);
	copy_text(&vm->process->def->description, vm->def->description);
	copy_text(&vm->process->def->libvirt_xml, vm->def->libvirt_xml);
}

/* Takes the operation's definition as the VM's, and tells. */
static void take_definition(struct op *op, struct vm *vm, const char *change)
{
	json_object *told = op->details ? json_object_get(op->details) : json_object_new_object();

	if (op->def && registry_set_definition(vm, op->def))
		log_error("VM %s: out of memory; the new definition holds after a restart", vm->name);
	op->def = NULL;
	if (op->event && strcmp(op->event, "defined"))
		refresh_running(vm);
	put_text(told, "change", change);
	event_emit(vm, op->event ? op->event : "defined", told);
}

static void on_defined(void *opaque, int error, const char *message, json_object *rows)
{
	struct op *op = opaque;
	struct vm *vm = registry_find_uuid(op->daemon, op->uuid);
	const char *change;

	if (error) {
		if (vm && vm->keeping) {
			vm->keeping = false;
			if (!vm->process && !vm->owner)
				registry_remove(vm);
		} else if (vm && vm->storing) {
			registry_remove(vm);
		}
		if (error == -EEXIST)
			answer_error(op->done, op->opaque, DAEMON_EXISTS, "the name is taken by another VM");
		else
			answer_error(op->done, op->opaque, DAEMON_STORAGE, "%s", message);
		op_free(op);
		return;
	}
	if (!vm) { /* undefined while it was being redefined: the store did both in this order */
		answer_error(op->done, op->opaque, DAEMON_NOT_FOUND, "the VM was undefined meanwhile");
		op_free(op);
		return;
	}
	vm->storing = false;
	change = strcmp(vm->name, op->name) ? "renamed" : vm->transient || !op->def ? "added" : "updated";
	if (vm->keeping)
		keep(vm);
	take_definition(op, vm, change);
	answer_identity(vm, op->done, op->opaque);
	op_free(op);
}

/* Whether the definition may come in: false and the error was answered. *ret_vm: the VM it replaces, NULL for a new
 * one. */
static bool admit(struct daemon *daemon, const struct vmdef *def, struct vm **ret_vm, daemon_done_fn done, void *opaque)
{
	struct vm *same = registry_find_uuid(daemon, def->uuid), *named = registry_find_name(daemon, def->name);

	if (named && named != same) {
		answer_error(done, opaque, DAEMON_EXISTS,
			     "the name \"%s\" is taken by VM %s; to redefine it give that uuid", def->name,
			     named->uuid);
	} else if (same && (same->storing || same->forgetting || same->keeping || (same->transient && !same->process))) {
		answer_error(done, opaque, DAEMON_EXISTS, "the uuid %s is taken by a VM that is %s", def->uuid,
			     same->transient && !same->keeping ? "transient" : "being changed right now");
	} else if (!same && daemon->vm_count >= daemon->settings->max_vms) {
		answer_error(done, opaque, DAEMON_LIMIT,
			     "there are %u VMs already; max_vms in the configuration sets the limit", daemon->vm_count);
	} else {
		*ret_vm = same;
		return true;
	}
	return false;
}

void daemon_define(struct daemon *daemon, json_object *definition, daemon_done_fn done, void *opaque)
{
	struct vmdef *def = parse(definition, done, opaque);
	struct vm *vm = NULL;
	json_object *json;
	struct op *op;

	if (!def)
		return;
	if (!admit(daemon, def, &vm, done, opaque)) {
		vmdef_free(def);
		return;
	}
	op = op_create(daemon, def->uuid, done, opaque);
	if (!op) {
		vmdef_free(def);
		return;
	}
	snprintf(op->name, sizeof(op->name), "%s", def->name);
	if (vm) {
		op->def = def;
		vm->keeping = vm->transient;
	} else {
		vm = registry_add(daemon, def, epoch_seconds());
		if (!vm) {
			answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
			op_free(op);
			return;
		}
		vm->storing = true;
	}
	json = vmdef_to_json(def);
	if (json)
		store_put_definition(
			daemon->store, def->uuid, def->name,
			json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
			vm->created, on_defined, op);
	else
		on_defined(op, -ENOMEM, "out of memory", NULL);
	json_object_put(json);
}

/* The definition with changes made; NULL: the error was answered. */
static struct vmdef *changed(struct vm *vm, json_object *changes, daemon_done_fn done, void *opaque)
{
	json_object *json = NULL;
	struct vmdef *def;

	if (json_object_deep_copy(vm->definition, &json, NULL) < 0) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return NULL;
	}
	json_object_object_foreach(changes, key, value)
	{
		if (value)
			json_object_object_add(json, key, json_object_get(value));
		else
			json_object_object_del(json, key);
	}
	def = parse(json, done, opaque);
	json_object_put(json);
	return def;
}

void daemon_change(struct daemon *daemon, struct vm *vm, json_object *changes, const char *event, json_object *details,
		   daemon_done_fn done, void *opaque)
{
	struct vmdef *def = changed(vm, changes, done, opaque);
	struct vm *same = NULL;
	json_object *json = NULL;
	struct op *op = NULL;

	if (def && admit(daemon, def, &same, done, opaque))
		op = op_create(daemon, vm->uuid, done, opaque);
	if (!op) {
		vmdef_free(def);
		json_object_put(details);
		return;
	}
	op->def = def;
	op->event = event;
	op->details = details;
	snprintf(op->name, sizeof(op->name), "%s", def->name);
	if (vm->transient) {
		take_definition(op, vm, "updated");
		answer_identity(vm, done, opaque);
		op_free(op);
		return;
	}
	json = vmdef_to_json(def);
	if (json)
		store_put_definition(
			daemon->store, def->uuid, def->name,
			json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
			vm->created, on_defined, op);
	else
		on_defined(op, -ENOMEM, "out of memory", NULL);
	json_object_put(json);
}

static void on_undefined(void *opaque, int error, const char *message, json_object *rows)
{
	struct op *op = opaque;
	struct vm *vm = registry_find_uuid(op->daemon, op->uuid);
	char dir[PATH_MAX];

	if (vm)
		vm->forgetting = false;
	if (error) {
		answer_error(op->done, op->opaque, DAEMON_STORAGE, "%s", message);
	} else {
		if (vm) {
			event_emit(vm, "undefined", NULL);
			learning_forget(vm);
		}
		if (vm && vm->process) {
			/* It runs on, as a transient one. */
			vm->transient = true;
			if (vmdir_write_note(vm, vm->process->dir, vm->process->mode, vm->process->id))
				log_warning("VM %s: its note for the next daemon cannot be written", vm->name);
		} else if (vm) {
			if (!paths_join(dir, sizeof(dir), op->daemon->vms_dir, vm->uuid))
				vmdir_remove(dir);
			registry_remove(vm);
		}
		answer_empty(op->done, op->opaque);
	}
	op_free(op);
}

void daemon_undefine(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	struct op *op;

	if (vm->process || vm->forgetting || vm->transient) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" is %s; %s", vm->name,
			     vm->forgetting  ? "being undefined already"
			     : vm->transient ? "transient"
					     : vm_state_text(vm),
			     vm->transient ? "it goes when it ends" : "shut it down or destroy it first");
		return;
	}
	op = op_create(daemon, vm->uuid, done, opaque);
	if (!op)
		return;
	vm->forgetting = true;
	store_delete_definition(daemon->store, vm->uuid, on_undefined, op);
}

void daemon_make_transient(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	struct op *op;

	if (!vm->process || vm->forgetting || vm->transient) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" is %s", vm->name,
			     vm->forgetting  ? "being undefined already"
			     : vm->transient ? "transient already"
					     : vm_state_text(vm));
		return;
	}
	op = op_create(daemon, vm->uuid, done, opaque);
	if (!op)
		return;
	vm->forgetting = true;
	store_delete_definition(daemon->store, vm->uuid, on_undefined, op);
}

/* ---- policy ------------------------------------------------------------------------- */

static json_object *decide(struct daemon *daemon, const struct vmdef *def, const char *key, const char *wish,
			   struct policy_decision *ret_decision)
{
	const struct policy_memory_vm *known = policy_memory_find(&daemon->memory, key);
	struct policy_constraints constraints;
	struct policy_workload workload;
	struct policy_guest guest;
	struct policy_query query = {
		.host = &daemon->host,
		.calibration = daemon->calibration.valid ? &daemon->calibration : NULL,
		.guest = &guest,
		.workload = &workload,
		.constraints = &constraints,
		.corrections = &daemon->memory.corrections,
		.wish = wish ? wish : vmdef_mode_name(def->mode),
		.previous = known && known->mode[0] ? known->mode : NULL,
	};
	double boot = 0, costs[POLICY_MODE_COUNT];
	json_object *json;

	policy_probe_again(&daemon->host);
	policy_guest_inspect(def, &guest);
	policy_memory_guest(known, &guest);
	policy_workload_of(def, known ? &known->learned : NULL, &workload);
	policy_constraints_of(def, &constraints);
	policy_decide(&query, ret_decision);
	json = policy_decision_json(ret_decision);
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		costs[m] = ret_decision->candidates[m].predicted.cost;
	for (int m = 0; m < POLICY_MODE_COUNT; m++)
		ret_decision->candidates[m].boot_seconds = policy_memory_boot(known, (enum policy_mode)m, costs);
	if (ret_decision->possible)
		boot = ret_decision->candidates[ret_decision->mode].boot_seconds;
	json_object_object_add(json, "predicted_boot_seconds", boot > 0 ? json_object_new_double(boot) : NULL);
	json_object_object_add(json, "time", json_object_new_double(epoch_seconds()));
	return json;
}

void daemon_explain(struct daemon *daemon, json_object *definition, daemon_done_fn done, void *opaque)
{
	struct vmdef *def = parse(definition, done, opaque);
	struct policy_decision decision;
	char key[LEARNING_KEY_BYTES];
	json_object *json;

	if (!def)
		return;
	/* A defined VM's new definition, or one that would be transient. */
	learning_key(def, !registry_find_uuid(daemon, def->uuid), key);
	json = decide(daemon, def, key, NULL, &decision);
	done(opaque, NULL, json);
	json_object_put(json);
	vmdef_free(def);
}

void daemon_explain_vm(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	struct policy_decision decision;
	char key[LEARNING_KEY_BYTES];
	json_object *json;

	learning_key(vm->def, vm->transient, key);
	json = decide(daemon, vm->def, key, NULL, &decision);
	done(opaque, NULL, json);
	json_object_put(json);
}

json_object *daemon_host(struct daemon *daemon)
{
	json_object *object = json_object_new_object();

	policy_probe_again(&daemon->host);
	json_object_object_add(object, "facts", policy_host_facts(&daemon->host));
	json_object_object_add(object, "modes", policy_modes_json(&daemon->host));
	json_object_object_add(object, "calibration",
			       daemon->calibration.valid ? policy_calibration_json(&daemon->calibration) : NULL);
	json_object_object_add(object, "calibrating", json_object_new_boolean(daemon->calibrating != NULL));
	return object;
}

json_object *daemon_modes(struct daemon *daemon)
{

	policy_probe_again(&daemon->host);
	return policy_modes_json(&daemon->host);
}

json_object *daemon_compare(struct daemon *daemon, struct vm *vm)
{
	const struct policy_calibration *calibration = daemon->calibration.valid ? &daemon->calibration : NULL;
	struct policy_decision decision;
	char key[LEARNING_KEY_BYTES];

	policy_probe_again(&daemon->host);
	if (vm) {
		learning_key(vm->def, vm->transient, key);
		json_object_put(decide(daemon, vm->def, key, NULL, &decision));
	}
	return policy_compare_json(&daemon->host, calibration, vm ? &decision : NULL);
}

/* ---- starts ---------------------------------------------------------------------------- */

/* False: it cannot start, and the error was answered. */
static bool choose_mode(struct vm *vm, const struct daemon_start *options, struct policy_decision *ret_decision,
			daemon_done_fn done, void *opaque)
{
	char key[LEARNING_KEY_BYTES];
	json_object *json;

	learning_key(vm->def, vm->transient, key);
	json = decide(vm->daemon, vm->def, key, options->mode, ret_decision);
	registry_set_decision(vm, json);
	store_add(vm->daemon->store, STORE_DECISION, vm->uuid, vm->name, epoch_seconds(),
		  json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN), NULL, NULL);
	if (ret_decision->guest.problem[0])
		answer_error(done, opaque, DAEMON_START, "VM \"%s\" cannot start: %s", vm->name,
			     ret_decision->guest.problem);
	else if (!ret_decision->possible)
		answer_error(done, opaque, DAEMON_START, "VM \"%s\" cannot start: %s", vm->name, ret_decision->reason);
	else
		log_info("VM %s: %s", vm->name, ret_decision->reason);
	return !ret_decision->guest.problem[0] && ret_decision->possible;
}

void daemon_start_vm(struct daemon *daemon, struct vm *vm, const struct daemon_start *options, daemon_done_fn done,
		     void *opaque)
{
	struct policy_decision decision;

	if (vm->process || vm->forgetting) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" is %s already", vm->name,
			     vm->forgetting ? "being undefined" : vm_state_text(vm));
		return;
	}
	if (choose_mode(vm, options, &decision, done, opaque))
		supervisor_start(vm, decision.mode, decision.reason, options, done, opaque);
}

struct daemon_owner *daemon_owner_create(struct daemon *daemon)
{
	struct daemon_owner *owner = calloc(1, sizeof(*owner));

	if (owner) {
		owner->daemon = daemon;
		LIST_INIT(&owner->vms);
	}
	return owner;
}

void daemon_owner_destroy(struct daemon_owner *owner)
{
	struct vm *vm;

	if (!owner)
		return;
	while ((vm = LIST_FIRST(&owner->vms))) {
		LIST_REMOVE(vm, owned);
		vm->owner = NULL;
		/* A daemon that stops leaves VMs running; their clients find the next one. */
		if (!vm->process)
			registry_remove(vm);
		else if (!owner->daemon->ending)
			supervisor_end(vm, NULL, NULL);
	}
	free(owner);
}

void daemon_run(struct daemon *daemon, json_object *definition, const struct daemon_start *options,
		struct daemon_owner *owner, daemon_done_fn done, void *opaque)
{
	struct vmdef *def = parse(definition, done, opaque);
	struct policy_decision decision;
	struct vm *vm = NULL;

	if (!def)
		return;
	if (!admit(daemon, def, &vm, done, opaque)) {
		vmdef_free(def);
		return;
	}
	if (vm) {
		answer_error(done, opaque, DAEMON_EXISTS, "the uuid %s is taken by VM \"%s\"", def->uuid, vm->name);
		vmdef_free(def);
		return;
	}
	vm = registry_add(daemon, def, epoch_seconds());
	if (!vm) {
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	vm->transient = true;
	vm->owner = owner;
	if (owner)
		LIST_INSERT_HEAD(&owner->vms, vm, owned);
	if (!choose_mode(vm, options, &decision, done, opaque)) {
		registry_remove(vm);
		return;
	}
	supervisor_start(vm, decision.mode, decision.reason, options, done, opaque);
	if (!vm->process)
		registry_remove(vm);
}

/* ---- ends ------------------------------------------------------------------------------- */

void daemon_destroy_vm(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	if (vm->process)
		supervisor_end(vm, done, opaque);
	else
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" does not run (%s)", vm->name,
			     vm_state_text(vm));
}

void daemon_end_transient(struct daemon *daemon, void (*done)(void *opaque), void *opaque)
{
	struct vm *vm;
	bool any = false;

	daemon->ending = true;
	daemon->transient_done = done;
	daemon->transient_opaque = opaque;
	TAILQ_FOREACH(vm, &daemon->vms, link)
	if (vm->transient && vm->process) {
		any = true;
		supervisor_end(vm, NULL, NULL);
	}
	if (!any) {
		daemon->transient_done = NULL;
		done(opaque);
	}
}

/* ---- calls to a running VM ------------------------------------------------------------------ */

/* False: it has no process that could answer, and the error was answered. */
static bool reachable(struct vm *vm, daemon_done_fn done, void *opaque)
{
	if (!vm->process)
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" does not run (%s)", vm->name,
			     vm_state_text(vm));
	else if (!vm->process->ready)
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" is still starting", vm->name);
	else if (!vm->process->vmlink)
		answer_error(done, opaque, DAEMON_VM, "VM \"%s\": its process cannot be reached at present", vm->name);
	else
		return true;
	return false;
}

static enum daemon_error_code error_of(int code)
{
	switch (code) {
	case CONTROL_ERROR_STATE: return DAEMON_WRONG_STATE;
	case CONTROL_INVALID_PARAMS: return DAEMON_INVALID;
	case CONTROL_ERROR_AGENT_ABSENT: return DAEMON_AGENT_ABSENT;
	case CONTROL_ERROR_AGENT_GONE:
	case CONTROL_ERROR_AGENT_SILENT:
	case CONTROL_ERROR_AGENT_NONSENSE: return DAEMON_AGENT_UNRESPONSIVE;
	case CONTROL_ERROR_AGENT_LACKS:
	case CONTROL_ERROR_AGENT: return DAEMON_AGENT_FAILED;
	default: return DAEMON_VM;
	}
}

static void answer_code(struct op *op, int code, const char *message)
{
	const struct vm *vm = registry_find_uuid(op->daemon, op->uuid);

	answer_error(op->done, op->opaque, error_of(code), "VM \"%s\": %s", vm ? vm->name : op->uuid, message);
}

static void on_empty(void *opaque, int code, const char *message, json_object *result)
{
	struct op *op = opaque;

	if (code)
		answer_code(op, code, message);
	else
		answer_empty(op->done, op->opaque);
	op_free(op);
}

static void on_state(void *opaque, int code, const char *message, json_object *result)
{
	struct op *op = opaque;
	struct vm *vm = registry_find_uuid(op->daemon, op->uuid);
	json_object *answer;

	if (code || !vm) {
		answer_code(op, code, code ? message : "is gone");
	} else {
		answer = json_object_new_object();
		put_text(answer, "uuid", vm->uuid);
		put_text(answer, "state", vm_state_text(vm));
		op->done(op->opaque, NULL, answer);
		json_object_put(answer);
	}
	op_free(op);
}

static void on_result(void *opaque, int code, const char *message, json_object *result)
{
	struct op *op = opaque;

	if (code)
		answer_code(op, code, message);
	else
		op->done(op->opaque, NULL, result);
	op_free(op);
}

/* Takes params. */
static void call_vm_with(struct vm *vm, const char *method, json_object *params, unsigned timeout_s, vmlink_done_fn answer,
			 daemon_done_fn done, void *opaque)
{
	struct op *op = reachable(vm, done, opaque) ? op_create(vm->daemon, vm->uuid, done, opaque) : NULL;

	if (op)
		vmlink_call(vm->process->vmlink, method, params, timeout_s, answer, op);
	else
		json_object_put(params);
}

static void call_vm(struct vm *vm, const char *method, vmlink_done_fn answer, daemon_done_fn done, void *opaque)
{
	call_vm_with(vm, method, NULL, CALL_TIMEOUT_S, answer, done, opaque);
}

void daemon_inspect(struct daemon *daemon, struct vm *vm, enum daemon_inspection what, json_object *params, double seconds,
		    daemon_done_fn done, void *opaque)
{
	static const char *const methods[] = {[DAEMON_REGS] = CONTROL_REGS, [DAEMON_GDB] = CONTROL_GDB,
					      [DAEMON_DISASSEMBLE] = CONTROL_DISASSEMBLE,
					      [DAEMON_HOT_BLOCKS] = CONTROL_HOT_BLOCKS, [DAEMON_PERF_MAP] = CONTROL_PERF_MAP,
					      [DAEMON_NIC_SET] = CONTROL_NIC_SET,
					      [DAEMON_GUEST_TOOLS] = CONTROL_GUEST_TOOLS,
					      [DAEMON_GUEST_VARIABLES] = CONTROL_GUEST_VARIABLES,
					      [DAEMON_GUEST_VARIABLE_SET] = CONTROL_GUEST_VARIABLE_SET,
					      [DAEMON_GUEST_TIME_SYNC] = CONTROL_GUEST_TIME_SYNC,
					      [DAEMON_SCREENSHOT] = CONTROL_SCREENSHOT,
					      [DAEMON_SEND_KEY] = CONTROL_SEND_KEY, [DAEMON_SEND_TEXT] = CONTROL_SEND_TEXT,
					      [DAEMON_CONSOLE_SIZE] = CONTROL_CONSOLE_SIZE,
					      [DAEMON_BALLOON] = CONTROL_BALLOON};

	call_vm_with(vm, methods[what], params, CALL_TIMEOUT_S + (unsigned)seconds, on_result, done, opaque);
}

static void on_returned(void *opaque, int code, const char *message, json_object *result)
{
	struct op *op = opaque;
	json_object *value = NULL;

	if (code) {
		answer_code(op, code, message);
	} else {
		json_object_object_get_ex(result, "return", &value);
		op->done(op->opaque, NULL, value);
	}
	op_free(op);
}

void daemon_guest_command(struct daemon *daemon, struct vm *vm, const char *command, json_object *arguments, double timeout,
			  daemon_done_fn done, void *opaque)
{
	json_object *params = json_object_new_object();

	put_text(params, "command", command);
	if (arguments)
		json_object_object_add(params, "arguments", arguments);
	json_object_object_add(params, "timeout", json_object_new_double(timeout));
	/* Others may be before it; each has its own limit. */
	call_vm_with(vm, CONTROL_GUEST, params, CALL_TIMEOUT_S + 2 * (unsigned)(timeout + 5), on_returned, done, opaque);
}

void daemon_shutdown(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	call_vm(vm, CONTROL_SHUTDOWN, on_empty, done, opaque);
}

void daemon_reboot(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	call_vm(vm, CONTROL_REBOOT, on_empty, done, opaque);
}

void daemon_reset(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	call_vm(vm, CONTROL_RESET, on_empty, done, opaque);
}

void daemon_nmi(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	call_vm(vm, CONTROL_NMI, on_empty, done, opaque);
}

void daemon_pause(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	call_vm(vm, CONTROL_PAUSE, on_state, done, opaque);
}

void daemon_resume(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	call_vm(vm, CONTROL_RESUME, on_state, done, opaque);
}

void daemon_stats(struct daemon *daemon, struct vm *vm, daemon_done_fn done, void *opaque)
{
	json_object *stats = NULL;

	if (vm->process) {
		call_vm(vm, CONTROL_STATS, on_result, done, opaque);
		return;
	}
	if (vm->result && json_object_object_get_ex(vm->result, "stats", &stats))
		done(opaque, NULL, stats);
	else
		answer_error(done, opaque, DAEMON_WRONG_STATE,
			     "VM \"%s\" does not run, and its last run left no statistics", vm->name);
}

const char *daemon_console_path(struct vm *vm)
{
	return vm->process && !vm->process->exited ? vm->process->console : NULL;
}

/* ---- history ----------------------------------------------------------------------------------- */

static void on_rows(void *opaque, int error, const char *message, json_object *rows)
{
	struct op *op = opaque;

	if (error)
		answer_error(op->done, op->opaque, DAEMON_STORAGE, "%s", message);
	else
		op->done(op->opaque, NULL, rows);
	op_free(op);
}

void daemon_history(struct daemon *daemon, const char *kind, struct vm *vm, unsigned limit, daemon_done_fn done,
		    void *opaque)
{
	enum store_record record = !strcmp(kind, "decisions") ? STORE_DECISION
				   : !strcmp(kind, "results") ? STORE_RESULT
							      : STORE_EVENT;
	struct op *op = op_create(daemon, vm ? vm->uuid : "", done, opaque);

	if (op)
		store_list(daemon->store, record, vm ? vm->uuid : NULL, limit, on_rows, op);
}
