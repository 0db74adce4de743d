/* bt as a mode: creation, kicks, state, statistics. */
#include "modes/bt/monitor.h"
#include "modes/bt/run.h"
#include "modes/bt/sync.h"
#include "modes/bt/tlb.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HELPER_STACK_BYTES (256u << 10)

_Static_assert(MODE_DEBUG_EXEC == BT_DEBUG_EXEC && MODE_DEBUG_READ == BT_DEBUG_READ && MODE_DEBUG_WRITE == BT_DEBUG_WRITE &&
		       MODE_DEBUG_POINTS_MAX == BT_DEBUG_POINTS_MAX,
	       "the engine takes the points as they come");

struct mode_vcpu {
	struct bt_vcpu *v;
	void *map;
	size_t map_bytes;
};

struct mode_vm {
	struct bt_vm bt;
};

static void probe(struct mode_probe *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->usable = true;
	snprintf(ret->variant, sizeof(ret->variant), "bt");
	int fd = (int)syscall(SYS_memfd_create, "trivisor-probe", 0x11u); /* CLOEXEC | EXEC */
	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_memfd_create, "trivisor-probe", 1u);
	if (fd < 0) {
		ret->usable = false;
		snprintf(ret->reason, sizeof(ret->reason), "no executable memory: memfd_create: %s", strerror(errno));
		snprintf(ret->remedy, sizeof(ret->remedy), "set the sysctl vm.memfd_noexec to 0 or 1, and allow memfd_create in the seccomp profile");
		return;
	}
	void *p = ftruncate(fd, 4096) < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		ret->usable = false;
		snprintf(ret->reason, sizeof(ret->reason), "no executable memory: mmap PROT_EXEC: %s", strerror(errno));
		snprintf(ret->remedy, sizeof(ret->remedy), "allow executable mappings (SELinux execmem, seccomp, noexec policies) for trivisor-vm");
	} else {
		munmap(p, 4096);
		snprintf(ret->reason, sizeof(ret->reason), "needs nothing but Linux on x86-64");
	}
	close(fd);
}

static void hook_kick(void *opaque, unsigned vcpu)
{
	struct mode_vm *vm = opaque;

	if (vcpu < vm->bt.vcpus && vm->bt.vcpu[vcpu])
		bt_kick(vm->bt.vcpu[vcpu]);
}

static void hook_ram_written(void *opaque, gpa_t gpa, uint64_t n);

/* Behind a page's address lies the same host address as before: only what was made of its contents goes. */
static void hook_ram_discarded(void *opaque, gpa_t gpa, uint64_t n)
{
	struct mode_vm *vm = opaque;

	bt_large_discarded(&vm->bt.large, machine_dma_map(vm->bt.machine, gpa, n), n);
	hook_ram_written(opaque, gpa, n);
}

static void hook_ram_written(void *opaque, gpa_t gpa, uint64_t n)
{
	struct mode_vm *vm = opaque;

	for (gpa_t page = gpa & GUEST_PAGE_MASK; page < gpa + n; page += GUEST_PAGE_SIZE)
		if (bt_page_has_code(&vm->bt, page)) {
			bt_written_note(&vm->bt, gpa, n);
			return;
		}
}

/* A piece of address space that other memory may be behind now, or where translations were made: those go. */
static bool map_change_is_far(const struct bt_vm *vm, gpa_t gpa, uint64_t n)
{
	if (gpa < 1u << 20) /* PAM, A20 */
		return true;
	for (gpa_t page = gpa & GUEST_PAGE_MASK; page < gpa + n; page += GUEST_PAGE_SIZE)
		if (bt_page_has_code(vm, page))
			return true;
	return false;
}

/* A flash, mostly, which turns to MMIO and back by each command: dropping the TLBs is enough then. */
static void hook_map_changed(void *opaque, gpa_t gpa, uint64_t n)
{
	struct mode_vm *vm = opaque;

	for (unsigned i = 0; i < vm->bt.vcpus; i++)
		if (vm->bt.vcpu[i])
			vm->bt.vcpu[i]->map_changed = true;
	if (map_change_is_far(&vm->bt, gpa, n)) {
		bt_written_note(&vm->bt, 0, 0);
		return;
	}
	for (unsigned i = 0; i < vm->bt.vcpus; i++)
		hook_kick(vm, i);
}

void bt_monitor_attach(struct mode_vm *vm, const struct bt_monitor *monitor, void *vm_data)
{
	vm->bt.monitor = monitor;
	vm->bt.monitor_data = vm_data;
}

void *bt_monitor_data(struct mode_vm *vm) { return vm->bt.monitor_data; }
struct bt_vcpu *bt_monitor_vcpu(struct mode_vcpu *vcpu) { return vcpu->v; }

static void vm_destroy(struct mode_vm *vm)
{
	if (!vm)
		return;
	machine_set_hooks(vm->bt.machine, NULL);
	bt_cache_finish(&vm->bt);
	if (vm->bt.nowhere != MAP_FAILED)
		munmap(vm->bt.nowhere, BT_NOWHERE_BYTES);
	munmap(vm, sizeof(*vm));
}

static int vm_create(struct machine *machine, struct mode_vm **ret_vm)
{
	struct mode_vm *vm = mmap(NULL, sizeof(*vm), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned a, b, c, d;
	int rc;

	if (vm == MAP_FAILED)
		return -ENOMEM;
	vm->bt.machine = machine;
	vm->bt.vcpus = machine_vcpus(machine);
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
		vm->bt.has_bmi2 = b >> 8 & 1, vm->bt.host_7b = b, vm->bt.host_7c = c;
	vm->bt.nowhere = mmap(NULL, BT_NOWHERE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	rc = vm->bt.nowhere == MAP_FAILED ? -ENOMEM : bt_cache_init(&vm->bt);
	if (!rc)
		rc = bt_signals_install();
	if (rc) {
		vm_destroy(vm);
		return rc;
	}
	bt_thunks_make(&vm->bt);
	const struct machine_hooks hooks = {
		.kick = hook_kick, .ram_written = hook_ram_written, .ram_discarded = hook_ram_discarded, .map_changed = hook_map_changed, .opaque = vm};
	machine_set_hooks(machine, &hooks);
	*ret_vm = vm;
	return 0;
}

static void vcpu_destroy(struct mode_vcpu *vcpu)
{
	if (!vcpu)
		return;
	if (vcpu->v) {
		vcpu->v->vm->vcpu[vcpu->v->index] = NULL;
		bt_profile_destroy(vcpu->v);
	}
	if (vcpu->map)
		munmap(vcpu->map, vcpu->map_bytes);
	free(vcpu);
}

/*
 * Memory: a guard, the helpers' stack, and right above it the vCPU, where rsp points while guest code runs. The guard is
 * a whole large page, so that the rest can be one.
 */
static int vcpu_create(struct mode_vm *vm, unsigned index, struct mode_vcpu **ret_vcpu)
{
	struct mode_vcpu *m = calloc(1, sizeof(*m));
	size_t below = MACHINE_LARGE_PAGE + HELPER_STACK_BYTES;

	if (!m)
		return -ENOMEM;
	m->map_bytes = below + ((sizeof(struct bt_vcpu_block) + 4095) & ~4095ul);
	m->map_bytes = (m->map_bytes + MACHINE_LARGE_PAGE - 1) & ~(size_t)(MACHINE_LARGE_PAGE - 1);
	m->map = machine_map_aligned(m->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (m->map == MAP_FAILED) {
		free(m);
		return -ENOMEM;
	}
	mprotect(m->map, MACHINE_LARGE_PAGE, PROT_NONE);
	(void)madvise((uint8_t *)m->map + MACHINE_LARGE_PAGE, m->map_bytes - MACHINE_LARGE_PAGE, MADV_HUGEPAGE);
	struct bt_vcpu *v = (struct bt_vcpu *)(void *)((uint8_t *)m->map + below);
	m->v = v;
	v->vm = &vm->bt;
	v->machine = vm->bt.machine;
	v->index = index;
	v->poll = &v->poll_word;
	cpu_state_reset(&v->cs, index);
	if (index)
		v->cs.activity = CPU_WAIT_SIPI;
	v->cs.tsc_offset = machine_tsc_offset(v->machine);
	bt_set_rflags(v, v->cs.rflags);
	bt_system_init(v);
	bt_tlb_init(v);
	bt_jc_clear(v);
	bt_mode_changed(v);
	if (bt_profile_create(v)) {
		vcpu_destroy(m);
		return -ENOMEM;
	}
	vm->bt.vcpu[index] = v;
	*ret_vcpu = m;
	return 0;
}

/* Why the run loop stopped for the debugger; taken note of. */
static void debug_hit(struct bt_vcpu *v, struct mode_debug_hit *ret)
{
	struct bt_debug_point p = {.gva = bt_debug_rip(v), .bytes = 1, .kind = BT_DEBUG_EXEC};

	if (v->debug.hits & BT_HIT_DEBUGGER) {
		p = v->debug.hit;
		ret->gva = v->debug.hit_gva;
	} else if (v->debug.stepped) {
		p.kind = 0;
	}
	ret->point = (struct mode_debug_point){.gva = p.gva, .bytes = p.bytes, .kind = p.kind};
	v->debug.hits &= ~BT_HIT_DEBUGGER;
	v->debug.stepped = false;
}

/* What a vCPU hit and had no time to report holds as long as its point. */
static void forget_hit(struct bt_vcpu *v)
{
	const struct bt_debug_vm *d = &v->vm->debug;

	for (uint32_t i = 0; i < d->count; i++)
		if (!memcmp(&d->point[i], &v->debug.hit, sizeof(d->point[i])))
			return;
	v->debug.hits &= ~BT_HIT_DEBUGGER;
}

static int debug_points(struct mode_vm *vm, const struct mode_debug_point *points, size_t n)
{
	struct bt_debug_vm *d = &vm->bt.debug;

	if (n > ARRAY_SIZE(d->point))
		return -ENOSPC;
	for (size_t i = 0; i < n; i++)
		d->point[i] = (struct bt_debug_point){points[i].gva, points[i].bytes, points[i].kind};
	d->count = (uint32_t)n;
	d->id = ++d->last_id;
	for (unsigned i = 0; i < vm->bt.vcpus; i++)
		if (vm->bt.vcpu[i]) {
			forget_hit(vm->bt.vcpu[i]);
			bt_debug_changed(vm->bt.vcpu[i]);
		}
	return 0;
}

static void sample(struct mode_vcpu *vcpu) { bt_profile_ask(vcpu->v); }

static size_t samples(struct mode_vm *vm, struct mode_sample *ret, size_t max) { return bt_profile_take(&vm->bt, ret, max); }

static void translations(struct mode_vm *vm, gpa_t gpa, uint64_t bytes, mode_translation_fn *fn, void *opaque)
{
	bt_profile_translations(&vm->bt, gpa, bytes, fn, opaque);
}

/*
 * The code cache in anonymous shared memory instead of a memfd: perf looks for names only of code that belongs to no file.
 * mremap with an old size of 0 makes a second mapping of the same pages.
 */
static int prepare_perf(struct mode_vm *vm)
{
	struct bt_cache *c = &vm->bt.cache;
	uint8_t *rw = machine_map_aligned(BT_CACHE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1), *exec;

	if (rw == MAP_FAILED)
		return -errno;
	exec = mremap(rw, 0, BT_CACHE_BYTES, MREMAP_MAYMOVE);
	if (exec == MAP_FAILED || mprotect(exec, BT_CACHE_BYTES, PROT_READ | PROT_EXEC) < 0) {
		int rc = -errno;
		munmap(rw, BT_CACHE_BYTES);
		if (exec != MAP_FAILED)
			munmap(exec, BT_CACHE_BYTES);
		return rc;
	}
	munmap(c->rw, BT_CACHE_BYTES);
	munmap(c->exec, BT_CACHE_BYTES);
	c->rw = c->next = c->hot_large = rw;
	c->cold_next = c->cold_large = rw + BT_HOT_BYTES;
	c->exec = exec;
	bt_thunks_make(&vm->bt);
	return 0;
}

static void debug_step(struct mode_vcpu *vcpu, bool on)
{
	vcpu->v->debug.step = on;
	vcpu->v->debug.stepped = false;
}

static int vcpu_run(struct mode_vcpu *vcpu, struct mode_exit *ret_exit)
{
	struct bt_vcpu *v = vcpu->v;
	int rc = bt_signals_thread(v);

	if (rc)
		return rc;
	bt_tsc_update(v);
	bt_fpu_enter(v);
	ret_exit->reason = bt_run(v);
	bt_fpu_leave(v);
	ret_exit->masked = v->cs.activity == CPU_WAIT_SIPI || !(v->cs.rflags & RFLAGS_IF);
	ret_exit->message[0] = 0;
	if (ret_exit->reason == MODE_EXIT_DEBUG)
		debug_hit(v, &ret_exit->debug);
	if (ret_exit->reason == MODE_EXIT_SHUTDOWN)
		snprintf(ret_exit->message, sizeof(ret_exit->message), "triple fault on vCPU %u at rip 0x%llx", v->index,
			 (unsigned long long)v->cs.rip);
	if (ret_exit->reason == MODE_EXIT_ERROR)
		snprintf(ret_exit->message, sizeof(ret_exit->message), "%s (vCPU %u, rip 0x%llx)", v->fail_message, v->index,
			 (unsigned long long)v->cs.rip);
	return 0;
}

static void vcpu_kick(struct mode_vcpu *vcpu) { bt_kick(vcpu->v); }

static void vcpu_stop(struct mode_vcpu *vcpu)
{
	vcpu->v->stop = 1;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	bt_kick(vcpu->v);
}

static int get_state(struct mode_vcpu *vcpu, struct cpu_state *ret_state)
{
	*ret_state = vcpu->v->cs;
	ret_state->rflags = bt_rflags(vcpu->v);
	memset(ret_state->xsave + 8, 0, 16); /* x87 instruction and data pointers: host addresses */
	return 0;
}

static int set_state(struct mode_vcpu *vcpu, const struct cpu_state *state)
{
	struct bt_vcpu *v = vcpu->v;

	v->cs = *state;
	bt_tsc_loaded(v);
	bt_set_rflags(v, state->rflags);
	bt_tlb_flush(v, true);
	bt_mode_changed(v);
	bt_debug_registers(v);
	return 0;
}

static void ram_written(struct mode_vm *vm, gpa_t gpa, uint64_t bytes) { hook_ram_written(vm, gpa, bytes); }

static uint64_t first_user_ns(struct mode_vm *vm) { return vm->bt.first_user_ns; }

static const struct {
	const char *name;
	size_t offset;
} stat_table[] = {
#define STAT(field) {#field, offsetof(struct bt_stats, field)}
	STAT(tbs), STAT(tb_insns), STAT(lookups), STAT(links), STAT(polls), STAT(cache_flush), STAT(cache_flush_map), STAT(slots_given_up), STAT(loops),
	STAT(smc), STAT(tlb_miss), STAT(slow_fill), STAT(slow_mmio), STAT(slow_code), STAT(slow_across), STAT(slow_watch),
	STAT(tlb_flush), STAT(tlb_flush_all), STAT(tlb_flush_page), STAT(walks), STAT(mmio), STAT(pio), STAT(exceptions), STAT(page_faults), STAT(pcid_hits),
	STAT(interrupts), STAT(hypercalls), STAT(pv_flushes), STAT(pv_eois), STAT(syscalls), STAT(halts), STAT(rdmsr), STAT(wrmsr), STAT(string_bytes),
#undef STAT
};

static size_t stats(struct mode_vm *vm, struct mode_stat *ret_rows, size_t max)
{
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(stat_table) && n < max; i++) {
		uint64_t sum = 0;
		for (unsigned k = 0; k < vm->bt.vcpus; k++)
			if (vm->bt.vcpu[k])
				sum += *(const uint64_t *)(const void *)((const char *)&vm->bt.vcpu[k]->stats +
									 stat_table[i].offset);
		ret_rows[n++] = (struct mode_stat){stat_table[i].name, sum};
	}
	const struct bt_cache *c = &vm->bt.cache;
	const struct mode_stat sizes[] = {
		{"code_cache_bytes", (uint64_t)(c->next - c->rw)},
		{"code_cache_size", BT_CACHE_BYTES},
		{"code_meta_bytes", (uint64_t)(c->meta_next - c->meta)},
		{"code_meta_size", BT_META_BYTES},
		{"code_pages", c->page_count - 1},
	};
	for (size_t i = 0; i < ARRAY_SIZE(sizes) && n < max; i++)
		ret_rows[n++] = sizes[i];
	return n;
}

const struct mode_ops bt_mode = {
	.name = "bt",
	.capabilities = MODE_CAP_STATE | MODE_CAP_DEBUG | MODE_CAP_PROFILE,
	.probe = probe,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = vcpu_create,
	.vcpu_destroy = vcpu_destroy,
	.vcpu_run = vcpu_run,
	.vcpu_kick = vcpu_kick,
	.vcpu_stop = vcpu_stop,
	.get_state = get_state,
	.set_state = set_state,
	.debug_points = debug_points,
	.debug_step = debug_step,
	.sample = sample,
	.samples = samples,
	.translations = translations,
	.prepare_perf = prepare_perf,
	.ram_written = ram_written,
	.stats = stats,
	.first_user_ns = first_user_ns,
};
