/* VMs that outlived the daemon before this one, and results of those that ended in between. */
#include "daemon/private.h"

#include "daemon/log.h"
#include "proto/file.h"
#include "proto/paths.h"
#include "proto/process.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How long the client of a VM that ends with it may take to come back after a daemon's restart. */
#define CLAIM_S 20

/* What the daemon that started it noted in daemon.json. */
struct note {
	bool transient, ends_with_client;
	char mode[8];
	int id;
	json_object *decision;
};

static void read_note(const char *dir, struct note *ret)
{
	json_object *object = vmdir_read_json(dir, "daemon.json"), *value = NULL;

	*ret = (struct note){.transient = true};
	snprintf(ret->mode, sizeof(ret->mode), "bt");
	if (!object)
		return;
	if (json_object_object_get_ex(object, "transient", &value))
		ret->transient = json_object_get_boolean(value);
	if (json_object_object_get_ex(object, "ends_with_client", &value))
		ret->ends_with_client = json_object_get_boolean(value);
	if (json_object_object_get_ex(object, "mode", &value))
		snprintf(ret->mode, sizeof(ret->mode), "%.7s", value ? json_object_get_string(value) : "");
	if (json_object_object_get_ex(object, "id", &value))
		ret->id = json_object_get_int(value);
	if (json_object_object_get_ex(object, "decision", &value))
		ret->decision = json_object_get(value);
	json_object_put(object);
}

static void on_claim_timeout(evutil_socket_t fd, short what, void *opaque)
{
	struct vm *vm = opaque;

	log_notice("VM %s: its client has not come back; ended", vm->name);
	if (vm->process)
		supervisor_end(vm, NULL, NULL);
}

static void await_claim(struct vm *vm)
{
	static const struct timeval delay = {.tv_sec = CLAIM_S};

	vm->claim_timer = event_new(vm->daemon->base, -1, 0, on_claim_timeout, vm);
	if (vm->claim_timer)
		event_add(vm->claim_timer, &delay);
}

void daemon_claim(struct daemon *daemon, struct vm *vm, struct daemon_owner *owner, daemon_done_fn done, void *opaque)
{
	json_object *result;

	if (!vm->transient || !vm->process || (vm->owner && vm->owner != owner)) {
		answer_error(done, opaque, DAEMON_WRONG_STATE, "VM \"%s\" %s", vm->name,
			     !vm->transient ? "is no transient one"
			     : !vm->process ? "does not run"
					    : "has another client already");
		return;
	}
	if (vm->claim_timer)
		event_del(vm->claim_timer);
	if (!vm->owner) {
		vm->owner = owner;
		LIST_INSERT_HEAD(&owner->vms, vm, owned);
	}
	result = registry_started_json(vm);
	done(opaque, NULL, result);
	json_object_put(result);
}

/* The VM a directory belongs to: a defined one, or a transient one made from what is in it. */
static struct vm *vm_of(struct daemon *daemon, const char *uuid, const char *dir, const struct note *note)
{
	struct vm *vm = registry_find_uuid(daemon, uuid);
	struct vmdef *def;

	if (vm)
		return vm;
	def = vmdir_read_definition(dir);
	if (!def)
		return NULL;
	if (strcmp(def->uuid, uuid) || registry_find_name(daemon, def->name)) {
		log_warning("%s: uuid %s, name %s: of no VM here", dir, def->uuid, def->name);
		vmdef_free(def);
		return NULL;
	}
	vm = registry_add(daemon, def, epoch_seconds());
	if (vm)
		vm->transient = true;
	return vm;
}

static int open_process(const char *dir, struct process_id *ret_id)
{
	char path[PATH_MAX];
	int rc = paths_join(path, sizeof(path), dir, CONTROL_FILE_PID);

	if (!rc)
		rc = process_id_read(path, ret_id);
	return rc ? rc : process_id_open(ret_id);
}

static double ended(json_object *result)
{
	json_object *value = NULL;

	return json_object_object_get_ex(result, "ended", &value) ? json_object_get_double(value) : 0;
}

/* No process: take its result, unless the store has it already. */
static void take_result(struct vm *vm, const char *dir)
{
	json_object *result = vmdir_read_json(dir, CONTROL_FILE_RESULT);
	bool known = result && vm->result && ended(result) == ended(vm->result);

	json_object_put(result);
	if (!known)
		vmdir_record(vm, dir, 0, VM_CRASHED,
			     "trivisor-vm died while no daemon was running, and left no result");
	if (vm->transient)
		registry_remove(vm);
}

static void adopt_one(struct daemon *daemon, const char *uuid)
{
	struct process_id id;
	char dir[PATH_MAX];
	struct note note;
	struct vm *vm;
	int pidfd, rc;

	if (paths_join(dir, sizeof(dir), daemon->vms_dir, uuid))
		return;
	read_note(dir, &note);
	vm = vm_of(daemon, uuid, dir, &note);
	if (!vm) {
		log_warning("%s: not a VM's directory; left alone", dir);
		goto out;
	}
	if (!vm->decision && note.decision)
		registry_set_decision(vm, json_object_get(note.decision));
	pidfd = open_process(dir, &id);
	if (pidfd < 0) {
		take_result(vm, dir);
		goto out;
	}
	rc = supervisor_adopt(vm, id.pid, pidfd, dir, note.mode, note.id);
	if (rc) {
		log_error("VM %s: cannot adopt process %d: %s", vm->name, (int)id.pid, strerror(-rc));
		goto out;
	}
	log_notice("VM %s: adopted, process %d", vm->name, (int)id.pid);
	if (vm->transient && note.ends_with_client)
		await_claim(vm);
out:
	json_object_put(note.decision);
}

void adopt_all(struct daemon *daemon)
{
	DIR *dir = opendir(daemon->vms_dir);
	struct dirent *entry;

	if (!dir) {
		log_error("%s: %s", daemon->vms_dir, strerror(errno));
		return;
	}
	while ((entry = readdir(dir)))
		if (vmdef_uuid_valid(entry->d_name))
			adopt_one(daemon, entry->d_name);
	closedir(dir);
}
