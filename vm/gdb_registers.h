/* A vCPU's registers as GDB knows them: the target description, and each register's bytes. */
#ifndef VM_GDB_REGISTERS_H
#define VM_GDB_REGISTERS_H

#include "machine/cpu_state.h"

#include <stdbool.h>
#include <stddef.h>

/* GDB_16: the registers of 32, but GDB shows code of 16 (until it is told: set architecture i386). */
enum gdb_width { GDB_16, GDB_32, GDB_64 };

#define GDB_REGISTER_BYTES 16

/* What is not in struct cpu_state. */
struct gdb_extra {
	uint8_t cr8;
};

unsigned gdb_register_count(enum gdb_width width);
/* Its bytes, little endian, into out; how many. 0: there is no such register. */
size_t gdb_register_read(enum gdb_width width, unsigned number, const struct cpu_state *cs, const struct gdb_extra *extra,
			 uint8_t out[GDB_REGISTER_BYTES]);
const char *gdb_register_name(enum gdb_width width, unsigned number);
/* x87, SSE, AVX or a control register of theirs. */
bool gdb_register_is_vector(enum gdb_width width, unsigned number);
size_t gdb_register_bytes(enum gdb_width width, unsigned number);
/*
 * From as many bytes as it has. False: it cannot be written, because that takes more than a value (selectors, control
 * registers), and the value is another than the present one.
 */
bool gdb_register_write(enum gdb_width width, unsigned number, struct cpu_state *cs, const struct gdb_extra *extra,
			const uint8_t *bytes);
const char *gdb_architecture_name(enum gdb_width width);
/* The target description (XML), malloc'd. NULL: out of memory. */
char *gdb_target_xml(enum gdb_width width);

/*
 * The address of the next instruction for GDB: rip, or in segmented code its linear address, since GDB knows only one
 * address space and finds code and breakpoints by this one.
 */
uint64_t gdb_pc(const struct cpu_state *cs);

#endif
