/*
 * Where the VM's time goes, by sampling its vCPUs: slowly all the time, for the statistics, and fast while somebody asks for
 * hot blocks. A block is a translation's guest code; two processes that run the same page count as one.
 */
#include "vm/private.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#define SLOW_MS 100
#define FAST_MS 1
#define BLOCKS_MAX 16384u /* a power of two */
#define HELPERS_MAX 128
#define BATCH 256

struct block {
	struct mode_sample first; /* of this block */
	uint64_t samples;
};

struct helper {
	const char *name; /* static: compared by address */
	uint64_t samples;
};

struct totals {
	uint64_t where[MODE_SAMPLE_COUNT];
	struct helper helpers[HELPERS_MAX];
	unsigned helper_count;
};

/* Somebody waits for this. */
struct request {
	void (*done)(void *opaque, struct json_object *result);
	void *opaque;
	unsigned top;
	uint64_t began_ns, until_ns;
	struct totals totals;
	struct block *blocks; /* open addressing */
	uint64_t lost;        /* blocks that found no place */
	unsigned used;
};

struct vm_profile {
	struct event *timer;
	struct totals totals;
	struct request *request;
};

static const char *const names[MODE_SAMPLE_COUNT] = {
	[MODE_SAMPLE_IDLE] = "idle",	 [MODE_SAMPLE_CODE] = "code",		  [MODE_SAMPLE_MEMORY] = "memory",
	[MODE_SAMPLE_HELPER] = "helper", [MODE_SAMPLE_LOOKUP] = "lookup",	  [MODE_SAMPLE_TRANSLATE] = "translate",
	[MODE_SAMPLE_DEVICE] = "device", [MODE_SAMPLE_OTHER] = "run_loop",
};

static void count_helper(struct totals *t, const char *name)
{
	for (unsigned i = 0; i < t->helper_count; i++)
		if (t->helpers[i].name == name) {
			t->helpers[i].samples++;
			return;
		}
	if (t->helper_count < HELPERS_MAX)
		t->helpers[t->helper_count++] = (struct helper){name, 1};
}

static void count(struct totals *t, const struct mode_sample *s)
{
	t->where[s->where]++;
	if (s->where == MODE_SAMPLE_HELPER && s->helper)
		count_helper(t, s->helper);
}

static void count_block(struct request *r, const struct mode_sample *s)
{
	uint64_t h = (s->block * 0x9e3779b97f4a7c15ull ^ s->block_gpa * 0xc2b2ae3d27d4eb4full) >> 40;

	for (unsigned i = 0; i < 64; i++) {
		struct block *b = &r->blocks[(h + i) & (BLOCKS_MAX - 1)];
		if (b->samples && (b->first.block != s->block || b->first.block_gpa != s->block_gpa || b->first.cpl != s->cpl))
			continue;
		if (!b->samples++)
			b->first = *s;
		return;
	}
	r->lost++;
}

static void take(struct vm *vm, struct vm_profile *p)
{
	struct mode_sample samples[BATCH];
	size_t n;

	do {
		n = vm->mode->samples(vm->engine, samples, BATCH);
		for (size_t i = 0; i < n; i++) {
			count(&p->totals, &samples[i]);
			if (!p->request)
				continue;
			count(&p->request->totals, &samples[i]);
			if (samples[i].where == MODE_SAMPLE_CODE)
				count_block(p->request, &samples[i]);
		}
	} while (n == BATCH);
}

/* ---- as JSON ---- */

static int by_samples(const void *a, const void *b)
{
	uint64_t x = ((const struct helper *)a)->samples, y = ((const struct helper *)b)->samples;

	return x < y ? 1 : x > y ? -1 : 0;
}

static int block_by_samples(const void *a, const void *b)
{
	uint64_t x = ((const struct block *)a)->samples, y = ((const struct block *)b)->samples;

	return x < y ? 1 : x > y ? -1 : 0;
}

static struct json_object *where_json(const struct totals *t)
{
	struct json_object *o = json_object_new_object();

	for (unsigned i = 0; i < MODE_SAMPLE_COUNT; i++)
		json_object_object_add(o, names[i], json_object_new_int64((int64_t)t->where[i]));
	return o;
}

/* By instruction, the most frequent first. */
static struct json_object *helpers_json(struct totals *t)
{
	struct json_object *o = json_object_new_object();

	qsort(t->helpers, t->helper_count, sizeof(t->helpers[0]), by_samples);
	for (unsigned i = 0; i < t->helper_count; i++) {
		struct json_object *before = NULL; /* two rows of the opcode table may have one name */
		int64_t n = (int64_t)t->helpers[i].samples;
		if (json_object_object_get_ex(o, t->helpers[i].name, &before))
			n += json_object_get_int64(before);
		json_object_object_add(o, t->helpers[i].name, json_object_new_int64(n));
	}
	return o;
}

static void put_hex(struct json_object *to, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, value);
	json_object_object_add(to, key, json_object_new_string(text));
}

static struct json_object *block_json(struct vm *vm, const struct block *b, uint64_t all)
{
	struct json_object *o = json_object_new_object();
	uint8_t bytes[256];
	size_t want = b->first.block_bytes < sizeof(bytes) ? b->first.block_bytes : sizeof(bytes);
	size_t n = vm_read_physical(vm, b->first.block_gpa, bytes, want);
	char text[2 * sizeof(bytes) + 1] = "";

	for (size_t i = 0; i < n; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	put_hex(o, "address", b->first.block);
	put_hex(o, "physical", b->first.block_gpa);
	json_object_object_add(o, "cpl", json_object_new_int(b->first.cpl));
	json_object_object_add(o, "bits", json_object_new_int(b->first.bits));
	json_object_object_add(o, "samples", json_object_new_int64((int64_t)b->samples));
	json_object_object_add(o, "share", json_object_new_double(all ? (double)b->samples / (double)all : 0));
	json_object_object_add(o, "bytes", json_object_new_string(text));
	json_object_object_add(o, "code", vm_disassemble_json(bytes, n, b->first.block, b->first.bits, SIZE_MAX));
	return o;
}

static struct json_object *result_json(struct vm *vm, struct request *r)
{
	struct json_object *o = json_object_new_object(), *blocks = json_object_new_array();
	uint64_t busy = 0;

	for (unsigned i = 0; i < MODE_SAMPLE_COUNT; i++)
		busy += i == MODE_SAMPLE_IDLE ? 0 : r->totals.where[i];
	for (unsigned i = 0; i < BLOCKS_MAX; i++)
		if (r->blocks[i].samples)
			r->blocks[r->used++] = r->blocks[i];
	qsort(r->blocks, r->used, sizeof(r->blocks[0]), block_by_samples);
	for (unsigned i = 0; i < r->used && i < r->top; i++)
		json_object_array_add(blocks, block_json(vm, &r->blocks[i], busy));
	json_object_object_add(o, "seconds", json_object_new_double((double)(vm_now_ns() - r->began_ns) / 1e9));
	json_object_object_add(o, "samples", json_object_new_int64((int64_t)busy));
	json_object_object_add(o, "where", where_json(&r->totals));
	json_object_object_add(o, "helpers", helpers_json(&r->totals));
	json_object_object_add(o, "distinct_blocks", json_object_new_int64((int64_t)(r->used + r->lost)));
	json_object_object_add(o, "blocks", blocks);
	return o;
}

/* ---- the timer ---- */

static void finish_request(struct vm *vm, struct vm_profile *p)
{
	struct request *r = p->request;

	p->request = NULL;
	r->done(r->opaque, result_json(vm, r));
	free(r->blocks);
	free(r);
}

static void next(struct vm_profile *p)
{
	struct timeval tv = {.tv_usec = (p->request ? FAST_MS : SLOW_MS) * 1000};

	event_add(p->timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct vm *vm = arg;
	struct vm_profile *p = vm->profile;

	if (!vm->halted && !vm_state_is_final(vm->state))
		for (unsigned i = 0; i < vm->vcpu_count; i++)
			vm->mode->sample(vm->vcpus[i].engine);
	take(vm, p);
	if (p->request && vm_now_ns() >= p->request->until_ns)
		finish_request(vm, p);
	next(p);
}

int vm_profile_open(struct vm *vm)
{
	struct vm_profile *p;

	if (!(vm->mode->capabilities & MODE_CAP_PROFILE))
		return 0;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	vm->profile = p;
	p->timer = event_new(vm->base, -1, 0, on_timer, vm);
	if (!p->timer)
		return -ENOMEM;
	next(p);
	return 0;
}

void vm_profile_close(struct vm *vm)
{
	struct vm_profile *p = vm->profile;

	if (!p)
		return;
	if (p->request) {
		p->request->done(p->request->opaque, NULL);
		free(p->request->blocks);
		free(p->request);
	}
	if (p->timer)
		event_free(p->timer);
	free(p);
	vm->profile = NULL;
}

struct json_object *vm_profile_where_json(struct vm *vm) { return vm->profile ? where_json(&vm->profile->totals) : NULL; }

struct json_object *vm_profile_helpers_json(struct vm *vm) { return vm->profile ? helpers_json(&vm->profile->totals) : NULL; }

int vm_profile_start(struct vm *vm, double seconds, unsigned top, void (*done)(void *opaque, struct json_object *result),
		     void *opaque)
{
	struct vm_profile *p = vm->profile;
	struct request *r;

	if (!p)
		return -ENOTSUP;
	if (vm->state != VM_RUNNING)
		return -EBUSY;
	if (p->request)
		return -EALREADY;
	r = calloc(1, sizeof(*r));
	if (r)
		r->blocks = calloc(BLOCKS_MAX, sizeof(*r->blocks));
	if (!r || !r->blocks) {
		free(r);
		return -ENOMEM;
	}
	take(vm, p); /* what came before counts not */
	r->done = done;
	r->opaque = opaque;
	r->top = top;
	r->began_ns = vm_now_ns();
	r->until_ns = r->began_ns + (uint64_t)(seconds * 1e9);
	p->request = r;
	event_del(p->timer);
	next(p);
	return 0;
}

bool vm_profile_cancel(struct vm *vm, void *opaque)
{
	struct vm_profile *p = vm->profile;

	if (!p || !p->request || p->request->opaque != opaque)
		return false;
	free(p->request->blocks);
	free(p->request);
	p->request = NULL;
	return true;
}
