/*
 * The GDB server: a UNIX socket, one client at a time, in all-stop mode with a thread for each vCPU. Everything here runs on
 * the main thread. The socket is bound before the sandbox closes, and listens once somebody wants a debugger.
 */
#include "vm/gdb.h"

#include "proto/sock.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REFUSED_MAX 8 /* clients that are heard out at once */

#define OUTPUT_MAX (1u << 20) /* a client that does not read is not heard either */
#define CR0_PE 1u
#define CR0_PG (1u << 31)
#define EFER_LMA 0x400u
#define SIGNAL_TRAP 5
#define SIGNAL_INT 2
#define SIGNAL_SEGV 11

static void client_free(struct gdb_client *c)
{
	struct vm *vm = c->vm;

	c->server->client = NULL;
	bufferevent_free(c->bev);
	free(c->xml);
	free(c->last);
	free(c->state);
	free(c);
	vm_debug_detach(vm);
}

/* ---- sending ---- */

static void send_frame(struct gdb_client *c)
{
	bufferevent_write(c->bev, c->last, c->last_bytes);
	if (evbuffer_get_length(bufferevent_get_output(c->bev)) > OUTPUT_MAX)
		bufferevent_disable(c->bev, EV_READ);
}

void gdb_reply(struct gdb_client *c, const char *payload, size_t bytes)
{
	if (bytes > GDB_PACKET_MAX)
		bytes = GDB_PACKET_MAX;
	c->last_bytes = gdb_frame(c->last, payload, bytes);
	send_frame(c);
}

void gdb_replyf(struct gdb_client *c, const char *format, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	gdb_reply(c, text, n < 0 ? 0 : (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

/* ---- stopping and going on ---- */

static void on_stop(void *opaque, unsigned vcpu, const struct mode_debug_hit *hit)
{
	struct gdb_client *c = opaque;

	gdb_describe_stop(c, vcpu, hit ? SIGNAL_TRAP : SIGNAL_SEGV, hit);
	c->running = false;
	c->general = vcpu;
	gdb_reply(c, c->stop, strlen(c->stop));
}

static int put_points(struct gdb_client *c)
{
	static const uint32_t kinds[] = {
		[GDB_SOFTWARE] = MODE_DEBUG_EXEC,
		[GDB_HARDWARE] = MODE_DEBUG_EXEC,
		[GDB_WRITE] = MODE_DEBUG_WRITE,
		[GDB_READ] = MODE_DEBUG_READ,
		[GDB_ACCESS] = MODE_DEBUG_READ | MODE_DEBUG_WRITE,
	};
	struct mode_debug_point points[GDB_POINTS_MAX];

	if (!c->points_changed)
		return 0;
	for (unsigned i = 0; i < c->point_count; i++) {
		const struct gdb_point *p = &c->points[i];
		points[i] = (struct mode_debug_point){p->gva, p->type <= GDB_HARDWARE ? 1 : p->bytes, kinds[p->type]};
	}
	c->points_changed = false;
	return vm_debug_points(c->vm, points, c->point_count);
}

void gdb_resume(struct gdb_client *c, const enum vm_debug_action *actions)
{
	if (put_points(c)) {
		gdb_replyf(c, "E.the engine cannot hold that many breakpoints");
		return;
	}
	c->running = true;
	vm_debug_go(c->vm, actions);
}

static void interrupt(struct gdb_client *c)
{
	if (!c->running)
		return;
	if (vm_debug_stop(c->vm)) {
		gdb_replyf(c, "E.a vCPU does not leave the engine");
		return;
	}
	c->running = false;
	gdb_describe_stop(c, c->general, SIGNAL_INT, NULL);
	gdb_reply(c, c->stop, strlen(c->stop));
}

bool gdb_get_state(struct gdb_client *c, unsigned vcpu, struct gdb_extra *ret_extra)
{
	ret_extra->cr8 = machine_tpr_get(c->vm->machine, vcpu);
	return !c->vm->mode->get_state(c->vm->vcpus[vcpu].engine, c->state);
}

/* ---- receiving ---- */

static void take_byte(struct gdb_client *c, uint8_t byte)
{
	switch (gdb_parse(&c->parser, byte)) {
	case GDB_NOTHING:
	case GDB_ACK: return;
	case GDB_NAK:
		if (c->last_bytes && !c->no_ack)
			send_frame(c);
		return;
	case GDB_BAD:
		if (!c->no_ack)
			bufferevent_write(c->bev, "-", 1);
		return;
	case GDB_INTERRUPT: interrupt(c); return;
	case GDB_PACKET:
		if (!c->no_ack)
			bufferevent_write(c->bev, "+", 1);
		gdb_command(c, c->parser.text, c->parser.bytes);
	}
}

static void on_read(struct bufferevent *bev, void *opaque)
{
	struct gdb_client *c = opaque;
	struct evbuffer *in = bufferevent_get_input(bev);
	uint8_t bytes[4096];
	int n;

	while (bufferevent_get_enabled(bev) & EV_READ && (n = evbuffer_remove(in, bytes, sizeof(bytes))) > 0)
		for (int i = 0; i < n; i++)
			take_byte(c, bytes[i]);
}

static void on_written(struct bufferevent *bev, void *opaque)
{
	if (bufferevent_get_enabled(bev) & EV_READ)
		return;
	bufferevent_enable(bev, EV_READ);
	on_read(bev, opaque);
}

static void on_event(struct bufferevent *bev, short what, void *opaque)
{
	struct gdb_client *c = opaque;

	if (!c->detached)
		vm_log("debugger: the client has gone%s", c->running ? "" : "; the guest goes on");
	client_free(c);
}

/* ---- clients ---- */

/* With paging it is clear what runs; before it, only in real mode, since kernels of 64 bits may begin in 32. */
static enum gdb_width choose_width(struct gdb_client *c)
{
	static const enum gdb_width wished[] = {
		[VMDEF_GDB_I8086] = GDB_16, [VMDEF_GDB_I386] = GDB_32, [VMDEF_GDB_X86_64] = GDB_64};
	enum gdb_width width = GDB_64;
	struct gdb_extra extra;

	if (c->server->architecture != VMDEF_GDB_AUTO)
		return wished[c->server->architecture];
	for (unsigned i = 0; i < c->vm->vcpu_count; i++) {
		if (!gdb_get_state(c, i, &extra))
			continue;
		if (c->state->efer & EFER_LMA)
			return GDB_64;
		if (c->state->cr0 & CR0_PG)
			width = GDB_32;
		else if (!i && !(c->state->cr0 & CR0_PE))
			width = GDB_16;
	}
	return width;
}

static void on_refused(evutil_socket_t sock, short what, void *arg)
{
	struct vm_gdb *g = arg;

	close(sock);
	g->refused--;
}

/*
 * GDB writes before it reads and shows an error only as the answer to its first packet: what it writes must find
 * somebody for a moment, and be acknowledged, or all that it says is "Broken pipe".
 */
static void refuse(struct vm_gdb *g, int sock, const char *why)
{
	struct timeval moment = {.tv_sec = 1};
	char frame[256];
	size_t n;

	vm_log("debugger: a client was refused: %s", why);
	frame[0] = '+';
	n = 1 + gdb_frame(frame + 1, why, strlen(why));
	if (send(sock, frame, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 || shutdown(sock, SHUT_WR) || g->refused >= REFUSED_MAX ||
	    event_base_once(g->vm->base, sock, EV_TIMEOUT, on_refused, g, &moment)) {
		close(sock);
		return;
	}
	g->refused++;
}

static const char *attach(struct vm_gdb *g, int sock)
{
	struct gdb_client *c = calloc(1, sizeof(*c));

	if (c) {
		c->server = g;
		c->vm = g->vm;
		c->resume = -1;
		c->state = vm_state_alloc();
		c->last = malloc(GDB_FRAME_MAX);
		c->bev = bufferevent_socket_new(g->vm->base, sock, BEV_OPT_CLOSE_ON_FREE);
	}
	if (!c || !c->state || !c->last || !c->bev) {
		if (c && c->bev)
			bufferevent_free(c->bev);
		else
			close(sock);
		if (c) {
			free(c->state);
			free(c->last);
			free(c);
		}
		return NULL;
	}
	int rc = vm_debug_attach(g->vm, on_stop, c);
	if (!rc) {
		c->width = choose_width(c);
		c->xml = gdb_target_xml(c->width);
		gdb_describe_stop(c, 0, SIGNAL_TRAP, NULL);
		g->client = c;
		bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
		bufferevent_enable(c->bev, EV_READ | EV_WRITE);
		return NULL;
	}
	bufferevent_free(c->bev);
	free(c->state);
	free(c->last);
	free(c);
	return rc == -ENOTSUP ? "this mode cannot be debugged" : "the VM cannot be stopped now";
}

static void on_acceptable(evutil_socket_t fd, short what, void *arg)
{
	struct vm_gdb *g = arg;
	int sock = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (sock < 0)
		return;
	if (g->client && g->client->detached)
		client_free(g->client);
	if (g->client) {
		refuse(g, sock, "E.another debugger is attached");
		return;
	}
	const char *why = attach(g, sock);
	if (why)
		vm_log("debugger: %s", why);
	else if (g->client)
		vm_log("debugger: a client has attached, as %s", gdb_architecture_name(g->client->width));
}

/* ---- the server ---- */

int vm_gdb_open(struct vm *vm)
{
	struct vm_gdb *g = calloc(1, sizeof(*g));
	const char *wanted = vm->def->gdb;

	if (!g)
		return -ENOMEM;
	vm->gdb = g;
	g->vm = vm;
	g->listener = -1;
	g->architecture = vm->def->gdb_architecture;
	if (wanted && wanted[0] == '/')
		snprintf(g->path, sizeof(g->path), "%s", wanted);
	else
		snprintf(g->path, sizeof(g->path), "%s/" CONTROL_FILE_GDB, vm->options.dir);
	g->listener = sock_bind(g->path, 0600);
	if (g->listener < 0)
		return g->listener;
	return wanted ? vm_gdb_enable(vm) : 0;
}

int vm_gdb_enable(struct vm *vm)
{
	struct vm_gdb *g = vm->gdb;

	if (g->listening)
		return 0;
	if (listen(g->listener, 4) < 0)
		return -errno;
	g->acceptable = event_new(vm->base, g->listener, EV_READ | EV_PERSIST, on_acceptable, g);
	if (!g->acceptable || event_add(g->acceptable, NULL) < 0)
		return -ENOMEM;
	g->listening = true;
	vm_log("debugger: target remote %s", g->path);
	return 0;
}

const char *vm_gdb_path(const struct vm *vm) { return vm->gdb->path; }
bool vm_gdb_enabled(const struct vm *vm) { return vm->gdb && vm->gdb->listening; }
bool vm_gdb_connected(const struct vm *vm) { return vm->gdb && vm->gdb->client; }

void vm_gdb_set_architecture(struct vm *vm, enum vmdef_gdb_architecture architecture)
{
	vm->gdb->architecture = architecture;
}

void vm_gdb_ended(struct vm *vm)
{
	struct gdb_client *c = vm->gdb ? vm->gdb->client : NULL;

	if (!c)
		return;
	c->running = false;
	if (vm->state == VM_SHUTDOWN)
		gdb_replyf(c, "W%02x", (unsigned)vm->exit_code & 0xff);
	else
		gdb_replyf(c, "X%02x", vm->state == VM_CRASHED ? 11 : 9);
	bufferevent_disable(c->bev, EV_READ);
	bufferevent_flush(c->bev, EV_WRITE, BEV_FLUSH);
}

void vm_gdb_close(struct vm *vm)
{
	struct vm_gdb *g = vm->gdb;

	if (!g)
		return;
	if (g->client) {
		struct evbuffer *out = bufferevent_get_output(g->client->bev);
		if (evbuffer_get_length(out))
			evbuffer_write(out, bufferevent_getfd(g->client->bev));
		client_free(g->client);
	}
	if (g->acceptable)
		event_free(g->acceptable);
	if (g->listener >= 0) {
		close(g->listener);
		unlink(g->path);
	}
	free(g);
	vm->gdb = NULL;
}
