/*
 * Several vCPUs over one code cache.
 *
 * The translator's data is under one lock. Two things need more: a page that gets its first translation must lose its
 * write tags in every vCPU before its bytes are read (bt_protect_page), and a flush takes away the code that others may
 * be running or return to (bt_flush_begin). Both kick the others and wait until each has passed a point where it
 * relies on nothing: the top of the run loop, or waiting for the lock or a flush inside a lookup.
 *
 * Flags of a vCPU: `running`, it is inside bt_run; `safe`, it waits for the lock and uses no host pointer into guest
 * RAM; `parked`, it waits for a flush to end and holds no pointer into the cache. Whoever raises such a flag, or drops
 * it, looks afterwards (sequentially consistent) for requests that were made meanwhile; whoever makes a request looks
 * at the flags afterwards.
 */
#include "modes/bt/sync.h"

#include <sys/syscall.h>

static void wait_a_little(unsigned *spins)
{
	if (++*spins < 200) {
		__builtin_ia32_pause();
		return;
	}
	/* sched_yield, without libc: vector registers are the guest's here. */
	long rc;
	__asm__ volatile("syscall" : "=a"(rc) : "a"(SYS_sched_yield) : "rcx", "r11", "memory");
}

static void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static void ring_lock(struct bt_vcpu *v)
{
	while (__atomic_exchange_n(&v->protect_lock, 1, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
}

static void ring_unlock(struct bt_vcpu *v) { __atomic_store_n(&v->protect_lock, 0, __ATOMIC_RELEASE); }

/* Drops write tags of pages that others have asked for. On the vCPU's own thread. */
static void serve_protect(struct bt_vcpu *v)
{
	if (v->flush_asked) {
		v->flush_asked = false;
		bt_tlb_flush(v, true);
	}
	if (!v->protect_count)
		return;
	ring_lock(v);
	if (v->protect_count > BT_PROTECT_MAX)
		bt_tlb_protect_all(v);
	else
		for (uint32_t i = 0; i < v->protect_count; i++)
			bt_tlb_protect(v, v->protect[i]);
	v->protect_count = 0;
	ring_unlock(v);
}

void bt_lock_other(struct bt_vcpu *v, volatile int *lock)
{
	unsigned spins = 0;

	if (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE)) {
		v->safe = 1;
		fence();
		while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
			wait_a_little(&spins);
		v->safe = 0;
		fence();
		serve_protect(v);
	}
}

void bt_lock(struct bt_vcpu *v)
{
	BUG_ON(v->holds_lock);
	bt_lock_other(v, &v->vm->lock);
	v->holds_lock = true;
}

void bt_unlock(struct bt_vcpu *v)
{
	v->holds_lock = false;
	__atomic_store_n(&v->vm->lock, 0, __ATOMIC_RELEASE);
}

static void park(struct bt_vcpu *v)
{
	unsigned spins = 0;

	do {
		v->parked = 1;
		fence();
		while (v->vm->flushing)
			wait_a_little(&spins);
		v->parked = 0;
		fence();
	} while (v->vm->flushing);
	serve_protect(v);
}

void bt_sync_point(struct bt_vcpu *v)
{
	fence();
	if (v->vm->flushing)
		park(v);
	serve_protect(v);
}

void bt_sync_enter(struct bt_vcpu *v)
{
	v->running = 1;
	bt_sync_point(v);
}

void bt_sync_leave(struct bt_vcpu *v)
{
	fence();
	v->running = 0;
}

void bt_protect_page(struct bt_vcpu *v, gpa_t gpa)
{
	struct bt_vm *vm = v->vm;

	BUG_ON(!v->holds_lock);
	bt_tlb_protect(v, gpa);
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_vcpu *w = vm->vcpu[i];
		if (!w || w == v)
			continue;
		ring_lock(w);
		if (w->protect_count < BT_PROTECT_MAX)
			w->protect[w->protect_count] = gpa;
		if (w->protect_count <= BT_PROTECT_MAX)
			w->protect_count++;
		ring_unlock(w);
		fence();
		if (w->running && !w->safe && !w->parked)
			bt_kick(w);
	}
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_vcpu *w = vm->vcpu[i];
		unsigned spins = 0;
		if (!w || w == v)
			continue;
		while (w->protect_count && w->running && !w->safe && !w->parked)
			wait_a_little(&spins);
	}
}

void bt_flush_others(struct bt_vcpu *v, uint64_t vcpus)
{
	struct bt_vm *vm = v->vm;

	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_vcpu *w = vm->vcpu[i];
		if (!w || w == v || !(vcpus >> i & 1))
			continue;
		w->flush_asked = true;
		fence();
		if (w->running && !w->safe && !w->parked)
			bt_kick(w);
	}
	v->safe = 1; /* two may wait for each other */
	fence();
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_vcpu *w = vm->vcpu[i];
		unsigned spins = 0;
		if (!w || w == v || !(vcpus >> i & 1))
			continue;
		while (w->flush_asked && w->running && !w->safe && !w->parked)
			wait_a_little(&spins);
	}
	v->safe = 0;
	fence();
	serve_protect(v);
}

bool bt_flush_begin(struct bt_vcpu *v)
{
	struct bt_vm *vm = v->vm;

	BUG_ON(!v->holds_lock);
	if (vm->flushing) {
		bt_unlock(v);
		park(v);
		return false;
	}
	vm->flushing = 1;
	bt_unlock(v);
	fence();
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_vcpu *w = vm->vcpu[i];
		unsigned spins = 0;
		if (!w || w == v)
			continue;
		if (w->running && !w->parked)
			bt_kick(w);
		while (w->running && !w->parked)
			wait_a_little(&spins);
	}
	bt_lock(v);
	return true;
}

void bt_flush_end(struct bt_vcpu *v)
{
	fence();
	v->vm->flushing = 0;
}

void bt_cache_flush_all(struct bt_vcpu *v)
{
	bt_lock(v);
	if (bt_flush_begin(v)) {
		bt_cache_flush(v->vm);
		bt_flush_end(v);
		v->stats.cache_flush++;
		bt_unlock(v);
	}
}

void bt_kick(struct bt_vcpu *v)
{
	v->kicked = 1;
	v->poll = (uint64_t *)(uintptr_t)16; /* never mapped */
}
