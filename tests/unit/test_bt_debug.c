/* A debugger's points and steps in translated code: where the vCPU stops, with which registers, and that nothing else changes. */
#include "tests/unit/bt_system_env.h"

#include <errno.h>
#include <string.h>

#define CODE ENV_CODE
#define DATA ENV_DATA

static struct env env;

static struct mode_exit run(void)
{
	struct mode_exit e = {0};

	do
		assert_int_equal(bt_mode.vcpu_run(env.vcpu, &e), 0);
	while (e.reason == MODE_EXIT_INTERRUPTED);
	return e;
}

static uint64_t rip(void) { return env.v->cs.rip; }
static uint64_t gpr(unsigned n) { return env.v->cs.gpr[n]; }

static void points(const struct mode_debug_point *p, size_t n) { assert_int_equal(bt_mode.debug_points(env.vm, p, n), 0); }
static void point(gva_t gva, uint32_t bytes, uint32_t kind) { points(&(struct mode_debug_point){gva, bytes, kind}, 1); }

static void stops(uint64_t at, uint32_t kind, gva_t point_gva)
{
	struct mode_exit e = run();

	assert_int_equal(e.reason, MODE_EXIT_DEBUG);
	assert_int_equal(rip(), at);
	assert_int_equal(e.debug.point.kind, kind);
	if (kind)
		assert_int_equal(e.debug.point.gva, point_gva);
}

static void steps_to(uint64_t at)
{
	bt_mode.debug_step(env.vcpu, true);
	stops(at, 0, 0);
	bt_mode.debug_step(env.vcpu, false);
}

static void halts(void) { assert_int_equal(run().reason, MODE_EXIT_HALT); }

static void place(const uint8_t *code, size_t n)
{
	memcpy(env.ram + CODE, code, n);
	bt_mode.ram_written(env.vm, CODE, n);
	env.v->cs.rip = CODE;
	env.v->cs.activity = CPU_RUNNING;
}
#define PLACE(...) place((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static int fresh(void **state)
{
	points(NULL, 0);
	bt_mode.debug_step(env.vcpu, false);
	env_long_mode(&env, 0);
	for (unsigned i = 0; i < 256; i++)
		env.ram[ENV_HANDLERS + i * 16] = 0xf4; /* hlt */
	bt_mode.ram_written(env.vm, ENV_HANDLERS, 4096);
	memset(env.v->cs.gpr, 0, sizeof(env.v->cs.gpr));
	env.v->cs.gpr[GPR_RSP] = ENV_STACK;
	return 0;
}

/* A loop of ten rounds: inc eax; nop; dec ecx; jnz. */
#define LOOP 0xb9, 10, 0, 0, 0, 0xff, 0xc0, 0x90, 0xff, 0xc9, 0x75, 0xf9, 0xf4

static void test_exec_in_a_hot_block(void **state)
{
	PLACE(LOOP);
	halts();
	assert_int_equal(gpr(GPR_RAX), 10);

	env.v->cs.rip = CODE;
	env.v->cs.activity = CPU_RUNNING;
	env.v->cs.gpr[GPR_RAX] = 0;
	point(CODE + 7, 1, MODE_DEBUG_EXEC); /* the nop */
	for (unsigned round = 1; round <= 10; round++) {
		stops(CODE + 7, MODE_DEBUG_EXEC, CODE + 7);
		assert_int_equal(gpr(GPR_RAX), round);
		assert_int_equal(gpr(GPR_RCX), 11 - round);
		stops(CODE + 7, MODE_DEBUG_EXEC, CODE + 7); /* it is still there */
		steps_to(CODE + 8); /* which a step does not mind */
	}
	halts();
	assert_int_equal(gpr(GPR_RAX), 10);
	assert_memory_equal(env.ram + CODE, ((const uint8_t[]){LOOP}), 13); /* the guest's memory is as it was */
}

static void test_exec_does_not_disturb_neighbours(void **state)
{
	/* The same page, and bytes that only look like the start of an instruction. */
	point(CODE + 2, 1, MODE_DEBUG_EXEC);
	PLACE(LOOP);
	halts();
	assert_int_equal(gpr(GPR_RAX), 10);
	/* As the target of a jump, and of a return. */
	point(CODE + 5, 1, MODE_DEBUG_EXEC);
	PLACE(LOOP);
	for (unsigned i = 0; i < 10; i++) {
		stops(CODE + 5, MODE_DEBUG_EXEC, CODE + 5);
		steps_to(CODE + 7);
	}
	halts();
	point(CODE + 6, 1, MODE_DEBUG_EXEC);
	PLACE(0xe8, 2, 0, 0, 0, 0x90, 0xf4 /* hlt */, 0x48, 0xff, 0x04, 0x24, 0xc3); /* call; the callee returns one byte further */
	stops(CODE + 6, MODE_DEBUG_EXEC, CODE + 6);
	points(NULL, 0);
	halts();
}

static void test_flags_are_exact_at_points_and_steps(void **state)
{
	/* cmp eax, eax; cmp eax, ecx: the first one's flags are dead */
	PLACE(0x39, 0xc0, 0x39, 0xc8, 0xf4);
	env.v->cs.gpr[GPR_RCX] = 1;
	point(CODE + 2, 1, MODE_DEBUG_EXEC);
	stops(CODE + 2, MODE_DEBUG_EXEC, CODE + 2);
	assert_int_equal(bt_rflags(env.v) & BT_FLAGS_ARITH, 0x44);
	steps_to(CODE + 4);
	assert_int_equal(bt_rflags(env.v) & BT_FLAGS_ARITH, 0x95);
}

static void test_steps(void **state)
{
	/* mov ecx, 3; mov edi, DATA; rep stosb; int3 */
	PLACE(0xb9, 3, 0, 0, 0, 0xbf, 0, 0, DATA >> 16, 0, 0xf3, 0xaa, 0xcc);
	steps_to(CODE + 5);
	steps_to(CODE + 10);
	steps_to(CODE + 10); /* an iteration each */
	assert_int_equal(gpr(GPR_RCX), 2);
	steps_to(CODE + 10);
	steps_to(CODE + 12);
	assert_int_equal(gpr(GPR_RCX), 0);
	steps_to(ENV_HANDLERS + 3 * 16);
	assert_int_equal(get64(&env, gpr(GPR_RSP)), CODE + 13);
	steps_to(ENV_HANDLERS + 3 * 16 + 1); /* over the hlt: asleep now */
	assert_int_equal(env.v->cs.activity, CPU_HALTED);
	bt_mode.debug_step(env.vcpu, true);
	halts();
}

static void test_step_into_a_fault(void **state)
{
	PLACE(0x0f, 0x0b); /* ud2 */
	steps_to(ENV_HANDLERS + 6 * 16);
	assert_int_equal(get64(&env, gpr(GPR_RSP)), CODE);
	steps_to(ENV_HANDLERS + 6 * 16 + 1);
}

/* rax = DATA */
#define RAX_DATA 0x48, 0xc7, 0xc0, 0, 0, DATA >> 16, 0
static void hit(uint64_t at, gva_t p, gva_t touched)
{
	struct mode_exit e = run();

	assert_int_equal(e.reason, MODE_EXIT_DEBUG);
	assert_int_equal(rip(), at);
	assert_int_equal(e.debug.point.gva, p);
	assert_int_equal(e.debug.gva, touched);
}

static void test_data(void **state)
{
	/* mov [rax], ecx; mov edx, [rax]; mov [rax+8], ecx; mov [rax+4], ecx; hlt */
#define CODE_DATA RAX_DATA, 0x89, 0x08, 0x8b, 0x10, 0x89, 0x48, 8, 0x89, 0x48, 4, 0xf4
	PLACE(CODE_DATA);
	halts(); /* translated, and the TLB filled */
	PLACE(CODE_DATA);
	point(DATA, 4, MODE_DEBUG_WRITE);
	hit(CODE + 9, DATA, DATA);
	halts();
	PLACE(CODE_DATA);
	point(DATA, 4, MODE_DEBUG_READ);
	hit(CODE + 11, DATA, DATA);
	halts();
	PLACE(CODE_DATA);
	point(DATA + 3, 2, MODE_DEBUG_WRITE | MODE_DEBUG_READ);
	hit(CODE + 9, DATA + 3, DATA + 3);
	hit(CODE + 11, DATA + 3, DATA + 3);
	hit(CODE + 17, DATA + 3, DATA + 4);
	halts();
}

static void test_data_by_helpers(void **state)
{
	/* mov edi, DATA - 2; mov ecx, 6; rep stosb; hlt */
	PLACE(0xbf, 0xfe, 0xff, (DATA - 1) >> 16, 0, 0xb9, 6, 0, 0, 0, 0xf3, 0xaa, 0xf4);
	point(DATA, 2, MODE_DEBUG_WRITE);
	hit(CODE + 10, DATA, DATA);
	assert_int_equal(gpr(GPR_RCX), 3);
	hit(CODE + 10, DATA, DATA + 1);
	assert_int_equal(gpr(GPR_RCX), 2);
	halts();
	/* sidt [rax]; nop; hlt */
	PLACE(RAX_DATA, 0x0f, 0x01, 0x08, 0x90, 0xf4);
	hit(CODE + 10, DATA, DATA);
	halts();
	/* across pages: mov [rax - 3], rcx */
	PLACE(RAX_DATA, 0x48, 0x89, 0x48, 0xfd, 0x90, 0xf4);
	hit(CODE + 11, DATA, DATA);
	halts();
	/* push rax with rsp there */
	PLACE(RAX_DATA, 0x48, 0x8d, 0x60, 8, 0x50, 0x90, 0xf4);
	hit(CODE + 12, DATA, DATA);
	assert_int_equal(gpr(GPR_RSP), DATA);
	halts();
	/* an access that faults hits nothing */
	point(0x40000000, 2, MODE_DEBUG_WRITE);
	PLACE(0xb8, 0, 0, 0, 0x40, 0x89, 0x08, 0xf4);
	halts();
	assert_int_equal(rip(), ENV_HANDLERS + 14 * 16 + 1);
	assert_int_equal(env.v->cs.cr2, 0x40000000);
}

/* What the exception's frame overwrites is noticed, at the handler's first instruction. */
static void test_data_by_delivery(void **state)
{
	point(ENV_STACK - 40, 8, MODE_DEBUG_WRITE);
	PLACE(0x0f, 0x0b);
	hit(ENV_HANDLERS + 6 * 16, ENV_STACK - 40, ENV_STACK - 40);
	halts();
}

static void test_points_with_a_base(void **state)
{
	env_protected(&env, 0);
	env.v->cs.seg[SEG_CS].base = 0x1000;
	bt_mode_changed(env.v);
	PLACE(0x90, 0x40, 0xf4); /* nop; inc eax */
	env.v->cs.rip = CODE - 0x1000;
	point(CODE + 1, 1, MODE_DEBUG_EXEC);
	stops(CODE + 1 - 0x1000, MODE_DEBUG_EXEC, CODE + 1);
	steps_to(CODE + 2 - 0x1000);
	assert_int_equal(gpr(GPR_RAX), 1);
}

static void test_real_mode_steps(void **state)
{
	env_real(&env);
	memcpy(env.ram + ENV_DATA + 0x100, (const uint8_t[]){0xb8, 0x34, 0x12, 0x50, 0xf4}, 5); /* mov ax, 0x1234; push ax */
	bt_mode.ram_written(env.vm, ENV_DATA + 0x100, 5);
	env.v->cs.activity = CPU_RUNNING;
	point(ENV_DATA + 0x103, 1, MODE_DEBUG_EXEC);
	stops(0x103, MODE_DEBUG_EXEC, ENV_DATA + 0x103);
	assert_int_equal(gpr(GPR_RAX), 0x1234);
	steps_to(0x104);
	assert_int_equal(gpr(GPR_RSP) & 0xffff, 0xffee);
}

static void test_too_many(void **state)
{
	struct mode_debug_point p[MODE_DEBUG_POINTS_MAX + 1] = {{0}};

	assert_int_equal(bt_mode.debug_points(env.vm, p, ARRAY_SIZE(p)), -ENOSPC);
	for (unsigned i = 0; i < MODE_DEBUG_POINTS_MAX; i++)
		p[i] = (struct mode_debug_point){CODE + 7, 1, MODE_DEBUG_EXEC};
	points(p, MODE_DEBUG_POINTS_MAX);
	PLACE(LOOP);
	stops(CODE + 7, MODE_DEBUG_EXEC, CODE + 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_exec_in_a_hot_block, fresh),
		cmocka_unit_test_setup(test_exec_does_not_disturb_neighbours, fresh),
		cmocka_unit_test_setup(test_flags_are_exact_at_points_and_steps, fresh),
		cmocka_unit_test_setup(test_steps, fresh),
		cmocka_unit_test_setup(test_step_into_a_fault, fresh),
		cmocka_unit_test_setup(test_data, fresh),
		cmocka_unit_test_setup(test_data_by_helpers, fresh),
		cmocka_unit_test_setup(test_data_by_delivery, fresh),
		cmocka_unit_test_setup(test_points_with_a_base, fresh),
		cmocka_unit_test_setup(test_real_mode_steps, fresh),
		cmocka_unit_test_setup(test_too_many, fresh),
	};
	const char *why = env_start(&env);

	cmocka_set_message_output(CM_OUTPUT_TAP);
	if (why) {
		printf("1..0 # SKIP %s\n", why);
		return 0;
	}
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	env_stop(&env);
	return rc;
}
