/* Exceptions, interrupts and returns between privileges and modes; segment loads; fast system calls. */
#include "tests/unit/bt_system_env.h"

#include <string.h>

static struct env env;

static int setup(void **state)
{
	const char *why = env_start(&env);

	if (why)
		print_error("%s\n", why);
	return why ? -1 : 0;
}

static int teardown(void **state)
{
	env_stop(&env);
	return 0;
}

static uint64_t handler(unsigned vector) { return ENV_HANDLERS + vector * 16; }

#define CS(e) ((e).v->cs.seg[SEG_CS])
#define SS(e) ((e).v->cs.seg[SEG_SS])
#define RSP(e) ((e).v->cs.gpr[GPR_RSP])

/* ---- long mode ------------------------------------------------------------------------- */

static void test_long_exception_from_user_and_back(void **state)
{
	struct cpu_state *cs = &env.v->cs;

	env_long_mode(&env, 3);
	RSP(env) = 0x7ff8;
	bt_set_rflags(env.v, 2 | BT_CF | BT_OF | RFLAGS_IF | RFLAGS_TF);
	bt_mode_changed(env.v);
	assert_true(bt_deliver(env.v, VEC_GP, true, 0x1234, false, 0x400123));
	assert_int_equal(cs->rip, handler(VEC_GP));
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(CS(env).selector, SEL_KCODE64);
	assert_int_equal(SS(env).selector, 0);
	assert_int_equal(RSP(env), ENV_RSP0 - 48);
	assert_int_equal(get64(&env, RSP(env)), 0x1234);
	assert_int_equal(get64(&env, RSP(env) + 8), 0x400123);
	assert_int_equal(get64(&env, RSP(env) + 16), SEL_UCODE64);
	assert_int_equal(get64(&env, RSP(env) + 24), 2 | BT_CF | BT_OF | RFLAGS_IF | RFLAGS_TF | RFLAGS_RF);
	assert_int_equal(get64(&env, RSP(env) + 32), 0x7ff8);
	assert_int_equal(get64(&env, RSP(env) + 40), SEL_UDATA);
	assert_int_equal(bt_rflags(env.v) & (RFLAGS_IF | RFLAGS_TF), 0);

	RSP(env) += 8;
	cs->seg[SEG_FS].selector = 0; /* a null FS with a base from an MSR survives */
	cs->seg[SEG_FS].base = 0x7fff12345000;
	cs->seg[SEG_DS] = cs->seg[SEG_SS];
	cs->seg[SEG_DS].selector = SEL_KDATA;
	cs->seg[SEG_DS].access = 0xc093; /* privilege 0: user code must not keep it */
	cs->nmi_blocked = 1;
	assert_int_equal(ENV_OP(&env, 0x48, 0xcf), RESUMED);
	assert_int_equal(cs->rip, 0x400123);
	assert_int_equal(env.v->cpl, 3);
	assert_int_equal(CS(env).selector, SEL_UCODE64);
	assert_int_equal(SS(env).selector, SEL_UDATA);
	assert_int_equal(RSP(env), 0x7ff8);
	assert_int_equal(bt_rflags(env.v), 2 | BT_CF | BT_OF | RFLAGS_IF | RFLAGS_TF);
	assert_int_equal(cs->seg[SEG_FS].base, 0x7fff12345000);
	assert_int_equal(cs->seg[SEG_DS].selector, 0);
	assert_int_equal(cs->nmi_blocked, 0);
}

static void test_long_same_privilege_aligns_the_stack(void **state)
{
	env_long_mode(&env, 0);
	RSP(env) = ENV_STACK - 3;
	assert_true(bt_deliver(env.v, 0x30, false, 0, false, 0x1000));
	assert_int_equal(RSP(env), ENV_STACK - 16 - 40);
	assert_int_equal(get64(&env, RSP(env) + 24), ENV_STACK - 3);
	assert_int_equal(get64(&env, RSP(env) + 16) & RFLAGS_RF, 0); /* an interrupt, no fault */
	assert_int_equal(get64(&env, RSP(env) + 32), SEL_KDATA);
	assert_int_equal(SS(env).selector, SEL_KDATA);
}

static void test_long_ist_and_nmi(void **state)
{
	env_long_mode(&env, 0);
	env.ram[ENV_IDT + VEC_NMI * 16 + 4] = 1;
	assert_true(bt_deliver(env.v, VEC_NMI, false, 0, false, 0x1000));
	assert_int_equal(RSP(env), ENV_IST1 - 40);
	assert_int_equal(env.v->cs.nmi_blocked, 1);
}

static void test_long_trap_gate_keeps_if(void **state)
{
	env_long_mode(&env, 0);
	bt_set_rflags(env.v, 2 | RFLAGS_IF);
	env.ram[ENV_IDT + 0x40 * 16 + 5] = 0x8f;
	assert_true(bt_deliver(env.v, 0x40, false, 0, false, 0x1000));
	assert_true(bt_rflags(env.v) & RFLAGS_IF);
	assert_true(bt_deliver(env.v, 0x41, false, 0, false, 0x1000));
	assert_false(bt_rflags(env.v) & RFLAGS_IF);
}

static void test_software_interrupt_needs_the_gates_privilege(void **state)
{
	env_long_mode(&env, 3);
	assert_raised(&env, ENV_OP(&env, 0xcd, 0x80), VEC_GP, 0x80 * 8 + 2);
	assert_int_equal(env.v->cs.rip, ENV_CODE);
	assert_int_equal(env.v->cpl, 3);
	env.ram[ENV_IDT + 0x80 * 16 + 5] = 0xee;
	assert_int_equal(ENV_OP(&env, 0xcd, 0x80), RESUMED);
	assert_int_equal(env.v->cs.rip, handler(0x80));
	assert_int_equal(get64(&env, RSP(env)), ENV_CODE + 2);
	/* icebp asks no gate. */
	env_long_mode(&env, 3);
	assert_int_equal(ENV_OP(&env, 0xf1), RESUMED);
	assert_int_equal(env.v->cs.rip, handler(VEC_DB));
}

static void test_double_and_triple_fault(void **state)
{
	env_long_mode(&env, 0);
	env.ram[ENV_IDT + VEC_GP * 16 + 5] = 0x0e; /* #GP's gate not present: #NP, both contributory */
	assert_true(bt_deliver(env.v, VEC_GP, true, 0, false, 0x1000));
	assert_int_equal(env.v->cs.rip, handler(VEC_DF));
	assert_int_equal(get64(&env, RSP(env)), 0);

	env_long_mode(&env, 0);
	env.ram[ENV_IDT + VEC_UD * 16 + 5] = 0x0e; /* #UD is benign: #NP is delivered by itself */
	assert_true(bt_deliver(env.v, VEC_UD, false, 0, false, 0x1000));
	assert_int_equal(env.v->cs.rip, handler(VEC_NP));
	assert_int_equal(get64(&env, RSP(env)), VEC_UD * 8 + 3);

	env_long_mode(&env, 0);
	RSP(env) = 0x40001000; /* not mapped: a page fault in a page fault */
	env.ram[ENV_IDT + VEC_DF * 16 + 4] = 1;
	assert_true(bt_deliver(env.v, VEC_PF, true, 2, false, 0x1000));
	assert_int_equal(env.v->cs.rip, handler(VEC_DF));
	assert_int_equal(env.v->cs.cr2, 0x40001000 - 8);
	assert_int_equal(RSP(env), ENV_IST1 - 48);

	env_long_mode(&env, 0);
	env.v->cs.idtr.limit = 0;
	assert_false(bt_deliver(env.v, VEC_GP, true, 0, false, 0x1000));
}

static void test_iretq_checks(void **state)
{
	gva_t frame = ENV_STACK - 40;

	env_long_mode(&env, 0);
	RSP(env) = frame;
	put64(&env, frame, 0x1000);
	put64(&env, frame + 8, 0);
	assert_raised(&env, ENV_OP(&env, 0x48, 0xcf), VEC_GP, 0);
	put64(&env, frame + 8, SEL_KDATA);
	assert_raised(&env, ENV_OP(&env, 0x48, 0xcf), VEC_GP, SEL_KDATA);
	put64(&env, frame + 8, SEL_UCODE64);
	put64(&env, frame + 32, 0); /* privilege 3 needs a stack segment */
	assert_raised(&env, ENV_OP(&env, 0x48, 0xcf), VEC_GP, 0);
	put64(&env, frame + 32, SEL_UDATA);
	put64(&env, frame, 0x800000000000); /* not canonical */
	assert_raised(&env, ENV_OP(&env, 0x48, 0xcf), VEC_GP, 0);
	assert_int_equal(RSP(env), frame);
	assert_int_equal(env.v->cpl, 0);
	/* To compatibility mode. */
	put64(&env, frame, 0x1000);
	put64(&env, frame + 8, SEL_UCODE32);
	put64(&env, frame + 16, 0x202);
	put64(&env, frame + 24, 0x8000);
	assert_int_equal(ENV_OP(&env, 0x48, 0xcf), RESUMED);
	assert_false(bt_code64(env.v));
	assert_int_equal(RSP(env), 0x8000);
	assert_true(env.ram[ENV_GDT + (SEL_UDATA & ~7) + 5] & 1); /* accessed now */
}

static void test_syscall_and_sysret(void **state)
{
	struct cpu_state *cs = &env.v->cs;

	env_long_mode(&env, 3);
	cs->star = (uint64_t)(SEL_UDATA - 8) << 48 | (uint64_t)SEL_KCODE64 << 32;
	cs->lstar = 0xffffffff81000000;
	cs->sfmask = RFLAGS_IF | RFLAGS_TF | RFLAGS_DF;
	bt_set_rflags(env.v, 0x202 | BT_ZF | RFLAGS_DF);
	assert_int_equal(ENV_OP(&env, 0x0f, 0x05), RESUMED);
	assert_int_equal(cs->rip, 0xffffffff81000000);
	assert_int_equal(cs->gpr[GPR_RCX], ENV_CODE + 2);
	assert_int_equal(cs->gpr[GPR_R11], 0x202 | BT_ZF | RFLAGS_DF);
	assert_int_equal(bt_rflags(env.v), 2 | BT_ZF);
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(CS(env).selector, SEL_KCODE64);
	assert_int_equal(SS(env).selector, SEL_KDATA);
	assert_int_equal(ENV_OP(&env, 0x48, 0x0f, 0x07), RESUMED);
	assert_int_equal(cs->rip, ENV_CODE + 2);
	assert_int_equal(bt_rflags(env.v), 0x202 | BT_ZF | RFLAGS_DF);
	assert_int_equal(env.v->cpl, 3);
	assert_int_equal(CS(env).selector, SEL_UCODE64);
	assert_int_equal(SS(env).selector, SEL_UDATA);
	/* sysret at privilege 3, and syscall while it is off. */
	assert_raised(&env, ENV_OP(&env, 0x48, 0x0f, 0x07), VEC_GP, 0);
	cs->efer &= ~(uint64_t)EFER_SCE;
	assert_int_equal(ENV_OP(&env, 0x0f, 0x05), RAISED);
	assert_int_equal(cs->exception_vector, VEC_UD);
	cs->exception_pending = 0;
}

/* ---- segments ------------------------------------------------------------------------------ */

static enum outcome mov_ds(unsigned selector)
{
	env.v->cs.gpr[GPR_RAX] = selector;
	return ENV_OP(&env, 0x8e, 0xd8);
}

static void test_data_segment_loads(void **state)
{
	env_protected(&env, 3);
	assert_int_not_equal(mov_ds(SEL_UDATA), RAISED);
	assert_int_equal(env.v->cs.seg[SEG_DS].limit, 0xffffffff);
	assert_true(env.ram[ENV_GDT + (SEL_UDATA & ~7) + 5] & 1);
	assert_raised(&env, mov_ds(SEL_KDATA), VEC_GP, SEL_KDATA);
	assert_raised(&env, mov_ds(0x200), VEC_GP, 0x200);
	assert_raised(&env, mov_ds(0x24 | 3), VEC_GP, 0x24); /* no LDT */
	assert_raised(&env, mov_ds(SEL_TSS), VEC_GP, SEL_TSS);
	assert_int_not_equal(mov_ds(3), RAISED);
	assert_int_equal(env.v->cs.seg[SEG_DS].access & SEG_ACCESS_P, 0);
	assert_int_equal(env.v->cs.seg[SEG_DS].selector, 3);
	env_protected(&env, 0);
	assert_raised(&env, mov_ds(SEL_NOT_PRESENT), VEC_NP, SEL_NOT_PRESENT);
	assert_int_not_equal(mov_ds(SEL_DATA_RO), RAISED);
}

static void test_stack_segment_loads(void **state)
{
	env_protected(&env, 0);
	env.v->cs.gpr[GPR_RAX] = SEL_DATA_RO;
	assert_raised(&env, ENV_OP(&env, 0x8e, 0xd0), VEC_GP, SEL_DATA_RO);
	env.v->cs.gpr[GPR_RAX] = 0;
	assert_raised(&env, ENV_OP(&env, 0x8e, 0xd0), VEC_GP, 0);
	env.v->cs.gpr[GPR_RAX] = SEL_NOT_PRESENT;
	assert_raised(&env, ENV_OP(&env, 0x8e, 0xd0), VEC_SS, SEL_NOT_PRESENT);
	env.v->cs.gpr[GPR_RAX] = SEL_KDATA16;
	assert_int_equal(ENV_OP(&env, 0x8e, 0xd0), RESUMED);
	/* The shadow is noted, or already used up because nothing waited. */
	assert_int_equal(SS(env).limit, 0xffff);
	assert_int_equal(env.v->cs.rip, ENV_CODE + 2);
}

static void test_segment_limits(void **state)
{
	struct cpu_segment up = {.limit = 0xfff, .access = 0x93}, down = {.limit = 0xfff, .access = 0x4097};

	assert_true(bt_seg_contains(&up, 0xffc, 4));
	assert_false(bt_seg_contains(&up, 0xffd, 4));
	assert_false(bt_seg_contains(&up, 0xffffffff, 2));
	assert_false(bt_seg_contains(&down, 0xfff, 1));
	assert_true(bt_seg_contains(&down, 0x1000, 4));
	assert_true(bt_seg_contains(&down, 0xfffffffc, 4));
	assert_false(bt_seg_contains(&down, 0xfffffffd, 4));
	down.access = 0x97;
	assert_false(bt_seg_contains(&down, 0xfffe, 4));
	assert_true(bt_seg_contains(&down, 0xfffc, 4));
}

static void test_lar_lsl_verr_verw(void **state)
{
	struct cpu_state *cs = &env.v->cs;

	env_long_mode(&env, 0);
	cs->gpr[GPR_RCX] = SEL_KCODE64;
	ENV_OP(&env, 0x0f, 0x02, 0xc1); /* lar eax, cx */
	assert_int_equal(cs->gpr[GPR_RAX] & 0x00f0ff00, 0x00a09b00);
	assert_true(bt_rflags(env.v) & BT_ZF);
	ENV_OP(&env, 0x0f, 0x03, 0xc1); /* lsl eax, cx */
	assert_int_equal(cs->gpr[GPR_RAX], 0xffffffff);
	cs->gpr[GPR_RCX] = SEL_DATA_RO;
	ENV_OP(&env, 0x0f, 0x00, 0xe1); /* verr cx */
	assert_true(bt_rflags(env.v) & BT_ZF);
	ENV_OP(&env, 0x0f, 0x00, 0xe9); /* verw cx */
	assert_false(bt_rflags(env.v) & BT_ZF);
	cs->gpr[GPR_RCX] = 0xfff8;
	ENV_OP(&env, 0x0f, 0x02, 0xc1);
	assert_false(bt_rflags(env.v) & BT_ZF);
}

/* ---- 32-bit protected mode ------------------------------------------------------------------ */

static void test_protected_exception_and_iret(void **state)
{
	env_protected(&env, 3);
	RSP(env) = 0x9000;
	bt_set_rflags(env.v, 0x202);
	assert_true(bt_deliver(env.v, VEC_PF, true, 6, false, 0x5678));
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(RSP(env), ENV_RSP0 - 24);
	assert_int_equal(SS(env).selector, SEL_KDATA);
	assert_int_equal(get32(&env, RSP(env)), 6);
	assert_int_equal(get32(&env, RSP(env) + 4), 0x5678);
	assert_int_equal(get32(&env, RSP(env) + 8), SEL_UCODE32);
	assert_int_equal(get32(&env, RSP(env) + 16), 0x9000);
	assert_int_equal(get32(&env, RSP(env) + 20), SEL_UDATA);
	RSP(env) += 4;
	assert_int_equal(ENV_OP(&env, 0xcf), RESUMED);
	assert_int_equal(env.v->cs.rip, 0x5678);
	assert_int_equal(env.v->cpl, 3);
	assert_int_equal(RSP(env), 0x9000);
	assert_int_equal(bt_rflags(env.v), 0x202);
}

static void test_protected_iret_to_vm86_and_back(void **state)
{
	static const uint32_t frame[] = {0x10, 0x2000, 0x23202 | 0, 0xfffe, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000};
	unsigned i;

	env_protected(&env, 0);
	RSP(env) = ENV_STACK - sizeof(frame);
	for (i = 0; i < ARRAY_SIZE(frame); i++)
		put32(&env, RSP(env) + i * 4, frame[i]);
	assert_int_equal(ENV_OP(&env, 0xcf), RESUMED);
	assert_true(bt_vm86(env.v));
	assert_int_equal(env.v->cpl, 3);
	assert_int_equal(env.v->cs.rip, 0x10);
	assert_int_equal(CS(env).base, 0x20000);
	assert_int_equal(SS(env).base, 0x30000);
	assert_int_equal(env.v->cs.seg[SEG_GS].base, 0x70000);
	assert_true(bt_deliver(env.v, 0x21, false, 0, false, 0x12));
	assert_false(bt_vm86(env.v));
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(RSP(env), ENV_RSP0 - 36);
	assert_int_equal(get32(&env, RSP(env)), 0x12);
	assert_int_equal(get32(&env, RSP(env) + 4), 0x2000);
	assert_true(get32(&env, RSP(env) + 8) & RFLAGS_VM);
	assert_int_equal(get32(&env, RSP(env) + 16), 0x3000);
	assert_int_equal(get32(&env, RSP(env) + 20), 0x4000);
	assert_int_equal(get32(&env, RSP(env) + 32), 0x7000);
	assert_int_equal(env.v->cs.seg[SEG_DS].selector, 0);
}

static void test_protected_call_gate_and_retf(void **state)
{
	env_protected(&env, 3);
	put64(&env, ENV_GDT + SEL_CALL_GATE, (ENV_HANDLERS & 0xffff) | SEL_KCODE32 << 16 | 0xec02ull << 32 |
						     (uint64_t)(ENV_HANDLERS & 0xffff0000) << 32);
	RSP(env) = ENV_STACK - 8;
	put32(&env, ENV_STACK - 8, 0x1111);
	put32(&env, ENV_STACK - 4, 0x2222);
	assert_int_equal(ENV_OP(&env, 0x9a, 0, 0, 0, 0, SEL_CALL_GATE | 3, 0), RESUMED);
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(env.v->cs.rip, ENV_HANDLERS);
	assert_int_equal(RSP(env), ENV_RSP0 - 24);
	assert_int_equal(get32(&env, RSP(env)), ENV_CODE + 7);
	assert_int_equal(get32(&env, RSP(env) + 4), SEL_UCODE32);
	assert_int_equal(get32(&env, RSP(env) + 8), 0x1111);
	assert_int_equal(get32(&env, RSP(env) + 12), 0x2222);
	assert_int_equal(get32(&env, RSP(env) + 16), ENV_STACK - 8);
	assert_int_equal(ENV_OP(&env, 0xca, 8, 0), RESUMED); /* retf 8 releases the parameters on both stacks */
	assert_int_equal(env.v->cpl, 3);
	assert_int_equal(env.v->cs.rip, ENV_CODE + 7);
	assert_int_equal(RSP(env), ENV_STACK);
	assert_int_equal(SS(env).selector, SEL_UDATA);
}

#define TASK 0x205000u /* a second TSS, in env.ram */
#define SEL_TASK 0x78u

static void second_task(uint16_t ss)
{
	memset(env.ram + TASK, 0, 0x68);
	put64(&env, ENV_GDT + SEL_TASK, 0x67 | (uint64_t)(TASK & 0xffffff) << 16 | 0x89ull << 40);
	put32(&env, TASK + 0x20, 0x204800);		/* eip */
	put32(&env, TASK + 0x24, 0x2);
	put32(&env, TASK + 0x28, 0x1111);		/* eax */
	put32(&env, TASK + 0x28 + 16, ENV_IST1);	/* esp */
	put32(&env, TASK + 0x48, SEL_KDATA);
	put32(&env, TASK + 0x4c, SEL_KCODE32);
	put32(&env, TASK + 0x50, ss);
	put32(&env, TASK + 0x54, SEL_KDATA);
}

static unsigned tss_type(uint16_t selector) { return env.ram[ENV_GDT + (selector & ~7) + 5] & 15; }

static void test_task_gate_and_return(void **state)
{
	env_protected(&env, 3);
	second_task(SEL_KDATA);
	put64(&env, ENV_IDT + VEC_DF * 8, (uint64_t)SEL_TASK << 16 | 0x8500ull << 32);
	RSP(env) = 0x9000;
	env.v->cs.gpr[GPR_RAX] = 0x2222;
	bt_set_rflags(env.v, 0x202 | BT_ZF);
	assert_true(bt_deliver(env.v, VEC_DF, true, 0, false, 0x5678));
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(env.v->cs.rip, 0x204800);
	assert_int_equal(env.v->cs.gpr[GPR_RAX], 0x1111);
	assert_int_equal(RSP(env), ENV_IST1 - 4); /* the error code */
	assert_int_equal(env.v->cs.tr.selector, SEL_TASK);
	assert_true(bt_rflags(env.v) & RFLAGS_NT);
	assert_true(env.v->cs.cr0 & CR0_TS);
	assert_int_equal(get16(&env, TASK), SEL_TSS); /* the link */
	assert_int_equal(tss_type(SEL_TASK), 11);
	assert_int_equal(tss_type(SEL_TSS), 11);
	assert_int_equal(get32(&env, ENV_TSS + 0x20), 0x5678);
	assert_int_equal(get32(&env, ENV_TSS + 0x28), 0x2222);
	assert_int_equal(get32(&env, ENV_TSS + 0x24), 0x202 | BT_ZF);
	RSP(env) += 4;
	assert_int_equal(ENV_OP(&env, 0xcf), RESUMED);
	assert_int_equal(env.v->cpl, 3);
	assert_int_equal(env.v->cs.rip, 0x5678);
	assert_int_equal(env.v->cs.gpr[GPR_RAX], 0x2222);
	assert_int_equal(RSP(env), 0x9000);
	assert_int_equal(bt_rflags(env.v), 0x202 | BT_ZF);
	assert_int_equal(env.v->cs.tr.selector, SEL_TSS);
	assert_int_equal(tss_type(SEL_TASK), 9);
	assert_int_equal(get32(&env, TASK + 0x24) & RFLAGS_NT, 0); /* saved without NT */
}

static void test_task_jump_and_its_faults(void **state)
{
	static const uint8_t jump[] = {0xea, 0, 0, 0, 0, SEL_TASK, 0};

	env_protected(&env, 0);
	second_task(SEL_KDATA);
	assert_int_equal(env_op(&env, jump, sizeof(jump)), RESUMED);
	assert_int_equal(env.v->cs.rip, 0x204800);
	assert_false(bt_rflags(env.v) & RFLAGS_NT);
	assert_int_equal(get32(&env, ENV_TSS + 0x20), ENV_CODE + 7);
	assert_int_equal(tss_type(SEL_TSS), 9);
	/* A busy task cannot be jumped to: the present one, for one. */
	assert_raised(&env, env_op(&env, jump, sizeof(jump)), VEC_GP, SEL_TASK);
	/* A bad stack is the new task's fault. */
	env_protected(&env, 0);
	second_task(SEL_DATA_RO);
	assert_raised(&env, env_op(&env, jump, sizeof(jump)), VEC_TS, SEL_DATA_RO);
	assert_int_equal(env.v->cs.rip, 0x204800);
	assert_int_equal(env.v->cs.tr.selector, SEL_TASK);
}

/* ---- real mode ----------------------------------------------------------------------------------- */

static void test_real_mode_interrupt(void **state)
{
	env_real(&env);
	bt_set_rflags(env.v, 0x202 | BT_CF);
	assert_int_equal(ENV_OP(&env, 0xcd, 0x10), RESUMED);
	assert_int_equal(env.v->cs.rip, 0x40);
	assert_int_equal(CS(env).selector, 0x1234);
	assert_int_equal(CS(env).base, 0x12340);
	assert_int_equal(RSP(env), 0xfff0 - 6);
	assert_int_equal(get16(&env, SS(env).base + RSP(env)), 0x102);
	assert_int_equal(get16(&env, SS(env).base + RSP(env) + 4), 0x202 | BT_CF);
	assert_false(bt_rflags(env.v) & RFLAGS_IF);
	assert_int_equal(ENV_OP(&env, 0xcf), RESUMED);
	assert_int_equal(env.v->cs.rip, 0x102);
	assert_int_equal(bt_rflags(env.v), 0x202 | BT_CF);
	assert_int_equal(RSP(env), 0xfff0);
}

static void test_mode_switches(void **state)
{
	struct cpu_state *cs = &env.v->cs;

	env_real(&env);
	CS(env).limit = SS(env).limit = 0xffff;
	CS(env).selector = 0x0fff; /* whatever paragraph a DOS program sits at: privilege stays 0 */
	cs->gpr[GPR_RAX] = cs->cr0 | CR0_PE;
	assert_int_equal(ENV_OP(&env, 0x0f, 0x22, 0xc0), RESUMED); /* mov cr0, eax */
	assert_true(bt_protected(env.v));
	assert_int_equal(env.v->cpl, 0);
	assert_int_equal(ENV_OP(&env, 0x66, 0xea, 0x00, 0x30, 0x20, 0x00, SEL_KCODE32, 0), RESUMED);
	assert_int_equal(cs->rip, ENV_CODE);
	assert_int_equal(CS(env).limit, 0xffffffff);
	/* A data segment loaded now keeps its limit through the return to real mode. */
	cs->gpr[GPR_RAX] = SEL_KDATA;
	assert_int_not_equal(ENV_OP(&env, 0x8e, 0xd8), RAISED);
	cs->gpr[GPR_RAX] = cs->cr0 & ~(uint64_t)CR0_PE;
	assert_int_equal(ENV_OP(&env, 0x0f, 0x22, 0xc0), RESUMED);
	cs->gpr[GPR_RAX] = 0x40;
	assert_int_not_equal(ENV_OP(&env, 0x8e, 0xd8), RAISED);
	assert_int_equal(cs->seg[SEG_DS].base, 0x400);
	assert_int_equal(cs->seg[SEG_DS].limit, 0xffffffff);
	/* Long mode: LME and PAE first, then PG sets LMA. */
	env_long_mode(&env, 0);
	cs->cr0 &= ~(uint64_t)CR0_PG;
	cs->efer &= ~(uint64_t)(EFER_LMA | EFER_LME);
	CS(env).access = 0xc09b;
	bt_mode_changed(env.v);
	cs->gpr[GPR_RCX] = 0xc0000080;
	cs->gpr[GPR_RAX] = EFER_LME | EFER_NXE;
	cs->gpr[GPR_RDX] = 0;
	assert_int_not_equal(ENV_OP(&env, 0x0f, 0x30), RAISED);
	assert_false(bt_long_mode(env.v));
	cs->gpr[GPR_RAX] = cs->cr0 | CR0_PG;
	assert_int_equal(ENV_OP(&env, 0x0f, 0x22, 0xc0), RESUMED);
	assert_true(bt_long_mode(env.v));
	assert_false(bt_code64(env.v));
	cs->gpr[GPR_RAX] = EFER_NXE; /* LME cannot change under paging */
	assert_raised(&env, ENV_OP(&env, 0x0f, 0x30), VEC_GP, 0);
	cs->gpr[GPR_RAX] = 1ull << 25; /* no such CR4 bit in the model */
	assert_raised(&env, ENV_OP(&env, 0x0f, 0x22, 0xe0), VEC_GP, 0);
}

static void test_io_bitmap(void **state)
{
	env_long_mode(&env, 3);
	assert_raised(&env, ENV_OP(&env, 0xe4, 0x80), VEC_GP, 0); /* no bitmap: its base is beyond the limit */
	env.v->cs.tr.limit = 0x88;
	*(uint16_t *)(env.ram + ENV_TSS + 0x66) = 0x68;
	memset(env.ram + ENV_TSS + 0x68, 0xff, 0x21);
	env.ram[ENV_TSS + 0x68 + 0x10] = 0xfe;
	assert_int_equal(ENV_OP(&env, 0xe4, 0x80), RAN);
	assert_raised(&env, ENV_OP(&env, 0x66, 0xe5, 0x80), VEC_GP, 0); /* two ports, one allowed */
	env.v->cs.rflags |= RFLAGS_IOPL;
	assert_int_equal(ENV_OP(&env, 0x66, 0xe5, 0x80), RAN);
	assert_raised(&env, ENV_OP(&env, 0xf4), VEC_GP, 0); /* hlt is no matter of IOPL */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_long_exception_from_user_and_back),
		cmocka_unit_test(test_long_same_privilege_aligns_the_stack),
		cmocka_unit_test(test_long_ist_and_nmi),
		cmocka_unit_test(test_long_trap_gate_keeps_if),
		cmocka_unit_test(test_software_interrupt_needs_the_gates_privilege),
		cmocka_unit_test(test_double_and_triple_fault),
		cmocka_unit_test(test_iretq_checks),
		cmocka_unit_test(test_syscall_and_sysret),
		cmocka_unit_test(test_data_segment_loads),
		cmocka_unit_test(test_stack_segment_loads),
		cmocka_unit_test(test_segment_limits),
		cmocka_unit_test(test_lar_lsl_verr_verw),
		cmocka_unit_test(test_protected_exception_and_iret),
		cmocka_unit_test(test_protected_iret_to_vm86_and_back),
		cmocka_unit_test(test_protected_call_gate_and_retf),
		cmocka_unit_test(test_task_gate_and_return),
		cmocka_unit_test(test_task_jump_and_its_faults),
		cmocka_unit_test(test_real_mode_interrupt),
		cmocka_unit_test(test_mode_switches),
		cmocka_unit_test(test_io_bitmap),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
