/* Vector instructions whose addresses no ModRM operand gives: gathers, and stores under a byte mask. */
#include "modes/bt/helper.h"

#define VECTOR_STATE 7u /* x87, SSE, AVX */
#define FXSAVE_FSW 2u
#define FXSAVE_ST 32u
#define FXSAVE_XMM 160u
#define XSAVE_HEADER 512u
#define XSAVE_YMMH 576u

/* Standard format; the guest's registers as the host holds them. */
struct image {
	uint8_t bytes[XSAVE_YMMH + 256];
} __attribute__((aligned(64)));

static void registers_save(struct bt_vcpu *v, struct image *image)
{
	bt_fpu_enter(v);
	bt_fill(image->bytes + XSAVE_HEADER, 0, 64);
	__asm__ volatile("xsave64 %0" : "+m"(*image) : "a"(VECTOR_STATE), "d"(0) : "memory");
}

static void registers_load(struct image *image)
{
	image->bytes[XSAVE_HEADER] |= VECTOR_STATE;
	__asm__ volatile("xrstor64 %0" : : "m"(*image), "a"(VECTOR_STATE), "d"(0) : "memory");
}

/* Where byte `at` of ymm `n` is. */
static uint8_t *ymm(struct image *image, unsigned n, unsigned at)
{
	return image->bytes + (at < 16 ? FXSAVE_XMM + n * 16 + at : XSAVE_YMMH + n * 16 + at - 16);
}

static uint64_t element(struct image *image, unsigned reg, unsigned i, unsigned size)
{
	const uint8_t *p = ymm(image, reg, i * size);

	return size == 4 ? *(const uint32_t *)p : *(const uint64_t *)p;
}

static void element_set(struct image *image, unsigned reg, unsigned i, unsigned size, uint64_t value)
{
	uint8_t *p = ymm(image, reg, i * size);

	if (size == 4)
		*(uint32_t *)p = (uint32_t)value;
	else
		*(uint64_t *)p = value;
}

static void clear(struct image *image, unsigned reg, unsigned from)
{
	unsigned i;

	for (i = from; i < 32; i++)
		*ymm(image, reg, i) = 0;
}

/*
 * vpgatherdd..qq, vgatherdps..qpd: elements whose mask's top bit is set are loaded, the rest kept; the mask ends as 0.
 * All loads come first, so that a fault leaves everything as it was and the restart does the whole again.
 */
void bt_op_gather(struct bt_vcpu *v, const struct bt_insn *insn)
{
	unsigned size = insn->vex_w ? 8 : 4, index_size = insn->opcode & 1 ? 8 : 4;
	unsigned bytes = insn->vex_l ? 32 : 16, n = bytes / (size > index_size ? size : index_size), i;
	unsigned dst = insn->modrm_reg, mask = insn->vvvv, index = insn->index;
	uint64_t base = (uint64_t)insn->disp, offset, value;
	struct image image;

	if (dst == mask || dst == index || mask == index)
		bt_raise(v, VEC_UD);
	if (insn->base != 0xff)
		base += v->cs.gpr[insn->base];
	registers_save(v, &image);
	for (i = 0; i < n; i++) {
		if (!(element(&image, mask, i, size) >> (size * 8 - 1)))
			continue;
		offset = element(&image, index, i, index_size);
		if (index_size == 4)
			offset = (uint64_t)(int32_t)offset;
		offset = (base + (offset << insn->scale)) & bt_size_mask(insn->addrsize);
		/* Only dst is written before the last load: registers still have its old value if one faults. */
		value = 0;
		bt_load_buf(v, bt_seg_gva(v, insn->seg, offset, size, false), &value, size); /* at any alignment */
		element_set(&image, dst, i, size, value);
	}
	clear(&image, dst, n * size);
	clear(&image, mask, 0);
	registers_load(&image);
}

/*
 * vmaskmovps/pd, vpmaskmovd/q where the whole operand is not plain memory: only elements whose mask's top bit is set
 * are accessed, at any alignment. A load faults before the destination changes, a store before anything is stored.
 */
void bt_op_vmaskmov(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bool store = insn->access & BT_ACCESS_WRITE, on;
	unsigned size = insn->opcode & 0x80 ? (insn->vex_w ? 8 : 4) : insn->opcode & 1 ? 8 : 4;
	unsigned bytes = insn->vex_l ? 32 : 16, n = bytes / size, mask = insn->vvvv, reg = insn->modrm_reg, i;
	uint64_t offset = bt_operand_offset(v, insn), address = bt_size_mask(insn->addrsize), value;
	struct image image;
	gva_t gva[8] = {0};

	registers_save(v, &image);
	for (i = 0; i < n; i++) {
		if (!(element(&image, mask, i, size) >> (size * 8 - 1)))
			continue;
		gva[i] = bt_seg_gva(v, insn->seg, (offset + i * size) & address, size, store);
		if (store)
			bt_probe_store(v, gva[i], size);
	}
	for (i = 0; i < n; i++) {
		/* A load's destination may be its mask: element i is read before it is written. */
		on = element(&image, mask, i, size) >> (size * 8 - 1);
		value = store ? element(&image, reg, i, size) : 0;
		if (!store && on)
			bt_load_buf(v, gva[i], &value, size);
		if (!store)
			element_set(&image, reg, i, size, value);
		else if (on)
			bt_store_buf(v, gva[i], &value, size);
	}
	if (store)
		return;
	clear(&image, reg, bytes);
	registers_load(&image);
}

/* The MMX register in an FXSAVE image, whose x87 registers are in stack order. */
static const uint8_t *mmx(const struct image *image, unsigned n)
{
	unsigned top = *(const uint16_t *)(image->bytes + FXSAVE_FSW) >> 11 & 7;

	return image->bytes + FXSAVE_ST + ((n - top) & 7) * 16;
}

/* maskmovdqu, maskmovq: bytes of reg whose mask byte (r/m) has its top bit set go to [rdi]. */
void bt_op_maskmov(struct bt_vcpu *v, const struct bt_insn *insn)
{
	bool wide = insn->encoding == BT_ENC_VEX || insn->mandatory == 0x66;
	unsigned bytes = wide ? 16 : 8, seg = insn->seg_override == 0xff ? SEG_DS : insn->seg_override, i;
	gva_t gva;
	const uint8_t *data, *mask;
	struct image image;

	if (!wide) { /* an MMX instruction: stack top 0, all registers in use, before any fault of the store */
		bt_fpu_enter(v);
		if (bt_fpu_pending())
			bt_raise(v, VEC_MF);
		__asm__ volatile("movd %%mm0, %0" : "=r"(i) : : "memory");
	}
	gva = bt_seg_gva(v, seg, bt_gpr(v, GPR_RDI, insn->addrsize), bytes, true);
	bt_probe_store(v, gva, bytes); /* whatever the mask */
	registers_save(v, &image);
	data = wide ? ymm(&image, insn->modrm_reg, 0) : mmx(&image, insn->modrm_reg & 7);
	mask = wide ? ymm(&image, insn->modrm_rm, 0) : mmx(&image, insn->modrm_rm & 7);
	for (i = 0; i < bytes; i++) {
		if (mask[i] & 0x80)
			bt_store(v, gva + i, data[i], 1);
	}
}
