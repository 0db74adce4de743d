/*
 * Images of the processor's vector and x87 state: fxsave, xsave and their kin. The guest's state is live in the host's
 * registers, so the host's own instruction makes the image; faults and the guest's XCR0 are seen to here.
 *
 * x87 instruction and data pointers would name translated code, so images hold zeros there.
 */
#include "modes/bt/helper.h"

#define XSTATE_BUFFER 1024 /* legacy area, header, AVX: 832 bytes */
#define XSAVE_HEADER 512u
#define XSAVE_LEGACY_BYTES 576u
#define XCOMP_COMPACT (1ull << 63)
#define XF_X87 1u
#define XF_SSE 2u
#define XF_AVX 4u
#define MXCSR_OFFSET 24u
#define MXCSR_MASK_OFFSET 28u
#define MXCSR_MASK_DEFAULT 0xffbfu
#define FXSAVE_XMM 160u
#define XSAVE_YMMH 576u

struct image {
	uint8_t bytes[XSTATE_BUFFER];
} __attribute__((aligned(64)));

/* ---- guest memory ---------------------------------------------------------------------------- */

static bool one_page(gva_t gva, unsigned bytes)
{
	return (gva & ~GUEST_PAGE_MASK) + bytes <= GUEST_PAGE_SIZE;
}

static void image_load(struct bt_vcpu *v, gva_t gva, uint8_t *to, unsigned bytes)
{
	void *host = one_page(gva, bytes) ? bt_host(v, gva, bytes, false) : NULL;
	unsigned n;

	if (host) {
		bt_copy(to, host, bytes);
		return;
	}
	for (; bytes; bytes -= n, gva += n, to += n) {
		n = bytes < 64 ? bytes : 64;
		bt_load_buf(v, gva, to, n);
	}
}

static void image_probe(struct bt_vcpu *v, gva_t gva, unsigned bytes)
{
	unsigned n;

	for (; bytes; bytes -= n, gva += n) {
		n = (unsigned)(GUEST_PAGE_SIZE - (gva & ~GUEST_PAGE_MASK));
		if (n > bytes)
			n = bytes;
		bt_probe_store(v, gva, n < 64 ? n : 64);
	}
}

static void image_store(struct bt_vcpu *v, gva_t gva, const uint8_t *from, unsigned bytes)
{
	void *host = one_page(gva, bytes) ? bt_host(v, gva, bytes, true) : NULL;
	unsigned n;

	if (host) {
		bt_copy(host, from, bytes);
		return;
	}
	image_probe(v, gva, bytes);
	for (; bytes; bytes -= n, gva += n, from += n) {
		n = bytes < 64 ? bytes : 64;
		bt_store_buf(v, gva, from, n);
	}
}

static uint32_t get32(const uint8_t *p) { return *(const uint32_t *)p; }
static uint64_t get64(const uint8_t *p) { return *(const uint64_t *)p; }
static void put64(uint8_t *p, uint64_t value) { *(uint64_t *)p = value; }

/* ---- checks -------------------------------------------------------------------------------------- */

static void fpu_available(struct bt_vcpu *v)
{
	if (v->cs.cr0 & (CR0_EM | CR0_TS))
		bt_raise(v, VEC_NM);
	bt_fpu_enter(v);
}

static gva_t aligned_operand(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes, unsigned align, bool write)
{
	gva_t gva = bt_operand_gva(v, insn, bytes, write);

	if (align == 16) /* fxsave, fxrstor */
		bt_check_alignment(v, gva, 4);
	if (gva & (align - 1))
		bt_raise_error(v, VEC_GP, 0);
	return gva;
}

/* Of fnsave and the like: pieces of 4 or 2 bytes. */
static gva_t x87_operand(struct bt_vcpu *v, const struct bt_insn *insn, unsigned bytes, bool write)
{
	gva_t gva = bt_operand_gva(v, insn, bytes, write);

	bt_check_alignment(v, gva, insn->opsize == 2 ? 2 : 4);
	return gva;
}

static void mxcsr_check(struct bt_vcpu *v, const struct image *now, uint32_t mxcsr)
{
	uint32_t mask = get32(now->bytes + MXCSR_MASK_OFFSET);

	if (mxcsr & ~(mask ? mask : MXCSR_MASK_DEFAULT))
		bt_raise_error(v, VEC_GP, 0);
}

static void fxsave_live(struct image *image)
{
	__asm__ volatile("fxsave64 %0" : "=m"(*image) : : "memory");
}

/* ---- fxsave, fxrstor -------------------------------------------------------------------------------- */

/* How much of the image this mode reads and writes: no XMM without OSFXSR, eight of them outside 64-bit mode. */
static unsigned fx_bytes(const struct bt_vcpu *v)
{
	if (!(v->cs.cr4 & CR4_OSFXSR))
		return FXSAVE_XMM;
	return FXSAVE_XMM + (bt_code64(v) ? 16 : 8) * 16;
}

void bt_op_fxsave(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct image image;
	gva_t gva;

	fpu_available(v);
	gva = aligned_operand(v, insn, 512, 16, true);
	image_probe(v, gva, 512);
	fxsave_live(&image);
	put64(image.bytes + 8, 0);
	put64(image.bytes + 16, 0);
	image_store(v, gva, image.bytes, fx_bytes(v));
}

void bt_op_fxrstor(struct bt_vcpu *v, const struct bt_insn *insn)
{
	struct image image, now;
	gva_t gva;

	fpu_available(v);
	gva = aligned_operand(v, insn, 512, 16, false);
	image_load(v, gva, image.bytes, 512);
	fxsave_live(&now);
	mxcsr_check(v, &now, get32(image.bytes + MXCSR_OFFSET));
	bt_copy(now.bytes, image.bytes, fx_bytes(v)); /* the rest stays as it is */
	__asm__ volatile("fxrstor64 %0" : : "m"(now) : "memory");
}

/* ---- xsave, xsavec, xrstor ----------------------------------------------------------------------------- */

static uint64_t xsave_begin(struct bt_vcpu *v)
{
	uint64_t mask = (uint32_t)v->cs.gpr[GPR_RAX] | v->cs.gpr[GPR_RDX] << 32;

	if (!(v->cs.cr4 & CR4_OSXSAVE))
		bt_raise(v, VEC_UD);
	if (v->cs.cr0 & CR0_TS)
		bt_raise(v, VEC_NM);
	bt_fpu_enter(v);
	return mask & v->cs.xcr0;
}

static unsigned xsave_bytes(const struct bt_vcpu *v, uint64_t components)
{
	return components & XF_AVX ? v->sys.cpuid->xsave_bytes : XSAVE_LEGACY_BYTES;
}

static void host_xsave(void *to, uint64_t mask, bool compact)
{
	uint32_t lo = (uint32_t)mask, hi = (uint32_t)(mask >> 32);

	if (compact)
		__asm__ volatile("xsavec64 (%0)" : : "r"(to), "a"(lo), "d"(hi) : "memory");
	else
		__asm__ volatile("xsave64 (%0)" : : "r"(to), "a"(lo), "d"(hi) : "memory");
	if (mask & XF_X87) {
		put64((uint8_t *)to + 8, 0);
		put64((uint8_t *)to + 16, 0);
	}
}

/*
 * Straight into guest memory where one page holds it all, which is the common case: the instruction cannot fault there.
 * Otherwise through a copy that starts as what the guest has there, since parts may be left unwritten.
 */
/* Outside 64-bit mode, registers 8 to 15 are neither saved nor restored: their places in `to` become those of `from`. */
static void keep_upper(uint8_t *to, const uint8_t *from)
{
	bt_copy(to + FXSAVE_XMM + 128, from + FXSAVE_XMM + 128, 128);
	bt_copy(to + XSAVE_YMMH + 128, from + XSAVE_YMMH + 128, 128);
}

static void xsave(struct bt_vcpu *v, const struct bt_insn *insn, bool compact)
{
	uint64_t mask = xsave_begin(v);
	unsigned bytes = xsave_bytes(v, mask);
	gva_t gva = aligned_operand(v, insn, bytes, 64, true);
	void *host = one_page(gva, bytes) && bt_code64(v) ? bt_host(v, gva, bytes, true) : NULL;
	struct image image, before;

	if (host) {
		host_xsave(host, mask, compact);
		return;
	}
	image_probe(v, gva, bytes);
	image_load(v, gva, image.bytes, bytes);
	before = image;
	host_xsave(image.bytes, mask, compact);
	if (!bt_code64(v))
		keep_upper(image.bytes, before.bytes);
	image_store(v, gva, image.bytes, bytes);
}

void bt_op_xsave(struct bt_vcpu *v, const struct bt_insn *insn)
{
	xsave(v, insn, false);
}

/* May skip what is unchanged or in its initial state; skipping nothing is as right, and the host's own could not know. */
void bt_op_xsaveopt(struct bt_vcpu *v, const struct bt_insn *insn)
{
	if (!(v->sys.xsave_features & 1))
		bt_raise(v, VEC_UD);
	xsave(v, insn, false);
}

void bt_op_xsavec(struct bt_vcpu *v, const struct bt_insn *insn)
{
	if (!(v->sys.xsave_features & 2))
		bt_raise(v, VEC_UD);
	xsave(v, insn, true);
}

void bt_op_xsaves(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_raise(v, VEC_UD);
}

void bt_op_xrstors(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bt_raise(v, VEC_UD);
}

static bool all_zero(const uint8_t *p, unsigned bytes)
{
	uint64_t any = 0;
	unsigned i;

	for (i = 0; i < bytes; i += 8)
		any |= get64(p + i);
	return !any;
}

/* SDM vol. 1, 13.8.1 and 13.8.2; the host would raise the same #GP, but as a signal. */
static bool xrstor_header_ok(struct bt_vcpu *v, const uint8_t *header)
{
	uint64_t bv = get64(header), comp = get64(header + 8);

	if (comp & XCOMP_COMPACT) {
		if (!(v->sys.xsave_features & 2))
			return false;
		comp &= ~XCOMP_COMPACT;
		return !(comp & ~v->cs.xcr0) && !(bv & ~comp) && all_zero(header + 16, 48);
	}
	return !(bv & ~v->cs.xcr0) && all_zero(header + 8, 16);
}

/* The same state for the registers that this mode restores; what the header calls initial is spelled out. */
static void narrow(struct image *image, uint64_t mask, uint64_t bv, bool compact)
{
	struct image now;

	bt_fill(now.bytes + XSAVE_HEADER, 0, 64);
	host_xsave(now.bytes, XF_SSE | XF_AVX, false);
	if (!(bv & XF_SSE)) {
		bt_fill(image->bytes + FXSAVE_XMM, 0, 128);
		if (compact)
			*(uint32_t *)(image->bytes + MXCSR_OFFSET) = 0x1f80;
	}
	if (!(bv & XF_AVX))
		bt_fill(image->bytes + XSAVE_YMMH, 0, 128);
	keep_upper(image->bytes, now.bytes);
	put64(image->bytes + XSAVE_HEADER, bv | (mask & (XF_SSE | XF_AVX)));
	if (compact)
		put64(image->bytes + XSAVE_HEADER + 8, get64(image->bytes + XSAVE_HEADER + 8) | mask);
}

void bt_op_xrstor(struct bt_vcpu *v, const struct bt_insn *insn)
{
	uint64_t mask = xsave_begin(v), bv;
	gva_t gva = aligned_operand(v, insn, XSAVE_LEGACY_BYTES, 64, false);
	struct image image, now;
	bool compact;

	image_load(v, gva, image.bytes, XSAVE_LEGACY_BYTES);
	if (!xrstor_header_ok(v, image.bytes + XSAVE_HEADER))
		bt_raise_error(v, VEC_GP, 0);
	bv = get64(image.bytes + XSAVE_HEADER);
	compact = get64(image.bytes + XSAVE_HEADER + 8) & XCOMP_COMPACT;
	if (mask & bv & XF_AVX)
		image_load(v, gva + XSAVE_LEGACY_BYTES, image.bytes + XSAVE_LEGACY_BYTES,
			   xsave_bytes(v, XF_AVX) - XSAVE_LEGACY_BYTES);
	if (compact ? mask & bv & XF_SSE : mask & (XF_SSE | XF_AVX)) {
		fxsave_live(&now);
		mxcsr_check(v, &now, get32(image.bytes + MXCSR_OFFSET));
	}
	if (!bt_code64(v))
		narrow(&image, mask, bv, compact);
	__asm__ volatile("xrstor64 %0" : : "m"(image), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)) : "memory");
}

/* ---- x87 alone: fnsave, frstor, fnstenv, fldenv --------------------------------------------------------------- */

static unsigned env_bytes(const struct bt_insn *insn)
{
	return insn->opsize == 2 ? 14 : 28;
}

/* Instruction and operand pointers, the opcode kept (it is architectural in the 32-bit form only). */
static void env_clear_pointers(uint8_t *env, unsigned env_size)
{
	if (env_size == 14) {
		bt_fill(env + 6, 0, 8);
		return;
	}
	bt_fill(env + 12, 0, 6);
	bt_fill(env + 20, 0, 6);
}

void bt_op_fnsave(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned env = env_bytes(insn), bytes = env + 80;
	struct image image;
	gva_t gva;

	fpu_available(v);
	gva = x87_operand(v, insn, bytes, true);
	image_probe(v, gva, bytes);
	if (env == 14)
		__asm__ volatile("data16 fnsave %0" : "=m"(image) : : "memory");
	else
		__asm__ volatile("fnsave %0" : "=m"(image) : : "memory");
	env_clear_pointers(image.bytes, env);
	image_store(v, gva, image.bytes, bytes);
}

void bt_op_frstor(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned env = env_bytes(insn), bytes = env + 80;
	struct image image;

	fpu_available(v);
	if (bt_fpu_pending())
		bt_raise(v, VEC_MF);
	image_load(v, x87_operand(v, insn, bytes, false), image.bytes, bytes);
	if (env == 14)
		__asm__ volatile("data16 frstor %0" : : "m"(image) : "memory");
	else
		__asm__ volatile("frstor %0" : : "m"(image) : "memory");
}

void bt_op_fnstenv(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned env = env_bytes(insn);
	struct image image;
	gva_t gva;

	fpu_available(v);
	gva = x87_operand(v, insn, env, true);
	image_probe(v, gva, env);
	if (env == 14)
		__asm__ volatile("data16 fnstenv %0" : "=m"(image) : : "memory");
	else
		__asm__ volatile("fnstenv %0" : "=m"(image) : : "memory");
	env_clear_pointers(image.bytes, env);
	image_store(v, gva, image.bytes, env);
}

void bt_op_fldenv(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned env = env_bytes(insn);
	struct image image;

	fpu_available(v);
	if (bt_fpu_pending())
		bt_raise(v, VEC_MF);
	image_load(v, x87_operand(v, insn, env, false), image.bytes, env);
	if (env == 14)
		__asm__ volatile("data16 fldenv %0" : : "m"(image) : "memory");
	else
		__asm__ volatile("fldenv %0" : : "m"(image) : "memory");
}
