/* A VM's definition: what is taken, what is refused and in which words, and that it comes back as it went in. */
#include "proto/vmdef.h"

#include <json-c/json.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct vmdef *parse(const char *text)
{
	struct vmdef *def = NULL;
	char why[VMDEF_ERROR_BYTES] = "";
	if (vmdef_from_text(text, strlen(text), &def, why))
		fail_msg("refused: %s", why);
	return def;
}

static void takes_defaults(void **state)
{
	struct vmdef *def = parse("{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"}}");
	assert_string_equal(def->name, "a");
	assert_true(vmdef_uuid_valid(def->uuid));
	assert_int_equal(def->uuid[14], '4');
	assert_int_equal(def->mode, VMDEF_MODE_AUTO);
	assert_int_equal(def->memory_mib, 512);
	assert_int_equal(def->vcpus, 1);
	assert_string_equal(def->boot.kernel, "/k");
	assert_null(def->boot.initrd);
	assert_int_equal(def->disk_count, 0);
	assert_int_equal(def->serial, VMDEF_SERIAL_CONSOLE);
	assert_int_equal(def->paravirt, VMDEF_AUTO);
	assert_int_equal(def->on_reboot, VMDEF_ON_REBOOT_RESTART);
	assert_false(def->debug_exit);
	assert_null(def->gdb);
	assert_int_equal(def->tools, VMDEF_TOOLS_NONE);
	assert_int_equal(def->guestinfo_count, 0);
	vmdef_free(def);
	def = parse("{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"gdb\":true}");
	assert_string_equal(def->gdb, "");
	vmdef_free(def);
}

static const char full[] =
	"{\"name\":\"web-1\",\"uuid\":\"2F1C8E1E-6a5b-4c3d-9e8f-0123456789ab\",\"mode\":\"hvm\",\"passthrough\":[\"03:00.0\"],\"memory_mib\":1024,"
	"\"current_memory_mib\":1024,\"balloon\":{\"device\":\"none\",\"free_page_reporting\":true,\"stats_seconds\":5},"
	"\"virtio_console\":true,\"guest_agent\":true,\"channels\":[{\"name\":\"org.example.0\",\"path\":\"/c\"},{\"name\":\"b\"}],"
	"\"vcpus\":2,\"workload\":\"server\",\"boot\":{\"kernel\":\"/k\",\"initrd\":\"/i\",\"cmdline\":\"a=\\\"b\\\" c\","
	"\"firmware\":\"/f\",\"nvram\":{\"path\":\"/n\",\"template\":\"/t\"},\"menu_ms\":3000},\"gdb\":\"/g\",\"gdb_architecture\":\"i386\",\"start_paused\":true,"
	"\"disks\":[{\"path\":\"/d0\"},{\"path\":\"/d1\",\"readonly\":true,\"format\":\"qcow2\","
	"\"cache\":\"direct\",\"discard\":\"ignore\",\"on_error\":\"pause_when_full\",\"serial\":\"S1\"}],\"nics\":[],"
	"\"smbios\":{\"bios\":{\"vendor\":\"v\"},\"system\":{\"serial\":\"ds=nocloud\",\"family\":\"f\"},"
	"\"board\":{\"location\":\"here\"},\"chassis\":{\"sku\":\"s\"},\"oem_strings\":[\"one\",\"two\"]},"
	"\"cloud_init\":{\"user_data\":\"/u\",\"meta_data\":\"/m\",\"network_config\":\"/n\",\"vendor_data\":\"/v\",\"device\":\"cdrom\",\"enabled\":true},"
	"\"serial\":\"none\",\"console\":{\"scrollback_kib\":64,\"log\":\"/c\",\"log_kib\":8,\"log_append\":true},\"paravirt\":false,\"cpu\":{\"features\":{\"pcid\":true,\"avx2\":false}},\"on_reboot\":\"shutdown\",\"debug_exit\":true,\"debug_console\":true,\"display\":{\"vnc\":{\"port\":5901,\"password\":\"secret\"}},"
	"\"shares\":[{\"path\":\"/src\",\"tag\":\"s\",\"readonly\":true}],"
	"\"vsock\":{\"cid\":99,\"path\":\"/v\"},"
	"\"tools\":\"vmware\",\"guestinfo\":{\"userdata\":\"#cloud-config\\n\",\"a.b\":\"\"},"
	"\"autostart\":true,\"title\":\"a title\",\"description\":\"two\\n\\tlines\",\"libvirt_xml\":\"<domain/>\","
	"\"policy\":{\"weights\":{\"integer\":3,\"virtio\":0.5},\"forbid\":[\"pv\"],"
	"\"isolation\":\"kernel\",\"migratable\":true}}";

static void takes_everything(void **state)
{
	struct vmdef *def = parse(full);
	assert_string_equal(def->uuid, "2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab");
	assert_int_equal(def->mode, VMDEF_MODE_HVM);
	assert_string_equal(def->boot.cmdline, "a=\"b\" c");
	assert_string_equal(def->boot.nvram.path, "/n");
	assert_string_equal(def->boot.nvram.template, "/t");
	assert_int_equal(def->boot.menu_ms, 3000);
	assert_int_equal(def->disk_count, 2);
	assert_false(def->disks[0].readonly);
	assert_true(def->disks[1].readonly);
	assert_int_equal(def->disks[0].cache, VMDEF_CACHE_WRITEBACK);
	assert_int_equal(def->disks[1].format, VMDEF_FORMAT_QCOW2);
	assert_int_equal(def->disks[1].cache, VMDEF_CACHE_DIRECT);
	assert_int_equal(def->disks[1].discard, VMDEF_DISCARD_IGNORE);
	assert_int_equal(def->disks[1].on_error, VMDEF_ERROR_PAUSE_FULL);
	assert_string_equal(def->disks[1].serial, "S1");
	assert_int_equal(def->paravirt, VMDEF_NO);
	assert_int_equal(def->tools, VMDEF_TOOLS_VMWARE);
	assert_int_equal(def->guestinfo_count, 2);
	assert_string_equal(def->guestinfo[0].name, "userdata");
	assert_string_equal(def->guestinfo[0].value, "#cloud-config\n");
	assert_int_equal(def->cpu_feature[CPU_FEATURE_pcid], VMDEF_YES);
	assert_int_equal(def->cpu_feature[CPU_FEATURE_avx2], VMDEF_NO);
	assert_int_equal(def->cpu_feature[CPU_FEATURE_avx], VMDEF_AUTO);
	assert_true(def->debug_console);
	assert_int_equal(def->balloon.device, VMDEF_BALLOON_NONE);
	assert_true(def->balloon.free_page_reporting && !def->balloon.deflate_on_oom);
	assert_int_equal(def->balloon.stats_seconds, 5);
	assert_int_equal(def->channel_count, 2);
	assert_string_equal(def->channels[0].path, "/c");
	assert_null(def->channels[1].path);
	assert_true(def->autostart);
	assert_string_equal(def->description, "two\n\tlines");
	assert_true(def->policy.weights[VMDEF_WEIGHT_integer] > 2.9 && def->policy.weights[VMDEF_WEIGHT_virtio] < 0.6);
	assert_int_equal(def->policy.forbid, 1u << (VMDEF_MODE_PV - 1));
	assert_int_equal(def->policy.require, 0);
	assert_true(def->policy.migratable && !def->policy.nested);
	assert_int_equal(def->policy.isolation, VMDEF_ISOLATION_KERNEL);
	vmdef_free(def);
}

#define VM(rest) "{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"}," rest "}"

static void nics_come_and_go(void **state)
{
	static const char text[] = VM("\"uuid\":\"2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab\",\"nics\":[{\"type\":\"user\"},"
				      "{\"type\":\"user\",\"mac\":\"52:54:00:AB:cd:ef\",\"mtu\":1500,\"link\":\"down\","
				      "\"receive\":{\"kib_per_second\":100},\"transmit\":{\"kib_per_second\":50,\"burst_kib\":70},"
				      "\"subnet\":\"192.168.76.0/25\",\"restrict\":true,\"hostname\":\"box\",\"forward\":["
				      "{\"host_port\":2222,\"guest_port\":22},{\"protocol\":\"udp\",\"host_address\":\"127.0.0.2\","
				      "\"host_port\":53,\"guest_address\":\"192.168.76.20\",\"guest_port\":5353}]}]");
	char error[VMDEF_ERROR_BYTES] = "";
	struct vmdef *def = NULL, *again = NULL;
	unsigned bits;

	assert_int_equal(vmdef_from_text(text, strlen(text), &def, error), 0);
	assert_int_equal(def->nic_count, 2);
	/* One that was not given is made, the same each time, and no group's. */
	assert_int_equal(strlen(def->nics[0].mac), 17);
	assert_memory_equal(def->nics[0].mac, "52:", 3);
	assert_int_equal(vmdef_subnet(&def->nics[0], &bits), 0x0a000200);
	assert_int_equal(bits, 24);
	assert_string_equal(def->nics[1].mac, "52:54:00:ab:cd:ef");
	assert_int_equal(vmdef_subnet(&def->nics[1], &bits), 0xc0a84c00);
	assert_int_equal(bits, 25);
	assert_true(def->nics[1].restricted && !def->nics[1].hide_host && def->nics[1].link == VMDEF_LINK_DOWN);
	assert_int_equal(def->nics[1].transmit.burst_kib, 70);
	assert_int_equal(def->nics[1].forward_count, 2);
	assert_int_equal(def->nics[1].forwards[1].protocol, VMDEF_FORWARD_UDP);
	assert_string_equal(def->nics[1].forwards[1].guest_address, "192.168.76.20");
	struct json_object *json = vmdef_to_json(def);
	assert_int_equal(vmdef_from_json(json, &again, error), 0);
	struct json_object *json_again = vmdef_to_json(again);
	assert_string_equal(json_object_to_json_string(json), json_object_to_json_string(json_again));
	assert_string_equal(again->nics[0].mac, def->nics[0].mac);
	assert_int_equal(again->nics[1].forwards[0].host_port, 2222);
	json_object_put(json);
	json_object_put(json_again);
	vmdef_free(def);
	vmdef_free(again);
}

static void devices_are_named(void **state)
{
	static const char text[] = VM("\"nics\":[{\"type\":\"tap\",\"bridge\":\"br0\",\"mac\":\"52:54:00:0A:0b:0c\"},"
				      "{\"type\":\"tap\",\"bridge\":\"br0\",\"interface\":\"mine\"},{\"type\":\"macvtap\",\"device\":\"e0\","
				      "\"mode\":\"vepa\",\"mac\":\"52:54:00:0a:0b:0d\",\"own_mac_only\":true},{\"type\":\"user\"}]");
	const char *const names[] = {"tv5254000a0b0c", "mine", "mv5254000a0b0d", ""};
	char error[VMDEF_ERROR_BYTES] = "", name[VMDEF_INTERFACE_BYTES];
	struct vmdef *def = NULL, *again = NULL;
	struct json_object *json;

	assert_int_equal(vmdef_from_text(text, strlen(text), &def, error), 0);
	json = vmdef_to_json(def);
	assert_int_equal(vmdef_from_json(json, &again, error), 0);
	for (unsigned i = 0; i < 4; i++) {
		vmdef_nic_device(&again->nics[i], name);
		assert_string_equal(name, names[i]);
	}
	assert_true(again->nics[2].own_mac_only && again->nics[2].mode == VMDEF_MACVTAP_VEPA);
	assert_string_equal(again->nics[0].bridge, "br0");
	json_object_put(json);
	vmdef_free(def);
	vmdef_free(again);
}

/* An address that is not given is made of the UUID: the same each time, and another one for another VM. */
static void vsocks_have_addresses(void **state)
{
	struct vmdef *a = parse(VM("\"uuid\":\"2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab\",\"vsock\":true"));
	struct vmdef *again = parse(VM("\"uuid\":\"2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab\",\"vsock\":{}"));
	struct vmdef *other = parse(VM("\"uuid\":\"2f1c8e1e-6a5b-4c3d-9e8f-0123456789ac\",\"vsock\":{\"path\":\"/p\"}"));
	struct vmdef *none = parse(VM("\"vsock\":false"));

	assert_true(a->vsock.present && a->vsock.cid >= 3);
	assert_int_equal(a->vsock.cid, again->vsock.cid);
	assert_int_not_equal(a->vsock.cid, other->vsock.cid);
	assert_string_equal(other->vsock.path, "/p");
	assert_false(none->vsock.present);
	vmdef_free(a);
	vmdef_free(again);
	vmdef_free(other);
	vmdef_free(none);
}

static void wishes_are_checked(void **state)
{
	static const struct {
		const char *policy, *names;
	} bad[] = {
		{"{\"weights\":{\"warp\":1}}", "policy.weights.warp"},
		{"{\"weights\":{\"integer\":-1}}", "policy.weights.integer"},
		{"{\"weights\":{\"integer\":\"1\"}}", "policy.weights.integer"},
		{"{\"require\":\"bt\"}", "policy.require"},
		{"{\"require\":[\"bt\",\"auto\"]}", "policy.require[1]"},
		{"{\"isolation\":\"none\"}", "policy.isolation"},
		{"{\"nested\":1}", "policy.nested"},
		{"{\"require\":[\"bt\"],\"forbid\":[\"bt\"]}", "forbidden too"},
	};
	char text[300], why[VMDEF_ERROR_BYTES];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vmdef *def = NULL;

		snprintf(text, sizeof(text), "{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"policy\":%s}", bad[i].policy);
		assert_int_equal(vmdef_from_text(text, strlen(text), &def, why), -EINVAL);
		if (!strstr(why, bad[i].names))
			fail_msg("%s: %s", bad[i].policy, why);
	}
}

static const char with_modules[] =
	"{\"name\":\"mach\",\"boot\":{\"kernel\":\"/k\",\"modules\":[{\"path\":\"/a\",\"cmdline\":\"one \\\"two\\\"\"},"
	"{\"path\":\"/b\"}]}}";

static void takes_modules(void **state)
{
	struct vmdef *def = parse(with_modules);
	assert_int_equal(def->boot.module_count, 2);
	assert_string_equal(def->boot.modules[0].path, "/a");
	assert_string_equal(def->boot.modules[0].cmdline, "one \"two\"");
	assert_string_equal(def->boot.modules[1].path, "/b");
	assert_null(def->boot.modules[1].cmdline);
	vmdef_free(def);
}

static void check_return(const char *text);

static void comes_back_the_same(void **state)
{
	check_return(full);
	check_return(with_modules);
}

static void check_return(const char *text)
{
	struct vmdef *first = parse(text);
	struct json_object *json = vmdef_to_json(first);
	struct vmdef *second = NULL;
	char why[VMDEF_ERROR_BYTES];
	assert_int_equal(vmdef_from_json(json, &second, why), 0);
	struct json_object *again = vmdef_to_json(second);
	assert_true(json_object_equal(json, again));
	/* Every key of the input is there with its value. */
	struct json_object *input = json_tokener_parse(text), *value;
	json_object_object_foreach(input, key, unused)
	{
		assert_true(json_object_object_get_ex(json, key, &value));
		(void)unused;
	}
	json_object_put(input);
	json_object_put(again);
	json_object_put(json);
	vmdef_free(first);
	vmdef_free(second);
}

struct refusal {
	const char *text, *part; /* the message holds `part` */
};

static const struct refusal refusals[] = {
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"channels\":{}}", "channels: an array is wanted"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"channels\":[{}]}", "channels[0]: the key name is missing"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"channels\":[{\"name\":\"a/b\"}]}", "channels[0].name: \"a/b\" is no channel's name"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"channels\":[{\"name\":\".b\"}]}", "is no channel's name"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"channels\":[{\"name\":\"a\"},{\"name\":\"a\"}]}", "channels[1].name: a is there twice"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"channels\":[{\"name\":\"a\",\"path\":\"b\"}]}", "not an absolute path"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"guest_agent\":true,\"channels\":[{\"name\":\"org.qemu.guest_agent.0\"}]}", "leave one of them out"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"memory_mib\":64,\"current_memory_mib\":65}", "current_memory_mib: 65 is more than memory_mib, which is 64"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"memory_mib\":64,\"current_memory_mib\":32,\"balloon\":{\"device\":\"none\"}}", "needs balloon.device virtio"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"memory_mib\":64,\"current_memory_mib\":32,\"passthrough\":[\"03:00.0\"]}", "not possible with passthrough"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"balloon\":{\"stats_seconds\":-1}}", "balloon.stats_seconds: -1 is out of range"},
	{"", "not JSON"},
	{"{", "not JSON"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"tools\":\"virtualbox\"}", "tools: \"virtualbox\" is not known; known: none, vmware"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"guestinfo\":[]}", "guestinfo: an object such as"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"guestinfo\":{\"a b\":\"\"}}", "guestinfo: \"a b\" cannot name a variable"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"guestinfo\":{\"a\":1}}", "guestinfo: a: a string is wanted, not a number"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"guestinfo\":{\"a\":\"x\\u0000y\"}}", "guestinfo: a: a NUL in it"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"guestinfo\":{\"a\":\"x\"}}", "guestinfo: its reader is the guest's tools: set tools to vmware"},
	{"{} x", "not JSON"},
	{"[]", "an object is wanted, not an array"},
	{"{}", "the key name is missing"},
	{"{\"name\":\"a\"}", "the key boot is missing"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"passthrough\":\"03:00.0\"}", "passthrough: an array is wanted, not a string"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"passthrough\":[3]}", "passthrough[0]: a PCI address such as"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"passthrough\":[\"03:00.0\",\"0000:03:20.0\"]}", "passthrough[1]: \"0000:03:20.0\" is no PCI address"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"passthrough\":[\"03:00.0\",\"0000:03:00.0\"]}", "passthrough[1]: 0000:03:00.0 is there twice"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"passthrough\":[\"03:00.0\"],\"mode\":\"bt\"}", "passthrough: mode bt cannot pass a device through"},
	{"{\"name\":\"a\",\"boot\":{}}", "boot: nothing to boot"},
	{"{\"name\":\"a\",\"boot\":{\"kernal\":\"/k\"}}", "boot.kernal: unknown key; known: kernel, initrd, cmdline, modules, firmware, nvram, menu_ms"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"k\"}}", "boot.kernel: \"k\" is not an absolute path"},
	{"{\"name\":\"a\",\"boot\":{\"firmware\":\"/f\",\"initrd\":\"/i\"}}", "boot.initrd: an initrd needs boot.kernel"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"firmware\":\"/f\",\"modules\":[{\"path\":\"/m\"}]}}",
	 "boot.modules: modules need boot.kernel without boot.firmware"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"modules\":[\"/m\"]}}", "boot.modules[0]: an object such as"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"modules\":[{\"path\":\"/m\",\"args\":\"\"}]}}",
	 "boot.modules[0].args: unknown key; known: path, cmdline"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"modules\":[{\"cmdline\":\"x\"}]}}", "boot.modules[0]: the key path is missing"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"nvram\":{\"path\":\"/n\"}}}", "boot.nvram: a firmware's variables need boot.firmware"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"menu_ms\":1}}", "boot.menu_ms: a boot menu is the firmware's: it needs boot.firmware"},
	{"{\"name\":\"a\",\"boot\":{\"firmware\":\"/f\",\"menu_ms\":65536}}", "boot.menu_ms: 65536"},
	{"{\"name\":\"a\",\"boot\":{\"firmware\":\"/f\",\"nvram\":{\"template\":\"/n\"}}}", "boot.nvram: the key path is missing"},
	{"{\"name\":\"a\",\"boot\":{\"firmware\":\"/f\",\"nvram\":\"/n\"}}", "boot.nvram: an object is wanted, not a string"},
	{"{\"name\":\"a\",\"boot\":[]}", "boot: an object is wanted, not an array"},
	{"{\"name\":\"\",\"boot\":{\"kernel\":\"/k\"}}", "name: \"\" cannot be a VM's name"},
	{"{\"name\":\"-a\",\"boot\":{\"kernel\":\"/k\"}}", "name: "},
	{"{\"name\":\"a/b\",\"boot\":{\"kernel\":\"/k\"}}", "name: "},
	{"{\"name\":\"2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab\",\"boot\":{\"kernel\":\"/k\"}}", "looks like a UUID"},
	{"{\"name\":5,\"boot\":{\"kernel\":\"/k\"}}", "name: a string is wanted, not a number"},
	{VM("\"colour\":1"), "colour: unknown key; known: name, uuid, mode"},
	{VM("\"mode\":\"kvm\""), "mode: \"kvm\" is not known; known: auto, bt, hvm, pv"},
	{VM("\"memory_mib\":15"), "memory_mib: 15 is out of range; from 16 to 1048576"},
	{VM("\"memory_mib\":1048577"), "out of range"},
	{VM("\"memory_mib\":99999999999999999999"), "out of range"},
	{VM("\"memory_mib\":-1"), "memory_mib: -1 is out of range"},
	{VM("\"memory_mib\":512.5"), "not a fraction"},
	{VM("\"memory_mib\":\"512\""), "not a string"},
	{VM("\"vcpus\":0"), "vcpus: 0 is out of range; from 1 to 16"},
	{VM("\"vcpus\":17"), "vcpus: 17 is out of range"},
	{VM("\"vcpus\":null"), "not null"},
	{VM("\"uuid\":\"x\""), "uuid: \"x\" is not a UUID"},
	{VM("\"shares\":{}"), "shares: an array is wanted, not an object"},
	{VM("\"shares\":[{}]"), "shares[0]: the key path is missing"},
	{VM("\"shares\":[{\"path\":\"/a,b\"}]"), "shares[0]: a folder whose path has a comma or a backslash cannot be shared: /a,b"},
	{VM("\"shares\":[{\"path\":\"/a\",\"tag\":\"a b\"}]"), "shares[0]: \"a b\" is no tag"},
	{VM("\"shares\":[{\"path\":\"/a\",\"tag\":\"123456789012345678901234567890123456\"}]"), "shares[0].tag: 36 bytes are too long; at most 35"},
	{VM("\"shares\":[{\"path\":\"/a\"},{\"path\":\"/b\",\"tag\":\"share0\"}]"), "shares[1]: two folders have the tag \"share0\""},
	{VM("\"vsock\":3"), "vsock: true, or an object such as {\"cid\":3}, is wanted, not a number"},
	{VM("\"vsock\":{\"cid\":2}"), "vsock.cid: 2 is out of range; from 3 to 4294967294"},
	{VM("\"vsock\":{\"port\":2}"), "vsock.port: unknown key; known: cid, path"},
	{VM("\"vsock\":{\"path\":\"v\"}"), "vsock.path: \"v\" is not an absolute path"},
	{VM("\"nics\":{}"), "nics: an array is wanted, not an object"},
	{VM("\"nics\":[5]"), "nics[0]: an object such as {\"type\":\"user\"} is wanted, not a number"},
	{VM("\"nics\":[{}]"), "nics[0]: the key type is missing"},
	{VM("\"nics\":[{\"type\":\"wire\"}]"), "nics[0].type: \"wire\" is not known; known: user, switch, tap, macvtap, team"},
	{VM("\"nics\":[{\"type\":\"tap\"}]"), "nics[0]: the key interface is missing"},
	{VM("\"nics\":[{\"type\":\"tap\",\"interface\":\"sixteen-letters-\"}]"), "nics[0].interface: \"sixteen-letters-\" is no name"},
	{VM("\"nics\":[{\"type\":\"tap\",\"interface\":\"../x\"}]"), "nics[0].interface: \"../x\" is no name"},
	{VM("\"nics\":[{\"type\":\"tap\",\"device\":\"e0\"}]"), "nics[0].device: unknown key"},
	{VM("\"nics\":[{\"type\":\"macvtap\"}]"), "nics[0]: the key device is missing"},
	{VM("\"nics\":[{\"type\":\"macvtap\",\"device\":\"e0\",\"mode\":\"x\"}]"), "nics[0].mode: \"x\" is not known; known: bridge, vepa"},
	{VM("\"nics\":[{\"type\":\"team\"}]"), "nics[0]: the key uplinks is missing"},
	{VM("\"nics\":[{\"type\":\"team\",\"uplinks\":[]}]"), "nics[0].uplinks: an array of 1 to 8 network devices is wanted"},
	{VM("\"nics\":[{\"type\":\"team\",\"uplinks\":[\"a\",\"a\"]}]"), "nics[0].uplinks[1]: a is there twice"},
	{VM("\"nics\":[{\"type\":\"switch\"}]"), "nics[0]: the key network is missing"},
	{VM("\"nics\":[{\"type\":\"switch\",\"network\":\"../x\"}]"), "nics[0].network: \"../x\" cannot be"},
	{VM("\"nics\":[{\"type\":\"switch\",\"network\":\"x\",\"vlan\":4095}]"), "nics[0].vlan: 4095 is out of range; from 1 to 4094"},
	{VM("\"nics\":[{\"type\":\"switch\",\"network\":\"x\",\"trunk\":[10,0]}]"), "nics[0].trunk: VLANs are numbers from 1 to 4094"},
	{VM("\"nics\":[{\"type\":\"switch\",\"network\":\"x\",\"forward\":[]}]"), "nics[0].forward: unknown key"},
	{VM("\"nics\":[{\"type\":\"user\",\"colour\":1}]"), "nics[0].colour: unknown key; known: type, mac, mtu"},
	{VM("\"nics\":[{\"type\":\"user\",\"mac\":\"52:54:00:12:34\"}]"), "nics[0].mac: \"52:54:00:12:34\" is no address"},
	{VM("\"nics\":[{\"type\":\"user\",\"mac\":\"53:54:00:12:34:56\"}]"), "nics[0].mac: 53:54:00:12:34:56 is a group's"},
	{VM("\"nics\":[{\"type\":\"user\",\"mac\":\"52:54:00:12:34:56\"},{\"type\":\"user\",\"mac\":\"52:54:00:12:34:56\"}]"),
	 "nics[1].mac: 52:54:00:12:34:56 is nics[0]'s too"},
	{VM("\"nics\":[{\"type\":\"user\",\"mtu\":70000}]"), "nics[0].mtu: 70000 is out of range; from 576 to 65520"},
	{VM("\"nics\":[{\"type\":\"user\",\"subnet\":\"10.0.2.0\"}]"), "nics[0].subnet: \"10.0.2.0\" is no network"},
	{VM("\"nics\":[{\"type\":\"user\",\"subnet\":\"10.0.2.1/24\"}]"), "nics[0].subnet: \"10.0.2.1/24\" is no network"},
	{VM("\"nics\":[{\"type\":\"user\",\"subnet\":\"10.0.2.0/28\"}]"), "nics[0].subnet: \"10.0.2.0/28\" is no network"},
	{VM("\"nics\":[{\"type\":\"user\",\"receive\":{\"kib_per_second\":0}}]"), "nics[0].receive.kib_per_second: 0 is out of range"},
	{VM("\"nics\":[{\"type\":\"user\",\"forward\":{}}]"), "nics[0].forward: an array is wanted"},
	{VM("\"nics\":[{\"type\":\"user\",\"forward\":[{\"host_port\":80}]}]"), "nics[0].forward[0]: the key guest_port is missing"},
	{VM("\"nics\":[{\"type\":\"user\",\"forward\":[{\"host_port\":80,\"guest_port\":80,\"host_address\":\"::1\"}]}]"),
	 "nics[0].forward[0].host_address: \"::1\" is no IPv4 address"},
	{VM("\"display\":true"), "display: an object is wanted, not a boolean"},
	{VM("\"display\":{\"type\":\"qxl\"}"), "display.type: \"qxl\" is not known; known: none, vga"},
	{VM("\"display\":{\"vnc\":{\"port\":0}}"), "display.vnc.port: 0 is out of range; from 1 to 65535"},
	{VM("\"display\":{\"vnc\":{\"port\":5900,\"autoport\":true}}"), "display.vnc: port and autoport exclude each other"},
	{VM("\"display\":{\"vnc\":{\"port\":5900,\"socket\":true}}"), "display.vnc: socket and port exclude each other"},
	{VM("\"display\":{\"vnc\":{\"address\":\"127.0.0.1\"}}"), "display.vnc.address: an address needs port or autoport"},
	{VM("\"display\":{\"vnc\":{\"autoport\":true,\"address\":\"0.0.0.0\"}}"), "display.vnc.address: 0.0.0.0 is not of the loopback"},
	{VM("\"display\":{\"vnc\":{\"password\":\"a\"}}"), "display.vnc.password: a password needs socket, port or autoport"},
	{VM("\"display\":{\"vnc\":{\"socket\":true,\"password\":\"\"}}"), "display.vnc.password: an empty password lets everybody in"},
	{VM("\"display\":{\"vnc\":{\"socket\":true,\"password\":\"123456789\"}}"), "display.vnc.password: 9 bytes are too long; at most 8"},
	{VM("\"disks\":{}"), "disks: an array is wanted, not an object"},
	{VM("\"disks\":[{}]"), "disks[0]: the key path is missing"},
	{VM("\"disks\":[{\"path\":\"/a\"},{\"path\":\"/a\",\"ro\":true}]"), "disks[1].ro: unknown key; known: path, device, format, readonly, snapshot, cache, discard, on_error, serial"},
	{VM("\"disks\":[{\"path\":\"/a\",\"format\":\"qcow\"}]"),
	 "disks[0].format: \"qcow\" is not known; known: raw, qcow2, vdi, vmdk, vpc, vhdx"},
	{VM("\"disks\":[{\"path\":\"/a\",\"cache\":\"none\"}]"),
	 "disks[0].cache: \"none\" is not known; known: writeback, writethrough, direct, directsync, unsafe"},
	{VM("\"disks\":[{\"path\":\"/a\",\"serial\":\"123456789012345678901\"}]"), "disks[0].serial: 21 bytes are too long; at most 20"},
	{VM("\"disks\":[{\"path\":\"/a\",\"readonly\":true,\"snapshot\":true}]"), "disks[0]: readonly (a cdrom always is) and snapshot exclude each other"},
	{VM("\"disks\":[7]"), "disks[0]: an object is wanted, not a number"},
	{VM("\"disks\":[{\"path\":\"/a\",\"readonly\":1}]"), "disks[0].readonly: true or false is wanted"},
	{VM("\"title\":\"two\\nlines\""), "title: a control character (0x0a) at byte 3"},
	{VM("\"description\":\"a bell\\u0007\""), "description: a control character (0x07) at byte 6"},
	{VM("\"console\":{\"scrollback_kib\":3}"), "console.scrollback_kib: 3 is out of range; from 4 to 65536"},
	{VM("\"console\":{\"log\":\"x\"}"), "console.log: \"x\" is not an absolute path"},
	{VM("\"smbios\":{\"oem_strings\":[\"a\",\"\"]}"), "smbios.oem_strings[1]: SMBIOS has no empty texts, and no NUL in one"},
	{VM("\"smbios\":{\"oem_strings\":[1]}"), "smbios.oem_strings[0]: a string is wanted, not a number"},
	{VM("\"smbios\":{\"system\":{\"uuid\":\"x\"}}"), "smbios.system.uuid: unknown key; known: manufacturer, product, version, serial, sku, family"},
	{VM("\"cloud_init\":{\"user_data\":\"u\"}"), "cloud_init.user_data: \"u\" is not an absolute path"},
	{VM("\"serial\":\"pty\""), "serial: \"pty\" is not known; known: console, none"},
	{VM("\"paravirt\":\"yes\""), "paravirt: true, false or \"auto\" is wanted"},
	{VM("\"cpu\":{\"features\":{\"pcid\":1}}"), "cpu.features.pcid: true, false or \"auto\" is wanted"},
	{VM("\"cpu\":{\"model\":\"host\"}"), "cpu.model: unknown key; known: features"},
	{VM("\"cpu\":{\"features\":{\"warp\":true}}"), "cpu.features.warp: unknown key; known: sse3, pclmulqdq"},
	{VM("\"debug_exit\":1"), "debug_exit: true or false is wanted"},
	{VM("\"gdb\":1"), "gdb: true, false or a socket's absolute path is wanted, not a number"},
	{VM("\"gdb\":\"here\""), "gdb: \"here\" is not an absolute path"},
	{VM("\"gdb_architecture\":\"arm\""), "gdb_architecture: \"arm\" is not known; known: auto, i8086, i386, x86-64"},
	{VM("\"start_paused\":0"), "start_paused: true or false is wanted"},
	{VM("\"workload\":\"Big Data\""), "workload: "},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"cmdline\":\"a\\nb\"}}", "boot.cmdline: a control character (0x0a)"},
	{"{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\\u0000x\"}}", "boot.kernel: a control character (0x00)"},
};

static void refuses_with_reasons(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		struct vmdef *def = NULL;
		char why[VMDEF_ERROR_BYTES] = "";
		int rc = vmdef_from_text(refusals[i].text, strlen(refusals[i].text), &def, why);
		if (!rc || !strstr(why, refusals[i].part))
			fail_msg("%s\n  gave %d: %s\n  wanted: %s", refusals[i].text, rc, why, refusals[i].part);
		assert_null(def);
	}
}

static void devices_of_the_host(void **state)
{
	static const char text[] = "{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\"},\"passthrough\":[\"0A:1f.7\",\"0001:03:00.0\"]}";
	struct vmdef *def = NULL, *again = NULL;
	char why[VMDEF_ERROR_BYTES] = "";

	assert_int_equal(vmdef_from_text(text, strlen(text), &def, why), 0);
	struct json_object *json = vmdef_to_json(def);
	assert_int_equal(vmdef_from_json(json, &again, why), 0);
	assert_int_equal(again->passthrough_count, 2);
	assert_string_equal(again->passthrough[0], "0000:0a:1f.7");
	assert_string_equal(again->passthrough[1], "0001:03:00.0");
	json_object_put(json);
	vmdef_free(def);
	vmdef_free(again);
}

static void refuses_what_is_too_long(void **state)
{
	char name[200] = "", text[400];
	memset(name, 'a', 65);
	snprintf(text, sizeof(text), "{\"name\":\"%s\",\"boot\":{\"kernel\":\"/k\"}}", name);
	struct vmdef *def = NULL;
	char why[VMDEF_ERROR_BYTES] = "";
	assert_int_not_equal(vmdef_from_text(text, strlen(text), &def, why), 0);
	name[64] = '\0';
	snprintf(text, sizeof(text), "{\"name\":\"%s\",\"boot\":{\"kernel\":\"/k\"}}", name);
	assert_int_equal(vmdef_from_text(text, strlen(text), &def, why), 0);
	vmdef_free(def);

	def = NULL;
	char *big = malloc(4096);
	int n = snprintf(big, 4096, "{\"name\":\"a\",\"boot\":{\"kernel\":\"/k\",\"cmdline\":\"");
	memset(big + n, 'x', VMDEF_CMDLINE_MAX + 1);
	strcpy(big + n + VMDEF_CMDLINE_MAX + 1, "\"}}");
	assert_int_not_equal(vmdef_from_text(big, strlen(big), &def, why), 0);
	assert_non_null(strstr(why, "boot.cmdline: 2048 bytes are too long; at most 2047"));
	free(big);

	/* Messages stay within their buffer, whatever the key. */
	char *key = malloc(60000);
	memset(key, 'k', 60000);
	memcpy(key, "{\"", 2);
	strcpy(key + 59000, "\":1}");
	assert_int_not_equal(vmdef_from_text(key, strlen(key), &def, why), 0);
	assert_true(strlen(why) < VMDEF_ERROR_BYTES);
	free(key);
}

static void describes_itself(void **state)
{
	struct json_object *schema = vmdef_schema(), *properties, *value;
	assert_true(json_object_object_get_ex(schema, "properties", &properties));
	struct vmdef *def = parse(full);
	struct json_object *json = vmdef_to_json(def);
	/* The schema and the printer know the same keys. */
	json_object_object_foreach(json, key, unused)
	{
		assert_true(json_object_object_get_ex(properties, key, &value));
		(void)unused;
	}
	assert_int_equal(json_object_object_length(json), json_object_object_length(properties));
	json_object_object_get_ex(properties, "vcpus", &value);
	json_object_object_get_ex(value, "maximum", &value);
	assert_int_equal(json_object_get_int(value), VMDEF_VCPUS_MAX);
	json_object_put(json);
	json_object_put(schema);
	vmdef_free(def);
}

static void uuids_differ(void **state)
{
	char a[VMDEF_UUID_BYTES], b[VMDEF_UUID_BYTES];
	assert_int_equal(vmdef_uuid_generate(a), 0);
	assert_int_equal(vmdef_uuid_generate(b), 0);
	assert_true(vmdef_uuid_valid(a));
	assert_string_not_equal(a, b);
	assert_false(vmdef_uuid_valid("2f1c8e1e-6a5b-4c3d-9e8f-0123456789a"));
	assert_false(vmdef_uuid_valid("2f1c8e1e-6a5b-4c3d-9e8f-0123456789abc"));
	assert_false(vmdef_uuid_valid("2f1c8e1e06a5b-4c3d-9e8f-0123456789ab"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_defaults),	   cmocka_unit_test(takes_everything),
		cmocka_unit_test(nics_come_and_go), cmocka_unit_test(devices_are_named),	   cmocka_unit_test(wishes_are_checked),
		cmocka_unit_test(vsocks_have_addresses),
		cmocka_unit_test(takes_modules),
		cmocka_unit_test(comes_back_the_same),	   cmocka_unit_test(devices_of_the_host),
		cmocka_unit_test(refuses_with_reasons),
		cmocka_unit_test(refuses_what_is_too_long), cmocka_unit_test(describes_itself),
		cmocka_unit_test(uuids_differ),
	};
	return cmocka_run_group_tests_name("vmdef", tests, NULL, NULL);
}
