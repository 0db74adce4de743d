/*
 * The translated side: a 64-bit guest whose page tables mirror the world, entered at CPL 3 with a case's state. Every
 * exception goes through the IDT to a hlt of its own, and the frame on the kernel's stack tells the rest.
 */
#include "tests/differential/case.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "machine/machine.h"
#include "modes/bt/cache.h"

#define RAM_BYTES (16ull << 20)
#define GPA_TABLES 0x200000u /* page tables, handed out upwards */
#define GPA_KERNEL 0x400000u /* a 2 MiB page for the supervisor, at KERNEL */
#define GPA_WORLD 0x800000u
#define KERNEL 0xffff800000000000ull
#define OFF_GDT 0x0000u
#define OFF_IDT 0x1000u
#define OFF_TSS 0x2000u
#define OFF_HANDLERS 0x3000u
#define OFF_LDT 0x2800u
#define OFF_STACK 0x6000u /* its top */
#define TIMEOUT_TICKS 1500 /* of 4 ms: for code that changes itself in every turn, on a crowded host */

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)

struct guest {
	struct machine *machine;
	struct mode_vm *vm;
	struct mode_vcpu *vcpu;
	uint8_t *ram;
	gpa_t next_table;
	struct cpu_state base; /* everything a case does not say */
	struct outcome out;
	pthread_t kicker;
	volatile int storm; /* -1: the thread is to end */
};

static struct mode_vcpu *volatile running;
static volatile unsigned ticks;

static void on_tick(int sig)
{
	if (running && ++ticks >= TIMEOUT_TICKS)
		bt_mode.vcpu_stop(running);
}

static void no_event(void *opaque, enum machine_event event, unsigned code) {}
static void no_output(void *opaque, unsigned port, const void *bytes, size_t n) {}

static uint64_t *table(struct guest *g, gpa_t gpa) { return (uint64_t *)(void *)(g->ram + gpa); }

static gpa_t lower(struct guest *g, gpa_t t, unsigned index)
{
	uint64_t *e = table(g, t) + index;

	if (!(*e & PTE_P)) {
		*e = g->next_table | PTE_P | PTE_W | PTE_U;
		g->next_table += 0x1000;
	}
	return *e & 0xffffffffff000ull;
}

static void map(struct guest *g, uint64_t gva, uint64_t pte)
{
	gpa_t t = GPA_TABLES;

	t = lower(g, t, gva >> 39 & 511);
	t = lower(g, t, gva >> 30 & 511);
	if (pte & PTE_PS) {
		table(g, t)[gva >> 21 & 511] = pte;
		return;
	}
	t = lower(g, t, gva >> 21 & 511);
	table(g, t)[gva >> 12 & 511] = pte;
}

static void page_tables(struct guest *g)
{
	g->next_table = GPA_TABLES + 0x1000;
	map(g, KERNEL, GPA_KERNEL | PTE_P | PTE_W | PTE_PS);
	for (unsigned i = 0; i < WORLD_PAGES; i++) {
		const struct world_page *p = &world_pages[i];
		map(g, p->gva, (GPA_WORLD + p->phys * GUEST_PAGE_SIZE) | PTE_P | PTE_U | (p->write ? PTE_W : 0) | (p->exec ? 0 : PTE_NX));
	}
}

static void put64(struct guest *g, unsigned off, uint64_t v) { memcpy(g->ram + GPA_KERNEL + off, &v, 8); }

static void descriptor_tables(struct guest *g)
{
	put64(g, OFF_GDT + 0x10, 0x00af9b000000ffff); /* kernel code, selectors as Linux has them */
	put64(g, OFF_GDT + 0x18, 0x00cf93000000ffff);
	put64(g, OFF_GDT + 0x20, 0x00cffb000000ffff); /* user code, 32 bits */
	put64(g, OFF_GDT + 0x28, 0x00cff3000000ffff);
	put64(g, OFF_GDT + 0x30, 0x00affb000000ffff); /* user code, 64 bits */
	put64(g, OFF_LDT, 0x108ffb100000ffff); /* code at GVA_CODE, data at GVA_D0: 16 bits, 4 GiB */
	put64(g, OFF_LDT + 8, 0x108ff3000000ffff);
	put64(g, OFF_TSS + 4, KERNEL + OFF_STACK);
	g->ram[GPA_KERNEL + OFF_TSS + 0x66] = 0x68; /* no I/O bitmap */
	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = KERNEL + OFF_HANDLERS + v * 16;
		/* Only int3 and into are for users, as in Linux. */
		uint64_t type = v == 3 || v == 4 ? 0xee00 : 0x8e00;
		put64(g, OFF_IDT + v * 16, (handler & 0xffff) | 0x10 << 16 | type << 32 | (handler & 0xffff0000) << 32);
		put64(g, OFF_IDT + v * 16 + 8, handler >> 32);
		g->ram[GPA_KERNEL + OFF_HANDLERS + v * 16] = 0xf4; /* hlt */
	}
}

static void segment(struct cpu_segment *s, uint16_t selector, uint16_t access)
{
	*s = (struct cpu_segment){.selector = selector, .limit = 0xffffffff, .access = access};
}

static void base_state(struct guest *g)
{
	struct cpu_state *s = &g->base;

	bt_mode.get_state(g->vcpu, s);
	s->cr0 = 0x80050033;
	s->cr3 = GPA_TABLES;
	s->cr4 = 0x3506e0 | 1u << 11; /* PAE MCE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE SMEP SMAP UMIP */
	s->efer = 0xd01;
	s->xcr0 = 7;
	s->gdtr.base = KERNEL + OFF_GDT;
	s->gdtr.limit = 0x37;
	s->idtr.base = KERNEL + OFF_IDT;
	s->idtr.limit = 0xfff;
	segment(&s->ldtr, 0x48, 0x82);
	s->ldtr.base = KERNEL + OFF_LDT;
	s->ldtr.limit = 0xf;
	segment(&s->tr, 0x40, 0x8b);
	s->tr.base = KERNEL + OFF_TSS;
	s->tr.limit = 0x67;
}

static void *kick_on_and_on(void *arg)
{
	struct guest *g = arg;

	while (g->storm >= 0) {
		const struct timespec rest = {.tv_nsec = 200000};
		if (!g->storm)
			nanosleep(&rest, NULL);
		else
			for (unsigned i = 0; i < 64; i++) {
				bt_mode.vcpu_kick(g->vcpu);
				__builtin_ia32_pause();
			}
	}
	return NULL;
}

const char *guest_start(struct guest **ret_guest)
{
	struct machine_config config = {.ram_bytes = RAM_BYTES, .vcpus = 1, .on_event = no_event, .on_output = no_output};
	struct itimerval timer = {.it_interval.tv_usec = 4000, .it_value.tv_usec = 4000};
	struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_RESTART | SA_ONSTACK};
	struct guest *g = calloc(1, sizeof(*g));

	if (!g)
		return "no memory";
	if (machine_create(&config, &g->machine))
		return "no machine could be created";
	if (bt_mode.vm_create(g->machine, &g->vm) || bt_mode.vcpu_create(g->vm, 0, &g->vcpu))
		return "no bt engine could be created";
	const struct ram_region *r = machine_ram_find(g->machine, 1 << 20);
	g->ram = r->host - r->gpa;
	page_tables(g);
	descriptor_tables(g);
	base_state(g);
	sigset_t blocked, before;
	sigfillset(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	int rc = pthread_create(&g->kicker, NULL, kick_on_and_on, g);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return "no thread";
	sigaction(SIGVTALRM, &sa, NULL);
	setitimer(ITIMER_VIRTUAL, &timer, NULL);
	*ret_guest = g;
	return NULL;
}

void guest_stop(struct guest *g)
{
	if (!g)
		return;
	g->storm = -1;
	pthread_join(g->kicker, NULL);
	bt_mode.vcpu_destroy(g->vcpu);
	bt_mode.vm_destroy(g->vm);
	machine_destroy(g->machine);
	free(g);
}

static void load_state(struct guest *g, const struct diff_case *c)
{
	struct cpu_state *s = &g->base;

	memcpy(s->gpr, c->cpu.gpr, sizeof(s->gpr));
	s->rip = c->cpu.rip;
	s->rflags = c->cpu.rflags;
	s->cr2 = 0;
	s->activity = CPU_RUNNING;
	uint16_t selector = c->bits == 16 ? SEL_DS16 : SEL_USER_DS, access = c->bits == 16 ? 0x80f3 : 0xc0f3;
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		segment(&s->seg[i], selector, access);
		s->seg[i].base = data_base(c);
	}
	if (c->bits == 64) {
		segment(&s->seg[SEG_FS], 0, 0);
		segment(&s->seg[SEG_GS], 0, 0);
	}
	s->seg[SEG_FS].base = c->cpu.fs_base;
	s->seg[SEG_GS].base = c->cpu.gs_base;
	segment(&s->seg[SEG_CS], (uint16_t)c->cpu.cs, c->bits == 64 ? 0xa0fb : c->bits == 32 ? 0xc0fb : 0x80fb);
	s->seg[SEG_CS].base = code_base(c);
	memcpy(s->xsave, c->cpu.xsave, XSAVE_BYTES);
	bt_mode.set_state(g->vcpu, s);
}

static uint64_t frame(struct guest *g, uint64_t rsp, unsigned i)
{
	uint64_t v;
	memcpy(&v, g->ram + GPA_KERNEL + (rsp - KERNEL) + i * 8, 8);
	return v;
}

static bool has_error(unsigned vector) { return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17; }

static void take_outcome(struct guest *g)
{
	static struct cpu_state s;
	struct outcome *o = &g->out;
	uint64_t rsp;

	bt_mode.get_state(g->vcpu, &s);
	rsp = s.gpr[GPR_RSP];
	memcpy(o->cpu.gpr, s.gpr, sizeof(s.gpr));
	memcpy(o->cpu.xsave, s.xsave, XSAVE_BYTES);
	o->cpu.fs_base = s.seg[SEG_FS].base;
	o->cpu.gs_base = s.seg[SEG_GS].base;
	o->cr2 = s.cr2;
	if (s.rip < KERNEL + OFF_HANDLERS || s.rip >= KERNEL + OFF_HANDLERS + 0x1000 || rsp <= KERNEL || rsp >= KERNEL + OFF_STACK) {
		o->kind = OUTCOME_ERROR;
		snprintf(o->message, sizeof(o->message), "halted at 0x%llx, which is no handler", (unsigned long long)s.rip);
		return;
	}
	o->kind = OUTCOME_EXCEPTION;
	o->vector = (uint8_t)((s.rip - KERNEL - OFF_HANDLERS) / 16);
	unsigned i = has_error(o->vector);
	o->error = i ? (uint32_t)frame(g, rsp, 0) : 0;
	o->cpu.rip = frame(g, rsp, i);
	o->cpu.cs = frame(g, rsp, i + 1);
	o->cpu.rflags = frame(g, rsp, i + 2);
	o->cpu.gpr[GPR_RSP] = frame(g, rsp, i + 3);
}

static void load_memory(struct guest *g, const struct diff_case *c, bool again)
{
	for (unsigned p = 0; p < PHYS_PAGES; p++) {
		bool code = p == PHYS_CODE0 || p == PHYS_CODE1;
		uint8_t *page = g->ram + GPA_WORLD + p * GUEST_PAGE_SIZE;
		if (code && again && !memcmp(page, c->mem[p], GUEST_PAGE_SIZE))
			continue;
		memcpy(page, c->mem[p], GUEST_PAGE_SIZE);
		if (code)
			bt_mode.ram_written(g->vm, GPA_WORLD + p * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE);
	}
}

const struct outcome *guest_run(struct guest *g, const struct diff_case *c, bool again)
{
	struct mode_exit e = {.reason = MODE_EXIT_ERROR};

	load_memory(g, c, again);
	load_state(g, c);
	ticks = 0;
	running = g->vcpu;
	int rc = bt_mode.vcpu_run(g->vcpu, &e);
	while (!rc && e.reason == MODE_EXIT_INTERRUPTED && ticks < TIMEOUT_TICKS)
		rc = bt_mode.vcpu_run(g->vcpu, &e);
	running = NULL;
	g->out.message[0] = 0;
	g->out.steps = 0;
	if (!rc && e.reason == MODE_EXIT_HALT) {
		take_outcome(g);
	} else if (!rc && e.reason == MODE_EXIT_INTERRUPTED) {
		g->out.kind = OUTCOME_TIMEOUT;
	} else {
		g->out.kind = OUTCOME_ERROR;
		snprintf(g->out.message, sizeof(g->out.message), "%.120s", rc ? strerror(-rc) : e.message);
	}
	memcpy(g->out.mem, g->ram + GPA_WORLD, sizeof(g->out.mem));
	return &g->out;
}

void guest_storm(struct guest *g, bool on) { g->storm = on; }

void guest_precise_flags(struct guest *g, bool on) { ((struct bt_vm *)(void *)g->vm)->precise_flags = on; }

void guest_print_stats(struct guest *g)
{
	struct mode_stat st[MODE_STATS_MAX];
	size_t n = bt_mode.stats(g->vm, st, MODE_STATS_MAX);

	for (size_t i = 0; i < n; i++)
		if (st[i].value)
			printf("# %s %llu\n", st[i].name, (unsigned long long)st[i].value);
}
