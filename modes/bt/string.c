/*
 * String instructions: movs, cmps, stos, lods, scas, ins, outs, with and without rep.
 *
 * A repeated one works page by page on host memory where the TLB grants it, and element by element elsewhere (MMIO, pages
 * with code, elements across pages). Registers are written back after each piece, so that a fault, or a pending event,
 * finds the instruction half done and restartable, as on hardware.
 */
#include "modes/bt/cache.h"
#include "modes/bt/helper.h"

struct string {
	unsigned size;  /* of an element */
	unsigned asize; /* address size in bytes */
	int64_t step;   /* size, or -size with DF */
	bool rep;
	bool step_trap; /* RFLAGS.TF, or a debugger's step: a trap follows each element */
	uint64_t count; /* left; 1 without rep */
	enum cpu_seg seg; /* of rsi */
};

/* Elements between looks at pending events when the slow way is taken. */
#define SLOW_BATCH 512

static struct string begin(const struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s;

	s.size = insn->opsize;
	s.asize = insn->addrsize;
	s.step = v->cs.rflags & RFLAGS_DF ? -(int64_t)insn->opsize : (int64_t)insn->opsize;
	s.rep = insn->flags & (BT_I_REP | BT_I_REPNE);
	s.step_trap = v->cs.rflags & RFLAGS_TF || v->debug.step;
	s.count = s.rep ? bt_gpr(v, GPR_RCX, s.asize) : 1;
	s.seg = insn->seg_override == 0xff ? SEG_DS : insn->seg_override;
	return s;
}

static inline void advance(struct bt_vcpu *v, const struct string *s, unsigned gpr, uint64_t n)
{
	bt_gpr_set(v, gpr, s->asize, v->cs.gpr[gpr] + n * (uint64_t)s->step);
}

/* n elements are done. */
static inline void done(struct bt_vcpu *v, struct string *s, uint64_t n)
{
	s->count -= n;
	if (s->rep)
		bt_gpr_set(v, GPR_RCX, s->asize, s->count);
}

/* Between two pieces of a repeated instruction: lets an event in. cs.rip is at the instruction, which then goes on. */
static inline void poll(struct bt_vcpu *v, const struct string *s)
{
	if (__builtin_expect((v->kicked || s->step_trap || v->debug.hits) && s->count, 0))
		bt_resume(v);
}

/*
 * How many elements, up to `max`, lie in one page and inside the segment from where `gpr` points, in the direction of
 * travel. 0: the next element must be done by itself. *ret_gva is the lowest address of them.
 */
static uint64_t run_length(struct bt_vcpu *v, const struct string *s, unsigned gpr, enum cpu_seg seg, uint64_t max,
			   bool write, gva_t *ret_gva)
{
	uint64_t offset = bt_gpr(v, gpr, s->asize), room;
	gva_t gva = bt_seg_gva(v, seg, offset, s->size, write);
	uint64_t in_page = gva & ~GUEST_PAGE_MASK;

	if (v->tb_key & KEY_AC && gva & (s->size - 1))
		return 0;
	if (s->step > 0) {
		room = (GUEST_PAGE_SIZE - in_page) / s->size;
		if (bt_size_mask(s->asize) - offset < room * s->size) /* the offset wraps: rare, so leave it */
			return 0;
		*ret_gva = gva;
	} else {
		if (in_page + s->size > GUEST_PAGE_SIZE)
			return 0;
		room = in_page / s->size + 1;
		if (offset < room * s->size)
			room = offset / s->size + 1;
	}
	if (room > max)
		room = max;
	if (s->step_trap && room)
		room = 1;
	if (!room)
		return 0;
	if (s->step < 0) {
		*ret_gva = gva - (room - 1) * s->size;
		offset -= (room - 1) * s->size;
	}
	if (!bt_code64(v) && !bt_seg_contains(&v->cs.seg[seg], (uint32_t)offset, (uint32_t)(room * s->size)))
		return 0;
	return room;
}

/* Host memory of a run. Downwards, the element that comes first is touched first, so that a fault names it. */
static uint8_t *run_host(struct bt_vcpu *v, const struct string *s, gva_t lowest, uint64_t n, bool write)
{
	if (s->step < 0 && n > 1 && !bt_host(v, lowest + (n - 1) * s->size, s->size, write))
		return NULL;
	return bt_host(v, lowest, (unsigned)(n * s->size), write);
}

/* Not through pointers of their type: an element may lie at any address. */
static inline uint64_t host_load(const uint8_t *p, unsigned size)
{
	uint64_t value = 0;

	switch (size) {
	case 1: __builtin_memcpy(&value, p, 1); break;
	case 2: __builtin_memcpy(&value, p, 2); break;
	case 4: __builtin_memcpy(&value, p, 4); break;
	default: __builtin_memcpy(&value, p, 8); break;
	}
	return value;
}

static inline void host_store(uint8_t *p, uint64_t value, unsigned size)
{
	switch (size) {
	case 1: __builtin_memcpy(p, &value, 1); break;
	case 2: __builtin_memcpy(p, &value, 2); break;
	case 4: __builtin_memcpy(p, &value, 4); break;
	default: __builtin_memcpy(p, &value, 8); break;
	}
}

static inline uint64_t element_load(struct bt_vcpu *v, const struct string *s, unsigned gpr, enum cpu_seg seg)
{
	return bt_load(v, bt_seg_gva(v, seg, bt_gpr(v, gpr, s->asize), s->size, false), s->size);
}

static inline void element_store(struct bt_vcpu *v, const struct string *s, uint64_t value)
{
	bt_store(v, bt_seg_gva(v, SEG_ES, bt_gpr(v, GPR_RDI, s->asize), s->size, true), value, s->size);
}

/* ---- movs ----------------------------------------------------------------------------------- */

/* The guest's own instruction with its own element size, so that overlapping operands come out exactly as there. */
static void host_movs(uint8_t *dst, const uint8_t *src, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 2: __asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 4: __asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	default: __asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	}
}

/* Downwards: the host's DF stays clear, so a loop. Pointers are to the lowest elements. */
static void host_movs_down(uint8_t *dst, const uint8_t *src, uint64_t n, unsigned size)
{
	while (n--)
		host_store(dst + n * size, host_load(src + n * size, size), size);
}

/* One piece; returns how many elements it did, 0 when they must go one by one. */
static uint64_t movs_piece(struct bt_vcpu *v, const struct string *s)
{
	uint8_t *src, *dst;
	gva_t from, to;
	uint64_t n;

	n = run_length(v, s, GPR_RSI, s->seg, s->count, false, &from);
	src = n ? run_host(v, s, from, n, false) : NULL; /* its faults come before any of the destination */
	if (src)
		n = run_length(v, s, GPR_RDI, SEG_ES, n, true, &to);
	if (!src || !n)
		return 0;
	if (s->step < 0) { /* the destination's run may be the shorter one */
		run_length(v, s, GPR_RSI, s->seg, n, false, &from);
		src = run_host(v, s, from, n, false);
	}
	dst = run_host(v, s, to, n, true);
	if (!src || !dst)
		return 0;
	if (s->step > 0)
		host_movs(dst, src, n, s->size);
	else
		host_movs_down(dst, src, n, s->size);
	return n;
}

void bt_op_movs(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	unsigned slow = 0;
	uint64_t n;

	while (s.count) {
		n = s.rep ? movs_piece(v, &s) : 0;
		if (!n) {
			element_store(v, &s, element_load(v, &s, GPR_RSI, s.seg));
			n = 1;
		}
		advance(v, &s, GPR_RSI, n);
		advance(v, &s, GPR_RDI, n);
		done(v, &s, n);
		v->stats.string_bytes += n * s.size;
		if (n > 1 || ++slow % SLOW_BATCH == 0 || s.step_trap || v->debug.hits)
			poll(v, &s);
	}
}

/* ---- stos and lods ----------------------------------------------------------------------------- */

static void host_stos(uint8_t *dst, uint64_t value, uint64_t n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(value) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(value) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(value) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(value) : "memory"); break;
	}
}

void bt_op_stos(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	unsigned slow = 0;
	uint8_t *dst;
	uint64_t n;
	gva_t to;

	while (s.count) {
		n = s.rep ? run_length(v, &s, GPR_RDI, SEG_ES, s.count, true, &to) : 0;
		dst = n ? run_host(v, &s, to, n, true) : NULL;
		if (dst) {
			host_stos(dst, v->cs.gpr[GPR_RAX], n, s.size);
		} else {
			element_store(v, &s, v->cs.gpr[GPR_RAX]);
			n = 1;
		}
		advance(v, &s, GPR_RDI, n);
		done(v, &s, n);
		v->stats.string_bytes += n * s.size;
		if (n > 1 || ++slow % SLOW_BATCH == 0 || s.step_trap || v->debug.hits)
			poll(v, &s);
	}
}

void bt_op_lods(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	unsigned slow = 0;

	while (s.count) {
		bt_gpr_set(v, GPR_RAX, s.size, element_load(v, &s, GPR_RSI, s.seg));
		advance(v, &s, GPR_RSI, 1);
		done(v, &s, 1);
		if (++slow % SLOW_BATCH == 0 || s.step_trap || v->debug.hits)
			poll(v, &s);
	}
}

/* ---- cmps and scas --------------------------------------------------------------------------------- */

/* The flags of cmp a, b: the host's own, in the form the vCPU keeps them. */
static void compare(struct bt_vcpu *v, uint64_t a, uint64_t b, unsigned size)
{
	uint64_t ax = 0;

	switch (size) {
	case 1: __asm__("cmpb %b2, %b1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc"); break;
	case 2: __asm__("cmpw %w2, %w1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc"); break;
	case 4: __asm__("cmpl %k2, %k1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc"); break;
	default: __asm__("cmpq %q2, %q1; lahf; seto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc"); break;
	}
	v->flags_ax = ax & 0xffff;
}

/*
 * Looks at up to n pairs upwards, b fixed when b_step is 0, until equality differs from `equal`. Returns how many were
 * looked at, the last pair in *ret_a, *ret_b.
 */
static uint64_t host_compare(const uint8_t *a, const uint8_t *b, uint64_t fixed, uint64_t n, unsigned size, bool equal,
			     uint64_t *ret_a, uint64_t *ret_b)
{
	uint64_t i = 0, x, y;

	do {
		x = host_load(a + i * size, size);
		y = b ? host_load(b + i * size, size) : fixed;
		i++;
	} while (i < n && (x == y) == equal);
	*ret_a = x;
	*ret_b = y;
	return i;
}

void bt_op_cmps(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	bool equal = !(insn->flags & BT_I_REPNE);
	uint64_t n, a = 0, b = 0;
	unsigned slow = 0;
	gva_t src, dst;

	if (!s.count)
		return;
	for (;;) {
		uint8_t *hs, *hd;

		/* The second operand's faults come first. */
		n = s.rep && s.step > 0 ? run_length(v, &s, GPR_RDI, SEG_ES, s.count, false, &dst) : 0;
		hd = n ? run_host(v, &s, dst, n, false) : NULL;
		n = hd ? run_length(v, &s, GPR_RSI, s.seg, n, false, &src) : 0;
		hs = n ? run_host(v, &s, src, n, false) : NULL;
		if (hs && hd) {
			n = host_compare(hs, hd, 0, n, s.size, equal, &a, &b);
		} else {
			b = element_load(v, &s, GPR_RDI, SEG_ES);
			a = element_load(v, &s, GPR_RSI, s.seg);
			n = 1;
		}
		advance(v, &s, GPR_RSI, n);
		advance(v, &s, GPR_RDI, n);
		done(v, &s, n);
		compare(v, a, b, s.size); /* a fault or an event may come before the next piece */
		if (!s.rep || !s.count || (a == b) != equal)
			break;
		if (n > 1 || ++slow % SLOW_BATCH == 0 || s.step_trap || v->debug.hits)
			poll(v, &s);
	}
}

void bt_op_scas(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	bool equal = !(insn->flags & BT_I_REPNE);
	uint64_t n, b = 0, a = bt_gpr(v, GPR_RAX, s.size), x;
	unsigned slow = 0;
	gva_t dst;

	if (!s.count)
		return;
	for (;;) {
		uint8_t *hd = NULL;

		n = s.rep && s.step > 0 ? run_length(v, &s, GPR_RDI, SEG_ES, s.count, false, &dst) : 0;
		if (n)
			hd = run_host(v, &s, dst, n, false);
		if (hd) {
			n = host_compare(hd, NULL, a, n, s.size, equal, &b, &x);
		} else {
			b = element_load(v, &s, GPR_RDI, SEG_ES);
			n = 1;
		}
		advance(v, &s, GPR_RDI, n);
		done(v, &s, n);
		compare(v, a, b, s.size); /* a fault or an event may come before the next piece */
		if (!s.rep || !s.count || (a == b) != equal)
			break;
		if (n > 1 || ++slow % SLOW_BATCH == 0 || s.step_trap || v->debug.hits)
			poll(v, &s);
	}
}

/* ---- ins and outs ------------------------------------------------------------------------------------ */

/*
 * A message, or what is left of it, by VMware's data port: pages at a time where there is host memory, upwards. The address
 * and the count move as those of the instruction do, so a fault or an event finds it restartable.
 */
static bool backdoor_data(struct bt_vcpu *v, struct string *s, bool to_guest)
{
	unsigned gpr = to_guest ? GPR_RDI : GPR_RSI;
	uint32_t r[VMWARE_REGISTERS], left;
	gva_t gva;

	if (!s->rep || s->step < 0 || !bt_backdoor_get(v, VMWARE_PORT_DATA, s->size, r))
		return false;
	bt_fpu_leave(v);
	left = machine_backdoor_data_begin(v->machine, r, to_guest);
	bt_fpu_enter(v);
	while (left) {
		uint32_t n = (uint32_t)run_length(v, s, gpr, to_guest ? SEG_ES : s->seg, left, to_guest, &gva);
		uint8_t byte, *host = n ? run_host(v, s, gva, n, to_guest) : NULL;
		bool moved;

		if (!host) {
			n = 1;
			host = &byte;
			gva = bt_seg_gva(v, to_guest ? SEG_ES : s->seg, bt_gpr(v, gpr, s->asize), 1, to_guest);
			if (to_guest)
				bt_probe_store(v, gva, 1);
			else
				byte = (uint8_t)bt_load(v, gva, 1);
		}
		bt_fpu_leave(v);
		moved = machine_backdoor_data_move(v->machine, r, to_guest, host, n);
		bt_fpu_enter(v);
		if (!moved)
			break; /* somebody else was at the channel */
		if (to_guest && host == &byte)
			bt_store(v, gva, byte, 1);
		left -= n;
		advance(v, s, gpr, n);
		done(v, s, n);
		if (left)
			poll(v, s);
	}
	bt_fpu_leave(v);
	machine_backdoor_data_end(v->machine, r, to_guest);
	bt_fpu_enter(v);
	v->cs.gpr[GPR_RBX] = r[VMWARE_BX];
	return true;
}

void bt_op_ins(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	uint16_t port = (uint16_t)v->cs.gpr[GPR_RDX];
	uint32_t value;
	gva_t gva;

	if (backdoor_data(v, &s, true))
		return;
	bt_io_check(v, port, s.size);
	while (s.count) {
		gva = bt_seg_gva(v, SEG_ES, bt_gpr(v, GPR_RDI, s.asize), s.size, true);
		bt_probe_store(v, gva, s.size); /* what the port gives cannot be given back */
		v->stats.pio++;
		bt_fpu_leave(v);
		value = machine_pio_read(v->machine, v->index, port, s.size);
		bt_fpu_enter(v);
		bt_store(v, gva, value, s.size);
		advance(v, &s, GPR_RDI, 1);
		done(v, &s, 1);
		if (v->debug.io) {
			bt_debug_port(v, port, s.size);
			if (v->debug.hits && s.count)
				bt_resume(v); /* a trap behind this element */
		}
		poll(v, &s);
	}
}

void bt_op_outs(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct string s = begin(v, insn);
	uint16_t port = (uint16_t)v->cs.gpr[GPR_RDX];
	uint32_t value;

	if (backdoor_data(v, &s, false))
		return;
	bt_io_check(v, port, s.size);
	while (s.count) {
		value = (uint32_t)element_load(v, &s, GPR_RSI, s.seg);
		v->stats.pio++;
		bt_fpu_leave(v);
		machine_pio_write(v->machine, v->index, port, value, s.size);
		bt_fpu_enter(v);
		advance(v, &s, GPR_RSI, 1);
		done(v, &s, 1);
		if (v->debug.io) {
			bt_debug_port(v, port, s.size);
			if (v->debug.hits && s.count)
				bt_resume(v); /* a trap behind this element */
		}
		poll(v, &s);
	}
}
