/* How vCPUs share the code cache: the lock, and what makes the others stop relying on something. (sync.c) */
#ifndef BT_SYNC_H
#define BT_SYNC_H

#include "modes/bt/cache.h"

/* The lock of everything in bt_cache. Not recursive; bt_raise and its like drop it. */
void bt_lock(struct bt_vcpu *v);
void bt_unlock(struct bt_vcpu *v);

/* Top of the run loop: serves what others ask for, waits while a flush is under way. */
void bt_sync_point(struct bt_vcpu *v);
void bt_sync_enter(struct bt_vcpu *v);
void bt_sync_leave(struct bt_vcpu *v);

/* No vCPU writes to the page at gpa any more except through the slow path, when this returns. Lock held. */
void bt_protect_page(struct bt_vcpu *v, gpa_t gpa);

/*
 * Lock held; stops every other vCPU outside translated code. True: the lock is held again and the caller flushes, then
 * calls bt_flush_end. False: somebody else flushed meanwhile, the lock is free: start over. Only where the caller holds
 * no pointer into the cache and will not return into translated code by an old address.
 */
bool bt_flush_begin(struct bt_vcpu *v);
void bt_flush_end(struct bt_vcpu *v);

/* The whole of it, from the run loop; the lock is free before and after. */
void bt_cache_flush_all(struct bt_vcpu *v);

/* Any lock of a monitor's, taken on a vCPU's thread: who waits for it holds up nobody. Not while bt's own lock is held. */
void bt_lock_other(struct bt_vcpu *v, volatile int *lock);
/* The vCPUs of this mask (never v itself) have emptied their TLBs when this returns, or do so before they run again. */
void bt_flush_others(struct bt_vcpu *v, uint64_t vcpus);

/* Makes a vCPU come to the run loop soon. Any thread, async-signal-safe. */
void bt_kick(struct bt_vcpu *v);

#endif
