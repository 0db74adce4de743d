/* A running guest is moved between engines: bt to hvm and back, with all it had under way. Also the log of written pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine/machine.h"
#include "modes/mode.h"
#include "tests/guests/kernels/mover.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define VCPUS 2
#define RAM (64ull << 20)
#define PATIENCE_S 120
#define CLOCK_BACK_NS 2000000u /* two engines' arithmetic may differ that much over the test's seconds */

struct cpu {
	struct guest *guest;
	unsigned index;
	struct mode_vcpu *engine;
	pthread_t thread;
	struct cpu_state *state;
	atomic_bool parked;
	struct mode_exit outcome;
	bool ended;
};

struct guest {
	struct machine *machine;
	const struct mode_ops *mode;
	struct mode_vm *vm;
	struct cpu cpu[VCPUS];
	atomic_bool stop;
	char output[8192];
	_Atomic size_t output_bytes;
	atomic_int exit_code; /* -1: none yet */
};

static void nap(void)
{
	struct timespec ts = {0, 5000000};

	nanosleep(&ts, NULL);
}

/* ---- the machine's side ---------------------------------------------------------------------------------- */

static void on_event(void *opaque, enum machine_event event, unsigned code)
{
	struct guest *g = opaque;

	if (event == MACHINE_EVENT_DEBUG_EXIT)
		atomic_store(&g->exit_code, (int)code);
}

static void on_output(void *opaque, unsigned port, const void *bytes, size_t n)
{
	struct guest *g = opaque;
	size_t at = atomic_load(&g->output_bytes);

	if (port || at + n >= sizeof(g->output))
		return;
	memcpy(g->output + at, bytes, n);
	atomic_store(&g->output_bytes, at + n);
}

/* ---- vCPUs --------------------------------------------------------------------------------------------------- */

static void *cpu_main(void *opaque)
{
	struct cpu *c = opaque;
	struct guest *g = c->guest;

	while (!atomic_load(&g->stop)) {
		if (g->mode->vcpu_run(c->engine, &c->outcome)) {
			snprintf(c->outcome.message, sizeof(c->outcome.message), "host failure");
			c->outcome.reason = MODE_EXIT_ERROR;
		}
		if (c->outcome.reason == MODE_EXIT_SHUTDOWN || c->outcome.reason == MODE_EXIT_ERROR) {
			c->ended = true;
			break;
		}
		if (c->outcome.reason == MODE_EXIT_HALT && !atomic_load(&g->stop))
			machine_vcpu_wait_for(g->machine, c->index, !c->outcome.masked);
	}
	atomic_store(&c->parked, true);
	return NULL;
}

static void go(struct guest *g)
{
	atomic_store(&g->stop, false);
	for (unsigned i = 0; i < VCPUS; i++) {
		atomic_store(&g->cpu[i].parked, false);
		assert_int_equal(pthread_create(&g->cpu[i].thread, NULL, cpu_main, &g->cpu[i]), 0);
	}
}

static void halt(struct guest *g)
{
	atomic_store(&g->stop, true);
	for (unsigned i = 0; i < VCPUS; i++) {
		while (!atomic_load(&g->cpu[i].parked)) {
			g->mode->vcpu_stop(g->cpu[i].engine);
			machine_vcpu_wake(g->machine, i);
			nap();
		}
		pthread_join(g->cpu[i].thread, NULL);
	}
}

static void make_engine(struct guest *g, const struct mode_ops *mode)
{
	g->mode = mode;
	assert_int_equal(mode->vm_create(g->machine, &g->vm), 0);
	for (unsigned i = 0; i < VCPUS; i++) {
		assert_int_equal(mode->vcpu_create(g->vm, i, &g->cpu[i].engine), 0);
		assert_int_equal(mode->set_state(g->cpu[i].engine, g->cpu[i].state), 0);
	}
}

static void drop_engine(struct guest *g)
{
	for (unsigned i = 0; i < VCPUS; i++)
		g->mode->vcpu_destroy(g->cpu[i].engine);
	g->mode->vm_destroy(g->vm);
	g->vm = NULL;
}

/* The same guest, in another engine: out of run, paused, state out, state in, on. */
static void move(struct guest *g, const struct mode_ops *mode)
{
	halt(g);
	machine_pause(g->machine);
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(g->mode->get_state(g->cpu[i].engine, g->cpu[i].state), 0);
	drop_engine(g);
	make_engine(g, mode);
	machine_resume(g->machine);
	go(g);
}

/* ---- the guest --------------------------------------------------------------------------------------------------- */

static void start(struct guest *g, const struct mode_ops *mode)
{
	struct machine_config config = {
		.ram_bytes = RAM,
		.vcpus = VCPUS,
		.on_event = on_event,
		.on_output = on_output,
		.opaque = g,
		.debug_exit_port = 0xf4,
		.build_cpuid = hvm_mode.build_cpuid, /* what both can give */
	};
	char kernel[4096];
	const char *build = getenv("top_builddir"), *why = "";
	struct machine_boot boot = {.kernel = kernel, .cmdline = ""};

	memset(g, 0, sizeof(*g));
	atomic_store(&g->exit_code, -1);
	snprintf(kernel, sizeof(kernel), "%.4000s/tests/guests/kernels/mover.elf", build ? build : ".");
	assert_int_equal(machine_create(&config, &g->machine), 0);
	for (unsigned i = 0; i < VCPUS; i++) {
		struct cpu *c = &g->cpu[i];

		c->guest = g;
		c->index = i;
		c->state = aligned_alloc(64, (sizeof(*c->state) + 63) & ~(size_t)63);
		assert_non_null(c->state);
		cpu_state_reset(c->state, i);
	}
	if (machine_boot(g->machine, &boot, g->cpu[0].state, &why))
		fail_msg("%s", why);
	for (unsigned i = 0; i < VCPUS; i++)
		g->cpu[i].state->tsc_offset = machine_tsc_offset(g->machine);
	make_engine(g, mode);
	if (mode->take_devices)
		assert_int_equal(mode->take_devices(g->vm), 0);
	go(g);
}

static void finish(struct guest *g)
{
	halt(g);
	drop_engine(g);
	machine_destroy(g->machine);
	for (unsigned i = 0; i < VCPUS; i++)
		free(g->cpu[i].state);
}

static void explain(struct guest *g)
{
	for (unsigned i = 0; i < VCPUS; i++)
		if (g->cpu[i].ended)
			print_message("# vCPU %u under %s: %s\n", i, g->mode->name, g->cpu[i].outcome.message);
	g->output[atomic_load(&g->output_bytes)] = 0;
	print_message("%s\n", g->output);
}

static bool crashed(const struct guest *g)
{
	return g->cpu[0].ended || g->cpu[1].ended;
}

static struct mover_box *find_box(struct guest *g)
{
	const char *at = NULL;

	for (int n = 0; n < PATIENCE_S * 200 && !crashed(g); n++, nap())
		if ((at = strstr(g->output, "box 0x")) && strchr(at, '\n'))
			return machine_dma_map(g->machine, strtoull(at + 4, NULL, 16), sizeof(struct mover_box));
	explain(g);
	fail_msg("the guest does not start");
	return NULL;
}

/* It works: it computes, both timers tick, and the other processor is called. */
static void await_progress(struct guest *g, const volatile struct mover_box *box)
{
	uint64_t steps = box->steps, ticks = box->ticks, pit = box->pit_ticks, calls = box->calls;

	for (int n = 0; n < PATIENCE_S * 200 && !crashed(g); n++, nap())
		if (box->steps > steps + 40 && box->ticks > ticks + 10 && box->pit_ticks > pit + 10 && box->calls > calls + 3)
			return;
	explain(g);
	fail_msg("under %s it gets no further: steps %lu, LAPIC ticks %lu, PIT ticks %lu, calls %lu", g->mode->name,
		 (unsigned long)(box->steps - steps), (unsigned long)(box->ticks - ticks), (unsigned long)(box->pit_ticks - pit),
		 (unsigned long)(box->calls - calls));
}

static void skip_without_kvm(void)
{
	struct mode_probe probe;

	hvm_mode.probe(&probe);
	if (!probe.usable) {
		print_message("# SKIP %s\n", probe.reason);
		skip();
	}
}

static void there_and_back(const char *irqchip)
{
	static struct guest g;
	static const struct mode_ops *const way[] = {&hvm_mode, &bt_mode, &hvm_mode, &hvm_mode, &bt_mode};

	skip_without_kvm();
	setenv("TRIVISOR_HVM_IRQCHIP", irqchip, 1);
	start(&g, &bt_mode);
	struct mover_box *box = find_box(&g);
	assert_non_null(box);
	await_progress(&g, box);
	for (size_t i = 0; i < ARRAY_SIZE(way); i++) {
		move(&g, way[i]);
		await_progress(&g, box);
	}
	box->goal = MOVER_FINISH;
	for (int n = 0; n < PATIENCE_S * 200 && atomic_load(&g.exit_code) < 0 && !crashed(&g); n++)
		nap();
	if (atomic_load(&g.exit_code) != 0)
		explain(&g);
	assert_int_equal(atomic_load(&g.exit_code), 0);
	assert_in_range(box->clock_back, 0, CLOCK_BACK_NS);
	assert_in_range(box->clock_jump, 1, PATIENCE_S * 1000000000ull);
	finish(&g);
}

static void with_kernel_irqchip(void **state) { there_and_back("kernel"); }
static void with_machine_irqchip(void **state) { there_and_back("machine"); }

/* ---- written pages ------------------------------------------------------------------------------------------------- */

static bool bit(const uint64_t *bits, uint64_t page) { return bits[page / 64] >> page % 64 & 1; }

static void written_pages(void **state)
{
	static struct guest g;
	static uint64_t bits[RAM / GUEST_PAGE_SIZE / 64];
	const uint64_t quiet = 0x3000000, by_device = 0x3100000;
	unsigned count = 0;

	skip_without_kvm();
	setenv("TRIVISOR_HVM_IRQCHIP", "kernel", 1);
	start(&g, &bt_mode);
	struct mover_box *box = find_box(&g);
	uint8_t *base = machine_dma_map(g.machine, 0, 4096);
	assert_non_null(box);
	move(&g, &hvm_mode);
	assert_int_equal(hvm_mode.dirty_start(g.vm), 0);
	assert_int_equal(hvm_mode.dirty_start(g.vm), -EALREADY);
	await_progress(&g, box);
	assert_true(machine_dma_write(g.machine, by_device, "device", 6));
	memset(bits, 0, sizeof(bits));
	assert_int_equal(hvm_mode.dirty_collect(g.vm, bits, ARRAY_SIZE(bits)), 0);
	assert_true(bit(bits, (uint64_t)((uint8_t *)box - base) / GUEST_PAGE_SIZE));
	assert_true(bit(bits, by_device / GUEST_PAGE_SIZE));
	assert_false(bit(bits, quiet / GUEST_PAGE_SIZE));
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		count += (unsigned)__builtin_popcountll(bits[i]);
	assert_in_range(count, 2, 200);
	/* Told once; the guest's own page is written again and again. */
	await_progress(&g, box);
	memset(bits, 0, sizeof(bits));
	assert_int_equal(hvm_mode.dirty_collect(g.vm, bits, ARRAY_SIZE(bits)), 0);
	assert_true(bit(bits, (uint64_t)((uint8_t *)box - base) / GUEST_PAGE_SIZE));
	assert_false(bit(bits, by_device / GUEST_PAGE_SIZE));
	hvm_mode.dirty_stop(g.vm);
	assert_int_equal(hvm_mode.dirty_collect(g.vm, bits, ARRAY_SIZE(bits)), -EINVAL);
	finish(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_kernel_irqchip),
		cmocka_unit_test(with_machine_irqchip),
		cmocka_unit_test(written_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
