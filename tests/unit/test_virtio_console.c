/* virtio-console: ports as a driver and a host's program have them, and as only an attacker would. */
#include <errno.h>
#include <linux/virtio_console.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine/private.h"
#include "proto/sock.h"
#include "tests/unit/virtio_driver.h"

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2, QUEUES };
#define PIECE 2048u

static char path[64];
static int host = -1; /* the other end of port 0's connection */
static char output[65536];
static _Atomic size_t output_bytes;
static _Atomic unsigned told;

static void on_event(void *opaque, enum machine_event event, unsigned code) { told += event == MACHINE_EVENT_PORT; }

static void on_output(void *opaque, unsigned port, const void *bytes, size_t n)
{
	assert_int_equal(port, MACHINE_OUTPUT_VIRTIO);
	assert_true(output_bytes + n <= sizeof(output));
	memcpy(output + output_bytes, bytes, n);
	output_bytes += n;
}

/* A console, a port with a connection, and one with a listening socket. */
static struct driver open_console(bool console)
{
	struct machine *machine = driver_machine(1, on_event, NULL);
	struct machine_port ports[2] = {{.name = "a.connected", .listener = -1}, {.name = "b.listening", .fd = -1}};
	const char *why = "";
	struct driver d;
	int pair[2];

	machine->config.on_output = on_output;
	output_bytes = 0;
	snprintf(path, sizeof(path), "/tmp/trivisor-port-%d", getpid());
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	ports[0].fd = pair[0];
	host = pair[1];
	ports[1].listener = sock_listen(path, 0600);
	assert_true(ports[1].listener >= 0);
	assert_int_equal(machine_add_console(machine, console, ports, 2, &why), 0);
	d = driver_open(machine, 0x1043);
	d.queues = (1u << QUEUES) - 1;
	return d;
}

static void close_console(struct driver *d)
{
	machine_destroy(d->machine);
	close(host);
	unlink(path);
}

static uint64_t buf(unsigned q, unsigned i) { return DRIVER_BUF(q) + i * PIECE; }

static void give(struct driver *d, unsigned q, unsigned i, uint32_t bytes)
{
	desc_of(d, q)[i] = (struct desc){buf(q, i), bytes, WRITE, 0};
	offer(d, q, (uint16_t)i);
}

static void fill_rings(struct driver *d)
{
	for (unsigned i = 0; i < 32; i++)
		for (unsigned q = 0; q < QUEUES; q += 2)
			give(d, q, i, PIECE);
}

/* The next message; its bytes behind the header are in `more`. */
static struct virtio_console_control hear(struct driver *d, char *more, size_t max)
{
	uint16_t at = d->seen[CONTROL_RX];
	uint32_t n = wait_used(d, CONTROL_RX);
	struct virtio_console_control message;
	uint64_t from = buf(CONTROL_RX, at % 32);

	assert_true(n >= sizeof(message) && n - sizeof(message) <= max);
	memcpy(&message, ram(d, from), sizeof(message));
	memcpy(more, ram(d, from + sizeof(message)), n - sizeof(message));
	give(d, CONTROL_RX, at % 32, PIECE);
	return message;
}

static void expect(struct driver *d, unsigned id, unsigned event, unsigned value, const char *name)
{
	char more[128] = "";
	struct virtio_console_control message = hear(d, more, sizeof(more));

	assert_int_equal(message.id, id);
	assert_int_equal(message.event, event);
	assert_int_equal(message.value, value);
	if (name)
		assert_string_equal(more, name);
}

static void say(struct driver *d, uint32_t id, uint16_t event, uint16_t value)
{
	const struct virtio_console_control message = {.id = id, .event = event, .value = value};

	memcpy(ram(d, buf(CONTROL_TX, 0)), &message, sizeof(message));
	desc_of(d, CONTROL_TX)[0] = (struct desc){buf(CONTROL_TX, 0), sizeof(message), 0, 0};
	offer(d, CONTROL_TX, 0);
	wait_used(d, CONTROL_TX);
}

static void send_bytes(struct driver *d, unsigned q, const char *text)
{
	memcpy(ram(d, buf(q, 0)), text, strlen(text));
	desc_of(d, q)[0] = (struct desc){buf(q, 0), (uint32_t)strlen(text), 0, 0};
	offer(d, q, 0);
	wait_used(d, q);
}

static void host_hears(int fd, const char *text)
{
	char got[256] = "";
	size_t have = 0;

	for (unsigned i = 0; i < 20000 && have < strlen(text); i++) {
		ssize_t r = recv(fd, got + have, sizeof(got) - 1 - have, MSG_DONTWAIT);

		if (r > 0)
			have += (size_t)r;
		else
			sleep_ms(1);
	}
	assert_string_equal(got, text);
}

static void guest_hears(struct driver *d, unsigned q, const char *text)
{
	uint16_t at = d->seen[q];

	assert_int_equal(wait_used(d, q), strlen(text));
	assert_memory_equal(ram(d, buf(q, at % 32)), text, strlen(text));
	give(d, q, at % 32, PIECE);
}

static void shake_hands(struct driver *d)
{
	driver_start(d, 0);
	fill_rings(d);
	say(d, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	for (unsigned id = 0; id < 3; id++)
		expect(d, id, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
	say(d, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(d, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL);
	if (rd(d, d->device + 2, 2)) /* the terminal's size is known */
		expect(d, 0, VIRTIO_CONSOLE_RESIZE, 1, NULL);
	expect(d, 0, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
	say(d, 1, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(d, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "a.connected");
	expect(d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
	say(d, 2, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(d, 2, VIRTIO_CONSOLE_PORT_NAME, 1, "b.listening");
}

static bool first_is_open(struct driver *d) { return machine_port_is_open(d->machine, 0); }
static unsigned told_before;
static bool was_told(struct driver *d) { return told != told_before; }
static bool first_is_closed(struct driver *d) { return !machine_port_is_open(d->machine, 0); }

static void test_ports(void **state)
{
	struct driver d = open_console(true);
	int client;

	assert_int_equal(rd(&d, d.device + 4, 4), 3);
	shake_hands(&d);
	/* What the host says waits for a program in the guest, and is not for the next one. */
	assert_int_equal(send(host, "early", 5, 0), 5);
	told_before = told;
	say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	wait_for(first_is_open, &d);
	wait_for(was_told, &d);
	guest_hears(&d, RX1, "early");
	send_bytes(&d, TX1, "from the guest");
	host_hears(host, "from the guest");
	told_before = told;
	say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	wait_for(first_is_closed, &d);
	wait_for(was_told, &d);

	/* A client comes, and goes; the next one follows. */
	client = sock_connect(path);
	assert_true(client >= 0);
	expect(&d, 2, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
	say(&d, 2, VIRTIO_CONSOLE_PORT_OPEN, 1);
	assert_int_equal(send(client, "hello", 5, 0), 5);
	guest_hears(&d, RX2, "hello");
	send_bytes(&d, TX2, "goodbye");
	host_hears(client, "goodbye");
	close(client);
	expect(&d, 2, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL);
	/* Nobody is there: the driver was told, and what it sends all the same is lost. */
	send_bytes(&d, TX2, "lost");
	client = sock_connect(path);
	expect(&d, 2, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
	send_bytes(&d, TX2, "again");
	host_hears(client, "again");
	/* One that goes while nobody reads in the guest is noticed too. */
	say(&d, 2, VIRTIO_CONSOLE_PORT_OPEN, 0);
	close(client);
	expect(&d, 2, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL);
	assert_int_equal(stat_of(&d, "virtio_console_rx_bytes"), 10);
	close_console(&d);
}

static void open_first(struct driver *d)
{
	driver_start(d, 0);
	fill_rings(d);
	say(d, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	expect(d, 1, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
	expect(d, 2, VIRTIO_CONSOLE_PORT_ADD, 1, NULL);
	say(d, 1, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(d, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "a.connected");
	expect(d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL);
	say(d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	wait_for(first_is_open, d);
}

/* A program has ended with a command on its way to it: the program of the next boot does not get it. */
static void test_commands_do_not_linger(void **state)
{
	struct driver d = open_console(false);

	open_first(&d);
	assert_int_equal(send(host, "1", 1, 0), 1);
	guest_hears(&d, RX1, "1");
	say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	wait_for(first_is_closed, &d);
	assert_int_equal(send(host, "shutdown", 8, 0), 8);
	open_first(&d);
	assert_int_equal(send(host, "2", 1, 0), 1);
	guest_hears(&d, RX1, "2");
	close_console(&d);
}

static void test_console(void **state)
{
	struct driver d = open_console(true);
	char more[64];
	uint16_t size[2];

	shake_hands(&d);
	say(&d, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	send_bytes(&d, TX0, "login: ");
	for (unsigned i = 0; i < 20000 && output_bytes < 7; i++)
		sleep_ms(1);
	assert_memory_equal(output, "login: ", 7);
	assert_int_equal(machine_console_input(d.machine, "root\n", 5), 5);
	guest_hears(&d, RX0, "root\n");
	machine_console_resize(d.machine, 132, 50);
	assert_int_equal(hear(&d, more, sizeof(more)).event, VIRTIO_CONSOLE_RESIZE);
	memcpy(size, more, sizeof(size));
	assert_int_equal(size[0], 132);
	assert_int_equal(size[1], 50);
	assert_int_equal(rd(&d, d.device, 2), 132);
	assert_int_equal(rd(&d, d.device + 2, 2), 50);
	/* More than waits for a guest that does not read is not taken. */
	driver_reset(&d);
	for (unsigned i = 0; i < 10; i++)
		machine_console_input(d.machine, more, sizeof(more));
	assert_true(machine_console_input(d.machine, output, 8192) <= 4096);
	assert_int_equal(machine_console_input(d.machine, output, 8192), 0);
	output_bytes = 0;
	wr(&d, d.device + 8, '!', 4);
	assert_int_equal(output_bytes, 1);
	assert_int_equal(output[0], '!');
	/* A driver that knows one port only. */
	driver_start(&d, 1ull << VIRTIO_CONSOLE_F_MULTIPORT);
	give(&d, RX0, 0, 100);
	assert_int_equal(wait_used(&d, RX0), 100);
	output_bytes = 0;
	send_bytes(&d, TX0, "plain");
	for (unsigned i = 0; i < 20000 && output_bytes < 5; i++)
		sleep_ms(1);
	assert_memory_equal(output, "plain", 5);
	close_console(&d);
}

/* A host that does not read: nothing is under way meanwhile, so that a pause is not held up; and nothing is lost. */
static void test_slow_host(void **state)
{
	struct driver d = open_console(true);
	const uint32_t bytes = 1u << 20;
	uint32_t next = 0;
	char got[4096];

	shake_hands(&d);
	say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	for (uint32_t i = 0; i < bytes; i += 4)
		memcpy(ram(&d, 0x800000 + i), &i, 4);
	desc_of(&d, TX1)[0] = (struct desc){0x800000, bytes / 2, NEXT, 1};
	desc_of(&d, TX1)[1] = (struct desc){0x800000 + bytes / 2, bytes / 2, 0, 0};
	offer(&d, TX1, 0);
	sleep_ms(20);
	assert_int_equal(used_index(&d, TX1), 0);
	machine_pause(d.machine);
	machine_resume(d.machine);
	for (unsigned i = 0; i < 20000 && next < bytes; i++) {
		ssize_t r = recv(host, got, sizeof(got), MSG_DONTWAIT);

		if (r <= 0)
			sleep_ms(1);
		for (ssize_t at = 0; at < r; at++, next++)
			assert_int_equal((uint8_t)got[at], (uint8_t)((next & ~3u) >> 8 * (next % 4)));
	}
	assert_int_equal(next, bytes);
	wait_used(&d, TX1);
	/* And a guest that does not: as its buffers come, so do the bytes. */
	for (unsigned i = 0; i < 32 * 3; i++) {
		memset(got, (int)i, 512);
		assert_int_equal(send(host, got, 512, 0), 512);
	}
	next = 0;
	while (next < 32 * 3 * 512) {
		uint16_t at = d.seen[RX1];
		uint32_t n = wait_used(&d, RX1);

		for (uint32_t i = 0; i < n; i++, next++)
			assert_int_equal(*ram(&d, buf(RX1, at % 32) + i), next / 512);
		give(&d, RX1, at % 32, 100);
	}
	close_console(&d);
}

/* As many pieces as a round takes, and then one more: kicks are wanted again. */
static void test_rounds(void **state)
{
	struct driver d = open_console(true);

	shake_hands(&d);
	say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	for (unsigned round = 60; round < 70; round++) {
		const unsigned count = round < QSIZE ? round : QSIZE;
		char got[256];

		/* All at once, behind one kick. */
		for (unsigned i = 0; i < count; i++) {
			uint16_t *avail = avail_of(&d, TX1), index = avail[1];

			desc_of(&d, TX1)[i] = (struct desc){buf(TX1, 0), 1, 0, 0};
			avail[2 + index % QSIZE] = (uint16_t)i;
			__atomic_store_n(&avail[1], (uint16_t)(index + 1), __ATOMIC_SEQ_CST);
		}
		kick(&d, TX1);
		for (unsigned i = 0; i < count; i++)
			wait_used(&d, TX1);
		sleep_ms(5);
		send_bytes(&d, TX1, "last");
		for (unsigned have = 0; have < count + 4;) {
			ssize_t r = recv(host, got, sizeof(got), MSG_DONTWAIT);

			have += r > 0 ? (unsigned)r : 0;
		}
	}
	close_console(&d);
}

static void test_hostile(void **state)
{
	struct driver d = open_console(true);
	uint32_t random = 7;

	/* Ports that are not there, and words that are none. */
	shake_hands(&d);
	say(&d, 3, VIRTIO_CONSOLE_PORT_READY, 1);
	say(&d, 0xffffffff, VIRTIO_CONSOLE_PORT_OPEN, 1);
	say(&d, 0, 0xffff, 0xffff);
	say(&d, 1, VIRTIO_CONSOLE_PORT_ADD, 1);
	for (unsigned i = 0; i < 200; i++)
		say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, (uint16_t)(i % 2));
	assert_false(is_broken(&d));
	for (unsigned q = 0; q < QUEUES; q++) {
		static const struct desc bad[] = {
			{0xfffffffffffff000, 4096, 0, 0}, {DRIVER_BUF(0), 0xffffffff, 0, 0}, {DRIVER_BUF(0), 16, NEXT, 5}};

		for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
			shake_hands(&d);
			say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
			say(&d, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
			/* The receiving ones are full of good ones: their heads are the bad ones at once. */
			for (unsigned k = 0; k < QSIZE; k++)
				desc_of(&d, q)[k] = bad[i];
			desc_of(&d, q)[5].next = 5;
			offer(&d, q, 0);
			if (q == RX0)
				machine_console_input(d.machine, "x", 1);
			if (q == RX1)
				assert_int_equal(send(host, "x", 1, 0), 1);
			if (q == CONTROL_RX)
				machine_console_resize(d.machine, 80, 24 + i);
			if (q != RX2)
				wait_for(is_broken, &d);
		}
	}
	/* Rings at random, and resets in between. */
	for (unsigned round = 0; round < 200; round++) {
		driver_start(&d, round % 3 ? 0 : 1ull << 29);
		for (unsigned q = 0; q < QUEUES; q++) {
			for (unsigned i = 0; i < QSIZE; i++)
				desc_of(&d, q)[i] = (struct desc){DRIVER_BUF(q) + next_random(&random) % 65536, next_random(&random) % 300,
								  (uint16_t)(q % 2 ? next_random(&random) % 2 : WRITE | next_random(&random) % 2),
								  (uint16_t)(i + 1)};
			for (unsigned i = 0; i < 4; i++)
				offer(&d, q, (uint16_t)(next_random(&random) % (QSIZE - 1)));
		}
		if (round % 8 == 0) {
			machine_pause(d.machine);
			machine_resume(d.machine);
		}
		(void)!send(host, "noise", 5, MSG_DONTWAIT);
		output_bytes = 0;
	}
	shake_hands(&d);
	say(&d, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	close_console(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ports), cmocka_unit_test(test_commands_do_not_linger), cmocka_unit_test(test_console),
		cmocka_unit_test(test_slow_host), cmocka_unit_test(test_rounds), cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
