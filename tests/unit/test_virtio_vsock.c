/* virtio-vsock, driven as a driver would: credit both ways, refusals, closes by halves, packets that lie, packets at random. */
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/virtio/vsock.h"
#include "tests/unit/virtio_driver.h"

#define CID 77u
#define BUFFERS 32u
#define BUFFER_BYTES 4096u
#define HEADER sizeof(struct virtio_vsock_hdr)

struct bench {
	struct machine *machine;
	struct driver d;
	int connector; /* our end: questions come out of it */
	int client;    /* of the socket that programs of the host connect to: unused here but to accept */
};

static void setup(struct bench *b)
{
	struct machine_vsock config = {.cid = CID};
	int pair[2], listener[2];
	const char *why = NULL;

	b->machine = driver_machine(1, NULL, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	/* A listener that nobody finds: what it is for is tests/guests/vsock.py's. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, listener), 0);
	b->connector = pair[0];
	b->client = listener[0];
	config.connector = pair[1];
	config.listener = listener[1];
	assert_int_equal(machine_add_vsock(b->machine, &config, &why), 0);
	b->d = driver_open(b->machine, 0x1040 + 19);
	b->d.queues = 7;
	driver_start(&b->d, 0);
}

static void teardown(struct bench *b)
{
	machine_destroy(b->machine);
	close(b->connector);
	close(b->client);
}

static void give_buffer(struct bench *b, unsigned i)
{
	desc_of(&b->d, 0)[i] = (struct desc){DRIVER_BUF(0) + i * BUFFER_BYTES, BUFFER_BYTES, WRITE, 0};
	offer(&b->d, 0, (uint16_t)i);
}

static void give_buffers(struct bench *b)
{
	for (unsigned i = 0; i < BUFFERS; i++)
		give_buffer(b, i);
}

static struct virtio_vsock_hdr header(uint16_t op, uint32_t guest_port, uint32_t host_port, uint32_t n)
{
	return (struct virtio_vsock_hdr){.src_cid = CID, .dst_cid = 2, .src_port = guest_port, .dst_port = host_port, .len = n,
					 .type = VIRTIO_VSOCK_TYPE_STREAM, .op = op, .buf_alloc = 1u << 20};
}

/* Its data, of which there are n bytes whatever the header says, is a pattern. Waits until the device has it. */
static void put(struct bench *b, struct virtio_vsock_hdr h, uint32_t n)
{
	uint8_t *at = ram(&b->d, DRIVER_BUF(1));

	memcpy(at, &h, HEADER);
	for (uint32_t i = 0; i < n; i++)
		at[HEADER + i] = (uint8_t)(i * 7);
	desc_of(&b->d, 1)[0] = (struct desc){DRIVER_BUF(1), (uint32_t)HEADER + n, 0, 0};
	offer(&b->d, 1, 0);
	wait_used(&b->d, 1);
}

/* The next packet for the guest, and how many bytes of data came with it; the buffer is given back. */
static struct virtio_vsock_hdr get(struct bench *b)
{
	uint16_t at = (uint16_t)(b->d.seen[0] % QSIZE);
	struct virtio_vsock_hdr h;
	uint32_t n = wait_used(&b->d, 0), id;

	memcpy(&id, &used_of(&b->d, 0)[2 + 4 * at], sizeof(id));
	assert_true(n >= HEADER && id < BUFFERS);
	memcpy(&h, ram(&b->d, DRIVER_BUF(0) + id * BUFFER_BYTES), HEADER);
	assert_int_equal(n, HEADER + h.len);
	assert_int_equal(h.dst_cid, CID);
	give_buffer(b, id);
	return h;
}

static void expect(struct bench *b, uint16_t op, uint32_t guest_port)
{
	struct virtio_vsock_hdr h = get(b);

	assert_int_equal(h.op, op);
	assert_int_equal(h.dst_port, guest_port);
}

/* Nothing is on its way: what is asked for now is what comes next. */
static void expect_silence(struct bench *b)
{
	put(b, header(VIRTIO_VSOCK_OP_CREDIT_REQUEST, 9999, 9999, 0), 0);
	expect(b, VIRTIO_VSOCK_OP_RST, 9999);
}

static uint32_t question(struct bench *b, uint32_t port)
{
	struct machine_vsock_question q;

	assert_int_equal(recv(b->connector, &q, sizeof(q), 0), sizeof(q));
	assert_int_equal(q.port, port);
	return q.id;
}

static void answer(struct bench *b, uint32_t id, int fd)
{
	struct machine_vsock_answer a = {.id = id};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {&a, sizeof(a)};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	assert_int_equal(sendmsg(b->connector, &message, 0), sizeof(a));
	if (fd >= 0)
		close(fd);
}

/* A stream from the guest's port to one of the host, where our end is. */
static int open_stream(struct bench *b, uint32_t guest_port, uint32_t room)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, guest_port, 5, 0);
	int pair[2];

	h.buf_alloc = room;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	put(b, h, 0);
	answer(b, question(b, 5), pair[1]);
	h = get(b);
	assert_int_equal(h.op, VIRTIO_VSOCK_OP_RESPONSE);
	assert_int_equal(h.buf_alloc, VSOCK_WINDOW);
	return pair[0];
}

static void the_guest_has_credit_and_no_more(void **state)
{
	struct bench b;
	uint32_t sent = 0;
	uint8_t byte;
	int fd, small = 4096;

	setup(&b);
	give_buffers(&b);
	fd = open_stream(&b, 1, 1u << 20);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	/* Nobody reads: what the socket does not hold is kept, up to the window. Packets that say what is forwarded count on. */
	for (unsigned i = 0; i < 200 && sent < 4 * VSOCK_WINDOW; i++) {
		put(&b, header(VIRTIO_VSOCK_OP_RW, 1, 5, 16384), 16384);
		sent += 16384;
		if (b.d.seen[0] != used_index(&b.d, 0))
			break;
	}
	/* It hears of room for what the socket took, and of the end once it has sent too much. */
	for (;;) {
		struct virtio_vsock_hdr h = get(&b);

		assert_true(h.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE || h.op == VIRTIO_VSOCK_OP_RST);
		if (h.op == VIRTIO_VSOCK_OP_RST)
			break;
		put(&b, header(VIRTIO_VSOCK_OP_RW, 1, 5, 16384), 16384);
		sent += 16384;
		for (unsigned i = 0; i < 20 && b.d.seen[0] == used_index(&b.d, 0); i++) {
			put(&b, header(VIRTIO_VSOCK_OP_RW, 1, 5, 16384), 16384);
			sent += 16384;
		}
	}
	/* All that was within the window arrives, in order, then the end. */
	for (uint32_t at = 0;; at++) {
		ssize_t n = recv(fd, &byte, 1, 0);

		if (n <= 0) {
			assert_true(at >= VSOCK_WINDOW && at < sent && at % 16384 == 0);
			break;
		}
		assert_int_equal(byte, (uint8_t)(at % 16384 * 7));
	}
	close(fd);
	teardown(&b);
}

static void the_guest_gets_what_it_has_room_for(void **state)
{
	struct virtio_vsock_hdr h;
	char bytes[1000];
	struct bench b;
	int fd;

	setup(&b);
	give_buffers(&b);
	fd = open_stream(&b, 1, 100);
	memset(bytes, 'x', sizeof(bytes));
	assert_int_equal(send(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	for (uint32_t taken = 0; taken < 1000; taken += 100) {
		uint32_t n = 0;

		while (n < 100) {
			h = get(&b);
			assert_int_equal(h.op, VIRTIO_VSOCK_OP_RW);
			n += h.len;
		}
		assert_int_equal(n, 100);
		/* It asks once, and then waits; a guest that claims to have taken more than it got has no room. */
		expect(&b, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 1);
		h = header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 1, 5, 0);
		h.buf_alloc = 100;
		h.fwd_cnt = taken + 5000;
		put(&b, h, 0);
		expect_silence(&b);
		h.fwd_cnt = taken + 100;
		put(&b, h, 0);
	}
	expect_silence(&b);
	close(fd);
	teardown(&b);
}

static void closes_by_halves(void **state)
{
	struct virtio_vsock_hdr h;
	struct bench b;
	char byte;
	int fd;

	setup(&b);
	give_buffers(&b);
	fd = open_stream(&b, 1, 1u << 20);
	shutdown(fd, SHUT_WR);
	h = get(&b);
	assert_true(h.op == VIRTIO_VSOCK_OP_SHUTDOWN && h.flags == VIRTIO_VSOCK_SHUTDOWN_SEND);
	/* The other way still goes. */
	put(&b, header(VIRTIO_VSOCK_OP_RW, 1, 5, 1), 1);
	assert_int_equal(recv(fd, &byte, 1, 0), 1);
	h = header(VIRTIO_VSOCK_OP_SHUTDOWN, 1, 5, 0);
	h.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
	put(&b, h, 0);
	assert_int_equal(recv(fd, &byte, 1, 0), 0);
	/* Both halves are over, which the socket shows as a close. */
	h = get(&b);
	assert_true(h.op == VIRTIO_VSOCK_OP_SHUTDOWN && h.flags == SHUTDOWN_BOTH);
	/* The guest closes: it is told that its port is free. */
	h = header(VIRTIO_VSOCK_OP_SHUTDOWN, 1, 5, 0);
	h.flags = SHUTDOWN_BOTH;
	put(&b, h, 0);
	expect(&b, VIRTIO_VSOCK_OP_RST, 1);
	expect_silence(&b);
	close(fd);
	/* A host's program that goes is told as both halves. */
	close(open_stream(&b, 2, 1u << 20));
	h = get(&b);
	if (h.op == VIRTIO_VSOCK_OP_SHUTDOWN && h.flags != SHUTDOWN_BOTH)
		h = get(&b); /* first one half, then it is seen that the other is gone too */
	assert_true(h.op == VIRTIO_VSOCK_OP_SHUTDOWN && h.flags == SHUTDOWN_BOTH);
	put(&b, header(VIRTIO_VSOCK_OP_RST, 2, 5, 0), 0);
	expect_silence(&b);
	teardown(&b);
}

static void nonsense_is_refused(void **state)
{
	static const uint16_t ops[] = {VIRTIO_VSOCK_OP_INVALID,	 VIRTIO_VSOCK_OP_RESPONSE,	VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_OP_RW,
				       VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST, 99};
	struct virtio_vsock_hdr h;
	struct bench b;
	int fd;

	setup(&b);
	give_buffers(&b);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		put(&b, header(ops[i], 3, 4, 0), 0);
		expect(&b, VIRTIO_VSOCK_OP_RST, 3);
	}
	put(&b, header(VIRTIO_VSOCK_OP_RST, 3, 4, 0), 0); /* which is never answered by one */
	h = header(VIRTIO_VSOCK_OP_REQUEST, 3, 4, 0);
	h.src_cid = CID + 1;
	put(&b, h, 0); /* it speaks for somebody else */
	expect_silence(&b);
	h = header(VIRTIO_VSOCK_OP_REQUEST, 3, 4, 0);
	h.dst_cid = 1000;
	put(&b, h, 0);
	h = get(&b);
	assert_true(h.op == VIRTIO_VSOCK_OP_RST && h.src_cid == 1000);
	/* Nobody listens. */
	put(&b, header(VIRTIO_VSOCK_OP_REQUEST, 3, 4, 0), 0);
	answer(&b, question(&b, 4), -1);
	expect(&b, VIRTIO_VSOCK_OP_RST, 3);
	/* Bytes that are not there, an operation that is none, a second request: each ends its stream. */
	fd = open_stream(&b, 1, 1u << 20);
	put(&b, header(VIRTIO_VSOCK_OP_RW, 1, 5, 5000), 10);
	expect(&b, VIRTIO_VSOCK_OP_RST, 1);
	close(fd);
	fd = open_stream(&b, 1, 1u << 20);
	put(&b, header(42, 1, 5, 0), 0);
	expect(&b, VIRTIO_VSOCK_OP_RST, 1);
	close(fd);
	fd = open_stream(&b, 1, 1u << 20);
	put(&b, header(VIRTIO_VSOCK_OP_REQUEST, 1, 5, 0), 0);
	expect(&b, VIRTIO_VSOCK_OP_RST, 1);
	close(fd);
	expect_silence(&b);
	teardown(&b);
}

/* Refusals need buffers of the driver's: without them the device stops taking packets, instead of keeping all there are. */
static void refusals_are_bounded(void **state)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, 3, 4, 0);
	struct bench b;

	setup(&b);
	memcpy(ram(&b.d, DRIVER_BUF(1)), &h, HEADER);
	for (unsigned i = 0; i < QSIZE; i++)
		desc_of(&b.d, 1)[i] = (struct desc){DRIVER_BUF(1), (uint32_t)HEADER, 0, 0};
	for (unsigned i = 0; i < VSOCK_REFUSALS_MAX; i++) {
		offer(&b.d, 1, (uint16_t)(i % QSIZE));
		wait_used(&b.d, 1);
	}
	for (unsigned i = 0; i < QSIZE; i++)
		offer(&b.d, 1, (uint16_t)i);
	sleep_ms(50);
	assert_int_equal(used_index(&b.d, 1), b.d.seen[1]);
	give_buffers(&b);
	for (unsigned i = 0; i < VSOCK_REFUSALS_MAX + QSIZE; i++)
		expect(&b, VIRTIO_VSOCK_OP_RST, 3);
	for (unsigned i = 0; i < QSIZE; i++)
		wait_used(&b.d, 1);
	expect_silence(&b);
	teardown(&b);
}

static void packets_at_random(void **state)
{
	uint32_t seed = 12345;
	struct bench b;
	int fd;

	setup(&b);
	give_buffers(&b);
	for (unsigned i = 0; i < 3000; i++) {
		struct virtio_vsock_hdr h = header((uint16_t)(next_random(&seed) % 9), 1 + next_random(&seed) % 4, 5 + next_random(&seed) % 2,
						   next_random(&seed) % 300);
		struct machine_vsock_question q;

		h.buf_alloc = next_random(&seed) % 3 ? 4096 : next_random(&seed);
		h.fwd_cnt = next_random(&seed) % 3 ? 0 : next_random(&seed);
		h.flags = next_random(&seed) % 4;
		put(&b, h, next_random(&seed) % 300);
		while (recv(b.connector, &q, sizeof(q), MSG_DONTWAIT) == sizeof(q)) {
			int pair[2] = {-1, -1};

			if (next_random(&seed) % 4)
				assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
			answer(&b, next_random(&seed) % 8 ? q.id : q.id + 1, pair[1]);
			/* It may have been closed already: nobody had asked. */
			if (pair[0] >= 0 && next_random(&seed) % 2 && send(pair[0], "hello", 5, MSG_NOSIGNAL) < 0)
				assert_int_equal(errno, EPIPE);
			if (pair[0] >= 0)
				close(pair[0]);
		}
		while (b.d.seen[0] != used_index(&b.d, 0))
			get(&b);
	}
	assert_false(is_broken(&b.d));
	/* A reset ends all streams, and the next driver finds a device that works. */
	driver_reset(&b.d);
	memset(b.d.seen, 0, sizeof(b.d.seen));
	driver_start(&b.d, 0);
	give_buffers(&b);
	while (recv(b.connector, &(struct machine_vsock_question){0}, sizeof(struct machine_vsock_question), MSG_DONTWAIT) > 0)
		;
	fd = open_stream(&b, 1, 1u << 20);
	put(&b, header(VIRTIO_VSOCK_OP_RW, 1, 5, 4), 4);
	assert_int_equal(recv(fd, &seed, 4, MSG_WAITALL), 4);
	close(fd);
	teardown(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_guest_has_credit_and_no_more),
		cmocka_unit_test(the_guest_gets_what_it_has_room_for),
		cmocka_unit_test(closes_by_halves),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(refusals_are_bounded),
		cmocka_unit_test(packets_at_random),
	};
	return cmocka_run_group_tests_name("virtio_vsock", tests, NULL, NULL);
}
