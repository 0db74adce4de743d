/* Xen's back ends, played by a front end over memory, grants, ports and a store of the test's own. */
#include "tests/unit/machine_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "machine/net/net.h"
#include "machine/xen/abi.h"
#include "machine/xen/bus.h"

#define PAGES 64u
#define READ_ONLY_FROM 48u /* grants from here on */
#define NODES 128u
#define SECTORS 256u

struct node {
	char path[96], value[64];
};

static struct {
	pthread_mutex_t lock;
	struct node node[NODES];
	unsigned nodes;
	void (*watch)(void *opaque, const char *path);
	void *watch_opaque;
	char watched[96];
	void (*notify)(void *opaque);
	void *notify_opaque;
	uint8_t *memory;
	_Atomic int mapped;
	_Atomic unsigned raised;
} front = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint8_t *page(unsigned n) { return front.memory + n * XEN_PAGE; }

/* ---- what a domain would do ---------------------------------------------------------------------- */

static int map(void *opaque, uint32_t reference, bool write, struct xen_page *ret)
{
	(void)opaque;
	if (reference >= PAGES || (write && reference >= READ_ONLY_FROM))
		return -EINVAL;
	front.mapped++;
	*ret = (struct xen_page){page(reference), 0, reference, write};
	return 0;
}

static void written(void *opaque, const struct xen_page *p)
{
	(void)opaque;
	assert_true(p->writable);
}

static void unmap(void *opaque, const struct xen_page *p)
{
	(void)opaque;
	(void)p;
	front.mapped--;
}

static int bind_port(void *opaque, uint32_t port, void (*notify)(void *opaque), void *notify_opaque)
{
	(void)opaque;
	front.notify = notify;
	front.notify_opaque = notify_opaque;
	return port == 5 ? 0 : -EINVAL;
}

static void unbind(void *opaque, uint32_t port, void *notify_opaque)
{
	(void)opaque;
	(void)port;
	(void)notify_opaque;
}

static void raise_event(void *opaque, uint32_t port, void *notify_opaque)
{
	(void)opaque;
	(void)notify_opaque;
	assert_int_equal(port, 5);
	front.raised++;
}

static int set(void *opaque, const char *path, bool guest_owns, const char *value)
{
	unsigned i;

	(void)opaque;
	(void)guest_owns;
	pthread_mutex_lock(&front.lock);
	for (i = 0; i < front.nodes && strcmp(front.node[i].path, path) != 0; i++)
		;
	front.nodes += i == front.nodes;
	assert_true(front.nodes <= NODES);
	snprintf(front.node[i].path, sizeof(front.node[i].path), "%s", path);
	snprintf(front.node[i].value, sizeof(front.node[i].value), "%s", value);
	pthread_mutex_unlock(&front.lock);
	if (front.watch && strncmp(path, front.watched, strlen(front.watched)) == 0)
		front.watch(front.watch_opaque, path);
	return 0;
}

static char *get(void *opaque, const char *path)
{
	char *value = NULL;

	(void)opaque;
	pthread_mutex_lock(&front.lock);
	for (unsigned i = 0; i < front.nodes && !value; i++)
		if (strcmp(front.node[i].path, path) == 0)
			value = strdup(front.node[i].value);
	pthread_mutex_unlock(&front.lock);
	return value;
}

static int watch(void *opaque, const char *path, void (*fn)(void *opaque, const char *path), void *fn_opaque)
{
	(void)opaque;
	snprintf(front.watched, sizeof(front.watched), "%s", path);
	front.watch_opaque = fn_opaque;
	front.watch = fn;
	return 0;
}

static const struct xen_host host = {NULL, map, written, unmap, bind_port, unbind, raise_event, set, get, watch};

/* ---- the front end ---------------------------------------------------------------------------------- */

static void front_set(const char *name, unsigned value)
{
	char path[160], text[16];

	snprintf(path, sizeof(path), "%s/%s", front.watched, name);
	snprintf(text, sizeof(text), "%u", value);
	set(NULL, path, true, text);
}

static bool back_is(const char *back, const char *name, const char *value)
{
	char path[96], *now;
	bool is;

	snprintf(path, sizeof(path), "/local/domain/0/backend/%s/%s", back, name);
	now = get(NULL, path);
	is = now && strcmp(now, value) == 0;
	free(now);
	return is;
}

/* Generous: a machine may be busy. */
#define AWAIT(condition)                                                                                                               \
	do {                                                                                                                           \
		for (unsigned tries = 0; !(condition) && tries < 30000; tries++)                                                       \
			usleep(1000);                                                                                                  \
		assert_true(condition);                                                                                                \
	} while (0)

static void ring_init(unsigned n)
{
	struct blkif_sring *s = (void *)page(n);

	SHARED_RING_INIT(s);
}

static uint32_t produced(unsigned ring) { return __atomic_load_n(&((struct blkif_sring *)(void *)page(ring))->rsp_prod, __ATOMIC_ACQUIRE); }

static void produce(unsigned ring, uint32_t n)
{
	__atomic_fetch_add(&((struct blkif_sring *)(void *)page(ring))->req_prod, n, __ATOMIC_SEQ_CST);
	front.notify(front.notify_opaque);
}

#define BLK "vbd/1/51712"
static char disk_path[64];

static void connect_blk(void)
{
	AWAIT(back_is(BLK, "state", "2"));
	ring_init(0);
	front_set("ring-ref", 0);
	front_set("event-channel", 5);
	front_set("state", XenbusStateInitialised);
	AWAIT(back_is(BLK, "state", "4"));
	front_set("state", XenbusStateConnected);
}

static int16_t request(const void *q, size_t n)
{
	struct blkif_sring *s = (void *)page(0);
	uint32_t at = s->req_prod;

	memcpy(&s->ring[at % 32], q, n);
	s->rsp_event = at + 1;
	produce(0, 1);
	AWAIT(produced(0) == at + 1);
	assert_int_equal(s->ring[at % 32].rsp.id, 77);
	return s->ring[at % 32].rsp.status;
}

static int16_t transfer(uint8_t op, uint64_t sector, uint32_t reference, uint8_t first, uint8_t last)
{
	struct blkif_request q = {.operation = op, .nr_segments = 1, .id = 77, .sector_number = sector};

	q.seg[0] = (struct blkif_request_segment){reference, first, last};
	return request(&q, sizeof(q));
}

static struct fixture *new_fixture(void)
{
	struct fixture *f = fixture_new(16 << 20, 1);

	memset(front.node, 0, sizeof(front.node));
	front.nodes = 0;
	front.watch = NULL;
	front.raised = 0;
	front.mapped = 0; /* a machine that ends leaves that to its engine */
	front.memory = mmap(NULL, PAGES * XEN_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(front.memory != MAP_FAILED);
	return f;
}

static void end(struct fixture *f)
{
	front.watch = NULL;
	fixture_free(f);
	munmap(front.memory, PAGES * XEN_PAGE);
}

static struct fixture *new_disk(bool readonly)
{
	struct fixture *f = new_fixture();
	const struct machine_disk disk = {.path = disk_path, .readonly = readonly, .discard = true};
	const char *why = "";
	uint8_t sector[512];
	FILE *file;
	int fd;

	snprintf(disk_path, sizeof(disk_path), "/var/tmp/trivisor-xen-XXXXXX");
	fd = mkstemp(disk_path);
	assert_true(fd >= 0);
	file = fdopen(fd, "w");
	for (unsigned i = 0; i < SECTORS; i++) {
		memset(sector, (int)i, sizeof(sector));
		fwrite(sector, sizeof(sector), 1, file);
	}
	fclose(file);
	assert_int_equal(xen_blk_add(f->machine, &disk, false, &why), 0);
	unlink(disk_path);
	assert_int_equal(machine_xen_start(f->machine, &host), 0);
	return f;
}

/* ---- disks -------------------------------------------------------------------------------------------- */

static void reads_and_writes(void **state)
{
	struct fixture *f = new_disk(false);
	struct blkif_request_discard discard = {.operation = BLKIF_OP_DISCARD, .id = 77, .sector_number = 64, .nr_sectors = 8};
	struct blkif_request_indirect indirect = {.operation = BLKIF_OP_INDIRECT, .indirect_op = BLKIF_OP_READ, .id = 77, .nr_segments = 16};
	struct blkif_request flush = {.operation = BLKIF_OP_FLUSH_DISKCACHE, .id = 77};

	(void)state;
	connect_blk();
	assert_true(back_is(BLK, "sectors", "256"));
	assert_int_equal(transfer(BLKIF_OP_READ, 9, 1, 2, 4), BLKIF_RSP_OKAY);
	assert_int_equal(page(1)[2 * 512 - 1], 0);
	assert_int_equal(page(1)[2 * 512], 9);
	assert_int_equal(page(1)[5 * 512 - 1], 11);
	assert_int_equal(page(1)[5 * 512], 0);
	assert_true(front.raised > 0);
	memset(page(50), 0xab, XEN_PAGE); /* a grant that may only be read is fine to write to disk from */
	assert_int_equal(transfer(BLKIF_OP_WRITE, 32, 50, 0, 7), BLKIF_RSP_OKAY);
	assert_int_equal(transfer(BLKIF_OP_WRITE_BARRIER, 40, 50, 0, 0), BLKIF_RSP_OKAY);
	assert_int_equal(request(&flush, sizeof(flush)), BLKIF_RSP_OKAY);
	assert_int_equal(request(&discard, sizeof(discard)), BLKIF_RSP_OKAY);
	indirect.indirect_grefs[0] = 49;
	for (unsigned i = 0; i < 16; i++)
		((struct blkif_request_segment *)(void *)page(49))[i] = (struct blkif_request_segment){i + 2, 0, 7};
	indirect.sector_number = 32;
	assert_int_equal(request(&indirect, sizeof(indirect)), BLKIF_RSP_OKAY);
	assert_int_equal(page(2)[0], 0xab);
	assert_int_equal(page(3)[0], 0xab);
	assert_int_equal(page(3)[512], 41);
	assert_int_equal(page(6)[0], 0);
	assert_int_equal(page(17)[4095], 32 + 127);
	front_set("state", XenbusStateClosed);
	AWAIT(back_is(BLK, "state", "6"));
	assert_int_equal(front.mapped, 0);
	end(f);
}

/* A ring of 16 pages, whose entries lie across them, full at once: one event is enough for all. */
static void many_at_once(void **state)
{
	struct fixture *f = new_disk(false);
	struct blkif_sring *s = (void *)page(16); /* the pages of this ring are neighbours */
	char name[16];

	(void)state;
	AWAIT(back_is(BLK, "state", "2"));
	ring_init(16);
	front_set("ring-page-order", 4);
	for (unsigned i = 0; i < 16; i++) {
		snprintf(name, sizeof(name), "ring-ref%u", i);
		front_set(name, 16 + i);
	}
	front_set("event-channel", 5);
	front_set("state", XenbusStateInitialised);
	AWAIT(back_is(BLK, "state", "4"));
	for (unsigned i = 0; i < 512; i++) {
		s->ring[i].req = (struct blkif_request){.operation = BLKIF_OP_READ, .nr_segments = 1, .id = i, .sector_number = i % SECTORS};
		s->ring[i].req.seg[0] = (struct blkif_request_segment){1, 0, 0};
	}
	produce(16, 512);
	AWAIT(produced(16) == 512);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(s->ring[i].rsp.status, BLKIF_RSP_OKAY);
	front_set("state", XenbusStateClosed);
	AWAIT(back_is(BLK, "state", "6"));
	assert_int_equal(front.mapped, 0);
	end(f);
}

static void refuses(void **state)
{
	struct fixture *f = new_disk(true);
	struct blkif_request many = {.operation = BLKIF_OP_READ, .nr_segments = BLKIF_MAX_SEGMENTS_PER_REQUEST + 1, .id = 77};
	struct blkif_request_indirect indirect = {.operation = BLKIF_OP_INDIRECT, .indirect_op = BLKIF_OP_READ, .id = 77, .nr_segments = 4000};

	(void)state;
	connect_blk();
	assert_true(back_is(BLK, "info", "4"));
	assert_int_equal(transfer(BLKIF_OP_WRITE, 0, 1, 0, 0), BLKIF_RSP_ERROR);
	assert_int_equal(transfer(BLKIF_OP_READ, 0, PAGES, 0, 0), BLKIF_RSP_ERROR);      /* no such grant */
	assert_int_equal(transfer(BLKIF_OP_READ, 0, 50, 0, 0), BLKIF_RSP_ERROR);         /* not to be written */
	assert_int_equal(transfer(BLKIF_OP_READ, 0, 1, 5, 4), BLKIF_RSP_ERROR);          /* ends before it begins */
	assert_int_equal(transfer(BLKIF_OP_READ, 0, 1, 0, 8), BLKIF_RSP_ERROR);          /* beyond the page */
	assert_int_equal(transfer(BLKIF_OP_READ, 255, 1, 0, 1), BLKIF_RSP_ERROR);        /* beyond the disk */
	assert_int_equal(transfer(BLKIF_OP_READ, UINT64_MAX, 1, 0, 1), BLKIF_RSP_ERROR);
	assert_int_equal(transfer(200, 0, 1, 0, 0), BLKIF_RSP_EOPNOTSUPP);
	assert_int_equal(request(&many, sizeof(many)), BLKIF_RSP_ERROR);
	assert_int_equal(request(&indirect, sizeof(indirect)), BLKIF_RSP_ERROR);
	indirect.nr_segments = 1;
	indirect.indirect_op = BLKIF_OP_INDIRECT; /* a loop */
	assert_int_equal(request(&indirect, sizeof(indirect)), BLKIF_RSP_ERROR);
	assert_int_equal(transfer(BLKIF_OP_READ, 255, 1, 0, 0), BLKIF_RSP_OKAY);
	assert_int_equal(front.mapped, 1); /* the ring */
	end(f);
}

static void breaks_and_comes_again(void **state)
{
	struct fixture *f = new_disk(false);

	(void)state;
	connect_blk();
	produce(0, 1000); /* more than there is room for */
	AWAIT(back_is(BLK, "state", "5"));
	assert_int_equal(front.mapped, 0);
	front_set("state", XenbusStateClosed);
	AWAIT(back_is(BLK, "state", "6"));
	front_set("state", XenbusStateInitialising);
	connect_blk();
	assert_int_equal(transfer(BLKIF_OP_READ, 9, 1, 0, 0), BLKIF_RSP_OKAY);
	front_set("state", XenbusStateClosed);
	AWAIT(back_is(BLK, "state", "6"));
	/* A ring in no memory of its own, and a port that is none. */
	front_set("state", XenbusStateInitialising);
	AWAIT(back_is(BLK, "state", "2"));
	front_set("ring-ref", PAGES + 3);
	front_set("state", XenbusStateInitialised);
	AWAIT(back_is(BLK, "state", "5"));
	front_set("state", XenbusStateInitialising);
	AWAIT(back_is(BLK, "state", "2"));
	front_set("ring-ref", 0);
	front_set("event-channel", 6);
	front_set("state", XenbusStateInitialised);
	AWAIT(back_is(BLK, "state", "5"));
	assert_int_equal(front.mapped, 0);
	end(f);
}

/* ---- NICs -------------------------------------------------------------------------------------------- */

static struct {
	struct net_backend be;
	uint8_t frame[2048];
	_Atomic unsigned frames;
	unsigned echoed;
	size_t n;
} wire;

static void transmit(struct net_backend *be, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	(void)be;
	(void)header;
	memcpy(wire.frame, frame, n < sizeof(wire.frame) ? n : sizeof(wire.frame));
	wire.n = n;
	wire.frames++;
}

static void poll_fill(struct net_backend *be, struct net_poll *poll, bool can_receive)
{
	(void)be;
	(void)can_receive;
	if (wire.echoed < wire.frames)
		poll->timeout_ms = 0;
}

/* What is sent comes back. */
static void poll_done(struct net_backend *be, struct net_poll *poll)
{
	const struct virtio_net_hdr header = {0};

	(void)poll;
	if (wire.echoed < wire.frames) {
		wire.echoed = wire.frames;
		be->nic->ops->deliver(be->nic, &header, wire.frame, wire.n);
	}
}

static void destroy(struct net_backend *be) { (void)be; }

static const struct net_backend_ops wire_ops = {"wire", transmit, poll_fill, poll_done, NULL, destroy};

#define NET "vif/1/0"

static struct fixture *new_nic(void)
{
	struct fixture *f = new_fixture();
	const struct machine_nic nic = {.mac = {2, 0, 0, 0, 0, 1}, .change = {.link = true}};
	const char *why = "";

	wire.be = (struct net_backend){.ops = &wire_ops, .mtu = 1500, .link_up = true};
	wire.frames = wire.echoed = 0;
	assert_int_equal(xen_net_add(f->machine, &nic, &wire.be, &why), 0);
	assert_int_equal(machine_xen_start(f->machine, &host), 0);
	AWAIT(back_is(NET, "state", "2"));
	ring_init(0);
	ring_init(1);
	front_set("tx-ring-ref", 0);
	front_set("rx-ring-ref", 1);
	front_set("event-channel", 5);
	front_set("request-rx-copy", 1);
	front_set("state", XenbusStateConnected);
	AWAIT(back_is(NET, "state", "4"));
	return f;
}

static void put_tx(unsigned at, const struct netif_tx_request *q)
{
	memcpy(&((struct netif_tx_sring *)(void *)page(0))->ring[at], q, sizeof(*q));
}

static int16_t tx_status(unsigned at) { return ((struct netif_tx_sring *)(void *)page(0))->ring[at].rsp.status; }

static void sends_and_receives(void **state)
{
	struct fixture *f = new_nic();
	const struct netif_tx_request parts[] = {{2, 100, NETTXF_more_data, 10, 300}, {3, 4000, 0, 11, 96}};
	const struct netif_tx_request wild = {PAGES + 1, 0, 0, 12, 60}, beyond = {2, 4090, 0, 13, 60}, brief = {2, 0, 0, 14, 5};
	struct netif_rx_sring *rx = (void *)page(1);

	(void)state;
	for (unsigned i = 0; i < XEN_PAGE; i++)
		page(2)[i] = page(3)[i] = (uint8_t)(i / 7);
	rx->ring[0].req = (struct netif_rx_request){.id = 3, .gref = 4};
	__atomic_store_n(&rx->req_prod, 1, __ATOMIC_SEQ_CST);
	put_tx(0, &parts[0]);
	put_tx(1, &parts[1]);
	produce(0, 2);
	AWAIT(produced(0) == 2);
	assert_int_equal(tx_status(0), NETIF_RSP_OKAY);
	assert_int_equal(tx_status(1), NETIF_RSP_OKAY);
	AWAIT(produced(1) == 1);
	assert_int_equal(wire.n, 300);
	assert_int_equal(rx->ring[0].rsp.id, 3);
	assert_int_equal(rx->ring[0].rsp.status, 300);
	assert_memory_equal(page(4), page(2) + 100, 204);
	assert_memory_equal(page(4) + 204, page(3) + 4000, 96);
	/* What is none is answered so, and nothing is sent. */
	put_tx(2, &wild);
	put_tx(3, &beyond);
	put_tx(4, &brief);
	produce(0, 3);
	AWAIT(produced(0) == 5);
	for (unsigned i = 2; i < 5; i++)
		assert_int_equal(tx_status(i), NETIF_RSP_ERROR);
	assert_int_equal(wire.frames, 1);
	/* A frame that never ends. */
	for (unsigned i = 5; i < 40; i++)
		put_tx(i, &parts[0]);
	produce(0, 30);
	AWAIT(back_is(NET, "state", "5"));
	assert_int_equal(front.mapped, 0);
	end(f);
}

static void wild_buffers(void **state)
{
	struct fixture *f = new_nic();
	const struct netif_tx_request q = {2, 0, 0, 1, 60};
	struct netif_rx_sring *rx = (void *)page(1);

	(void)state;
	rx->ring[0].req = (struct netif_rx_request){.id = 3, .gref = 50}; /* not to be written */
	__atomic_store_n(&rx->req_prod, 1, __ATOMIC_SEQ_CST);
	put_tx(0, &q);
	produce(0, 1);
	AWAIT(back_is(NET, "state", "5"));
	assert_int_equal(front.mapped, 0);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(many_at_once),
		cmocka_unit_test(refuses),
		cmocka_unit_test(breaks_and_comes_again),
		cmocka_unit_test(sends_and_receives),
		cmocka_unit_test(wild_buffers),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
