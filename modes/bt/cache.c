/* The code cache: space, lookup, links and invalidation. */
#include "modes/bt/sync.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 0x0001U
#endif

#define TB_BYTES_MAX (48u << 10) /* upper bound for one TB with its stubs */
#define TB_META_MAX (64u << 10)

static void *map_plain(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

/* Looked up at random: large pages where the kernel has them to give. */
static void *map_large(size_t bytes)
{
	void *p = machine_map_aligned(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);

	if (p == MAP_FAILED)
		return NULL;
	(void)madvise(p, bytes, MADV_HUGEPAGE);
	return p;
}

/* Kernels before 6.3 do not know MFD_EXEC; later ones may insist on it (vm.memfd_noexec). */
static int code_memfd(void)
{
	int fd = (int)syscall(SYS_memfd_create, "trivisor-code", MFD_CLOEXEC | MFD_EXEC);
	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_memfd_create, "trivisor-code", MFD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int bt_cache_init(struct bt_vm *vm)
{
	struct bt_cache *c = &vm->cache;
	uint64_t ram_end = 0;
	int rc = 0, fd = code_memfd();

	if (fd < 0)
		return fd;
	if (ftruncate(fd, BT_CACHE_BYTES) < 0)
		rc = -errno;
	if (!rc) {
		c->rw = machine_map_aligned(BT_CACHE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
		c->exec = machine_map_aligned(BT_CACHE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
		if (c->rw == MAP_FAILED || c->exec == MAP_FAILED)
			rc = -errno;
	}
	close(fd);
	if (rc) {
		c->rw = c->rw == MAP_FAILED ? NULL : c->rw;
		c->exec = c->exec == MAP_FAILED ? NULL : c->exec;
		return rc;
	}

	/* Everything that can hold guest code lies below 4 GiB + the RAM above it; ROM ends at 4 GiB. */
	ram_end = machine_ram_bytes(vm->machine) + (4ull << 30);
	c->pfn_count = ram_end >> GUEST_PAGE_SHIFT;
	c->meta = map_large(BT_META_BYTES);
	c->order_max = BT_CACHE_BYTES / 64;
	c->order = map_large(c->order_max * sizeof(*c->order));
	c->pages = map_large(BT_CODE_PAGES_MAX * sizeof(*c->pages));
	c->has_code = map_plain(c->pfn_count);
	c->chunks = map_plain(c->pfn_count * sizeof(*c->chunks));
	c->page_tbs = map_plain(c->pfn_count * sizeof(*c->page_tbs));
	c->hints = map_plain(c->pfn_count * sizeof(*c->hints));
	if (!c->hints || !c->meta || !c->order || !c->pages || !c->has_code || !c->chunks || !c->page_tbs)
		return -ENOMEM;
	c->next = c->hot_large = c->rw;
	c->cold_next = c->cold_large = c->rw + BT_HOT_BYTES;
	c->meta_next = c->meta;
	c->page_count = 1;
	vm->large.ram = machine_ram_find(vm->machine, 0)->host;
	vm->large.bytes = machine_ram_bytes(vm->machine);
	vm->large.fills = map_plain(machine_ram_bytes(vm->machine) / BT_LARGE_BYTES + 1);
	return vm->large.fills ? 0 : -ENOMEM;
}

static void unmap(void *p, size_t bytes)
{
	if (p)
		munmap(p, bytes);
}

void bt_cache_finish(struct bt_vm *vm)
{
	struct bt_cache *c = &vm->cache;

	unmap(c->rw, BT_CACHE_BYTES);
	unmap(c->exec, BT_CACHE_BYTES);
	unmap(c->meta, BT_META_BYTES);
	unmap(c->order, c->order_max * sizeof(*c->order));
	unmap(c->pages, BT_CODE_PAGES_MAX * sizeof(*c->pages));
	unmap(c->has_code, c->pfn_count);
	unmap(c->chunks, c->pfn_count * sizeof(*c->chunks));
	unmap(c->page_tbs, c->pfn_count * sizeof(*c->page_tbs));
	unmap(c->hints, c->pfn_count * sizeof(*c->hints));
	unmap(vm->large.fills, machine_ram_bytes(vm->machine) / BT_LARGE_BYTES + 1);
}

bool bt_cache_room(const struct bt_vm *vm)
{
	const struct bt_cache *c = &vm->cache;

	return c->next + TB_BYTES_MAX < c->rw + BT_HOT_BYTES && c->cold_next + TB_BYTES_MAX < c->rw + BT_CACHE_BYTES && c->meta_next + TB_META_MAX < c->meta + BT_META_BYTES &&
	       c->order_count < c->order_max && c->page_count + 2 < BT_CODE_PAGES_MAX;
}

void *bt_meta_alloc(struct bt_vm *vm, size_t bytes)
{
	uint8_t *p = vm->cache.meta_next;

	vm->cache.meta_next = p + ((bytes + 15) & ~(size_t)15);
	bt_fill(p, 0, bytes);
	return p;
}

void bt_jc_clear(struct bt_vcpu *v)
{
	struct bt_vcpu_block *b = (struct bt_vcpu_block *)v;

	for (unsigned user = 0; user < 2; user++) {
		for (unsigned i = 0; i < BT_JC_ENTRIES; i++)
			b->jc[user][i] = v->vm->thunk.lookup[user];
		/* Guests do jump to the address of an empty entry: it will ask C. */
		for (unsigned i = 0; i < BT_JC2_ENTRIES; i++)
			b->jc2[user][i] = (struct bt_jc2){BT_JC2_EMPTY, v->vm->thunk.lookup[user]};
	}
}

void bt_cache_flush(struct bt_vm *vm)
{
	struct bt_cache *c = &vm->cache;

	for (uint32_t i = 1; i < c->page_count; i++) {
		uint64_t pfn = c->pages[i].gpa >> GUEST_PAGE_SHIFT;
		if (pfn < c->pfn_count) {
			c->has_code[pfn] = 0;
			c->chunks[pfn] = 0;
			c->page_tbs[pfn] = NULL;
			c->hints[pfn] = NULL;
		}
	}
	bt_fill(c->hash, 0, sizeof(c->hash));
	bt_fill(c->page_hash, 0, sizeof(c->page_hash));
	bt_fill(c->tails, 0, sizeof(c->tails));
	c->next = c->first;
	c->cold_next = c->rw + BT_HOT_BYTES;
	c->meta_next = c->meta;
	c->order_count = 0;
	c->page_count = 1;
	c->flushes++;
	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_vcpu *v = vm->vcpu[i];
		if (!v)
			continue;
		bt_jc_clear(v);
		bt_itlb_flush(v, true);
		bt_tlb_flush(v, true);
	}
}

/* ---- code pages and the itlb ------------------------------------------------ */

static uint32_t page_intern(struct bt_vm *vm, gva_t gva, gpa_t gpa, const uint8_t *host, uint32_t key, uint32_t points)
{
	struct bt_cache *c = &vm->cache;
	uint64_t h = (gva >> 12) * 0x9e3779b97f4a7c15ull ^ (gpa >> 12) * 0xc2b2ae3d27d4eb4full;
	uint32_t *head = &c->page_hash[(h >> 40 ^ key) & (ARRAY_SIZE(c->page_hash) - 1)];
	uint32_t id;

	for (id = *head; id; id = c->pages[id].next) {
		const struct bt_code_page *p = &c->pages[id];
		if (p->gva == gva && p->gpa == gpa && p->key == key && p->points == points)
			return id;
	}
	id = c->page_count++;
	c->pages[id] = (struct bt_code_page){.gva = gva, .gpa = gpa, .host = host, .next = *head, .key = key, .points = points};
	*head = id;
	return id;
}

uint32_t bt_code_page(struct bt_vcpu *v, gva_t at)
{
	gva_t gva = at & GUEST_PAGE_MASK;
	struct bt_vm *vm = v->vm;
	bool user = bt_user_half(v);
	bool keep = !(v->tb_key & KEY_ONE); /* single instructions leave no trace in the itlb */
	unsigned slot = bt_itlb_slot(gva, user);
	uint32_t id = keep ? v->itlb[slot] : 0;
	struct bt_walk w;
	const struct ram_region *r;

	if (id && vm->cache.pages[id].gva == gva)
		return id;
	if (!bt_walk(v, gva, BT_WANT_EXEC, user || v->mmu == BT_MMU_GUEST ? (enum bt_mmu)v->mmu : BT_MMU_KERNEL, &w))
		bt_raise_pf(v, at, w.error);
	w.gpa &= GUEST_PAGE_MASK;
	if (!machine_a20(v->machine))
		w.gpa &= ~(gpa_t)(1u << 20);
	r = machine_ram_find(v->machine, w.gpa);
	if (!r) /* nothing answers, or a device that is no memory: all ones, which is an undefined opcode */
		bt_raise(v, VEC_UD);
	uint32_t points = keep && bt_debug_exec_in_page(v, gva) ? v->debug.id : 0;
	bool locked = v->holds_lock;
	if (!locked)
		bt_lock(v);
	id = page_intern(vm, gva, w.gpa, r->host + (w.gpa - r->gpa), v->tb_key, points);
	if (!locked)
		bt_unlock(v);
	if (!keep)
		return id;
	if (!w.global) {
		if (v->itlb_local_count < BT_ITLB_LISTED)
			v->itlb_local[v->itlb_local_count] = (uint16_t)slot;
		if (v->itlb_local_count <= BT_ITLB_LISTED)
			v->itlb_local_count++;
	}
	v->itlb[slot] = id;
	return id;
}

void bt_itlb_flush(struct bt_vcpu *v, bool globals_too)
{
	if (globals_too || v->itlb_local_count > BT_ITLB_LISTED) {
		bt_fill(v->itlb, 0, sizeof(v->itlb));
	} else {
		for (uint32_t i = 0; i < v->itlb_local_count; i++)
			v->itlb[v->itlb_local[i]] = 0;
	}
	v->itlb_local_count = 0;
}

void bt_itlb_flush_half(struct bt_vcpu *v, bool user)
{
	bt_fill(v->itlb + (user ? BT_ITLB_ENTRIES / 2 : 0), 0, sizeof(v->itlb) / 2);
}

void bt_itlb_flush_page(struct bt_vcpu *v, gva_t gva)
{
	v->itlb[bt_itlb_slot(gva, false)] = 0;
	v->itlb[bt_itlb_slot(gva, true)] = 0;
}

/* ---- finding --------------------------------------------------------------------- */

static unsigned tb_hash(uint32_t page_id, uint64_t rip, uint32_t key)
{
	uint64_t h = ((uint64_t)page_id << 12 | (rip & 0xfff)) * 0x9e3779b97f4a7c15ull ^ (uint64_t)key * 0xff51afd7ed558ccdull;
	return (unsigned)(h >> (64 - BT_HASH_BITS));
}

/* Where and how far code lies in its segment. */
struct code_segment {
	uint64_t base;
	uint32_t limit;
};

static bool matches(const struct bt_tb *tb, uint32_t page_id, uint64_t rip, struct code_segment cs, uint32_t key)
{
	return tb->page_id == page_id && tb->rip == rip && tb->key == key && tb->cs_base == cs.base && tb->cs_limit == cs.limit;
}

static struct bt_tb *find(struct bt_vm *vm, uint32_t page_id, uint64_t rip, struct code_segment cs, uint32_t key)
{
	struct bt_tb *tb = vm->cache.hash[tb_hash(page_id, rip, key)];

	while (tb && !matches(tb, page_id, rip, cs, key))
		tb = tb->hash_next;
	return tb;
}

static struct code_segment code_segment(const struct bt_vcpu *v)
{
	if (v->tb_key & KEY_BITS64)
		return (struct code_segment){0, ~0u};
	return (struct code_segment){v->cs.seg[SEG_CS].base, v->cs.seg[SEG_CS].limit};
}

/* The TB in the hash, its second page checked as well. Lock held. */
static struct bt_tb *find_whole(struct bt_vcpu *v, uint32_t id, gva_t gva, uint64_t rip, struct code_segment cs)
{
	struct bt_tb *tb = find(v->vm, id, rip, cs, v->tb_key);

	while (tb && tb->page_id2) {
		/* Its last instruction reaches into the next page: that mapping counts too. */
		if (bt_code_page(v, (gva & GUEST_PAGE_MASK) + GUEST_PAGE_SIZE) == tb->page_id2)
			break;
		for (tb = tb->hash_next; tb; tb = tb->hash_next)
			if (matches(tb, id, rip, cs, v->tb_key))
				break;
	}
	return tb;
}

/* Under where the next translation goes. */
static void large_pages(struct bt_cache *c)
{
	uint8_t *hot_end = c->rw + BT_HOT_BYTES;

	if (c->next + TB_BYTES_MAX > c->hot_large)
		c->hot_large = bt_large_code(c->hot_large, c->next + TB_BYTES_MAX, hot_end);
	if (c->cold_next + TB_BYTES_MAX > c->cold_large)
		c->cold_large = bt_large_code(c->cold_large, c->cold_next + TB_BYTES_MAX, c->rw + BT_CACHE_BYTES);
}

/* NULL: the cache was flushed on the way, try again. */
static struct bt_tb *try_get(struct bt_vcpu *v, gva_t gva, uint64_t rip, struct code_segment cs)
{
	struct bt_vm *vm = v->vm;
	uint64_t flushes = vm->cache.flushes;
	uint32_t id = bt_code_page(v, gva);
	struct bt_tb *tb;

	bt_lock(v);
	if (vm->flushing || flushes != vm->cache.flushes || !bt_cache_room(vm)) {
		if (flushes != vm->cache.flushes) {
			bt_unlock(v);
			return NULL;
		}
		bt_unlock(v);
		bt_cache_flush_all(v);
		return NULL;
	}
	tb = find_whole(v, id, gva, rip, cs);
	if (!tb) {
		v->translating = true;
		large_pages(&vm->cache);
		tb = bt_translate(v, id);
		v->translating = false;
		v->stats.tbs++;
		v->stats.tb_insns += tb->insns;
	}
	bt_unlock(v);
	return tb;
}

struct bt_tb *bt_tb_get(struct bt_vcpu *v)
{
	struct code_segment cs = code_segment(v);
	uint64_t rip = v->cs.rip;
	gva_t gva = cs.base + rip;

	if (!(v->tb_key & KEY_BITS64)) {
		if (rip > cs.limit)
			bt_raise_error(v, VEC_GP, 0);
		gva = (uint32_t)gva;
	} else if ((int64_t)(gva << 16) >> 16 != (int64_t)gva) {
		bt_raise_error(v, VEC_GP, 0);
	}
	struct bt_tb *tb = NULL;
	while (!tb)
		tb = try_get(v, gva, rip, cs);
	if (!(tb->key & KEY_ONE)) {
		bt_jc(v)[(uint16_t)rip] = tb->exec;
		*bt_jc2(v, rip) = (struct bt_jc2){rip, tb->exec};
	}
	return tb;
}

struct bt_tb *bt_tb_of(struct bt_vm *vm, const uint8_t *host)
{
	struct bt_cache *c = &vm->cache;
	uint32_t lo = 0, hi = c->order_count;
	bool cold = host >= c->exec + BT_HOT_BYTES;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;
		if ((cold ? c->order[mid]->cold : c->order[mid]->exec) <= host)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return NULL;
	struct bt_tb *tb = c->order[lo - 1];
	return host < (cold ? tb->cold + tb->cold_bytes : tb->exec + tb->bytes) ? tb : NULL;
}

/* ---- linking ---------------------------------------------------------------------- */

static void patch32(uint8_t *rw, uint32_t value) { __atomic_store_n((uint32_t *)(void *)rw, value, __ATOMIC_RELEASE); }

static void exit_point(struct bt_vm *vm, struct bt_exit *x, const uint8_t *exec_target)
{
	const uint8_t *next = x->patch + 4 + (vm->cache.exec - vm->cache.rw);
	patch32(x->patch, (uint32_t)(exec_target - next));
}

static void exit_unlink(struct bt_vm *vm, struct bt_exit *x)
{
	if (x->guard)
		patch32(x->guard, BT_NO_GUARD);
	exit_point(vm, x, x->stub);
	x->target = NULL;
}

void bt_link(struct bt_vm *vm, struct bt_exit *x, struct bt_tb *tb)
{
	if (x->target || x->tb->dead || tb->dead)
		return;
	if (x->guard) {
		if (x->guard_id && x->guard_id != tb->page_id)
			return;
		x->guard_id = tb->page_id;
		exit_point(vm, x, tb->exec + tb->mem_entry);
		patch32(x->guard, tb->page_id);
	} else {
		exit_point(vm, x, tb->exec + (x->tb == tb && tb->loop_entry ? tb->loop_entry : tb->direct_entry));
	}
	x->target = tb;
	x->next_in = tb->in;
	tb->in = x;
}

void bt_tb_insert(struct bt_vm *vm, struct bt_tb *tb)
{
	struct bt_cache *c = &vm->cache;
	struct bt_tb **head = &c->hash[tb_hash(tb->page_id, tb->rip, tb->key)];
	uint64_t pfn = c->pages[tb->page_id].gpa >> GUEST_PAGE_SHIFT;

	tb->hash_next = *head;
	*head = tb;
	tb->page_next[0] = c->page_tbs[pfn];
	c->page_tbs[pfn] = tb;
	if (tb->page_id2) {
		pfn = c->pages[tb->page_id2].gpa >> GUEST_PAGE_SHIFT;
		tb->page_next[1] = c->page_tbs[pfn];
		c->page_tbs[pfn] = tb;
	}
	c->order[c->order_count] = tb;
	__atomic_store_n(&c->order_count, c->order_count + 1, __ATOMIC_RELEASE);
}

/* A TB may be on two pages' lists; which of its two links belongs to this one? */
static struct bt_tb **page_link(struct bt_cache *c, struct bt_tb *tb, uint64_t pfn)
{
	return &tb->page_next[c->pages[tb->page_id].gpa >> GUEST_PAGE_SHIFT == pfn ? 0 : 1];
}

static void page_unlist(struct bt_cache *c, struct bt_tb *tb, uint32_t id)
{
	uint64_t pfn = c->pages[id].gpa >> GUEST_PAGE_SHIFT;
	struct bt_tb **p = &c->page_tbs[pfn];

	while (*p && *p != tb)
		p = page_link(c, *p, pfn);
	if (*p)
		*p = *page_link(c, tb, pfn);
}

void bt_tb_kill(struct bt_vm *vm, struct bt_tb *tb)
{
	struct bt_cache *c = &vm->cache;
	struct bt_tb **h = &c->hash[tb_hash(tb->page_id, tb->rip, tb->key)];

	if (tb->dead)
		return;
	tb->dead = true;
	while (*h && *h != tb)
		h = &(*h)->hash_next;
	if (*h)
		*h = tb->hash_next;
	page_unlist(c, tb, tb->page_id);
	if (tb->page_id2)
		page_unlist(c, tb, tb->page_id2);
	if (tb->id_field)
		patch32((uint8_t *)tb->id_field, BT_NO_GUARD);

	for (struct bt_exit *x = tb->in, *next; x; x = next) {
		next = x->next_in;
		exit_unlink(vm, x);
	}
	tb->in = NULL;
	for (unsigned i = 0; i < tb->exit_count; i++) {
		struct bt_exit *x = &tb->exits[i];
		if (!x->target)
			continue;
		struct bt_exit **p = &x->target->in;
		while (*p && *p != x)
			p = &(*p)->next_in;
		if (*p)
			*p = x->next_in;
		exit_unlink(vm, x);
	}
}

/* ---- self-modifying code -------------------------------------------------------------- */

static uint64_t chunk_mask(unsigned off, unsigned n)
{
	unsigned first = off >> 6, last = (off + n - 1) >> 6;
	return (last - first == 63 ? ~0ull : ((1ull << (last - first + 1)) - 1) << first);
}

void bt_code_mark(struct bt_vcpu *v, gpa_t gpa, unsigned n)
{
	struct bt_cache *c = &v->vm->cache;
	uint64_t pfn = gpa >> GUEST_PAGE_SHIFT;

	BUG_ON(pfn >= c->pfn_count);
	c->chunks[pfn] |= chunk_mask((unsigned)(gpa & 0xfff), n);
	if (c->has_code[pfn])
		return;
	__atomic_store_n(&c->has_code[pfn], 1, __ATOMIC_SEQ_CST);
	bt_protect_page(v, gpa & GUEST_PAGE_MASK);
}

static bool tb_overlaps(struct bt_cache *c, struct bt_tb *tb, gpa_t gpa, unsigned n)
{
	unsigned off = (unsigned)(gpa & 0xfff), first = 0, end;

	if (c->pages[tb->page_id].gpa >> GUEST_PAGE_SHIFT == gpa >> GUEST_PAGE_SHIFT) {
		first = tb->dep_first;
		end = tb->dep_end;
	} else { /* its tail in the next page */
		end = ((unsigned)(tb->cs_base + tb->rip) & 0xfff) + tb->guest_bytes - 4096;
	}
	return off < end && off + n > first;
}

static bool page_written(struct bt_vm *vm, gpa_t gpa, unsigned n)
{
	struct bt_cache *c = &vm->cache;
	uint64_t pfn = gpa >> GUEST_PAGE_SHIFT;
	bool any = false;

	if (!(c->chunks[pfn] & chunk_mask((unsigned)(gpa & 0xfff), n)))
		return false;
	for (struct bt_tb *tb = c->page_tbs[pfn], *next; tb; tb = next) {
		next = *page_link(c, tb, pfn);
		if (tb_overlaps(c, tb, gpa, n)) {
			bt_tb_kill(vm, tb);
			any = true;
		}
	}
	if (!c->page_tbs[pfn]) {
		c->chunks[pfn] = 0;
		c->has_code[pfn] = 0;
	}
	return any;
}

bool bt_code_written(struct bt_vm *vm, gpa_t gpa, uint64_t n)
{
	bool any = false;

	while (n) {
		uint64_t in_page = GUEST_PAGE_SIZE - (gpa & 0xfff);
		unsigned part = (unsigned)(n < in_page ? n : in_page);
		if (bt_page_has_code(vm, gpa))
			any |= page_written(vm, gpa, part);
		gpa += part;
		n -= part;
	}
	return any;
}
