/*
 * What a guest that knows KVM may use beside its clock (msr.c): hypercalls, steal time with TLB flushes that wait, and ends
 * of interrupts without an exit (Documentation/virt/kvm/x86/{hypercalls,msr,cpuid}.rst).
 */
#include <sys/syscall.h>
#include <time.h>

#include "modes/bt/helper.h"
#include "modes/bt/tlb.h"

#define KVM_ENABLED 1ull

/* ---- guest memory that the guest named ---------------------------------------------------------------------- */

void *bt_guest_struct(struct bt_vcpu *v, gpa_t gpa, unsigned bytes)
{
	const struct ram_region *region = machine_ram_find(v->machine, gpa);

	if (!region || region->readonly || gpa - region->gpa + bytes > region->bytes || (gpa & 3))
		return NULL;
	return region->host + (gpa - region->gpa);
}

/* ---- hypercalls ------------------------------------------------------------------------------------------------ */

#define KVM_HC_VAPIC_POLL_IRQ 1u
#define KVM_HC_KICK_CPU 5u
#define KVM_HC_SEND_IPI 10u
#define KVM_HC_SCHED_YIELD 11u
#define KVM_ENOSYS 1000
#define KVM_EPERM 1
#define KVM_EINVAL 22

/* To the host's scheduler: raw, since the guest's vector registers are in the host's. */
static void yield(void)
{
	long rc;

	__asm__ volatile("syscall" : "=a"(rc) : "a"((long)SYS_sched_yield) : "rcx", "r11", "memory");
	(void)rc;
}

static int64_t serve(struct bt_vcpu *v, uint64_t number, const uint64_t a[4])
{
	switch (number) {
	case KVM_HC_VAPIC_POLL_IRQ: return 0; /* coming here was the point of it */
	case KVM_HC_KICK_CPU:
		if (!(v->sys.kvm_features & KVM_FEATURE_PV_UNHALT))
			return -KVM_ENOSYS;
		machine_vcpu_unhalt(v->machine, (uint32_t)a[1]);
		return 0;
	case KVM_HC_SEND_IPI:
		if (!(v->sys.kvm_features & KVM_FEATURE_PV_SEND_IPI))
			return -KVM_ENOSYS;
		/* Fixed interrupts and NMIs, as a list of APIC ids from a[2] on. */
		if ((a[3] >> 8 & 7) != 0 && (a[3] >> 8 & 7) != 4)
			return -KVM_EINVAL;
		return machine_send_ipis(v->machine, v->index, (uint32_t)a[2], a[0], bt_code64(v) ? a[1] : a[1] & 0xffffffff,
					 bt_code64(v) ? 64 : 32, (uint32_t)a[3]);
	case KVM_HC_SCHED_YIELD:
		if (!(v->sys.kvm_features & KVM_FEATURE_PV_SCHED_YIELD))
			return -KVM_ENOSYS;
		if (a[0] != v->index && machine_vcpu_is_running(v->machine, (uint32_t)a[0]))
			yield();
		return 0;
	default: return -KVM_ENOSYS;
	}
}

/* Both spellings, since guests choose by vendor. The answer is in rax, every other register stays. */
void bt_hypercall(struct bt_vcpu *v)
{
	unsigned bytes = bt_code64(v) ? 8 : 4;
	const uint64_t a[4] = {bt_gpr(v, GPR_RBX, bytes), bt_gpr(v, GPR_RCX, bytes), bt_gpr(v, GPR_RDX, bytes),
			       bt_gpr(v, GPR_RSI, bytes)};
	int64_t answer = -KVM_EPERM;

	if (!v->sys.kvm_features)
		bt_raise(v, VEC_UD);
	v->stats.hypercalls++;
	if (!v->cpl)
		answer = serve(v, bt_gpr(v, GPR_RAX, bytes), a);
	bt_gpr_set(v, GPR_RAX, bytes, (uint64_t)answer);
}

/* ---- steal time --------------------------------------------------------------------------------------------------- */

struct steal_time {
	uint64_t steal; /* ns that the vCPU would have run, and did not */
	uint32_t version; /* odd while it is being written */
	uint32_t flags;
	uint8_t preempted;
	uint8_t pad[47];
};
_Static_assert(sizeof(struct steal_time) == 64, "KVM's ABI");

#define PREEMPTED 1u
#define FLUSH_TLB 2u
#define LOOK_EACH_NS 10000000u

static struct steal_time *steal_of(struct bt_vcpu *v)
{
	uint64_t msr = v->cs.kvm_steal_time;

	return msr & KVM_ENABLED ? bt_guest_struct(v, msr & ~63ull, sizeof(struct steal_time)) : NULL;
}

static uint64_t thread_cpu_ns(void)
{
	struct timespec ts;
	long rc;

	__asm__ volatile("syscall"
			 : "=a"(rc)
			 : "a"((long)SYS_clock_gettime), "D"((long)CLOCK_THREAD_CPUTIME_ID), "S"(&ts)
			 : "rcx", "r11", "memory");
	return rc ? 0 : (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t tsc_to_ns(const struct bt_vcpu *v, uint64_t ticks)
{
	uint64_t khz = machine_tsc_khz(v->machine);

	return ticks / khz * 1000000u + ticks % khz * 1000000u / khz;
}

/*
 * In the engine the vCPU always wants to run: what its thread did not get of that time was stolen. The processor's time
 * that the thread spent outside (halted, looking for an interrupt) makes it look less than it was, never more.
 */
static void steal_update(struct bt_vcpu *v, uint64_t now)
{
	struct steal_time *s = steal_of(v);
	uint64_t ran = tsc_to_ns(v, v->pv.run_tsc + (now - v->pv.entered_tsc)), cpu = thread_cpu_ns(), got = cpu - v->pv.cpu_ns;

	v->pv.looked_tsc = now;
	v->pv.run_tsc = 0;
	v->pv.entered_tsc = now;
	v->pv.cpu_ns = cpu;
	if (!s || ran <= got || ran - got < 1000)
		return;
	uint32_t version = __atomic_load_n(&s->version, __ATOMIC_RELAXED) | 1;
	__atomic_store_n(&s->version, version, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	s->steal += ran - got;
	__atomic_store_n(&s->version, version + 1, __ATOMIC_RELEASE);
}

bool bt_steal_write(struct bt_vcpu *v, uint64_t value)
{
	if (value & 62) /* reserved */
		return false;
	v->cs.kvm_steal_time = value;
	v->pv.run_tsc = 0;
	v->pv.entered_tsc = v->pv.looked_tsc = __builtin_ia32_rdtsc();
	v->pv.cpu_ns = thread_cpu_ns();
	return true;
}

/*
 * A vCPU that does not run need not be told to flush its TLB: who would tell it writes that down instead, if it sees that
 * it does not run. From the exchange on it is told again.
 */
static void steal_enter(struct bt_vcpu *v)
{
	struct steal_time *s = steal_of(v);

	v->pv.entered_tsc = __builtin_ia32_rdtsc();
	if (!s || !__atomic_load_n(&s->preempted, __ATOMIC_RELAXED))
		return;
	if (__atomic_exchange_n(&s->preempted, 0, __ATOMIC_SEQ_CST) & FLUSH_TLB) {
		bt_tlb_flush(v, true);
		v->stats.pv_flushes++;
	}
}

static void steal_leave(struct bt_vcpu *v)
{
	struct steal_time *s = steal_of(v);

	v->pv.run_tsc += __builtin_ia32_rdtsc() - v->pv.entered_tsc;
	if (s)
		__atomic_store_n(&s->preempted, PREEMPTED, __ATOMIC_SEQ_CST);
}

/* ---- ends of interrupts ----------------------------------------------------------------------------------------------- */

static uint32_t *eoi_word(struct bt_vcpu *v)
{
	uint64_t msr = v->cs.kvm_pv_eoi;

	return msr & KVM_ENABLED ? bt_guest_struct(v, msr & ~3ull, 4) : NULL;
}

bool bt_pv_eoi_write(struct bt_vcpu *v, uint64_t value)
{
	if (value & 2) /* reserved */
		return false;
	bt_pv_eoi_settle(v);
	v->cs.kvm_pv_eoi = value;
	return true;
}

/* The interrupt is being delivered: if nothing waits behind it, the guest need not say when it is done. */
void bt_pv_eoi_offer(struct bt_vcpu *v, unsigned vector)
{
	uint32_t *word = eoi_word(v);

	if (!word || v->pv.eoi || !machine_eoi_may_wait(v->machine, v->index, vector))
		return;
	__atomic_fetch_or(word, 1, __ATOMIC_RELAXED);
	v->pv.eoi = true;
}

void bt_pv_eoi_look(struct bt_vcpu *v)
{
	uint32_t *word = eoi_word(v);

	if (word && __atomic_load_n(word, __ATOMIC_RELAXED) & 1) {
		/* Not done yet. If another one has come, we must be told when it is. */
		if (machine_eoi_may_wait(v->machine, v->index, 0))
			return;
		__atomic_fetch_and(word, ~1u, __ATOMIC_RELAXED);
		v->pv.eoi = false;
		return;
	}
	v->pv.eoi = false;
	v->stats.pv_eois++;
	machine_eoi(v->machine, v->index);
}

void bt_pv_eoi_settle(struct bt_vcpu *v)
{
	uint32_t *word = eoi_word(v);

	if (!v->pv.eoi)
		return;
	v->pv.eoi = false;
	if (word && __atomic_fetch_and(word, ~1u, __ATOMIC_RELAXED) & 1)
		return;
	v->stats.pv_eois++;
	machine_eoi(v->machine, v->index);
}

/* ---- the run loop ------------------------------------------------------------------------------------------------------- */

void bt_pv_enter(struct bt_vcpu *v)
{
	if (v->cs.kvm_steal_time & KVM_ENABLED)
		steal_enter(v);
}

void bt_pv_leave(struct bt_vcpu *v)
{
	bt_pv_eoi_settle(v);
	if (v->cs.kvm_steal_time & KVM_ENABLED)
		steal_leave(v);
}

void bt_pv_look(struct bt_vcpu *v)
{
	uint64_t now;

	if (v->pv.eoi)
		bt_pv_eoi_look(v);
	if (!(v->cs.kvm_steal_time & KVM_ENABLED))
		return;
	now = __builtin_ia32_rdtsc();
	if ((now - v->pv.looked_tsc) / (LOOK_EACH_NS / 1000000) >= machine_tsc_khz(v->machine))
		steal_update(v, now);
}
