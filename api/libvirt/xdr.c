/* XDR (RFC 4506) as libvirt's protocol uses it: layouts are short strings, one reader checks and decodes by them. */
#include "api/libvirt/xdr.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_MAX 16384

struct xdr_block {
	struct xdr_block *next;
	max_align_t data[];
};

struct reader {
	const unsigned char *at, *end;
	struct xdr_arena *arena; /* NULL: only check */
	const char *why;
	bool no_memory;
};

void xdr_arena_free(struct xdr_arena *arena)
{
	while (arena->blocks) {
		struct xdr_block *block = arena->blocks;

		arena->blocks = block->next;
		free(block);
	}
}

void *xdr_arena_alloc(struct xdr_arena *arena, size_t bytes)
{
	struct xdr_block *block = malloc(sizeof(*block) + bytes);

	if (!block)
		return NULL;
	block->next = arena->blocks;
	arena->blocks = block;
	return block->data;
}

/* ---- single values ---------------------------------------------------------------- */

static bool refuse(struct reader *r, const char *why)
{
	if (!r->why)
		r->why = why;
	return false;
}

static void *allocate(struct reader *r, size_t bytes)
{
	void *p = xdr_arena_alloc(r->arena, bytes);

	if (!p)
		r->no_memory = true;
	return p;
}

static bool take_u32(struct reader *r, uint32_t *ret)
{
	if (r->end - r->at < 4)
		return refuse(r, "the message is too short");
	*ret = (uint32_t)r->at[0] << 24 | (uint32_t)r->at[1] << 16 | (uint32_t)r->at[2] << 8 | r->at[3];
	r->at += 4;
	return true;
}

static bool take_u64(struct reader *r, uint64_t *ret)
{
	uint32_t high, low;

	if (!take_u32(r, &high) || !take_u32(r, &low))
		return false;
	*ret = (uint64_t)high << 32 | low;
	return true;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(const unsigned char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		unsigned c = s[i++], more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;

		if (more == 3 && (c < 0xf0 || c > 0xf4))
			return false;
		if (n - i < more)
			return false;
		if ((c == 0xe0 && s[i] < 0xa0) || (c == 0xed && s[i] > 0x9f) || (c == 0xf0 && s[i] < 0x90) ||
		    (c == 0xf4 && s[i] > 0x8f))
			return false;
		for (; more; more--)
			if ((s[i++] & 0xc0) != 0x80)
				return false;
	}
	return true;
}

static bool take_bytes(struct reader *r, size_t n, struct xdr_value *value)
{
	size_t padded = (n + 3) & ~(size_t)3;
	char *copy;

	if ((size_t)(r->end - r->at) < padded)
		return refuse(r, "the message is too short");
	if (r->arena) {
		copy = allocate(r, n + 1);
		if (!copy)
			return false;
		memcpy(copy, r->at, n);
		copy[n] = '\0';
		value->text = copy;
		value->bytes = n;
	}
	r->at += padded;
	return true;
}

static bool take_string(struct reader *r, struct xdr_value *value)
{
	uint32_t n;

	if (!take_u32(r, &n))
		return false;
	if (n > XDR_STRING_MAX)
		return refuse(r, "a string is longer than 4 MiB");
	if (n > (size_t)(r->end - r->at))
		return refuse(r, "the message is too short");
	if (memchr(r->at, 0, n))
		return refuse(r, "a string has a NUL in it");
	if (!is_utf8(r->at, n))
		return refuse(r, "a string is not UTF-8");
	return take_bytes(r, n, value);
}

static bool take_opaque(struct reader *r, uint32_t max, struct xdr_value *value)
{
	uint32_t n;

	if (!take_u32(r, &n))
		return false;
	if (n > max)
		return refuse(r, "too many bytes");
	return take_bytes(r, n, value);
}

/* ---- layouts ------------------------------------------------------------------------ */

/* What a letter stands for; NULL: itself. */
static const char *expansion(char letter)
{
	switch (letter) {
	case 'D': return "sGi";
	case 'N':
	case 'P': return "sG";
	case 'V': return "sss";
	case 'E': return "ss";
	case 'H': return "s";
	case 'S': return "Gis";
	}
	return NULL;
}

/* Behind one element, its modifier not included. */
static const char *skip_element(const char *at)
{
	unsigned depth = 0;

	do {
		if (*at == '{')
			depth++;
		else if (*at == '}')
			depth--;
		at++;
	} while (depth);
	return at;
}

static uint32_t parse_number(const char **at)
{
	uint32_t n = 0;

	while (**at >= '0' && **at <= '9')
		n = n * 10 + (uint32_t)(*(*at)++ - '0');
	return n;
}

static unsigned count_elements(const char *layout, const char *end)
{
	unsigned n = 0;

	while (layout < end) {
		layout = skip_element(layout);
		if (layout < end && *layout == '?')
			layout++;
		else if (layout < end && (*layout == '<' || *layout == '['))
			layout = strpbrk(layout, ">]") + 1;
		n++;
	}
	return n;
}

static bool read_row(struct reader *r, const char *layout, const char *end, struct xdr_value *values);

static bool read_struct(struct reader *r, const char *layout, const char *end, struct xdr_value *value)
{
	unsigned n = count_elements(layout, end);
	struct xdr_value *items = NULL;

	if (r->arena) {
		items = allocate(r, n * sizeof(*items));
		if (!items)
			return false;
		value->items = items;
		value->count = n;
	}
	return read_row(r, layout, end, items);
}

/* {name, type, value} */
static bool read_param(struct reader *r, struct xdr_value *value)
{
	static const char layouts[] = {0, 'i', 'u', 'I', 'U', 'd', 'i', 's'};
	struct reader peek = {.at = r->at, .end = r->end};
	struct xdr_value scratch = {0};
	char layout[4] = "si?";
	uint32_t type;

	/* The type says what follows it, so it is looked at first. */
	if (!take_string(&peek, &scratch) || !take_u32(&peek, &type))
		return refuse(r, peek.why);
	if (type < XDR_PARAM_INT || type > XDR_PARAM_STRING)
		return refuse(r, "a typed parameter of no known type");
	layout[2] = layouts[type];
	return read_struct(r, layout, layout + 3, value);
}

static bool read_one(struct reader *r, const char *element, const char *end, uint32_t max, struct xdr_value *value)
{
	const char *inner = expansion(*element);
	uint32_t n32 = 0;
	uint64_t n64 = 0;
	bool ok = false;

	value->present = true;
	if (inner)
		return read_struct(r, inner, inner + strlen(inner), value);
	switch (*element) {
	case 'i':
		ok = take_u32(r, &n32);
		value->i = (int32_t)n32;
		return ok;
	case 'u':
		ok = take_u32(r, &n32);
		value->u = n32;
		return ok;
	case 'I':
	case 'U':
	case 'd':
		ok = take_u64(r, &n64);
		value->u = n64;
		return ok;
	case 's': return take_string(r, value);
	case 'G': return take_bytes(r, 16, value);
	case 'o': return take_opaque(r, max, value);
	case 'T': return read_param(r, value);
	case '{': return read_struct(r, element + 1, end - 1, value);
	}
	return refuse(r, "a layout of ours is wrong");
}

static bool read_array(struct reader *r, const char *element, const char *end, uint32_t n, struct xdr_value *value)
{
	struct xdr_value *items = NULL, scratch;

	/* Every element takes 4 bytes at least: what is announced must be there before memory is set aside for it. */
	if (n > (size_t)(r->end - r->at) / 4)
		return refuse(r, "the message is too short");
	if (r->arena && n) {
		items = allocate(r, n * sizeof(*items));
		if (!items)
			return false;
		memset(items, 0, n * sizeof(*items));
	}
	value->items = items;
	value->count = n;
	for (uint32_t i = 0; i < n; i++) {
		scratch = (struct xdr_value){0};
		if (!read_one(r, element, end, 0, items ? &items[i] : &scratch))
			return false;
	}
	return true;
}

/* One element with its modifier, which starts at `modifier`. */
static bool read_modified(struct reader *r, const char *element, const char *modifier, const char **ret_behind,
			  struct xdr_value *value)
{
	uint32_t flag, n, max;

	*ret_behind = modifier;
	if (*modifier == '?') {
		*ret_behind = modifier + 1;
		/* Some clients say "present" with another number than 1. */
		if (!take_u32(r, &flag))
			return false;
		return !flag || read_one(r, element, modifier, 0, value);
	}
	if (*modifier != '<' && *modifier != '[')
		return read_one(r, element, modifier, 0, value);
	*ret_behind = modifier + 1;
	max = parse_number(ret_behind);
	max = max ? max : ARRAY_MAX;
	++*ret_behind;
	if (*element == 'o')
		return read_one(r, element, modifier, max, value);
	value->present = true;
	n = max;
	if (*modifier == '<' && !take_u32(r, &n))
		return false;
	if (n > max)
		return refuse(r, "an array has too many elements");
	return read_array(r, element, modifier, n, value);
}

static bool read_row(struct reader *r, const char *layout, const char *end, struct xdr_value *values)
{
	struct xdr_value scratch;
	unsigned n = 0;

	while (layout < end) {
		const char *element = layout, *modifier = skip_element(layout);
		struct xdr_value *value = values ? &values[n++] : &scratch;

		*value = (struct xdr_value){0};
		if (modifier >= end)
			modifier = "";
		if (*modifier == '?' || *modifier == '<' || *modifier == '[') {
			if (!read_modified(r, element, modifier, &layout, value))
				return false;
		} else {
			layout = skip_element(layout);
			if (!read_one(r, element, layout, 0, value))
				return false;
		}
	}
	return true;
}

int xdr_decode(const char *layout, const void *data, size_t bytes, struct xdr_arena *arena, struct xdr_value *values,
	       const char **ret_why)
{
	struct reader r = {.at = data, .end = (const unsigned char *)data + bytes, .arena = arena};

	if (read_row(&r, layout, layout + strlen(layout), values))
		return 0;
	*ret_why = r.no_memory ? "out of memory" : r.why ? r.why : "the message is malformed";
	return r.no_memory ? -ENOMEM : -EBADMSG;
}

bool xdr_matches(const char *layout, const void *data, size_t bytes)
{
	struct reader r = {.at = data, .end = (const unsigned char *)data + bytes};

	return read_row(&r, layout, layout + strlen(layout), NULL) && r.at == r.end;
}

/* ---- writing ---------------------------------------------------------------------------- */

void xdr_writer_finish(struct xdr_writer *writer)
{
	free(writer->data);
	*writer = (struct xdr_writer){0};
}

static unsigned char *room(struct xdr_writer *writer, size_t bytes)
{
	unsigned char *at;

	if (writer->failed)
		return NULL;
	if (writer->size - writer->used < bytes) {
		size_t size = writer->size ? writer->size : 256;

		while (size - writer->used < bytes)
			size *= 2;
		at = realloc(writer->data, size);
		if (!at) {
			writer->failed = true;
			return NULL;
		}
		writer->data = at;
		writer->size = size;
	}
	at = writer->data + writer->used;
	writer->used += bytes;
	return at;
}

void xdr_put_u32(struct xdr_writer *writer, uint32_t value)
{
	unsigned char *at = room(writer, 4);

	value = htobe32(value);
	if (at)
		memcpy(at, &value, 4);
}

void xdr_put_u64(struct xdr_writer *writer, uint64_t value)
{
	xdr_put_u32(writer, (uint32_t)(value >> 32));
	xdr_put_u32(writer, (uint32_t)value);
}

void xdr_put_double(struct xdr_writer *writer, double value)
{
	uint64_t bits;

	memcpy(&bits, &value, 8);
	xdr_put_u64(writer, bits);
}

void xdr_put_fixed(struct xdr_writer *writer, const void *data, size_t bytes)
{
	size_t padded = (bytes + 3) & ~(size_t)3;
	unsigned char *at = room(writer, padded);

	if (!at)
		return;
	if (bytes)
		memcpy(at, data, bytes);
	memset(at + bytes, 0, padded - bytes);
}

void xdr_put_opaque(struct xdr_writer *writer, const void *data, size_t bytes)
{
	xdr_put_u32(writer, (uint32_t)bytes);
	xdr_put_fixed(writer, data, bytes);
}

void xdr_put_string(struct xdr_writer *writer, const char *text)
{
	xdr_put_opaque(writer, text ? text : "", text ? strlen(text) : 0);
}

void xdr_put_optional(struct xdr_writer *writer, const char *text)
{
	xdr_put_u32(writer, text != NULL);
	if (text)
		xdr_put_string(writer, text);
}

void xdr_patch_u32(struct xdr_writer *writer, size_t at, uint32_t value)
{
	value = htobe32(value);
	if (!writer->failed && at + 4 <= writer->used)
		memcpy(writer->data + at, &value, 4);
}
