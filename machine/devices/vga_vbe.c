/* Bochs' VBE extension: linear modes of any size, by an index and a data register. */
#include <string.h>

#include "machine/devices/vga_private.h"

#define VBE_ID_FIRST 0xb0c0u
#define VBE_ID_LAST 0xb0c5u
#define VBE_WIDTH_MAX MACHINE_SCREEN_WIDTH_MAX
#define VBE_HEIGHT_MAX MACHINE_SCREEN_HEIGHT_MAX
#define VBE_BPP_MAX 32u

/* Bits of memory that a pixel takes. */
static unsigned pixel_bits(const struct vga_registers *r)
{
	unsigned bpp = r->vbe[VBE_BPP];
	return bpp == 15 ? 16 : bpp;
}

uint32_t vga_vbe_pitch(const struct vga_registers *r)
{
	unsigned bits = pixel_bits(r);
	/* Four planes lie in each other: a byte of each for eight pixels. */
	return bits == 4 ? r->vbe[VBE_VIRT_WIDTH] / 8u * 4 : r->vbe[VBE_VIRT_WIDTH] * bits / 8;
}

uint32_t vga_vbe_start(const struct vga_registers *r)
{
	unsigned bits = pixel_bits(r);
	uint32_t at = r->vbe[VBE_Y_OFFSET] * vga_vbe_pitch(r);
	return at + (bits == 4 ? r->vbe[VBE_X_OFFSET] / 8u * 4 : r->vbe[VBE_X_OFFSET] * bits / 8);
}

static uint16_t clamp(uint16_t value, unsigned most) { return value > most ? (uint16_t)most : value; }

/* Whatever a guest wrote becomes a mode whose rows all lie in the memory. */
static void settle(struct vga_registers *r)
{
	uint16_t *vbe = r->vbe;
	unsigned bpp = vbe[VBE_BPP];

	if (bpp != 4 && bpp != 8 && bpp != 15 && bpp != 16 && bpp != 24 && bpp != 32)
		vbe[VBE_BPP] = 8;
	vbe[VBE_XRES] = clamp(vbe[VBE_XRES] & ~7u, VBE_WIDTH_MAX);
	if (!vbe[VBE_XRES])
		vbe[VBE_XRES] = 8;
	if (vbe[VBE_VIRT_WIDTH] < vbe[VBE_XRES])
		vbe[VBE_VIRT_WIDTH] = vbe[VBE_XRES];
	vbe[VBE_VIRT_WIDTH] = clamp(vbe[VBE_VIRT_WIDTH] & ~7u, 2 * VBE_WIDTH_MAX);
	uint32_t rows = VRAM_BYTES / vga_vbe_pitch(r);
	vbe[VBE_VIRT_HEIGHT] = clamp(UINT16_MAX, rows < UINT16_MAX ? rows : UINT16_MAX);
	vbe[VBE_YRES] = clamp(clamp(vbe[VBE_YRES], VBE_HEIGHT_MAX), vbe[VBE_VIRT_HEIGHT]);
	if (!vbe[VBE_YRES])
		vbe[VBE_YRES] = 1;
	vbe[VBE_X_OFFSET] = clamp(vbe[VBE_X_OFFSET], vbe[VBE_VIRT_WIDTH] - vbe[VBE_XRES]);
	vbe[VBE_Y_OFFSET] = clamp(vbe[VBE_Y_OFFSET], vbe[VBE_VIRT_HEIGHT] - vbe[VBE_YRES]);
}

/* The legacy window then shows the same bytes, 64 KiB of them by bank. */
static void set_window(struct vga_registers *r)
{
	r->gr[GR_MISC] = (r->gr[GR_MISC] & ~0x0cu) | 0x04 | GR_GRAPHICS;
	r->gr[GR_MODE] &= ~(GR_ODD_EVEN | 0x60u);
	r->crtc[CRTC_MODE] |= 3;
	if (r->vbe[VBE_BPP] == 4) {
		r->seq[SEQ_MEMORY] = (r->seq[SEQ_MEMORY] & ~SEQ_CHAIN_4) | SEQ_SEQUENTIAL;
		return;
	}
	r->gr[GR_MODE] |= 0x40;
	r->seq[SEQ_MEMORY] |= SEQ_CHAIN_4 | SEQ_SEQUENTIAL;
	r->seq[SEQ_MAP_MASK] |= 0x0f;
}

static void enable(struct vga *vga, uint16_t value)
{
	struct vga_registers *r = &vga->r;
	bool was = vga_vbe_on(r);

	if (value & VBE_ON && !was) {
		r->vbe[VBE_VIRT_WIDTH] = r->vbe[VBE_XRES];
		r->vbe[VBE_X_OFFSET] = r->vbe[VBE_Y_OFFSET] = r->vbe[VBE_BANK] = 0;
		settle(r);
		set_window(r);
		if (!(value & VBE_NO_CLEAR)) {
			uint32_t bytes = r->vbe[VBE_YRES] * vga_vbe_pitch(r);
			memset(vga->vram, 0, bytes);
			vga_written(vga, 0, bytes);
		}
	} else if (!(value & VBE_ON)) {
		r->vbe[VBE_BANK] = 0;
	}
	r->vbe[VBE_ENABLE] = value;
}

uint16_t vga_vbe_read(const struct vga *vga, unsigned index)
{
	const uint16_t *vbe = vga->r.vbe;

	if (vbe[VBE_ENABLE] & VBE_GETCAPS) {
		switch (index) {
		case VBE_XRES: return VBE_WIDTH_MAX;
		case VBE_YRES: return VBE_HEIGHT_MAX;
		case VBE_BPP: return VBE_BPP_MAX;
		default: break;
		}
	}
	if (index == VBE_MEMORY_64K)
		return VRAM_BYTES >> 16;
	return index < VBE_COUNT ? vbe[index] : 0;
}

void vga_vbe_write(struct vga *vga, unsigned index, uint16_t value)
{
	struct vga_registers *r = &vga->r;

	switch (index) {
	case VBE_ID:
		if (value >= VBE_ID_FIRST && value <= VBE_ID_LAST)
			r->vbe[VBE_ID] = value;
		return;
	case VBE_ENABLE: enable(vga, value); return;
	case VBE_BANK: r->vbe[VBE_BANK] = value & (VRAM_MASK >> 16); return;
	case VBE_XRES:
	case VBE_YRES:
	case VBE_BPP:
	case VBE_VIRT_WIDTH:
	case VBE_X_OFFSET:
	case VBE_Y_OFFSET:
		r->vbe[index] = value;
		if (vga_vbe_on(r))
			settle(r);
		return;
	default: return;
	}
}

/*
 * Words are written to port 0x1ce (the index) and 0x1cf or 0x1d0 (the data). One at 0x1cf arrives as a byte there and one at
 * 0x1d0, and nothing else does.
 */
static uint64_t index_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct vga *vga = opaque;
	return size == 1 && offset == 1 ? vga_vbe_read(vga, vga->r.vbe_index) : vga->r.vbe_index;
}

static void index_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *vga = opaque;
	if (size == 1 && offset == 1)
		vga->r.vbe_low = (uint8_t)value;
	else
		vga->r.vbe_index = (uint16_t)value;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct vga *vga = opaque;
	uint16_t value = vga_vbe_read(vga, vga->r.vbe_index);
	return size == 1 ? value >> 8 : value;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *vga = opaque;
	if (size == 2)
		vga_vbe_write(vga, vga->r.vbe_index, (uint16_t)value);
	else if (offset == 0)
		vga_vbe_write(vga, vga->r.vbe_index, (uint16_t)(vga->r.vbe_low | value << 8));
}

static const struct bus_ops index_ops = { .read = index_read, .write = index_write, .max = 2 };
static const struct bus_ops data_ops = { .read = data_read, .write = data_write, .max = 2 };

void vga_vbe_reset(struct vga *vga)
{
	memset(vga->r.vbe, 0, sizeof(vga->r.vbe));
	vga->r.vbe[VBE_ID] = VBE_ID_LAST;
	vga->r.vbe_index = 0;
}

void vga_vbe_init(struct vga *vga)
{
	vga->vbe_index = (struct bus_range){ .name = "io_vga", .ops = &index_ops, .opaque = vga };
	vga->vbe_data = (struct bus_range){ .name = "io_vga", .ops = &data_ops, .opaque = vga };
	bus_map_pio(vga->machine, &vga->vbe_index, 0x1ce, 2);
	bus_map_pio(vga->machine, &vga->vbe_data, 0x1d0, 2);
}
