/* Patching code that another thread runs, and kicking a vCPU out of a tight loop. */
#include "bench/spike/spike.h"

#include <err.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

static double tsc_per_ns;

static void calibrate(void)
{
	uint64_t n0 = now_ns(), t0 = __rdtsc();
	while (now_ns() - n0 < 20000000)
		;
	tsc_per_ns = (double)(__rdtsc() - t0) / (now_ns() - n0);
}

static void spin_ns(double ns)
{
	uint64_t end = __rdtsc() + (uint64_t)(ns * tsc_per_ns);
	while (__rdtsc() < end)
		_mm_pause();
}

/* ---- patching ---------------------------------------------------------------------------------- */

#define TURNS 20000000ul
struct patch_loop {
	struct cache cache;
	uint64_t (*run)(uint64_t turns); /* returns turns that went by either target */
	uint8_t *rel32, *target[2], *same_line, *same_page, *other_page; /* writable alias */
	volatile bool done;
	double ns;
	uint64_t turns;
};

/* turns in rdi: jmp to one of two counters, by a displacement that somebody may be changing. */
static void patch_loop_emit(struct patch_loop *l)
{
	cache_open(&l->cache, 16384);
	struct code c = { l->cache.w, l->cache.w + 4096, l->cache.x - l->cache.w, false };

	l->run = (uint64_t(*)(uint64_t))l->cache.x;
	e_mov_imm(&c, RAX, 0);
	e_mov_imm(&c, RDX, 0);
	while ((uintptr_t)c.w & 63)
		e_byte(&c, 0x90);
	uint8_t *top = c.w;
	l->rel32 = e_jmp(&c);
	l->same_line = top + 48;
	while (c.w < top + 64)
		e_byte(&c, 0xcc);
	l->target[0] = c.w;
	e_rr(&c, 0xff, 8, 0, RAX);
	uint8_t *join = e_jmp(&c);
	while ((uintptr_t)c.w & 63)
		e_byte(&c, 0xcc);
	l->target[1] = c.w;
	e_rr(&c, 0xff, 8, 0, RDX);
	e_fix(join, c.w);
	e_rr(&c, 0xff, 8, 1, RDI);
	e_fix(e_jcc(&c, CC_NE), top);
	e_rm(&c, 0x8d, 8, RAX, MEMX(RAX, RDX, 0, 0));
	e_byte(&c, 0xc3);
	e_fix(l->rel32, l->target[0]);
	l->same_page = l->cache.w + 2048;
	l->other_page = l->cache.w + 8192;
}

static void *patch_loop_run(void *arg)
{
	struct patch_loop *l = arg;
	uint64_t start = cpu_ns();
	l->turns = l->run(TURNS);
	l->ns = cpu_ns() - start;
	l->done = true;
	return NULL;
}

/* Runs the loop while this thread stores to `where` (the jump itself if NULL) every `every` ns; 0: does nothing. */
static double patch_once(struct patch_loop *l, uint8_t *where, double every, uint64_t *ret_patches)
{
	pthread_t thread;
	uint64_t patches = 0;

	l->done = false;
	if (pthread_create(&thread, NULL, patch_loop_run, l))
		errx(1, "spike: no thread");
	while (!l->done) {
		if (!every) {
			usleep(500);
			continue;
		}
		spin_ns(every);
		patches++;
		if (where)
			__atomic_store_n((uint32_t *)where, (uint32_t)patches, __ATOMIC_RELEASE);
		else
			e_fix(l->rel32, l->target[patches & 1]);
	}
	pthread_join(thread, NULL);
	if (l->turns != TURNS)
		errx(1, "spike: the patched loop went astray: %lu turns of %lu", l->turns, TURNS);
	*ret_patches = patches;
	return l->ns;
}

static uint64_t total_patches;

static void print_patch(struct patch_loop *l, const char *what, uint8_t *where, double every)
{
	double quiet[15], busy[15];
	uint64_t patches = 0, none;
	for (int i = 0; i < 15; i++) {
		quiet[i] = patch_once(l, NULL, 0, &none);
		busy[i] = patch_once(l, where, every, &patches);
	}
	double q = median(quiet, 15), b = median(busy, 15); /* sorts: quartiles at 3 and 11 */
	printf("%-40s every %6.0f ns: loop %5.2f times as long (half of the quiet runs: %.2f to %.2f)\n", what, every,
	       b / q, quiet[3] / q, quiet[11] / q);
	total_patches += patches * 15;
}

static void print_self_patch(struct patch_loop *l)
{
	double ns[9], plain[9];
	uint64_t bad = 0;
	for (int i = 0; i < 9; i++) {
		uint64_t start = cpu_ns();
		for (unsigned k = 0; k < 20000; k++)
			bad += l->run(1) != 1;
		plain[i] = (cpu_ns() - start) / 20000.0;
		start = cpu_ns();
		for (unsigned k = 0; k < 20000; k++) {
			e_fix(l->rel32, l->target[k & 1]);
			bad += l->run(1) != 1;
		}
		ns[i] = (cpu_ns() - start) / 20000.0 - plain[i];
	}
	if (bad)
		errx(1, "spike: a self-patched loop went astray");
	printf("%-52s %8.0f ns\n", "a thread patches its own next jump", median(ns, 9));
}

static void *spin_until(void *arg)
{
	volatile bool *done = arg;
	while (!*done)
		_mm_pause();
	return NULL;
}

static void print_membarrier(void)
{
	volatile bool done = false;
	pthread_t thread;
	double ns[9];

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) < 0) {
		printf("membarrier(SYNC_CORE) is not available here\n");
		return;
	}
	if (pthread_create(&thread, NULL, spin_until, (void *)&done))
		errx(1, "spike: no thread");
	usleep(1000);
	for (int i = 0; i < 9; i++) {
		uint64_t start = now_ns();
		for (int k = 0; k < 200; k++)
			syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
		ns[i] = (now_ns() - start) / 200.0;
	}
	done = true;
	pthread_join(thread, NULL);
	printf("%-52s %8.0f ns\n", "membarrier(SYNC_CORE), the other thread running", median(ns, 9));
}

static void print_clear(void)
{
	static uint64_t table[1 << 16];
	static const unsigned entries[] = { 512, 4096, 65536 };
	for (unsigned i = 0; i < 3; i++) {
		double ns[9];
		for (int k = 0; k < 9; k++) {
			uint64_t start = cpu_ns();
			for (int r = 0; r < 50; r++) {
				memset(table, r, entries[i] * 8ul);
				__asm__ volatile("" : : "r"(table) : "memory");
			}
			ns[k] = (cpu_ns() - start) / 50.0;
		}
		printf("clearing a table of %5u host pointers %14s %8.0f ns\n", entries[i], "", median(ns, 9));
	}
}

void measure_patching(void)
{
	struct patch_loop l = { .done = false };

	calibrate();
	patch_loop_emit(&l);
	printf("\npatching through the writable alias while the other thread runs a loop of one patched jump\n");
	print_patch(&l, "the jump itself, two targets in turn", NULL, 100000);
	print_patch(&l, "the jump itself", NULL, 10000);
	print_patch(&l, "the jump itself", NULL, 1000);
	print_patch(&l, "the jump itself", NULL, 100);
	print_patch(&l, "unused bytes of the same cache line", l.same_line, 1000);
	print_patch(&l, "another line of the same page", l.same_page, 1000);
	print_patch(&l, "another page of the cache", l.other_page, 1000);
	printf("about %lu stores, no turn went astray\n", total_patches);
	print_self_patch(&l);
	print_membarrier();
	print_clear();
	cache_close(&l.cache);
}

/* ---- kicks -------------------------------------------------------------------------------------- */

enum kick { KICK_POINTER, KICK_MPROTECT, KICK_FLAG, KICK_SIGNAL_UNLINK, KICK_PATCH };
static const struct { const char *name; enum poll_kind poll; } kicks[] = {
	[KICK_POINTER] = { "two loads, pointer made to fault", POLL_LOAD2 },
	[KICK_MPROTECT] = { "one load, mprotect of its page", POLL_LOAD1 },
	[KICK_FLAG] = { "cmp; jne on a word", POLL_CMP },
	[KICK_SIGNAL_UNLINK] = { "signal, handler patches the back edge", POLL_NONE },
	[KICK_PATCH] = { "kicker patches the back edge itself", POLL_NONE },
};

#define KICKS 300
static struct kicked {
	struct translation t;
	struct vstate *v;
	uint64_t *bad; /* a page without access */
	enum kick kind;
	uint8_t *exit_w; /* exit, writable alias */
	pthread_t thread;
	volatile int round, left;
	volatile uint64_t out; /* TSC on leaving */
} K;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint8_t *rip = (uint8_t *)uc->uc_mcontext.gregs[REG_RIP];

	if (rip < K.t.cache.x || rip >= K.t.cache.x + K.t.cache.size)
		return; /* not in translated code: a kick that came late */
	if (sig == SIGUSR1) {
		e_fix(K.t.back_edge, K.exit_w);
		return;
	}
	if (info->si_addr != K.bad && info->si_addr != (uint8_t *)K.v - 4096)
		abort();
	uc->uc_mcontext.gregs[REG_RIP] = (int64_t)K.t.exit;
}

static void *kick_run(void *arg)
{
	stack_t ss = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	uint8_t *loop = K.t.back_edge + 4 + *(int32_t *)K.t.back_edge;

	use_gs(K.v);
	sigaltstack(&ss, NULL);
	for (int i = 1; i <= KICKS; i++) {
		K.v->poll = &K.v->poll_word;
		K.v->kicked = 0;
		if (K.kind == KICK_MPROTECT)
			mprotect((uint8_t *)K.v - 4096, 4096, PROT_READ | PROT_WRITE);
		e_fix(K.t.back_edge, loop);
		K.round = i;
		K.t.enter(K.v, K.t.start);
		K.out = __rdtsc();
		K.left = i;
	}
	ss.ss_flags = SS_DISABLE;
	sigaltstack(&ss, NULL);
	free(ss.ss_sp);
	return NULL;
}

static void kick(void)
{
	switch (K.kind) {
	case KICK_POINTER: K.v->poll = K.bad; break;
	case KICK_MPROTECT: mprotect((uint8_t *)K.v - 4096, 4096, PROT_NONE); break;
	case KICK_FLAG: K.v->kicked = 1; break;
	case KICK_SIGNAL_UNLINK: pthread_kill(K.thread, SIGUSR1); break;
	case KICK_PATCH: e_fix(K.t.back_edge, K.exit_w); break;
	}
}

static void measure_kick(enum kick kind)
{
	struct design d = { .name = "kick", .layout = LAY_RSP_STATE, .poll = kicks[kind].poll };
	struct guest_mem none = { 0 };
	double ns[KICKS], cost[KICKS];

	memset(&K, 0, sizeof(K));
	K.kind = kind;
	K.v = vstate_new();
	K.bad = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	translate(&K.t, &d, &prog_spin, 1, 0);
	K.exit_w = K.t.cache.w + (K.t.exit - K.t.cache.x);
	vstate_reset(K.v, &d, &K.t, &none);
	if (pthread_create(&K.thread, NULL, kick_run, NULL))
		errx(1, "spike: no thread");
	for (int i = 1; i <= KICKS; i++) {
		while (K.round != i)
			_mm_pause();
		spin_ns(50000);
		uint64_t start = __rdtsc();
		kick();
		cost[i - 1] = (__rdtsc() - start) / tsc_per_ns;
		while (K.left != i)
			_mm_pause();
		ns[i - 1] = (K.out - start) / tsc_per_ns;
	}
	pthread_join(K.thread, NULL);
	double middle = median(ns, KICKS);
	printf("%-40s %8.0f %8.0f %8.0f %12.0f\n", kicks[kind].name, middle, ns[KICKS * 9 / 10], ns[KICKS * 99 / 100],
	       median(cost, KICKS));
	translation_free(&K.t);
}

void measure_kicks(void)
{
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	calibrate();
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	printf("\nns from a kick to the exit from the tightest loop (%d kicks)\n%-40s %8s %8s %8s %12s\n", KICKS, "",
	       "median", "90 %", "99 %", "kicker pays");
	for (unsigned i = 0; i < sizeof(kicks) / sizeof(*kicks); i++)
		measure_kick(i);
}
