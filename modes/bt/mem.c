/* Guest memory from C: the slow path of translated accesses, and the helpers' loads and stores. */
#include "modes/bt/run.h"
#include "modes/bt/sync.h"
#include "modes/bt/tlb.h"

#define SITE_ACCESS 0x03
#define SITE_MMU_SHIFT 4

static bool canonical(const struct bt_vcpu *v, gva_t gva)
{
	return !bt_long_mode(v) || (int64_t)(gva << 16) >> 16 == (int64_t)gva;
}

/* An access that touches the non-canonical hole is #GP (or #SS), whatever the pages in front of it are. */
static bool canonical_span(const struct bt_vcpu *v, gva_t gva, unsigned n)
{
	return canonical(v, gva) && canonical(v, gva + n - 1);
}

/* What is not canonical raises another fault, which comes first. */
void bt_check_alignment(struct bt_vcpu *v, gva_t gva, unsigned align)
{
	if (v->tb_key & KEY_AC && gva & (align - 1) && canonical_span(v, gva, align))
		bt_raise_error(v, VEC_AC, 0);
}

static void mmio_read(struct bt_vcpu *v, gpa_t gpa, void *buf, unsigned n)
{
	v->stats.mmio++;
	bt_pv_eoi_settle(v); /* it may be the LAPIC */
	bt_fpu_leave(v);
	machine_mmio_read(v->machine, v->index, gpa, buf, n);
	bt_fpu_enter(v);
}

static void mmio_write(struct bt_vcpu *v, gpa_t gpa, const void *buf, unsigned n)
{
	v->stats.mmio++;
	bt_pv_eoi_settle(v); /* it may be the LAPIC */
	bt_fpu_leave(v);
	machine_mmio_write(v->machine, v->index, gpa, buf, n);
	bt_map_sync(v);
	bt_fpu_enter(v);
}

/* Outside 64-bit code linear addresses wrap at 4 GiB. */
static gva_t next_page(const struct bt_vcpu *v, gva_t gva)
{
	return gva == 1ull << 32 && !bt_code64(v) ? 0 : gva;
}

static unsigned room_in_page(gva_t gva) { return (unsigned)(GUEST_PAGE_SIZE - (gva & ~GUEST_PAGE_MASK)); }

/* One page's part of a load or store. */
static void load_part(struct bt_vcpu *v, gva_t gva, void *buf, unsigned n, enum bt_mmu mmu)
{
	uint8_t *host = bt_tlb_hit(v, gva, n, false, mmu);
	gpa_t gpa;

	if (!host) {
		enum bt_tlb_result r = bt_tlb_fill(v, gva, false, mmu, &host, &gpa);
		bt_debug_access(v, gva, n, BT_DEBUG_READ);
		if (r == BT_TLB_MMIO) {
			mmio_read(v, gpa, buf, n);
			return;
		}
	}
	bt_copy(buf, host, n);
}

static void store_part(struct bt_vcpu *v, gva_t gva, const void *buf, unsigned n, enum bt_mmu mmu)
{
	uint8_t *host = bt_tlb_hit(v, gva, n, true, mmu);
	gpa_t gpa;

	if (!host) {
		enum bt_tlb_result r = bt_tlb_fill(v, gva, true, mmu, &host, &gpa);
		bt_debug_access(v, gva, n, BT_DEBUG_WRITE);
		switch (r) {
		case BT_TLB_MMIO: mmio_write(v, gpa, buf, n); return;
		case BT_TLB_CODE:
			v->stats.smc++;
			v->code_hit = true;
			bt_lock(v);
			bt_code_written(v->vm, gpa, n);
			bt_copy(host, buf, n);
			bt_unlock(v);
			return;
		case BT_TLB_DIRECT: break;
		}
	}
	bt_copy(host, buf, n);
}

/* Raises what an access would, leaving nothing changed but A and D bits. True: a write meets translated code. */
static bool probe(struct bt_vcpu *v, gva_t gva, unsigned n, bool write, enum bt_mmu mmu)
{
	bool code = false;

	if (!canonical_span(v, gva, n))
		bt_raise_error(v, VEC_GP, 0);
	while (n) {
		unsigned part = n < room_in_page(gva) ? n : room_in_page(gva);
		uint8_t *host;
		gpa_t gpa;
		if (!bt_tlb_hit(v, gva, part, write, mmu))
			code |= bt_tlb_fill(v, gva, write, mmu, &host, &gpa) == BT_TLB_CODE;
		gva = next_page(v, gva + part);
		n -= part;
	}
	return code;
}

static void load(struct bt_vcpu *v, gva_t gva, void *buf, unsigned n, enum bt_mmu mmu)
{
	unsigned first = room_in_page(gva);

	if (!canonical_span(v, gva, n))
		bt_raise_error(v, VEC_GP, 0);
	if (n <= first) {
		load_part(v, gva, buf, n, mmu);
		return;
	}
	probe(v, gva, n, false, mmu);
	load_part(v, gva, buf, first, mmu);
	load_part(v, next_page(v, gva + first), (uint8_t *)buf + first, n - first, mmu);
}

static void store(struct bt_vcpu *v, gva_t gva, const void *buf, unsigned n, enum bt_mmu mmu)
{
	unsigned first = room_in_page(gva);

	if (!canonical_span(v, gva, n))
		bt_raise_error(v, VEC_GP, 0);
	if (n <= first) {
		store_part(v, gva, buf, n, mmu);
		return;
	}
	probe(v, gva, n, true, mmu);
	store_part(v, gva, buf, first, mmu);
	store_part(v, next_page(v, gva + first), (const uint8_t *)buf + first, n - first, mmu);
}

uint64_t bt_load(struct bt_vcpu *v, gva_t gva, unsigned bytes)
{
	uint64_t value = 0;
	bt_check_alignment(v, gva, bt_alignment(bytes));
	load(v, gva, &value, bytes, v->mmu);
	return value;
}

void bt_store(struct bt_vcpu *v, gva_t gva, uint64_t value, unsigned bytes)
{
	bt_check_alignment(v, gva, bt_alignment(bytes));
	store(v, gva, &value, bytes, v->mmu);
}

static void split(unsigned n, unsigned *off, unsigned *part)
{
	*part = n - *off > 64 ? 64 : n - *off;
}

void bt_load_buf(struct bt_vcpu *v, gva_t gva, void *buf, unsigned bytes)
{
	for (unsigned off = 0, part; off < bytes; off += part) {
		split(bytes, &off, &part);
		load(v, gva + off, (uint8_t *)buf + off, part, v->mmu);
	}
}

void bt_store_buf(struct bt_vcpu *v, gva_t gva, const void *buf, unsigned bytes)
{
	for (unsigned off = 0, part; off < bytes; off += part) {
		split(bytes, &off, &part);
		store(v, gva + off, (const uint8_t *)buf + off, part, v->mmu);
	}
}

/* Implicit accesses do not care for AC (SDM vol. 3, 4.6.1). */
static enum bt_mmu system_mmu(const struct bt_vcpu *v)
{
	return v->cs.cr4 & CR4_SMAP ? BT_MMU_KERNEL_SMAP : BT_MMU_KERNEL;
}

uint64_t bt_load_sys(struct bt_vcpu *v, gva_t gva, unsigned bytes)
{
	uint64_t value = 0;
	load(v, gva, &value, bytes, system_mmu(v));
	return value;
}

void bt_store_sys(struct bt_vcpu *v, gva_t gva, uint64_t value, unsigned bytes)
{
	store(v, gva, &value, bytes, system_mmu(v));
}

void bt_probe_store(struct bt_vcpu *v, gva_t gva, unsigned bytes) { probe(v, gva, bytes, true, v->mmu); }
void bt_probe_store_sys(struct bt_vcpu *v, gva_t gva, unsigned bytes) { probe(v, gva, bytes, true, system_mmu(v)); }

void *bt_host(struct bt_vcpu *v, gva_t gva, unsigned bytes, bool write)
{
	uint8_t *host = bt_tlb_hit(v, gva, bytes, write, v->mmu);
	gpa_t gpa;

	if (host)
		return host;
	if (!canonical(v, gva))
		bt_raise_error(v, VEC_GP, 0);
	if (bt_tlb_fill(v, gva, write, v->mmu, &host, &gpa) != BT_TLB_DIRECT)
		return NULL;
	return bt_debug_data_in_page(v, gva) ? NULL : host;
}

/* ---- the slow path of translated accesses ------------------------------------------------- */

/*
 * The access's own code, copied behind a bounce buffer: runs the tail, stores the buffer, goes back. Lock held. When the
 * cache is full the instruction starts over, after a flush.
 */
static const uint8_t *tail_get(struct bt_vcpu *v, const struct bt_site *site)
{
	struct bt_vm *vm = v->vm;
	struct bt_cache *c = &vm->cache;
	const uint8_t *at = (const uint8_t *)site, *from = at + site->back, *back = from + site->tail;
	struct bt_tail **head = &c->tails[(uintptr_t)at >> 3 & (BT_TAIL_HASH - 1)], *t;

	for (t = *head; t; t = t->next)
		if (t->site == at)
			return t->exec;

	if (!bt_cache_room(vm)) {
		v->want_flush = true;
		v->site = at;
		bt_restart(v);
	}
	uint8_t *p = c->cold_next;
	ptrdiff_t exec = c->exec - c->rw;
	t = bt_meta_alloc(vm, sizeof(*t));
	t->site = at;
	t->exec = p + exec;
	bt_copy(p, from, site->tail);
	p += site->tail;
	*p++ = 0xe8;
	int32_t rel = (int32_t)(vm->thunk.commit - (p + exec + 4));
	__builtin_memcpy(p, &rel, 4);
	p += 4;
	*p++ = 0xe9;
	rel = (int32_t)(back - (p + exec + 4));
	__builtin_memcpy(p, &rel, 4);
	p += 4;
	t->bytes = (uint32_t)(p + exec - t->exec);
	c->cold_next = c->rw + ((p - c->rw + 15) & ~15l);
	t->next = *head;
	*head = t;
	return t->exec;
}

static struct bt_mem_result bounced(struct bt_vcpu *v, gva_t gva, const struct bt_site *site, unsigned mmu)
{
	unsigned access = site->access & SITE_ACCESS, n = site->bytes;
	const uint8_t *resume = (const uint8_t *)site + site->back;

	if (access & BT_ACCESS_WRITE && probe(v, gva, n, true, mmu)) {
		/* The running TB may be what it changes: do the store alone. */
		bt_lock(v);
		struct bt_tb *tb = bt_tb_of(v->vm, v->site);
		bool one = tb && tb->key & KEY_ONE;
		bt_unlock(v);
		if (!one) {
			v->run_one = true;
			bt_restart(v);
		}
	}
	/* An x87 store that ends in an unmasked exception stores nothing: what is committed then is what was there. */
	if (access & BT_ACCESS_READ || site->access & BT_SITE_FPU)
		load(v, gva, v->bounce, n, mmu);
	if (access & BT_ACCESS_WRITE) {
		v->bounce_gva = gva;
		v->bounce_bytes = n;
		v->bounce_mmu = (uint8_t)mmu;
		bt_lock(v);
		resume = tail_get(v, site);
		bt_unlock(v);
	}
	v->site = NULL;
	return (struct bt_mem_result){.host = v->bounce, .resume = resume};
}

/*
 * A store to a page with translations. What it touches is dropped, and nobody may translate the old bytes before the new
 * ones are there: with other vCPUs about, the lock is held until the commit, which also keeps a locked operation atomic
 * against theirs (all writers of such a page come here).
 */
static struct bt_mem_result code_write(struct bt_vcpu *v, uint8_t *host, gpa_t gpa, const struct bt_site *site)
{
	const uint8_t *resume = (const uint8_t *)site + site->back;
	struct bt_tb *tb;

	v->stats.smc++;
	bt_lock(v);
	bt_code_written(v->vm, gpa, site->bytes);
	tb = bt_tb_of(v->vm, v->site);
	if (tb && tb->dead && !(tb->key & KEY_ONE)) {
		/* The running TB itself was hit: what follows the store in it may be stale. Do the store alone. */
		v->run_one = true;
		bt_restart(v);
	}
	v->site = NULL;
	if (v->vm->vcpus == 1) {
		bt_unlock(v);
		return (struct bt_mem_result){.host = host, .resume = resume};
	}
	resume = tail_get(v, site);
	bt_copy(v->bounce, host, site->bytes);
	v->bounce_host = host;
	v->bounce_bytes = v->bounce_first = site->bytes;
	return (struct bt_mem_result){.host = v->bounce, .resume = resume};
}

/*
 * A read-modify-write across two pages, with other vCPUs about: the lock is held from the load to the commit, so that
 * such operations are atomic towards each other, as a processor's bus lock makes them. Towards one that touches the same
 * bytes within a page they are not. False: one of the pages is not RAM.
 */
static bool across_locked(struct bt_vcpu *v, gva_t gva, const struct bt_site *site, unsigned mmu, struct bt_mem_result *ret)
{
	unsigned n = site->bytes, first = room_in_page(gva);
	enum bt_tlb_result low, high;
	uint8_t *host, *host2;
	gpa_t gpa, gpa2;
	struct bt_tb *tb;

	bt_lock(v);
	low = bt_tlb_fill(v, gva, true, mmu, &host, &gpa);
	high = bt_tlb_fill(v, next_page(v, gva + first), true, mmu, &host2, &gpa2);
	if (low == BT_TLB_MMIO || high == BT_TLB_MMIO) {
		bt_unlock(v);
		return false;
	}
	if (low == BT_TLB_CODE)
		bt_code_written(v->vm, gpa, first);
	if (high == BT_TLB_CODE)
		bt_code_written(v->vm, gpa2, n - first);
	tb = bt_tb_of(v->vm, v->site);
	if (tb && tb->dead && !(tb->key & KEY_ONE)) {
		v->run_one = true;
		bt_restart(v);
	}
	v->site = NULL;
	bt_copy(v->bounce, host, first);
	bt_copy(v->bounce + first, host2, n - first);
	v->bounce_host = host;
	v->bounce_host2 = host2;
	v->bounce_first = first;
	v->bounce_bytes = n;
	ret->resume = tail_get(v, site);
	ret->host = v->bounce;
	return true;
}

/*
 * An access to a debug point traps behind its instruction, which therefore runs alone. What is noted here is forgotten if
 * the access then faults.
 */
static void watch(struct bt_vcpu *v, gva_t gva, const struct bt_site *site)
{
	unsigned kind = (site->access & BT_ACCESS_READ ? BT_DEBUG_READ : 0) | (site->access & BT_ACCESS_WRITE ? BT_DEBUG_WRITE : 0);

	if (bt_debug_data_in_page(v, gva))
		v->stats.slow_watch++;
	if (!bt_debug_match(v, gva, site->bytes, kind))
		return;
	if (!v->one_active) {
		v->run_one = true;
		bt_restart(v);
	}
	bt_debug_access(v, gva, site->bytes, kind);
}

/*
 * AC is set: a supervisor's access reaches user pages, whose place is not the SMAP table. NULL: go on with *mmu; that is
 * the SMAP table for pages that belong there.
 */
static uint8_t *through_ac(struct bt_vcpu *v, gva_t gva, unsigned n, bool write, unsigned *mmu)
{
	const struct bt_tlb_entry *e = &v->tlb[BT_MMU_KERNEL][bt_tlb_index(gva)];
	uint8_t *host = n > room_in_page(gva) ? NULL : bt_tlb_hit(v, gva, n, write, BT_MMU_KERNEL);
	gpa_t gpa;

	if (!host && n <= room_in_page(gva) && bt_tlb_fill(v, gva, write, BT_MMU_KERNEL, &host, &gpa) != BT_TLB_DIRECT)
		host = NULL;
	if (!host || e->info & BT_TLB_USER) {
		*mmu = BT_MMU_KERNEL;
		return host;
	}
	return NULL;
}

struct bt_mem_result bt_mem_slow(struct bt_vcpu *v, gva_t gva, const struct bt_site *site)
{
	unsigned n = site->bytes, mmu = site->access >> SITE_MMU_SHIFT & 3;
	bool write = site->access & BT_ACCESS_WRITE;
	const uint8_t *resume = (const uint8_t *)site + site->back;
	uint8_t *host;
	gpa_t gpa;

	v->site = (const uint8_t *)site;
	if (site->access & BT_SITE_FPU && bt_fpu_pending())
		bt_raise(v, VEC_MF);
	if (site->access & BT_SITE_ALIGNED && gva & (n - 1))
		bt_raise_error(v, VEC_GP, 0);
	if (!canonical_span(v, gva, n))
		bt_raise_error(v, site->access & BT_SITE_STACK ? VEC_SS : VEC_GP, 0);
	/* The end of a segment that nothing else checks. */
	if (gva + n > 1ull << 32 && !bt_code64(v) && v->tb_key & (KEY_FLAT | KEY_BIG))
		bt_raise_error(v, site->access & BT_SITE_STACK ? VEC_SS : VEC_GP, 0);
	bt_check_alignment(v, gva, bt_alignment(n));
	if (v->debug.data)
		watch(v, gva, site);
	if (mmu == BT_MMU_KERNEL_SMAP && v->mmu == BT_MMU_KERNEL) {
		host = through_ac(v, gva, n, write, &mmu);
		if (host) {
			v->site = NULL;
			return (struct bt_mem_result){.host = host, .resume = resume};
		}
	}
	if (n > room_in_page(gva)) {
		struct bt_mem_result result;

		v->stats.slow_across++;
		if ((site->access & SITE_ACCESS) == (BT_ACCESS_READ | BT_ACCESS_WRITE) && v->vm->vcpus > 1 &&
		    across_locked(v, gva, site, mmu, &result))
			return result;
		return bounced(v, gva, site, mmu);
	}
	switch (bt_tlb_fill(v, gva, write, mmu, &host, &gpa)) {
	case BT_TLB_DIRECT: v->stats.slow_fill++; break;
	case BT_TLB_MMIO: v->stats.slow_mmio++; return bounced(v, gva, site, mmu);
	case BT_TLB_CODE: v->stats.slow_code++; return code_write(v, host, gpa, site);
	}
	v->site = NULL;
	return (struct bt_mem_result){.host = host, .resume = resume};
}

void bt_mem_commit(struct bt_vcpu *v)
{
	if (v->bounce_host) { /* code_write or across_locked hold the lock */
		bt_copy(v->bounce_host, v->bounce, v->bounce_first);
		if (v->bounce_first < v->bounce_bytes)
			bt_copy(v->bounce_host2, v->bounce + v->bounce_first, v->bounce_bytes - v->bounce_first);
		v->bounce_host = NULL;
		bt_unlock(v);
		return;
	}
	store(v, v->bounce_gva, v->bounce, v->bounce_bytes, v->bounce_mmu);
}

/* ---- slots --------------------------------------------------------------------------------- */

#define TROUBLE_CYCLES 20000 /* BT_SLOT_BUDGET misses within this many TSC cycles: about 130 ns each */

static uint64_t *hints_of(struct bt_vm *vm, gpa_t gpa)
{
	uint64_t **h = &vm->cache.hints[gpa >> GUEST_PAGE_SHIFT];

	if (!*h && bt_cache_room(vm))
		*h = bt_meta_alloc(vm, GUEST_PAGE_SIZE / 8);
	return *h;
}

/*
 * Misses cost a call and, where they come irregularly, a mispredicted jump. When they come fast, the site that happened
 * to use up the budget is most likely one that misses often: it goes to the TLB directly from now on.
 */
void bt_slot_trouble(struct bt_vcpu *v, const uint8_t *ret)
{
	uint64_t now = __builtin_ia32_rdtsc(), since = now - v->slot_tsc;
	const struct bt_insn_map *m;
	struct bt_tb *tb;
	int32_t rel;

	v->slot_budget = BT_SLOT_BUDGET;
	v->slot_tsc = now;
	if (since > TROUBLE_CYCLES)
		return;
	__builtin_memcpy(&rel, ret + 14, 4); /* behind the call: cmp (7), ja (6), jmp rel32 to the access */
	if (!bt_rip_of(v->vm, ret + 18 + rel - 1, &tb, &m))
		return;
	bt_lock(v);
	gpa_t gpa = v->vm->cache.pages[tb->page_id].gpa + (((tb->cs_base + tb->rip) & 0xfff) + m->guest);
	uint64_t *h = tb->page_id2 ? NULL : hints_of(v->vm, gpa);
	if (h) {
		h[(gpa & 0xfff) >> 6] |= 1ull << (gpa & 63);
		bt_tb_kill(v->vm, tb);
		v->stats.slots_given_up++;
	}
	bt_unlock(v);
}
