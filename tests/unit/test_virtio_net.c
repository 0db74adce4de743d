/* NICs: offloads and rates by themselves, and the device driven as a driver would, over a back end that hands frames back. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "machine/virtio/net.h"
#include "tests/unit/virtio_driver.h"

/* ---- offloads ------------------------------------------------------------------------------- */

#define HEADERS (14 + 20 + 20)

static uint16_t sum16(uint32_t sum, const uint8_t *at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? at[i] : (uint32_t)at[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint16_t pseudo4(const uint8_t *frame, size_t tcp_bytes) { return sum16(6 + (uint32_t)tcp_bytes, frame + 26, 8); }

/* An IPv4 TCP segment of n bytes of payload, its checksum left to do. */
static size_t make_tcp(uint8_t *frame, size_t n, struct virtio_net_hdr *ret_header)
{
	uint16_t sum;

	memset(frame, 0, HEADERS);
	memcpy(frame, "\x52\x54\0\1\2\3\x52\x54\0\4\5\6\x08\0\x45\0", 16);
	frame[16] = (uint8_t)((40 + n) >> 8);
	frame[17] = (uint8_t)(40 + n);
	frame[18] = 0xff;
	frame[19] = 0xff; /* the identification runs over */
	frame[22] = 64;
	frame[23] = 6;
	memcpy(frame + 26, "\x0a\0\2\2\x0a\0\2\x0f\0\x50\x12\x34\xff\xff\xff\0", 16);
	frame[46] = 0x50;
	frame[47] = 0x99; /* CWR, ACK, PSH, FIN */
	sum = pseudo4(frame, 20 + n);
	frame[50] = (uint8_t)(sum >> 8);
	frame[51] = (uint8_t)sum;
	for (size_t i = 0; i < n; i++)
		frame[HEADERS + i] = (uint8_t)(i * 7 + i / 256);
	*ret_header = (struct virtio_net_hdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .hdr_len = HEADERS, .gso_size = 1448,
		.csum_start = 34, .csum_offset = 16};
	return HEADERS + n;
}

struct pieces {
	unsigned count;
	size_t bytes;
	uint32_t next;
	unsigned last_flags, first_flags;
};

static void take_piece(void *opaque, const uint8_t *f, size_t n)
{
	struct pieces *p = opaque;
	uint32_t sequence = (uint32_t)f[38] << 24 | (uint32_t)f[39] << 16 | (uint32_t)f[40] << 8 | f[41];

	assert_int_equal((size_t)(f[16] << 8 | f[17]), n - 14);
	assert_int_equal(sum16(0, f + 14, 20), 0xffff);
	assert_int_equal(sum16(pseudo4(f, n - 34), f + 34, n - 34), 0xffff);
	assert_int_equal((uint16_t)(f[18] << 8 | f[19]), (uint16_t)(0xffff + p->count));
	assert_int_equal(sequence, p->next);
	for (size_t i = HEADERS; i < n; i++)
		assert_int_equal(f[i], (uint8_t)((p->bytes + i - HEADERS) * 7 + (p->bytes + i - HEADERS) / 256));
	if (p->count++ == 0)
		p->first_flags = f[47];
	p->last_flags = f[47];
	p->bytes += n - HEADERS;
	p->next += (uint32_t)(n - HEADERS);
}

static void segments_are_whole(void **state)
{
	static uint8_t frame[NET_FRAME_MAX], scratch[NET_FRAME_MAX];
	static const size_t sizes[] = {1, 1448, 1449, 2896, 60000};
	struct virtio_net_hdr header;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct pieces p = {.next = 0xffffff00};
		size_t n = make_tcp(frame, sizes[i], &header);

		assert_true(net_header_valid(&header, frame, n));
		assert_true(net_segment(&header, frame, n, scratch, take_piece, &p));
		assert_int_equal(p.bytes, sizes[i]);
		assert_int_equal(p.count, (sizes[i] + 1447) / 1448);
		/* CWR goes with the first, FIN and PSH with the last. */
		assert_int_equal(p.first_flags, p.count > 1 ? 0x90 : 0x99);
		assert_int_equal(p.last_flags, p.count > 1 ? 0x19 : 0x99);
	}
}

static void checksums_are_completed(void **state)
{
	static uint8_t frame[NET_FRAME_MAX];
	struct virtio_net_hdr header;

	for (size_t bytes = 0; bytes < 40; bytes++) {
		size_t n = make_tcp(frame, bytes, &header);

		header.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		assert_true(net_header_valid(&header, frame, n));
		net_checksum(&header, frame, n);
		assert_int_equal(sum16(pseudo4(frame, n - 34), frame + 34, n - 34), 0xffff);
		assert_int_equal(header.flags, 0);
	}
}

static void odd_headers_are_refused(void **state)
{
	static uint8_t frame[NET_FRAME_MAX], scratch[NET_FRAME_MAX];
	struct virtio_net_hdr good, h;
	size_t n = make_tcp(frame, 5000, &good);

#define BAD(change)                                                                                                    \
	do {                                                                                                           \
		h = good;                                                                                              \
		change;                                                                                                \
		assert_false(net_header_valid(&h, frame, n));                                                          \
		assert_false(h.gso_size && net_segment(&h, frame, n, scratch, take_piece, NULL));                      \
	} while (0)
	BAD(h.csum_start = (uint16_t)n);
	BAD(h.csum_start = 0xffff);
	BAD(h.csum_offset = 0xffff);
	BAD(h.gso_size = 0);
	BAD(h.gso_type = VIRTIO_NET_HDR_GSO_UDP);
	BAD(h.gso_type = VIRTIO_NET_HDR_GSO_TCPV6);
	BAD(h.flags = 0);
	BAD(h.csum_offset = 6);
	frame[46] = 0xf0; /* 60 bytes of TCP header are there, but */
	BAD(n = HEADERS + 40);
	n = make_tcp(frame, 5000, &good);
	frame[46] = 0x40;
	BAD(h = good);
	n = make_tcp(frame, 5000, &good);
	frame[14] = 0x4f;
	BAD(h = good);
#undef BAD
	assert_false(net_header_valid(&(struct virtio_net_hdr){0}, frame, 13));
}

static void rates_are_kept(void **state)
{
	struct net_rate rate;
	uint64_t now = 5, passed = 0;
	int wait;

	net_rate_set(&rate, 1000000, 0, now);
	for (unsigned i = 0; i < 100000; i++, now += 100000) { /* 10 s */
		while (net_rate_ready(&rate, now, &wait)) {
			net_rate_take(&rate, 1500);
			passed += 1500;
		}
		assert_in_range(wait, 1, 1000);
	}
	assert_in_range(passed, 10000000, 10000000 + NET_FRAME_MAX + 3000);
	/* A pause of years gives a burst, no more. */
	now += 1ull << 60;
	passed = 0;
	while (net_rate_ready(&rate, now, &wait)) {
		net_rate_take(&rate, 1500);
		passed += 1500;
	}
	assert_in_range(passed, 1500, NET_FRAME_MAX + 3000);
	net_rate_set(&rate, 0, 0, now);
	assert_true(net_rate_ready(&rate, now, &wait));
}

/* ---- the device ---------------------------------------------------------------------------------- */

#define BUF(q) DRIVER_BUF(q)
#define BUF_BYTES 2048u

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

/* Frames that the guest sends are counted, and the last one kept; what is put here is delivered. */
struct echo {
	struct net_backend be;
	int bell;
	pthread_mutex_t lock;
	unsigned sent;
	size_t sent_bytes;
	struct virtio_net_hdr sent_header;
	uint8_t last[NET_FRAME_MAX];
	unsigned to_deliver;
	struct virtio_net_hdr header;
	uint8_t frame[NET_FRAME_MAX];
	size_t frame_bytes;
	bool moved;
};

static void echo_transmit(struct net_backend *be, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct echo *e = CONTAINER_OF(be, struct echo, be);

	pthread_mutex_lock(&e->lock);
	e->sent++;
	e->sent_bytes = n;
	e->sent_header = *header;
	memcpy(e->last, frame, n);
	pthread_mutex_unlock(&e->lock);
}

static void echo_fill(struct net_backend *be, struct net_poll *poll, bool can_receive)
{
	net_poll_add(poll, CONTAINER_OF(be, struct echo, be)->bell, POLLIN);
}

static void echo_done(struct net_backend *be, struct net_poll *poll)
{
	struct echo *e = CONTAINER_OF(be, struct echo, be);
	uint64_t count;

	if (read(e->bell, &count, sizeof(count)) < 0)
		return;
	for (; e->to_deliver; e->to_deliver--)
		be->nic->ops->deliver(be->nic, &e->header, e->frame, e->frame_bytes);
	if (e->moved)
		be->nic->ops->moved(be->nic);
	e->moved = false;
}

static void echo_destroy(struct net_backend *be)
{
	struct echo *e = CONTAINER_OF(be, struct echo, be);

	close(e->bell);
	free(e);
}

static const struct net_backend_ops echo_ops = {
	.name = "echo", .transmit = echo_transmit, .poll_fill = echo_fill, .poll_done = echo_done, .destroy = echo_destroy};

static struct echo *echo;

static struct driver open_nic(bool offloads)
{
	struct machine_nic nic = {.change.link = true};
	struct machine *machine = driver_machine(1, NULL, NULL);
	const char *why = NULL;
	struct driver d;

	echo = calloc(1, sizeof(*echo));
	memcpy(nic.mac, mac, sizeof(mac));
	echo->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	echo->be = (struct net_backend){.ops = &echo_ops, .offloads = offloads, .mtu = 9000, .link_up = true};
	pthread_mutex_init(&echo->lock, NULL);
	assert_int_equal(virtio_net_add(machine, &nic, &echo->be, &why), 0);
	d = driver_open(machine, 0x1041);
	d.queues = (1u << NET_QUEUES) - 1;
	return d;
}

static void set_desc(struct driver *d, unsigned q, unsigned i, uint64_t gpa, uint32_t bytes, uint16_t flags, uint16_t next)
{
	desc_of(d, q)[i] = (struct desc){gpa, bytes, flags, next};
}

static bool tx_done(struct driver *d) { return used_index(d, NET_TX) != d->seen[NET_TX]; }
static bool rx_done(struct driver *d) { return used_index(d, NET_RX) != d->seen[NET_RX]; }
static bool control_done(struct driver *d) { return used_index(d, NET_CONTROL) != d->seen[NET_CONTROL]; }

static void send_frame(struct driver *d, const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	uint8_t *at = ram(d, BUF(NET_TX));

	memset(at, 0, 12);
	memcpy(at, header, sizeof(*header));
	memcpy(at + 12, frame, n);
	/* The header by itself, and the frame in two. */
	set_desc(d, NET_TX, 0, BUF(NET_TX), 12, NEXT, 1);
	set_desc(d, NET_TX, 1, BUF(NET_TX) + 12, 10, NEXT, 2);
	set_desc(d, NET_TX, 2, BUF(NET_TX) + 22, (uint32_t)n - 10, 0, 0);
	offer(d, NET_TX, 0);
	wait_for(tx_done, d);
	d->seen[NET_TX]++;
}

static void deliver(struct driver *d, const struct virtio_net_hdr *header, size_t n, unsigned times)
{
	const uint64_t one = 1;

	echo->header = *header;
	echo->frame_bytes = n;
	echo->to_deliver = times;
	assert_int_equal(write(echo->bell, &one, sizeof(one)), sizeof(one));
}

static void give_buffers(struct driver *d, unsigned first, unsigned count, uint32_t bytes)
{
	for (unsigned i = first; i < first + count; i++) {
		set_desc(d, NET_RX, i, BUF(NET_RX) + i * BUF_BYTES, bytes, WRITE, 0);
		offer(d, NET_RX, (uint16_t)i);
	}
}

static unsigned sent(struct driver *d)
{
	unsigned n;

	pthread_mutex_lock(&echo->lock);
	n = echo->sent;
	pthread_mutex_unlock(&echo->lock);
	return n;
}

static void test_config(void **state)
{
	struct driver d = open_nic(false);

	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(rd(&d, d.device + i, 1), mac[i]);
	assert_int_equal(rd(&d, d.device + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(rd(&d, d.device + 10, 2), 9000);
	driver_start(&d, 0);
	assert_true(d.features & 1ull << VIRTIO_NET_F_MRG_RXBUF);
	/* What the back end could not give is not promised. */
	assert_false(d.features & 1ull << VIRTIO_NET_F_GUEST_TSO4);
	/* The cable is pulled while it runs. */
	assert_int_equal(machine_nic_set(d.machine, 0, &(struct machine_nic_change){.link = false}), 0);
	for (unsigned i = 0; i < 10000 && rd(&d, d.device + 6, 2) != 0; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(rd(&d, d.device + 6, 2), 0);
	assert_int_equal(rd(&d, d.common + 21, 1), 1);
	assert_int_equal(machine_nic_set(d.machine, 1, &(struct machine_nic_change){.link = false}), -ENOENT);
	machine_destroy(d.machine);
}

static void test_transmit(void **state)
{
	static uint8_t frame[NET_FRAME_MAX];
	struct driver d = open_nic(false);
	struct virtio_net_hdr header, none = {0};
	size_t n = make_tcp(frame, 5000, &header);

	driver_start(&d, 0);
	send_frame(&d, &none, frame, 60);
	for (unsigned i = 0; i < 10000 && sent(&d) != 1; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(echo->sent_bytes, 60);
	assert_memory_equal(echo->last, frame, 60);
	/* A back end without offloads gets them done: four segments for one. */
	send_frame(&d, &header, frame, n);
	for (unsigned i = 0; i < 10000 && sent(&d) != 5; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(sent(&d), 5);
	assert_int_equal(echo->sent_header.flags, 0);
	/* Headers that lie are dropped. */
	header.csum_start = 60000;
	send_frame(&d, &header, frame, n);
	send_frame(&d, &none, frame, 60);
	assert_int_equal(stat_of(&d, "virtio_net0_tx_errors"), 1);
	machine_destroy(d.machine);

	d = open_nic(true);
	driver_start(&d, 0);
	n = make_tcp(frame, 5000, &header);
	send_frame(&d, &header, frame, n);
	for (unsigned i = 0; i < 10000 && sent(&d) != 1; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(echo->sent_bytes, n);
	assert_memory_equal(&echo->sent_header, &header, sizeof(header));
	machine_destroy(d.machine);
}

static void test_receive(void **state)
{
	struct driver d = open_nic(true);
	struct virtio_net_hdr header, none = {0};
	size_t n = make_tcp(echo->frame, 5000, &header);
	uint16_t buffers;

	driver_start(&d, 0);
	/* Three buffers for one frame, seen all at once; it waits for the third. */
	give_buffers(&d, 0, 2, BUF_BYTES);
	deliver(&d, &header, n, 1);
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	assert_int_equal(used_index(&d, NET_RX), 0);
	give_buffers(&d, 2, 1, BUF_BYTES);
	wait_for(rx_done, &d);
	assert_int_equal(used_index(&d, NET_RX), 3);
	assert_int_equal(used_bytes(&d, NET_RX, 0) + used_bytes(&d, NET_RX, 1) + used_bytes(&d, NET_RX, 2), 12 + n);
	assert_memory_equal(ram(&d, BUF(NET_RX)), &header, sizeof(header));
	memcpy(&buffers, ram(&d, BUF(NET_RX) + 10), 2);
	assert_int_equal(buffers, 3);
	assert_memory_equal(ram(&d, BUF(NET_RX) + 12), echo->frame, BUF_BYTES - 12);
	assert_memory_equal(ram(&d, BUF(NET_RX) + BUF_BYTES), echo->frame + BUF_BYTES - 12, BUF_BYTES);
	d.seen[NET_RX] = 3;

	/* More than the ring holds: as buffers come, frames do, one after the other. */
	deliver(&d, &none, 100, 40);
	for (unsigned i = 0; i < 40; i++) {
		give_buffers(&d, (3 + i) % QSIZE, 1, BUF_BYTES);
		wait_for(rx_done, &d);
		assert_int_equal(used_bytes(&d, NET_RX, d.seen[NET_RX]), 112);
		d.seen[NET_RX]++;
	}
	assert_int_equal(stat_of(&d, "virtio_net0_rx_frames"), 41);
	assert_int_equal(stat_of(&d, "virtio_net0_rx_dropped"), 0);

	/* A driver that knows no large segments gets small ones, with checksums. */
	driver_start(&d, 1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_CSUM);
	give_buffers(&d, 0, 8, BUF_BYTES);
	deliver(&d, &header, n, 1);
	wait_for(rx_done, &d);
	for (unsigned i = 0; i < 10000 && used_index(&d, NET_RX) != 4; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(used_index(&d, NET_RX), 4);
	assert_int_equal(ram(&d, BUF(NET_RX))[0], 0);
	const uint8_t *f = ram(&d, BUF(NET_RX) + 12);
	assert_int_equal(sum16(pseudo4(f, 1468), f + 34, 1468), 0xffff);

	/* Without merging, what does not fit is dropped. */
	driver_start(&d, 1ull << VIRTIO_NET_F_MRG_RXBUF);
	give_buffers(&d, 0, 2, BUF_BYTES);
	deliver(&d, &none, 3000, 1);
	for (unsigned i = 0; i < 10000 && stat_of(&d, "virtio_net0_rx_dropped") != 1; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	deliver(&d, &none, 1000, 1);
	wait_for(rx_done, &d);
	assert_int_equal(used_bytes(&d, NET_RX, 0), 1012);
	machine_destroy(d.machine);
}

/* The answer to a control command. */
static uint8_t control(struct driver *d, uint8_t class, uint8_t command, const void *data, uint32_t n)
{
	uint8_t *at = ram(d, BUF(NET_CONTROL));

	at[0] = class;
	at[1] = command;
	memcpy(at + 2, data, n);
	at[200] = 0xee;
	set_desc(d, NET_CONTROL, 0, BUF(NET_CONTROL), 2, NEXT, 1);
	set_desc(d, NET_CONTROL, 1, BUF(NET_CONTROL) + 2, n, NEXT, 2);
	set_desc(d, NET_CONTROL, 2, BUF(NET_CONTROL) + 200, 1, WRITE, 0);
	offer(d, NET_CONTROL, 0);
	wait_for(control_done, d);
	d->seen[NET_CONTROL]++;
	return at[200];
}

static void expect_frames(struct driver *d, const uint8_t *destination, bool comes)
{
	static const uint8_t mark[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct virtio_net_hdr none = {0};

	driver_start(d, 0);
	give_buffers(d, 0, 2, BUF_BYTES);
	memset(echo->frame, 0, 100);
	memcpy(echo->frame, destination, 6);
	deliver(d, &none, 100, 1);
	for (unsigned i = 0; i < 10000 && __atomic_load_n(&echo->to_deliver, __ATOMIC_ACQUIRE); i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	/* A broadcast always comes: behind it, the other one is known to have come, or not. */
	memcpy(echo->frame, mark, 6);
	deliver(d, &none, 99, 1);
	wait_for(rx_done, d);
	assert_int_equal(used_bytes(d, NET_RX, 0), comes ? 112 : 111);
}

static void test_control(void **state)
{
	static const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, group[6] = {0x33, 0x33, 0, 0, 0, 1};
	struct driver d = open_nic(false);
	uint8_t on = 1, table[4 + 6 + 4] = {1, 0, 0, 0, 0x52, 0x54, 0, 9, 9, 9, 0, 0, 0, 0};
	const uint64_t tso = 1ull << VIRTIO_NET_F_GUEST_TSO4, csum = 1ull << VIRTIO_NET_F_GUEST_CSUM;

	expect_frames(&d, mac, true);
	expect_frames(&d, other, false);
	expect_frames(&d, group, true);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof(table)), VIRTIO_NET_OK);
	give_buffers(&d, 2, 1, BUF_BYTES);
	d.seen[NET_RX] = used_index(&d, NET_RX);
	memcpy(echo->frame, other, 6);
	deliver(&d, &(struct virtio_net_hdr){0}, 77, 1);
	wait_for(rx_done, &d);
	table[0] = 200; /* more than it carries */
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, table, sizeof(table)), VIRTIO_NET_ERR);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1), VIRTIO_NET_OK);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_RX, 77, &on, 1), VIRTIO_NET_ERR);
	assert_int_equal(control(&d, 99, 0, &on, 1), VIRTIO_NET_ERR);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6), VIRTIO_NET_OK);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, group, 6), VIRTIO_NET_ERR);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &csum, 8), VIRTIO_NET_OK);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &tso, 8), VIRTIO_NET_ERR);
	/* An announcement is asked for, and acknowledged. */
	echo->moved = true;
	deliver(&d, &(struct virtio_net_hdr){0}, 0, 0);
	for (unsigned i = 0; i < 10000 && !(rd(&d, d.device + 6, 2) & VIRTIO_NET_S_ANNOUNCE); i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(rd(&d, d.device + 6, 2), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(control(&d, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, &on, 0), VIRTIO_NET_OK);
	for (unsigned i = 0; i < 10000 && rd(&d, d.device + 6, 2) != VIRTIO_NET_S_LINK_UP; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(rd(&d, d.device + 6, 2), VIRTIO_NET_S_LINK_UP);
	machine_destroy(d.machine);
}

static void test_hostile(void **state)
{
	struct driver d = open_nic(false);
	const struct virtio_net_hdr none = {0};

	memset(echo->frame, 0xff, 6);
	/* A chain that is a loop; an address that is nowhere; a length beyond RAM; a head outside; buffers without room. */
	driver_start(&d, 0);
	set_desc(&d, NET_TX, 0, BUF(NET_TX), 12, NEXT, 1);
	set_desc(&d, NET_TX, 1, BUF(NET_TX), 12, NEXT, 0);
	offer(&d, NET_TX, 0);
	wait_for(is_broken, &d);
	driver_start(&d, 0);
	set_desc(&d, NET_TX, 0, 0xfffffffffffff000, 4096, 0, 0);
	offer(&d, NET_TX, 0);
	wait_for(is_broken, &d);
	driver_start(&d, 0);
	set_desc(&d, NET_CONTROL, 0, BUF(NET_CONTROL), 0xffffffff, 0, 0);
	offer(&d, NET_CONTROL, 0);
	wait_for(is_broken, &d);
	driver_start(&d, 0);
	offer(&d, NET_RX, 0xffff);
	deliver(&d, &none, 100, 1);
	wait_for(is_broken, &d);
	driver_start(&d, 0);
	set_desc(&d, NET_RX, 0, BUF(NET_RX), 5, WRITE, 0);
	offer(&d, NET_RX, 0);
	deliver(&d, &none, 100, 1);
	wait_for(is_broken, &d);
	/* A huge frame is an error and no more; a runt too. */
	driver_start(&d, 0);
	set_desc(&d, NET_TX, 0, 0x400000, 0x100000, 0, 0);
	offer(&d, NET_TX, 0);
	wait_for(tx_done, &d);
	d.seen[NET_TX]++;
	set_desc(&d, NET_TX, 0, 0x400000, 13, 0, 0);
	offer(&d, NET_TX, 0);
	wait_for(tx_done, &d);
	d.seen[NET_TX]++;
	set_desc(&d, NET_TX, 0, 0x400000, 5, 0, 0);
	offer(&d, NET_TX, 0);
	wait_for(tx_done, &d);
	d.seen[NET_TX]++;
	for (unsigned i = 0; i < 10000 && stat_of(&d, "virtio_net0_tx_errors") != 3; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(stat_of(&d, "virtio_net0_tx_errors"), 3);
	assert_int_equal(sent(&d), 0);
	/* Resets while frames come. */
	for (unsigned i = 0; i < 200; i++) {
		driver_start(&d, i % 2 ? VIRTIO_RING_EVENT_IDX : 0);
		give_buffers(&d, 0, 8, BUF_BYTES);
		deliver(&d, &none, 1000, 20);
	}
	/* Paused, guest memory stays as it is. */
	driver_start(&d, 0);
	give_buffers(&d, 0, 8, BUF_BYTES);
	machine_pause(d.machine);
	deliver(&d, &none, 500, 3);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	uint16_t before = used_index(&d, NET_RX);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	assert_int_equal(used_index(&d, NET_RX), before);
	machine_resume(d.machine);
	d.seen[NET_RX] = before;
	wait_for(rx_done, &d);
	machine_destroy(d.machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_are_whole), cmocka_unit_test(checksums_are_completed),
		cmocka_unit_test(odd_headers_are_refused), cmocka_unit_test(rates_are_kept),
		cmocka_unit_test(test_config), cmocka_unit_test(test_transmit), cmocka_unit_test(test_receive),
		cmocka_unit_test(test_control), cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
