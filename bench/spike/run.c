/* Guest memory with its page tables, the slow path, and timing for the spike. */
#include "bench/spike/spike.h"

#include <asm/prctl.h>
#include <err.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Linear address = host address, behind real four-level tables, so that a miss costs a real walk. */
void guest_mem_open(struct guest_mem *gm)
{
	int fd = memfd_create("spike-ram", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, ARENA) < 0)
		err(1, "spike: memfd for guest memory");
	gm->arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (gm->arena == MAP_FAILED)
		err(1, "spike: mapping guest memory");
	close(fd);
	gm->size = ARENA;
	gm->root = aligned_alloc(4096, 4096);
	memset(gm->root, 0, 4096);
	for (size_t off = 0; off < ARENA; off += 4096) {
		uint64_t gva = (uint64_t)gm->arena + off, *table = gm->root;
		for (int shift = 39; shift > 12; shift -= 9) {
			uint64_t *e = &table[gva >> shift & 511];
			if (!*e) {
				*e = (uint64_t)aligned_alloc(4096, 4096);
				memset((void *)*e, 0, 4096);
			}
			table = (uint64_t *)*e;
		}
		table[gva >> 12 & 511] = gva;
	}
}

struct vstate *vstate_new(void)
{
	size_t size = (sizeof(struct vstate) + 4095) & ~4095ul;
	uint8_t *p = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		err(1, "spike: memory for a vCPU");
	return (struct vstate *)(p + 4096);
}

void use_gs(struct vstate *v)
{
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, v) < 0)
		err(1, "spike: arch_prctl(ARCH_SET_GS)");
}

void spike_slow(struct vstate *v)
{
	uint64_t gva = v->slow_addr, page = gva & ~4095ul, *table = v->gm->root;
	bool stack = v->slow_desc >> 8 & 1;
	unsigned n = 1u << (v->design->bits ? v->design->bits : 12), i = page >> 12 & (n - 1);

	if ((gva & 4095) + (v->slow_desc & 255) > 4096 || gva - (uint64_t)v->gm->arena >= v->gm->size)
		errx(1, "spike: %s: stray access to %#lx", v->design->name, gva);
	for (int shift = 39; shift > 12; shift -= 9)
		table = (uint64_t *)table[gva >> shift & 511];
	uint64_t host = table[gva >> 12 & 511], addend = host - page;
	bool wants_addend = v->design->tlb == TLB_ADDEND32, positive = wants_addend;

	v->misses++;
	if (stack && v->design->stack != STK_TLB) {
		v->stack_tag = -page;
		v->stack_host = wants_addend || v->design->tlb == TLB_JRCXZ ? addend : host;
	}
	v->tlb[i].read = v->tlb[i].write = positive ? page : -page;
	v->tlb[i].host = wants_addend ? addend : host;
	v->split_read[i] = -page;
	v->split_host[i] = host;
	v->split_addend[i] = addend;
}

void spike_lookup_miss(struct vstate *v)
{
	errx(1, "spike: %s: an indirect branch found no target", v->design->name);
}

uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

uint64_t cpu_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

double median(double *v, unsigned n)
{
	qsort(v, n, sizeof(*v), by_value);
	return n & 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Designs take turns within a round, so that a slow moment of the machine hits them all. */
struct job {
	const struct design *d;
	const struct translation *t; /* [rounds][designs] */
	const struct program *p;
	unsigned designs, param, rounds, index;
	pthread_barrier_t *barrier;
	struct figure *figures; /* of this thread */
	double *times;          /* [designs][rounds] */
};
static struct guest_mem mem[2];
static struct vstate *states[2];

static double run_once(struct job *j, unsigned round, unsigned k, struct figure *f)
{
	const struct translation *t = &j->t[round * j->designs + k];
	struct vstate *v = states[j->index];
	uint64_t gpr[16] = { 0 }, start = 0, end = 0, ops, hash = 14695981039346656037u;

	vstate_reset(v, &j->d[k], t, &mem[j->index]);
	memset(v->gm->arena, 0, 4 << 20);
	ops = j->p->setup(v->gm, gpr, j->param, t->where);
	gpr[RSP] = (uint64_t)v->gm->arena + (1 << 20) - 1024;
	for (int timed = 0; timed < 2; timed++) { /* the first one warms up */
		memcpy(v->gpr, gpr, sizeof(gpr));
		memcpy(v->hi, &gpr[R13], sizeof(v->hi));
		v->misses = 0;
		pthread_barrier_wait(j->barrier);
		start = cpu_ns();
		t->enter(v, t->start);
		end = cpu_ns();
	}
	for (unsigned i = 0; i < 1 << 17; i += 8) /* what was stored, too */
		hash = (hash ^ *(uint64_t *)&v->gm->arena[(3 << 20) + i]) * 1099511628211u;
	f->result = hash ^ v->gpr[RAX];
	f->misses = (double)v->misses / ops;
	return (double)(end - start) / ops;
}

static void *job_run(void *arg)
{
	struct job *j = arg;

	use_gs(states[j->index]);
	for (unsigned round = 0; round < j->rounds; round++)
		for (unsigned k = 0; k < j->designs; k++)
			j->times[k * j->rounds + round] = run_once(j, round, k, &j->figures[k]);
	for (unsigned k = 0; k < j->designs; k++)
		j->figures[k].ns = median(&j->times[k * j->rounds], j->rounds);
	return NULL;
}

void measure(const struct design *d, unsigned designs, const struct program *p, unsigned param, unsigned threads,
	     unsigned rounds, struct figure *ret)
{
	struct translation *t = calloc(designs * rounds, sizeof(*t));
	struct figure *figures = calloc(2 * designs, sizeof(*figures));
	double *times = calloc(2 * designs * rounds, sizeof(*times));
	pthread_barrier_t barrier;
	pthread_t thread[2];
	struct job jobs[2];

	if (!t || !figures || !times)
		errx(1, "spike: out of memory");
	for (unsigned i = 0; i < 2; i++)
		if (!states[i]) {
			guest_mem_open(&mem[i]);
			states[i] = vstate_new();
		}
	for (unsigned k = 0; k < designs * rounds; k++)
		translate(&t[k], &d[k % designs], p, param, k / designs);
	pthread_barrier_init(&barrier, NULL, threads);
	for (unsigned i = 0; i < threads; i++) {
		jobs[i] = (struct job){ d, t, p, designs, param, rounds, i, &barrier, figures + i * designs,
					times + i * designs * rounds };
		if (pthread_create(&thread[i], NULL, job_run, &jobs[i]))
			errx(1, "spike: no thread");
	}
	for (unsigned i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&barrier);
	for (unsigned k = 0; k < designs; k++) {
		ret[k] = figures[k];
		ret[k].bytes = t[k].bytes;
		for (unsigned i = 0; i < threads; i++)
			if (figures[i * designs + k].result != figures[0].result)
				errx(1, "spike: %s computes a wrong %s", d[k].name, p->name);
		if (threads > 1)
			ret[k].ns = (ret[k].ns + figures[designs + k].ns) / 2;
	}
	for (unsigned k = 0; k < designs * rounds; k++)
		translation_free(&t[k]);
	free(t);
	free(figures);
	free(times);
}
