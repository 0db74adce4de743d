/* SMBIOS 3.0 tables (DMTF DSP0134): system, chassis, processors, memory. */
#include <errno.h>
#include <string.h>

#include "config.h"
#include "machine/boot/aml.h"
#include "machine/boot/smbios.h"
#include "machine/ram.h"

/* Structures are formatted bytes, then the strings they number from 1, then an empty string. */
struct writer {
	struct aml out; /* AML's writer is a byte writer too */
	size_t begin;
	struct aml strings;
	uint8_t strings_count;
	const struct machine_smbios *texts; /* NULL: none was set */
};

enum smbios_type {
	SMBIOS_BIOS = 0,
	SMBIOS_SYSTEM = 1,
	SMBIOS_BOARD = 2,
	SMBIOS_CHASSIS = 3,
	SMBIOS_PROCESSOR = 4,
	SMBIOS_OEM = 11,
	SMBIOS_MEMORY_ARRAY = 16,
	SMBIOS_MEMORY_DEVICE = 17,
	SMBIOS_ARRAY_MAPPED = 19,
	SMBIOS_BOOT = 32,
	SMBIOS_END = 127,
};

static uint16_t begin(struct writer *w, enum smbios_type type, uint16_t handle)
{
	w->begin = w->out.bytes;
	w->strings.bytes = 0;
	w->strings_count = 0;
	aml_u8(&w->out, (uint8_t)type);
	aml_u8(&w->out, 0); /* length */
	aml_u16(&w->out, handle);
	return handle;
}

static void add_string(struct writer *w, const char *text)
{
	aml_raw(&w->strings, text, strlen(text) + 1);
	w->strings_count++;
}

static void string(struct writer *w, const char *text)
{
	add_string(w, text);
	aml_u8(&w->out, w->strings_count);
}

/* What the definition says, or its own; 0 where there is neither. */
static void text(struct writer *w, enum smbios_text which)
{
	static const char *const otherwise[SMBIOS_TEXTS] = {
#define SMBIOS_TEXT(section, key, element, name, value) value,
#include "proto/smbios.def"
#undef SMBIOS_TEXT
	};
	const char *value = w->texts && w->texts->text[which] ? w->texts->text[which] : otherwise[which];

	if (value && value[0])
		string(w, value);
	else
		aml_u8(&w->out, 0);
}

static void end(struct writer *w)
{
	if (w->out.failed || w->strings.failed)
		return;
	w->out.data[w->begin + 1] = (uint8_t)(w->out.bytes - w->begin);
	if (w->strings.bytes)
		aml_raw(&w->out, w->strings.data, w->strings.bytes);
	else
		aml_u8(&w->out, 0);
	aml_u8(&w->out, 0);
}

static void bios(struct writer *w)
{
	begin(w, SMBIOS_BIOS, 0);
	text(w, SMBIOS_bios_vendor);
	text(w, SMBIOS_bios_version);
	aml_u16(&w->out, 0xe800);
	text(w, SMBIOS_bios_date);
	aml_u8(&w->out, 0);
	aml_u64(&w->out, 1u << 3); /* characteristics not supported */
	aml_u8(&w->out, 0);
	aml_u8(&w->out, 1u << 4 | 1u << 2); /* a virtual machine; targeted content distribution */
	for (unsigned i = 0; i < 4; i++)
		aml_u8(&w->out, i < 2 ? 0 : 0xff); /* BIOS release 0.0, no embedded controller */
	end(w);
}

static void system_and_chassis(struct writer *w)
{
	static const uint8_t none[16];
	const uint8_t *uuid = w->texts ? w->texts->uuid : none;
	/* 7.2.1: the first three fields are little endian. */
	static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};

	begin(w, SMBIOS_SYSTEM, 0x100);
	text(w, SMBIOS_system_manufacturer);
	text(w, SMBIOS_system_product);
	text(w, SMBIOS_system_version);
	text(w, SMBIOS_system_serial);
	for (unsigned i = 0; i < sizeof(order); i++)
		aml_u8(&w->out, uuid[order[i]]);
	aml_u8(&w->out, 6); /* wake-up: power switch */
	text(w, SMBIOS_system_sku);
	text(w, SMBIOS_system_family);
	end(w);

	begin(w, SMBIOS_CHASSIS, 0x300);
	text(w, SMBIOS_chassis_manufacturer);
	aml_u8(&w->out, 1); /* type: other */
	text(w, SMBIOS_chassis_version);
	text(w, SMBIOS_chassis_serial);
	text(w, SMBIOS_chassis_asset);
	for (unsigned i = 0; i < 3; i++)
		aml_u8(&w->out, 3); /* boot, power, thermal state: safe */
	aml_u8(&w->out, 2);	    /* security: unknown */
	aml_u32(&w->out, 0);
	for (unsigned i = 0; i < 4; i++)
		aml_u8(&w->out, 0);
	text(w, SMBIOS_chassis_sku);
	end(w);
}

/* Only where something is known of it. */
static void board(struct writer *w)
{
	bool any = false;

	for (unsigned i = SMBIOS_board_manufacturer; w->texts && i <= SMBIOS_board_location; i++)
		any = any || w->texts->text[i];
	if (!any)
		return;
	begin(w, SMBIOS_BOARD, 0x200);
	text(w, SMBIOS_board_manufacturer);
	text(w, SMBIOS_board_product);
	text(w, SMBIOS_board_version);
	text(w, SMBIOS_board_serial);
	text(w, SMBIOS_board_asset);
	aml_u8(&w->out, 1); /* hosting */
	text(w, SMBIOS_board_location);
	aml_u16(&w->out, 0x300); /* the chassis */
	aml_u8(&w->out, 10);	  /* a motherboard */
	aml_u8(&w->out, 0);
	end(w);
}

static void oem(struct writer *w)
{
	if (!w->texts || !w->texts->oem_count)
		return;
	begin(w, SMBIOS_OEM, 0xb00);
	aml_u8(&w->out, (uint8_t)w->texts->oem_count);
	for (unsigned i = 0; i < w->texts->oem_count; i++)
		add_string(w, w->texts->oem[i]);
	end(w);
}

static void processor(struct writer *w, unsigned vcpus)
{
	unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;

	__asm__("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "0"(1));
	begin(w, SMBIOS_PROCESSOR, 0x400);
	string(w, "CPU 0");
	aml_u8(&w->out, 3); /* central processor */
	aml_u8(&w->out, 1); /* family: other */
	string(w, "trivisor");
	aml_u32(&w->out, eax);
	aml_u32(&w->out, edx);
	string(w, PACKAGE_VERSION);
	aml_u8(&w->out, 0);
	aml_u16(&w->out, 0);
	aml_u16(&w->out, 0); /* speeds: unknown */
	aml_u16(&w->out, 0);
	aml_u8(&w->out, 0x41); /* populated, enabled */
	aml_u8(&w->out, 1);
	for (unsigned i = 0; i < 3; i++)
		aml_u16(&w->out, 0xffff); /* no cache information */
	for (unsigned i = 0; i < 3; i++)
		aml_u8(&w->out, 0);
	aml_u8(&w->out, (uint8_t)vcpus); /* cores, enabled cores, threads */
	aml_u8(&w->out, (uint8_t)vcpus);
	aml_u8(&w->out, (uint8_t)vcpus);
	aml_u16(&w->out, 1u << 2); /* 64-bit capable */
	aml_u16(&w->out, 1);
	for (unsigned i = 0; i < 3; i++)
		aml_u16(&w->out, (uint16_t)vcpus);
	end(w);
}

static void mapped(struct writer *w, uint16_t handle, uint16_t array, uint64_t start, uint64_t bytes)
{
	begin(w, SMBIOS_ARRAY_MAPPED, handle);
	aml_u32(&w->out, 0xffffffff); /* in the extended fields, bytes */
	aml_u32(&w->out, 0xffffffff);
	aml_u16(&w->out, array);
	aml_u8(&w->out, 1);
	aml_u64(&w->out, start);
	aml_u64(&w->out, start + bytes - 1);
	end(w);
}

static void memory(struct writer *w, uint64_t ram_bytes)
{
	uint64_t low = ram_bytes < RAM_LOW_MAX ? ram_bytes : RAM_LOW_MAX, mib = ram_bytes >> 20;
	uint16_t array = begin(w, SMBIOS_MEMORY_ARRAY, 0x1000);

	aml_u8(&w->out, 1);		 /* location: other */
	aml_u8(&w->out, 3);		 /* use: system memory */
	aml_u8(&w->out, 6);		 /* multi-bit ECC, as an enterprise machine's */
	aml_u32(&w->out, 0x80000000);	 /* capacity: extended */
	aml_u16(&w->out, 0xfffe);
	aml_u16(&w->out, 1);
	aml_u64(&w->out, ram_bytes);
	end(w);

	begin(w, SMBIOS_MEMORY_DEVICE, 0x1100);
	aml_u16(&w->out, array);
	aml_u16(&w->out, 0xfffe);
	aml_u16(&w->out, 0xffff); /* widths unknown */
	aml_u16(&w->out, 0xffff);
	aml_u16(&w->out, mib < 0x7fff ? (uint16_t)mib : 0x7fff);
	aml_u8(&w->out, 9); /* DIMM */
	aml_u8(&w->out, 0);
	string(w, "DIMM 0");
	aml_u8(&w->out, 0);
	aml_u8(&w->out, 7); /* RAM */
	aml_u16(&w->out, 1u << 1);
	aml_u16(&w->out, 0);
	string(w, "trivisor");
	for (unsigned i = 0; i < 4; i++)
		aml_u8(&w->out, 0);
	aml_u32(&w->out, mib < 0x7fff ? 0 : (uint32_t)mib);
	aml_u16(&w->out, 0);
	for (unsigned i = 0; i < 3; i++)
		aml_u16(&w->out, 0);
	end(w);

	mapped(w, 0x1300, array, 0, low);
	if (ram_bytes > low)
		mapped(w, 0x1301, array, RAM_HIGH_BASE, ram_bytes - low);
}

int smbios_build(struct smbios_tables *ret_tables, uint64_t ram_bytes, unsigned vcpus, const struct machine_smbios *texts)
{
	struct smbios_tables tables = {.anchor = "_SM3_"};
	struct writer w = {.texts = texts};

	bios(&w);
	system_and_chassis(&w);
	board(&w);
	oem(&w);
	processor(&w, vcpus);
	memory(&w, ram_bytes);
	begin(&w, SMBIOS_BOOT, 0x2000);
	for (unsigned i = 0; i < 6; i++)
		aml_u8(&w.out, 0);
	aml_u8(&w.out, 0); /* no errors detected */
	end(&w);
	begin(&w, SMBIOS_END, 0x7f00);
	end(&w);
	bool failed = w.out.failed || w.strings.failed;
	aml_free(&w.strings);
	if (failed) {
		aml_free(&w.out);
		return -ENOMEM;
	}
	tables.blob = w.out.data;
	tables.bytes = (uint32_t)w.out.bytes;
	tables.anchor[6] = SMBIOS_ANCHOR_BYTES;
	tables.anchor[7] = 3; /* version 3.0.0 */
	tables.anchor[10] = 1; /* entry point revision */
	memcpy(tables.anchor + 12, &tables.bytes, sizeof(tables.bytes));
	smbios_place(&tables, 0);
	*ret_tables = tables;
	return 0;
}

void smbios_place(struct smbios_tables *tables, gpa_t gpa)
{
	uint8_t sum = 0;

	memcpy(tables->anchor + 16, &gpa, sizeof(gpa));
	tables->anchor[5] = 0;
	for (unsigned i = 0; i < SMBIOS_ANCHOR_BYTES; i++)
		sum = (uint8_t)(sum + tables->anchor[i]);
	tables->anchor[5] = (uint8_t)-sum;
}

void smbios_free(struct smbios_tables *tables)
{
	if (!tables)
		return;
	free(tables->blob);
	*tables = (struct smbios_tables){0};
}
