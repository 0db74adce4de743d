/* VMware's backdoor: its commands, channels and requests as open-vm-tools uses them, and as nobody should. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine/vmware/vmware.h"
#include "tests/unit/machine_fixture.h"

#define RPCI 0x49435052u
#define TCLO 0x4f4c4354u
#define COOKIE 0x80000000u
#define OK 1u
#define DORECV 2u
#define HB 0x80u
enum { OPEN, SENDSIZE, SENDPAYLOAD, RECVSIZE, RECVPAYLOAD, RECVSTATUS, CLOSE };

struct heard {
	struct machine *machine;
	char log[4][600];
	unsigned logs;
	unsigned powers, accepted;
	enum vmware_power power;
};

static void on_log(void *opaque, const char *text)
{
	struct heard *h = opaque;

	snprintf(h->log[h->logs++ % 4], sizeof(h->log[0]), "%s", text);
}

static void on_power(void *opaque, enum vmware_power power, bool accepted)
{
	struct heard *h = opaque;

	h->power = power;
	h->powers++;
	h->accepted += accepted;
}

static int setup(void **state)
{
	struct heard *h = calloc(1, sizeof(*h));
	struct vmware_config vmware = {.on_log = on_log, .on_power = on_power, .opaque = h, .data_port = true};
	struct machine_config config = {.ram_bytes = 16 << 20, .vcpus = 1, .vmware = &vmware};

	for (unsigned i = 0; i < 16; i++)
		vmware.uuid[i] = (uint8_t)(i + 1);
	*state = h;
	return machine_create(&config, &h->machine);
}

static int teardown(void **state)
{
	struct heard *h = *state;

	machine_destroy(h->machine);
	free(h);
	return 0;
}

/* One access; the high half of ecx as it becomes. */
static unsigned call(struct heard *h, unsigned command, unsigned high, uint32_t bx, uint32_t r[VMWARE_REGISTERS])
{
	r[VMWARE_AX] = VMWARE_MAGIC;
	r[VMWARE_BX] = bx;
	r[VMWARE_CX] = command | high << 16;
	machine_backdoor(h->machine, r);
	return r[VMWARE_CX] >> 16;
}

struct client {
	uint32_t id, cookie[2];
};

static unsigned message(struct heard *h, const struct client *c, unsigned type, uint32_t bx, uint32_t r[VMWARE_REGISTERS])
{
	r[VMWARE_DX] = VMWARE_PORT | c->id << 16;
	r[VMWARE_SI] = c->cookie[0];
	r[VMWARE_DI] = c->cookie[1];
	return call(h, 30, type, bx, r);
}

static bool client_open(struct heard *h, struct client *c, uint32_t protocol)
{
	uint32_t r[VMWARE_REGISTERS] = {0};

	*c = (struct client){0};
	if (!(message(h, c, OPEN, protocol, r) & OK))
		return false;
	c->id = r[VMWARE_DX] >> 16;
	c->cookie[0] = r[VMWARE_SI];
	c->cookie[1] = r[VMWARE_DI];
	return true;
}

static bool client_send(struct heard *h, const struct client *c, const void *data, uint32_t n)
{
	uint32_t r[VMWARE_REGISTERS], piece;

	if (!(message(h, c, SENDSIZE, n, r) & OK))
		return false;
	for (uint32_t at = 0; at < n; at += 4) {
		piece = 0;
		memcpy(&piece, (const char *)data + at, n - at < 4 ? n - at : 4);
		if (!(message(h, c, SENDPAYLOAD, piece, r) & OK))
			return false;
	}
	return true;
}

/* The text that waits, with a NUL behind it; NULL: none. */
static char *client_receive(struct heard *h, const struct client *c)
{
	uint32_t r[VMWARE_REGISTERS], n;

	if (!(message(h, c, RECVSIZE, 0, r) & DORECV))
		return NULL;
	n = r[VMWARE_BX];
	assert_int_equal(r[VMWARE_DX] >> 16, SENDSIZE);
	char *text = calloc(1, (size_t)n + 4);
	for (uint32_t at = 0; at < n; at += 4) {
		assert_true(message(h, c, RECVPAYLOAD, OK, r) & OK);
		assert_int_equal(r[VMWARE_DX] >> 16, SENDPAYLOAD);
		memcpy(text + at, &r[VMWARE_BX], 4);
	}
	assert_true(message(h, c, RECVSTATUS, OK, r) & OK);
	return text;
}

static void expect_reply(struct heard *h, const struct client *c, const char *request, uint32_t bytes, const char *want)
{
	assert_true(client_send(h, c, request, bytes));
	char *text = client_receive(h, c);
	assert_non_null(text);
	assert_string_equal(text, want);
	free(text);
}

#define ASK(h, c, request, want) expect_reply(h, c, request, (uint32_t)strlen(request), want)

static void expect_command(struct heard *h, const struct client *c, const char *want, const char *answer)
{
	char *text = client_receive(h, c);

	assert_non_null(text);
	assert_string_equal(text, want);
	free(text);
	assert_true(client_send(h, c, answer, (uint32_t)strlen(answer)));
}

/* ---- commands ------------------------------------------------------------------------------------------------ */

static void test_commands(void **state)
{
	struct heard *h = *state;
	uint32_t r[VMWARE_REGISTERS] = {0};
	struct timespec now;

	call(h, 10, 0, ~VMWARE_MAGIC, r);
	assert_int_equal(r[VMWARE_AX], 6);
	assert_int_equal(r[VMWARE_BX], VMWARE_MAGIC);
	assert_int_equal(r[VMWARE_CX], 2);
	call(h, 20, 0, 0, r);
	assert_int_equal(r[VMWARE_AX], 16);
	call(h, 19, 0, 0, r);
	assert_int_equal(r[VMWARE_AX], 0x04030201);
	assert_int_equal(r[VMWARE_DX], 0x100f0e0d);
	call(h, 45, 0, 0, r);
	assert_int_equal(r[VMWARE_AX] | (uint64_t)r[VMWARE_BX] << 32, machine_tsc_khz(h->machine) * 1000);
	clock_gettime(CLOCK_REALTIME, &now);
	call(h, 55, 0, 0, r);
	assert_int_equal(r[VMWARE_AX], VMWARE_MAGIC);
	assert_in_range(r[VMWARE_DX] | (uint64_t)r[VMWARE_SI] << 32, (uint64_t)now.tv_sec, (uint64_t)now.tv_sec + 60);
	assert_true(r[VMWARE_BX] < 1000000);
	call(h, 23, 0, 0, r);
	assert_in_range(r[VMWARE_AX], (uint64_t)now.tv_sec, (uint64_t)now.tv_sec + 60);
	call(h, 999, 0, 7, r);
	assert_int_equal(r[VMWARE_AX], 0xffffffff);
	assert_int_equal(r[VMWARE_BX], 7);
}

static void test_cpuid(void **state)
{
	struct heard *h = *state;
	const struct cpuid_model *m = machine_cpuid(h->machine);
	uint32_t r[4];

	cpuid_query(m, 0, 0, 0, 0x40000000, 0, r);
	assert_int_equal(r[0], 0x40000010);
	assert_memory_equal(&r[1], "VMwareVMware", 12);
	cpuid_query(m, 0, 0, 0, 0x40000010, 0, r);
	assert_int_equal(r[0], machine_tsc_khz(h->machine));
	assert_int_equal(cpuid_kvm_base(m), 0x40000100);
	cpuid_query(m, 0, 0, 0, 0x40000100, 0, r);
	assert_int_equal(r[0], 0x40000101);
	assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
	cpuid_query(m, 0, 0, 0, 0x40000101, 0, r);
	assert_true(r[0] & 1u << 3);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void test_variables(void **state)
{
	struct heard *h = *state;
	struct client c;
	size_t bytes;
	char *value;

	assert_int_equal(vmware_variable_set(h->machine, "userdata", "#cloud-config\n", 14), 0);
	assert_true(client_open(h, &c, RPCI | COOKIE));
	ASK(h, &c, "info-get guestinfo.userdata", "1 #cloud-config\n");
	ASK(h, &c, "info-get guestinfo.none", "0 No value found");
	ASK(h, &c, "info-get something.else", "0 No value found");
	ASK(h, &c, "info-set guestinfo.state all is well", "1 ");
	expect_reply(h, &c, "info-get guestinfo.state\0", 25, "1 all is well");
	ASK(h, &c, "info-set guestinfo.state ", "1 ");
	ASK(h, &c, "info-get guestinfo.state", "1 ");
	ASK(h, &c, "info-set other.state x", "0 Only guestinfo variables can be set");
	ASK(h, &c, "info-set guestinfo. x", "0 Bad name");
	value = vmware_variable_copy(h->machine, "state", &bytes);
	assert_non_null(value);
	assert_int_equal(bytes, 0);
	free(value);
	assert_int_equal(vmware_variable_set(h->machine, "state", NULL, 0), 0);
	ASK(h, &c, "info-get guestinfo.state", "0 No value found");
	assert_int_equal(vmware_variable_set(h->machine, "a b", "x", 1), -EINVAL);
	ASK(h, &c, "unheard.of", "0 Unknown command");
	ASK(h, &c, "", "0 Unknown command");
}

static void test_variables_are_bounded(void **state)
{
	struct heard *h = *state;
	struct client c;
	char request[64];
	char *big = malloc(70000);

	assert_true(client_open(h, &c, RPCI));
	for (unsigned i = 0; i < VMWARE_VARIABLES_MAX; i++) {
		snprintf(request, sizeof(request), "info-set guestinfo.v%u x", i);
		ASK(h, &c, request, "1 ");
	}
	ASK(h, &c, "info-set guestinfo.more x", "0 Too much is stored");
	ASK(h, &c, "info-set guestinfo.v1 again", "1 ");
	memset(big, 'x', 70000);
	memcpy(big, "info-set guestinfo.v0 ", 22);
	unsigned taken = 0;
	for (unsigned i = 0; i < 64; i++) {
		char name[24];
		int n = snprintf(name, sizeof(name), "info-set guestinfo.v%02u ", i);
		memcpy(big, name, (size_t)n);
		assert_true(client_send(h, &c, big, 65536));
		char *reply = client_receive(h, &c);
		taken += reply[0] == '1';
		free(reply);
	}
	assert_in_range(taken, 20, VMWARE_VARIABLES_BYTES_MAX / 65000);
	assert_false(client_send(h, &c, big, 65537));
	free(big);
}

static void test_log(void **state)
{
	struct heard *h = *state;
	struct client c;

	assert_true(client_open(h, &c, RPCI | COOKIE));
	ASK(h, &c, "log hello\x1b[2J\nworld", "1 ");
	assert_string_equal(h->log[0], "hello?[2J?world");
	for (unsigned i = 0; i < 1000; i++)
		ASK(h, &c, "log flood", "1 ");
	assert_in_range(h->logs, 50, 500);
}

/* GuestNicProto, one interface with an IPv4 and an IPv6 address. */
static const uint8_t nics[] = {
	0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1,
	0, 0, 0, 17, '5', '2', ':', '5', '4', ':', '0', '0', ':', '1', '2', ':', '3', '4', ':', '5', '6', 0, 0, 0,
	0, 0, 0, 2,
	0, 0, 0, 1, 0, 0, 0, 4, 10, 0, 2, 15, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1,
	0, 0, 0, 2, 0, 0, 0, 16, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 1, /* DNS: */ 0, 0, 0, 1, 0, 0, 0, 4, 'd', 'i', 's', 'k', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
};

static void test_guest_info(void **state)
{
	struct heard *h = *state;
	struct vmware_guest g;
	struct vmware_nic n[2];
	struct client c;
	char request[600] = "SetGuestInfo  10 ";
	size_t bytes;

	assert_true(client_open(h, &c, RPCI | COOKIE));
	expect_reply(h, &c, "SetGuestInfo  1 disk.example\0", 29, "1 ");
	ASK(h, &c, "SetGuestInfo  5 Debian GNU/Linux 12", "1 ");
	ASK(h, &c, "SetGuestInfo  6 debian12-64", "1 ");
	ASK(h, &c, "SetGuestInfo  7 12345", "1 ");
	ASK(h, &c, "SetGuestInfo  2 old", "0 Not kept");
	ASK(h, &c, "SetGuestInfo", "0 Unknown command");
	ASK(h, &c, "tools.set.versiontype 12352 4", "1 ");
	memcpy(request + 17, nics, sizeof(nics));
	expect_reply(h, &c, request, 17 + sizeof(nics), "1 ");
	assert_true(vmware_guest_state(h->machine, &g));
	assert_false(g.present); /* nobody polls for commands */
	assert_string_equal(g.hostname, "disk.example");
	assert_string_equal(g.os, "Debian GNU/Linux 12");
	assert_string_equal(g.os_id, "debian12-64");
	assert_int_equal(g.uptime_s, 123);
	assert_int_equal(g.version, 12352);
	char *report = vmware_report_copy(h->machine, VMWARE_REPORT_NICS, &bytes);
	assert_non_null(report);
	assert_int_equal(vmware_nics_decode(report, bytes, n, 2), 1);
	free(report);
	assert_string_equal(n[0].mac, "52:54:00:12:34:56");
	assert_int_equal(n[0].address_count, 2);
	assert_memory_equal(n[0].addresses[0].bytes, "\x0a\x00\x02\x0f", 4);
	assert_int_equal(n[0].addresses[0].prefix, 24);
	assert_true(n[0].addresses[1].v6);
	/* Cut anywhere: nothing more than what was whole. */
	for (size_t cut = 0; cut < sizeof(nics); cut++)
		assert_true(vmware_nics_decode(nics, cut, n, 2) == 0);
	/* The next system says for itself. */
	machine_reset(h->machine);
	assert_true(vmware_guest_state(h->machine, &g));
	assert_string_equal(g.hostname, "");
	assert_null(vmware_report_copy(h->machine, VMWARE_REPORT_NICS, &bytes));
}

/* ---- commands to the tools ---------------------------------------------------------------------------------------- */

static void test_commands_to_the_tools(void **state)
{
	struct heard *h = *state;
	struct vmware_guest g;
	struct client tools, user, rpci;

	assert_int_equal(vmware_power_ask(h->machine, VMWARE_POWER_HALT), -EAGAIN);
	assert_true(client_open(h, &tools, TCLO | COOKIE));
	assert_true(client_send(h, &tools, "", 0));
	expect_command(h, &tools, "reset", "OK ATR toolbox");
	assert_true(vmware_guest_state(h->machine, &g));
	assert_true(g.present);
	expect_command(h, &tools, "Capabilities_Register", "OK ");
	expect_command(h, &tools, "Set_Option synctime 0", "OK ");
	expect_command(h, &tools, "Set_Option time.synchronize.tools.startup 1", "OK ");
	expect_command(h, &tools, "Set_Option time.synchronize.tools.enable 1", "OK ");
	assert_null(client_receive(h, &tools));
	/* A user's tools are asked nothing. */
	assert_true(client_open(h, &user, TCLO | COOKIE));
	expect_command(h, &user, "reset", "OK ATR toolbox-dnd");
	assert_int_equal(vmware_power_ask(h->machine, VMWARE_POWER_REBOOT), 0);
	assert_null(client_receive(h, &user));
	expect_command(h, &tools, "OS_Reboot", "ERROR State change already in progress");
	assert_int_equal(h->powers, 1);
	assert_int_equal(h->accepted, 0);
	assert_int_equal(h->power, VMWARE_POWER_REBOOT);
	assert_int_equal(vmware_power_ask(h->machine, VMWARE_POWER_HALT), 0);
	expect_command(h, &tools, "OS_Halt", "OK ");
	assert_int_equal(h->accepted, 1);
	/* Who sets an option has it told to the service. */
	assert_true(client_open(h, &rpci, RPCI));
	ASK(h, &rpci, "vmx.set_option synctime 0 1", "1 ");
	expect_command(h, &tools, "Set_Option synctime 1", "OK ");
	ASK(h, &rpci, "vmx.set_option other 0 1", "0 Unknown option");
	/* Nobody fetches them: there is an end to it. */
	unsigned asked = 0;
	while (!vmware_time_sync(h->machine) && asked < 1000)
		asked++;
	assert_in_range(asked, 1, 100);
	uint32_t r[VMWARE_REGISTERS];
	assert_true(message(h, &tools, CLOSE, 0, r) & OK);
	assert_int_equal(vmware_time_sync(h->machine), -EAGAIN);
}

/* ---- hostile ------------------------------------------------------------------------------------------------------- */

static void test_wrong_uses(void **state)
{
	struct heard *h = *state;
	uint32_t r[VMWARE_REGISTERS] = {0};
	struct client c, other;

	assert_false(client_open(h, &c, 0x12345678));
	assert_true(client_open(h, &c, RPCI | COOKIE));
	other = c;
	other.cookie[0] ^= 1;
	assert_int_equal(message(h, &other, SENDSIZE, 4, r), 0);
	other = c;
	other.id = 0xffff;
	assert_int_equal(message(h, &other, SENDSIZE, 4, r), 0);
	other.id = c.id + 1;
	assert_int_equal(message(h, &other, RECVSIZE, 0, r), 0);
	/* Out of turn. */
	assert_int_equal(message(h, &c, SENDPAYLOAD, 0, r), 0);
	assert_int_equal(message(h, &c, RECVPAYLOAD, OK, r), 0);
	assert_int_equal(message(h, &c, RECVSTATUS, OK, r), 0);
	assert_int_equal(message(h, &c, SENDSIZE, 0xffffffff, r), 0);
	assert_int_equal(message(h, &c, 77, 0, r), 0);
	/* Half a message, then another. */
	assert_int_equal(message(h, &c, SENDSIZE, 100, r), OK | HB);
	assert_int_equal(message(h, &c, SENDPAYLOAD, 0, r), OK);
	ASK(h, &c, "log whole", "1 ");
	assert_string_equal(h->log[0], "whole");
	assert_int_equal(message(h, &c, CLOSE, 0, r), OK);
	assert_int_equal(message(h, &c, CLOSE, 0, r), 0);
	/* As many channels as there are, and no more; one closed makes room. */
	unsigned n = 0;
	while (client_open(h, &c, RPCI | COOKIE))
		assert_true(++n < 1000);
	assert_int_equal(message(h, &c, CLOSE, 0, r), 0); /* c was not opened */
	machine_reset(h->machine);
	assert_true(client_open(h, &c, RPCI | COOKIE));
}

static void test_data_port(void **state)
{
	struct heard *h = *state;
	static const char request[] = "info-set guestinfo.long by the data port";
	uint32_t r[VMWARE_REGISTERS] = {0}, d[VMWARE_REGISTERS] = {0};
	struct client c;
	char text[64] = "";

	assert_true(client_open(h, &c, RPCI | COOKIE));
	assert_int_equal(message(h, &c, SENDSIZE, sizeof(request) - 1, r), OK | HB);
	d[VMWARE_CX] = sizeof(request) - 1;
	d[VMWARE_DX] = c.id << 16 | VMWARE_PORT_DATA;
	d[VMWARE_BP] = c.cookie[0] ^ 1;
	d[VMWARE_DI] = c.cookie[1];
	assert_int_equal(machine_backdoor_data_begin(h->machine, d, false), 0);
	d[VMWARE_BP] = c.cookie[0];
	assert_int_equal(machine_backdoor_data_begin(h->machine, d, false), sizeof(request) - 1);
	assert_true(machine_backdoor_data_move(h->machine, d, false, (void *)request, 10));
	machine_backdoor_data_end(h->machine, d, false);
	assert_int_equal(d[VMWARE_BX] >> 16, 0); /* not whole yet */
	assert_int_equal(machine_backdoor_data_begin(h->machine, d, false), sizeof(request) - 11);
	assert_false(machine_backdoor_data_move(h->machine, d, false, (void *)request, sizeof(request)));
	assert_true(machine_backdoor_data_move(h->machine, d, false, (void *)(request + 10), sizeof(request) - 11));
	machine_backdoor_data_end(h->machine, d, false);
	assert_int_equal(d[VMWARE_BX] >> 16, OK);
	assert_int_equal(message(h, &c, RECVSIZE, 0, r), OK | DORECV | HB);
	assert_int_equal(r[VMWARE_BX], 2);
	d[VMWARE_CX] = 100;
	d[VMWARE_SI] = c.cookie[0];
	d[VMWARE_BP] = c.cookie[1];
	assert_int_equal(machine_backdoor_data_begin(h->machine, d, true), 2);
	assert_true(machine_backdoor_data_move(h->machine, d, true, text, 2));
	machine_backdoor_data_end(h->machine, d, true);
	assert_int_equal(d[VMWARE_BX] >> 16, OK);
	assert_string_equal(text, "1 ");
	assert_int_equal(message(h, &c, RECVSTATUS, OK, r), OK);
	ASK(h, &c, "info-get guestinfo.long", "1 by the data port");
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

/* Anything at all, half of it on a channel that is open, with words that mean something. */
static void test_random(void **state)
{
	static const char *const words[] = {"info-set guestinfo.a ", "info-get guestinfo.a", "log ", "SetGuestInfo  10 ", "SetGuestInfo  9",
					    "OK ATR toolbox", "OK ", "ERROR ", "vmx.set_option synctime 0 1", "tools.set.version ", ""};
	struct heard *h = *state;
	uint64_t s = 0x9e3779b97f4a7c15ull;
	struct client c[4] = {{0}};
	struct vmware_nic n[4];
	uint8_t noise[512];

	for (unsigned i = 0; i < 60000; i++) {
		uint32_t r[VMWARE_REGISTERS];
		uint64_t x = next_random(&s);
		struct client *k = &c[x % 4];

		for (unsigned j = 0; j < VMWARE_REGISTERS; j++)
			r[j] = (uint32_t)next_random(&s);
		switch (x >> 8 & 15) {
		case 0: machine_backdoor(h->machine, r); break;
		case 1: client_open(h, k, (x & 0x10000 ? RPCI : TCLO) | (x & 0x20000 ? COOKIE : 0)); break;
		case 2:
		case 3: message(h, k, (unsigned)(x >> 16 & 7), (uint32_t)(x >> 20 & (x & 0x80000 ? 0xff : 0xffffffff)), r); break;
		case 4:
			r[VMWARE_BX] = 0;
			r[VMWARE_DX] = k->id << 16;
			r[VMWARE_BP] = k->cookie[0];
			r[VMWARE_DI] = k->cookie[1];
			r[VMWARE_CX] = (uint32_t)(x >> 16 & 0x1ff);
			if (machine_backdoor_data_begin(h->machine, r, false))
				machine_backdoor_data_move(h->machine, r, false, noise, r[VMWARE_CX]);
			machine_backdoor_data_end(h->machine, r, false);
			break;
		case 5:
			r[VMWARE_BX] = 0;
			r[VMWARE_DX] = k->id << 16;
			r[VMWARE_SI] = k->cookie[0];
			r[VMWARE_BP] = k->cookie[1];
			r[VMWARE_CX] = (uint32_t)(x >> 16 & 0x1ff);
			machine_backdoor_data_begin(h->machine, r, true);
			machine_backdoor_data_move(h->machine, r, true, noise, r[VMWARE_CX]);
			machine_backdoor_data_end(h->machine, r, true);
			break;
		case 6: free(client_receive(h, k)); break;
		case 7:
			vmware_power_ask(h->machine, VMWARE_POWER_HALT);
			vmware_time_sync(h->machine);
			break;
		default: {
			const char *w = words[(x >> 16 & 0xff) % 11];
			size_t len = strlen(w), more = x >> 24 & 127;
			for (size_t j = 0; j < sizeof(noise); j++)
				noise[j] = (uint8_t)next_random(&s);
			if (x >> 40 & 1) { /* a report that is nearly right */
				memcpy(noise, "SetGuestInfo  10 ", 17);
				memcpy(noise + 17, nics, sizeof(nics));
				noise[17 + (x >> 44) % sizeof(nics)] = (uint8_t)(x >> 52);
				vmware_nics_decode(noise + 17, sizeof(nics), n, 4);
				len = 17;
				more = sizeof(nics);
			} else {
				memcpy(noise, w, len);
			}
			client_send(h, k, noise, (uint32_t)(len + more));
		}
		}
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_commands), T(test_cpuid), T(test_variables), T(test_variables_are_bounded), T(test_log), T(test_guest_info),
		T(test_commands_to_the_tools), T(test_wrong_uses), T(test_data_port), T(test_random),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
