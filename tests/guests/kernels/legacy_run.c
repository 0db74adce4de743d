/* Into the modes that legacy_entry.S leads to, and back. */
#include "legacy.h"

void legacy_enter(struct legacy *l);
extern char legacy_stubs[], real_start[], real_end[], real_vectors[], real_gdtr[];
uint64_t legacy_idt[256] __attribute__((aligned(16)));

void setup_32(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint64_t to = (uint64_t)legacy_stubs + i * 16;

		legacy_idt[i] = (to & 0xffff) | (uint64_t)SEL_CODE32 << 16 | 0x8eul << 40 | (to >> 16) << 48;
	}
	cpu_gdt()[SEL_DATA16 / 8] = 0x000093000000fffful;
}

struct legacy in_32(const void *code)
{
	setup_32();
	return (struct legacy){.code = (uint32_t)(uint64_t)code, .cr0 = CR0_32, .eflags = 2};
}

uint64_t run_32(struct legacy *l)
{
	legacy_enter(l);
	return l->vector == VECTOR_DONE ? EX_DONE : EX(l->vector, l->error);
}

struct real run_16_at(const char *code, const char *end, struct real in)
{
	struct real *data = (struct real *)REAL_DATA;
	uint32_t *ivt = (uint32_t *)REAL_IVT;
	struct legacy l;

	setup_32();
	*(uint32_t *)(real_gdtr + 2) = (uint32_t)(uint64_t)cpu_gdt();
	memcpy((void *)REAL_BASE, real_start, (size_t)(real_end - real_start));
	for (unsigned i = 0; i < 256; i++)
		ivt[i] = (REAL_BASE >> 4) << 16 | (uint32_t)(real_vectors - real_start + 4 * i);
	memcpy((void *)REAL_CODE, code, (size_t)(end - code));
	*data = in;
	l = (struct legacy){.cr0 = 0x30};
	legacy_enter(&l);
	return *data;
}
