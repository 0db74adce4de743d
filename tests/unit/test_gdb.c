/* GDB's remote protocol: framing of hostile bytes, numbers, and registers there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vm/gdb_packet.h"
#include "vm/gdb_registers.h"

#include <stdlib.h>
#include <string.h>

static struct gdb_parser parser;

/* The events of a string but GDB_NOTHING, as letters. */
static const char *events(const char *text, size_t n)
{
	static const char letter[] = {[GDB_PACKET] = 'P', [GDB_BAD] = 'B', [GDB_INTERRUPT] = 'I', [GDB_ACK] = '+', [GDB_NAK] = '-'};
	static char out[64];
	size_t used = 0;

	for (size_t i = 0; i < n; i++) {
		enum gdb_event e = gdb_parse(&parser, (uint8_t)text[i]);
		if (e != GDB_NOTHING && used + 1 < sizeof(out))
			out[used++] = letter[e];
	}
	out[used] = 0;
	return out;
}
#define EVENTS(text) events(text, sizeof(text) - 1)

static void test_framing(void **state)
{
	parser = (struct gdb_parser){0};
	assert_string_equal(EVENTS("+$g#67"), "+P");
	assert_string_equal(parser.text, "g");
	assert_string_equal(EVENTS("noise\x03\x04-$#00"), "I-P");
	assert_int_equal(parser.bytes, 0);
	assert_string_equal(EVENTS("$g#68$g#6x$g#"), "BB");
	assert_string_equal(EVENTS("67"), "P");
	/* A ^C within a packet is a byte of it; a $ begins another. */
	assert_string_equal(EVENTS("$a\x03#64"), "P");
	assert_string_equal(EVENTS("$abc$g#67"), "P");
	assert_string_equal(parser.text, "g");
}

static void test_escapes(void **state)
{
	static char frame[GDB_FRAME_MAX];
	const char all[] = {'$', '#', '}', '*', 0, 'x', (char)0xff};
	size_t n = gdb_frame(frame, all, sizeof(all));

	parser = (struct gdb_parser){0};
	assert_string_equal(events(frame, n), "P");
	assert_int_equal(parser.bytes, sizeof(all));
	assert_memory_equal(parser.text, all, sizeof(all));
	assert_string_equal(EVENTS("$}#7d"), "B"); /* an escape of nothing */
}

static void test_too_long(void **state)
{
	static char payload[GDB_PACKET_MAX + 1], frame[GDB_FRAME_MAX + 16];
	size_t n;

	memset(payload, '}', sizeof(payload)); /* twice as long on the wire */
	parser = (struct gdb_parser){0};
	n = gdb_frame(frame, payload, GDB_PACKET_MAX);
	assert_int_equal(n, GDB_FRAME_MAX);
	assert_string_equal(events(frame, n), "P");
	assert_int_equal(parser.bytes, GDB_PACKET_MAX);
	for (size_t i = 0; i < 3 * GDB_PACKET_MAX; i++)
		gdb_parse(&parser, i ? 'm' : '$');
	assert_string_equal(EVENTS("#00"), "B");
	assert_string_equal(EVENTS("$g#67"), "P");
}

/* Whatever comes in: nothing is written beyond the parser (the sanitizers' build tells), and a good packet gets through. */
static void test_noise(void **state)
{
	uint32_t seed = 7;

	parser = (struct gdb_parser){0};
	for (unsigned round = 0; round < 200; round++) {
		for (unsigned i = 0; i < 5000; i++) {
			seed = seed * 1664525 + 1013904223;
			enum gdb_event e = gdb_parse(&parser, "$#}0123456789abcdef\x03+-mZ"[seed >> 16 & 31 ? seed >> 24 & 15 : seed >> 20 & 3]);
			if (e == GDB_PACKET) {
				assert_true(parser.bytes <= GDB_PACKET_MAX);
				assert_int_equal(parser.text[parser.bytes], 0);
			}
		}
		const char *got = EVENTS("#00$g#67");
		assert_int_equal(got[strlen(got) - 1], 'P');
	}
}

static void test_numbers(void **state)
{
	const char *t = "ffffffffffffffff,0g";
	uint64_t v = 1;
	uint8_t bytes[4];

	assert_true(gdb_number(&t, &v));
	assert_true(v == ~0ull);
	assert_true(gdb_skip(&t, ','));
	assert_true(gdb_number(&t, &v));
	assert_int_equal(v, 0);
	assert_string_equal(t, "g");
	assert_false(gdb_number(&t, &v));
	t = "10000000000000000";
	assert_false(gdb_number(&t, &v));
	t = "00ffA5zz";
	assert_int_equal(gdb_unhex(&t, bytes, 4), 3);
	assert_memory_equal(bytes, "\x00\xff\xa5", 3);
	assert_string_equal(t, "zz");
	t = "123";
	assert_int_equal(gdb_unhex(&t, bytes, 4), 1);
	t = "11223344";
	assert_int_equal(gdb_unhex(&t, bytes, 2), 2);
	assert_string_equal(t, "3344");
}

static struct cpu_state *fresh(void)
{
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);

	cpu_state_reset(cs, 0);
	return cs;
}

static void test_registers_there_and_back(void **state)
{
	static const enum gdb_width widths[] = {GDB_16, GDB_32, GDB_64};
	const struct gdb_extra extra = {.cr8 = 3};
	struct cpu_state *cs = fresh();
	uint8_t b[GDB_REGISTER_BYTES], back[GDB_REGISTER_BYTES];

	for (unsigned w = 0; w < 3; w++) {
		char *xml = gdb_target_xml(widths[w]);
		unsigned n = gdb_register_count(widths[w]), written = 0, in_xml = 0;
		assert_non_null(xml);
		for (const char *p = xml; (p = strstr(p, "<reg ")); p++)
			in_xml++;
		assert_int_equal(in_xml, n);
		assert_non_null(strstr(xml, gdb_architecture_name(widths[w])));
		free(xml);
		for (unsigned i = 0; i < n; i++) {
			size_t bytes = gdb_register_read(widths[w], i, cs, &extra, b);
			assert_true(bytes >= 4 && bytes <= GDB_REGISTER_BYTES);
			assert_int_equal(bytes, gdb_register_bytes(widths[w], i));
			assert_true(gdb_register_write(widths[w], i, cs, &extra, b)); /* what is there anyway */
			for (unsigned k = 0; k < bytes; k++)
				b[k] ^= (uint8_t)(0x11 * (k + 1));
			if (!gdb_register_write(widths[w], i, cs, &extra, b))
				continue;
			written++;
			gdb_register_read(widths[w], i, cs, &extra, back);
			if (bytes == 16 || bytes == 10)
				assert_memory_equal(b, back, bytes);
		}
		assert_true(written > 40 && written < n);
		assert_int_equal(gdb_register_read(widths[w], n, cs, &extra, b), 0);
		assert_int_equal(gdb_register_bytes(widths[w], n), 0);
		assert_false(gdb_register_write(widths[w], n, cs, &extra, b));
	}
	free(cs);
}

/* Numbers are the protocol's: GDB's own tables want these names at these places in the g packet's order. */
static void test_values(void **state)
{
	const struct gdb_extra extra = {0};
	struct cpu_state *cs = fresh();
	uint8_t b[GDB_REGISTER_BYTES];

	cs->efer = 0x500;
	cs->seg[SEG_CS].access |= SEG_ACCESS_L;
	cs->seg[SEG_CS].base = 0x1000;
	cs->rip = 0x1122334455667788;
	cs->gpr[GPR_RBX] = 0x42;
	gdb_register_read(GDB_64, 16, cs, &extra, b);
	assert_memory_equal(b, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
	gdb_register_read(GDB_64, 1, cs, &extra, b);
	assert_int_equal(b[0], 0x42);
	gdb_register_read(GDB_32, 3, cs, &extra, b);
	assert_int_equal(b[0], 0x42);
	/* Segmented code: the linear address. */
	cs->efer = 0;
	cs->rip = 0x234;
	assert_int_equal(gdb_pc(cs), 0x1234);
	memcpy(b, "\x00\x20\x00\x00", 4);
	assert_true(gdb_register_write(GDB_32, 8, cs, &extra, b));
	assert_int_equal(cs->rip, 0x1000);
	/* Tags as they once were: st0 valid, st1 zero, the rest empty; top is 6. */
	memset(cs->xsave, 0, 576);
	cs->xsave[512] = 1;
	cs->xsave[3] = 6 << 3;
	cs->xsave[4] = 0xc0;
	memcpy(cs->xsave + 32, "\0\0\0\0\0\0\0\x80\xff\x3f", 10);
	gdb_register_read(GDB_64, 34, cs, &extra, b);
	assert_memory_equal(b, "\xff\x4f\0", 3);
	free(cs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_framing),  cmocka_unit_test(test_escapes), cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_noise),    cmocka_unit_test(test_numbers), cmocka_unit_test(test_registers_there_and_back),
		cmocka_unit_test(test_values),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
