/* The console's ring (io/console.h): two buffers in a page of the guest's, and an event when one of them has changed. */
#include "modes/pv/private.h"

/* Indices come from the guest: differences are limited, and each is read once. */
void pv_console_drain(struct pv_domain *d)
{
	volatile struct xencons_interface *ring = d->console;
	uint8_t buf[sizeof(ring->out)];
	uint32_t prod, cons, n;

	mlock_lock(&d->console_lock);
	prod = __atomic_load_n(&ring->out_prod, __ATOMIC_ACQUIRE);
	cons = ring->out_cons;
	n = prod - cons;
	if (n > sizeof(buf))
		n = 0;
	for (uint32_t i = 0; i < n; i++)
		buf[i] = (uint8_t)ring->out[MASK_XENCONS_IDX(cons + i, ring->out)];
	if (n)
		__atomic_store_n(&ring->out_cons, prod, __ATOMIC_RELEASE);
	machine_serial_output(d->machine, buf, n);
	mlock_unlock(&d->console_lock);
	if (n)
		pv_event_raise(d, d->console_port);
}

/* Both directions: what the guest wrote, and room for what was typed. */
static void on_event(void *opaque)
{
	struct pv_domain *d = opaque;

	pv_console_drain(d);
}

static size_t on_input(void *opaque, const void *bytes, size_t n)
{
	struct pv_domain *d = opaque;
	volatile struct xencons_interface *ring = d->console;
	uint32_t cons, prod, room;

	if (!ring)
		return 0;
	cons = __atomic_load_n(&ring->in_cons, __ATOMIC_ACQUIRE);
	prod = ring->in_prod;
	room = sizeof(ring->in) - (prod - cons);
	if (prod - cons > sizeof(ring->in))
		return 0;
	if (n > room)
		n = room;
	for (size_t i = 0; i < n; i++)
		ring->in[MASK_XENCONS_IDX(prod + i, ring->in)] = ((const char *)bytes)[i];
	__atomic_store_n(&ring->in_prod, prod + (uint32_t)n, __ATOMIC_RELEASE);
	if (n)
		pv_event_raise(d, d->console_port);
	return n;
}

int pv_console_start(struct pv_domain *d)
{
	d->console_port = pv_event_connect(d, on_event, d);
	machine_serial_divert(d->machine, on_input, d);
	return 0;
}
