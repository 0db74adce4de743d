/*
 * gdb: a debugger that sends anything at all to the GDB server. Packets of every kind with arguments at random, broken ones,
 * bytes that are none, cut anywhere; to the server itself over its socket, with a VM behind it whose engine is not there.
 * Whatever comes, what the server sends is well-formed packets, and it answers a good packet afterwards.
 *
 *	gdb [--seed S] [--count N] [--seconds N] [--from K]
 *
 * --count is sessions; --seconds goes on with more of them until the time is over.
 */
#include "tests/differential/watch.h"
#include "vm/gdb.h"

#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CHECK_SESSIONS 400u
#define PACKETS_MAX 60u
#define VCPUS 2
#define RAM_BYTES (16ull << 20)
#define TABLES_BYTES (1u << 20) /* of RAM that are page table entries */

static struct vm vm;
static struct cpu_state *states[VCPUS];
static uint64_t seed;
static struct gdb_parser seen; /* what the server sends */
static unsigned long replies, packets;
static bool answered;          /* the last question */

static void fail(const char *format, ...)
{
	va_list ap;

	printf("not ok 1 - gdb\n# ");
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
	abort(); /* the watcher says which session it was */
}

static uint64_t any(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull >> 16;
}
static unsigned below(unsigned n) { return (unsigned)(any() % n); }

/* ---- the VM behind the server: what vm/ has besides, without vCPUs ------------------------------------ */

void vm_log(const char *format, ...) {}

static int get_state(struct mode_vcpu *vcpu, struct cpu_state *ret_state)
{
	if (!below(64))
		return -EIO;
	*ret_state = *(struct cpu_state *)vcpu;
	return 0;
}

static int set_state(struct mode_vcpu *vcpu, const struct cpu_state *state)
{
	*(struct cpu_state *)vcpu = *state;
	return below(64) ? 0 : -EINVAL;
}

static void ram_written(struct mode_vm *engine, gpa_t gpa, uint64_t bytes)
{
	if (gpa >= RAM_BYTES || bytes > RAM_BYTES - gpa)
		fail("%llu bytes were written at %llx", (unsigned long long)bytes, (unsigned long long)gpa);
}

static const struct mode_ops no_engine = {
	.name = "none", .get_state = get_state, .set_state = set_state, .ram_written = ram_written};

static void stop_it(void)
{
	struct gdb_client *c = vm.gdb->client;
	struct mode_debug_hit hit = {.gva = any()};

	if (c->point_count && below(2)) {
		hit.point = (struct mode_debug_point){c->points[below(c->point_count)].gva, 1 + below(8), 1u << below(3)};
	}
	vm.debug.on_stop(vm.debug.opaque, below(VCPUS), below(4) ? &hit : NULL);
}

int vm_debug_attach(struct vm *v, void (*on_stop)(void *opaque, unsigned vcpu, const struct mode_debug_hit *hit), void *opaque)
{
	if (!below(64))
		return below(2) ? -ENOTSUP : -ESRCH;
	v->debug = (struct vm_debug){.attached = true, .on_stop = on_stop, .opaque = opaque};
	return 0;
}

void vm_debug_detach(struct vm *v) { v->debug = (struct vm_debug){0}; }
int vm_debug_stop(struct vm *v) { return below(16) ? 0 : -ETIMEDOUT; }

void vm_debug_go(struct vm *v, const enum vm_debug_action *actions)
{
	for (unsigned i = 0; i < VCPUS; i++)
		if (actions[i] > VM_DEBUG_STEP)
			fail("vCPU %u is to do %u", i, actions[i]);
	if (below(3))
		stop_it();
}

int vm_debug_points(struct vm *v, const struct mode_debug_point *points, size_t n)
{
	if (n > MODE_DEBUG_POINTS_MAX)
		fail("%zu points", n);
	for (size_t i = 0; i < n; i++)
		if (!points[i].bytes || !points[i].kind || points[i].kind > 7 || points[i].bytes > GDB_WATCH_MAX)
			fail("a point of %u bytes and kind %u", points[i].bytes, points[i].kind);
	return below(16) ? 0 : -ENOSPC;
}

int vm_reset(struct vm *v) { return 0; }
void vm_finish(struct vm *v, enum vm_state state, int exit_code, const char *format, ...) { v->state = state; }

static void vm_make(void)
{
	const struct machine_config config = {.ram_bytes = RAM_BYTES, .vcpus = VCPUS};
	static struct vmdef def = {.name = "fuzz"};
	int rc = machine_create(&config, &vm.machine);

	if (rc < 0)
		fail("machine_create: %s", strerror(-rc));
	vm.def = &def;
	vm.mode = &no_engine;
	vm.vcpu_count = VCPUS;
	vm.base = event_base_new();
	for (unsigned i = 0; i < VCPUS; i++) {
		states[i] = vm_state_alloc();
		vm.vcpus[i].engine = (struct mode_vcpu *)states[i];
	}
}

/* Tables that lead to tables, pages, holes and nowhere; registers that use them in any way. */
static void vm_shuffle(void)
{
	uint8_t *ram = machine_ram_find(vm.machine, 0)->host;

	for (unsigned i = 0; i < 512; i++) {
		uint64_t entry = (any() & (below(8) ? RAM_BYTES - 1 : ~0ull)) | (below(8) != 0) | (any() & 0x86);
		memcpy(ram + below(TABLES_BYTES / 8) * 8, &entry, sizeof(entry));
	}
	for (unsigned i = 0; i < VCPUS; i++) {
		struct cpu_state *cs = states[i];
		cpu_state_reset(cs, i);
		for (unsigned r = 0; r < GPR_COUNT; r++)
			cs->gpr[r] = any();
		cs->rip = any();
		cs->cr0 = (below(4) ? 1 : 0) | (below(2) ? 1u << 31 : 0);
		cs->cr3 = any() & (TABLES_BYTES - 1);
		cs->cr4 = any() & 0x1030;
		cs->efer = below(2) ? 0x500 : 0;
	}
}

/* ---- packets ------------------------------------------------------------------------------------------- */

static size_t put_number(char *to)
{
	static const uint64_t nasty[] = {0, 1, 2, 0x1000, 0x3fff, 0x4000, 0x7fffffff, 0x80000000, 0xffffffff, ~0ull, 1ull << 63, 0xfffff000};
	uint64_t v = below(2) ? nasty[below(ARRAY_SIZE(nasty))] : below(2) ? any() % RAM_BYTES : any() >> below(48);

	return (size_t)sprintf(to, "%s%llx", below(32) ? "" : "-", (unsigned long long)v);
}

/* At most `max` digits, now and then an odd number of them. */
static size_t put_hex(char *to, size_t max)
{
	size_t n = below(4) ? below(64) : below((unsigned)max);

	for (size_t i = 0; i < n; i++)
		to[i] = "0123456789abcdef"[below(16)];
	return n;
}

static size_t put_monitor(char *to)
{
	static const char *const lines[] = {"help", "status", "regs", "translate 0x", "translate ", "physical on", "physical x", "xp 0 ",
					    "xp 0xfffffffffffffff0 99", "xp", "architecture i386", "architecture", "nmi", "reset", "no"};
	char line[300];
	size_t n = (size_t)sprintf(line, "%s", lines[below(ARRAY_SIZE(lines))]);

	if (below(2))
		n += put_number(line + n);
	if (!below(8))
		for (; n < sizeof(line) - 20; n++)
			line[n] = (char)any();
	gdb_hex(to, line, n);
	return 2 * n;
}

/*
 * A packet by a pattern: # is a number, @ hexadecimal digits, ! a monitor command's, % any bytes; the rest is itself. There is
 * room for it in to[GDB_PACKET_MAX].
 */
static size_t build(char *to)
{
	static const char *const patterns[] = {
		"qSupported:@", "QStartNoAckMode", "qXfer:features:read:target.xml:#,#", "qXfer:features:read:@:#,#", "qThreadExtraInfo,#",
		"qfThreadInfo", "qsThreadInfo", "qAttached", "qSymbol::", "qRcmd,!", "qRcmd,!", "qRcmd,@", "Qqemu.PhyMemMode:#", "qqemu.PhyMemMode",
		"qC", "qCRC:#,#", "vCont?", "vCont;c", "vCont;s:#;c", "vCont;C#:#;S#:#", "vCont;#", "?", "Hg#", "Hc#", "H", "H%", "T#", "g",
		"G@", "p#", "P#=@", "m#,#", "m#,#", "M#,#:@", "X#,#:%", "X", "Z0,#,#", "Z1,#,#", "Z2,#,#", "Z3,#,#", "Z4,#,#", "Z#,#,#;@",
		"z0,#,#", "z#,#,#", "c", "c#", "C#", "C#;#", "s", "s#", "S#;#", "D", "k", "vKill;#", "", "%"};
	const char *p = patterns[below(ARRAY_SIZE(patterns))];
	size_t n = 0, more;

	/* These end a session. */
	while ((p[0] == 'D' || p[0] == 'k' || !strncmp(p, "vKill", 5)) && below(8))
		p = patterns[below(ARRAY_SIZE(patterns))];
	for (; *p; p++) {
		switch (*p) {
		case '#': n += put_number(to + n); break;
		case '@': n += put_hex(to + n, GDB_PACKET_MAX / 2); break;
		case '!': n += put_monitor(to + n); break;
		case '%':
			for (more = below(8) ? below(40) : below(GDB_PACKET_MAX / 2); more; more--)
				to[n++] = (char)any();
			break;
		default: to[n++] = *p;
		}
	}
	for (unsigned i = below(4) ? 0 : 1 + below(3); i && n; i--)
		to[below((unsigned)n)] = below(2) ? (char)any() : "#$}*,:;=-0f"[below(11)];
	return n;
}

/* On the wire; now and then damaged. At most GDB_FRAME_MAX + 1. */
static size_t frame(char *wire)
{
	static char payload[2 * GDB_PACKET_MAX];
	size_t n = build(payload);

	n = gdb_frame(wire, payload, n < GDB_PACKET_MAX ? n : GDB_PACKET_MAX);
	switch (below(24)) {
	case 0: wire[below((unsigned)n)] = (char)any(); break;
	case 1: n = below((unsigned)n); break;
	case 2: memset(wire, "$m}#+\3"[below(6)], n = GDB_FRAME_MAX); break;
	case 4: memset(wire, '-', n = 40); break; /* each has the last reply sent again */
	case 3: wire[n++] = "+-\3"[below(3)]; break;
	default: break;
	}
	return n;
}

/* ---- a session ------------------------------------------------------------------------------------------ */

/* False: the server has closed. */
static bool hear(int sock)
{
	uint8_t bytes[4096];
	ssize_t n;

	while ((n = recv(sock, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		for (ssize_t i = 0; i < n; i++)
			switch (gdb_parse(&seen, bytes[i])) {
			case GDB_BAD: fail("a malformed packet from the server"); break;
			case GDB_PACKET:
				replies++;
				answered |= !strncmp(seen.text, "QC", 2);
				break;
			default: break;
			}
	return n < 0 && errno == EAGAIN;
}

static bool say(int sock, const char *bytes, size_t n)
{
	while (n) {
		size_t part = below(2) ? n : 1 + below((unsigned)n);
		ssize_t sent = send(sock, bytes, part, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
			return false;
		if (sent > 0) {
			bytes += sent;
			n -= (size_t)sent;
		}
		event_base_loop(vm.base, EVLOOP_NONBLOCK);
		if ((sent < 0 || below(4)) && !hear(sock))
			return false;
	}
	return true;
}

static bool attached(void) { return vm.gdb->client && !vm.gdb->client->detached && !vm_state_is_final(vm.state); }

static void ask_at_last(int sock)
{
	static const char question[] = "#00$qC#b4"; /* behind whatever packet is open */

	answered = false;
	for (unsigned i = 0; i < 1000 && !answered; i++) {
		unsigned long before = replies;
		if (i % 100 == 0 && !say(sock, question, sizeof(question) - 1))
			fail("the server hung up");
		event_base_loop(vm.base, EVLOOP_NONBLOCK);
		if (!hear(sock))
			fail("the server hung up");
		if (replies != before) /* what was asked before comes first */
			i = 0;
	}
	if (!answered)
		fail("the server does not answer");
}

static void session(void)
{
	static char wire[GDB_FRAME_MAX + 16];
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool open;

	vm_shuffle();
	vm.state = VM_RUNNING;
	seen = (struct gdb_parser){0};
	vm_gdb_set_architecture(&vm, (enum vmdef_gdb_architecture)below(4));
	snprintf(name.sun_path, sizeof(name.sun_path), "%s", vm_gdb_path(&vm));
	if (sock < 0 || connect(sock, (struct sockaddr *)&name, sizeof(name)) < 0)
		fail("connect %s: %s", name.sun_path, strerror(errno));
	event_base_loop(vm.base, EVLOOP_NONBLOCK);
	open = vm.gdb->client;
	for (unsigned i = below(PACKETS_MAX); open && i; i--, packets++) {
		open = say(sock, wire, frame(wire));
		if (open && attached() && vm.gdb->client->running && below(2))
			stop_it();
	}
	if (open && attached())
		ask_at_last(sock);
	if (vm.gdb->client && !below(4))
		vm_gdb_ended(&vm);
	close(sock);
	for (unsigned i = 0; vm.gdb->client && i < 100; i++)
		event_base_loop(vm.base, EVLOOP_NONBLOCK);
}

/* A server for each hundred: closing it is tested too. */
static void sessions(uint64_t first_seed, unsigned from, unsigned count)
{
	for (unsigned i = from; i < from + count; i++) {
		if (!vm.gdb && (vm_gdb_open(&vm) < 0 || vm_gdb_enable(&vm) < 0))
			fail("no server at %s: %s", vm.options.dir, strerror(errno));
		watch_case("", i);
		seed = (first_seed * 1000003u + i) * 0x9e3779b97f4a7c15ull | 1;
		session();
		if (vm.gdb->client || i % 100 == 99)
			vm_gdb_close(&vm);
	}
	if (vm.gdb)
		vm_gdb_close(&vm);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", 1, NULL, 's'}, {"count", 1, NULL, 'n'}, {"from", 1, NULL, 'f'}, {"case", 1, NULL, 'c'},
						{"seconds", 1, NULL, 't'}, {"verbose", 0, NULL, 'v'}, {0}};
	unsigned long first = 1, count = CHECK_SESSIONS, from = 0, seconds = 0;
	time_t end;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) >= 0;)
		switch (o) {
		case 's': first = strtoul(optarg, NULL, 0); break;
		case 'n': count = strtoul(optarg, NULL, 0); break;
		case 'f': from = strtoul(optarg, NULL, 0); break;
		case 'c':
			from = strtoul(optarg, NULL, 0);
			count = 1;
			break;
		case 'v': break; /* the watcher's word for its other programs */
		case 't': seconds = strtoul(optarg, NULL, 0); break;
		default: fprintf(stderr, "usage: gdb [--seed S] [--count N] [--from K] [--case K] [--seconds N]\n"); return 2;
		}
	snprintf(vm.options.dir, sizeof(vm.options.dir), "/tmp/trivisor-fuzz.XXXXXX");
	if (!mkdtemp(vm.options.dir)) {
		perror(vm.options.dir);
		return 1;
	}
	printf("1..1\n");
	fflush(stdout);
	end = time(NULL) + (time_t)seconds;
	watch_start("gdb", first);
	signal(SIGPIPE, SIG_IGN); /* trivisor-vm blocks all signals */
	vm_make();
	do {
		sessions(first, (unsigned)from, (unsigned)count);
		from += count;
	} while (time(NULL) < end);
	machine_destroy(vm.machine);
	event_base_free(vm.base);
	for (unsigned i = 0; i < VCPUS; i++)
		free(states[i]);
	rmdir(vm.options.dir);
	printf("# %lu packets, %lu replies\nok 1 - gdb: the server lives and sends well-formed packets\n", packets, replies);
	return 0;
}
