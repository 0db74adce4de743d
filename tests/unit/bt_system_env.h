/* A machine and one bt vCPU for tests that call the engine's helpers directly, without running guest code. */
#ifndef TESTS_BT_SYSTEM_ENV_H
#define TESTS_BT_SYSTEM_ENV_H

/* cmocka wants these before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "modes/bt/run.h"
#include "modes/bt/helper.h"

#define ENV_RAM_BYTES (16u << 20)

/* Physical layout of what the tests build; page tables above. */
#define ENV_GDT 0x200000u
#define ENV_IDT 0x201000u
#define ENV_TSS 0x202000u
#define ENV_CODE 0x203000u
#define ENV_HANDLERS 0x204000u /* vector n's handler is at + n * 16 */
#define ENV_STACK 0x210000u    /* top of the stack that code starts with */
#define ENV_RSP0 0x212000u
#define ENV_IST1 0x214000u
#define ENV_DATA 0x220000u /* 16 pages */
#define ENV_PML4 0x300000u

/* Selectors in ENV_GDT. */
enum {
	SEL_KCODE64 = 0x08, SEL_KDATA = 0x10, SEL_UDATA = 0x18 | 3, SEL_UCODE64 = 0x20 | 3, SEL_KCODE32 = 0x28,
	SEL_UCODE32 = 0x30 | 3, SEL_KCODE16 = 0x38, SEL_KDATA16 = 0x40, SEL_TSS = 0x48, SEL_DATA_RO = 0x58,
	SEL_NOT_PRESENT = 0x60, SEL_EXPAND_DOWN = 0x68, SEL_CALL_GATE = 0x70,
};

struct env {
	struct machine *machine;
	struct mode_vm *vm;
	struct mode_vcpu *vcpu;
	struct bt_vcpu *v;
	uint8_t *ram;
};

/* What running one helper came to. */
enum outcome { RAN, RESUMED, RAISED, HALTED, FAILED };

/* NULL on success, else why not (a host without executable memory, say). */
const char *env_start(struct env *e);
void env_stop(struct env *e);

/* Fresh state each: flat segments, paging as named, GDT, IDT of 32-bit or 64-bit interrupt gates, TSS. */
void env_long_mode(struct env *e, unsigned cpl);
void env_protected(struct env *e, unsigned cpl);
void env_real(struct env *e);

/* Decodes and runs the helper of one instruction at the present cs.rip; rip moves on when it just returns. */
enum outcome env_op(struct env *e, const uint8_t *code, size_t n);
#define ENV_OP(e, ...) env_op(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

#define assert_raised(e, outcome, vector, error)                                    \
	do {                                                                        \
		assert_int_equal(outcome, RAISED);                                  \
		assert_int_equal((e)->v->cs.exception_vector, vector);              \
		assert_int_equal((e)->v->cs.exception_error, error);                \
		(e)->v->cs.exception_pending = 0;                                   \
	} while (0)

static inline void put64(struct env *e, gpa_t gpa, uint64_t value) { *(uint64_t *)(e->ram + gpa) = value; }
static inline uint64_t get64(struct env *e, gpa_t gpa) { return *(uint64_t *)(e->ram + gpa); }
static inline void put32(struct env *e, gpa_t gpa, uint32_t value) { *(uint32_t *)(e->ram + gpa) = value; }
static inline uint32_t get32(struct env *e, gpa_t gpa) { return *(uint32_t *)(e->ram + gpa); }
static inline uint16_t get16(struct env *e, gpa_t gpa) { return *(uint16_t *)(e->ram + gpa); }

#endif
