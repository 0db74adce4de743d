/* Page walks: 4-level, PAE and 32-bit paging, with accessed and dirty bits (SDM vol. 3, chapter 5). */
#include "modes/bt/helper.h"

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

#define A20_BIT (1ull << 20)

/* The levels of one walk, kept until its permissions are known: only then are A and D set. */
struct steps {
	void *entry[4];
	uint64_t value[4];
	unsigned n;
};

enum outcome { WALK_OK, WALK_FAULT, WALK_AGAIN };

/* Host address of a page-table entry; NULL where no RAM is (or ROM, whose A and D bits nobody can set). */
static inline void *entry_host(struct bt_vcpu *v, gpa_t gpa)
{
	gpa_t offset = gpa - v->sys.ram_gpa;
	const struct ram_region *region;

	if (__builtin_expect(offset < v->sys.ram_bytes, 1))
		return v->sys.ram_host + offset;
	region = machine_ram_find(v->machine, gpa);
	if (!region || region->readonly)
		return NULL;
	return region->host + (gpa - region->gpa);
}

static inline uint32_t base_error(const struct bt_vcpu *v, enum bt_want want, enum bt_mmu mmu)
{
	uint32_t error = mmu == BT_MMU_USER ? PF_U : 0; /* a monitor's guest kernel takes itself for a supervisor */

	if (want == BT_WANT_WRITE)
		error |= PF_W;
	if (want == BT_WANT_EXEC && ((v->cs.efer & EFER_NXE) || (v->cs.cr4 & CR4_SMEP)))
		error |= PF_I;
	return error;
}

/* Sets bits in an entry unless another processor changed it since it was read. */
static inline bool update64(struct steps *s, unsigned i, uint64_t bits)
{
	uint64_t old = s->value[i];

	if ((old & bits) == bits)
		return true;
	if (!__atomic_compare_exchange_n((uint64_t *)s->entry[i], &old, old | bits, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_RELAXED))
		return false;
	s->value[i] |= bits;
	return true;
}

static inline bool update32(struct steps *s, unsigned i, uint32_t bits)
{
	uint32_t old = (uint32_t)s->value[i];

	if ((old & bits) == bits)
		return true;
	if (!__atomic_compare_exchange_n((uint32_t *)s->entry[i], &old, old | bits, false, __ATOMIC_SEQ_CST,
					 __ATOMIC_RELAXED))
		return false;
	s->value[i] |= bits;
	return true;
}

/*
 * Permissions (SDM vol. 3, 5.6): `all` is the AND of the entries (W and U hold if every level grants them), `nx` that
 * any level forbids execution. Fills ret; false: protection violation.
 */
static inline bool permitted(const struct bt_vcpu *v, enum bt_want want, enum bt_mmu mmu, uint64_t all, bool nx,
			     struct bt_walk *ret)
{
	bool user_page = all & PTE_U, read, write;

	if (mmu == BT_MMU_USER || mmu == BT_MMU_GUEST) {
		read = user_page;
		write = user_page && (all & PTE_W);
		ret->executable = user_page && !nx;
	} else {
		read = mmu == BT_MMU_KERNEL || !user_page;
		write = read && ((all & PTE_W) || !(v->cs.cr0 & CR0_WP));
		ret->executable = !nx && !(user_page && (v->cs.cr4 & CR4_SMEP));
	}
	ret->user = user_page;
	ret->writable = write;
	switch (want) {
	case BT_WANT_WRITE: return write;
	case BT_WANT_EXEC: return ret->executable;
	default: return read;
	}
}

static inline gpa_t a20(const struct bt_vcpu *v, gpa_t gpa)
{
	return machine_a20(v->machine) ? gpa : gpa & ~A20_BIT;
}

/* Leaf found: permissions, A and D, the answer. `size` of the page in bytes. */
static inline enum outcome finish64(struct bt_vcpu *v, gva_t gva, enum bt_want want, enum bt_mmu mmu, struct steps *s,
				    uint64_t all, bool nx, uint64_t size, struct bt_walk *ret)
{
	unsigned i, leaf = s->n - 1;
	uint64_t pte = s->value[leaf];

	if (!permitted(v, want, mmu, all, nx, ret)) {
		ret->error = base_error(v, want, mmu) | PF_P;
		return WALK_FAULT;
	}
	for (i = 0; i < leaf; i++) {
		if (!update64(s, i, PTE_A))
			return WALK_AGAIN;
	}
	if (!update64(s, leaf, want == BT_WANT_WRITE ? PTE_A | PTE_D : PTE_A))
		return WALK_AGAIN;
	ret->writable = ret->writable && (s->value[leaf] & PTE_D);
	ret->global = (pte & PTE_G) && (v->cs.cr4 & CR4_PGE);
	ret->large = size > GUEST_PAGE_SIZE;
	ret->gpa = a20(v, ((pte & v->sys.phys_mask & ~(size - 1)) | (gva & (size - 1))) & GUEST_PAGE_MASK);
	ret->error = 0;
	return WALK_OK;
}

/*
 * Entries of 8 bytes. Long mode starts at level 4; PAE at level 3, whose four entries have no permissions and no A bit.
 */
static inline enum outcome walk64(struct bt_vcpu *v, gva_t gva, enum bt_want want, enum bt_mmu mmu, bool long_mode,
				  struct bt_walk *ret)
{
	uint64_t reserved = ~v->sys.phys_mask & 0x000ffffffffff000ull;
	uint64_t all = ~0ull, any = 0, table, pte, size;
	struct steps s;
	unsigned level, shift;
	void *entry;

	s.n = 0;
	if (!(v->cs.efer & EFER_NXE))
		reserved |= PTE_NX;
	if (long_mode) {
		table = v->cs.cr3 & v->sys.phys_mask;
		level = 4;
	} else {
		reserved |= 0x7ff0000000000000ull; /* PAE: bits 62:52 too */
		entry = entry_host(v, (v->cs.cr3 & 0xffffffe0u) + (gva >> 30 & 3) * 8);
		pte = entry ? __atomic_load_n((uint64_t *)entry, __ATOMIC_RELAXED) : 0;
		if (!(pte & PTE_P)) {
			ret->error = base_error(v, want, mmu);
			return WALK_FAULT;
		}
		table = pte & v->sys.phys_mask;
		level = 2;
	}
	for (;; level--) {
		shift = 3 + 9 * level;
		entry = entry_host(v, table + (gva >> shift & 511) * 8);
		pte = entry ? __atomic_load_n((uint64_t *)entry, __ATOMIC_RELAXED) : 0;
		if (!(pte & PTE_P)) {
			ret->error = base_error(v, want, mmu);
			return WALK_FAULT;
		}
		size = 1ull << shift;
		if (level == 1 || (pte & PTE_PS)) {
			if (level > 1 && (level == 4 || (pte & (size - 1) & 0xffffffffe000ull)))
				goto bad; /* PS in a PML4 entry, or address bits below a large page's size */
			if (pte & reserved)
				goto bad;
			s.entry[s.n] = entry;
			s.value[s.n++] = pte;
			return finish64(v, gva, want, mmu, &s, all & pte, (any | pte) & PTE_NX, size, ret);
		}
		if (pte & reserved)
			goto bad;
		s.entry[s.n] = entry;
		s.value[s.n++] = pte;
		all &= pte;
		any |= pte;
		table = pte & v->sys.phys_mask;
	}
bad:
	ret->error = base_error(v, want, mmu) | PF_P | PF_RSVD;
	return WALK_FAULT;
}

static enum outcome walk32(struct bt_vcpu *v, gva_t gva, enum bt_want want, enum bt_mmu mmu, struct bt_walk *ret)
{
	struct steps s = {.n = 1};
	uint64_t page, size = GUEST_PAGE_SIZE;
	uint32_t all, pte;
	unsigned leaf = 0;
	void *entry;

	entry = entry_host(v, (v->cs.cr3 & 0xfffff000u) + (gva >> 22 & 1023) * 4);
	pte = entry ? __atomic_load_n((uint32_t *)entry, __ATOMIC_RELAXED) : 0;
	if (!(pte & PTE_P))
		goto not_present;
	s.entry[0] = entry;
	s.value[0] = all = pte;
	if ((pte & PTE_PS) && (v->cs.cr4 & CR4_PSE)) {
		size = 1u << 22; /* PSE-36: bits 20:13 are address bits 39:32, bit 21 is reserved */
		page = (pte & 0xffc00000u) | (uint64_t)(pte >> 13 & 0xff) << 32;
		if ((pte & (1u << 21)) || (page & ~v->sys.phys_mask)) {
			ret->error = base_error(v, want, mmu) | PF_P | PF_RSVD;
			return WALK_FAULT;
		}
	} else {
		entry = entry_host(v, (pte & 0xfffff000u) + (gva >> 12 & 1023) * 4);
		pte = entry ? __atomic_load_n((uint32_t *)entry, __ATOMIC_RELAXED) : 0;
		if (!(pte & PTE_P))
			goto not_present;
		leaf = 1;
		s.entry[1] = entry;
		s.value[1] = pte;
		all &= pte;
		page = pte & 0xfffff000u;
	}
	if (!permitted(v, want, mmu, all, false, ret)) {
		ret->error = base_error(v, want, mmu) | PF_P;
		return WALK_FAULT;
	}
	if (leaf && !update32(&s, 0, PTE_A))
		return WALK_AGAIN;
	if (!update32(&s, leaf, want == BT_WANT_WRITE ? PTE_A | PTE_D : PTE_A))
		return WALK_AGAIN;
	ret->writable = ret->writable && (s.value[leaf] & PTE_D);
	ret->global = (pte & PTE_G) && (v->cs.cr4 & CR4_PGE);
	ret->large = leaf == 0;
	ret->gpa = a20(v, (page | (gva & (size - 1))) & GUEST_PAGE_MASK);
	ret->error = 0;
	return WALK_OK;

not_present:
	ret->error = base_error(v, want, mmu);
	return WALK_FAULT;
}

bool bt_walk(struct bt_vcpu *v, gva_t gva, enum bt_want want, enum bt_mmu mmu, struct bt_walk *ret)
{
	enum outcome outcome;

	v->stats.walks++;
	if (!(v->cs.cr0 & CR0_PG)) {
		ret->gpa = a20(v, (uint32_t)gva & GUEST_PAGE_MASK);
		ret->writable = ret->user = ret->executable = true;
		ret->global = ret->large = false;
		ret->error = 0;
		return true;
	}
	do { /* again when another processor changed an entry in between: it has made progress, so this ends */
		if (v->cs.efer & EFER_LMA)
			outcome = walk64(v, gva, want, mmu, true, ret);
		else if (v->cs.cr4 & CR4_PAE)
			outcome = walk64(v, gva, want, mmu, false, ret);
		else
			outcome = walk32(v, gva, want, mmu, ret);
	} while (outcome == WALK_AGAIN);
	return outcome == WALK_OK;
}
