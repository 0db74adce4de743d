/* Guest tools (open-vm-tools by VMware's backdoor): what they tell of the guest, and what they are asked. */
#include "vm/private.h"

#include "machine/vmware/vmware.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_SECONDS 10 /* for tools that have been asked to shut down; then the power button is pressed */
#define NICS_MAX 16u

/* ---- from the machine: under its lock, any thread ------------------------------------------------------------ */

static void on_log(void *opaque, const char *text) { vm_log("guest: %s", text); }

static void on_power(void *opaque, enum vmware_power power, bool accepted)
{
	struct vm *vm = opaque;

	atomic_store(&vm->tools_answer, accepted ? 1 : 2);
	vm_wake(vm);
}

/* ---- building --------------------------------------------------------------------------------------------------- */

static void uuid_bytes(const char *text, uint8_t ret[16])
{
	unsigned n = 0;

	for (; *text && n < 32; text++) {
		unsigned digit = *text <= '9' ? (unsigned)(*text - '0') : (unsigned)(*text - 'a' + 10);
		if (*text == '-')
			continue;
		ret[n / 2] = (uint8_t)(ret[n / 2] << 4 | digit);
		n++;
	}
}

int vm_tools_config(struct vm *vm, struct vmware_config *ret)
{
	if (vm->mode->backdoor_usable && !vm->mode->backdoor_usable(vm->reason, sizeof(vm->reason)))
		return -ENOTSUP;
	memset(ret, 0, sizeof(*ret));
	uuid_bytes(vm->def->uuid, ret->uuid);
	ret->data_port = !vm->mode->backdoor_usable;
	ret->on_log = on_log;
	ret->on_power = on_power;
	ret->opaque = vm;
	return 0;
}

int vm_tools_fill(struct vm *vm)
{
	for (unsigned i = 0; i < vm->def->guestinfo_count; i++) {
		const struct vmdef_variable *v = &vm->def->guestinfo[i];
		int rc = vmware_variable_set(vm->machine, v->name, v->value, strlen(v->value));
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- shutting down ------------------------------------------------------------------------------------------------ */

static void on_no_answer(evutil_socket_t fd, short what, void *opaque)
{
	struct vm *vm = opaque;

	vm_log("the guest's tools do not answer: the power button is pressed instead");
	machine_power_button(vm->machine);
}

static int ask(struct vm *vm, enum vmware_power power)
{
	struct timeval wait = {ANSWER_SECONDS, 0};

	if (!vm->tools_timer)
		vm->tools_timer = event_new(vm->base, -1, 0, on_no_answer, vm);
	if (!vm->tools_timer)
		return -ENOMEM;
	atomic_store(&vm->tools_answer, 0);
	int rc = vmware_power_ask(vm->machine, power);
	if (!rc)
		event_add(vm->tools_timer, &wait);
	return rc;
}

int vm_tools_shutdown(struct vm *vm) { return ask(vm, VMWARE_POWER_HALT); }

int vm_tools_reboot(struct vm *vm) { return ask(vm, VMWARE_POWER_REBOOT); }

void vm_tools_look(struct vm *vm)
{
	unsigned answer = atomic_exchange(&vm->tools_answer, 0);

	if (!answer || !vm->tools_timer || !event_pending(vm->tools_timer, EV_TIMEOUT, NULL))
		return;
	event_del(vm->tools_timer);
	if (answer == 1)
		return;
	vm_log("the guest's tools refuse: the power button is pressed instead");
	machine_power_button(vm->machine);
}

void vm_tools_close(struct vm *vm)
{
	if (vm->tools_timer)
		event_free(vm->tools_timer);
	vm->tools_timer = NULL;
}

/* ---- what is known of the guest -------------------------------------------------------------------------------------- */

static void put_text(struct json_object *to, const char *key, const char *text)
{
	if (text[0])
		json_object_object_add(to, key, json_object_new_string(text));
}

static struct json_object *interfaces_json(struct vm *vm)
{
	struct json_object *list = json_object_new_array();
	struct vmware_nic *nics = calloc(NICS_MAX, sizeof(*nics));
	size_t bytes = 0;
	char *report = vmware_report_copy(vm->machine, VMWARE_REPORT_NICS, &bytes);
	unsigned n = nics && report ? vmware_nics_decode(report, bytes, nics, NICS_MAX) : 0;

	for (unsigned i = 0; i < n; i++) {
		struct json_object *nic = json_object_new_object(), *addresses = json_object_new_array();
		json_object_object_add(nic, "mac", json_object_new_string(nics[i].mac));
		for (unsigned a = 0; a < nics[i].address_count; a++) {
			const struct vmware_address *from = &nics[i].addresses[a];
			struct json_object *address = json_object_new_object();
			char text[INET6_ADDRSTRLEN] = "";
			inet_ntop(from->v6 ? AF_INET6 : AF_INET, from->bytes, text, sizeof(text));
			json_object_object_add(address, "address", json_object_new_string(text));
			json_object_object_add(address, "prefix", json_object_new_int(from->prefix));
			json_object_array_add(addresses, address);
		}
		json_object_object_add(nic, "addresses", addresses);
		json_object_array_add(list, nic);
	}
	free(report);
	free(nics);
	return list;
}

/* As /etc/os-release has them, and more: prettyName='Debian GNU/Linux 12 (bookworm)' bitness='64' */
static struct json_object *details_json(const char *text)
{
	struct json_object *json = json_object_new_object();

	for (;;) {
		const char *equals = strstr(text, "='"), *end = equals ? strchr(equals + 2, '\'') : NULL;
		char key[64], value[256];
		if (!end)
			return json;
		text += strspn(text, " ");
		snprintf(key, sizeof(key), "%.*s", (int)(equals - text), text);
		snprintf(value, sizeof(value), "%.*s", (int)(end - equals - 2), equals + 2);
		for (char *c = key; *c; c++)
			*c = (unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c;
		for (char *c = value; *c; c++)
			*c = (unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c;
		json_object_object_add(json, key, json_object_new_string(value));
		text = end + 1;
	}
}

static void add_details(struct vm *vm, struct json_object *to)
{
	size_t bytes = 0;
	char *report = vmware_report_copy(vm->machine, VMWARE_REPORT_DETAILED, &bytes);
	/* A length and the like come before it; NULs would end it early. */
	const char *text = report ? memmem(report, bytes, "architecture='", 14) : NULL;

	if (text)
		json_object_object_add(to, "os_details", details_json(text));
	free(report);
}

int vm_tools_json(struct vm *vm, struct json_object *to)
{
	struct vmware_guest g;
	char version[40] = "";

	if (!vmware_guest_state(vm->machine, &g))
		return -ENOTSUP;
	if (g.version)
		snprintf(version, sizeof(version), "%u.%u.%u", g.version >> 10, g.version >> 5 & 31, g.version & 31);
	json_object_object_add(to, "tools", json_object_new_string("vmware"));
	json_object_object_add(to, "present", json_object_new_boolean(g.present));
	put_text(to, "version", version);
	put_text(to, "hostname", g.hostname);
	put_text(to, "os", g.os);
	put_text(to, "os_id", g.os_id);
	add_details(vm, to);
	if (g.uptime_s)
		json_object_object_add(to, "uptime_seconds",
				       json_object_new_int64((int64_t)(g.uptime_s + (machine_clock_ns(vm->machine) - g.uptime_at) / 1000000000u)));
	json_object_object_add(to, "interfaces", interfaces_json(vm));
	return 0;
}

static void add_variable(void *opaque, const char *name, const char *value, size_t bytes)
{
	json_object_object_add(opaque, name, json_object_new_string_len(value, (int)bytes));
}

int vm_tools_variables_json(struct vm *vm, struct json_object *to)
{
	if (!machine_has_backdoor(vm->machine))
		return -ENOTSUP;
	vmware_variables_each(vm->machine, add_variable, to);
	return 0;
}
