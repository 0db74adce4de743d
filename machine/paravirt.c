/* The machine's services for an engine with devices of its own. */
#include "machine/paravirt.h"

#include "machine/private.h"

void machine_serial_output(struct machine *m, const void *bytes, size_t n)
{
	machine_lock(m);
	if (m->config.on_output && n)
		m->config.on_output(m->config.opaque, 0, bytes, n);
	machine_unlock(m);
}

void machine_serial_divert(struct machine *m, size_t (*fn)(void *opaque, const void *bytes, size_t n), void *opaque)
{
	machine_lock(m);
	m->console_input = fn;
	m->console_opaque = opaque;
	machine_unlock(m);
}

void machine_report(struct machine *m, enum machine_event event, unsigned code)
{
	machine_lock(m);
	machine_tell(m, event, code);
	machine_unlock(m);
}

/* ---- timers -------------------------------------------------------------------- */

struct machine_timer {
	struct machine *machine;
	struct clock_timer timer;
};

struct machine_timer *machine_timer_create(struct machine *m, void (*fn)(void *opaque), void *opaque)
{
	struct machine_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->machine = m;
	clock_timer_init(&t->timer, fn, opaque);
	return t;
}

void machine_timer_destroy(struct machine_timer *t)
{
	if (!t)
		return;
	machine_timer_set(t, CLOCK_NEVER);
	free(t);
}

void machine_timer_set_locked(struct machine_timer *t, uint64_t deadline)
{
	if (deadline == CLOCK_NEVER)
		clock_timer_cancel(t->machine, &t->timer);
	else
		clock_timer_arm(t->machine, &t->timer, deadline);
}

void machine_timer_set(struct machine_timer *t, uint64_t deadline)
{
	machine_lock(t->machine);
	machine_timer_set_locked(t, deadline);
	machine_unlock(t->machine);
}

#define NS_PER_S 1000000000ull

void machine_tsc_scale(uint64_t khz, uint32_t *ret_mul, int8_t *ret_shift)
{
	uint64_t rate = khz * 1000;
	int shift = 0;

	/* mul = NS_PER_S * 2^(32 - shift) / rate must have 32 bits, the top one set as far as possible. */
	while (rate >> -shift > 2 * NS_PER_S)
		shift--;
	while (shift >= 0 && rate << shift <= NS_PER_S)
		shift++;
	if (shift <= 0)
		*ret_mul = (uint32_t)((NS_PER_S << 32 << -shift) / rate);
	else
		*ret_mul = (uint32_t)((NS_PER_S << 32) / (rate << shift));
	*ret_shift = (int8_t)shift;
}
