/* The guest's balloon: what users wish, and what the guest says. */
#include "vm/private.h"

#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>

/* A balloon moves in thousands of small steps: listeners hear of it so often. */
#define TELL_S 1

/* By the numbers of virtio 1.2, 5.5.6.4, and Linux's later ones. */
static const struct {
	const char *key;
	bool bytes; /* shown in KiB */
} names[MACHINE_BALLOON_FIGURES] = {
	{"swap_in_kib", true},	{"swap_out_kib", true},	   {"major_faults", false},    {"minor_faults", false},
	{"unused_kib", true},	{"total_kib", true},	   {"available_kib", true},    {"disk_caches_kib", true},
	{"hugetlb_allocated", false}, {"hugetlb_failed", false}, {"oom_kills", false}, {"allocation_stalls", false},
	{"pages_scanned_async", false}, {"pages_scanned_direct", false}, {"pages_reclaimed_async", false}, {"pages_reclaimed_direct", false},
};

int vm_balloon_add(struct vm *vm, const char **ret_why)
{
	const struct vmdef *def = vm->def;
	const struct machine_balloon config = {
		.guest_bytes = (uint64_t)(def->current_memory_mib ? def->current_memory_mib : def->memory_mib) << 20,
		.free_page_reporting = def->balloon.free_page_reporting,
		.deflate_on_oom = def->balloon.deflate_on_oom,
		.stats_seconds = def->balloon.stats_seconds,
	};

	if (def->balloon.device == VMDEF_BALLOON_NONE)
		return 0;
	/* Its pages are where the device may write at any time, whatever the guest says. */
	if (def->passthrough_count) {
		vm_log("no balloon beside a device of the host: such a device may write to all of the memory");
		return 0;
	}
	return machine_add_balloon(vm->machine, &config, ret_why);
}

static uint64_t guest_kib(struct vm *vm)
{
	struct machine_balloon_state state;

	return machine_balloon_get(vm->machine, &state) ? state.guest_bytes >> 10 : (uint64_t)vm->def->memory_mib << 10;
}

uint64_t vm_balloon_kib(struct vm *vm) { return vm->machine ? guest_kib(vm) : 0; }

static void tell(struct vm *vm)
{
	struct json_object *params = json_object_new_object();
	struct timeval tv = {TELL_S, 0};

	vm->balloon_told_kib = guest_kib(vm);
	json_object_object_add(params, "memory_kib", json_object_new_int64((int64_t)vm->balloon_told_kib));
	vm_control_notify(vm, CONTROL_EVENT_BALLOON, params);
	event_add(vm->balloon_timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *opaque)
{
	struct vm *vm = opaque;

	if (vm->machine && guest_kib(vm) != vm->balloon_told_kib)
		tell(vm);
}

void vm_balloon_look(struct vm *vm)
{
	if (!vm->balloon_timer)
		vm->balloon_timer = event_new(vm->base, -1, 0, on_timer, vm);
	if (vm->balloon_timer && !event_pending(vm->balloon_timer, EV_TIMEOUT, NULL) && guest_kib(vm) != vm->balloon_told_kib)
		tell(vm);
}

void vm_balloon_close(struct vm *vm)
{
	if (vm->balloon_timer)
		event_free(vm->balloon_timer);
	vm->balloon_timer = NULL;
}

int vm_balloon_set(struct vm *vm, int64_t memory_mib, int64_t stats_seconds)
{
	struct machine_balloon_state state;

	if (!vm->machine || !machine_balloon_get(vm->machine, &state))
		return -ENODEV;
	if (memory_mib > 0) {
		machine_balloon_set(vm->machine, (uint64_t)memory_mib << 20);
		vm->def->current_memory_mib = (unsigned)memory_mib; /* a guest that starts anew has as much */
	}
	if (stats_seconds >= 0) {
		vm->def->balloon.stats_seconds = (unsigned)stats_seconds;
		machine_balloon_ask(vm->machine, (int)stats_seconds);
	}
	return 0;
}

struct json_object *vm_balloon_json(struct vm *vm)
{
	struct machine_balloon_state state;
	struct json_object *to, *figures;
	uint64_t now = vm_now_ns();

	if (!vm->machine || !machine_balloon_get(vm->machine, &state))
		return NULL;
	to = json_object_new_object();
	json_object_object_add(to, "memory_kib", json_object_new_int64((int64_t)(state.guest_bytes >> 10)));
	json_object_object_add(to, "wished_kib", json_object_new_int64((int64_t)(state.wished_bytes >> 10)));
	json_object_object_add(to, "stats_seconds", json_object_new_int64(vm->def->balloon.stats_seconds));
	if (!vm_state_is_final(vm->state))
		machine_balloon_ask(vm->machine, -1); /* for whoever asks next */
	if (!state.figures.time_ns)
		return to;
	figures = json_object_new_object();
	for (unsigned i = 0; i < MACHINE_BALLOON_FIGURES; i++) {
		uint64_t value = names[i].bytes ? state.figures.value[i] >> 10 : state.figures.value[i];

		/* The guest's words, so anything: JSON's readers have 63 bits. */
		if (state.figures.present >> i & 1 && value <= INT64_MAX)
			json_object_object_add(figures, names[i].key, json_object_new_int64((int64_t)value));
	}
	json_object_object_add(to, "stats", figures);
	json_object_object_add(to, "stats_age_seconds", json_object_new_double((double)(now - state.figures.time_ns) / 1e9));
	return to;
}
