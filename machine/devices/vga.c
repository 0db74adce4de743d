/* A VGA: its ports, its place on the PCI bus, its life. (vga.h) */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/devices/vga_private.h"

#define ROM_MAX_BYTES_VGA 0x10000u
#define MMIO_BYTES 0x1000u /* BAR 2: the ports again, for drivers that like memory */
#define MMIO_PORTS 0x400u  /* 0x3c0.. */
#define MMIO_VBE 0x500u
#define MMIO_EXTENDED 0x600u /* its size, and the byte order of the frame buffer */
#define EXTENDED_BYTES 8u
#define LITTLE_ENDIAN_PIXELS 0x1e1e1e1eu
#define PORT_BASE 0x3b0u
#define PORTS 0x30u

/* ---- ports -------------------------------------------------------------------------- */

/* CRTC and status register answer at 0x3bx or 0x3dx, by bit 0 of the miscellaneous output. */
static bool is_hidden(const struct vga_registers *r, unsigned port)
{
	bool mono = port >= 0x3b0 && port < 0x3c0, colour = port >= 0x3d0 && port < 0x3e0;
	return r->misc & 1 ? mono : colour;
}

static uint8_t dac_data_read(struct vga_registers *r)
{
	uint8_t value = r->dac[r->dac_read][r->dac_phase];
	if (++r->dac_phase == 3) {
		r->dac_phase = 0;
		r->dac_read++;
	}
	return value;
}

/* A colour changes when its third byte has come. */
static void dac_data_write(struct vga_registers *r, uint8_t value)
{
	r->dac_latch[r->dac_phase] = value;
	if (++r->dac_phase == 3) {
		r->dac_phase = 0;
		memcpy(r->dac[r->dac_write++], r->dac_latch, 3);
	}
}

/* Programs wait for the retrace to begin and to end: with every look there is the other. */
static uint8_t status_read(struct vga_registers *r)
{
	r->attr_data = false;
	r->status ^= 0x09;
	return r->status;
}

static uint8_t port_read(struct vga_registers *r, unsigned port)
{
	if (is_hidden(r, port))
		return 0xff;
	switch (port) {
	case 0x3c0: return r->attr_data ? 0 : r->attr_index;
	case 0x3c1: return r->attr[r->attr_index & 31];
	case 0x3c2: return 0x10; /* a monitor is there */
	case 0x3c4: return r->seq_index;
	case 0x3c5: return r->seq[r->seq_index];
	case 0x3c6: return r->dac_mask;
	case 0x3c7: return r->dac_state;
	case 0x3c8: return r->dac_write;
	case 0x3c9: return dac_data_read(r);
	case 0x3ca: return r->feature;
	case 0x3cc: return r->misc;
	case 0x3ce: return r->gr_index;
	case 0x3cf: return r->gr[r->gr_index];
	case 0x3b4: case 0x3d4: return r->crtc_index;
	case 0x3b5: case 0x3d5: return r->crtc[r->crtc_index];
	case 0x3ba: case 0x3da: return status_read(r);
	default: return 0xff;
	}
}

static void attr_write(struct vga_registers *r, uint8_t value)
{
	static const uint8_t mask[ATTR_COUNT] = { [0 ... 15] = 0x3f, [ATTR_MODE] = 0xef, [ATTR_OVERSCAN] = 0xff,
						  [ATTR_PLANES] = 0x3f, [ATTR_PANNING] = 0x0f, [ATTR_COLOUR_SELECT] = 0x0f };
	unsigned at = r->attr_index & 31;

	r->attr_data = !r->attr_data;
	if (r->attr_data)
		r->attr_index = value & 0x3f;
	/* The palette is open only while the screen is off. */
	else if (at >= 16 || !(r->attr_index & ATTR_SCREEN_ON))
		r->attr[at] = value & mask[at];
}

static void crtc_write(struct vga_registers *r, uint8_t value)
{
	unsigned at = r->crtc_index;

	/* Locked: the timing, but for one bit of the line compare. */
	if (r->crtc[CRTC_RETRACE_END] & 0x80 && at <= CRTC_OVERFLOW) {
		if (at == CRTC_OVERFLOW)
			r->crtc[at] = (r->crtc[at] & ~0x10) | (value & 0x10);
		return;
	}
	r->crtc[at] = value;
}

static void seq_write(struct vga_registers *r, uint8_t value)
{
	static const uint8_t mask[SEQ_COUNT] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
	r->seq[r->seq_index] = value & mask[r->seq_index];
}

static void gr_write(struct vga_registers *r, uint8_t value)
{
	static const uint8_t mask[GR_COUNT] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };
	r->gr[r->gr_index] = value & mask[r->gr_index];
}

static void port_write(struct vga_registers *r, unsigned port, uint8_t value)
{
	if (is_hidden(r, port))
		return;
	switch (port) {
	case 0x3c0: attr_write(r, value); break;
	case 0x3c2: r->misc = value & ~0x10u; break;
	case 0x3c4: r->seq_index = value & (SEQ_COUNT - 1); break;
	case 0x3c5: seq_write(r, value); break;
	case 0x3c6: r->dac_mask = value; break;
	case 0x3c7:
		r->dac_read = value;
		r->dac_phase = 0;
		r->dac_state = 3;
		break;
	case 0x3c8:
		r->dac_write = value;
		r->dac_phase = 0;
		r->dac_state = 0;
		break;
	case 0x3c9: dac_data_write(r, value); break;
	case 0x3ce: r->gr_index = value & (GR_COUNT - 1); break;
	case 0x3cf: gr_write(r, value); break;
	case 0x3b4: case 0x3d4: r->crtc_index = value & (CRTC_COUNT - 1); break;
	case 0x3b5: case 0x3d5: crtc_write(r, value); break;
	case 0x3ba: case 0x3da: r->feature = value & 0x10; break;
	default: break;
	}
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
	struct vga *vga = opaque;
	return port_read(&vga->r, PORT_BASE + (unsigned)offset);
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *vga = opaque;
	port_write(&vga->r, PORT_BASE + (unsigned)offset, (uint8_t)value);
}

/* ---- BARs ------------------------------------------------------------------------------ */

/* The ports 0x3c0 to 0x3df again: a byte, or two bytes as index and data. */
static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
	struct vga *vga = opaque;

	if (offset >= MMIO_PORTS && offset < MMIO_PORTS + 0x20) {
		unsigned port = 0x3c0 + (unsigned)offset - MMIO_PORTS;
		uint64_t value = port_read(&vga->r, port);
		return size == 2 ? value | (uint64_t)port_read(&vga->r, port + 1) << 8 : value;
	}
	if (offset >= MMIO_VBE && offset < MMIO_VBE + 2 * VBE_COUNT && size == 2)
		return vga_vbe_read(vga, (unsigned)(offset - MMIO_VBE) / 2);
	if (offset == MMIO_EXTENDED)
		return EXTENDED_BYTES;
	return offset == MMIO_EXTENDED + 4 ? LITTLE_ENDIAN_PIXELS : UINT64_MAX;
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *vga = opaque;

	if (offset >= MMIO_PORTS && offset < MMIO_PORTS + 0x20) {
		unsigned port = 0x3c0 + (unsigned)offset - MMIO_PORTS;
		port_write(&vga->r, port, (uint8_t)value);
		if (size == 2)
			port_write(&vga->r, port + 1, (uint8_t)(value >> 8));
	} else if (offset >= MMIO_VBE && offset < MMIO_VBE + 2 * VBE_COUNT && size == 2) {
		vga_vbe_write(vga, (unsigned)(offset - MMIO_VBE) / 2, (uint16_t)value);
	}
}

/* The memory, where an engine cannot map it: wherever the guest has laid it over something else. */
static uint64_t vram_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct vga *vga = opaque;
	uint64_t value = 0;
	memcpy(&value, vga->vram + offset, size);
	return value;
}

static void vram_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
	struct vga *vga = opaque;
	memcpy(vga->vram + offset, &value, size);
	vga_written(vga, (uint32_t)offset, size);
}

static const struct bus_ops ports_ops = { .read = ports_read, .write = ports_write, .max = 1 };
static const struct bus_ops mmio_ops = { .read = mmio_read, .write = mmio_write, .max = 4 };
static const struct bus_ops vram_ops = { .read = vram_read, .write = vram_write, .max = 8 };

/* The memory follows its BAR. */
static void config_written(struct pci_device *dev, unsigned offset, unsigned size)
{
	struct vga *vga = dev->opaque;
	const struct bus_range *range = &dev->bar[0].range;

	ram_video_set(vga->machine, range->mapped ? range->base : 0);
	if (vga->unseen && atomic_load_explicit(&vga->machine->ram.video, memory_order_acquire)) {
		vga->unseen = false;
		vga_written(vga, 0, VRAM_BYTES);
	}
}

/* ---- the picture of a kernel without firmware ------------------------------------------------ */

/* Mode 3 as IBM's BIOS sets it: 80 by 25 characters of 9 by 16 dots. */
static const uint8_t text_seq[] = { 0x03, 0x00, 0x03, 0x00, 0x02 };
static const uint8_t text_crtc[] = { 0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00,
				     0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff };
static const uint8_t text_gr[] = { 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x0f, 0xff };
static const uint8_t text_attr[] = { 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
				     0x0c, 0x00, 0x0f, 0x08, 0x00 };

/* The 8x16 font in a BIOS: an empty glyph, then the smiling face that has been number 1 since the first PC. */
static const uint8_t *find_font(const uint8_t *rom, size_t bytes)
{
	static const uint8_t face[32] = { [18] = 0x7e, 0x81, 0xa5, 0x81, 0x81, 0xbd, 0x99, 0x81, 0x81, 0x7e };
	const uint8_t *at = rom ? memmem(rom, bytes, face, sizeof(face)) : NULL;
	return at && (size_t)(at - rom) + 256 * 16 <= bytes ? at : NULL;
}

static struct vga *vga_of(const struct machine *machine)
{
	for (struct machine_device *d = machine->devices; d; d = d->next)
		if (!strcmp(d->name, "vga"))
			return d->opaque;
	return NULL;
}

bool vga_text_mode(struct machine *machine)
{
	struct vga *vga = vga_of(machine);
	const uint8_t *font;

	if (!vga)
		return false;
	machine_lock(machine);
	struct vga_registers *r = &vga->r;
	r->misc = 0x67;
	memcpy(r->seq, text_seq, sizeof(text_seq));
	memcpy(r->crtc, text_crtc, sizeof(text_crtc));
	memcpy(r->gr, text_gr, sizeof(text_gr));
	memcpy(r->attr, text_attr, sizeof(text_attr));
	r->attr_index = ATTR_SCREEN_ON;
	/* EGA's 64 colours: two bits each of red, green and blue, the upper one first. */
	for (unsigned i = 0; i < 64; i++)
		for (unsigned c = 0; c < 3; c++)
			r->dac[i][c] = (uint8_t)((i >> (2 - c) & 1) * 0x2a + (i >> (5 - c) & 1) * 0x15);
	font = find_font(vga->rom, vga->rom_bytes);
	for (uint32_t cell = 0; cell < 0x4000; cell++) {
		vga->vram[cell * 4] = ' ';
		vga->vram[cell * 4 + 1] = 0x07;
	}
	for (uint32_t ch = 0; font && ch < 256; ch++)
		for (uint32_t line = 0; line < 16; line++)
			vga->vram[(ch * 32 + line) * 4 + 2] = font[ch * 16 + line];
	vga_written(vga, 0, 0x40000);
	machine_unlock(machine);
	return true;
}

const uint8_t *vga_rom(const struct machine *machine, uint32_t *ret_bytes)
{
	const struct vga *vga = vga_of(machine);
	*ret_bytes = vga ? vga->rom_bytes : 0;
	return vga ? vga->rom : NULL;
}

/* ---- for people --------------------------------------------------------------------------------- */

/* Rows that are told of together: a viewer is sent the smallest rectangle around their changes. */
#define BAND 16u

struct damage {
	unsigned x, end; /* x >= end: none */
};

static void compare_row(const uint32_t *old, const uint32_t *new, unsigned width, struct damage *d)
{
	unsigned x = 0, end = width;

	if (!memcmp(old, new, width * sizeof(*old)))
		return;
	while (old[x] == new[x])
		x++;
	while (old[end - 1] == new[end - 1])
		end--;
	d->x = x < d->x ? x : d->x;
	d->end = end > d->end ? end : d->end;
}

bool machine_screen_update(struct machine *machine, struct machine_screen *screen,
			   void (*changed)(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height), void *opaque)
{
	const struct vga *vga = vga_of(machine);
	uint32_t line[MACHINE_SCREEN_WIDTH_MAX];
	struct damage d = { UINT32_MAX, 0 };
	struct vga_registers r;
	unsigned width, height;
	bool resized;

	if (!vga)
		return false;
	machine_lock(machine);
	r = vga->r;
	machine_unlock(machine);
	vga_size(&r, &width, &height);
	resized = width != screen->width || height != screen->height;
	screen->width = width;
	screen->height = height;
	for (unsigned y = 0; y < height; y++) {
		uint32_t *shown = screen->pixels + (size_t)y * width;

		vga_row(&r, vga->vram, y, line);
		if (!resized)
			compare_row(shown, line, width, &d);
		memcpy(shown, line, width * sizeof(*line));
		if (d.end && changed && (y % BAND == BAND - 1 || y == height - 1)) {
			changed(opaque, d.x, y - y % BAND, d.end - d.x, y % BAND + 1);
			d = (struct damage){ UINT32_MAX, 0 };
		}
	}
	if (resized && changed)
		changed(opaque, 0, 0, width, height);
	return true;
}

/* ---- lifecycle ---------------------------------------------------------------------------------- */

static void vga_reset(void *opaque)
{
	struct vga *vga = opaque;

	memset(&vga->r, 0, sizeof(vga->r));
	vga->r.misc = 1;
	vga->r.dac_mask = 0xff;
	vga_vbe_reset(vga);
	ram_video_set(vga->machine, 0);
}

static void vga_destroy(void *opaque)
{
	struct vga *vga = opaque;

	ram_video_set(vga->machine, 0);
	pci_unregister(&vga->pci);
	free(vga->rom);
	free(vga);
}

static _Thread_local char error_text[256];

static int fail(const char **ret_error, int rc, const char *path, const char *why)
{
	snprintf(error_text, sizeof(error_text), "display: VGA BIOS %.120s: %s", path, why);
	*ret_error = error_text;
	return rc;
}

/* An option ROM: its first two bytes, and its length in units of 512 bytes. */
static int read_rom(struct vga *vga, const char *path, const char **ret_error)
{
	int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return fail(ret_error, -errno, path, errno == ENOENT ? "there is no such file; install seabios" : strerror(errno));
	vga->rom = calloc(1, ROM_MAX_BYTES_VGA);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > ROM_MAX_BYTES_VGA)
		rc = fail(ret_error, -EINVAL, path, "an option ROM has at most 64 KiB");
	else if (!vga->rom)
		rc = fail(ret_error, -ENOMEM, path, "out of memory");
	else if ((n = read(fd, vga->rom, ROM_MAX_BYTES_VGA)) < 1024)
		rc = fail(ret_error, -EINVAL, path, "it is too short for an option ROM");
	else if (vga->rom[0] != 0x55 || vga->rom[1] != 0xaa || vga->rom[2] * 512 > n)
		rc = fail(ret_error, -EINVAL, path, "it is no option ROM, such as SeaBIOS's vgabios-stdvga.bin");
	else
		vga->rom_bytes = (uint32_t)n;
	close(fd);
	return rc;
}

int machine_add_display(struct machine *machine, const char *rom, const char **ret_error)
{
	static const struct pci_identity identity = {
		.vendor = 0x1234, .device = 0x1111, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .revision = 2,
		.class_device = 0x0300 };
	struct vga *vga = calloc(1, sizeof(*vga));
	int rc;

	BUG_ON(!machine->ram.video_host);
	if (!vga)
		return fail(ret_error, -ENOMEM, rom, "out of memory");
	vga->machine = machine;
	vga->vram = machine->ram.video_host;
	rc = read_rom(vga, rom, ret_error);
	if (!rc) {
		machine_lock(machine);
		rc = pci_register(machine, &vga->pci, "pci_vga", PCI_SLOT_ANY, 0, &identity);
		if (rc)
			fail(ret_error, rc, rom, "the PCI bus is full");
		machine_unlock(machine);
	}
	if (rc) {
		free(vga->rom);
		free(vga);
		return rc;
	}
	machine_lock(machine);
	vga->pci.opaque = vga;
	vga->pci.config_written = config_written;
	pci_bar_add(&vga->pci, 0, PCI_BAR_MEM32, VRAM_BYTES, &vram_ops, vga);
	pci_bar_add(&vga->pci, 2, PCI_BAR_MEM32, MMIO_BYTES, &mmio_ops, vga);
	vga->ports = (struct bus_range){ .name = "io_vga", .ops = &ports_ops, .opaque = vga };
	bus_map_pio(machine, &vga->ports, PORT_BASE, PORTS);
	vga_vbe_init(vga);
	vga_memory_init(vga);
	vga->device = (struct machine_device){ .name = "vga", .reset = vga_reset, .destroy = vga_destroy, .opaque = vga };
	machine_register_device(machine, &vga->device);
	vga_reset(vga);
	machine_unlock(machine);
	return 0;
}
