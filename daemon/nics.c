/* Changes to a running VM's network interfaces, and what is remembered of them until it ends. */
#include "daemon/private.h"

#include "daemon/log.h"

#include <stdlib.h>
#include <string.h>

struct change {
	struct daemon *daemon;
	char uuid[VMDEF_UUID_BYTES];
	json_object *params;
	daemon_done_fn done;
	void *opaque;
};

static void take_number(json_object *params, const char *key, unsigned *to)
{
	json_object *value = NULL;

	if (json_object_object_get_ex(params, key, &value))
		*to = (unsigned)json_object_get_int64(value);
}

static void apply(json_object *params, struct vmdef_nic *nic)
{
	json_object *link = NULL;

	if (json_object_object_get_ex(params, "link", &link))
		nic->link = strcmp(json_object_get_string(link), "up") ? VMDEF_LINK_DOWN : VMDEF_LINK_UP;
	take_number(params, "receive_kib", &nic->receive.kib_per_second);
	take_number(params, "receive_burst_kib", &nic->receive.burst_kib);
	take_number(params, "transmit_kib", &nic->transmit.kib_per_second);
	take_number(params, "transmit_burst_kib", &nic->transmit.burst_kib);
}

/* Its process has done it: from here on the definition it runs by says so, also to the next daemon. */
static void on_set(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct change *change = opaque;
	struct vm *vm = registry_find_uuid(change->daemon, change->uuid);
	unsigned number = (unsigned)json_object_get_int64(json_object_object_get(change->params, "nic"));
	int rc;

	if (!error && vm && vm->process && number < vm->process->def->nic_count) {
		apply(change->params, &vm->process->def->nics[number]);
		rc = vmdir_write_definition(vm->process->dir, vm->process->def);
		if (rc)
			log_warning("VM %s: a change of its network interface is forgotten with this daemon: %s", vm->name, strerror(-rc));
	}
	change->done(change->opaque, error, result);
	json_object_put(change->params);
	free(change);
}

void daemon_nic_set(struct daemon *daemon, struct vm *vm, json_object *params, daemon_done_fn done, void *opaque)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change) {
		json_object_put(params);
		answer_error(done, opaque, DAEMON_INTERNAL, "out of memory");
		return;
	}
	*change = (struct change){.daemon = daemon, .params = json_object_get(params), .done = done, .opaque = opaque};
	memcpy(change->uuid, vm->uuid, sizeof(change->uuid));
	daemon_inspect(daemon, vm, DAEMON_NIC_SET, params, 0, on_set, change);
}
