/* A writer of ACPI Machine Language (ACPI 6.4, chapter 20; resource descriptors: chapter 6.4). */
#include <string.h>

#include "machine/boot/aml.h"

enum aml_opcode {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_QWORD = 0x0e,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_DUAL_NAME = 0x2e,
	AML_MULTI_NAME = 0x2f,
	AML_EXT = 0x5b,
	AML_EXT_DEVICE = 0x82,
	AML_ROOT = 0x5c,
	AML_ARG0 = 0x68,
	AML_RETURN = 0xa4,
};

void aml_free(struct aml *aml)
{
	if (!aml)
		return;
	free(aml->data);
	*aml = (struct aml){0};
}

static bool reserve(struct aml *aml, size_t n)
{
	if (aml->failed)
		return false;
	if (aml->room - aml->bytes < n) {
		size_t room = aml->room * 2 + n + 1024;
		uint8_t *data = realloc(aml->data, room);

		if (!data) {
			aml->failed = true;
			return false;
		}
		aml->data = data;
		aml->room = room;
	}
	return true;
}

void aml_raw(struct aml *aml, const void *bytes, size_t n)
{
	if (n == 0 || !reserve(aml, n))
		return;
	memcpy(aml->data + aml->bytes, bytes, n);
	aml->bytes += n;
}

void aml_u8(struct aml *aml, uint8_t value) { aml_raw(aml, &value, 1); }
void aml_u16(struct aml *aml, uint16_t value) { aml_raw(aml, &value, 2); }
void aml_u32(struct aml *aml, uint32_t value) { aml_raw(aml, &value, 4); }
void aml_u64(struct aml *aml, uint64_t value) { aml_raw(aml, &value, 8); }

/* ---- data ---------------------------------------------------------------- */

void aml_path(struct aml *aml, const char *path)
{
	size_t segments;

	if (*path == '\\') {
		aml_u8(aml, AML_ROOT);
		path++;
	}
	segments = (strlen(path) + 1) / 5;
	BUG_ON(strlen(path) + 1 != segments * 5 && *path);
	if (segments == 0) {
		aml_u8(aml, 0); /* NullName */
		return;
	}
	if (segments == 2)
		aml_u8(aml, AML_DUAL_NAME);
	if (segments > 2) {
		aml_u8(aml, AML_MULTI_NAME);
		aml_u8(aml, (uint8_t)segments);
	}
	for (size_t i = 0; i < segments; i++)
		aml_raw(aml, path + i * 5, 4);
}

void aml_integer(struct aml *aml, uint64_t value)
{
	if (value <= 1) {
		aml_u8(aml, value ? AML_ONE : AML_ZERO);
	} else if (value <= 0xff) {
		aml_u8(aml, AML_BYTE);
		aml_u8(aml, (uint8_t)value);
	} else if (value <= 0xffff) {
		aml_u8(aml, AML_WORD);
		aml_u16(aml, (uint16_t)value);
	} else if (value <= 0xffffffff) {
		aml_u8(aml, AML_DWORD);
		aml_u32(aml, (uint32_t)value);
	} else {
		aml_u8(aml, AML_QWORD);
		aml_u64(aml, value);
	}
}

void aml_string(struct aml *aml, const char *text)
{
	aml_u8(aml, AML_STRING);
	aml_raw(aml, text, strlen(text) + 1);
}

/* Three letters of five bits each, then four hexadecimal digits, in big-endian order (ACPI 19.6.37). */
void aml_eisaid(struct aml *aml, const char *id)
{
	unsigned letters = (unsigned)(id[0] - '@') << 10 | (unsigned)(id[1] - '@') << 5 | (unsigned)(id[2] - '@');
	unsigned digits = (unsigned)strtoul(id + 3, NULL, 16);

	BUG_ON(strlen(id) != 7);
	aml_u8(aml, AML_DWORD);
	aml_u32(aml, __builtin_bswap32((uint32_t)letters << 16 | digits));
}

void aml_name(struct aml *aml, const char *path)
{
	aml_u8(aml, AML_NAME);
	aml_path(aml, path);
}

void aml_name_integer(struct aml *aml, const char *path, uint64_t value)
{
	aml_name(aml, path);
	aml_integer(aml, value);
}

void aml_name_string(struct aml *aml, const char *path, const char *text)
{
	aml_name(aml, path);
	aml_string(aml, text);
}

void aml_name_eisaid(struct aml *aml, const char *path, const char *id)
{
	aml_name(aml, path);
	aml_eisaid(aml, id);
}

/* ---- terms with a package length -------------------------------------------- */

size_t aml_scope_begin(struct aml *aml, const char *path)
{
	size_t begin;

	aml_u8(aml, AML_SCOPE);
	begin = aml->bytes;
	aml_path(aml, path);
	return begin;
}

size_t aml_device_begin(struct aml *aml, const char *path)
{
	size_t begin;

	aml_u8(aml, AML_EXT);
	aml_u8(aml, AML_EXT_DEVICE);
	begin = aml->bytes;
	aml_path(aml, path);
	return begin;
}

size_t aml_method_begin(struct aml *aml, const char *path, unsigned arguments, bool serialized)
{
	size_t begin;

	aml_u8(aml, AML_METHOD);
	begin = aml->bytes;
	aml_path(aml, path);
	aml_u8(aml, (uint8_t)((arguments & 7) | (serialized ? 8 : 0)));
	return begin;
}

size_t aml_package_begin(struct aml *aml, unsigned elements)
{
	size_t begin;

	BUG_ON(elements > 255);
	aml_u8(aml, AML_PACKAGE);
	begin = aml->bytes;
	aml_u8(aml, (uint8_t)elements);
	return begin;
}

/* Puts the package length, which counts itself, before what was written since `begin` (ACPI 20.2.4). */
void aml_end(struct aml *aml, size_t begin)
{
	uint8_t length[4];
	size_t content = aml->bytes - begin, n = 1, total;

	while (n < 4 && content + n >= (n == 1 ? (size_t)1 << 6 : (size_t)1 << (8 * n - 4)))
		n++;
	total = content + n;
	if (n == 1) {
		length[0] = (uint8_t)total;
	} else {
		length[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
		for (size_t i = 1; i < n; i++)
			length[i] = (uint8_t)(total >> (8 * i - 4));
	}
	if (!reserve(aml, n))
		return;
	memmove(aml->data + begin + n, aml->data + begin, content);
	memcpy(aml->data + begin, length, n);
	aml->bytes += n;
}

void aml_arg(struct aml *aml, unsigned n) { aml_u8(aml, (uint8_t)(AML_ARG0 + n)); }
void aml_return(struct aml *aml) { aml_u8(aml, AML_RETURN); }

/* ---- resources --------------------------------------------------------------- */

struct aml_resources aml_crs_begin(struct aml *aml)
{
	struct aml_resources crs;

	aml_name(aml, "_CRS");
	aml_u8(aml, AML_BUFFER);
	crs.name = aml->bytes;
	/* The size is always a word, so that it can be filled in afterwards. */
	aml_u8(aml, AML_WORD);
	crs.size = aml->bytes;
	aml_u16(aml, 0);
	return crs;
}

void aml_crs_end(struct aml *aml, struct aml_resources crs)
{
	uint16_t bytes;

	aml_u8(aml, 0x79); /* end tag; checksum 0: not used */
	aml_u8(aml, 0);
	if (aml->failed)
		return;
	bytes = (uint16_t)(aml->bytes - crs.size - 2);
	memcpy(aml->data + crs.size, &bytes, sizeof(bytes));
	aml_end(aml, crs.name);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t bytes)
{
	aml_u8(aml, 0x47); /* I/O port descriptor, 16-bit decode */
	aml_u8(aml, 1);
	aml_u16(aml, port);
	aml_u16(aml, port);
	aml_u8(aml, 1);
	aml_u8(aml, bytes);
}

void aml_irq(struct aml *aml, unsigned irq)
{
	aml_u8(aml, 0x22); /* IRQ descriptor without flags: edge, high, exclusive */
	aml_u16(aml, (uint16_t)(1u << irq));
}

void aml_memory32_fixed(struct aml *aml, uint32_t base, uint32_t bytes)
{
	aml_u8(aml, 0x86);
	aml_u16(aml, 9);
	aml_u8(aml, 1); /* writable */
	aml_u32(aml, base);
	aml_u32(aml, bytes);
}

#define WINDOW_MEMORY 0
#define WINDOW_IO 1
#define WINDOW_BUS 2
#define WINDOW_FLAGS 0x0c /* minimum and maximum fixed, positive decode, producer */
#define MEMORY_READ_WRITE 0x01
#define IO_ENTIRE_RANGE 0x03

static void window16(struct aml *aml, uint8_t type, uint8_t specific, uint16_t first, uint16_t last)
{
	aml_u8(aml, 0x88);
	aml_u16(aml, 13);
	aml_u8(aml, type);
	aml_u8(aml, WINDOW_FLAGS);
	aml_u8(aml, specific);
	aml_u16(aml, 0);
	aml_u16(aml, first);
	aml_u16(aml, last);
	aml_u16(aml, 0);
	aml_u16(aml, (uint16_t)(last - first + 1));
}

void aml_window_bus(struct aml *aml, uint16_t first, uint16_t last) { window16(aml, WINDOW_BUS, 0, first, last); }

void aml_window_io(struct aml *aml, uint16_t first, uint16_t last)
{
	window16(aml, WINDOW_IO, IO_ENTIRE_RANGE, first, last);
}

void aml_window_memory32(struct aml *aml, uint32_t first, uint32_t last)
{
	aml_u8(aml, 0x87);
	aml_u16(aml, 23);
	aml_u8(aml, WINDOW_MEMORY);
	aml_u8(aml, WINDOW_FLAGS);
	aml_u8(aml, MEMORY_READ_WRITE);
	aml_u32(aml, 0);
	aml_u32(aml, first);
	aml_u32(aml, last);
	aml_u32(aml, 0);
	aml_u32(aml, last - first + 1);
}

void aml_window_memory64(struct aml *aml, uint64_t first, uint64_t last)
{
	aml_u8(aml, 0x8a);
	aml_u16(aml, 43);
	aml_u8(aml, WINDOW_MEMORY);
	aml_u8(aml, WINDOW_FLAGS);
	aml_u8(aml, MEMORY_READ_WRITE);
	aml_u64(aml, 0);
	aml_u64(aml, first);
	aml_u64(aml, last);
	aml_u64(aml, 0);
	aml_u64(aml, last - first + 1);
}
