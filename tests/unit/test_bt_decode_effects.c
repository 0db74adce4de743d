/* What the decoder says an instruction reads and writes, against what it does on the host's processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "machine/cpu_state.h"
#include "modes/bt/decode_table.h"
#include "tests/unit/bt_host.h"
#include "tests/unit/bt_opspace.h"

static struct host host;
static const char *host_missing;
static unsigned wrong, tried, shown;
static uint64_t seed = 0x5eed0001;

static uint64_t random64(void)
{
	return opspace_random64(&seed);
}

/* All rows, or a share of them that keeps `make check` short. */
static unsigned sweep_step(void)
{
	return getenv("BT_DECODE_FULL") ? 1 : 67;
}

static int setup(void **state)
{
	host_missing = host_start(&host);
	return 0;
}

static int teardown(void **state)
{
	if (!host_missing)
		host_stop(&host);
	return 0;
}

/* ---- one run ------------------------------------------------------------------------------------ */

/* General registers in the order of the encoding. */
static unsigned long long *gpr(struct user_regs_struct *r, unsigned n)
{
	unsigned long long *const at[16] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
					     &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15 };
	return at[n];
}

#define DATA_BYTES 256
struct run {
	uint64_t gpr[16];
	uint64_t flags;
	uint8_t data[DATA_BYTES]; /* in the end: around the operand */
	enum host_outcome out;
};

struct probe {
	const struct bt_insn *insn;
	uint64_t address; /* of the memory operand, if there is one */
	uint64_t gpr[16];
	uint64_t flags;
	uint8_t data[DATA_BYTES];
};

static uint64_t data_offset(const struct probe *p)
{
	uint64_t off = (p->address & ~0x3full) - HOST_DATA - 64;

	return off > HOST_DATA_BYTES - DATA_BYTES ? HOST_DATA_BYTES - DATA_BYTES : off;
}

static void run(const struct probe *p, struct run *ret)
{
	const struct bt_insn *insn = p->insn;
	uint8_t *data = host.data + data_offset(p);

	host_place(&host, insn->bytes, insn->len, BT_BITS_64);
	for (unsigned i = 0; i < 16; i++)
		*gpr(&host.regs, i) = p->gpr[i];
	host.regs.eflags = 0x202 | p->flags;
	memcpy(data, p->data, DATA_BYTES);
	if (insn->flags & (BT_I_SSE | BT_I_FPU))
		host_reset_vectors(&host);
	ret->out = host_step(&host);
	if (ret->out == HOST_TRAP_GONE)
		fail_msg("the traced child is gone: %s", insn->name);
	for (unsigned i = 0; i < 16; i++)
		ret->gpr[i] = *gpr(&host.regs, i);
	ret->flags = host.regs.eflags & BT_FLAGS_ARITH;
	memcpy(ret->data, data, DATA_BYTES);
}

static void report(const struct bt_insn *insn, const char *what, unsigned detail)
{
	wrong++;
	if (shown++ > 60 && !getenv("BT_DECODE_ALL"))
		return;
	fprintf(stderr, "# %s: %s %x; gpr %04x->%04x flags %03x->%03x mem %u:", insn->name, what, detail, insn->gpr_read,
		insn->gpr_written, insn->flags_read, insn->flags_written, insn->mem_bytes);
	for (unsigned i = 0; i < insn->len; i++)
		fprintf(stderr, " %02x", insn->bytes[i]);
	fprintf(stderr, "\n");
}

/* ---- the checks ------------------------------------------------------------------------------------- */

/* Only what is declared as written changes. */
static void check_written(const struct probe *p, const struct run *r)
{
	const struct bt_insn *insn = p->insn;
	uint64_t flags_changed = (p->flags ^ r->flags) & ~(uint64_t)insn->flags_written;

	for (unsigned i = 0; i < 16; i++)
		if (p->gpr[i] != r->gpr[i] && !(insn->gpr_written & 1u << i))
			report(insn, "writes register", i);
	if (flags_changed)
		report(insn, "writes flags", flags_changed);
	if (insn->cls == BT_CLASS_PUSH || insn->cls == BT_CLASS_STRING || insn->cls == BT_CLASS_ENTER ||
	    insn->cls == BT_CLASS_MASKMOV)
		return;
	for (unsigned i = 0; i < DATA_BYTES; i++) {
		uint64_t at = HOST_DATA + data_offset(p) + i;
		bool inside = (insn->access & BT_ACCESS_WRITE) && at - p->address < insn->mem_bytes;

		if (p->data[i] != r->data[i] && !inside) {
			report(insn, "writes memory at", (unsigned)(at - p->address));
			break;
		}
	}
}

/* What is not declared as read makes no difference. */
static void check_unread_registers(struct probe *p, const struct run *r)
{
	const struct bt_insn *insn = p->insn;

	for (unsigned i = 0; i < 16; i++) {
		uint64_t old = p->gpr[i];
		struct run other;

		if (insn->gpr_read & 1u << i)
			continue;
		p->gpr[i] ^= random64() | 0x100000001;
		run(p, &other);
		for (unsigned k = 0; k < 16; k++)
			if (other.gpr[k] != (k == i && !(insn->gpr_written & 1u << k) ? p->gpr[k] : r->gpr[k]))
				report(insn, "reads register", i);
		if (other.flags != r->flags)
			report(insn, "flags depend on register", i);
		if (other.out != r->out || memcmp(other.data, r->data, DATA_BYTES))
			report(insn, "memory depends on register", i);
		p->gpr[i] = old;
	}
}

static void check_flags(struct probe *p, const struct run *r)
{
	const struct bt_insn *insn = p->insn;

	for (unsigned bit = 1; bit <= BT_OF; bit <<= 1) {
		struct run other;
		uint64_t differ;

		if (!(bit & BT_FLAGS_ARITH) || (bit & insn->flags_read))
			continue;
		p->flags ^= bit;
		run(p, &other);
		p->flags ^= bit;
		if (memcmp(other.gpr, r->gpr, sizeof(r->gpr)) || memcmp(other.data, r->data, DATA_BYTES))
			report(insn, "reads flag", bit);
		differ = other.flags ^ r->flags;
		if (differ & ~bit)
			report(insn, "flags depend on flag", bit);
		if (insn->flags_written & bit) {
			if ((differ & bit) && (insn->flags_killed & bit))
				report(insn, "lets a killed flag survive", bit);
		} else if (!(differ & bit)) {
			report(insn, "overwrites flag", bit);
		}
	}
}

static void place_operand(struct probe *p, unsigned base, uint64_t address)
{
	p->address = address;
	p->gpr[base] = address - (uint64_t)p->insn->disp;
}

/* The operand as far right as it goes, one byte further, off its alignment, and read-only. */
static void check_memory(struct probe *p)
{
	const struct bt_insn *insn = p->insn;
	unsigned bytes = insn->mem_bytes;
	uint64_t at = p->address;
	struct run r, again;

	if (insn->flags & (BT_I_MASKED | BT_I_BITOFF))
		return;
	/* Contents that fault nowhere: a divisor of 0x7f.., an MXCSR of 0. */
	memset(p->data, insn->map == BT_MAP_1 ? 0x7f : 0, DATA_BYTES);
	p->gpr[GPR_RAX] = 1;
	p->gpr[GPR_RDX] = 0;
	if (insn->access == BT_ACCESS_NONE) {
		place_operand(p, insn->base, HOST_DATA_END);
		p->address = at; /* nothing is to be found there */
		run(p, &r);
		if (r.out != HOST_RAN)
			report(insn, "accesses memory", 0);
		place_operand(p, insn->base, at);
		return;
	}
	place_operand(p, insn->base, HOST_DATA_END - bytes);
	run(p, &r);
	if (r.out != HOST_RAN)
		report(insn, "accesses more bytes than", bytes);
	if (insn->access == BT_ACCESS_WRITE) {
		for (unsigned i = 0; i < DATA_BYTES; i++)
			p->data[i] ^= 0x5a;
		run(p, &again);
		if (memcmp(r.data + DATA_BYTES - bytes, again.data + DATA_BYTES - bytes, bytes))
			report(insn, "only writes, but keeps old contents", bytes);
	}
	place_operand(p, insn->base, HOST_DATA_END - bytes + (insn->flags & BT_I_ALIGNED ? bytes : 1));
	run(p, &r);
	/* clflush and its kin name a line of 64 bytes, not a byte. */
	if (r.out == HOST_RAN)
		report(insn, "accesses fewer bytes than", bytes);
	place_operand(p, insn->base, HOST_DATA_END - bytes - 65);
	run(p, &r);
	if ((r.out == HOST_RAN) == !!(insn->flags & BT_I_ALIGNED) && strncmp(insn->name, "sha", 3)) /* AMD: unaligned is fine */
		report(insn, "alignment: outcome", r.out);
	place_operand(p, insn->base, HOST_CONST + (at - HOST_DATA));
	p->address = at;
	run(p, &r);
	if ((r.out == HOST_RAN) == !!(insn->access & BT_ACCESS_WRITE))
		report(insn, "write access: outcome", r.out);
	place_operand(p, insn->base, at);
}

/* ---- which instructions --------------------------------------------------------------------------------- */

/* Why this instruction is not asked, or NULL. */
static const char *excluded(const struct bt_insn *insn)
{
	switch (insn->cls) {
	case BT_CLASS_NATIVE: case BT_CLASS_LEA: case BT_CLASS_NOP: case BT_CLASS_PUSH: case BT_CLASS_POP: case BT_CLASS_LEAVE:
	case BT_CLASS_STRING: case BT_CLASS_XLAT: case BT_CLASS_MASKMOV: case BT_CLASS_GATHER: break;
	default: return "control flow and system instructions do not run as themselves";
	}
	if (!strcmp(insn->name, "rdrand") || !strcmp(insn->name, "rdseed"))
		return "a different answer each time";
	if (insn->flags & BT_I_LOCK)
		return "LOCK changes nothing that is looked at here";
	if (insn->gpr_written & ~insn->gpr_read & 1u << GPR_RSP)
		return "rsp as a plain destination tells no more than another register";
	if ((insn->flags & BT_I_BITOFF) && insn->modrm_reg == insn->base)
		return "the bit offset would be the address";
	if (insn->handler == BT_OP_push_sreg)
		return "selectors are the tracer's";
	return NULL;
}

static void set_state(struct probe *p, unsigned trial)
{
	const struct bt_insn *insn = p->insn;
	bool pointers = insn->cls != BT_CLASS_NATIVE && insn->cls != BT_CLASS_LEA && insn->cls != BT_CLASS_NOP;

	for (unsigned i = 0; i < 16; i++)
		p->gpr[i] = trial == 0 ? random64() & 7 : random64();
	p->flags = random64() & BT_FLAGS_ARITH;
	for (unsigned i = 0; i < DATA_BYTES; i++)
		p->data[i] = random64();
	p->address = HOST_DATA + 0x1000 + 0x100;
	if (!strcmp(insn->name, "ldmxcsr"))
		memcpy(p->data + 64, (uint8_t[]){ 0x80, 0x1f, 0, 0 }, 4);
	if (pointers) {
		p->gpr[GPR_RSP] = p->gpr[GPR_RBP] = p->gpr[GPR_RSI] = HOST_DATA + 0x1000 + 0x100;
		p->gpr[GPR_RDI] = p->gpr[GPR_RBX] = HOST_DATA + 0x1000 + 0x140;
		p->gpr[GPR_RCX] = trial;
	}
	if (insn->flags & BT_I_BITOFF)
		p->gpr[insn->modrm_reg] &= insn->opsize * 8 - 1;
	if (insn->flags & BT_I_MEM)
		place_operand(p, insn->base, p->address);
}

static void check_insn(const struct bt_insn *insn)
{
	for (unsigned trial = 0; trial < 3; trial++) {
		struct probe p = { .insn = insn };
		struct run r;

		set_state(&p, trial);
		run(&p, &r);
		if (r.out == HOST_UD)
			return; /* a feature this host lacks; test_bt_decode_host knows which are allowed to */
		if (r.out != HOST_RAN)
			continue; /* a division fault, say */
		tried++;
		check_written(&p, &r);
		check_unread_registers(&p, &r);
		check_flags(&p, &r);
		if (trial == 2 && (insn->flags & BT_I_MEM) && insn->base != 0xff)
			check_memory(&p);
	}
}

/* ModRM.rm forms: a register, and [rbx + disp8] (or with rbx's number under REX.B). */
static void check_forms(const uint8_t *code, unsigned modrm_at, const struct bt_row *row)
{
	static const uint8_t forms[] = { 0xc2, 0xc7, 0x43 };
	static unsigned counter;
	uint8_t bytes[32] = { 0 };
	struct bt_insn insn;

	memcpy(bytes, code, modrm_at);
	memset(bytes + modrm_at + 1, 0x11, 12);
	for (unsigned f = 0; f < ARRAY_SIZE(forms); f++)
		for (unsigned reg = 0; reg < 8; reg++) {
			bytes[modrm_at] = forms[f] | reg << 3;
			if (row->match_mask & 7u << BT_SEL_RM_SHIFT && f < 2)
				bytes[modrm_at] = 0xc0 | reg << 3 | (row->match_value >> BT_SEL_RM_SHIFT & 7);
			if (bt_decode(bytes, 15, BT_BITS_64, &insn) != BT_DECODE_OK || insn.name != row->name ||
			    excluded(&insn) || counter++ % sweep_step())
				continue;
			check_insn(&insn);
			if (!(row->form & BT_F_MODRM))
				return;
		}
}

static void check_row(const struct bt_row *row, unsigned opcode)
{
	static const uint8_t pps[4] = { 0, 0x66, 0xf3, 0xf2 }, escapes[4] = { 0, 0, 0x38, 0x3a };
	static const uint8_t extra[][2] = { { 0, 0 }, { 0x66, 0 }, { 0, 0x48 }, { 0, 0x45 }, { 0, 0x40 }, { 0x66, 0x4d } };
	unsigned pp = row->match_value >> BT_SEL_PP_SHIFT & 3;
	bool vex_too = row->map && (!(row->match_mask & BT_SEL_VEX) || (row->match_value & BT_SEL_VEX));

	for (unsigned e = 0; e < ARRAY_SIZE(extra); e++) {
		uint8_t code[16];
		unsigned n = 0;

		if (extra[e][0] && pp != 1)
			code[n++] = extra[e][0];
		if (pp)
			code[n++] = pps[pp];
		if (extra[e][1])
			code[n++] = extra[e][1];
		if (row->map)
			code[n++] = 0x0f;
		if (row->map > 1)
			code[n++] = escapes[row->map];
		code[n++] = opcode;
		check_forms(code, n, row);
	}
	for (unsigned wl = 0; vex_too && wl < 4; wl++) {
		bool vvvv = row->form & (BT_F_VVVV | BT_F_VVVV_R | BT_F_VVVV_W);
		uint8_t code[] = { 0xc4, 0xe0 | row->map, (wl & 1) << 7 | (vvvv ? 0x30 : 0x78) | (wl >> 1) << 2 | pp, opcode };

		check_forms(code, sizeof(code), row);
	}
}

static void test_effects(void **state)
{
	if (host_missing) {
		print_message("# %s\n", host_missing);
		skip();
	}
	print_message("# seed %#llx\n", (unsigned long long)seed);
	for (unsigned i = 0; i < bt_row_count; i++)
		for (unsigned op = bt_rows[i].first; op <= bt_rows[i].last; op++)
			check_row(&bt_rows[i], op);
	print_message("# %u runs, %u wrong\n", tried, wrong);
	assert_int_not_equal(tried, 0);
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_effects) };

	return cmocka_run_group_tests(tests, setup, teardown);
}
