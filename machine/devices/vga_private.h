/* What the files of the VGA share: registers (vga.c), VBE (vga_vbe.c), memory windows (vga_memory.c), the picture (vga_render.c). */
#ifndef MACHINE_DEVICES_VGA_PRIVATE_H
#define MACHINE_DEVICES_VGA_PRIVATE_H

#include "machine/devices/pci.h"
#include "machine/devices/vga.h"
#include "machine/private.h"

/* Registers by index; names as IBM's manual has them. */
enum { SEQ_RESET, SEQ_CLOCKING, SEQ_MAP_MASK, SEQ_FONT, SEQ_MEMORY, SEQ_COUNT = 8 };
enum {
	GR_SET_RESET, GR_ENABLE_SET_RESET, GR_COMPARE, GR_ROTATE, GR_READ_MAP, GR_MODE, GR_MISC, GR_DONT_CARE, GR_BIT_MASK,
	GR_COUNT = 16
};
enum {
	CRTC_COLUMNS = 0x01, CRTC_OVERFLOW = 0x07, CRTC_MAX_SCAN = 0x09, CRTC_CURSOR_START = 0x0a, CRTC_CURSOR_END = 0x0b,
	CRTC_START_HIGH = 0x0c, CRTC_START_LOW = 0x0d, CRTC_CURSOR_HIGH = 0x0e, CRTC_CURSOR_LOW = 0x0f, CRTC_RETRACE_END = 0x11,
	CRTC_LINES = 0x12, CRTC_OFFSET = 0x13, CRTC_UNDERLINE = 0x14, CRTC_MODE = 0x17, CRTC_LINE_COMPARE = 0x18, CRTC_COUNT = 32
};
enum { ATTR_MODE = 0x10, ATTR_OVERSCAN, ATTR_PLANES, ATTR_PANNING, ATTR_COLOUR_SELECT, ATTR_COUNT = 32 };

#define SEQ_8_DOTS 0x01u /* of SEQ_CLOCKING */
#define SEQ_HALF_CLOCK 0x08u
#define SEQ_SCREEN_OFF 0x20u
#define SEQ_SEQUENTIAL 0x04u /* of SEQ_MEMORY: no odd/even */
#define SEQ_CHAIN_4 0x08u
#define GR_READ_COMPARE 0x08u /* of GR_MODE */
#define GR_ODD_EVEN 0x10u
#define GR_GRAPHICS 0x01u /* of GR_MISC */
#define ATTR_LINE_GRAPHICS 0x04u /* of ATTR_MODE */
#define ATTR_BLINK 0x08u
#define ATTR_PALETTE_SIZE 0x80u
#define ATTR_SCREEN_ON 0x20u /* of the index */

/* Bochs' VBE registers (its vbe.h; QEMU docs/specs/standard-vga.rst). */
enum {
	VBE_ID, VBE_XRES, VBE_YRES, VBE_BPP, VBE_ENABLE, VBE_BANK, VBE_VIRT_WIDTH, VBE_VIRT_HEIGHT, VBE_X_OFFSET, VBE_Y_OFFSET,
	VBE_MEMORY_64K, VBE_COUNT
};
#define VBE_ON 0x01u /* of VBE_ENABLE */
#define VBE_GETCAPS 0x02u
#define VBE_8BIT_DAC 0x20u
#define VBE_NO_CLEAR 0x80u

/* All a picture depends on, beside the memory. */
struct vga_registers {
	uint8_t misc, feature, status;
	uint8_t seq_index, seq[SEQ_COUNT];
	uint8_t gr_index, gr[GR_COUNT];
	uint8_t crtc_index, crtc[CRTC_COUNT];
	uint8_t attr_index, attr[ATTR_COUNT];
	bool attr_data; /* the next write to 0x3c0 is data */
	uint8_t dac_mask, dac_read, dac_write, dac_phase, dac_state, dac_latch[3];
	uint8_t dac[256][3];
	uint32_t latch; /* a byte of each plane, plane 0 lowest */
	uint16_t vbe_index, vbe[VBE_COUNT];
	uint8_t vbe_low; /* of a word written to port 0x1cf, see vga_vbe.c */
};

struct vga {
	struct machine *machine;
	struct machine_device device;
	struct pci_device pci;
	struct bus_range ports, window, vbe_index, vbe_data;
	uint8_t *vram; /* VRAM_BYTES; byte n of plane p is at 4 n + p */
	uint8_t *rom;
	uint32_t rom_bytes;
	bool unseen; /* written while it had no guest-physical address */
	struct vga_registers r;
};

#define VRAM_BYTES RAM_VIDEO_BYTES
#define VRAM_MASK (VRAM_BYTES - 1)
#define VGA_WINDOW_BYTES 0x20000u

/* All under the machine lock, unless said otherwise. */
void vga_memory_init(struct vga *vga);
/* The device has written its memory: the engine is told. */
void vga_written(struct vga *vga, uint32_t offset, uint32_t bytes);
void vga_vbe_init(struct vga *vga);
void vga_vbe_reset(struct vga *vga);
uint16_t vga_vbe_read(const struct vga *vga, unsigned index);
void vga_vbe_write(struct vga *vga, unsigned index, uint16_t value);
static inline bool vga_vbe_on(const struct vga_registers *r) { return r->vbe[VBE_ENABLE] & VBE_ON; }
/* Bytes from one row of a VBE mode to the next. */
uint32_t vga_vbe_pitch(const struct vga_registers *r);
/* The offset of the first pixel shown. */
uint32_t vga_vbe_start(const struct vga_registers *r);

/* The picture's size. [lock-free, on a copy] */
void vga_size(const struct vga_registers *r, unsigned *ret_width, unsigned *ret_height);
/* Its row y, of as many pixels as vga_size says. [lock-free, on a copy; the memory may change meanwhile] */
void vga_row(const struct vga_registers *r, const uint8_t *vram, unsigned y, uint32_t *ret_pixels);

#endif
