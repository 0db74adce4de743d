/*
 * hostile: guests that do anything at all. Random code, privileged instructions included, in every mode of the processor
 * and with half-broken tables; whatever it does, the engine must come back, by a halt, a triple fault or its own word,
 * and stop when it is told to.
 *
 *	hostile [--seed S] [--count N] [--seconds N] [--from K] [--case K] [--vcpus N] [--scribble] [--verbose]
 *
 * Page tables are at random, too, and registers point into them. With several vCPUs they run cases of their own at the
 * same time over the same memory, tables and translations; --scribble has a thread change table entries all the while.
 * --seconds goes on with other seeds until the time is over.
 */
#include "tests/differential/case.h"
#include "tests/differential/watch.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "machine/machine.h"
#include "modes/mode.h"

#define CHECK_CASES 50000u
#define RAM_BYTES (512ull << 20) /* the world's low pages are where they are in the linear space; what is not used costs nothing */
#define FRESH_EVERY 4000u        /* cases that share one machine */
#define STOP_TICKS 1

/* Physical and linear addresses of tables. */
#define GDT 0x400000u
#define IDT64 0x401000u
#define IDT32 0x402000u
#define IVT 0x403000u
#define TSS 0x404000u
#define HANDLERS 0x406000u
#define REAL_HANDLERS 0x6000u /* what the first MiB has of them */
#define STACK0 0x409000u
#define PML4 0x410000u
#define PD32 0x420000u
#define PDPT_PAE 0x421000u
#define HIGH_PHYS 0x500000u
#define TABLES PML4
#define TABLE_PAGES 0x12u /* to the end of PDPT_PAE */

enum mode { LONG64, LONG64_USER, COMPAT, COMPAT_USER, FLAT32, FLAT32_USER, PAGED32, PAE32, PROT16, REAL, VM86, MODE_COUNT };
static const char *const mode_names_[] = {"64-bit", "64-bit, user", "compatibility", "compatibility, user", "32-bit flat",
					  "32-bit flat, user", "32-bit paged", "PAE", "16-bit protected", "real", "virtual 8086"};

#define VCPUS_MAX 4

struct vm {
	struct machine *machine;
	struct mode_vm *vm;
	uint8_t *ram;
	uint64_t seed;
	unsigned vcpus, from, count; /* the cases of this machine */
	bool verbose, scribble;
};

/* One vCPU and the thread that runs it. */
struct guest {
	const struct vm *m;
	struct mode_vm *vm;
	struct mode_vcpu *vcpu;
	uint8_t *ram;
	unsigned index;
	struct cpu_state fresh;
	uint64_t random;
	pthread_t thread;
	volatile bool running;
	volatile unsigned ticks;
};

static struct guest guests[VCPUS_MAX];
static unsigned ended[4]; /* by enum mode_exit_reason */

static void on_tick(int sig)
{
	for (unsigned i = 0; i < VCPUS_MAX; i++)
		if (guests[i].running && ++guests[i].ticks >= STOP_TICKS)
			bt_mode.vcpu_stop(guests[i].vcpu);
}

static uint64_t rnd(struct guest *g)
{
	uint64_t z = g->random += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}
static bool chance(struct guest *g, unsigned percent) { return rnd(g) % 100 < percent; }

static void no_event(void *opaque, enum machine_event event, unsigned code) {}
static void no_output(void *opaque, unsigned port, const void *bytes, size_t n) {}

static const char *vm_create(struct vm *m)
{
	static const uint8_t features[CPU_FEATURE_COUNT] = {[CPU_FEATURE_pcid] = CPU_FEATURE_ON, [CPU_FEATURE_invpcid] = CPU_FEATURE_ON};
	struct machine_config config = {.cpu_features = features, .ram_bytes = RAM_BYTES, .vcpus = m->vcpus, .on_event = no_event, .on_output = no_output};

	if (machine_create(&config, &m->machine))
		return "no machine could be created";
	if (bt_mode.vm_create(m->machine, &m->vm))
		return "no bt engine could be created";
	const struct ram_region *r = machine_ram_find(m->machine, 1 << 20);
	m->ram = r->host - r->gpa;
	for (unsigned i = 0; i < m->vcpus; i++) {
		struct guest *g = &guests[i];
		*g = (struct guest){.m = m, .vm = m->vm, .ram = m->ram, .index = i};
		if (bt_mode.vcpu_create(m->vm, i, &g->vcpu))
			return "no vCPU could be created";
		bt_mode.get_state(g->vcpu, &g->fresh);
		g->fresh.activity = CPU_RUNNING;
	}
	return NULL;
}

static void vm_destroy(struct vm *m)
{
	for (unsigned i = 0; i < m->vcpus; i++)
		bt_mode.vcpu_destroy(guests[i].vcpu);
	bt_mode.vm_destroy(m->vm);
	machine_destroy(m->machine);
}

static void put(struct guest *g, uint32_t at, uint64_t v, unsigned n) { memcpy(g->ram + at, &v, n); }

/* ---- tables ----------------------------------------------------------------------------------- */

static const uint64_t gdt[] = {
	0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, /* as Linux */
	0x00cf9b000000ffff /* 38: 32-bit kernel code */, 0x00009b000000ffff /* 40: 16-bit code */, 0x000093000000ffff,
	0x0000890000000067 | (uint64_t)(TSS & 0xffffff) << 16 /* 50: TSS */, 0, 0x0000ec0000380000 /* 60: call gate */, 0,
	0x00007d0000000000 /* not present */, 0x0000e50000500000 /* 78: task gate */,
};

static void gates(struct guest *g)
{
	for (unsigned v = 0; v < 256; v++) {
		uint32_t h = HANDLERS + v * 16, type = v < 32 ? 0x8e00 : 0xee00;
		put(g, IDT64 + v * 16, (h & 0xffff) | 0x10 << 16 | (uint64_t)type << 32 | (uint64_t)(h >> 16) << 48, 8);
		put(g, IDT64 + v * 16 + 8, 0, 8);
		put(g, IDT32 + v * 8, (h & 0xffff) | 0x38 << 16 | (uint64_t)type << 32 | (uint64_t)(h >> 16) << 48, 8);
		put(g, IVT + v * 4, v * 16 | (REAL_HANDLERS >> 4) << 16, 4);
		put(g, REAL_HANDLERS + v * 16, 0xf4, 1);
		/* Handlers halt, or go back and let it try again. */
		put(g, h, chance(g, 97) ? 0xf4 : 0xcf48, 2);
	}
}

/* Entries of any level that lead to any table, themselves included, to code and data, or nowhere. */
static void random_tables(struct guest *g)
{
	static const uint32_t targets[] = {PML4, PML4 + 0x1000, PML4 + 0x2000, PML4 + 0x3000, PML4 + 0x4000, PML4 + 0x6000, PD32,
					   PDPT_PAE, GVA_CODE, GVA_D0, HIGH_PHYS, GDT, TSS, 0xfee00000, 0xd0000000};
	unsigned n = 1 + rnd(g) % 24;

	while (n--) {
		uint32_t table = TABLES + (uint32_t)(rnd(g) % TABLE_PAGES) * 0x1000;
		uint32_t entry = (uint32_t)(chance(g, 50) ? rnd(g) % 4 : rnd(g) % 512);
		uint64_t to = targets[rnd(g) % ARRAY_SIZE(targets)], bits = chance(g, 80) ? 7 : 0;

		bits ^= chance(g, 50) ? 0 : rnd(g) & 0x1ff;
		put(g, table + entry * 8, to | bits | (chance(g, 10) ? 1ull << 63 : 0), 8);
	}
}

static void page_tables(struct guest *g)
{
	/* Four levels: the first 512 MiB by 2 MiB pages but for the code's, which has pages of its own. */
	put(g, PML4, (PML4 + 0x1000) | 7, 8);
	put(g, PML4 + 0x1000, (PML4 + 0x2000) | 7, 8);
	for (unsigned i = 0; i < 256; i++)
		put(g, PML4 + 0x2000 + i * 8, (uint64_t)i << 21 | 0x87 | (chance(g, 2) ? 1ull << 63 : 0), 8);
	for (unsigned i = 0; i < 512; i++)
		put(g, PML4 + 0x3000 + i * 8, (0x10000000 + i * 0x1000ull) | (chance(g, 3) ? rnd(g) & 7 : 7), 8);
	put(g, PML4 + 0x2000 + (0x10000000 >> 21) * 8, (PML4 + 0x3000) | 7, 8);
	put(g, PML4 + (GVA_HIGH >> 39 & 511) * 8, (PML4 + 0x4000) | 7, 8);
	put(g, PML4 + 0x4000 + (GVA_HIGH >> 30 & 511) * 8, (PML4 + 0x5000) | 7, 8);
	put(g, PML4 + 0x5000 + (GVA_HIGH >> 21 & 511) * 8, (PML4 + 0x6000) | 7, 8);
	put(g, PML4 + 0x6000, HIGH_PHYS | 7, 8);
	for (unsigned i = 0; i < 4; i++)
		put(g, PDPT_PAE + i * 8, i ? 0 : ((PML4 + 0x2000) | 1), 8);
	for (unsigned i = 0; i < 1024; i++)
		put(g, PD32 + i * 4, i < 128 ? i << 22 | 0x87 : 0, 4);
	if (chance(g, 30))
		random_tables(g);
	/* Now and then an entry is anything. */
	if (chance(g, 10))
		put(g, PML4 + (rnd(g) & 0x6ff8), rnd(g), 8);
}

static void tables(struct guest *g)
{
	memcpy(g->ram + GDT, gdt, sizeof(gdt));
	memset(g->ram + TSS, 0, 0x68);
	put(g, TSS + 4, STACK0, 8);
	put(g, TSS + 8, chance(g, 50) ? 0x18 : 0, 4);
	put(g, TSS + 0x66, 0x68, 2);
	gates(g);
	page_tables(g);
	if (chance(g, 10))
		put(g, GDT + (rnd(g) & 0x7f), rnd(g), 2);
	if (chance(g, 10))
		put(g, (chance(g, 50) ? IDT64 : IDT32) + (rnd(g) & 0x1ff), rnd(g), 2);
}

/* ---- states --------------------------------------------------------------------------------------- */

static void segment(struct cpu_segment *s, uint16_t selector, uint16_t access, uint64_t base, uint32_t limit)
{
	*s = (struct cpu_segment){.selector = selector, .access = access, .base = base, .limit = limit};
}

static void data_segments(struct cpu_state *s, uint16_t selector, uint16_t access, uint64_t base, uint32_t limit)
{
	segment(&s->seg[SEG_SS], selector, access, base, limit);
	segment(&s->seg[SEG_DS], selector, access, base, limit);
	segment(&s->seg[SEG_ES], selector, access, base, limit);
	segment(&s->seg[SEG_FS], selector, access, base, limit);
	segment(&s->seg[SEG_GS], selector, access, base, limit);
}

static bool is_user(enum mode m) { return m == LONG64_USER || m == COMPAT_USER || m == FLAT32_USER || m == VM86; }
static bool is_long(enum mode m) { return m <= COMPAT_USER; }
static unsigned bits_of(enum mode m) { return m <= LONG64_USER ? 64 : m <= PAE32 ? 32 : 16; }

static void control_registers(struct guest *g, struct cpu_state *s, enum mode m)
{
	s->cr0 = 0x30; /* ET, NE */
	s->cr4 = 0x600; /* OSFXSR, OSXMMEXCPT */
	if (m != REAL)
		s->cr0 |= 1;
	if (is_long(m) || m == PAGED32 || m == PAE32)
		s->cr0 |= 0x80010000;
	if (is_long(m) || m == PAE32)
		s->cr4 |= 0x20;
	if (m == PAGED32)
		s->cr4 |= 0x10;
	s->cr3 = is_long(m) ? PML4 : m == PAE32 ? PDPT_PAE : PD32;
	s->efer = is_long(m) ? 0xd01 : 0x800;
	s->xcr0 = 7;
	if (chance(g, 80))
		s->cr4 |= 0x50000; /* FSGSBASE, OSXSAVE */
	if (chance(g, 10))
		s->cr0 ^= 0xe & rnd(g); /* MP, EM, TS */
	if (chance(g, 10))
		s->cr4 ^= rnd(g) & 0x30088f; /* VME PVI TSD DE, PGE, SMEP SMAP, UMIP */
	if (chance(g, 5))
		s->cr0 |= 0x40000; /* AM */
	for (unsigned i = 0; i < 4; i++)
		s->dr[i] = chance(g, 50) ? GVA_D0 : chance(g, 50) ? GVA_CODE + (rnd(g) & 0xfff) : 0;
	if (chance(g, 10))
		s->dr7 = (rnd(g) & 0xffff00ff) | 0x400;
	if (is_long(m) && chance(g, 20))
		s->cr4 |= 1u << 17 | (chance(g, 50) ? 1u << 21 : 0); /* PCIDE, SMAP */
}

static void state(struct guest *g, struct cpu_state *s, const struct diff_case *c, enum mode m)
{
	uint64_t rip = c->cpu.rip, base = 0;
	uint16_t cpl = is_user(m) ? 3 : 0, dpl = (uint16_t)(cpl << 5);

	*s = g->fresh;
	memcpy(s->gpr, c->cpu.gpr, sizeof(s->gpr));
	memcpy(s->xsave, c->cpu.xsave, XSAVE_BYTES);
	s->rflags = c->cpu.rflags;
	if (chance(g, 50))
		s->rflags &= ~0x200ull;
	if (chance(g, 10))
		s->rflags |= rnd(g) & 0x257000; /* IOPL, NT, RF, AC, ID */
	control_registers(g, s, m);
	s->gdtr.base = GDT;
	s->gdtr.limit = sizeof(gdt) - 1;
	s->idtr.base = is_long(m) ? IDT64 : m == REAL ? IVT : IDT32;
	s->idtr.limit = chance(g, 95) ? 0xfff : (uint32_t)(rnd(g) & 0xffff);
	segment(&s->tr, 0x50, 0x8b, TSS, 0x67);
	memset(&s->ldtr, 0, sizeof(s->ldtr));
	switch (m) {
	case LONG64:
	case LONG64_USER: segment(&s->seg[SEG_CS], cpl ? 0x33 : 0x10, 0xa09b | dpl, 0, ~0u); break;
	case REAL:
	case VM86:
	case PROT16:
		base = GVA_CODE;
		segment(&s->seg[SEG_CS], m == PROT16 ? 0x40 : (uint16_t)rnd(g), m == VM86 ? 0xf3 : 0x9b, base, 0xffff);
		break;
	default: segment(&s->seg[SEG_CS], cpl ? 0x23 : 0x38, 0xc09b | dpl, 0, ~0u); break;
	}
	if (bits_of(m) == 16) {
		bool big = m == REAL && chance(g, 30);
		data_segments(s, 0x48, m == VM86 ? 0xf3 : 0x93, GVA_D0, big ? ~0u : 0xffff);
		if (m == VM86)
			s->rflags |= 0x20000;
	} else {
		data_segments(s, cpl ? 0x2b : 0x18, 0xc093 | dpl, 0, ~0u);
	}
	if (bits_of(m) == 64) {
		s->seg[SEG_FS].base = c->cpu.fs_base;
		s->seg[SEG_GS].base = c->cpu.gs_base;
	}
	for (unsigned i = 0; i < GPR_COUNT; i++)
		if (chance(g, 5))
			s->gpr[i] = TABLES + (rnd(g) & (TABLE_PAGES * 0x1000 - 8));
	if (bits_of(m) != 64)
		for (unsigned i = 0; i < GPR_COUNT; i++)
			s->gpr[i] = (uint32_t)s->gpr[i];
	s->rip = rip;
	s->star = 0x0023001000000000;
	s->lstar = HANDLERS;
	s->sysenter_cs = 0x10;
	s->sysenter_eip = HANDLERS;
	s->sysenter_esp = STACK0;
}

static void memory(struct guest *g, const struct diff_case *c)
{
	for (unsigned i = 0; i < WORLD_PAGES; i++) {
		const struct world_page *p = &world_pages[i];
		uint64_t gpa = p->gva < RAM_BYTES ? p->gva : p->gva == GVA_HIGH ? HIGH_PHYS : 0;
		if (!gpa || p->gva == GVA_ALIAS || p->gva == GVA_RX)
			continue;
		memcpy(g->ram + gpa, c->mem[p->phys], GUEST_PAGE_SIZE);
		bt_mode.ram_written(g->vm, gpa, GUEST_PAGE_SIZE);
	}
}

static void run_one(struct guest *g, unsigned number, bool verbose)
{
	static __thread struct diff_case c;
	static __thread struct cpu_state s;
	struct mode_exit e = {.reason = MODE_EXIT_ERROR};

	g->random = g->m->seed * 0x100000001b3ull + number;
	enum mode m = (enum mode)(rnd(g) % MODE_COUNT);
	case_generate_any(&c, g->m->seed, number, bits_of(m));
	case_layout(&c);
	memory(g, &c);
	tables(g);
	bt_mode.ram_written(g->vm, GDT, 0x200000);
	state(g, &s, &c, m);
	if (verbose) {
		printf("# mode: %s\n", mode_names_[m]);
		case_print(&c);
		for (unsigned i = 0; i < GPR_COUNT; i++)
			printf("# r%u %llx\n", i, (unsigned long long)s.gpr[i]);
		fflush(stdout);
	}
	watch_case(g->m->vcpus > 1 ? "--vcpus 2" : "", number);
	bt_mode.set_state(g->vcpu, &s);
	g->ticks = 0;
	g->running = true;
	int rc = bt_mode.vcpu_run(g->vcpu, &e);
	g->running = false;
	if (rc)
		e.reason = MODE_EXIT_ERROR;
	__atomic_fetch_add(&ended[e.reason & 3], 1, __ATOMIC_RELAXED);
	if (e.reason == MODE_EXIT_ERROR || verbose)
		printf("# case %u, %s: exit %u %s\n", number, mode_names_[m], e.reason, rc ? strerror(-rc) : e.message);
}

static void *run_cases(void *arg)
{
	struct guest *g = arg;

	for (unsigned i = g->index; i < g->m->count; i += g->m->vcpus)
		run_one(g, g->m->from + i, g->m->verbose);
	return NULL;
}

static volatile bool scribbling;

/* Changes table entries under everybody's feet, and changes most of them back. */
static void *scribble(void *arg)
{
	const struct vm *m = arg;
	struct guest g = {.ram = m->ram, .random = m->seed ^ m->from};

	while (scribbling) {
		uint64_t *e = (uint64_t *)(void *)(m->ram + TABLES + (rnd(&g) % (TABLE_PAGES * 512)) * 8), old = *e;
		const struct timespec rest = {.tv_nsec = 2000};

		__atomic_store_n(e, chance(&g, 50) ? old ^ (rnd(&g) & 0x7f) : rnd(&g), __ATOMIC_RELAXED);
		nanosleep(&rest, NULL);
		if (chance(&g, 90))
			__atomic_store_n(e, old, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* A fresh machine for some of the cases. */
static const char *run_round(struct vm *m)
{
	const char *why = vm_create(m);
	pthread_t scribbler;

	if (why)
		return why;
	scribbling = m->scribble;
	if (m->scribble && pthread_create(&scribbler, NULL, scribble, m))
		return "no thread";
	for (unsigned i = 0; i < m->vcpus; i++)
		if (pthread_create(&guests[i].thread, NULL, run_cases, &guests[i]))
			return "no thread";
	for (unsigned i = 0; i < m->vcpus; i++)
		pthread_join(guests[i].thread, NULL);
	if (m->scribble) {
		scribbling = false;
		pthread_join(scribbler, NULL);
	}
	vm_destroy(m);
	return NULL;
}

static const char *run_all(struct vm *m, unsigned from, unsigned count)
{
	const char *why = NULL;

	for (unsigned i = 0; i < count && !why; i += FRESH_EVERY) {
		m->from = from + i;
		m->count = count - i < FRESH_EVERY ? count - i : FRESH_EVERY;
		why = run_round(m);
	}
	return why;
}

static void plan(struct vm *m, unsigned n, unsigned from, unsigned count)
{
	memset(ended, 0, sizeof(ended));
	const char *why = run_all(m, from, count);
	if (why) {
		printf("ok %u # SKIP %s\n", n, why);
		return;
	}
	printf("%s %u - %u hostile guests on %u vCPU%s, seed %llu: %u halted, %u shut down, %u were stopped, "
	       "%u the engine gave up on\n", ended[MODE_EXIT_ERROR] ? "not ok" : "ok", n, count, m->vcpus, m->vcpus > 1 ? "s" : "",
	       (unsigned long long)m->seed, ended[MODE_EXIT_HALT], ended[MODE_EXIT_SHUTDOWN], ended[MODE_EXIT_INTERRUPTED],
	       ended[MODE_EXIT_ERROR]);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", 1, NULL, 's'}, {"count", 1, NULL, 'n'}, {"from", 1, NULL, 'f'},
						{"case", 1, NULL, 'c'}, {"vcpus", 1, NULL, 'p'}, {"verbose", 0, NULL, 'v'},
						{"seconds", 1, NULL, 't'}, {"scribble", 0, NULL, 'x'}, {0}};
	struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_RESTART | SA_ONSTACK};
	struct itimerval timer = {.it_interval.tv_usec = 4000, .it_value.tv_usec = 4000};
	struct vm m = {.seed = 1};
	unsigned count = 0, from = 0, tests = 0;
	unsigned long seconds = 0;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) >= 0;)
		switch (o) {
		case 's': m.seed = strtoull(optarg, NULL, 0); break;
		case 'n': count = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'f': from = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'c':
			from = (unsigned)strtoul(optarg, NULL, 0);
			count = 1;
			break;
		case 'p': m.vcpus = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'v': m.verbose = true; break;
		case 'x': m.scribble = true; break;
		case 't': seconds = strtoul(optarg, NULL, 0); break;
		default: m.vcpus = VCPUS_MAX + 1; break;
		}
	if (m.vcpus > VCPUS_MAX) {
		fprintf(stderr, "usage: hostile [--seed S] [--count N] [--from K] [--case K] [--vcpus 1..%u] [--seconds N] [--scribble] [--verbose]\n", VCPUS_MAX);
		return 2;
	}
	if (!seconds)
		printf("1..%u\n", m.vcpus ? 1 : 2);
	watch_start("hostile", m.seed);
	generator_prepare(); /* its tables, before there are threads */
	sigaction(SIGVTALRM, &sa, NULL);
	setitimer(ITIMER_VIRTUAL, &timer, NULL);
	time_t end = time(NULL) + (time_t)seconds;
	if (seconds) {
		for (unsigned vcpus = m.vcpus; time(NULL) < end; m.seed++) {
			m.vcpus = vcpus ? vcpus : 1 + m.seed % 2;
			m.scribble = m.seed / 2 % 2;
			plan(&m, ++tests, from, count ? count : FRESH_EVERY);
		}
		printf("1..%u\n", tests);
		return 0;
	}
	if (m.vcpus) {
		plan(&m, 1, from, count ? count : CHECK_CASES);
		return 0;
	}
	m.vcpus = 1;
	plan(&m, 1, from, count ? count : CHECK_CASES);
	m.vcpus = 2;
	plan(&m, 2, from, count ? count : CHECK_CASES / 2);
	return 0;
}
