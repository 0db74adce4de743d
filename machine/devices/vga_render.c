/* What a VGA's monitor shows, row by row: text, planes, CGA's modes, 256 colours, and VBE's linear ones. */
#include <string.h>

#include "machine/devices/vga_private.h"

#define MAX_COLUMNS 256u

/* ---- colours -------------------------------------------------------------------- */

/* Of an entry of the DAC, which has 6 bits for each unless VBE made it 8. */
static uint32_t dac_colour(const struct vga_registers *r, unsigned index)
{
	const uint8_t *c = r->dac[index & r->dac_mask];
	uint32_t rgb[3];

	for (unsigned i = 0; i < 3; i++)
		rgb[i] = r->vbe[VBE_ENABLE] & VBE_8BIT_DAC ? c[i] : (c[i] & 63u) << 2 | (c[i] & 63u) >> 4;
	return rgb[0] << 16 | rgb[1] << 8 | rgb[2];
}

/* Through the attribute controller's palette. */
static uint32_t attr_colour(const struct vga_registers *r, unsigned index)
{
	unsigned at = r->attr[index & 15 & r->attr[ATTR_PLANES]], select = r->attr[ATTR_COLOUR_SELECT];

	if (r->attr[ATTR_MODE] & ATTR_PALETTE_SIZE)
		return dac_colour(r, (at & 15) | (select & 15) << 4);
	return dac_colour(r, (at & 63) | (select & 12) << 4);
}

static bool is_dark(const struct vga_registers *r)
{
	return r->seq[SEQ_CLOCKING] & SEQ_SCREEN_OFF || !(r->attr_index & ATTR_SCREEN_ON);
}

/* ---- geometry --------------------------------------------------------------------- */

static bool is_text(const struct vga_registers *r) { return !vga_vbe_on(r) && !(r->gr[GR_MISC] & GR_GRAPHICS); }

static unsigned columns(const struct vga_registers *r) { return r->crtc[CRTC_COLUMNS] + 1u; }

static unsigned scan_lines(const struct vga_registers *r)
{
	unsigned over = r->crtc[CRTC_OVERFLOW];
	return (r->crtc[CRTC_LINES] | (over & 2) << 7 | (over & 0x40) << 3) + 1u;
}

/* Dots from one character to the next. */
static unsigned cell_width(const struct vga_registers *r)
{
	unsigned dots = r->seq[SEQ_CLOCKING] & SEQ_8_DOTS ? 8 : 9;
	return r->seq[SEQ_CLOCKING] & SEQ_HALF_CLOCK ? 2 * dots : dots;
}

static bool is_256_colours(const struct vga_registers *r) { return r->gr[GR_MODE] & 0x40; }

/* Scan lines that show the same row of memory. */
static unsigned repeats(const struct vga_registers *r)
{
	unsigned n = (r->crtc[CRTC_MAX_SCAN] & 0x1fu) + 1;
	/* CGA's modes take the bits of the line's number into the address instead. */
	if ((r->crtc[CRTC_MODE] & 3) != 3)
		n = 1;
	return r->crtc[CRTC_MAX_SCAN] & 0x80 ? 2 * n : n;
}

static unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

void vga_size(const struct vga_registers *r, unsigned *ret_width, unsigned *ret_height)
{
	unsigned width, height = scan_lines(r);

	if (vga_vbe_on(r)) {
		width = r->vbe[VBE_XRES];
		height = r->vbe[VBE_YRES];
	} else if (is_text(r)) {
		width = columns(r) * cell_width(r);
	} else {
		width = columns(r) * (is_256_colours(r) || r->seq[SEQ_CLOCKING] & SEQ_HALF_CLOCK ? 4 : 8);
		/* Lines that are doubled tell nobody anything. */
		if (repeats(r) == 2)
			height /= 2;
	}
	*ret_width = least(width, MACHINE_SCREEN_WIDTH_MAX);
	*ret_height = least(height ? height : 1, MACHINE_SCREEN_HEIGHT_MAX);
}

/* The row of memory (in addresses of all planes) and the line of a character that a scan line shows. */
static uint32_t start_address(const struct vga_registers *r)
{
	return r->crtc[CRTC_START_HIGH] << 8 | r->crtc[CRTC_START_LOW];
}

/* From this scan line on the memory's beginning is shown. */
static unsigned split_line(const struct vga_registers *r)
{
	return (r->crtc[CRTC_LINE_COMPARE] | (r->crtc[CRTC_OVERFLOW] & 0x10u) << 4 | (r->crtc[CRTC_MAX_SCAN] & 0x40u) << 3) + 1u;
}

/* ---- text --------------------------------------------------------------------------- */

/* Where in plane 2 a font lies, by its number in the sequencer's register: eight of 8 KiB, in an order of their own. */
static uint32_t font_at(unsigned low_bits, unsigned high_bit) { return (low_bits << 1 | high_bit) * 8192; }

static bool cursor_covers(const struct vga_registers *r, uint32_t cell, unsigned line)
{
	unsigned start = r->crtc[CRTC_CURSOR_START], end = r->crtc[CRTC_CURSOR_END] & 0x1fu;
	uint32_t at = r->crtc[CRTC_CURSOR_HIGH] << 8 | r->crtc[CRTC_CURSOR_LOW];

	return !(start & 0x20) && cell == at && line >= (start & 0x1f) && line <= end;
}

static void text_row(const struct vga_registers *r, const uint8_t *vram, unsigned y, unsigned width, uint32_t *to)
{
	unsigned dots = r->seq[SEQ_CLOCKING] & SEQ_8_DOTS ? 8 : 9, wide = cell_width(r) / dots;
	unsigned height = (r->crtc[CRTC_MAX_SCAN] & 0x1fu) + 1, split = split_line(r), map = r->seq[SEQ_FONT];
	/* Bit 3 of the attribute chooses: set A, set B. */
	const uint32_t font[2] = { font_at(map & 3, map >> 4 & 1), font_at(map >> 2 & 3, map >> 5 & 1) };
	unsigned from = y < split ? y : y - split;
	uint32_t cell = (y < split ? start_address(r) : 0) + from / height * r->crtc[CRTC_OFFSET] * 2u;
	unsigned line = from % height;
	uint32_t colour[16];

	for (unsigned i = 0; i < 16; i++)
		colour[i] = attr_colour(r, i);
	for (unsigned x = 0; x < width; cell++) {
		const uint8_t *four = vram + (cell * 4 & VRAM_MASK);
		unsigned ch = four[0], attr = four[1], ink = attr & 15, paper = attr >> 4;
		unsigned bits = vram[((font[attr >> 3 & 1] + ch * 32 + line) * 4 + 2) & VRAM_MASK] << 1;

		if (r->attr[ATTR_MODE] & ATTR_BLINK)
			paper &= 7; /* shown in the half of the time in which it is to be seen */
		if (ch >= 0xc0 && ch <= 0xdf && r->attr[ATTR_MODE] & ATTR_LINE_GRAPHICS)
			bits |= bits >> 1 & 1;
		if (cursor_covers(r, cell & 0xffff, line))
			bits = 0x1ff;
		for (unsigned dot = 0; dot < dots; dot++)
			for (unsigned n = 0; n < wide && x < width; n++)
				to[x++] = colour[bits >> (8 - dot) & 1 ? ink : paper];
	}
}

/* ---- graphics of the VGA's own ---------------------------------------------------------- */

static void planes_row(const struct vga_registers *r, const uint8_t *four, unsigned width, uint32_t *to, const uint8_t *vram)
{
	uint32_t colour[16], at = (uint32_t)(four - vram);

	for (unsigned i = 0; i < 16; i++)
		colour[i] = attr_colour(r, i);
	for (unsigned x = 0; x < width; x++) {
		const uint8_t *p = vram + ((at + x / 8 * 4) & VRAM_MASK);
		unsigned bit = 7 - x % 8;
		to[x] = colour[(p[0] >> bit & 1) | (p[1] >> bit & 1) << 1 | (p[2] >> bit & 1) << 2 | (p[3] >> bit & 1) << 3];
	}
}

/* Two bits a pixel: the even bytes in plane 0, the odd ones in plane 1. */
static void cga_row(const struct vga_registers *r, const uint8_t *vram, uint32_t at, unsigned width, uint32_t *to)
{
	for (unsigned x = 0; x < width; x++) {
		const uint8_t *p = vram + ((at + x / 8 * 4) & VRAM_MASK);
		to[x] = attr_colour(r, p[x / 4 % 2] >> (6 - x % 4 * 2) & 3);
	}
}

static void graphics_row(const struct vga_registers *r, const uint8_t *vram, unsigned y, unsigned width, uint32_t *to)
{
	unsigned line = repeats(r) == 2 ? 2 * y : y, split = split_line(r), from = line < split ? line : line - split;
	unsigned n = repeats(r), mode = r->crtc[CRTC_MODE];
	uint32_t at = (line < split ? start_address(r) : 0), row = from / n;

	if (!(mode & 1)) { /* CGA: line 1 of two is 8 KiB further */
		at += row & 1 ? 0x2000 : 0;
		row >>= 1;
	}
	if (!(mode & 2)) {
		at += row & 1 ? 0x4000 : 0;
		row >>= 1;
	}
	at = (at + row * r->crtc[CRTC_OFFSET] * 2u) * 4;
	if (is_256_colours(r)) {
		for (unsigned x = 0; x < width; x++)
			to[x] = dac_colour(r, vram[(at + x) & VRAM_MASK]);
	} else if (r->gr[GR_MODE] & 0x20) {
		cga_row(r, vram, at, width, to);
	} else {
		planes_row(r, vram + (at & VRAM_MASK), width, to, vram);
	}
}

/* ---- VBE --------------------------------------------------------------------------------- */

static uint32_t rgb555(unsigned v)
{
	uint32_t r5 = v >> 10 & 31, g5 = v >> 5 & 31, b5 = v & 31;
	return (r5 << 3 | r5 >> 2) << 16 | (g5 << 3 | g5 >> 2) << 8 | (b5 << 3 | b5 >> 2);
}

static uint32_t rgb565(unsigned v)
{
	uint32_t r5 = v >> 11 & 31, g6 = v >> 5 & 63, b5 = v & 31;
	return (r5 << 3 | r5 >> 2) << 16 | (g6 << 2 | g6 >> 4) << 8 | (b5 << 3 | b5 >> 2);
}

static void vbe_row(const struct vga_registers *r, const uint8_t *vram, unsigned y, unsigned width, uint32_t *to)
{
	uint32_t at = vga_vbe_start(r) + y * vga_vbe_pitch(r), colour[256];
	const uint8_t *p = vram + (at & VRAM_MASK);
	unsigned bpp = r->vbe[VBE_BPP];

	/* By the settled registers all of a row lies in the memory; a row that would not is not read. */
	if ((at & VRAM_MASK) + (uint64_t)width * 4 > VRAM_BYTES && (at & VRAM_MASK) + (uint64_t)width * bpp / 8 > VRAM_BYTES) {
		memset(to, 0, width * sizeof(*to));
		return;
	}
	switch (bpp) {
	case 4: planes_row(r, p, width, to, vram); break;
	case 8:
		for (unsigned i = 0; i < 256; i++)
			colour[i] = dac_colour(r, i);
		for (unsigned x = 0; x < width; x++)
			to[x] = colour[p[x]];
		break;
	case 15:
	case 16:
		for (unsigned x = 0; x < width; x++) {
			unsigned v = p[2 * x] | p[2 * x + 1] << 8;
			to[x] = bpp == 15 ? rgb555(v) : rgb565(v);
		}
		break;
	case 24:
		for (unsigned x = 0; x < width; x++)
			to[x] = p[3 * x] | p[3 * x + 1] << 8 | p[3 * x + 2] << 16;
		break;
	default:
		memcpy(to, p, width * sizeof(*to));
		for (unsigned x = 0; x < width; x++)
			to[x] &= 0xffffff;
	}
}

void vga_row(const struct vga_registers *r, const uint8_t *vram, unsigned y, uint32_t *ret_pixels)
{
	unsigned width, height;

	vga_size(r, &width, &height);
	if (vga_vbe_on(r))
		vbe_row(r, vram, y, width, ret_pixels);
	else if (is_dark(r))
		memset(ret_pixels, 0, width * sizeof(*ret_pixels));
	else if (is_text(r))
		text_row(r, vram, y, width, ret_pixels);
	else
		graphics_row(r, vram, y, width, ret_pixels);
}
