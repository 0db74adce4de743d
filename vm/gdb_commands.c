/* The GDB server's packets. What it does not know is answered by an empty packet, as the protocol wants it. */
#include "vm/gdb.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static void ok(struct gdb_client *c) { gdb_reply(c, "OK", 2); }
static void error(struct gdb_client *c, int rc) { gdb_replyf(c, "E%02x", rc & 0xff); }

static bool starts(const char **text, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*text, word, n))
		return false;
	*text += n;
	return true;
}

/* ---- threads: vCPU n is thread n + 1 ---- */

#define ALL_THREADS (-1)

/* ALL_THREADS, a vCPU's number (0 stands for any: the first), or -2. */
static int thread_of(struct gdb_client *c, const char **text)
{
	uint64_t id;

	if (starts(text, "-1"))
		return ALL_THREADS;
	if (!gdb_number(text, &id) || id > c->vm->vcpu_count)
		return -2;
	return id ? (int)id - 1 : 0;
}

static void do_select(struct gdb_client *c, const char *t)
{
	char which = *t;
	int n;

	if (which)
		t++;
	n = thread_of(c, &t);
	if (n == -2 || *t || (which != 'g' && which != 'c')) {
		error(c, EINVAL);
		return;
	}
	if (which == 'c')
		c->resume = n;
	else
		c->general = n < 0 ? 0 : (unsigned)n;
	ok(c);
}

static void do_alive(struct gdb_client *c, const char *t)
{
	if (thread_of(c, &t) >= 0 && !*t)
		ok(c);
	else
		error(c, ESRCH);
}

static void do_threads(struct gdb_client *c, const char *t)
{
	size_t n = 1;

	c->out[0] = 'm';
	for (unsigned i = 0; i < c->vm->vcpu_count; i++)
		n += (size_t)snprintf(c->out + n, sizeof(c->out) - n, "%s%x", i ? "," : "", i + 1);
	gdb_reply(c, c->out, n);
}

static void do_threads_more(struct gdb_client *c, const char *t) { gdb_reply(c, "l", 1); }

static void do_thread_info(struct gdb_client *c, const char *t)
{
	static const char *const doing[] = {
		[CPU_RUNNING] = "running", [CPU_HALTED] = "halted", [CPU_WAIT_SIPI] = "not started", [CPU_SHUTDOWN] = "shut down"};
	struct gdb_extra extra;
	char text[64];
	int n = thread_of(c, &t);

	if (n < 0 || !gdb_get_state(c, (unsigned)n, &extra)) {
		error(c, ESRCH);
		return;
	}
	const struct cpu_state *cs = c->state;
	snprintf(text, sizeof(text), "vCPU %d [%s, CPL %u]", n, cs->activity < ARRAY_SIZE(doing) ? doing[cs->activity] : "?",
		 cs->cr0 & 1 ? cs->seg[SEG_SS].access >> SEG_ACCESS_DPL_SHIFT & 3 : 0);
	gdb_hex(c->out, text, strlen(text));
	gdb_reply(c, c->out, strlen(c->out));
}

static void do_current(struct gdb_client *c, const char *t)
{
	if (*t) /* qCRC, which we have not */
		gdb_reply(c, "", 0);
	else
		gdb_replyf(c, "QC%x", c->general + 1);
}

/* ---- stops ---- */

void gdb_describe_stop(struct gdb_client *c, unsigned vcpu, unsigned signal, const struct mode_debug_hit *hit)
{
	char reason[64] = "";

	for (unsigned i = 0; hit && hit->point.kind && i < c->point_count; i++) {
		const struct gdb_point *p = &c->points[i];
		static const uint32_t kinds[] = {MODE_DEBUG_EXEC, MODE_DEBUG_EXEC, MODE_DEBUG_WRITE, MODE_DEBUG_READ,
						 MODE_DEBUG_READ | MODE_DEBUG_WRITE};
		if (p->gva != hit->point.gva || kinds[p->type] != hit->point.kind)
			continue;
		if (p->type <= GDB_HARDWARE)
			snprintf(reason, sizeof(reason), "%s:;", p->type == GDB_SOFTWARE ? "swbreak" : "hwbreak");
		else
			snprintf(reason, sizeof(reason), "%s:%" PRIx64 ";",
				 p->type == GDB_WRITE ? "watch" : p->type == GDB_READ ? "rwatch" : "awatch", hit->gva);
		break;
	}
	snprintf(c->stop, sizeof(c->stop), "T%02xthread:%x;%s", signal, vcpu + 1, reason);
}

static void do_why(struct gdb_client *c, const char *t) { gdb_reply(c, c->stop, strlen(c->stop)); }

/* s and c, with an address to go on from; vCont made them obsolete. */
static void resume_old(struct gdb_client *c, const char *t, enum vm_debug_action action, bool has_signal)
{
	enum vm_debug_action actions[MACHINE_MAX_VCPUS];
	struct gdb_extra extra;
	uint64_t number;

	if (has_signal && (!gdb_number(&t, &number) || (*t && !gdb_skip(&t, ';')))) {
		error(c, EINVAL);
		return;
	}
	if (*t) {
		if (!gdb_number(&t, &number) || *t || !gdb_get_state(c, c->general, &extra)) {
			error(c, EINVAL);
			return;
		}
		gdb_register_write(c->width, c->width == GDB_64 ? 16 : 8, c->state, &extra, (const uint8_t *)&number);
		c->vm->mode->set_state(c->vm->vcpus[c->general].engine, c->state);
	}
	for (unsigned i = 0; i < c->vm->vcpu_count; i++)
		actions[i] = VM_DEBUG_GO;
	if (action == VM_DEBUG_STEP)
		actions[c->resume < 0 ? c->general : (unsigned)c->resume] = VM_DEBUG_STEP;
	gdb_resume(c, actions);
}

static void do_continue(struct gdb_client *c, const char *t) { resume_old(c, t, VM_DEBUG_GO, false); }
static void do_continue_signal(struct gdb_client *c, const char *t) { resume_old(c, t, VM_DEBUG_GO, true); }
static void do_step(struct gdb_client *c, const char *t) { resume_old(c, t, VM_DEBUG_STEP, false); }
static void do_step_signal(struct gdb_client *c, const char *t) { resume_old(c, t, VM_DEBUG_STEP, true); }

/* vCont;action[:thread]…: the first that fits a thread counts; threads that none fits stay. Signals are not ours to send. */
static void do_vcont(struct gdb_client *c, const char *t)
{
	enum vm_debug_action actions[MACHINE_MAX_VCPUS];
	bool set[MACHINE_MAX_VCPUS] = {false}, any = false;

	while (gdb_skip(&t, ';')) {
		char what = *t;
		enum vm_debug_action action = what == 's' || what == 'S' ? VM_DEBUG_STEP : VM_DEBUG_GO;
		uint64_t signal;
		int thread = ALL_THREADS;

		if (!what || !strchr("cCsS", what))
			break;
		t++;
		if ((what == 'C' || what == 'S') && !gdb_number(&t, &signal))
			break;
		if (gdb_skip(&t, ':') && (thread = thread_of(c, &t)) == -2)
			break;
		for (unsigned i = 0; i < c->vm->vcpu_count; i++)
			if (!set[i] && (thread == ALL_THREADS || (unsigned)thread == i)) {
				actions[i] = action;
				set[i] = any = true;
			}
	}
	if (*t || !any) {
		error(c, EINVAL);
		return;
	}
	for (unsigned i = 0; i < c->vm->vcpu_count; i++)
		if (!set[i])
			actions[i] = VM_DEBUG_HOLD;
	gdb_resume(c, actions);
}

static void do_vcont_supported(struct gdb_client *c, const char *t) { gdb_replyf(c, "vCont;c;C;s;S"); }

/* ---- registers ---- */

static void do_registers(struct gdb_client *c, const char *t)
{
	uint8_t bytes[GDB_REGISTER_BYTES];
	struct gdb_extra extra;
	size_t n = 0;

	if (!gdb_get_state(c, c->general, &extra)) {
		error(c, EIO);
		return;
	}
	for (unsigned i = 0; i < gdb_register_count(c->width); i++) {
		size_t size = gdb_register_read(c->width, i, c->state, &extra, bytes);
		gdb_hex(c->out + n, bytes, size);
		n += 2 * size;
	}
	gdb_reply(c, c->out, n);
}

static void set_state(struct gdb_client *c)
{
	if (c->vm->mode->set_state(c->vm->vcpus[c->general].engine, c->state))
		error(c, EIO);
	else
		ok(c);
}

/* What cannot be written is left alone: GDB writes back all it has read. */
static void do_registers_write(struct gdb_client *c, const char *t)
{
	uint8_t bytes[GDB_REGISTER_BYTES];
	struct gdb_extra extra;

	if (!gdb_get_state(c, c->general, &extra)) {
		error(c, EIO);
		return;
	}
	for (unsigned i = 0; i < gdb_register_count(c->width); i++) {
		size_t size = gdb_register_bytes(c->width, i);
		if (gdb_unhex(&t, bytes, size) != size)
			break;
		gdb_register_write(c->width, i, c->state, &extra, bytes);
	}
	set_state(c);
}

static void do_register(struct gdb_client *c, const char *t)
{
	uint8_t bytes[GDB_REGISTER_BYTES];
	struct gdb_extra extra;
	uint64_t number;
	size_t size;

	if (!gdb_number(&t, &number) || *t || number >= gdb_register_count(c->width) ||
	    !gdb_get_state(c, c->general, &extra)) {
		error(c, EINVAL);
		return;
	}
	size = gdb_register_read(c->width, (unsigned)number, c->state, &extra, bytes);
	gdb_hex(c->out, bytes, size);
	gdb_reply(c, c->out, 2 * size);
}

static void do_register_write(struct gdb_client *c, const char *t)
{
	uint8_t bytes[GDB_REGISTER_BYTES];
	struct gdb_extra extra;
	uint64_t number;

	if (!gdb_number(&t, &number) || !gdb_skip(&t, '=') || number >= gdb_register_count(c->width) ||
	    gdb_unhex(&t, bytes, sizeof(bytes)) != gdb_register_bytes(c->width, (unsigned)number) || *t ||
	    !gdb_get_state(c, c->general, &extra)) {
		error(c, EINVAL);
		return;
	}
	if (gdb_register_write(c->width, (unsigned)number, c->state, &extra, bytes))
		set_state(c);
	else
		error(c, EPERM);
}

/* ---- memory ---- */

static size_t transfer(struct gdb_client *c, gva_t at, void *buf, size_t n, bool write)
{
	struct gdb_extra extra;

	if (c->physical)
		return write ? vm_write_physical(c->vm, at, buf, n) : vm_read_physical(c->vm, at, buf, n);
	if (!gdb_get_state(c, c->general, &extra))
		return 0;
	return write ? vm_write_linear(c->vm, c->state, at, buf, n) : vm_read_linear(c->vm, c->state, at, buf, n);
}

/* addr,length */
static bool range_of(const char **t, uint64_t *ret_at, uint64_t *ret_n)
{
	return gdb_number(t, ret_at) && gdb_skip(t, ',') && gdb_number(t, ret_n);
}

static void do_memory(struct gdb_client *c, const char *t)
{
	uint8_t buf[GDB_PACKET_MAX / 2];
	uint64_t at, n;
	size_t got;

	if (!range_of(&t, &at, &n) || *t) {
		error(c, EINVAL);
		return;
	}
	got = transfer(c, at, buf, n < sizeof(buf) ? n : sizeof(buf), false);
	if (n && !got) {
		error(c, EFAULT);
		return;
	}
	gdb_hex(c->out, buf, got);
	gdb_reply(c, c->out, 2 * got);
}

static void write_memory(struct gdb_client *c, uint64_t at, uint64_t n, void *bytes, size_t given)
{
	if (n != given)
		error(c, EINVAL);
	else if (transfer(c, at, bytes, given, true) != given)
		error(c, EFAULT);
	else
		ok(c);
}

static void do_memory_write(struct gdb_client *c, const char *t)
{
	uint8_t buf[GDB_PACKET_MAX / 2];
	uint64_t at, n;
	size_t given;

	if (!range_of(&t, &at, &n) || !gdb_skip(&t, ':')) {
		error(c, EINVAL);
		return;
	}
	given = gdb_unhex(&t, buf, sizeof(buf));
	write_memory(c, at, *t ? ~0ull : n, buf, given);
}

/* ---- breakpoints and watchpoints ---- */

static void do_point(struct gdb_client *c, const char *t, bool insert)
{
	uint64_t type, at, n;
	unsigned i;

	if (!gdb_number(&t, &type) || !gdb_skip(&t, ',') || !range_of(&t, &at, &n) || (*t && *t != ';')) {
		error(c, EINVAL);
		return;
	}
	if (type > GDB_ACCESS) {
		gdb_reply(c, "", 0);
		return;
	}
	if (type >= GDB_WRITE && (!n || n > GDB_WATCH_MAX)) {
		error(c, EINVAL);
		return;
	}
	for (i = 0; i < c->point_count; i++)
		if (c->points[i].type == type && c->points[i].gva == at && (type <= GDB_HARDWARE || c->points[i].bytes == n))
			break;
	if (insert && i == GDB_POINTS_MAX) {
		error(c, ENOSPC);
		return;
	}
	/* Both are idempotent. */
	if (insert && i == c->point_count) {
		c->points[c->point_count++] = (struct gdb_point){(enum gdb_point_type)type, at, (uint32_t)n};
		c->points_changed = true;
	} else if (!insert && i < c->point_count) {
		c->points[i] = c->points[--c->point_count];
		c->points_changed = true;
	}
	ok(c);
}

static void do_insert(struct gdb_client *c, const char *t) { do_point(c, t, true); }
static void do_remove(struct gdb_client *c, const char *t) { do_point(c, t, false); }

/* ---- queries ---- */

static void do_supported(struct gdb_client *c, const char *t)
{
	gdb_replyf(c, "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;swbreak+;hwbreak+;vContSupported+", GDB_PACKET_MAX);
}

static void do_no_ack(struct gdb_client *c, const char *t)
{
	ok(c);
	c->no_ack = true;
}

static void do_description(struct gdb_client *c, const char *t)
{
	uint64_t off, n;
	size_t bytes = c->xml ? strlen(c->xml) : 0;

	if (!range_of(&t, &off, &n) || *t || !c->xml) {
		error(c, EINVAL);
		return;
	}
	if (off > bytes)
		off = bytes;
	if (n > sizeof(c->out) - 2)
		n = sizeof(c->out) - 2;
	if (n > bytes - off)
		n = bytes - off;
	c->out[0] = off + n < bytes ? 'm' : 'l';
	memcpy(c->out + 1, c->xml + off, n);
	gdb_reply(c, c->out, n + 1);
}

static void do_attached(struct gdb_client *c, const char *t) { gdb_reply(c, "1", 1); }
static void do_symbol(struct gdb_client *c, const char *t) { ok(c); }

/* QEMU's name for it, which scripts know. */
static void do_physical(struct gdb_client *c, const char *t)
{
	uint64_t on;

	if (!gdb_number(&t, &on) || *t || on > 1) {
		error(c, EINVAL);
		return;
	}
	c->physical = on;
	ok(c);
}

static void do_physical_query(struct gdb_client *c, const char *t) { gdb_replyf(c, "%d", c->physical); }

static void do_monitor(struct gdb_client *c, const char *t)
{
	char line[256];
	size_t n = gdb_unhex(&t, line, sizeof(line) - 1);

	line[n] = 0;
	if (*t)
		error(c, EINVAL);
	else
		gdb_monitor(c, line);
}

/* ---- the end ---- */

static void do_detach(struct gdb_client *c, const char *t)
{
	ok(c);
	c->detached = true;
	vm_log("debugger: the client has detached");
	vm_debug_detach(c->vm);
}

static void do_kill(struct gdb_client *c, const char *t)
{
	vm_finish(c->vm, VM_DESTROYED, VM_EXIT_DESTROYED, "killed by the debugger");
}

/* ---- dispatch: by the longest beginning first ---- */

static const struct {
	const char *word;
	void (*run)(struct gdb_client *c, const char *rest);
	bool while_running;
} commands[] = {
	{"qSupported", do_supported, true},
	{"QStartNoAckMode", do_no_ack, true},
	{"qXfer:features:read:target.xml:", do_description, true},
	{"qThreadExtraInfo,", do_thread_info, false},
	{"qfThreadInfo", do_threads, true},
	{"qsThreadInfo", do_threads_more, true},
	{"qAttached", do_attached, true},
	{"qSymbol::", do_symbol, true},
	{"qRcmd,", do_monitor, false},
	{"Qqemu.PhyMemMode:", do_physical, true},
	{"qqemu.PhyMemMode", do_physical_query, true},
	{"qC", do_current, true},
	{"vCont?", do_vcont_supported, true},
	{"vCont", do_vcont, false},
	{"vKill", do_kill, true},
	{"?", do_why, false},
	{"H", do_select, true},
	{"T", do_alive, true},
	{"g", do_registers, false},
	{"G", do_registers_write, false},
	{"p", do_register, false},
	{"P", do_register_write, false},
	{"m", do_memory, false},
	{"M", do_memory_write, false},
	{"Z", do_insert, false},
	{"z", do_remove, false},
	{"c", do_continue, false},
	{"C", do_continue_signal, false},
	{"s", do_step, false},
	{"S", do_step_signal, false},
	{"D", do_detach, true},
	{"k", do_kill, true},
};

/* X addr,length:bytes: the only packet whose payload may hold NULs. */
static void binary_write(struct gdb_client *c, const char *text, size_t bytes)
{
	const char *t = text + 1;
	uint64_t at, n;

	if (!range_of(&t, &at, &n) || !gdb_skip(&t, ':')) {
		error(c, EINVAL);
		return;
	}
	write_memory(c, at, n, (void *)(uintptr_t)t, bytes - (size_t)(t - text));
}

void gdb_command(struct gdb_client *c, const char *text, size_t bytes)
{
	if (c->detached || vm_state_is_final(c->vm->state))
		return;
	if (text[0] == 'X' && !c->running) {
		binary_write(c, text, bytes);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		const char *rest = text;
		if (!starts(&rest, commands[i].word))
			continue;
		if (c->running && !commands[i].while_running)
			gdb_replyf(c, "E.the guest runs; interrupt it first");
		else
			commands[i].run(c, rest);
		return;
	}
	gdb_reply(c, "", 0);
}
