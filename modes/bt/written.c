/* RAM that devices wrote where code was translated: vCPUs drop that code before they take an interrupt. */
#include "modes/bt/run.h"
#include "modes/bt/sync.h"
#include "modes/bt/tlb.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void changes_lock(struct bt_written *w)
{
	while (__atomic_exchange_n(&w->lock, 1, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
}

static void changes_unlock(struct bt_written *w) { __atomic_store_n(&w->lock, 0, __ATOMIC_RELEASE); }

void bt_written_note(struct bt_vm *vm, gpa_t gpa, uint64_t n)
{
	struct bt_written *w = &vm->written;

	changes_lock(w);
	if (n && w->count < BT_WRITTEN_MAX) {
		w->changes[w->count].gpa = gpa;
		w->changes[w->count].bytes = n;
		w->count++;
	} else {
		w->all = true;
	}
	changes_unlock(w);
	for (unsigned i = 0; i < vm->vcpus; i++)
		if (vm->vcpu[i])
			bt_kick(vm->vcpu[i]);
}

/*
 * The entries stay in the queue until they have been dealt with, so that no other vCPU goes on in between; two may deal
 * with the same ones. The queue's lock is never held while waiting for the cache's.
 */
void bt_written_take(struct bt_vcpu *v)
{
	struct bt_written *w = &v->vm->written;
	struct bt_ram_change todo[BT_WRITTEN_MAX];
	uint32_t n, base;
	bool all;

	bt_map_sync(v);
	if (!w->count && !w->all)
		return;
	changes_lock(w);
	n = w->count;
	base = w->base;
	all = w->all;
	bt_copy(todo, w->changes, n * sizeof(todo[0]));
	changes_unlock(w);

	if (all) {
		v->stats.cache_flush_map++;
		bt_cache_flush_all(v);
	} else {
		bt_lock(v);
		for (uint32_t i = 0; i < n; i++)
			bt_code_written(v->vm, todo[i].gpa, todo[i].bytes);
		bt_unlock(v);
	}

	changes_lock(w);
	if (w->base == base) {
		w->count -= n;
		bt_copy(w->changes, w->changes + n, w->count * sizeof(todo[0]));
		w->base += n + (all ? 1 : 0);
		if (all)
			w->all = false;
	}
	changes_unlock(w);
}

void bt_note_first_user(struct bt_vm *vm)
{
	struct timespec ts;

	/* The system call itself, not libc's: vector registers hold guest state here. */
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
	uint64_t none = 0, now = (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
	__atomic_compare_exchange_n(&vm->first_user_ns, &none, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
