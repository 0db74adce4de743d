/* Workloads of a network: a TCP stream to here, and questions that are answered one after the other. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"

enum {
	CHUNK = 64 << 10,
	WARM_UP = 16, /* chunks */
	CONNECT_S = 120, /* the other guest may still be starting */
};

/* What is asked for, in the order of bytes that all of them have: so many bytes back, or so many single ones echoed. */
struct request {
	uint64_t stream, echoes;
};

/* The two that rows talk to. */
static struct sockaddr_in peers[2];
static int fd = -1;
static uint8_t *buffer;

static struct sockaddr_in address_of(const char *text, unsigned port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

	if (inet_pton(AF_INET, text, &in.sin_addr) != 1) {
		errno = EINVAL;
		guest_die(text);
	}
	return in;
}

/* Without DHCP: both sides have the same addresses under every machine. */
static void configure(const char *interface, const char *address)
{
	struct ifreq request = {0};
	struct sockaddr_in in = address_of(address, 0);
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(request.ifr_name, IFNAMSIZ, "%s", interface);
	memcpy(&request.ifr_addr, &in, sizeof(in));
	if (sock < 0 || ioctl(sock, SIOCSIFADDR, &request))
		guest_die(interface);
	in = address_of("255.255.255.0", 0);
	memcpy(&request.ifr_netmask, &in, sizeof(in));
	if (ioctl(sock, SIOCSIFNETMASK, &request) || ioctl(sock, SIOCGIFFLAGS, &request))
		guest_die(interface);
	request.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &request))
		guest_die(interface);
	close(sock);
}

void net_is(const char *line, int native)
{
	char name[8], interface[16], own[32], address[32];
	unsigned port;

	if (sscanf(line, "%7s %15s %31s %31s %u", name, interface, own, address, &port) != 5) {
		errno = EINVAL;
		guest_die(line);
	}
	if (!native)
		configure(interface, own);
	peers[!strcmp(name, "switch")] = address_of(address, port);
}

/* ---- the other guest ------------------------------------------------------------------------- */

static int all(int to, const void *data, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = write(to, (const uint8_t *)data + done, bytes - done);

		if (n <= 0)
			return -1;
		done += (size_t)n;
	}
	return 0;
}

static void answer(int client)
{
	struct request request;
	uint8_t byte;

	while (recv(client, &request, sizeof(request), MSG_WAITALL) == sizeof(request)) {
		for (uint64_t left = request.stream; left > 0;) {
			uint64_t n = left < CHUNK ? left : CHUNK;

			if (all(client, buffer, n))
				return;
			left -= n;
		}
		for (uint64_t i = 0; i < request.echoes; i++)
			if (read(client, &byte, 1) != 1 || write(client, &byte, 1) != 1)
				return;
	}
}

void net_serve(const char *line)
{
	const int on = 1;
	struct sockaddr_in in;
	char interface[16], own[32];
	unsigned port;
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), client;

	if (sscanf(line, "%15s %31s %u", interface, own, &port) != 3) {
		errno = EINVAL;
		guest_die(line);
	}
	configure(interface, own);
	in = address_of(own, port);
	buffer = guest_alloc(CHUNK);
	signal(SIGPIPE, SIG_IGN);
	if (sock < 0 || bind(sock, (struct sockaddr *)&in, sizeof(in)) || listen(sock, 8))
		guest_die("listen");
	dprintf(1, "@bench serving\n");
	while ((client = accept(sock, NULL, NULL)) >= 0) {
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		answer(client);
		close(client);
	}
	guest_die("accept");
}

/* ---- this one ------------------------------------------------------------------------------------ */

static void ask(uint64_t stream, uint64_t echoes)
{
	const struct request request = {.stream = stream, .echoes = echoes};

	if (all(fd, &request, sizeof(request)))
		guest_die("send");
}

static uint64_t stream_run(uint64_t operations)
{
	uint64_t left = operations * CHUNK;

	ask(left, 0);
	while (left > 0) {
		ssize_t n = read(fd, buffer, CHUNK);

		if (n <= 0)
			guest_die("receive");
		left -= (uint64_t)n;
	}
	return operations;
}

static void connect_to(unsigned peer)
{
	const int on = 1;

	if (!peers[peer].sin_port)
		guest_die("the plan names no network");
	for (unsigned i = 0; i < CONNECT_S * 10; i++) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && !connect(fd, (struct sockaddr *)&peers[peer], sizeof(peers[peer]))) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
			buffer = guest_alloc(CHUNK);
			/* TCP begins slowly, and neighbours are looked for: that is nobody's figure. */
			stream_run(WARM_UP);
			return;
		}
		close(fd);
		usleep(100000);
	}
	guest_die("connect");
}

static void connect_user(void) { connect_to(0); }
static void connect_switch(void) { connect_to(1); }

static uint64_t request_run(uint64_t operations)
{
	uint64_t hash = 0;

	ask(0, operations);
	for (uint64_t i = 0; i < operations; i++) {
		uint8_t byte = (uint8_t)i;

		if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
			guest_die("answer");
		hash = guest_mix(hash, byte);
	}
	return hash;
}

const struct workload net_workloads[] = {
	{"net-user-download", "net", CHUNK / 1024, "KiB", connect_user, stream_run},
	{"net-user-request", "net", 1, "request", connect_user, request_run},
	{"net-guest-stream", "net", CHUNK / 1024, "KiB", connect_switch, stream_run},
	{"net-guest-request", "net", 1, "request", connect_switch, request_run},
	{0},
};
