/* The switch's forwarding: learning, VLANs, mirrors, limits, ageing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "switch/bridge.h"

#define PORTS 6

struct test_port {
	struct bridge_port port;
	unsigned frames;
	struct switch_header header;
	uint8_t frame[2000];
	size_t n;
	bool full;
};

static bool take(struct bridge_port *port, const struct iovec *iov, unsigned count, size_t bytes)
{
	struct test_port *p = (struct test_port *)port;
	size_t n = 0;

	if (p->full)
		return false;
	p->frames++;
	memcpy(&p->header, iov[0].iov_base, sizeof(p->header));
	for (unsigned i = 1; i < count; i++) {
		memcpy(p->frame + n, iov[i].iov_base, iov[i].iov_len);
		n += iov[i].iov_len;
	}
	p->n = n;
	assert_int_equal(bytes, sizeof(p->header) + n);
	return true;
}

static struct bridge *bridge;
static struct test_port ports[PORTS];

static int set_up(void **state)
{
	bridge = calloc(1, sizeof(*bridge));
	memset(ports, 0, sizeof(ports));
	for (unsigned i = 0; i < PORTS; i++) {
		ports[i].port.send = take;
		ports[i].port.vlan = SWITCH_DEFAULT_VLAN;
		assert_true(bridge_add(bridge, &ports[i].port));
	}
	return 0;
}

static int tear_down(void **state)
{
	free(bridge);
	return 0;
}

/* Addresses are 02:00:00:00:hh:ll; 0xffff is everybody's. vlan 0: no tag. */
static void input_at(unsigned from, unsigned to, unsigned source, unsigned vlan, uint32_t now_s)
{
	uint8_t frame[100] = {2, 0, 0, 0, (uint8_t)(to >> 8), (uint8_t)to, 2, 0, 0, 0, (uint8_t)(source >> 8), (uint8_t)source, 8, 0, 0x45};
	struct switch_header header = {.net.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .net.csum_start = 34, .net.csum_offset = 16};

	if (to == 0xffff)
		memset(frame, 0xff, 6);
	if (vlan) {
		memmove(frame + 16, frame + 12, 40);
		frame[12] = 0x81;
		frame[13] = 0;
		frame[14] = (uint8_t)(0x60 | vlan >> 8);
		frame[15] = (uint8_t)vlan;
		header.net.csum_start += 4;
	}
	for (unsigned i = 0; i < PORTS; i++)
		ports[i].frames = 0;
	bridge_input(bridge, &ports[from].port, &header, frame, vlan ? 64 : 60, now_s);
}

static void input(unsigned from, unsigned to, unsigned source, unsigned vlan) { input_at(from, to, source, vlan, 0); }

/* As many hexadecimal digits as ports: how many frames each got. */
static void expect(const char *frames)
{
	for (unsigned i = 0; i < PORTS; i++)
		if (ports[i].frames != (unsigned)(frames[i] - '0'))
			fail_msg("port %u got %u frames, not %c", i, ports[i].frames, frames[i]);
}

static void learns_and_forgets(void **state)
{
	input(0, 2, 1, 0);
	expect("011111"); /* nobody knows 2 */
	input(1, 1, 2, 0);
	expect("100000");
	input(0, 2, 1, 0);
	expect("010000");
	assert_int_equal(ports[1].n, 60);
	assert_int_equal(ports[1].header.net.csum_start, 34);
	input(0, 1, 1, 0);
	expect("000000"); /* to itself */
	input(0, 0xffff, 1, 0);
	expect("011111");
	/* 2 moves to another port. */
	input(3, 1, 2, 0);
	input(0, 2, 1, 0);
	expect("000100");
	/* Silent for long, they are forgotten; those that spoke are not. */
	input_at(0, 2, 1, 0, 200);
	bridge_age(bridge, BRIDGE_AGE_S + 1);
	assert_int_equal(bridge->address_count, 1);
	input_at(3, 1, 9, 0, 301);
	expect("100000");
	input_at(0, 2, 1, 0, 301);
	expect("011111");
	/* A port that goes takes what it taught along. */
	bridge_remove(bridge, &ports[0].port);
	ports[0].frames = 0;
	input(3, 1, 9, 0);
	expect("011011");
}

static void keeps_vlans_apart(void **state)
{
	ports[0].port.vlan = ports[1].port.vlan = 10;
	ports[2].port.vlan = ports[3].port.vlan = 20;
	ports[4].port.trunk = true; /* 1 without a tag, 10 and 20 with */
	bridge_allow(&ports[4].port, 10);
	bridge_allow(&ports[4].port, 20);
	input(0, 0xffff, 1, 0);
	expect("010010");
	assert_int_equal(ports[1].n, 60);
	assert_int_equal(ports[4].n, 64);
	assert_memory_equal(ports[4].frame + 12, "\x81\0\0\x0a\x08\0\x45", 7);
	assert_int_equal(ports[4].header.net.csum_start, 38);
	/* The same address in two VLANs is two. */
	input(2, 0xffff, 1, 0);
	expect("000110");
	input(4, 1, 5, 10);
	expect("100000");
	assert_int_equal(ports[0].n, 60);
	assert_memory_equal(ports[0].frame + 12, "\x08\0\x45", 3);
	assert_int_equal(ports[0].header.net.csum_start, 34);
	input(4, 1, 5, 20);
	expect("001000");
	input(4, 1, 5, 30); /* not allowed there */
	expect("000000");
	input(4, 0xffff, 5, 0); /* the trunk's own */
	expect("000001");
	/* An access port sends no tags, not even its own, so that nobody leaves his VLAN. */
	input(0, 0xffff, 1, 20);
	expect("000000");
	input(0, 0xffff, 1, 10);
	expect("000000");
	assert_int_equal(bridge->refused, 3);
	assert_int_equal(ports[0].port.counters.rx_dropped, 2);
}

static void mirrors(void **state)
{
	ports[0].port.vlan = ports[1].port.vlan = 10;
	ports[5].port.mirror = true;
	input(0, 2, 1, 0);
	expect("010001");
	assert_int_equal(ports[5].n, 64);
	input(1, 1, 2, 0);
	expect("100001"); /* between two others */
	input(2, 0xffff, 3, 0);
	expect("000111");
	assert_int_equal(ports[5].n, 60);
	input(5, 0xffff, 9, 0); /* it only listens */
	expect("000000");
}

static void bounds_what_a_port_may_do(void **state)
{
	uint8_t runt[13] = {0};
	struct switch_header header = {0};

	for (unsigned i = 0; i < 10000; i++)
		input(0, 0xffff, 1000 + i, 0);
	assert_int_equal(ports[0].port.addresses, BRIDGE_PORT_ADDRESSES);
	assert_int_equal(bridge->address_count, BRIDGE_PORT_ADDRESSES);
	/* Others are learned as before; one that a full port takes over is forgotten. */
	input(1, 0xffff, 1, 0);
	assert_int_equal(bridge->address_count, BRIDGE_PORT_ADDRESSES + 1);
	input(0, 0xffff, 1, 0);
	assert_int_equal(bridge->address_count, BRIDGE_PORT_ADDRESSES);
	assert_int_equal(ports[1].port.addresses, 0);
	assert_int_equal(ports[0].port.addresses, BRIDGE_PORT_ADDRESSES);
	input(2, 1000, 77, 0);
	expect("100000");
	ports[0].full = true;
	input(2, 1000, 77, 0);
	assert_int_equal(ports[0].port.counters.tx_dropped, 1);
	bridge_input(bridge, &ports[3].port, &header, runt, sizeof(runt), 0);
	assert_int_equal(ports[3].port.counters.rx_dropped, 1);
	/* From a group's address. */
	runt[6] = 1;
	bridge_input(bridge, &ports[3].port, &header, runt, sizeof(runt), 0);
	assert_int_equal(ports[3].port.counters.rx_dropped, 2);
	bridge_remove(bridge, &ports[0].port);
	assert_int_equal(bridge->address_count, 1);
}

/* Against a list that is searched from end to end. */
static void table_is_what_a_list_would_be(void **state)
{
	static int where[3000];
	unsigned seed = 12345;

	memset(where, -1, sizeof(where));
	for (unsigned step = 0; step < 60000; step++) {
		seed = seed * 1103515245 + 12345;
		unsigned address = (seed >> 8) % 1000, port = (seed >> 20) % PORTS;

		if (step % 5000 == 4999) {
			bridge_remove(bridge, &ports[port].port);
			assert_true(bridge_add(bridge, &ports[port].port));
			for (unsigned i = 0; i < 1000; i++)
				where[i] = where[i] == (int)port ? -1 : where[i];
			continue;
		}
		if (where[address] != (int)port && ports[port].port.addresses == BRIDGE_PORT_ADDRESSES)
			where[address] = -1;
		else
			where[address] = (int)port;
		input(port, 0xffff, address, 0);
		unsigned asked = (seed >> 3) % 1000;
		input(5, asked, 2999, 0);
		unsigned got = 0;
		for (unsigned i = 0; i < PORTS; i++)
			got += ports[i].frames;
		if (ports[5].port.addresses < BRIDGE_PORT_ADDRESSES)
			where[2999] = 5;
		assert_int_equal(got, where[asked] < 0 ? PORTS - 1 : where[asked] == 5 ? 0 : 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(learns_and_forgets, set_up, tear_down),
		cmocka_unit_test_setup_teardown(keeps_vlans_apart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(mirrors, set_up, tear_down),
		cmocka_unit_test_setup_teardown(bounds_what_a_port_may_do, set_up, tear_down),
		cmocka_unit_test_setup_teardown(table_is_what_a_list_would_be, set_up, tear_down),
	};

	return cmocka_run_group_tests_name("bridge", tests, NULL, NULL);
}
