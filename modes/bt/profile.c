/*
 * Where vCPUs spend their time, by sampling: a signal asks a vCPU's thread, whose handler notes what it interrupted. Nothing
 * is counted in between, so what nobody asks for costs nothing.
 */
#include "modes/bt/run.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING 1024u /* samples between two looks */

/* One writer: the vCPU's handler. One reader: whoever takes. What does not fit is lost. */
struct bt_profile {
	volatile uint32_t head, tail;
	uint64_t idle, idle_taken; /* the reader's own */
	struct mode_sample ring[RING];
};

int bt_profile_create(struct bt_vcpu *v)
{
	void *p = mmap(NULL, sizeof(*v->profile), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -ENOMEM;
	v->profile = p;
	return 0;
}

void bt_profile_destroy(struct bt_vcpu *v)
{
	if (v->profile)
		munmap(v->profile, sizeof(*v->profile));
	v->profile = NULL;
}

static unsigned bits_of(uint32_t key) { return key & KEY_BITS64 ? 64 : key & KEY_BITS32 ? 32 : 16; }

static gva_t linear(const struct bt_tb *tb, uint64_t rip)
{
	return tb->key & KEY_BITS64 ? rip : (uint32_t)(tb->cs_base + rip);
}

static gpa_t gpa_of(const struct bt_vm *vm, const struct bt_tb *tb)
{
	return vm->cache.pages[tb->page_id].gpa | (linear(tb, tb->rip) & 0xfff);
}

/* The guest's code it was at; false: between translations (thunks). */
static bool note_code(struct bt_vcpu *v, const uint8_t *pc, struct mode_sample *s)
{
	const struct bt_insn_map *m;
	struct bt_tb *tb;

	if (!bt_tb_of(v->vm, pc))
		pc = bt_untail(v->vm, pc);
	if (!bt_rip_of(v->vm, pc, &tb, &m))
		return false;
	while (m > tb->map && m->flags & BT_MAP_POLL)
		m--;
	s->where = MODE_SAMPLE_CODE;
	s->block = linear(tb, tb->rip);
	s->rip = s->block + m->guest;
	s->block_gpa = gpa_of(v->vm, tb);
	s->block_bytes = tb->guest_bytes;
	s->cpl = tb->key >> KEY_CPL_SHIFT & 3;
	s->bits = (uint8_t)bits_of(tb->key);
	return true;
}

void bt_profile_note(struct bt_vcpu *v, const uint8_t *pc)
{
	struct bt_profile *p = v->profile;
	const struct bt_cache *c = &v->vm->cache;
	struct mode_sample s = {.where = MODE_SAMPLE_OTHER};

	if (!p || p->head - p->tail >= RING)
		return;
	if (!v->running)
		s.where = MODE_SAMPLE_IDLE;
	else if (!v->fpu_live)
		s.where = MODE_SAMPLE_DEVICE;
	else if (v->translating)
		s.where = MODE_SAMPLE_TRANSLATE;
	else if (v->in_code && pc >= c->exec && pc < c->exec + BT_CACHE_BYTES)
		s.where = note_code(v, pc, &s) ? MODE_SAMPLE_CODE : MODE_SAMPLE_LOOKUP;
	else if (v->in_code && v->site)
		s.where = MODE_SAMPLE_MEMORY;
	else if (v->in_code && !v->op_insn)
		s.where = MODE_SAMPLE_LOOKUP;
	else if (v->in_code) {
		s.where = MODE_SAMPLE_HELPER;
		s.helper = v->op_insn->name;
	}
	p->ring[p->head % RING] = s;
	__atomic_store_n(&p->head, p->head + 1, __ATOMIC_RELEASE);
}

void bt_profile_ask(struct bt_vcpu *v)
{
	/* One that sleeps is left asleep. */
	if (v->running && v->tid)
		syscall(SYS_tgkill, getpid(), v->tid, BT_PROFILE_SIGNAL);
	else
		v->profile->idle++;
}

size_t bt_profile_take(struct bt_vm *vm, struct mode_sample *ret, size_t max)
{
	size_t n = 0;

	for (unsigned i = 0; i < vm->vcpus; i++) {
		struct bt_profile *p = vm->vcpu[i] ? vm->vcpu[i]->profile : NULL;
		if (!p)
			continue;
		for (; p->idle_taken < p->idle && n < max; p->idle_taken++)
			ret[n++] = (struct mode_sample){.where = MODE_SAMPLE_IDLE};
		while (n < max && p->tail != __atomic_load_n(&p->head, __ATOMIC_ACQUIRE)) {
			ret[n++] = p->ring[p->tail % RING];
			p->tail++;
		}
	}
	return n;
}

/* ---- translations ---- */

static void describe(const struct bt_vm *vm, const struct bt_tb *tb, struct mode_translation *ret)
{
	ret->gva = linear(tb, tb->rip);
	ret->gpa = gpa_of(vm, tb);
	ret->guest_bytes = tb->guest_bytes;
	ret->cpl = tb->key >> KEY_CPL_SHIFT & 3;
	ret->bits = (uint8_t)bits_of(tb->key);
	ret->instructions = tb->insns;
	ret->host = tb->exec;
	ret->host_bytes = tb->bytes;
	ret->map_count = 0;
	for (unsigned i = 0; i < tb->map_count && i < ARRAY_SIZE(ret->map); i++) {
		if (tb->map[i].flags & BT_MAP_POLL)
			continue;
		ret->map[ret->map_count].host = tb->map[i].host;
		ret->map[ret->map_count++].guest = tb->map[i].guest;
	}
}

void bt_profile_translations(struct bt_vm *vm, gpa_t gpa, uint64_t bytes, mode_translation_fn *fn, void *opaque)
{
	const struct bt_cache *c = &vm->cache;
	struct mode_translation t;

	for (uint32_t i = 0; i < c->order_count; i++) {
		const struct bt_tb *tb = c->order[i];
		gpa_t at = gpa_of(vm, tb);
		if (tb->dead || tb->key & KEY_ONE || (bytes && (at >= gpa + bytes || gpa >= at + tb->guest_bytes)))
			continue;
		describe(vm, tb, &t);
		fn(opaque, &t);
	}
}
