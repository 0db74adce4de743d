/* The VGA's window at 0xa0000: four planes, odd/even, chain-4, and the graphics controller between them and the processor. */
#include "machine/devices/vga_private.h"

void vga_written(struct vga *vga, uint32_t offset, uint32_t bytes)
{
	const struct ram_region *at = atomic_load_explicit(&vga->machine->ram.video, memory_order_acquire);
	if (at)
		machine_dma_written(vga->machine, at->gpa + offset, bytes);
	else
		vga->unseen = true;
}

/* Where an address in the window falls in the planes' address space; false: this card does not answer there. */
static bool window_address(const struct vga_registers *r, uint32_t at, uint32_t *ret)
{
	switch (r->gr[GR_MISC] >> 2 & 3) {
	case 0: *ret = at; return true;
	case 1: *ret = at + ((uint32_t)r->vbe[VBE_BANK] << 16); return at < 0x10000;
	case 2: *ret = at - 0x10000; return at >= 0x10000 && at < 0x18000;
	default: *ret = at - 0x18000; return at >= 0x18000;
	}
}

/* 0xff in byte p for each bit p. */
static uint32_t spread(unsigned bits)
{
	static const uint32_t mask[16] = {
		0x00000000, 0x000000ff, 0x0000ff00, 0x0000ffff, 0x00ff0000, 0x00ff00ff, 0x00ffff00, 0x00ffffff,
		0xff000000, 0xff0000ff, 0xff00ff00, 0xff00ffff, 0xffff0000, 0xffff00ff, 0xffffff00, 0xffffffff };
	return mask[bits & 15];
}

static uint32_t in_all_planes(uint8_t byte) { return byte * 0x01010101u; }

static uint32_t load4(const struct vga *vga, uint32_t at)
{
	uint32_t four;
	__builtin_memcpy(&four, vga->vram + (at * 4 & VRAM_MASK), 4);
	return four;
}

static uint8_t read_byte(struct vga *vga, uint32_t at)
{
	struct vga_registers *r = &vga->r;

	if (r->seq[SEQ_MEMORY] & SEQ_CHAIN_4) {
		r->latch = load4(vga, at >> 2);
		return vga->vram[at & VRAM_MASK];
	}
	if (r->gr[GR_MODE] & GR_ODD_EVEN) {
		uint32_t plane = (r->gr[GR_READ_MAP] & 2u) | (at & 1);
		return vga->vram[((at & ~1u) << 1 | plane) & VRAM_MASK];
	}
	r->latch = load4(vga, at);
	if (!(r->gr[GR_MODE] & GR_READ_COMPARE))
		return (uint8_t)(r->latch >> 8 * (r->gr[GR_READ_MAP] & 3));
	uint32_t differs = (r->latch ^ spread(r->gr[GR_COMPARE])) & spread(r->gr[GR_DONT_CARE]);
	differs |= differs >> 16;
	differs |= differs >> 8;
	return (uint8_t)~differs;
}

/* What a write puts into the four planes where all of them are written (IBM's manual, write modes 0 to 3). */
static uint32_t compose(const struct vga_registers *r, uint8_t byte)
{
	unsigned turn = r->gr[GR_ROTATE] & 7;
	uint8_t turned = (uint8_t)(byte >> turn | byte << (8 - turn)), bits = r->gr[GR_BIT_MASK];
	uint32_t set = spread(r->gr[GR_SET_RESET]), four;

	switch (r->gr[GR_MODE] & 3) {
	case 0: {
		uint32_t by_set = spread(r->gr[GR_ENABLE_SET_RESET]);
		four = (in_all_planes(turned) & ~by_set) | (set & by_set);
		break;
	}
	case 1: return r->latch;
	case 2: four = spread(byte); break;
	default:
		bits &= turned;
		four = set;
		break;
	}
	switch (r->gr[GR_ROTATE] >> 3 & 3) {
	case 1: four &= r->latch; break;
	case 2: four |= r->latch; break;
	case 3: four ^= r->latch; break;
	default: break;
	}
	uint32_t mask = in_all_planes(bits);
	return (four & mask) | (r->latch & ~mask);
}

static void write_byte(struct vga *vga, uint32_t at, uint8_t byte)
{
	const struct vga_registers *r = &vga->r;
	uint32_t offset, bytes = 1;

	if (r->seq[SEQ_MEMORY] & SEQ_CHAIN_4) {
		if (!(r->seq[SEQ_MAP_MASK] >> (at & 3) & 1))
			return;
		offset = at & VRAM_MASK;
		vga->vram[offset] = byte;
	} else if (!(r->seq[SEQ_MEMORY] & SEQ_SEQUENTIAL) && r->gr[GR_MODE] & GR_ODD_EVEN) {
		uint32_t plane = (r->gr[GR_READ_MAP] & 2u) | (at & 1);
		if (!(r->seq[SEQ_MAP_MASK] >> plane & 1))
			return;
		offset = ((at & ~1u) << 1 | plane) & VRAM_MASK;
		vga->vram[offset] = byte;
	} else {
		uint32_t planes = spread(r->seq[SEQ_MAP_MASK]);
		uint32_t four = (load4(vga, at) & ~planes) | (compose(r, byte) & planes);
		offset = at * 4 & VRAM_MASK;
		bytes = 4;
		__builtin_memcpy(vga->vram + offset, &four, 4);
	}
	vga_written(vga, offset, bytes);
}

static uint64_t window_read(void *opaque, uint64_t offset, unsigned size)
{
	struct vga *vga = opaque;
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++) {
		uint32_t at;
		uint8_t byte = window_address(&vga->r, (uint32_t)offset + i, &at) ? read_byte(vga, at) : 0xff;
		value |= (uint64_t)byte << 8 * i;
	}
	return value;
}

static void window_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *vga = opaque;

	for (unsigned i = 0; i < size; i++) {
		uint32_t at;
		if (window_address(&vga->r, (uint32_t)offset + i, &at))
			write_byte(vga, at, (uint8_t)(value >> 8 * i));
	}
}

static const struct bus_ops window_ops = { .read = window_read, .write = window_write, .max = 8 };

void vga_memory_init(struct vga *vga)
{
	vga->window = (struct bus_range){ .name = "mmio_vga", .ops = &window_ops, .opaque = vga };
	bus_map_mmio(vga->machine, &vga->window, RAM_VGA_BASE, VGA_WINDOW_BYTES);
}
