/* What a paravirtual monitor may ask of the translator (monitor.h). */
#include "modes/bt/monitor.h"

#include "modes/bt/helper.h"
#include "modes/bt/sync.h"
#include "modes/bt/tlb.h"

void *bt_monitor_vm(const struct bt_vcpu *v) { return v->vm->monitor_data; }
unsigned bt_monitor_index(const struct bt_vcpu *v) { return v->index; }

/* ---- state ------------------------------------------------------------------------------- */

uint64_t bt_monitor_rflags(const struct bt_vcpu *v) { return bt_rflags(v); }
void bt_monitor_set_rflags(struct bt_vcpu *v, uint64_t rflags) { bt_set_rflags(v, rflags); }
void bt_monitor_changed(struct bt_vcpu *v) { bt_mode_changed(v); }
void bt_monitor_debug_changed(struct bt_vcpu *v) { bt_debug_registers(v); }

void bt_monitor_set_kernel(struct bt_vcpu *v, bool kernel)
{
	v->guest_kernel = kernel;
	bt_mode_changed(v);
}

/* A bt_raise inside fn means no, and leaves nothing behind. */
static bool attempt(struct bt_vcpu *v, void (*fn)(struct bt_vcpu *v, void *arg), void *arg)
{
	uint64_t cr2 = v->cs.cr2;

	if (!bt_guard(v, fn, arg))
		return true;
	v->cs.exception_pending = 0;
	v->cs.cr2 = cr2;
	return false;
}

struct load {
	uint16_t cs, ss;
	enum cpu_seg which;
};

static void load_code(struct bt_vcpu *v, void *arg)
{
	const struct load *l = arg;

	bt_return_outer(v, l->cs, l->ss);
}

bool bt_monitor_load_code(struct bt_vcpu *v, uint16_t cs, uint16_t ss)
{
	struct load l = {.cs = cs, .ss = ss};

	return attempt(v, load_code, &l);
}

static void load_data(struct bt_vcpu *v, void *arg)
{
	const struct load *l = arg;

	bt_sreg_load(v, l->which, l->ss);
}

bool bt_monitor_load_data(struct bt_vcpu *v, enum cpu_seg which, uint16_t selector)
{
	struct load l = {.ss = selector, .which = which};

	return attempt(v, load_data, &l);
}

/* ---- guest memory ------------------------------------------------------------------------ */

struct transfer {
	gva_t gva;
	void *to;
	const void *from;
	unsigned n;
};

static void do_transfer(struct bt_vcpu *v, void *arg)
{
	const struct transfer *t = arg;

	if (t->to)
		bt_load_buf(v, t->gva, t->to, t->n);
	else
		bt_store_buf(v, t->gva, t->from, t->n);
}

/* Nearly always in one page that the TLB has. */
bool bt_monitor_read(struct bt_vcpu *v, gva_t gva, void *ret_bytes, unsigned bytes)
{
	struct transfer t = {.gva = gva, .to = ret_bytes, .n = bytes};
	const uint8_t *host = bytes <= GUEST_PAGE_SIZE ? bt_tlb_hit(v, gva, bytes, false, v->mmu) : NULL;

	if (host) {
		bt_copy(ret_bytes, host, bytes);
		return true;
	}
	return attempt(v, do_transfer, &t);
}

bool bt_monitor_write(struct bt_vcpu *v, gva_t gva, const void *bytes, unsigned n)
{
	struct transfer t = {.gva = gva, .from = bytes, .n = n};
	uint8_t *host = n <= GUEST_PAGE_SIZE ? bt_tlb_hit(v, gva, n, true, v->mmu) : NULL;

	if (host) {
		bt_copy(host, bytes, n);
		return true;
	}
	return attempt(v, do_transfer, &t);
}

bool bt_monitor_fetch(struct bt_vcpu *v, uint64_t rip, struct bt_insn *ret_insn)
{
	uint8_t code[15];
	unsigned n = 0, room = (unsigned)(GUEST_PAGE_SIZE - (rip & ~GUEST_PAGE_MASK));
	enum bt_bits bits = bt_code64(v) ? BT_BITS_64 : v->cs.seg[SEG_CS].access & SEG_ACCESS_DB ? BT_BITS_32 : BT_BITS_16;

	n = room < sizeof(code) ? room : (unsigned)sizeof(code);
	rip += v->cs.seg[SEG_CS].base;
	if (!bt_monitor_read(v, rip, code, n))
		return false;
	if (n < sizeof(code) && bt_monitor_read(v, rip + n, code + n, (unsigned)sizeof(code) - n))
		n = sizeof(code);
	return bt_decode(code, n, bits, ret_insn) == BT_DECODE_OK;
}

void bt_monitor_redirect(struct bt_vcpu *v, gva_t gva, uint8_t *host)
{
	v->redirect_gva = gva & GUEST_PAGE_MASK;
	v->redirect_host = host;
	v->run_one = true;
	bt_tlb_flush_page(v, gva);
}

void bt_monitor_redirect_end(struct bt_vcpu *v) { v->redirect_host = NULL; }

/* ---- translations of addresses --------------------------------------------------------------- */

void bt_monitor_flush(struct bt_vcpu *v, unsigned spaces)
{
	if (spaces & BT_SPACE_USER)
		bt_tlb_flush_mmu(v, BT_MMU_USER);
	if (spaces & BT_SPACE_KERNEL)
		bt_tlb_flush_mmu(v, BT_MMU_GUEST);
	/* What the processor itself reads: descriptor tables. */
	if (spaces == (BT_SPACE_USER | BT_SPACE_KERNEL))
		bt_tlb_flush_mmu(v, BT_MMU_KERNEL);
}

void bt_monitor_flush_page(struct bt_vcpu *v, gva_t gva) { bt_tlb_flush_page(v, gva); }
void bt_monitor_flush_others(struct bt_vcpu *v, uint64_t vcpus) { bt_flush_others(v, vcpus); }

void bt_monitor_protect(struct bt_vcpu *v, gpa_t gpa)
{
	bt_lock(v);
	bt_protect_page(v, gpa);
	bt_unlock(v);
}

void bt_monitor_written(struct bt_vcpu *v, gpa_t gpa, uint64_t bytes)
{
	if (!bt_page_has_code(v->vm, gpa))
		return;
	bt_lock(v);
	bt_code_written(v->vm, gpa, bytes);
	bt_unlock(v);
}

/* ---- control ----------------------------------------------------------------------------------- */

void bt_monitor_lock(struct bt_vcpu *v, volatile int *lock) { bt_lock_other(v, lock); }
void bt_monitor_unlock(volatile int *lock) { __atomic_store_n(lock, 0, __ATOMIC_RELEASE); }

void bt_monitor_halt(struct bt_vcpu *v) { bt_halt(v); }
void bt_monitor_fail(struct bt_vcpu *v, const char *message) { bt_fail(v, message); }
void bt_monitor_kick(struct bt_vcpu *v) { bt_kick(v); }
