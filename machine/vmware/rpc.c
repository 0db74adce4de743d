/*
 * What guest tools say and are asked: RPCI (their requests: "info-get guestinfo.x", answered by "1 …" or "0 why not") and
 * TCLO (ours, for which they poll: "reset", "OS_Halt", answered by "OK …" or "ERROR …").
 */
#include "machine/vmware/private.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PRESENT_NS 10000000000ull /* they poll at least once a second */
#define LOG_PER_SECOND 5u
#define LOG_TEXT 512u
#define VARIABLE_PREFIX "guestinfo."

/* A request's words: not ended by NUL, and whoever sends it may have put NULs into it. */
struct text {
	const char *at;
	size_t n;
};

static bool skip(struct text *t, const char *prefix)
{
	size_t n = strlen(prefix);

	if (t->n < n || memcmp(t->at, prefix, n))
		return false;
	t->at += n;
	t->n -= n;
	return true;
}

static void skip_spaces(struct text *t)
{
	while (t->n && *t->at == ' ') {
		t->at++;
		t->n--;
	}
}

/* Up to the next space, which is skipped too. */
static struct text word(struct text *t)
{
	const char *end = t->n ? memchr(t->at, ' ', t->n) : NULL;
	struct text w = {t->at, end ? (size_t)(end - t->at) : t->n};

	t->at += w.n + (end != NULL);
	t->n -= w.n + (end != NULL);
	return w;
}

/* Requests that are text often come with their NUL. */
static void trim_nul(struct text *t)
{
	while (t->n && !t->at[t->n - 1])
		t->n--;
}

/* Printable ASCII and UTF-8's bytes; what else is in it would do something to somebody's terminal or log. */
static void copy_printable(char *to, size_t room, struct text t)
{
	size_t n = 0;

	for (; t.n && n + 1 < room; t.at++, t.n--)
		to[n++] = (unsigned char)*t.at < ' ' || *t.at == 0x7f ? '?' : *t.at;
	to[n] = '\0';
}

static uint64_t number(struct text t)
{
	uint64_t n = 0;

	for (; t.n && isdigit((unsigned char)*t.at) && n < UINT64_MAX / 10 - 10; t.at++, t.n--)
		n = n * 10 + (uint64_t)(*t.at - '0');
	return n;
}

/* ---- variables ------------------------------------------------------------------------------------------------ */

static struct variable *variable_find(struct vmware *w, struct text name)
{
	struct variable *v;

	SLIST_FOREACH(v, &w->variables, link)
		if (strlen(v->name) == name.n && !memcmp(v->name, name.at, name.n))
			return v;
	return NULL;
}

static void variable_remove(struct vmware *w, struct variable *v)
{
	SLIST_REMOVE(&w->variables, v, variable, link);
	w->variable_count--;
	w->variable_bytes -= v->bytes;
	free(v->value);
	free(v);
}

static bool name_ok(struct text name)
{
	for (size_t i = 0; i < name.n; i++)
		if (name.at[i] <= ' ' || name.at[i] == 0x7f)
			return false;
	return name.n && name.n <= VMWARE_NAME_MAX;
}

static int variable_set(struct vmware *w, struct text name, struct text value)
{
	struct variable *v = variable_find(w, name);
	uint32_t others = w->variable_bytes - (v ? v->bytes : 0);

	if (!name_ok(name))
		return -EINVAL;
	if (value.n > VMWARE_VARIABLES_BYTES_MAX - others || (!v && w->variable_count >= VMWARE_VARIABLES_MAX))
		return -ENOSPC;
	char *copy = malloc(value.n + 1);
	if (!copy)
		return -ENOMEM;
	if (!v) {
		v = calloc(1, sizeof(*v) + name.n + 1);
		if (!v) {
			free(copy);
			return -ENOMEM;
		}
		memcpy(v->name, name.at, name.n);
		SLIST_INSERT_HEAD(&w->variables, v, link);
		w->variable_count++;
	}
	if (value.n)
		memcpy(copy, value.at, value.n);
	copy[value.n] = '\0';
	free(v->value);
	v->value = copy;
	v->bytes = (uint32_t)value.n;
	w->variable_bytes = others + v->bytes;
	return 0;
}

int vmware_variable_set(struct machine *m, const char *name, const char *value, size_t bytes)
{
	struct vmware *w = m->vmware;
	struct text n = {name, strlen(name)}, v = {value, bytes};
	int rc = 0;

	if (!w)
		return -ENOTSUP;
	machine_lock(m);
	if (value) {
		rc = variable_set(w, n, v);
	} else {
		struct variable *old = variable_find(w, n);
		if (old)
			variable_remove(w, old);
	}
	machine_unlock(m);
	return rc;
}

char *vmware_variable_copy(struct machine *m, const char *name, size_t *ret_bytes)
{
	char *copy = NULL;

	if (!m->vmware)
		return NULL;
	machine_lock(m);
	const struct variable *v = variable_find(m->vmware, (struct text){name, strlen(name)});
	copy = v ? malloc((size_t)v->bytes + 1) : NULL;
	if (copy) {
		memcpy(copy, v->value, (size_t)v->bytes + 1);
		*ret_bytes = v->bytes;
	}
	machine_unlock(m);
	return copy;
}

void vmware_variables_each(struct machine *m, void (*fn)(void *opaque, const char *name, const char *value, size_t bytes),
			   void *opaque)
{
	const struct variable *v;

	if (!m->vmware)
		return;
	machine_lock(m);
	SLIST_FOREACH(v, &m->vmware->variables, link)
		fn(opaque, v->name, v->value, v->bytes);
	machine_unlock(m);
}

/* ---- commands for the tools --------------------------------------------------------------------------------------- */

static bool present(const struct vmware *w)
{
	for (unsigned i = 0; i < CHANNELS; i++)
		if (w->channels[i].tools && machine_clock_ns(w->machine) - w->channels[i].used_at < PRESENT_NS)
			return true;
	return false;
}

__attribute__((format(printf, 2, 3))) static bool command(struct vmware *w, const char *format, ...)
{
	va_list ap;

	if (w->commands_count == COMMANDS_MAX)
		return false;
	va_start(ap, format);
	vsnprintf(w->commands[(w->commands_first + w->commands_count) % COMMANDS_MAX], COMMAND_MAX, format, ap);
	va_end(ap);
	w->commands_count++;
	return true;
}

static int ask(struct machine *m, const char *text)
{
	struct vmware *w = m->vmware;
	int rc = -ENOTSUP;

	if (!w)
		return rc;
	machine_lock(m);
	rc = present(w) && command(w, "%s", text) ? 0 : -EAGAIN;
	machine_unlock(m);
	return rc;
}

int vmware_power_ask(struct machine *m, enum vmware_power power)
{
	return ask(m, power == VMWARE_POWER_REBOOT ? "OS_Reboot" : "OS_Halt");
}

/* 1: backwards too. */
int vmware_time_sync(struct machine *m) { return ask(m, "Time_Synchronize 1"); }

bool vmware_next_command(struct vmware *w, struct channel *c)
{
	const char *text = "reset";

	if (c->asked[0])
		return false;
	if (c->greeted) {
		if (!c->tools || !w->commands_count)
			return false;
		text = w->commands[w->commands_first];
	}
	if (vmware_buffer_set(&c->out, text, (uint32_t)strlen(text)))
		return false;
	strcpy(c->asked, text);
	if (c->greeted) {
		w->commands_first = (w->commands_first + 1) % COMMANDS_MAX;
		w->commands_count--;
	}
	c->greeted = true;
	return true;
}

/* The service of the whole system calls itself toolbox; others (a user's desktop) are asked nothing. */
static void greeted(struct vmware *w, struct channel *c, struct text answer)
{
	trim_nul(&answer);
	if (answer.n != strlen("OK ATR toolbox") || !skip(&answer, "OK ATR toolbox"))
		return;
	/* The newest one is it: an older one was restarted, or is not what it says. */
	for (unsigned i = 0; i < CHANNELS; i++)
		w->channels[i].tools = false;
	c->tools = true;
	w->commands_count = 0;
	command(w, "Capabilities_Register");
	command(w, "Set_Option synctime 0");
	command(w, "Set_Option time.synchronize.tools.startup 1");
	command(w, "Set_Option time.synchronize.tools.enable 1");
}

static void command_answered(struct vmware *w, struct channel *c, struct text answer)
{
	bool ok = skip(&answer, "OK");
	enum vmware_power power = !strcmp(c->asked, "OS_Halt")	   ? VMWARE_POWER_HALT
				  : !strcmp(c->asked, "OS_Reboot") ? VMWARE_POWER_REBOOT
								   : VMWARE_POWER_NONE;

	if (power && c->tools && w->config.on_power)
		w->config.on_power(w->config.opaque, power, ok);
}

static void tclo_message(struct vmware *w, struct channel *c)
{
	struct text answer = {(const char *)c->in.data, c->in.bytes};

	if (!c->in.bytes || !c->asked[0])
		return;
	if (!strcmp(c->asked, "reset"))
		greeted(w, c, answer);
	else
		command_answered(w, c, answer);
	c->asked[0] = '\0';
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

static void reply(struct channel *c, bool ok, const void *data, size_t n)
{
	c->has_out = !vmware_buffer_set(&c->out, ok ? "1 " : "0 ", 2) && !vmware_buffer_append(&c->out, data, (uint32_t)n);
}

static void reply_text(struct channel *c, bool ok, const char *text) { reply(c, ok, text, strlen(text)); }

/* Paid for from a purse, so that a program in the guest cannot fill the log. */
static void do_log(struct vmware *w, struct channel *c, struct text t)
{
	uint64_t now = machine_clock_ns(w->machine), earned = (now - w->log_filled_at) * LOG_PER_SECOND / 1000000000u;
	char text[LOG_TEXT];

	trim_nul(&t);
	reply_text(c, true, "");
	if (earned) {
		w->log_purse = earned + w->log_purse > LOG_PURSE ? LOG_PURSE : w->log_purse + (unsigned)earned;
		w->log_filled_at = now;
	}
	if (!w->log_purse) {
		w->log_dropped++;
		return;
	}
	w->log_purse--;
	if (!w->config.on_log)
		return;
	if (w->log_dropped) {
		snprintf(text, sizeof(text), "(%u more lines than are taken)", w->log_dropped);
		w->log_dropped = 0;
		w->config.on_log(w->config.opaque, text);
	}
	copy_printable(text, sizeof(text), t);
	w->config.on_log(w->config.opaque, text);
}

static void do_info_get(struct vmware *w, struct channel *c, struct text t)
{
	trim_nul(&t);
	const struct variable *v = skip(&t, VARIABLE_PREFIX) ? variable_find(w, t) : NULL;
	if (v)
		reply(c, true, v->value, v->bytes);
	else
		reply_text(c, false, "No value found");
}

static void do_info_set(struct vmware *w, struct channel *c, struct text t)
{
	trim_nul(&t);
	if (!skip(&t, VARIABLE_PREFIX)) {
		reply_text(c, false, "Only guestinfo variables can be set");
		return;
	}
	struct text name = word(&t);
	int rc = t.n > VMWARE_VALUE_MAX ? -ENOSPC : variable_set(w, name, t);
	reply_text(c, !rc, !rc ? "" : rc == -EINVAL ? "Bad name" : "Too much is stored");
}

static void keep_report(struct vmware *w, struct channel *c, enum vmware_report which, struct text t)
{
	bool ok = t.n <= VMWARE_REPORT_MAX && !vmware_buffer_set(&w->reports[which], t.at, (uint32_t)t.n);

	reply_text(c, ok, ok ? "" : "Too long");
}

/* Behind a version, both names in fields of fixed size, which tools then do not send by themselves (hostinfo.h). */
static void names_from_details(struct vmware *w, struct text t)
{
	enum { VERSION_BYTES = 4, SHORT_BYTES = 129, FULL_BYTES = 513 };

	if (t.n < VERSION_BYTES + SHORT_BYTES + FULL_BYTES)
		return;
	struct text id = {t.at + VERSION_BYTES, 0}, full = {t.at + VERSION_BYTES + SHORT_BYTES, 0};
	id.n = strnlen(id.at, SHORT_BYTES);
	full.n = strnlen(full.at, FULL_BYTES);
	copy_printable(w->guest.os_id, sizeof(w->guest.os_id), id);
	copy_printable(w->guest.os, sizeof(w->guest.os), full);
}

/* "SetGuestInfo  KIND DATA"; kinds as open-vm-tools' guestInfo.h numbers them. */
static void do_guest_info(struct vmware *w, struct channel *c, struct text t)
{
	enum { HOSTNAME = 1, BUILD = 4, OS_FULL = 5, OS_NAME = 6, UPTIME = 7, MEMORY = 8, NICS_V2 = 9, NICS_V3 = 10, DETAILED = 11 };

	skip_spaces(&t);
	uint64_t kind = number(word(&t));
	if (kind == NICS_V2 || kind == NICS_V3) {
		keep_report(w, c, VMWARE_REPORT_NICS, t);
		return;
	}
	trim_nul(&t);
	switch (kind) {
	case HOSTNAME: copy_printable(w->guest.hostname, sizeof(w->guest.hostname), t); break;
	case OS_FULL: copy_printable(w->guest.os, sizeof(w->guest.os), t); break;
	case OS_NAME: copy_printable(w->guest.os_id, sizeof(w->guest.os_id), t); break;
	case UPTIME:
		w->guest.uptime_s = number(t) / 100;
		w->guest.uptime_at = machine_clock_ns(w->machine);
		break;
	case DETAILED:
		names_from_details(w, t);
		keep_report(w, c, VMWARE_REPORT_DETAILED, t);
		return;
	case BUILD:
	case MEMORY: break; /* known better from elsewhere */
	default: reply_text(c, false, "Not kept"); return;
	}
	reply_text(c, true, "");
}

static void do_disk_info(struct vmware *w, struct channel *c, struct text t)
{
	trim_nul(&t);
	keep_report(w, c, VMWARE_REPORT_DISKS, t);
}

static void do_version(struct vmware *w, struct channel *c, struct text t)
{
	w->guest.version = (uint32_t)number(t);
	reply_text(c, true, "");
}

/* Who sets an option (vmware-toolbox-cmd timesync enable) waits for the service to be told of it. */
static void do_set_option(struct vmware *w, struct channel *c, struct text t)
{
	char option[32], value[8];

	trim_nul(&t);
	copy_printable(option, sizeof(option), word(&t));
	word(&t); /* the old value */
	copy_printable(value, sizeof(value), t);
	if (strcmp(option, "synctime") || (strcmp(value, "0") && strcmp(value, "1"))) {
		reply_text(c, false, "Unknown option");
		return;
	}
	w->sync = value[0] == '1';
	command(w, "Set_Option %s %s", option, value);
	reply_text(c, true, "");
}

static void do_nothing(struct vmware *w, struct channel *c, struct text t) { reply_text(c, true, ""); }

static const struct {
	const char *name; /* up to where the arguments begin */
	void (*run)(struct vmware *w, struct channel *c, struct text arguments);
} requests[] = {
	{"log ", do_log},
	{"info-get ", do_info_get},
	{"info-set ", do_info_set},
	{"SetGuestInfo ", do_guest_info},
	{"SetGuestDiskInfo ", do_disk_info},
	{"tools.set.versiontype ", do_version},
	{"tools.set.version ", do_version},
	{"vmx.set_option ", do_set_option},
	/* What tools can do, and how far they are with a change of state: taken note of by nobody. */
	{"vmx.capability.unified_loop ", do_nothing},
	{"tools.capability.", do_nothing},
	{"tools.os.statechange.status ", do_nothing},
};

void vmware_request(struct vmware *w, struct channel *c)
{
	if (c->kind == CHANNEL_TCLO) {
		tclo_message(w, c);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		struct text t = {(const char *)c->in.data, c->in.bytes};

		if (c->in.bytes && skip(&t, requests[i].name)) {
			requests[i].run(w, c, t);
			return;
		}
	}
	reply_text(c, false, "Unknown command");
}

/* ---- what the VM's process asks ------------------------------------------------------------------------------------------ */

bool vmware_guest_state(struct machine *m, struct vmware_guest *ret)
{
	if (!m->vmware)
		return false;
	machine_lock(m);
	*ret = m->vmware->guest;
	ret->present = present(m->vmware);
	machine_unlock(m);
	return true;
}

char *vmware_report_copy(struct machine *m, enum vmware_report which, size_t *ret_bytes)
{
	char *copy = NULL;

	if (!m->vmware)
		return NULL;
	machine_lock(m);
	const struct buffer *b = &m->vmware->reports[which];
	copy = b->bytes ? malloc((size_t)b->bytes + 1) : NULL;
	if (copy) {
		memcpy(copy, b->data, b->bytes);
		copy[b->bytes] = '\0';
		*ret_bytes = b->bytes;
	}
	machine_unlock(m);
	return copy;
}

void vmware_rpc_reset(struct vmware *w)
{
	for (unsigned i = 0; i < VMWARE_REPORTS; i++)
		vmware_buffer_free(&w->reports[i]);
	w->guest = (struct vmware_guest){0};
	w->commands_count = 0;
	w->sync = false;
}

void vmware_rpc_free(struct vmware *w)
{
	vmware_rpc_reset(w);
	while (!SLIST_EMPTY(&w->variables))
		variable_remove(w, SLIST_FIRST(&w->variables));
}
