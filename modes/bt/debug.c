/* Debug points: matching, and what must be forgotten when they change. (debug.h) */
#include "modes/bt/debug.h"

#include "modes/bt/helper.h"
#include "modes/bt/tlb.h"

typedef bool point_fn(const struct bt_debug_point *p, gva_t gva, uint64_t bytes, unsigned kind);

static bool overlaps(const struct bt_debug_point *p, gva_t gva, uint64_t bytes, unsigned kind)
{
	return p->kind & kind && (gva - p->gva < p->bytes || p->gva - gva < bytes);
}

static bool starts_at(const struct bt_debug_point *p, gva_t gva, uint64_t bytes, unsigned kind)
{
	return p->kind & kind && p->gva == gva;
}

/* The hits among v's points; the debugger's first one in *ret_point if that is not NULL. */
static unsigned find(const struct bt_vcpu *v, point_fn *fn, gva_t gva, uint64_t bytes, unsigned kind,
		     const struct bt_debug_point **ret_point)
{
	const struct bt_debug_vm *d = &v->vm->debug;
	unsigned hits = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(v->debug.guest); i++)
		if (fn(&v->debug.guest[i], gva, bytes, kind))
			hits |= 1u << i;
	for (uint32_t i = 0; i < d->count; i++)
		if (fn(&d->point[i], gva, bytes, kind)) {
			if (ret_point)
				*ret_point = &d->point[i];
			return hits | BT_HIT_DEBUGGER;
		}
	return hits;
}

bool bt_debug_exec_point(const struct bt_vcpu *v, gva_t gva)
{
	return v->debug.exec && find(v, starts_at, gva, 1, BT_DEBUG_EXEC, NULL);
}

unsigned bt_debug_exec_at(const struct bt_vcpu *v, gva_t gva)
{
	unsigned hits = v->debug.exec ? find(v, starts_at, gva, 1, BT_DEBUG_EXEC, NULL) : 0;

	return v->cs.rflags & RFLAGS_RF ? hits & ~BT_HIT_GUEST : hits;
}

bool bt_debug_exec_in_page(const struct bt_vcpu *v, gva_t gva)
{
	return v->debug.exec && find(v, overlaps, gva & GUEST_PAGE_MASK, GUEST_PAGE_SIZE, BT_DEBUG_EXEC, NULL);
}

unsigned bt_debug_data_in_page(const struct bt_vcpu *v, gva_t gva)
{
	gva_t page = gva & GUEST_PAGE_MASK;

	if (!v->debug.data)
		return 0;
	return (find(v, overlaps, page, GUEST_PAGE_SIZE, BT_DEBUG_READ, NULL) ? BT_DEBUG_READ : 0) |
	       (find(v, overlaps, page, GUEST_PAGE_SIZE, BT_DEBUG_WRITE, NULL) ? BT_DEBUG_WRITE : 0);
}

unsigned bt_debug_match(const struct bt_vcpu *v, gva_t gva, uint64_t bytes, unsigned kind)
{
	return v->debug.data ? find(v, overlaps, gva, bytes, kind, NULL) : 0;
}

void bt_debug_access(struct bt_vcpu *v, gva_t gva, uint64_t bytes, unsigned kind)
{
	const struct bt_debug_point *p = NULL;
	unsigned hits = v->debug.data ? find(v, overlaps, gva, bytes, kind, &p) : 0;

	if (!hits)
		return;
	if (p && !(v->debug.hits & BT_HIT_DEBUGGER)) {
		v->debug.hit = *p;
		v->debug.hit_gva = gva > p->gva ? gva : p->gva;
	}
	v->debug.hits |= hits;
	v->code_hit = true; /* a helper's thunk looks at this and leaves behind the instruction */
}

gva_t bt_debug_rip(const struct bt_vcpu *v)
{
	return bt_code64(v) ? v->cs.rip : (uint32_t)(v->cs.seg[SEG_CS].base + v->cs.rip);
}

void bt_debug_changed(struct bt_vcpu *v)
{
	struct bt_debug_vm *d = &v->vm->debug;
	unsigned kinds = 0;
	bool data = v->debug.data, own;

	for (unsigned i = 0; i < ARRAY_SIZE(v->debug.guest); i++)
		kinds |= v->debug.guest[i].kind;
	own = kinds & BT_DEBUG_EXEC;
	for (uint32_t i = 0; i < d->count; i++)
		kinds |= d->point[i].kind;
	v->debug.exec = kinds & BT_DEBUG_EXEC;
	v->debug.data = kinds & (BT_DEBUG_READ | BT_DEBUG_WRITE);
	v->debug.id = own ? __atomic_add_fetch(&d->last_id, 1, __ATOMIC_RELAXED) : d->id;
	if (data || v->debug.data)
		bt_tlb_flush(v, true);
	else
		bt_itlb_flush(v, true);
	bt_tlb_forget(v, -1); /* its code pages are of the old set */
}

/* ---- the guest's registers (SDM vol. 3, 17.2) ------------------------------------------------- */

static struct bt_debug_point register_point(const struct bt_vcpu *v, unsigned i)
{
	static const uint8_t bytes[4] = {1, 2, 8, 4};
	static const uint8_t kinds[4] = {BT_DEBUG_EXEC, BT_DEBUG_WRITE, BT_DEBUG_PORT, BT_DEBUG_READ | BT_DEBUG_WRITE};
	unsigned type = v->cs.dr7 >> (16 + 4 * i) & 3, length = v->cs.dr7 >> (18 + 4 * i) & 3;
	struct bt_debug_point p = {0};

	if (!(v->cs.dr7 >> 2 * i & 3) || (type == 2 && !(v->cs.cr4 & CR4_DE)))
		return p;
	p.kind = kinds[type];
	p.bytes = type == 0 ? 1 : bytes[length];
	p.gva = v->cs.dr[i] & ~(uint64_t)(p.bytes - 1);
	return p;
}

bool bt_debug_registers(struct bt_vcpu *v)
{
	bool changed = false;

	v->debug.io = false;
	for (unsigned i = 0; i < ARRAY_SIZE(v->debug.guest); i++) {
		struct bt_debug_point p = register_point(v, i), *old = &v->debug.guest[i];
		v->debug.io |= p.kind == BT_DEBUG_PORT;
		if (p.kind == old->kind && (!p.kind || (p.gva == old->gva && p.bytes == old->bytes)))
			continue;
		changed |= (p.kind | old->kind) & ~BT_DEBUG_PORT;
		*old = p;
	}
	if (changed)
		bt_debug_changed(v);
	return changed;
}

void bt_debug_port(struct bt_vcpu *v, unsigned port, unsigned bytes)
{
	for (unsigned i = 0; i < ARRAY_SIZE(v->debug.guest); i++) {
		const struct bt_debug_point *p = &v->debug.guest[i];
		if (p->kind == BT_DEBUG_PORT && port < p->gva + p->bytes && p->gva < port + bytes) {
			v->debug.hits |= 1u << i;
			v->code_hit = true; /* as above */
		}
	}
}
