/* Stopping and continuing the VM for a debugger: all vCPUs stop when one does, and time stands still meanwhile. */
#include "vm/private.h"

#include <errno.h>
#include <event2/event.h>

/* Users see a VM that is stopped for longer than this as paused; a step or a condition is not worth two events. */
#define TELL_MS 300

static void on_tell(evutil_socket_t fd, short what, void *arg)
{
	struct vm *vm = arg;

	if (vm->debug.stopped && vm->state == VM_RUNNING)
		vm_set_state(vm, VM_PAUSED, "stopped by the debugger");
}

static void hold(struct vm *vm)
{
	struct timeval tv = {.tv_usec = TELL_MS * 1000};

	vm->debug.stopped = true;
	if (vm->debug.tell_timer)
		event_add(vm->debug.tell_timer, &tv);
}

int vm_debug_stop(struct vm *vm)
{
	int rc = vm_halt(vm);

	if (!rc)
		hold(vm);
	return rc;
}

int vm_debug_attach(struct vm *vm, void (*on_stop)(void *opaque, unsigned vcpu, const struct mode_debug_hit *hit),
		    void *opaque)
{
	if (vm->debug.attached)
		return -EBUSY;
	if (!(vm->mode->capabilities & MODE_CAP_DEBUG) || !(vm->mode->capabilities & MODE_CAP_STATE))
		return -ENOTSUP;
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED)
		return -ESRCH;
	if (!vm->debug.tell_timer)
		vm->debug.tell_timer = event_new(vm->base, -1, 0, on_tell, vm);
	int rc = vm_debug_stop(vm);
	if (rc)
		return rc;
	vm->debug.attached = true;
	vm->debug.on_stop = on_stop;
	vm->debug.opaque = opaque;
	return 0;
}

int vm_debug_points(struct vm *vm, const struct mode_debug_point *points, size_t n)
{
	return vm->mode->debug_points(vm->engine, points, n);
}

/* All vCPUs are parked: the lock keeps only the memory model happy. */
static void let_go(struct vm *vm, const enum vm_debug_action *actions)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		struct vm_vcpu *vcpu = &vm->vcpus[i];
		vcpu->held = actions && actions[i] == VM_DEBUG_HOLD;
		vcpu->has_hit = false;
		vm->mode->debug_step(vcpu->engine, actions && actions[i] == VM_DEBUG_STEP);
	}
	vm->hits = 0;
	pthread_mutex_unlock(&vm->lock);
	vm->debug.stopped = false;
	if (vm->debug.tell_timer)
		event_del(vm->debug.tell_timer);
	if (vm->state == VM_PAUSED)
		vm_set_state(vm, VM_RUNNING, "");
	vm_go(vm);
}

/*
 * A second vCPU that hit a watchpoint while the first one's hit was being reported: it is told now, since the access will
 * not come again. One at a breakpoint will meet it again, if it still is there.
 */
static struct vm_vcpu *unreported(struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->vcpus[i].has_hit && vm->vcpus[i].hit.point.kind & (MODE_DEBUG_READ | MODE_DEBUG_WRITE))
			return &vm->vcpus[i];
	return NULL;
}

static void report(struct vm *vm, struct vm_vcpu *vcpu)
{
	struct mode_debug_hit hit = vcpu->hit;

	vcpu->has_hit = false;
	vm->debug.on_stop(vm->debug.opaque, vcpu->index, &hit);
}

void vm_debug_go(struct vm *vm, const enum vm_debug_action *actions)
{
	struct vm_vcpu *late = unreported(vm);

	if (vm->debug.crashed)
		vm_end_by_outcome(vm);
	else if (late)
		report(vm, late);
	else
		let_go(vm, actions);
}

void vm_debug_detach(struct vm *vm)
{
	if (!vm->debug.attached)
		return;
	vm->debug.attached = false;
	if (vm_state_is_final(vm->state))
		return;
	if (vm_halt(vm)) {
		vm_log("debugger: a vCPU does not leave the engine; its breakpoints stay");
		return;
	}
	vm_debug_points(vm, NULL, 0);
	if (vm->debug.crashed)
		vm_end_by_outcome(vm);
	else
		let_go(vm, NULL);
}

void vm_debug_look(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	unsigned hits = vm->hits, first = vm->first_hit;
	pthread_mutex_unlock(&vm->lock);
	if (!hits || vm->debug.stopped || vm_state_is_final(vm->state))
		return;
	if (vm_halt(vm)) {
		vm_finish(vm, VM_CRASHED, VM_EXIT_CRASHED, "debugger: a vCPU does not leave the engine");
		return;
	}
	if (!vm->debug.attached) { /* it has gone meanwhile */
		let_go(vm, NULL);
		return;
	}
	hold(vm);
	report(vm, &vm->vcpus[first]);
}

bool vm_debug_crash(struct vm *vm, unsigned vcpu)
{
	if (!vm->debug.attached || vm_debug_stop(vm))
		return false;
	vm->debug.crashed = true;
	vm->debug.on_stop(vm->debug.opaque, vcpu, NULL);
	return true;
}

void vm_debug_finish(struct vm *vm)
{
	if (vm->debug.tell_timer)
		event_free(vm->debug.tell_timer);
	vm->debug.tell_timer = NULL;
}
