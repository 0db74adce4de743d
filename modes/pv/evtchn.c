/* Event channels: ports, what they are bound to, and the two-level bitmaps in shared_info (event_channel.h). */
#include "modes/pv/private.h"

#define WORD_BITS 64u

void pv_wake(struct pv_vcpu *p)
{
	bt_monitor_kick(p->v);
	machine_vcpu_wake(p->domain->machine, p->index);
}

void pv_lock_outside(struct pv_domain *d)
{
	while (__atomic_exchange_n(&d->lock, 1, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
}

static bool test_and_set(volatile xen_ulong_t *word, unsigned bit)
{
	return __atomic_fetch_or(word, 1ul << bit, __ATOMIC_SEQ_CST) >> bit & 1;
}

static void mark(struct pv_vcpu *p, uint32_t port)
{
	if (test_and_set(&p->info->evtchn_pending_sel, port / WORD_BITS))
		return;
	if (__atomic_exchange_n(&p->info->evtchn_upcall_pending, 1, __ATOMIC_SEQ_CST))
		return;
	pv_wake(p);
}

void pv_event_raise(struct pv_domain *d, uint32_t port)
{
	struct pv_vcpu *p = d->vcpu[d->port[port].vcpu];
	unsigned word = port / WORD_BITS, bit = port % WORD_BITS;

	d->stats.events++;
	if (!test_and_set(&d->shared->evtchn_pending[word], bit) && !(d->shared->evtchn_mask[word] >> bit & 1))
		mark(p, port);
	if (p->polling)
		pv_wake(p);
}

void pv_virq(struct pv_vcpu *p, unsigned virq)
{
	uint32_t port = p->virq_port[virq];

	if (port)
		pv_event_raise(p->domain, port);
}

/* ---- binding: the domain's lock is held ---------------------------------------------------------- */

/* Port 0 is nobody's. */
static uint32_t free_port(const struct pv_domain *d)
{
	for (uint32_t i = 1; i < PV_PORTS; i++)
		if (d->port[i].state == EVTCHNSTAT_closed)
			return i;
	return 0;
}

uint32_t pv_event_connect(struct pv_domain *d, void (*notify)(void *opaque), void *opaque)
{
	uint32_t port = free_port(d);

	if (port)
		d->port[port] = (struct pv_port){.state = EVTCHNSTAT_interdomain, .notify = notify, .opaque = opaque};
	return port;
}

bool pv_event_bind(struct pv_domain *d, uint32_t port, void (*notify)(void *opaque), void *opaque)
{
	struct pv_port *c = port && port < PV_PORTS ? &d->port[port] : NULL;
	bool ok;

	pv_lock_outside(d);
	ok = c && c->state == EVTCHNSTAT_unbound && c->remote_domain == 0;
	if (ok) {
		c->state = EVTCHNSTAT_interdomain;
		c->notify = notify;
		c->opaque = opaque;
	}
	pv_unlock_outside(d);
	return ok;
}

void pv_event_unbind(struct pv_domain *d, uint32_t port, void *opaque)
{
	struct pv_port *c = &d->port[port];

	pv_lock_outside(d);
	/* The guest may have closed it, and it may be another's by now. */
	if (c->state == EVTCHNSTAT_interdomain && c->notify && c->opaque == opaque) {
		c->state = EVTCHNSTAT_unbound;
		c->notify = NULL;
		c->opaque = NULL;
	}
	pv_unlock_outside(d);
}

static long bind_virq(struct pv_vcpu *p, struct evtchn_bind_virq *b)
{
	struct pv_domain *d = p->domain;
	struct pv_vcpu *of;

	if (b->vcpu >= d->vcpus)
		return -XEN_ENOENT;
	if (b->virq >= NR_VIRQS)
		return -XEN_EINVAL;
	/* Those of the whole host are for who rules it. */
	if (b->virq != VIRQ_TIMER && b->virq != VIRQ_DEBUG && b->virq != VIRQ_XENOPROF && b->virq != VIRQ_XENPMU && b->virq != VIRQ_ARGO)
		return -XEN_EINVAL;
	of = d->vcpu[b->vcpu];
	if (of->virq_port[b->virq])
		return -XEN_EEXIST;
	b->port = free_port(d);
	if (!b->port)
		return -XEN_ENOSPC;
	d->port[b->port] = (struct pv_port){.state = EVTCHNSTAT_virq, .vcpu = (uint8_t)b->vcpu, .number = b->virq};
	of->virq_port[b->virq] = b->port;
	return 0;
}

static long bind_ipi(struct pv_vcpu *p, struct evtchn_bind_ipi *b)
{
	if (b->vcpu >= p->domain->vcpus)
		return -XEN_ENOENT;
	b->port = free_port(p->domain);
	if (!b->port)
		return -XEN_ENOSPC;
	p->domain->port[b->port] = (struct pv_port){.state = EVTCHNSTAT_ipi, .vcpu = (uint8_t)b->vcpu};
	return 0;
}

static bool is_self(unsigned domain) { return domain == DOMID_SELF || domain == PV_DOMAIN_ID; }

static long alloc_unbound(struct pv_vcpu *p, struct evtchn_alloc_unbound *a)
{
	if (!is_self(a->dom))
		return -XEN_ESRCH;
	a->port = free_port(p->domain);
	if (!a->port)
		return -XEN_ENOSPC;
	p->domain->port[a->port] = (struct pv_port){.state = EVTCHNSTAT_unbound, .remote_domain = is_self(a->remote_dom) ? PV_DOMAIN_ID : a->remote_dom};
	return 0;
}

/* With itself only: back ends connect to the guest's ports, not the other way round. */
static long bind_interdomain(struct pv_vcpu *p, struct evtchn_bind_interdomain *b)
{
	struct pv_domain *d = p->domain;

	if (!is_self(b->remote_dom))
		return -XEN_ESRCH;
	if (b->remote_port >= PV_PORTS || d->port[b->remote_port].state != EVTCHNSTAT_unbound ||
	    d->port[b->remote_port].remote_domain != PV_DOMAIN_ID)
		return -XEN_EINVAL;
	b->local_port = free_port(d);
	if (!b->local_port)
		return -XEN_ENOSPC;
	d->port[b->local_port] = (struct pv_port){.state = EVTCHNSTAT_interdomain, .remote_domain = PV_DOMAIN_ID, .number = b->remote_port};
	d->port[b->remote_port].state = EVTCHNSTAT_interdomain;
	d->port[b->remote_port].number = b->local_port;
	pv_event_raise(d, b->local_port);
	return 0;
}

static long close_port(struct pv_domain *d, uint32_t port)
{
	struct pv_port *c = port < PV_PORTS ? &d->port[port] : NULL;

	if (!c || c->state == EVTCHNSTAT_closed)
		return -XEN_EINVAL;
	if (c->state == EVTCHNSTAT_virq)
		d->vcpu[c->vcpu]->virq_port[c->number] = 0;
	if (c->state == EVTCHNSTAT_interdomain && !c->notify && c->number && d->port[c->number].number == port) {
		d->port[c->number].state = EVTCHNSTAT_unbound;
		d->port[c->number].number = 0;
	}
	*c = (struct pv_port){.state = EVTCHNSTAT_closed};
	__atomic_fetch_and(&d->shared->evtchn_pending[port / WORD_BITS], ~(1ul << port % WORD_BITS), __ATOMIC_SEQ_CST);
	return 0;
}

static long status(struct pv_domain *d, struct evtchn_status *s)
{
	const struct pv_port *c = s->port < PV_PORTS ? &d->port[s->port] : NULL;

	if (!is_self(s->dom))
		return -XEN_ESRCH;
	if (!c)
		return -XEN_EINVAL;
	s->status = c->state;
	s->vcpu = c->vcpu;
	switch (c->state) {
	case EVTCHNSTAT_unbound: s->u.unbound.dom = c->remote_domain; break;
	case EVTCHNSTAT_interdomain:
		s->u.interdomain.dom = c->remote_domain;
		s->u.interdomain.port = c->number;
		break;
	case EVTCHNSTAT_virq: s->u.virq = c->number; break;
	default: break;
	}
	return 0;
}

static long bind_vcpu(struct pv_domain *d, const struct evtchn_bind_vcpu *b)
{
	struct pv_port *c = b->port < PV_PORTS ? &d->port[b->port] : NULL;

	if (b->vcpu >= d->vcpus)
		return -XEN_ENOENT;
	if (!c || (c->state != EVTCHNSTAT_unbound && c->state != EVTCHNSTAT_interdomain))
		return -XEN_EINVAL;
	c->vcpu = (uint8_t)b->vcpu;
	return 0;
}

static long unmask(struct pv_domain *d, uint32_t port)
{
	unsigned word = port / WORD_BITS, bit = port % WORD_BITS;

	if (port >= PV_PORTS)
		return -XEN_EINVAL;
	if (__atomic_fetch_and(&d->shared->evtchn_mask[word], ~(1ul << bit), __ATOMIC_SEQ_CST) >> bit & 1 &&
	    d->shared->evtchn_pending[word] >> bit & 1)
		mark(d->vcpu[d->port[port].vcpu], port);
	return 0;
}

/* ---- what a guest asks ------------------------------------------------------------------------------- */

/* A back end is told without the lock: it may do much, and raise events itself. */
static long send(struct pv_vcpu *p, uint32_t port)
{
	struct pv_domain *d = p->domain;
	struct pv_port c;

	if (port >= PV_PORTS)
		return -XEN_EINVAL;
	pv_lock(p);
	c = d->port[port];
	if (c.state == EVTCHNSTAT_ipi)
		pv_event_raise(d, port);
	else if (c.state == EVTCHNSTAT_interdomain && !c.notify)
		pv_event_raise(d, c.number);
	pv_unlock(p);
	if (c.state == EVTCHNSTAT_interdomain && c.notify) {
		pv_outside_begin(p);
		c.notify(c.opaque);
		pv_outside_end(p);
	}
	return c.state == EVTCHNSTAT_ipi || c.state == EVTCHNSTAT_interdomain || c.state == EVTCHNSTAT_unbound ? 0 : -XEN_EINVAL;
}

union args {
	struct evtchn_alloc_unbound alloc_unbound;
	struct evtchn_bind_interdomain bind_interdomain;
	struct evtchn_bind_virq bind_virq;
	struct evtchn_bind_ipi bind_ipi;
	struct evtchn_close close;
	struct evtchn_send send;
	struct evtchn_status status;
	struct evtchn_bind_vcpu bind_vcpu;
	struct evtchn_unmask unmask;
	struct evtchn_reset reset;
};

static long reset(struct pv_domain *d, unsigned domain)
{
	if (!is_self(domain))
		return -XEN_ESRCH;
	for (uint32_t i = 1; i < PV_PORTS; i++)
		if (!d->port[i].notify)
			close_port(d, i);
	return 0;
}

static long locked(struct pv_vcpu *p, unsigned cmd, union args *a)
{
	switch (cmd) {
	case EVTCHNOP_alloc_unbound: return alloc_unbound(p, &a->alloc_unbound);
	case EVTCHNOP_bind_interdomain: return bind_interdomain(p, &a->bind_interdomain);
	case EVTCHNOP_bind_virq: return bind_virq(p, &a->bind_virq);
	case EVTCHNOP_bind_ipi: return bind_ipi(p, &a->bind_ipi);
	case EVTCHNOP_close: return close_port(p->domain, a->close.port);
	case EVTCHNOP_status: return status(p->domain, &a->status);
	case EVTCHNOP_bind_vcpu: return bind_vcpu(p->domain, &a->bind_vcpu);
	case EVTCHNOP_unmask: return unmask(p->domain, a->unmask.port);
	case EVTCHNOP_reset: return reset(p->domain, a->reset.dom);
	case EVTCHNOP_bind_pirq: return -XEN_EPERM; /* no device of the host's is the guest's */
	default: return -XEN_ENOSYS; /* among them those of FIFO channels, which are not offered */
	}
}

long pv_event_op(struct pv_vcpu *p, unsigned cmd, gva_t arg)
{
	static const uint8_t bytes[] = {
		[EVTCHNOP_bind_interdomain] = sizeof(struct evtchn_bind_interdomain),
		[EVTCHNOP_bind_virq] = sizeof(struct evtchn_bind_virq),
		[EVTCHNOP_bind_pirq] = sizeof(struct evtchn_bind_pirq),
		[EVTCHNOP_close] = sizeof(struct evtchn_close),
		[EVTCHNOP_send] = sizeof(struct evtchn_send),
		[EVTCHNOP_status] = sizeof(struct evtchn_status),
		[EVTCHNOP_alloc_unbound] = sizeof(struct evtchn_alloc_unbound),
		[EVTCHNOP_bind_ipi] = sizeof(struct evtchn_bind_ipi),
		[EVTCHNOP_bind_vcpu] = sizeof(struct evtchn_bind_vcpu),
		[EVTCHNOP_unmask] = sizeof(struct evtchn_unmask),
		[EVTCHNOP_reset] = sizeof(struct evtchn_reset),
	};
	union args a;
	long rc;

	if (cmd >= ARRAY_SIZE(bytes))
		return -XEN_ENOSYS;
	if (!bt_monitor_read(p->v, arg, &a, bytes[cmd]))
		return -XEN_EFAULT;
	if (cmd == EVTCHNOP_send)
		return send(p, a.send.port);
	pv_lock(p);
	rc = locked(p, cmd, &a);
	pv_unlock(p);
	if (!rc && !bt_monitor_write(p->v, arg, &a, bytes[cmd]))
		return -XEN_EFAULT;
	return rc;
}
