/*
 * The translator under another engine's rule: a paravirtual monitor (modes/pv) whose guest kernel runs at privilege 3, as
 * its user code does. bt then models no IDT, no interrupt controller and no system call of its own: it asks the monitor.
 * This is all that such an engine sees of bt; bt knows nothing of any hypervisor's interface.
 *
 * Everything here runs on the vCPU's own thread with the guest's vector state in the host's registers: callers are
 * compiled with -mgeneral-regs-only and call no libc, or bracket it with bt_fpu_leave and bt_fpu_enter.
 */
#ifndef BT_MONITOR_H
#define BT_MONITOR_H

#include "machine/cpu_state.h"
#include "machine/types.h"
#include "modes/bt/decode.h"

struct bt_vcpu;
struct mode_vm;
struct mode_vcpu;

struct bt_event {
	unsigned vector;
	bool has_error, soft; /* soft: int n, int3, into; return_rip is behind it */
	uint32_t error;
	uint64_t return_rip; /* of a fault: the instruction */
};

struct bt_monitor {
	/*
	 * An exception or software interrupt of the guest's (a page fault's address is in cr2): the monitor enters the
	 * guest's handler, or does what the instruction was for. Between instructions. False: the guest is past help.
	 */
	bool (*exception)(struct bt_vcpu *v, const struct bt_event *event);
	/* The syscall instruction; `next` is behind it. cs.rip is to be set. As a helper: the run loop may be entered after. */
	void (*system_call)(struct bt_vcpu *v, uint64_t next);
	/* Cheap: whether `interrupt` would do something now. */
	bool (*pending)(struct bt_vcpu *v);
	/* Between instructions, when pending, and whenever the vCPU was kicked. False: past help. */
	bool (*interrupt)(struct bt_vcpu *v);
	/* Top of the run loop, after a kick: requests to this vCPU from others (it may start or stop). */
	void (*attend)(struct bt_vcpu *v);
};

/* Before the first vCPU is made. `vm_data` and each vCPU's data are the monitor's. */
void bt_monitor_attach(struct mode_vm *vm, const struct bt_monitor *monitor, void *vm_data);
/* vm_data again: of the mode's VM, and of a vCPU's. */
void *bt_monitor_data(struct mode_vm *vm);
void *bt_monitor_vm(const struct bt_vcpu *v);
/* Of the mode's vCPU: the translator's. */
struct bt_vcpu *bt_monitor_vcpu(struct mode_vcpu *vcpu);
unsigned bt_monitor_index(const struct bt_vcpu *v);

/* ---- state ------------------------------------------------------------------------------- */

/* All but the arithmetic flags, which are bt_monitor_rflags's. After a change of segments, cr0, cr4 or xcr0: bt_monitor_changed. */
static inline struct cpu_state *bt_monitor_state(struct bt_vcpu *v) { return (struct cpu_state *)(void *)v; }
uint64_t bt_monitor_rflags(const struct bt_vcpu *v);
void bt_monitor_set_rflags(struct bt_vcpu *v, uint64_t rflags);
/* Which of the two a deprivileged guest is in: kernel and user have TLBs of their own, of whatever cr3 is at the time. */
void bt_monitor_set_kernel(struct bt_vcpu *v, bool kernel);
void bt_monitor_changed(struct bt_vcpu *v);
/* The debug registers have changed. */
void bt_monitor_debug_changed(struct bt_vcpu *v);
/* cs and ss for a return to privilege 3: from the descriptor tables, as iret loads them. False: one of them is bad. */
bool bt_monitor_load_code(struct bt_vcpu *v, uint16_t cs, uint16_t ss);
/* A data segment register, as mov loads it. False: it would fault, and nothing has changed. */
bool bt_monitor_load_data(struct bt_vcpu *v, enum cpu_seg which, uint16_t selector);

/* ---- guest memory, by linear address in the present space -------------------------------- */

/* As the guest's present privilege allows. False: it would fault (cr2 is not changed), nothing beyond `bytes` was touched. */
bool bt_monitor_read(struct bt_vcpu *v, gva_t gva, void *ret_bytes, unsigned bytes);
bool bt_monitor_write(struct bt_vcpu *v, gva_t gva, const void *bytes, unsigned n);
/* The instruction at rip, decoded. False: it cannot be read, or is none. */
bool bt_monitor_fetch(struct bt_vcpu *v, uint64_t rip, struct bt_insn *ret_insn);
/*
 * The next instruction alone is run with its accesses to the page at gva going to `host` (a page of the monitor's own),
 * and the monitor's `pending` is asked right behind it. Until bt_monitor_redirect_end.
 */
void bt_monitor_redirect(struct bt_vcpu *v, gva_t gva, uint8_t *host);
void bt_monitor_redirect_end(struct bt_vcpu *v);

/* ---- translations of addresses --------------------------------------------------------------- */

enum bt_space { BT_SPACE_USER = 1, BT_SPACE_KERNEL = 2 };
/* This vCPU's: all that was cached of these spaces (a mask). */
void bt_monitor_flush(struct bt_vcpu *v, unsigned spaces);
void bt_monitor_flush_page(struct bt_vcpu *v, gva_t gva);
/* Those vCPUs' whole cache, before this returns (or before they run again). No lock of the monitor's may be held. */
void bt_monitor_flush_others(struct bt_vcpu *v, uint64_t vcpus);
/* No vCPU writes to the page at gpa any more through what it has cached. */
void bt_monitor_protect(struct bt_vcpu *v, gpa_t gpa);
/* RAM was written behind the translator's back. */
void bt_monitor_written(struct bt_vcpu *v, gpa_t gpa, uint64_t bytes);

/* ---- control ----------------------------------------------------------------------------------- */

/* A lock of the monitor's on a vCPU's thread: 0 is free. Who waits for it does not hold up vCPUs that want their TLBs flushed. */
void bt_monitor_lock(struct bt_vcpu *v, volatile int *lock);
void bt_monitor_unlock(volatile int *lock);

/* In system_call only; they do not return, and cs.rip counts. */
void bt_monitor_halt(struct bt_vcpu *v);
void bt_monitor_fail(struct bt_vcpu *v, const char *message);
void bt_monitor_kick(struct bt_vcpu *v);
/* Saves the guest's vector state and gives C a clean one; puts it back. Idempotent. */
void bt_fpu_leave(struct bt_vcpu *v);
void bt_fpu_enter(struct bt_vcpu *v);

/* gcc may turn assignments into calls of these: they are versions that leave the vector registers alone. */
void *memcpy(void *dst, const void *src, size_t n) __asm__("bt_memcpy");
void *memset(void *dst, int byte, size_t n) __asm__("bt_memset");
void *memmove(void *dst, const void *src, size_t n) __asm__("bt_memmove");
int memcmp(const void *a, const void *b, size_t n) __asm__("bt_memcmp");

#endif
