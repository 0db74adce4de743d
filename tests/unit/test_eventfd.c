/* Doorbells and interrupts by eventfd: by an engine of the test's, by the machine itself, and under every real engine. And what else small guests show of hvm. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "modes/mode.h"
#include "tests/unit/machine_fixture.h"

#define PATIENCE_MS 60000
#define SLOT 3u
#define TABLE 0xc1001000u
#define PBA 0xc1001800u

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* ---- an engine of the test's -------------------------------------------------------------------------- */

struct engine {
	struct {
		gpa_t gpa;
		int fd;
	} bell[8];
	struct {
		int fd;
		uint64_t address;
		uint32_t data;
	} irq[8];
	unsigned bells, irqs, calls;
	int refuse;
};

static int on_doorbell(void *opaque, bool on, gpa_t gpa, int fd)
{
	struct engine *e = opaque;

	e->calls++;
	if (e->refuse)
		return e->refuse;
	if (on) {
		e->bell[e->bells].gpa = gpa;
		e->bell[e->bells++].fd = fd;
		return 0;
	}
	for (unsigned i = 0; i < e->bells; i++)
		if (e->bell[i].gpa == gpa && e->bell[i].fd == fd) {
			e->bell[i] = e->bell[--e->bells];
			return 0;
		}
	fail_msg("no such doorbell");
	return -ENOENT;
}

static int on_irqfd(void *opaque, int fd, bool on, uint64_t address, uint32_t data)
{
	struct engine *e = opaque;
	unsigned i;

	e->calls++;
	if (e->refuse)
		return e->refuse;
	for (i = 0; i < e->irqs && e->irq[i].fd != fd; i++)
		;
	if (!on) {
		assert_int_not_equal(i, e->irqs);
		e->irq[i] = e->irq[--e->irqs];
		return 0;
	}
	e->irq[i].fd = fd;
	e->irq[i].address = address;
	e->irq[i].data = data;
	e->irqs += i == e->irqs;
	return 0;
}

static void set_engine(struct fixture *f, struct engine *e)
{
	struct machine_hooks hooks = f->machine->hooks;

	hooks.doorbell = e ? on_doorbell : NULL;
	hooks.irqfd = e ? on_irqfd : NULL;
	hooks.opaque = e ? (void *)e : (void *)f;
	/* Those of the fixture want the fixture. */
	hooks.kick = NULL;
	hooks.ram_written = NULL;
	hooks.map_changed = NULL;
	machine_set_hooks(f->machine, &hooks);
}

static unsigned bar_writes;

static void bar_write(void *opaque, uint64_t offset, uint64_t value, unsigned size) { bar_writes++; }

static const struct bus_ops bar_ops = { .write = bar_write, .max = 4 };

static void add_device(struct fixture *f, struct pci_device *dev)
{
	static const struct pci_identity id = { .vendor = 0x1af4, .device = 0x1042, .class_device = 0x0100, .interrupt_pin = 1 };

	memset(dev, 0, sizeof(*dev));
	assert_int_equal(pci_register(f->machine, dev, "io_probe", SLOT, 0, &id), 0);
	pci_bar_add(dev, 1, PCI_BAR_MEM32, 0x2000, &bar_ops, dev);
	pci_bar_add(dev, 4, PCI_BAR_MEM64, 0x4000, &bar_ops, dev);
	assert_int_equal(pci_msix_add(dev, 1, 3, 0x1000, 0x1800), 0);
}

/* ---- doorbells ---------------------------------------------------------------------------------------------- */

static void doorbells_follow_their_bar(void **state)
{
	struct fixture *f = *state;
	struct engine e = { 0 }, second = { 0 };
	struct pci_device dev;
	struct doorbell bell[2] = { 0 };

	add_device(f, &dev);
	set_engine(f, &e);
	doorbell_add(f->machine, &dev.bar[4].range, &bell[0], 0x3000, 100);
	doorbell_add(f->machine, &dev.bar[4].range, &bell[1], 0x3004, 100);
	assert_int_equal(e.bells, 0); /* the BAR decodes nothing yet */
	pci_put(f, SLOT, 0x20, 0xd0000000);
	pci_put(f, SLOT, 4, 2);
	assert_int_equal(e.bells, 2);
	assert_int_equal(e.bell[0].gpa + e.bell[1].gpa, 2 * 0xd0003000ull + 4);
	pci_put(f, SLOT, 0x20, 0xd1000000);
	assert_int_equal(e.bells, 2);
	assert_int_equal(e.bell[0].gpa + e.bell[1].gpa, 2 * 0xd1003000ull + 4);
	/* Another engine on the same machine; the first has gone, and is not asked. */
	unsigned calls = e.calls;
	set_engine(f, &second);
	assert_int_equal(e.calls, calls);
	assert_int_equal(second.bells, 2);
	doorbell_remove(f->machine, &dev.bar[4].range, &bell[1]);
	assert_int_equal(second.bells, 1);
	pci_put(f, SLOT, 4, 0);
	assert_int_equal(second.bells, 0);
	/* Refused: the access comes to the device, and nothing is taken back that was not given. */
	second.refuse = -ENOSPC;
	pci_put(f, SLOT, 4, 2);
	calls = second.calls;
	assert_false(bell[0].armed);
	bar_writes = 0;
	mmio32_set(f, 0, 0xd1003000, 1);
	assert_int_equal(bar_writes, 1);
	second.refuse = 0;
	machine_reset(f->machine);
	assert_int_equal(second.calls, calls);
	doorbell_remove(f->machine, &dev.bar[4].range, &bell[0]);
	pci_unregister(&dev);
}

/* ---- MSI-X -------------------------------------------------------------------------------------------------------- */

static void open_vectors(struct fixture *f, unsigned *ret_cap)
{
	lapic_on(f, 0);
	pci_put(f, SLOT, 0x14, 0xc1000000);
	pci_put(f, SLOT, 4, 6);
	*ret_cap = pci_get(f, SLOT, 0x34) & 0xff;
	mmio32_set(f, 0, TABLE + 16, 0xfee00000);
	mmio32_set(f, 0, TABLE + 24, 0x81);
	pci_put(f, SLOT, *ret_cap, 0x80000000);
}

static void vectors_have_eventfds(void **state)
{
	struct fixture *f = *state;
	struct engine e = { 0 }, second = { 0 };
	struct pci_device dev;
	unsigned cap;

	add_device(f, &dev);
	assert_int_equal(pci_msix_add_irqfds(&dev, false), 0);
	set_engine(f, &e);
	open_vectors(f, &cap);
	assert_int_equal(e.irqs, 0); /* all are masked */
	assert_false(pci_msix_signal(&dev, 1));
	mmio32_set(f, 0, TABLE + 28, 0);
	assert_int_equal(e.irqs, 1);
	assert_int_equal(e.irq[0].address, 0xfee00000);
	assert_int_equal(e.irq[0].data, 0x81);
	assert_true(pci_msix_signal(&dev, 1));
	assert_true(readable(e.irq[0].fd, 0));
	assert_true(eventfd_take(e.irq[0].fd));
	assert_false(pci_msix_signal(&dev, 0));
	assert_false(pci_msix_signal(&dev, 3));
	/* Sent elsewhere while it is open, as Linux does when it moves an interrupt. */
	mmio32_set(f, 0, TABLE + 24, 0x82);
	assert_int_equal(e.irqs, 1);
	assert_int_equal(e.irq[0].data, 0x82);
	int fd = e.irq[0].fd;
	/* The same without a change asks for nothing. */
	unsigned calls = e.calls;
	mmio32_set(f, 0, TABLE + 24, 0x82);
	pci_put(f, SLOT, 0x3c, 11);
	assert_int_equal(e.calls, calls);
	/* Closed by its own mask, by the function's, by the enable bit, and by bus mastering. */
	mmio32_set(f, 0, TABLE + 28, 1);
	assert_int_equal(e.irqs, 0);
	mmio32_set(f, 0, TABLE + 28, 0);
	assert_int_equal(e.irqs, 1);
	pci_put(f, SLOT, cap, 0xc0000000);
	assert_int_equal(e.irqs, 0);
	/* A signal that was on its way is pending now, and is sent once the vector opens. */
	eventfd_signal(fd);
	assert_int_equal(mmio32(f, 0, PBA), 2);
	assert_int_equal(take(f, 0), -1);
	pci_put(f, SLOT, cap, 0x80000000);
	assert_int_equal(take(f, 0), 0x82);
	assert_int_equal(mmio32(f, 0, PBA), 0);
	mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	pci_put(f, SLOT, 4, 2);
	assert_int_equal(e.irqs, 0);
	pci_put(f, SLOT, 4, 6);
	assert_int_equal(e.irqs, 1);
	set_engine(f, &second);
	assert_int_equal(second.irqs, 1);
	assert_int_equal(second.irq[0].data, 0x82);
	/* An engine that takes none: by hand. */
	set_engine(f, NULL);
	assert_false(pci_msix_signal(&dev, 1));
	/* A signal from before the reset is of the old life. */
	set_engine(f, &second);
	pci_put(f, SLOT, cap, 0xc0000000);
	eventfd_signal(fd);
	machine_reset(f->machine);
	open_vectors(f, &cap);
	assert_int_equal(mmio32(f, 0, PBA), 0);
	set_engine(f, NULL);
	pci_unregister(&dev);
}

/* Somebody else signals, and no engine listens: the machine's own thread does. */
static void foreign_signals_without_an_engine(void **state)
{
	struct fixture *f = *state;
	struct pci_device dev;
	unsigned cap;

	add_device(f, &dev);
	assert_int_equal(pci_msix_add_irqfds(&dev, true), 0);
	open_vectors(f, &cap);
	mmio32_set(f, 0, TABLE + 28, 0);
	int fd = dev.msix.irqfd[1].fd;
	for (unsigned i = 0; i < 3; i++) {
		eventfd_signal(fd);
		assert_true(await(f, 0));
		assert_int_equal(take(f, 0), 0x81);
		mmio32_set(f, 0, LAPIC_AT(0xb0), 0);
	}
	/* Masked: it waits, without a thread that spins on it. */
	mmio32_set(f, 0, TABLE + 28, 1);
	eventfd_signal(fd);
	assert_true(readable(fd, 0));
	mmio32_set(f, 0, TABLE + 28, 0);
	assert_true(await(f, 0));
	assert_int_equal(take(f, 0), 0x81);
	pci_unregister(&dev);
}

/* ---- under the engines ----------------------------------------------------------------------------------------------- */

#define VECTOR 0x50
#define BELL_GPA 0xb0040u /* where VGA memory would be: real mode reaches it, and no RAM is there */

/*
 * Real mode at 0x7c00: rings, then waits for interrupts; each writes 0x55 to the debug port.
 *   mov ax, 0xb000; mov ds, ax; mov word [0x40], 1; sti; l: hlt; jmp l
 */
static const uint8_t ring_and_wait[] = { 0xb8, 0x00, 0xb0, 0x8e, 0xd8, 0xc7, 0x06, 0x40, 0x00, 0x01, 0x00, 0xfb, 0xf4, 0xeb, 0xfd };
/* mov eax, 0x55; out 0xf4, eax; iret. The EOI is the test's. */
static const uint8_t handler[] = { 0x66, 0xb8, 0x55, 0, 0, 0, 0x66, 0xe7, 0xf4, 0xcf };

struct guest {
	struct fixture *f;
	const struct mode_ops *mode;
	struct mode_vm *vm;
	struct mode_vcpu *vcpu;
	pthread_t thread;
	_Atomic bool stop, out;
	struct mode_exit end;
};

static void *vcpu_main(void *opaque)
{
	struct guest *g = opaque;

	while (!atomic_load(&g->stop)) {
		if (g->mode->vcpu_run(g->vcpu, &g->end))
			break;
		if (g->end.reason == MODE_EXIT_SHUTDOWN || g->end.reason == MODE_EXIT_ERROR)
			break;
		if (g->end.reason == MODE_EXIT_HALT && !atomic_load(&g->stop))
			machine_vcpu_wait_for(g->f->machine, 0, !g->end.masked);
	}
	atomic_store(&g->out, true);
	return NULL;
}

static void nap(void)
{
	const struct timespec ts = { 0, 2000000 };

	nanosleep(&ts, NULL);
}

static void go(struct guest *g)
{
	atomic_store(&g->stop, false);
	atomic_store(&g->out, false);
	assert_int_equal(pthread_create(&g->thread, NULL, vcpu_main, g), 0);
}

static void halt(struct guest *g)
{
	atomic_store(&g->stop, true);
	while (!atomic_load(&g->out)) {
		g->mode->vcpu_stop(g->vcpu);
		machine_vcpu_wake(g->f->machine, 0);
		nap();
	}
	pthread_join(g->thread, NULL);
}

static void put_guest(struct machine *m, struct cpu_state *cs)
{
	const uint16_t vector[2] = { 0x7d00, 0 };

	assert_true(machine_dma_write(m, 0x7c00, ring_and_wait, sizeof(ring_and_wait)));
	assert_true(machine_dma_write(m, 0x7d00, handler, sizeof(handler)));
	assert_true(machine_dma_write(m, VECTOR * 4, vector, sizeof(vector)));
	cpu_state_reset(cs, 0);
	cs->tsc_offset = machine_tsc_offset(m);
	cs->seg[SEG_CS].selector = 0;
	cs->seg[SEG_CS].base = 0;
	cs->rip = 0x7c00;
	cs->gpr[GPR_RSP] = 0x7000;
}

static unsigned exits(const struct guest *g) { return g->f->events[MACHINE_EVENT_DEBUG_EXIT]; }

static void await_exits(const struct guest *g, unsigned n)
{
	for (unsigned ms = 0; exits(g) < n && ms < PATIENCE_MS && !atomic_load(&g->out); ms += 2)
		nap();
	if (exits(g) < n)
		fail_msg("%u of %u interrupts came (%s)", exits(g), n, g->end.message);
	assert_int_equal(exits(g), n);
	assert_int_equal(g->f->event_code, 0x55);
}

static void under(const struct mode_ops *mode, bool engine_rings, bool engine_interrupts)
{
	struct guest g = { .f = fixture_new(64 << 20, 1), .mode = mode };
	struct machine *m = g.f->machine;
	struct bus_range range = { .name = "bell", .ops = &bar_ops };
	struct doorbell bell = { 0 };
	struct irqfd irqfd = { 0 };
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);
	int ring = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct mode_probe probe;

	mode->probe(&probe);
	if (!probe.usable) {
		print_message("# SKIP %s\n", probe.reason);
		skip();
	}
	assert_non_null(cs);
	lapic_on(g.f, 0);
	bus_map_mmio(m, &range, BELL_GPA & ~0xfffull, 0x1000);
	assert_int_equal(mode->vm_create(m, &g.vm), 0);
	assert_int_equal(mode->vcpu_create(g.vm, 0, &g.vcpu), 0);
	put_guest(m, cs);
	assert_int_equal(mode->set_state(g.vcpu, cs), 0);
	if (mode->take_devices)
		assert_int_equal(mode->take_devices(g.vm), 0);
	machine_lock(m);
	doorbell_add(m, &range, &bell, BELL_GPA & 0xfff, ring);
	assert_int_equal(irqfd_init(m, &irqfd, true), 0);
	irqfd_route(&irqfd, 0xfee00000, VECTOR);
	machine_unlock(m);
	assert_int_equal(bell.armed, engine_rings);
	assert_int_equal(irqfd.engine, engine_interrupts);
	bar_writes = 0;
	go(&g);
	if (engine_rings)
		assert_true(readable(ring, PATIENCE_MS));
	for (unsigned ms = 0; !engine_rings && !__atomic_load_n(&bar_writes, __ATOMIC_SEQ_CST) && ms < PATIENCE_MS; ms += 2)
		nap();
	assert_int_equal(bar_writes, engine_rings ? 0 : 1);
	eventfd_signal(irqfd.fd);
	await_exits(&g, 1);
	/* While the machine is paused a signal waits; it is there afterwards, whoever has the controllers' state meanwhile. */
	halt(&g);
	machine_pause(m);
	mmio32_set(g.f, 0, LAPIC_AT(0xb0), 0); /* the EOI that the handler does not send */
	eventfd_signal(irqfd.fd);
	nap();
	assert_int_equal(exits(&g), 1);
	machine_resume(m);
	go(&g);
	await_exits(&g, 2);
	halt(&g);
	machine_lock(m);
	irqfd_finish(&irqfd);
	doorbell_remove(m, &range, &bell);
	machine_unlock(m);
	mode->vcpu_destroy(g.vcpu);
	mode->vm_destroy(g.vm);
	fixture_free(g.f);
	free(cs);
	close(ring);
}

static void under_bt(void **state) { under(&bt_mode, false, false); }

static void under_hvm_kernel(void **state)
{
	setenv("TRIVISOR_HVM_IRQCHIP", "kernel", 1);
	under(&hvm_mode, true, true);
}

static void under_hvm_machine(void **state)
{
	setenv("TRIVISOR_HVM_IRQCHIP", "machine", 1);
	under(&hvm_mode, true, false);
}

/* ---- a device's memory under the engine -------------------------------------------------------------------------------- */

/*
 * Real mode at 0x7c00, the window at 0xb1000: copies a word on, then ends.
 *   mov ax, 0xb100; mov ds, ax; mov eax, [0]; mov [0x10], eax; mov eax, 0x55; out 0xf4, eax; l: hlt; jmp l
 */
static const uint8_t copy_word[] = { 0xb8, 0x00, 0xb1, 0x8e, 0xd8, 0x66, 0xa1, 0x00, 0x00, 0x66, 0xa3, 0x10, 0x00, 0x66,
				     0xb8, 0x55, 0, 0, 0, 0x66, 0xe7, 0xf4, 0xf4, 0xeb, 0xfd };

static void device_memory_is_the_engines(void **state)
{
	struct guest g = { .f = fixture_new(64 << 20, 1), .mode = &hvm_mode };
	struct machine *m = g.f->machine;
	uint32_t *memory = aligned_alloc(4096, 4096);
	struct ram_window window = { .bytes = 4096, .host = (uint8_t *)memory };
	struct bus_range range = { .name = "window", .ops = &bar_ops };
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);
	struct mode_probe probe;

	hvm_mode.probe(&probe);
	if (!probe.usable) {
		print_message("# SKIP %s\n", probe.reason);
		skip();
	}
	assert_non_null(cs);
	memset(memory, 0, 4096);
	memory[0] = 0xcafe1234;
	bus_map_mmio(m, &range, 0xb1000, 0x1000);
	assert_int_equal(hvm_mode.vm_create(m, &g.vm), 0);
	assert_int_equal(hvm_mode.vcpu_create(g.vm, 0, &g.vcpu), 0);
	put_guest(m, cs);
	assert_true(machine_dma_write(m, 0x7c00, copy_word, sizeof(copy_word)));
	assert_int_equal(hvm_mode.set_state(g.vcpu, cs), 0);
	assert_int_equal(hvm_mode.take_devices(g.vm), 0);
	machine_lock(m);
	ram_window_map(m, &window, 0xb1000);
	machine_unlock(m);
	/* Neither is it RAM whose written pages are logged. */
	assert_int_equal(hvm_mode.dirty_start(g.vm), 0);
	bar_writes = 0;
	go(&g);
	await_exits(&g, 1);
	assert_int_equal(memory[4], 0xcafe1234);
	assert_int_equal(bar_writes, 0);
	halt(&g);
	hvm_mode.dirty_stop(g.vm);
	/* Gone: the same access is MMIO. */
	machine_lock(m);
	ram_window_unmap(m, &window);
	machine_unlock(m);
	assert_int_equal(hvm_mode.set_state(g.vcpu, cs), 0);
	memory[4] = 0;
	go(&g);
	await_exits(&g, 2);
	assert_int_equal(memory[4], 0);
	assert_int_equal(bar_writes, 1);
	halt(&g);
	hvm_mode.vcpu_destroy(g.vcpu);
	hvm_mode.vm_destroy(g.vm);
	fixture_free(g.f);
	free(cs);
	free(memory);
}

/* ---- user space ---------------------------------------------------------------------------------------------------------- */

static void set_privilege(struct cpu_state *cs, unsigned dpl)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		cs->seg[i].selector = (uint16_t)(i == SEG_CS ? 8 | dpl : 16 | dpl);
		cs->seg[i].base = 0;
		cs->seg[i].limit = 0xffffffff;
		cs->seg[i].access = (uint16_t)((i == SEG_CS ? 0xc09b : 0xc093) | dpl << 5);
	}
	cs->cr0 |= 1;
}

/* Code at CPL 3 is noticed while somebody asks; code at CPL 0 is not taken for it. */
static void user_space_is_noticed(void **state)
{
	static const uint8_t spin[] = { 0xeb, 0xfe };
	struct guest g = { .f = fixture_new(64 << 20, 1), .mode = &hvm_mode };
	struct machine *m = g.f->machine;
	struct cpu_state *cs = aligned_alloc(64, (sizeof(*cs) + 63) & ~(size_t)63);
	struct mode_probe probe;
	struct timespec ts;
	uint64_t ns = 0;

	hvm_mode.probe(&probe);
	if (!probe.usable) {
		print_message("# SKIP %s\n", probe.reason);
		skip();
	}
	assert_non_null(cs);
	assert_int_equal(hvm_mode.vm_create(m, &g.vm), 0);
	assert_int_equal(hvm_mode.vcpu_create(g.vm, 0, &g.vcpu), 0);
	put_guest(m, cs);
	assert_true(machine_dma_write(m, 0x7c00, spin, sizeof(spin)));
	set_privilege(cs, 0);
	assert_int_equal(hvm_mode.set_state(g.vcpu, cs), 0);
	assert_int_equal(hvm_mode.take_devices(g.vm), 0);
	go(&g);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(hvm_mode.first_user_ns(g.vm), 0);
		nap();
	}
	halt(&g);
	set_privilege(cs, 3);
	assert_int_equal(hvm_mode.set_state(g.vcpu, cs), 0);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	go(&g);
	for (unsigned ms = 0; !ns && ms < PATIENCE_MS && !atomic_load(&g.out); ms += 2) {
		ns = hvm_mode.first_user_ns(g.vm);
		nap();
	}
	if (!ns)
		fail_msg("user space is not noticed: %s", g.end.message);
	assert_true(ns >= (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec);
	assert_int_equal(hvm_mode.first_user_ns(g.vm), ns);
	halt(&g);
	hvm_mode.vcpu_destroy(g.vcpu);
	hvm_mode.vm_destroy(g.vm);
	fixture_free(g.f);
	free(cs);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(doorbells_follow_their_bar, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(vectors_have_eventfds, fixture_setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(foreign_signals_without_an_engine, fixture_setup, fixture_teardown),
		cmocka_unit_test(under_bt),
		cmocka_unit_test(under_hvm_kernel),
		cmocka_unit_test(under_hvm_machine),
		cmocka_unit_test(device_memory_is_the_engines),
		cmocka_unit_test(user_space_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
