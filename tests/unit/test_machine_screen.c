/* The VGA, its VBE and its memory, and a mouse, as a guest drives them; pictures of what it shows; a guest that means harm. */
#include "tests/unit/machine_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/devices/vga.h"

#define BAR 0xd0000000u
#define MMIO 0xd1000000u
#define ROM_FONT 0x400

static struct fixture *f;
static struct machine_screen screen;
static unsigned slot;
static struct {
	unsigned calls, x, y, width, height;
} change;

static void on_changed(void *opaque, unsigned x, unsigned y, unsigned width, unsigned height)
{
	change.calls++;
	change.x = x;
	change.y = y;
	change.width = width;
	change.height = height;
}

/* A ROM with a font whose letter A is a square. */
static void write_rom(char *path)
{
	uint8_t rom[8192] = { 0x55, 0xaa, sizeof(rom) / 512 };
	static const uint8_t face[] = { 0x7e, 0x81, 0xa5, 0x81, 0x81, 0xbd, 0x99, 0x81, 0x81, 0x7e };
	int fd = mkstemp(path);

	memcpy(rom + ROM_FONT + 16 + 2, face, sizeof(face));
	memset(rom + ROM_FONT + 16 * 'A' + 4, 0xf0, 4);
	memset(rom + ROM_FONT + 16 * 0xc4 + 4, 0x01, 4);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, rom, sizeof(rom)), sizeof(rom));
	close(fd);
}

static int setup(void **state)
{
	struct machine_config config = { .ram_bytes = 16u << 20, .vcpus = 1, .display = true };
	char path[] = "/tmp/trivisor-vga.XXXXXX";
	const char *why = "";

	f = calloc(1, sizeof(*f));
	write_rom(path);
	assert_int_equal(machine_create(&config, &f->machine), 0);
	assert_int_equal(machine_add_display(f->machine, path, &why), 0);
	unlink(path);
	for (slot = 0; slot < 32 && pci_get(f, slot, 0) != 0x11111234; slot++)
		;
	assert_in_range(slot, 1, 30);
	pci_put(f, slot, 0x10, BAR);
	pci_put(f, slot, 0x18, MMIO);
	pci_put(f, slot, 4, 3);
	screen = (struct machine_screen){ .pixels = calloc(MACHINE_SCREEN_PIXELS, 4) };
	return 0;
}

static int teardown(void **state)
{
	free(screen.pixels);
	machine_destroy(f->machine);
	free(f);
	return 0;
}

static void look(void)
{
	memset(&change, 0, sizeof(change));
	assert_true(machine_screen_update(f->machine, &screen, on_changed, NULL));
}

static void indexed(uint16_t port, unsigned index, unsigned value) { out16(f, port, index | value << 8); }

static unsigned indexed_get(uint16_t port, unsigned index)
{
	out8(f, port, index);
	return in8(f, port + 1);
}

static void poke(gpa_t at, uint8_t value) { machine_mmio_write(f->machine, 0, at, &value, 1); }

static uint8_t peek(gpa_t at)
{
	uint8_t value;
	machine_mmio_read(f->machine, 0, at, &value, 1);
	return value;
}

static uint8_t *vram(void)
{
	const struct ram_region *r = machine_ram_find(f->machine, BAR);
	assert_non_null(r);
	assert_false(r->readonly);
	return r->host;
}

/* ---- registers ---------------------------------------------------------------------- */

static void registers(void **state)
{
	out8(f, 0x3c2, 0x67);
	assert_int_equal(in8(f, 0x3cc), 0x67);
	assert_int_equal(in8(f, 0x3b5), 0xff); /* the colour ports answer */
	indexed(0x3d4, 0x0e, 0x12);
	assert_int_equal(indexed_get(0x3d4, 0x0e), 0x12);
	/* The lock, but for one bit of the line compare. */
	indexed(0x3d4, 0x00, 0x5f);
	indexed(0x3d4, 0x07, 0x0f);
	indexed(0x3d4, 0x11, 0x80);
	indexed(0x3d4, 0x00, 0x11);
	indexed(0x3d4, 0x07, 0xff);
	assert_int_equal(indexed_get(0x3d4, 0x00), 0x5f);
	assert_int_equal(indexed_get(0x3d4, 0x07), 0x1f);
	indexed(0x3c4, 2, 0xff);
	assert_int_equal(indexed_get(0x3c4, 2), 0x0f);
	indexed(0x3ce, 8, 0xa5);
	assert_int_equal(indexed_get(0x3ce, 8), 0xa5);
	/* Attributes: index and data by turns, from the index on after a look at the status. */
	in8(f, 0x3da);
	out8(f, 0x3c0, 0x10);
	out8(f, 0x3c0, 0x0c);
	out8(f, 0x3c0, 0x10);
	assert_int_equal(in8(f, 0x3c1), 0x0c);
	in8(f, 0x3da);
	out8(f, 0x3c0, 0x20 | 3); /* while the screen is on, the palette is closed */
	out8(f, 0x3c0, 0x15);
	in8(f, 0x3da);
	out8(f, 0x3c0, 3);
	assert_int_equal(in8(f, 0x3c1), 0);
	/* A colour is three bytes. */
	out8(f, 0x3c8, 7);
	for (unsigned i = 1; i <= 6; i++)
		out8(f, 0x3c9, i);
	out8(f, 0x3c7, 7);
	for (unsigned i = 1; i <= 6; i++)
		assert_int_equal(in8(f, 0x3c9), i);
	assert_int_equal(in8(f, 0x3da) ^ in8(f, 0x3da), 0x09);
	out8(f, 0x3c2, 0x66);
	assert_int_equal(in8(f, 0x3d5), 0xff);
	assert_int_equal(indexed_get(0x3b4, 0x0e), 0x12);
}

/* Four planes at 0xa0000, all of them written. */
static void planar(void)
{
	out8(f, 0x3c2, 0x67);
	indexed(0x3c4, 4, 0x06);
	indexed(0x3c4, 2, 0x0f);
	for (unsigned i = 0; i < 8; i++)
		indexed(0x3ce, i, i == 6 ? 0x05 : i == 7 ? 0x0f : 0);
	indexed(0x3ce, 8, 0xff);
}

static void write_modes(void **state)
{
	const gpa_t at = 0xa0123;
	uint8_t *p = vram() + 0x123 * 4;

	planar();
	poke(at, 0x81);
	assert_memory_equal(p, "\x81\x81\x81\x81", 4);
	indexed(0x3c4, 2, 0x05);
	poke(at, 0x18);
	assert_memory_equal(p, "\x18\x81\x18\x81", 4);
	/* The mask keeps what was read last; set/reset is a colour. */
	indexed(0x3c4, 2, 0x0f);
	indexed(0x3ce, 8, 0xf0);
	indexed(0x3ce, 0, 0x03);
	indexed(0x3ce, 1, 0x0f);
	assert_int_equal(peek(at), 0x18);
	poke(at, 0);
	assert_memory_equal(p, "\xf8\xf1\x08\x01", 4);
	/* Mode 1 copies all planes. */
	indexed(0x3ce, 5, 1);
	peek(at);
	poke(at + 1, 0x55);
	assert_memory_equal(p + 4, "\xf8\xf1\x08\x01", 4);
	/* Mode 2: the byte is a colour. */
	indexed(0x3ce, 5, 2);
	indexed(0x3ce, 8, 0xff);
	poke(at, 0x0a);
	assert_memory_equal(p, "\x00\xff\x00\xff", 4);
	/* Mode 3: the byte is a mask for the colour of set/reset, rotated. */
	indexed(0x3ce, 5, 3);
	indexed(0x3ce, 0, 0x05);
	indexed(0x3ce, 3, 0x04);
	peek(at);
	poke(at, 0x0f);
	assert_memory_equal(p, "\xf0\x0f\xf0\x0f", 4);
	/* The functions: with what was read. */
	indexed(0x3ce, 5, 0);
	indexed(0x3ce, 1, 0);
	indexed(0x3ce, 3, 0x18);
	peek(at);
	poke(at, 0xff);
	assert_memory_equal(p, "\x0f\xf0\x0f\xf0", 4);
	/* Reading by colour: bits where the planes are 0101. */
	indexed(0x3ce, 5, 8);
	indexed(0x3ce, 2, 0x05);
	assert_int_equal(peek(at), 0x0f);
	indexed(0x3ce, 7, 0);
	assert_int_equal(peek(at), 0xff);
}

static void windows(void **state)
{
	planar();
	/* Chain-4: bytes as they lie. */
	indexed(0x3c4, 4, 0x0e);
	poke(0xa0005, 0x77);
	assert_int_equal(vram()[5], 0x77);
	assert_int_equal(peek(0xa0005), 0x77);
	/* The bank moves the window. */
	out16(f, 0x1ce, 5);
	out16(f, 0x1cf, 3);
	poke(0xa0006, 0x66);
	assert_int_equal(vram()[0x30006], 0x66);
	out16(f, 0x1cf, 0);
	/* Odd and even at 0xb8000; nothing answers at 0xa0000 then. */
	indexed(0x3c4, 4, 0x02);
	indexed(0x3c4, 2, 0x03);
	indexed(0x3ce, 5, 0x10);
	indexed(0x3ce, 6, 0x0e);
	poke(0xb8002, 'x');
	poke(0xb8003, 0x1e);
	assert_memory_equal(vram() + 4, "x\x1e", 2);
	assert_int_equal(peek(0xb8003), 0x1e);
	assert_int_equal(peek(0xa0005), 0xff);
}

/* ---- pictures ------------------------------------------------------------------------- */

static uint32_t pixel(unsigned x, unsigned y) { return screen.pixels[y * screen.width + x]; }

static void text(void **state)
{
	assert_true(vga_text_mode(f->machine));
	look();
	assert_int_equal(screen.width, 720);
	assert_int_equal(screen.height, 400);
	assert_int_equal(change.calls, 1);
	look();
	assert_int_equal(change.calls, 0);
	poke(0xb8000 + 2 * (80 + 2), 'A');
	poke(0xb8000 + 2 * (80 + 2) + 1, 0x1e);
	look();
	assert_int_equal(change.calls, 1);
	assert_int_equal(change.x, 18);
	assert_int_equal(change.y, 16);
	assert_int_equal(change.width, 9);
	assert_int_equal(pixel(18, 16), 0x0000aa);     /* paper: blue */
	assert_int_equal(pixel(18, 20), 0xffff55);     /* ink: yellow */
	assert_int_equal(pixel(21, 23), 0xffff55);
	assert_int_equal(pixel(22, 23), 0x0000aa);
	/* The ninth dot of lines is the eighth again, of others paper. */
	poke(0xb8000 + 2, 0xc4);
	look();
	assert_int_equal(pixel(9 + 7, 4), 0xaaaaaa);
	assert_int_equal(pixel(9 + 8, 4), 0xaaaaaa);
	assert_int_equal(pixel(9 + 6, 4), 0);
	/* The cursor is at the upper left corner, on lines 13 and 14. */
	assert_int_equal(pixel(0, 13), 0xaaaaaa);
	assert_int_equal(pixel(0, 12), 0);
	indexed(0x3d4, 0x0a, 0x20);
	/* Scrolled by a line. */
	indexed(0x3d4, 0x0d, 80);
	look();
	assert_int_equal(pixel(18, 4), 0xffff55);
	assert_int_equal(pixel(0, 13), 0);
	indexed(0x3c4, 1, 0x20);
	look();
	assert_int_equal(pixel(18, 4), 0);
}

static void vbe(unsigned index, unsigned value)
{
	out16(f, 0x1ce, index);
	out16(f, 0x1d0, value);
}

static unsigned vbe_get(unsigned index)
{
	out16(f, 0x1ce, index);
	return in16(f, 0x1cf);
}

static void linear(void **state)
{
	uint32_t *pixels = (uint32_t *)vram();
	uint16_t width;

	assert_int_equal(vbe_get(0), 0xb0c5);
	assert_int_equal(vbe_get(10), 256); /* 64 KiB each */
	vbe(4, 2);
	assert_int_equal(vbe_get(1), MACHINE_SCREEN_WIDTH_MAX);
	vbe(4, 0);
	pixels[5] = 0x123456;
	vbe(1, 1024);
	vbe(2, 768);
	vbe(3, 32);
	vbe(4, 0x41);
	assert_int_equal(pixels[5], 0); /* cleared */
	look();
	assert_int_equal(screen.width, 1024);
	assert_int_equal(screen.height, 768);
	pixels[1024 * 100 + 7] = 0xff123456;
	look();
	assert_int_equal(change.calls, 1);
	assert_int_equal(change.x, 7);
	assert_int_equal(change.width, 1);
	assert_int_equal(change.y, 96);
	assert_int_equal(pixel(7, 100), 0x123456);
	/* A larger virtual screen, moved. */
	vbe(6, 2048);
	vbe(8, 64);
	vbe(9, 10);
	pixels[2048 * 10 + 64] = 0xabcdef;
	look();
	assert_int_equal(pixel(0, 0), 0xabcdef);
	/* By its memory, as Linux does; 16 bits a pixel. */
	width = 640;
	machine_mmio_write(f->machine, 0, MMIO + 0x508, &(uint16_t){ 0 }, 2);
	machine_mmio_write(f->machine, 0, MMIO + 0x502, &width, 2);
	machine_mmio_write(f->machine, 0, MMIO + 0x506, &(uint16_t){ 16 }, 2);
	machine_mmio_write(f->machine, 0, MMIO + 0x508, &(uint16_t){ 0xc1 }, 2);
	width = 0;
	machine_mmio_read(f->machine, 0, MMIO + 0x502, &width, 2);
	assert_int_equal(width, 640);
	((uint16_t *)pixels)[3] = 0xf81f;
	look();
	assert_int_equal(screen.width, 640);
	assert_int_equal(pixel(3, 0), 0xff00ff);
}

static void wild_modes(void **state)
{
	vbe(1, 0xffff);
	vbe(2, 0xffff);
	vbe(3, 77);
	vbe(4, 1);
	assert_in_range(vbe_get(1), 8, MACHINE_SCREEN_WIDTH_MAX);
	assert_in_range(vbe_get(2), 1, MACHINE_SCREEN_HEIGHT_MAX);
	assert_int_equal(vbe_get(3), 8);
	vbe(6, 0xffff);
	vbe(8, 0xffff);
	vbe(9, 0xffff);
	look();
	vbe(3, 32);
	look();
	vbe(1, 0);
	vbe(2, 0);
	look();
	assert_in_range(screen.width, 1, MACHINE_SCREEN_WIDTH_MAX);
}

/* Its memory is where its BAR is, unless something else is there. */
static void moves(void **state)
{
	uint8_t *before = vram();

	pci_put(f, slot, 0x10, 0xe1000000);
	assert_null(machine_ram_find(f->machine, BAR));
	assert_ptr_equal(machine_ram_find(f->machine, 0xe1000000)->host, before);
	for (unsigned i = 0; i < 4; i++) {
		static const uint32_t taken[] = { 0xb0000000, 0xfe000000, 0xff000000, 0x00000000 };
		pci_put(f, slot, 0x10, taken[i]);
		const struct ram_region *r = machine_ram_find(f->machine, taken[i]);
		assert_true(!r || r->host != before);
	}
	pci_put(f, slot, 0x10, BAR);
	assert_ptr_equal(vram(), before);
	pci_put(f, slot, 4, 0);
	assert_null(machine_ram_find(f->machine, BAR));
	assert_int_equal(machine_ram_file_bytes(f->machine), machine_ram_bytes(f->machine) + RAM_VIDEO_BYTES);
}

/* ---- a mouse, keys ------------------------------------------------------------------------- */

static unsigned byte_from(bool mouse)
{
	unsigned status = in8(f, 0x64);
	assert_true(status & 1);
	assert_int_equal(!!(status & 0x20), mouse);
	return in8(f, 0x60);
}

static void to_mouse(unsigned value)
{
	out8(f, 0x64, 0xd4);
	out8(f, 0x60, value);
	assert_int_equal(byte_from(true), 0xfa);
}

static void mouse(void **state)
{
	out8(f, 0x64, 0xa9);
	assert_int_equal(byte_from(false), 0);
	to_mouse(0xff);
	assert_int_equal(byte_from(true), 0xaa);
	assert_int_equal(byte_from(true), 0);
	machine_mouse(f->machine, 5, 5, 0, 0); /* nobody wants to know */
	assert_int_equal(in8(f, 0x64) & 1, 0);
	to_mouse(0xf4);
	machine_mouse(f->machine, 5, 7, 0, 1);
	assert_int_equal(byte_from(true), 0x08 | 1 | 0x20);
	assert_int_equal(byte_from(true), 5);
	assert_int_equal(byte_from(true), (uint8_t)-7); /* up is positive */
	assert_int_equal(in8(f, 0x64) & 1, 0);
	/* The wheel, after the sequence that asks for it. */
	for (unsigned i = 0; i < 3; i++) {
		static const uint8_t rates[] = { 200, 100, 80 };
		to_mouse(0xf3);
		to_mouse(rates[i]);
	}
	to_mouse(0xf2);
	assert_int_equal(byte_from(true), 3);
	machine_mouse(f->machine, -300, 0, 1, 0);
	assert_int_equal(byte_from(true), 0x18);
	assert_int_equal(byte_from(true), 0);
	assert_int_equal(byte_from(true), 0);
	assert_int_equal(byte_from(true), 0xff);
	assert_int_equal(byte_from(true), 0x18); /* what did not fit */
	assert_int_equal(byte_from(true), (uint8_t)(-300 + 256));
	assert_int_equal(byte_from(true), 0);
	assert_int_equal(byte_from(true), 0);
}

static void keys(void **state)
{
	static const uint8_t pause[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };

	out8(f, 0x64, 0x60);
	out8(f, 0x60, 0x01); /* no translation: set 2 */
	assert_true(machine_key(f->machine, 30, true));
	assert_true(machine_key(f->machine, 30, false));
	assert_int_equal(byte_from(false), 0x1c);
	assert_int_equal(byte_from(false), 0xf0);
	assert_int_equal(byte_from(false), 0x1c);
	out8(f, 0x64, 0x60);
	out8(f, 0x60, 0x41);
	machine_key(f->machine, 103, true); /* up */
	assert_int_equal(byte_from(false), 0xe0);
	assert_int_equal(byte_from(false), 0x48);
	machine_key(f->machine, 103, false);
	assert_int_equal(byte_from(false), 0xe0);
	assert_int_equal(byte_from(false), 0xc8);
	assert_false(machine_key(f->machine, 255, true));
	assert_false(machine_key(f->machine, 100000, true));
	/* A guest that does not read: no key is half there. */
	unsigned taken = 0;
	while (machine_key(f->machine, 119, true)) /* Pause: six bytes */
		taken++;
	for (unsigned i = 0; i < taken * 6; i++)
		assert_int_equal(byte_from(false), pause[i % 6]);
	assert_int_equal(in8(f, 0x64) & 1, 0);
}

/* ---- harm -------------------------------------------------------------------------------------- */

static void anything_at_all(void **state)
{
	uint64_t seed = 0x9e3779b97f4a7c15;

	for (unsigned i = 0; i < 60000; i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		unsigned pick = seed >> 60, value = (unsigned)(seed >> 20), where = (unsigned)(seed >> 36);

		if (pick < 6)
			machine_pio_write(f->machine, 0, (uint16_t)(0x3b0 + where % 0x30), value, 1u << (where >> 8) % 3);
		else if (pick < 9)
			vbe(where % 12, value & 0xffff);
		else if (pick < 13)
			machine_mmio_write(f->machine, 0, 0xa0000 + where % 0x20000, &seed, 1 + where % 8);
		else if (pick < 14)
			machine_mmio_write(f->machine, 0, MMIO + where % 4096, &seed, 1 + where % 8);
		else if (pick < 15)
			machine_mmio_read(f->machine, 0, 0xa0000 + where % 0x20000, &seed, 1 + where % 8);
		else if (where % 16 == 0)
			pci_put(f, slot, 0x10 + 4 * (where >> 8) % 24, value);
		if (i % 97 == 0)
			look();
		assert_in_range(screen.width, i ? 1 : 0, MACHINE_SCREEN_WIDTH_MAX);
		assert_in_range(screen.height, i ? 1 : 0, MACHINE_SCREEN_HEIGHT_MAX);
	}
	machine_reset(f->machine);
	look();
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(registers), T(write_modes), T(windows), T(text),  T(linear),
		T(wild_modes), T(moves),      T(mouse),	  T(keys), T(anything_at_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
