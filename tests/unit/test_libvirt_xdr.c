/* libvirt's packets and XDR: worked examples, every layout of the table under random bytes, nothing read out of bounds. */
#include "api/libvirt/private.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed = 0x9e3779b97f4a7c15u;

/* xorshift64*: the same bytes on every run. */
static uint32_t draw(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (uint32_t)(seed * 0x2545f4914f6cdd1du >> 32);
}

/* Exactly as long as said, so that a sanitizer sees a byte too many. */
static unsigned char *exact(const void *data, size_t bytes)
{
	unsigned char *copy = malloc(bytes ? bytes : 1);

	memcpy(copy, data, bytes);
	return copy;
}

static int decode(const char *layout, const void *data, size_t bytes, struct xdr_arena *arena, struct xdr_value *values)
{
	const char *why = NULL;
	unsigned char *copy = exact(data, bytes);
	int rc = xdr_decode(layout, copy, bytes, arena, values, &why);

	free(copy);
	assert_true(rc == 0 || (why && why[0]));
	return rc;
}

/* ---- known bytes ---- */

static const unsigned char dom_vm1[] = {0, 0, 0, 3, 'v', 'm', '1', 0, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
					0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0xff, 0xff, 0xff, 0xff};

static void takes_known_bytes(void **state)
{
	static const unsigned char param[] = {0, 0, 0, 8, 'c', 'p', 'u', '.', 't', 'i', 'm', 'e', 0, 0, 0, 4,
					      0, 0, 0, 0, 0,   0,   0,   5};
	static const unsigned char open[] = {1, 0, 0, 0, 0, 0, 0, 3, 'f', 'o', 'o', 0, 0, 0, 0, 1};
	struct xdr_arena arena = {0};
	struct xdr_value v[XDR_ARGUMENTS_MAX];

	assert_int_equal(decode("D", dom_vm1, sizeof(dom_vm1), &arena, v), 0);
	assert_string_equal(v[0].items[0].text, "vm1");
	assert_memory_equal(v[0].items[1].text, dom_vm1 + 8, 16);
	assert_int_equal(v[0].items[2].i, -1);
	assert_int_equal(decode("T", param, sizeof(param), &arena, v), 0);
	assert_string_equal(v[0].items[0].text, "cpu.time");
	assert_int_equal(v[0].items[1].i, XDR_PARAM_ULLONG);
	assert_int_equal(v[0].items[2].u, 5);
	/* go-libvirt says "present" with another number than 1. */
	assert_int_equal(decode("s?u", open, sizeof(open), &arena, v), 0);
	assert_true(v[0].present);
	assert_string_equal(v[0].text, "foo");
	assert_int_equal(v[1].u, 1);
	xdr_arena_free(&arena);
}

static void writes_what_it_reads(void **state)
{
	struct xdr_arena arena = {0};
	struct xdr_value v[XDR_ARGUMENTS_MAX];
	struct xdr_writer w = {0};

	xdr_put_string(&w, "a string");
	xdr_put_optional(&w, NULL);
	xdr_put_optional(&w, "\xc3\xa4");
	xdr_put_u64(&w, UINT64_MAX - 1);
	xdr_put_double(&w, 1.5);
	xdr_put_i32(&w, -7);
	xdr_put_opaque(&w, "\0\1\2", 3);
	xdr_put_u32(&w, 2);
	xdr_put_string(&w, "x");
	xdr_put_u32(&w, 1);
	xdr_put_string(&w, "");
	xdr_put_u32(&w, 2);
	assert_false(w.failed);
	assert_true(xdr_matches("ss?s?Udio<3>{su}<2>", w.data, w.used));
	assert_false(xdr_matches("ss?s?Udio<2>{su}<2>", w.data, w.used));
	assert_false(xdr_matches("ss?s?Udio<3>{su}<1>", w.data, w.used));
	assert_false(xdr_matches("ss?s?Udio<3>{su}<2>u", w.data, w.used));
	assert_false(xdr_matches("ss?s?Udio<3>", w.data, w.used));
	assert_int_equal(decode("ss?s?Udio<3>{su}<2>", w.data, w.used, &arena, v), 0);
	assert_string_equal(v[0].text, "a string");
	assert_false(v[1].present);
	assert_string_equal(v[2].text, "\xc3\xa4");
	assert_true(v[3].u == UINT64_MAX - 1 && v[4].d == 1.5 && v[5].i == -7);
	assert_int_equal(v[6].bytes, 3);
	assert_int_equal(v[7].count, 2);
	assert_string_equal(v[7].items[0].items[0].text, "x");
	assert_int_equal(v[7].items[1].items[1].u, 2);
	/* Every shorter message is refused. */
	for (size_t n = 0; n < w.used; n++)
		assert_int_equal(decode("ss?s?Udio<3>{su}<2>", w.data, n, &arena, v), -EBADMSG);
	xdr_arena_free(&arena);
	xdr_writer_finish(&w);
}

static void refuses_bad_strings(void **state)
{
	static const struct {
		unsigned char bytes[12];
		size_t n;
	} rows[] = {
		{{0, 0, 0, 2, 'a', 0, 0, 0}, 8},             /* a NUL */
		{{0, 0, 0, 2, 0xc3, 0x28, 0, 0}, 8},         /* a broken sequence */
		{{0, 0, 0, 1, 0xc3, 0, 0, 0}, 8},            /* a cut one */
		{{0, 0, 0, 2, 0xc0, 0xaf, 0, 0}, 8},         /* overlong */
		{{0, 0, 0, 3, 0xed, 0xa0, 0x80, 0}, 8},      /* a surrogate */
		{{0, 0, 0, 4, 0xf4, 0x90, 0x80, 0x80}, 8},   /* above U+10FFFF */
		{{0, 0, 0, 4, 0xf8, 0x88, 0x80, 0x80}, 8},   /* five bytes */
		{{0xff, 0xff, 0xff, 0xff, 'a', 0, 0, 0}, 8}, /* longer than the message */
		{{0, 0, 0, 5, 'a', 'b', 'c', 'd', 'e'}, 9},  /* without its padding */
	};
	struct xdr_value v[XDR_ARGUMENTS_MAX];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct xdr_arena arena = {0};

		assert_int_equal(decode("s", rows[i].bytes, rows[i].n, &arena, v), -EBADMSG);
		xdr_arena_free(&arena);
	}
}

static void bounds_memory(void **state)
{
	/* Announced: 16384 structures. There: none. Nothing may be set aside for them. */
	static const unsigned char announced[] = {0, 0, 0x40, 0};
	struct xdr_value v[XDR_ARGUMENTS_MAX];
	struct xdr_arena arena = {0};

	assert_int_equal(decode("D<>", announced, 4, &arena, v), -EBADMSG);
	assert_null(arena.blocks);
	xdr_arena_free(&arena);
}

/* ---- the table ---- */

static void table_is_sound(void **state)
{
	for (size_t i = 0; i < lv_procedure_count; i++) {
		const struct lv_procedure *p = &lv_procedures[i];

		assert_true(i == 0 || p[-1].number < p->number);
		assert_ptr_equal(lv_procedure_find(p->number), p);
		assert_true(p->name && p->name[0] && p->handle && strlen(p->arguments) < 60);
		/* What needs a domain gets one first. */
		assert_true(!(p->flags & LV_DOMAIN) || p->arguments[0] == 'D');
		assert_true(!(p->flags & LV_RUNNING) || p->flags & LV_DOMAIN);
	}
	assert_null(lv_procedure_find(0));
	assert_null(lv_procedure_find(-1));
	assert_null(lv_procedure_find(100000));
}

/* Words that lead far into a layout: small numbers, letters, now and then anything. */
static size_t make_message(unsigned char *to, size_t max)
{
	size_t words = draw() % (max / 4 + 1);

	for (size_t i = 0; i < words; i++) {
		uint32_t kind = draw() % 8, word = kind < 4 ? draw() % 5 : kind < 6 ? 0x61626364 : kind == 6 ? 0 : draw();

		to[i * 4] = (unsigned char)(word >> 24);
		to[i * 4 + 1] = (unsigned char)(word >> 16);
		to[i * 4 + 2] = (unsigned char)(word >> 8);
		to[i * 4 + 3] = (unsigned char)word;
	}
	return words * 4 - (words && draw() % 8 == 0 ? draw() % 4 : 0);
}

static void survives_random_bytes(void **state)
{
	unsigned char message[400];
	struct xdr_value v[XDR_ARGUMENTS_MAX];
	size_t good = 0;

	for (unsigned round = 0; round < 300; round++)
		for (size_t i = 0; i < lv_procedure_count; i++) {
			const struct lv_procedure *p = &lv_procedures[i];
			size_t n = make_message(message, sizeof(message));
			struct xdr_arena arena = {0};
			int rc = decode(p->arguments, message, n, &arena, v);

			assert_true(rc == 0 || rc == -EBADMSG);
			good += rc == 0;
			xdr_arena_free(&arena);
			rc = decode(p->result, message, n, &arena, v);
			assert_true(rc == 0 || rc == -EBADMSG);
			/* Decoding and checking agree, but for bytes left over. */
			unsigned char *copy = exact(message, n);
			assert_true(!xdr_matches(p->result, copy, n) || rc == 0);
			free(copy);
			xdr_arena_free(&arena);
		}
	assert_true(good > 1000); /* the bytes lead somewhere */
}

/* ---- packets ---- */

static void parses_packets(void **state)
{
	const struct lv_packet head = {.program = LV_PROGRAM_REMOTE,
				       .version = 1,
				       .procedure = 66,
				       .type = LV_CALL,
				       .serial = 9,
				       .payload_bytes = 8};
	unsigned char bytes[LV_HEADER_BYTES + 8] = {0};
	struct lv_packet packet;

	lv_packet_header(&head, bytes);
	for (size_t n = 0; n < sizeof(bytes); n++) {
		unsigned char *copy = exact(bytes, n);

		assert_int_equal(lv_packet_parse(copy, n, &packet), 0);
		free(copy);
	}
	assert_int_equal(lv_packet_parse(bytes, sizeof(bytes), &packet), (long)sizeof(bytes));
	assert_true(packet.program == LV_PROGRAM_REMOTE && packet.procedure == 66 && packet.serial == 9 &&
		    packet.payload_bytes == 8 && packet.payload == bytes + LV_HEADER_BYTES);
	static const unsigned char lengths[][4] = {{0, 0, 0, 0}, {0, 0, 0, 27}, {0xff, 0xff, 0xff, 0xff}, {1, 0, 0, 1}};
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(lv_packet_length(lengths[i]), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_known_bytes), cmocka_unit_test(writes_what_it_reads),
		cmocka_unit_test(refuses_bad_strings), cmocka_unit_test(bounds_memory),
		cmocka_unit_test(table_is_sound), cmocka_unit_test(survives_random_bytes),
		cmocka_unit_test(parses_packets),
	};

	return cmocka_run_group_tests_name("libvirt_xdr", tests, NULL, NULL);
}
