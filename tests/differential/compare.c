/* Judging two outcomes of one case, and showing cases to people. */
#include "tests/differential/case.h"

#include <capstone/capstone.h>
#include <string.h>

#define VEC_DB 1
#define VEC_UD 6
#define VEC_SS 12
#define VEC_GP 13
#define VEC_PF 14
#define VEC_AC 17

/* CF PF AF ZF SF TF IF DF OF IOPL NT AC ID: RF is in neither frame's contract (the kernel's and ours agree to differ). */
#define FLAGS_COMPARED 0x247fd5u

static const char *const gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* ---- flags that matter -------------------------------------------------------------------------- */

static unsigned fetch(const struct diff_case *c, const struct outcome *o, uint64_t rip, uint8_t code[32])
{
	unsigned n = 0;

	rip += code_base(c);
	for (; n < 32; n++) {
		const struct world_page *page = NULL;
		for (unsigned i = 0; i < WORLD_PAGES; i++)
			if (world_pages[i].gva == ((rip + n) & ~0xfffull) && world_pages[i].exec)
				page = &world_pages[i];
		if (!page)
			break;
		code[n] = o->mem[page->phys][(rip + n) & 0xfff];
	}
	return n;
}

/*
 * Which of the flags `unknown` code from rip on may read before it writes them. At a fault in the middle of a block the
 * engine keeps only these: the others are dead, whatever the handler does with the frame short of looking at them.
 */
static unsigned live_flags(const struct diff_case *c, const struct outcome *o, uint64_t rip, unsigned unknown, unsigned depth,
			   unsigned *budget)
{
	unsigned live = 0;

	for (unsigned i = 0; i < 300 && unknown && *budget; i++) {
		uint8_t code[32];
		--*budget; /* here: the calls below may use it up */
		struct bt_insn in;
		unsigned n = fetch(c, o, rip, code);
		if (bt_decode(code, n, (enum bt_bits)c->bits, &in) != BT_DECODE_OK)
			return live | unknown;
		live |= in.flags_read & unknown;
		unknown &= ~(unsigned)in.flags_killed;
		switch ((enum bt_class)in.cls) {
		case BT_CLASS_CALL: /* a fault of its push */
		case BT_CLASS_JMP: rip += in.len + (uint64_t)in.imm; continue;
		case BT_CLASS_JCC:
			if (!depth)
				return live | unknown;
			live |= live_flags(c, o, rip + in.len + (uint64_t)in.imm, unknown, depth - 1, budget);
			break;
		default:
			if (in.flags & BT_I_ENDS)
				return live | unknown;
		}
		rip += in.len;
	}
	return live | unknown;
}

/* ---- comparing -------------------------------------------------------------------------------------- */

/* Registers whose component is in its initial state hold that, whatever the image says. */
static void normalize(struct cpu *cpu)
{
	uint8_t *x = cpu->xsave, have = x[XSAVE_HEADER];

	if (!(have & 1)) {
		memset(x, 0, 24);
		x[0] = 0x7f;
		x[1] = 3;
		memset(x + 32, 0, 128);
	}
	if (!(have & 2))
		memset(x + 160, 0, 256);
	if (!(have & 4))
		memset(x + XSAVE_YMMH, 0, 256);
	/* Opcode and instruction pointers name translated code there; docs/bt.md says so. */
	memset(x + 6, 0, 18);
	memset(x + 28, 0, 4);
	for (unsigned i = 0; i < 8; i++)
		memset(x + 32 + 16 * i + 10, 0, 6);
}

static const char *compare_vectors(const struct outcome *a, const struct outcome *b)
{
	static char text[64];
	struct cpu x = a->cpu, y = b->cpu;

	normalize(&x);
	normalize(&y);
	if (memcmp(x.xsave, y.xsave, 2))
		return "the x87 control word";
	if (memcmp(x.xsave + 2, y.xsave + 2, 2))
		return "the x87 status word";
	if (x.xsave[4] != y.xsave[4])
		return "the x87 tags";
	if (memcmp(x.xsave + 24, y.xsave + 24, 4))
		return "mxcsr";
	for (unsigned i = 0; i < 24; i++) {
		if (!memcmp(x.xsave + 32 + 16 * i, y.xsave + 32 + 16 * i, 16))
			continue;
		snprintf(text, sizeof(text), i < 8 ? "st%u" : "xmm%u", i < 8 ? i : i - 8);
		return text;
	}
	for (unsigned i = 0; i < 16; i++) {
		if (!memcmp(x.xsave + XSAVE_YMMH + 16 * i, y.xsave + XSAVE_YMMH + 16 * i, 16))
			continue;
		snprintf(text, sizeof(text), "ymm%u's upper half", i);
		return text;
	}
	return NULL;
}

static const char *compare_memory(const struct outcome *a, const struct outcome *b)
{
	static char text[64];

	for (unsigned p = 0; p < PHYS_PAGES; p++) {
		if (!memcmp(a->mem[p], b->mem[p], GUEST_PAGE_SIZE))
			continue;
		unsigned i = 0;
		while (a->mem[p][i] == b->mem[p][i])
			i++;
		for (unsigned w = 0; w < WORLD_PAGES; w++)
			if (world_pages[w].phys == p) {
				snprintf(text, sizeof(text), "memory at 0x%llx", (unsigned long long)world_pages[w].gva + i);
				break;
			}
		return text;
	}
	return NULL;
}

const char *outcome_compare(const struct diff_case *c, const struct outcome *native, const struct outcome *guest, bool all_flags)
{
	const char *what;

	if (native->kind != guest->kind)
		return "how it ended";
	if (native->vector != guest->vector)
		return "the exception";
	if (native->cpu.rip != guest->cpu.rip)
		return "rip";
	uint32_t ignored = native->vector == VEC_PF && native->cr2 >= GVA_KERNEL ? 1 : 0;
	if (native->vector == VEC_PF && native->cr2 != guest->cr2)
		return "cr2";
	if ((native->error ^ guest->error) & ~ignored)
		return "the error code";
	if (native->cpu.cs != guest->cpu.cs)
		return "cs";
	for (unsigned i = 0; i < GPR_COUNT; i++)
		if (native->cpu.gpr[i] != guest->cpu.gpr[i])
			return gpr_names[i];
	if (native->cpu.fs_base != guest->cpu.fs_base)
		return "the FS base";
	if (native->cpu.gs_base != guest->cpu.gs_base)
		return "the GS base";
	uint64_t flags = (native->cpu.rflags ^ guest->cpu.rflags) & FLAGS_COMPARED;
	if (flags & ~(uint64_t)BT_FLAGS_ARITH)
		return "flags";
	unsigned budget = 20000;
	if (flags && (all_flags || flags & live_flags(c, native, native->cpu.rip, BT_FLAGS_ARITH, 6, &budget)))
		return "arithmetic flags";
	what = compare_vectors(native, guest);
	return what ? what : compare_memory(native, guest);
}

/* ---- excuses -------------------------------------------------------------------------------------------- */

const char *outcome_excuse(const struct outcome *native)
{
	switch ((enum outcome_kind)native->kind) {
	case OUTCOME_TIMEOUT: return "does not end";
	case OUTCOME_SYSCALL: return "runs into a system call";
	case OUTCOME_LOST: return "kills the native side";
	default: break;
	}
	return NULL;
}

/* Instructions whose result is the system's: the tester never makes them up, but code that runs astray may be one. */
static const char *step_excuse(const struct diff_case *c, const uint8_t *bytes)
{
	struct bt_insn in;

	/* LOCK makes them undefined, but not to a kernel that emulates them under UMIP. */
	enum bt_decode_result r = bt_decode(bytes, 16, (enum bt_bits)c->bits, &in);
	if (r != BT_DECODE_OK && r != BT_DECODE_INVALID)
		return NULL;
	switch (in.handler) {
	case BT_OP_cpuid:
	case BT_OP_rdtsc:
	case BT_OP_rdtscp:
	case BT_OP_rdpmc:
	case BT_OP_rdpid:
	case BT_OP_rdpkru:
	case BT_OP_wrpkru:
	case BT_OP_sgdt:
	case BT_OP_sidt:
	case BT_OP_sldt:
	case BT_OP_str:
	case BT_OP_smsw:
	case BT_OP_lar:
	case BT_OP_lsl:
	case BT_OP_verr:
	case BT_OP_verw:
	case BT_OP_mov_to_sreg:
	case BT_OP_pop_sreg:
	case BT_OP_load_far:
	case BT_OP_call_far:
	case BT_OP_call_far_mem:
	case BT_OP_jmp_far:
	case BT_OP_jmp_far_mem:
	case BT_OP_ret_far:
	case BT_OP_iret:
	case BT_OP_int:
	case BT_OP_int1: /* hypervisors disagree on whether rip is behind it */
	case BT_OP_syscall:
	case BT_OP_sysenter:
	case BT_OP_vmcall:
	case BT_OP_vmmcall:
	case BT_OP_monitor:
	case BT_OP_mwait: return in.name;
	default: break;
	}
	return !strncmp(in.name, "rdrand", 6) || !strncmp(in.name, "rdseed", 6) ? in.name : NULL;
}

static bool is_state_image(const struct bt_insn *in)
{
	switch (in->handler) {
	case BT_OP_fxsave:
	case BT_OP_fxrstor:
	case BT_OP_xsave:
	case BT_OP_xsaveopt:
	case BT_OP_xsavec:
	case BT_OP_xrstor:
	case BT_OP_fnsave:
	case BT_OP_frstor:
	case BT_OP_fnstenv:
	case BT_OP_fldenv: return true;
	default: return false;
	}
}

static bool canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

static bool is_memory_fault(const struct outcome *o)
{
	return o->vector == VEC_PF || o->vector == VEC_GP || o->vector == VEC_SS || o->vector == VEC_AC;
}

static enum bt_decode_result decodes_at(const struct diff_case *c, const struct outcome *o, uint64_t rip)
{
	struct bt_insn in;
	uint8_t code[32];

	return bt_decode(code, fetch(c, o, rip, code), (enum bt_bits)c->bits, &in);
}

static bool undefined_or_fetch(const struct outcome *a, const struct outcome *b)
{
	const struct outcome *fetch = a->vector == VEC_PF ? a : b, *other = fetch == a ? b : a;

	return fetch->vector == VEC_PF && fetch->error & 16 && fetch->cr2 > fetch->cpu.rip && other->vector == VEC_UD;
}

/*
 * What docs/bt.md lists as differing on purpose: x87 instruction pointers in images are zero; which byte of an image a
 * page fault names; a near branch to a non-canonical address, which faults at its target; a gather that faults half-way,
 * which has done nothing; how much of an undefined instruction at the end of a page is fetched; and AMD's #GP for an
 * offset to FS or GS that is not canonical though the sum is; and the page fault in front of the non-canonical hole, when
 * the processor splits an access that reaches into it, or wraps it at 4 GiB.
 */
static const char *known_difference(const struct diff_case *c, const struct outcome *native, const struct outcome *guest, const struct bt_insn *last,
				    bool pointers)
{
	bool both = native->kind == OUTCOME_EXCEPTION && guest->kind == OUTCOME_EXCEPTION;

	if (pointers)
		return "x87 instruction pointers in an image";
	if (both && native->cpu.rip == guest->cpu.rip && (is_state_image(last) || last->cls == BT_CLASS_MASKMOV) &&
	    is_memory_fault(native) && is_memory_fault(guest))
		return "which byte of an image a fault names";
	if (both && last->cls == BT_CLASS_MASKMOV && (native->vector == VEC_AC || guest->vector == VEC_AC))
		return "the alignment of a maskmov";
	if (both && native->vector == VEC_GP && guest->vector == VEC_PF && native->cpu.rip == guest->cpu.rip &&
	    ((last->seg == SEG_FS && !canonical(guest->cr2 - native->cpu.fs_base)) ||
	     (last->seg == SEG_GS && !canonical(guest->cr2 - native->cpu.gs_base))))
		return "a non-canonical offset to a segment's base";
	bool branch = last->cls == BT_CLASS_RET || last->cls == BT_CLASS_JMP_IND || last->cls == BT_CLASS_CALL_IND;
	if (both && native->cpu.rip == guest->cpu.rip && native->vector == VEC_PF && native->cr2 >= GVA_KERNEL &&
	    native->cr2 < GVA_HOLE && is_memory_fault(guest))
		return "an access into the non-canonical hole";
	if (both && native->cpu.rip == guest->cpu.rip && native->vector == VEC_PF && native->cr2 < 64 && is_memory_fault(guest) &&
	    (c->bits != 64 || (last->addrsize == 4 && guest->cr2 >> 32 == 1)))
		return "an access that wraps at 4 GiB";
	if (both && guest->vector == VEC_UD && decodes_at(c, native, guest->cpu.rip) == BT_DECODE_INVALID)
		return "an encoding that the manuals leave undefined";
	if (both && native->cpu.rip == guest->cpu.rip && last->cls == BT_CLASS_GATHER && /* with TF it stops before the fault */
	    (native->vector == guest->vector || native->vector == VEC_DB))
		return "a gather that faults half-way";
	if (both && native->cpu.rip == guest->cpu.rip && native->vector == guest->vector && (last->handler == BT_OP_pusha || last->handler == BT_OP_popa))
		return "what pusha or popa did before it faulted";
	if (both && native->cpu.rip == guest->cpu.rip && undefined_or_fetch(native, guest))
		return "an undefined instruction at the end of a page";
	if (both && native->vector == VEC_GP && branch &&
	    !canonical(guest->cpu.rip))
		return "a branch to a non-canonical address";
	return NULL;
}

/* Whether it goes on with what it was or becomes what it wrote depends on when the host's next interrupt comes. */
static bool overwrites_itself(const struct diff_case *c, const struct outcome *native, const struct bt_insn *in, uint64_t rip)
{
	uint8_t code[32];

	return in->cls == BT_CLASS_STRING && in->flags & (BT_I_REP | BT_I_REPNE) &&
	       fetch(c, native, rip, code) >= in->len && memcmp(code, in->bytes, in->len);
}

const char *difference_excuse(struct native *n, const struct diff_case *c, const struct outcome *native,
			      const struct outcome *guest)
{
	static struct diff_case traced;
	bool x87 = false, pointers = false, opt = false;
	struct bt_insn in = {.handler = BT_OP_NONE};
	const struct outcome *o;
	const char *why;

	if (guest->kind == OUTCOME_EXCEPTION && guest->vector == VEC_PF && native_own_memory(n, guest->cr2))
		return "strays into the tester's own memory";
	traced = *c;
	traced.trace = true;
	o = native_run(n, &traced);
	for (unsigned i = 0; i < o->steps; i++) {
		why = step_excuse(c, o->step[i].bytes);
		if (why)
			return why;
		if (bt_decode(o->step[i].bytes, 16, (enum bt_bits)c->bits, &in) != BT_DECODE_OK)
			continue;
		if (overwrites_itself(c, native, &in, o->step[i].rip))
			return "a repeated instruction that overwrites itself";
		pointers |= x87 && is_state_image(&in);
		x87 |= ((in.flags & BT_I_FPU) && in.cls == BT_CLASS_NATIVE) || is_state_image(&in);
		opt |= in.handler == BT_OP_xsaveopt;
	}
	/* Where it ended: the trace may be too short for that, or have gone elsewhere where code changed itself. */
	uint8_t code[32] = {0}, guest_code[32] = {0};
	unsigned n_code = fetch(c, native, native->cpu.rip, code);
	why = n_code ? step_excuse(c, code) : NULL;
	/* Natively a kernel emulates some of them under UMIP, and goes on: there the guest is the one that ended. */
	if (!why && guest->kind == OUTCOME_EXCEPTION && fetch(c, guest, guest->cpu.rip, guest_code))
		why = step_excuse(c, guest_code);
	if (why)
		return why;
	if (n_code)
		bt_decode(code, n_code, (enum bt_bits)c->bits, &in);
	why = known_difference(c, native, guest, &in, pointers);
	return why ? why : opt ? "xsaveopt stores what it might leave out" : NULL;
}

/* ---- for people ---------------------------------------------------------------------------------------------- */

static void disassemble(const struct diff_case *c, uint64_t at, const uint8_t *bytes, unsigned n, const char *lead)
{
	csh cs;
	cs_insn *insn;
	char hex[64] = "";

	for (unsigned i = 0; i < n && i < 15; i++)
		snprintf(hex + 3 * i, sizeof(hex) - 3 * i, "%02x ", bytes[i]);
	if (cs_open(CS_ARCH_X86, c->bits == 64 ? CS_MODE_64 : c->bits == 32 ? CS_MODE_32 : CS_MODE_16, &cs) != CS_ERR_OK)
		return;
	if (cs_disasm(cs, bytes, n, at, 1, &insn)) {
		hex[3 * insn->size] = 0;
		printf("# %s%10llx  %-46s %s %s\n", lead, (unsigned long long)at, hex, insn->mnemonic, insn->op_str);
		cs_free(insn, 1);
	} else {
		printf("# %s%10llx  %-46s (bad)\n", lead, (unsigned long long)at, hex);
	}
	cs_close(&cs);
}

static void fetch_case(const struct diff_case *c, uint64_t at, uint8_t code[16])
{
	for (unsigned i = 0; i < 16; i++) {
		uint64_t a = at + i - GVA_CODE;
		code[i] = a < 2 * GUEST_PAGE_SIZE ? c->mem[PHYS_CODE0 + (a >> 12)][a & 0xfff] : 0;
	}
}

void case_print(const struct diff_case *c)
{
	uint8_t code[16];

	printf("# case %u of seed %llu, %u-bit code; the code pages are filled with %02x\n", c->number,
	       (unsigned long long)c->seed, c->bits, c->fill);
	for (unsigned i = 0; i < c->insns; i++) {
		if (c->piece[i].dropped)
			continue;
		fetch_case(c, c->address[i], code);
		disassemble(c, c->address[i], code, c->piece[i].len, "");
	}
	printf("# fs base %llx, gs base %llx\n", (unsigned long long)c->cpu.fs_base, (unsigned long long)c->cpu.gs_base);
}

static void row(const char *name, uint64_t before, uint64_t native, uint64_t guest)
{
	printf("# %-6s %016llx   %016llx   %016llx %s\n", name, (unsigned long long)before, (unsigned long long)native,
	       (unsigned long long)guest, native == guest ? "" : "<--");
}

static uint64_t get(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;
	memcpy(&v, p, n);
	return v;
}

void outcomes_print(const struct diff_case *c, const struct outcome *native, const struct outcome *guest)
{
	static const char *const kinds[] = {"exception", "timeout", "system call", "lost", "engine error"};
	struct cpu x = native->cpu, y = guest->cpu, z = c->cpu;
	char name[16];

	printf("# native: %s, vector %u, error %x, cr2 %llx\n", kinds[native->kind], native->vector, native->error,
	       (unsigned long long)native->cr2);
	printf("# guest:  %s, vector %u, error %x, cr2 %llx %s\n", kinds[guest->kind], guest->vector, guest->error,
	       (unsigned long long)guest->cr2, guest->message);
	printf("#        before             native             translated\n");
	for (unsigned i = 0; i < (c->bits == 64 ? 16u : 8u); i++)
		row(gpr_names[i], z.gpr[i], x.gpr[i], y.gpr[i]);
	row("rip", z.rip, x.rip, y.rip);
	row("flags", z.rflags, x.rflags, y.rflags);
	row("fs", z.fs_base, x.fs_base, y.fs_base);
	row("gs", z.gs_base, x.gs_base, y.gs_base);
	normalize(&x);
	normalize(&y);
	normalize(&z);
	row("fcw", get(z.xsave, 2), get(x.xsave, 2), get(y.xsave, 2));
	row("fsw", get(z.xsave + 2, 2), get(x.xsave + 2, 2), get(y.xsave + 2, 2));
	row("ftw", z.xsave[4], x.xsave[4], y.xsave[4]);
	row("mxcsr", get(z.xsave + 24, 4), get(x.xsave + 24, 4), get(y.xsave + 24, 4));
	for (unsigned i = 0; i < 24; i++)
		for (unsigned k = 0; k < 16; k += 8) {
			unsigned at = 32 + 16 * i + k;
			if (get(x.xsave + at, 8) == get(y.xsave + at, 8))
				continue;
			snprintf(name, sizeof(name), i < 8 ? "st%u%s" : "xmm%u%s", i < 8 ? i : i - 8, k ? "h" : "");
			row(name, get(z.xsave + at, 8), get(x.xsave + at, 8), get(y.xsave + at, 8));
		}
	for (unsigned i = 0; i < 32; i++) {
		unsigned at = XSAVE_YMMH + 8 * i;
		if (get(x.xsave + at, 8) == get(y.xsave + at, 8))
			continue;
		snprintf(name, sizeof(name), "ymm%u%s", i / 2, i & 1 ? "hh" : "hl");
		row(name, get(z.xsave + at, 8), get(x.xsave + at, 8), get(y.xsave + at, 8));
	}
	for (unsigned p = 0, shown = 0; p < PHYS_PAGES; p++)
		for (unsigned i = 0; i < GUEST_PAGE_SIZE && shown < 16; i += 8) {
			if (get(native->mem[p] + i, 8) == get(guest->mem[p] + i, 8))
				continue;
			for (unsigned w = 0; w < WORLD_PAGES; w++)
				if (world_pages[w].phys == p) {
					printf("# memory %llx:\n", (unsigned long long)world_pages[w].gva + i);
					break;
				}
			row("", get(c->mem[p] + i, 8), get(native->mem[p] + i, 8), get(guest->mem[p] + i, 8));
			shown++;
		}
}

void trace_print(const struct diff_case *c, const struct outcome *traced)
{
	printf("# as it ran natively:\n");
	for (unsigned i = 0; i < traced->steps; i++)
		disassemble(c, traced->step[i].rip, traced->step[i].bytes, 16, "  ");
}
