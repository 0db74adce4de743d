/* Domain XML: refusals name their element, what is kept comes back, and no text brings the reader down. */
#include "api/libvirt/private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DOMAIN(inside) \
	"<domain type='trivisor'><name>x</name><uuid>2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab</uuid><memory>65536</memory>" inside \
	"</domain>"
#define OS "<os><type>hvm</type><kernel>/k</kernel></os>"

/* NULL: refused, with error and code. */
static struct vmdef *parse(const char *xml, int *ret_code, char *error, size_t size)
{
	json_object *definition = NULL;
	char why[VMDEF_ERROR_BYTES];
	struct vmdef *def = NULL;

	*ret_code = 0;
	if (lv_xml_parse(xml, NULL, &definition, ret_code, error, size))
		return NULL;
	if (vmdef_from_json(definition, &def, why))
		snprintf(error, size, "%s", why);
	json_object_put(definition);
	return def;
}

static char *format(const struct vmdef *def)
{
	const struct daemon_vm_info info = {.uuid = def->uuid, .name = def->name, .def = def, .id = -1};

	return lv_xml_format(&info, VIR_DOMAIN_XML_INACTIVE);
}

static void comes_back(void **state)
{
	static const char *const rows[] = {
		DOMAIN(OS),
		DOMAIN("<title>t &amp; u</title><description> a\n b </description>" OS "<vcpu placement='static'>4</vcpu>"
		       "<cpu mode='host-passthrough'><topology sockets='2' cores='2' threads='1'/></cpu>"),
		DOMAIN(OS "<features><acpi/><pae/></features><clock offset='utc'><timer name='hpet' present='no'/></clock>"
			  "<on_reboot>destroy</on_reboot>"),
		DOMAIN("<metadata><a:b xmlns:a='urn:a' c='d'><a:e/></a:b><f xmlns='urn:f'/>"
		       "<t:vm xmlns:t='urn:trivisor:domain:1' mode='bt' workload='web' debug-exit='yes'/></metadata>" OS),
		DOMAIN(OS "<devices><disk type='file' device='disk'><driver name='qemu' type='raw' io='native'/>"
			  "<source file='/d'/><target dev='vdc' bus='virtio'/><serial>S1</serial><readonly/></disk>"
			  "<disk type='block'><source dev='/dev/x'/><target dev='vda'/></disk><serial type='pty'/>"
			  "<disk type='file'><driver type='qcow2' cache='none' discard='ignore' error_policy='enospace'/>"
			  "<source file='/q'/><target dev='vdb'/><transient/></disk>"
			  "<graphics type='vnc'/></devices>"),
		DOMAIN(OS "<devices><filesystem type='mount' accessmode='passthrough'><driver type='virtiofs' queue='1024'/>"
			  "<source dir='/src'/><target dir='code'/><readonly/></filesystem><filesystem><driver type='virtiofs'/>"
			  "<source dir='/b'/><target dir='b'/></filesystem><vsock model='virtio'><cid auto='yes'/></vsock></devices>"),
		DOMAIN(OS "<devices><disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk></devices>"),
	};
	char error[900];
	int code;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vmdef *first = parse(rows[i], &code, error, sizeof(error)), *second;
		char *once, *twice;

		assert_non_null(first);
		once = format(first);
		assert_non_null(once);
		second = parse(once, &code, error, sizeof(error));
		assert_non_null(second);
		twice = format(second);
		assert_string_equal(once, twice);
		free(once);
		free(twice);
		vmdef_free(first);
		vmdef_free(second);
	}
}

static void ways_to_the_host(void **state)
{
	char error[900];
	int code;
	struct vmdef *def = parse(DOMAIN(OS "<devices><vsock><cid auto='no' address='77'/></vsock><filesystem><driver type='virtiofs'/>"
					    "<source dir='/src'/><target dir='code'/><readonly/></filesystem></devices>"),
				  &code, error, sizeof(error));
	char *xml;

	assert_non_null(def);
	assert_true(def->vsock.present && def->vsock.cid == 77);
	assert_int_equal(def->share_count, 1);
	assert_string_equal(def->shares[0].path, "/src");
	assert_string_equal(def->shares[0].tag, "code");
	assert_true(def->shares[0].readonly);
	/* What the definition says later is shown, whatever the XML was. */
	def->shares[0].readonly = false;
	def->vsock.present = false;
	xml = format(def);
	assert_non_null(strstr(xml, "<target dir=\"code\"/>"));
	assert_null(strstr(xml, "readonly"));
	assert_null(strstr(xml, "vsock"));
	free(xml);
	vmdef_free(def);
	assert_null(parse(DOMAIN(OS "<devices><filesystem><source dir='/s'/><target dir='t'/></filesystem></devices>"), &code, error, sizeof(error)));
	assert_non_null(strstr(error, "/domain/devices/filesystem: this machine shares folders by virtiofs only"));
	assert_null(parse(DOMAIN(OS "<devices><vsock><cid address='2'/></vsock></devices>"), &code, error, sizeof(error)));
	assert_non_null(strstr(error, "/domain/devices/vsock/cid: \"2\" is no address"));
}

static void sysinfo_both_ways(void **state)
{
#define SYSINFO(mode, more) \
	DOMAIN("<uuid>2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab</uuid><sysinfo type='smbios'>" more "</sysinfo>" \
	       "<os><type>hvm</type><kernel>/k</kernel>" mode "</os>")
	char error[900], *xml;
	int code;
	struct vmdef *def = parse(SYSINFO("<smbios mode='sysinfo'/>",
					  "<bios><entry name='vendor'>v</entry></bios><system><entry name='serial'>ds=nocloud</entry>"
					  "<entry name='uuid'>2F1C8E1E-6a5b-4c3d-9e8f-0123456789ab</entry></system>"
					  "<baseBoard><entry name='asset'>&lt;a&gt;</entry></baseBoard><chassis><entry name='sku'>s</entry></chassis>"
					  "<oemStrings><entry>one</entry><entry>two</entry></oemStrings>"),
				  &code, error, sizeof(error)),
		     *again;

	assert_non_null(def);
	assert_string_equal(def->smbios.text[SMBIOS_bios_vendor], "v");
	assert_string_equal(def->smbios.text[SMBIOS_system_serial], "ds=nocloud");
	assert_string_equal(def->smbios.text[SMBIOS_board_asset], "<a>");
	assert_string_equal(def->smbios.text[SMBIOS_chassis_sku], "s");
	assert_true(def->smbios.oem_count == 2 && !strcmp(def->smbios.oem[1], "two"));
	xml = format(def);
	again = parse(xml, &code, error, sizeof(error));
	assert_non_null(again);
	assert_string_equal(again->smbios.text[SMBIOS_board_asset], "<a>");
	assert_int_equal(again->smbios.oem_count, 2);
	vmdef_free(again);
	free(xml);
	/* Taken out of the definition, it is in neither place. */
	for (unsigned i = 0; i < SMBIOS_TEXTS; i++) {
		free(def->smbios.text[i]);
		def->smbios.text[i] = NULL;
	}
	free(def->smbios.oem[0]);
	free(def->smbios.oem[1]);
	def->smbios.oem_count = 0;
	xml = format(def);
	assert_null(strstr(xml, "sysinfo"));
	free(xml);
	vmdef_free(def);
	/* Not in use: kept. */
	def = parse(SYSINFO("", "<system><entry name='serial'>kept</entry></system>"), &code, error, sizeof(error));
	assert_non_null(def);
	assert_null(def->smbios.text[SMBIOS_system_serial]);
	xml = format(def);
	assert_non_null(strstr(xml, "kept"));
	free(xml);
	vmdef_free(def);
	static const struct {
		const char *xml, *why;
	} refused[] = {
		{SYSINFO("<smbios mode='host'/>", ""), "/domain/os/smbios: the modes are emulate and sysinfo"},
		{SYSINFO("<smbios mode='sysinfo'/>", "<system><entry name='colour'>x</entry></system>"), "\"colour\" is not known here"},
		{SYSINFO("<smbios mode='sysinfo'/>", "<system><entry name='uuid'>x</entry></system>"), "\"x\" is not the domain's own UUID"},
		{SYSINFO("<smbios mode='sysinfo'/>", "<memory/>"), "/domain/sysinfo/memory: not known here"},
		{SYSINFO("<smbios mode='sysinfo'/>", "<bios/><bios/>"), "one of them is possible"},
		{DOMAIN("<os><type>hvm</type><kernel>/k</kernel><smbios mode='sysinfo'/></os>"), "needs a <sysinfo"},
	};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		assert_null(parse(refused[i].xml, &code, error, sizeof(error)));
		assert_non_null(strstr(error, refused[i].why));
	}
}

static void keys_are_filled(void **state)
{
	char error[900], *text;
	int code;
	struct vmdef *def = parse(
		DOMAIN("<metadata><t:vm xmlns:t='urn:trivisor:domain:1' mode='bt' workload='web' paravirt='no'/></metadata>"
		       "<os><type arch='x86_64' machine='pc'>hvm</type><kernel>/k</kernel><initrd>/i</initrd>"
		       "<cmdline>a b</cmdline></os><vcpu>2</vcpu><on_reboot>destroy</on_reboot>"
		       "<devices><disk type='file'><source file='/d'/><target dev='vda'/><readonly/></disk>"
		       "<disk type='file'><driver type='qcow2' cache='directsync' discard='ignore' error_policy='stop'/>"
		       "<source file='/q'/><target dev='vdb'/><serial>S2</serial><transient/></disk>"
		       "<console type='pty'/><memballoon model='virtio' freePageReporting='on'/><sound model='ich9'/>"
		       "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>"),
		&code, error, sizeof(error));

	assert_non_null(def);
	assert_int_equal(def->mode, VMDEF_MODE_BT);
	assert_string_equal(def->workload, "web");
	assert_int_equal(def->paravirt, VMDEF_NO);
	assert_int_equal(def->memory_mib, 64);
	assert_int_equal(def->vcpus, 2);
	assert_string_equal(def->boot.cmdline, "a b");
	assert_int_equal(def->on_reboot, VMDEF_ON_REBOOT_SHUTDOWN);
	assert_int_equal(def->serial, VMDEF_SERIAL_CONSOLE);
	assert_true(def->disk_count == 2 && def->disks[0].readonly);
	assert_true(def->disks[1].format == VMDEF_FORMAT_QCOW2 && def->disks[1].cache == VMDEF_CACHE_DIRECTSYNC &&
		    def->disks[1].discard == VMDEF_DISCARD_IGNORE && def->disks[1].on_error == VMDEF_ERROR_PAUSE &&
		    def->disks[1].snapshot);
	assert_string_equal(def->disks[1].serial, "S2");
	assert_true(def->guest_agent && def->channel_count == 0 && def->balloon.free_page_reporting);
	text = lv_xml_without_effect(def);
	assert_string_equal(text, "/domain/devices/sound: kept, but has no effect in this version\n");
	free(text);
	vmdef_free(def);
}

/* Every key of a definition comes through XML, those that are added later too. */
static void loses_no_key(void **state)
{
	static const char json[] =
		"{\"name\":\"x\",\"uuid\":\"2f1c8e1e-6a5b-4c3d-9e8f-0123456789ab\",\"mode\":\"bt\",\"memory_mib\":48,"
		"\"vcpus\":3,\"workload\":\"yes\",\"boot\":{\"kernel\":\"/k\",\"cmdline\":\"<&>\",\"modules\":[{\"path\":\"/m\","
		"\"cmdline\":\"c\"},{\"path\":\"/n\"}]},\"disks\":[{\"path\":\"/d\",\"readonly\":true}],\"serial\":\"none\","
		"\"paravirt\":false,\"on_reboot\":\"shutdown\",\"title\":\"t\",\"description\":\"a\\nb\",\"start_paused\":true,"
		"\"gdb\":\"/g\",\"gdb_architecture\":\"i386\",\"debug_exit\":true,\"debug_console\":true,"
		"\"console\":{\"scrollback_kib\":64,\"log\":\"/l\"},\"cloud_init\":{\"user_data\":\"/u\",\"device\":\"cdrom\"},"
		"\"smbios\":{\"system\":{\"family\":\"f\"},\"oem_strings\":[\"o\"]}}";
	char error[900], *xml;
	struct vmdef *def = NULL, *again;
	json_object *before, *after;
	int code;

	assert_int_equal(vmdef_from_text(json, strlen(json), &def, error), 0);
	xml = format(def);
	again = parse(xml, &code, error, sizeof(error));
	assert_non_null(again);
	before = vmdef_to_json(def);
	after = vmdef_to_json(again);
	json_object_object_del(after, "libvirt_xml");
	if (!json_object_equal(before, after))
		print_message("# %s\n# %s\n", json_object_to_json_string(before), json_object_to_json_string(after));
	assert_true(json_object_equal(before, after));
	json_object_put(before);
	json_object_put(after);
	free(xml);
	vmdef_free(def);
	vmdef_free(again);
}

static void firmware_has_variables(void **state)
{
	char error[900], *xml;
	int code;
	struct vmdef *def = parse(DOMAIN("<os><type>hvm</type><loader readonly='yes' type='pflash'>/code</loader>"
					 "<nvram template='/vars'>/mine</nvram></os>"),
				  &code, error, sizeof(error)),
		     *again;

	assert_non_null(def);
	assert_string_equal(def->boot.firmware, "/code");
	assert_string_equal(def->boot.nvram.path, "/mine");
	assert_string_equal(def->boot.nvram.template, "/vars");
	xml = format(def);
	assert_non_null(strstr(xml, "<loader readonly=\"yes\" type=\"pflash\">/code</loader>"));
	free(xml);
	free(def->libvirt_xml); /* as one that came through JSON */
	def->libvirt_xml = NULL;
	xml = format(def);
	again = parse(xml, &code, error, sizeof(error));
	assert_non_null(again);
	assert_string_equal(again->boot.nvram.path, "/mine");
	assert_string_equal(again->boot.nvram.template, "/vars");
	free(xml);
	vmdef_free(def);
	vmdef_free(again);
}

static void firmware_has_a_boot_menu(void **state)
{
	static const struct {
		const char *menu;
		unsigned ms;
	} rows[] = {{"<bootmenu enable='yes' timeout='3000'/>", 3000}, {"<bootmenu enable='yes'/>", 2500},
		    {"<bootmenu enable='no' timeout='3000'/>", 0}, {"", 0}};
	char error[900], text[900], *xml;
	int code;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		snprintf(text, sizeof(text), DOMAIN("<os><type>hvm</type><loader>/bios</loader>%s</os>"), rows[i].menu);
		struct vmdef *def = parse(text, &code, error, sizeof(error)), *again;

		assert_non_null(def);
		assert_int_equal(def->boot.menu_ms, rows[i].ms);
		for (unsigned kept = 0; kept < 2; kept++) { /* with the XML it came with, and as one that came through JSON */
			xml = format(def);
			assert_int_equal(strstr(xml, "<bootmenu enable=\"yes\"") != NULL, rows[i].ms != 0);
			again = parse(xml, &code, error, sizeof(error));
			assert_non_null(again);
			assert_int_equal(again->boot.menu_ms, rows[i].ms);
			vmdef_free(again);
			free(xml);
			free(def->libvirt_xml);
			def->libvirt_xml = NULL;
		}
		vmdef_free(def);
	}
	struct vmdef *def = parse(DOMAIN("<os><type>hvm</type><kernel>/k</kernel><bootmenu enable='yes'/></os>"), &code, error, sizeof(error));

	assert_non_null(def);
	assert_int_equal(def->boot.menu_ms, 0); /* nobody would show it */
	vmdef_free(def);
	assert_null(parse(DOMAIN("<os><type>hvm</type><loader>/bios</loader><bootmenu enable='yes' timeout='99999'/></os>"), &code, error,
			  sizeof(error)));
	assert_non_null(strstr(error, "boot.menu_ms"));
}

static void refuses_by_path(void **state)
{
	static const struct {
		const char *xml;
		int code;
		const char *word;
	} rows[] = {
		{"", VIR_ERR_XML_DETAIL, "(domain_definition):"},
		{"<domain>", VIR_ERR_XML_DETAIL, ":1: "},
		{"<network/>", VIR_ERR_XML_ERROR, "unexpected root element <network>, expecting <domain>"},
		{"<domain type='trivisor'/>", VIR_ERR_XML_ERROR, "/domain/name is missing"},
		{DOMAIN(""), VIR_ERR_XML_ERROR, "/domain/os is missing"},
		{DOMAIN("<os/>"), VIR_ERR_XML_ERROR, "/domain/os/type is missing"},
		{DOMAIN(OS OS), VIR_ERR_XML_ERROR, "/domain/os is there twice"},
		{DOMAIN(OS "<surprise/>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/surprise: not known here"},
		{DOMAIN(OS "<devices><interface/><interface/></devices>"), VIR_ERR_CONFIG_UNSUPPORTED,
		 "/domain/devices/interface[1]: the type \"\" is not possible; user, network"},
		{DOMAIN(OS "<devices><hostdev/></devices>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/devices/hostdev: not supported"},
		{DOMAIN(OS "<devices><disk type='network'/></devices>"), VIR_ERR_CONFIG_UNSUPPORTED, "disk of type \"network\""},
		{DOMAIN(OS "<devices><disk type='file'><driver type='luks'/><target dev='vda'/></disk></devices>"),
		 VIR_ERR_CONFIG_UNSUPPORTED, "/domain/devices/disk/driver: the format \"luks\""},
		{DOMAIN(OS "<devices><disk type='file'><driver cache='warm'/><source file='/a'/><target dev='vda'/></disk></devices>"),
		 VIR_ERR_CONFIG_UNSUPPORTED, "cache=\"warm\" is not possible"},
		{DOMAIN(OS "<devices><disk type='file'><target dev='vda'/></disk></devices>"), VIR_ERR_CONFIG_UNSUPPORTED,
		 "names no file"},
		{DOMAIN(OS "<devices><disk type='file'><source file='/a'/><target dev='vda'/></disk><disk type='file'>"
			   "<source file='/b'/><target dev='vda'/></disk></devices>"),
		 VIR_ERR_XML_ERROR, "target 'vda' duplicated"},
		{DOMAIN(OS "<devices><serial type='pty'><target port='1'/></serial></devices>"), VIR_ERR_CONFIG_UNSUPPORTED,
		 "/domain/devices/serial: only the first"},
		{DOMAIN(OS "<vcpu current='1'>2</vcpu>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/vcpu: processors cannot be plugged"},
		{DOMAIN(OS "<vcpu>-1</vcpu>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/vcpu: a number is wanted"},
		{DOMAIN(OS "<cpu><topology sockets='3' cores='1' threads='1'/></cpu>"), VIR_ERR_CONFIG_UNSUPPORTED, "topology"},
		{DOMAIN(OS "<currentMemory>1024</currentMemory>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/currentMemory: at least 16 MiB"},
		{DOMAIN(OS "<on_crash>coredump-destroy</on_crash>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/on_crash"},
		{DOMAIN(OS "<metadata><bare/></metadata>"), VIR_ERR_CONFIG_UNSUPPORTED, "/domain/metadata/bare: "},
		{DOMAIN(OS "<metadata><t:vm xmlns:t='urn:trivisor:domain:1' made='bt'/></metadata>"), VIR_ERR_CONFIG_UNSUPPORTED,
		 "the attribute made is not known"},
		{"<!DOCTYPE d [<!ENTITY e 'f'>]><domain><name>&e;</name></domain>", VIR_ERR_XML_DETAIL, "document type"},
		{"<domain type='xen'><name>x</name><memory>65536</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>",
		 VIR_ERR_CONFIG_UNSUPPORTED, "/domain/os/type"},
		{"<domain type='vmware'><name>x</name><memory>65536</memory><os><type>hvm</type></os></domain>",
		 VIR_ERR_CONFIG_UNSUPPORTED, "the type \"vmware\" is not known"},
		{"<domain type='kvm'><name>x</name><memory unit='furlong'>1</memory>" OS "</domain>", VIR_ERR_CONFIG_UNSUPPORTED,
		 "with the unit \"furlong\""},
	};
	char error[900];
	int code;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vmdef *def = parse(rows[i].xml, &code, error, sizeof(error));

		if (def || code != rows[i].code || !strstr(error, rows[i].word))
			print_message("# %s: code %d: %s\n", rows[i].xml, code, error);
		assert_null(def);
		assert_int_equal(code, rows[i].code);
		assert_non_null(strstr(error, rows[i].word));
	}
}

static void sizes_have_units(void **state)
{
	static const struct {
		const char *memory;
		unsigned mib;
	} rows[] = {{"<memory>65536</memory>", 64},          {"<memory unit='MiB'>64</memory>", 64},
		    {"<memory unit='G'>1</memory>", 1024},   {"<memory unit='b'>67108864</memory>", 64},
		    {"<memory unit='KB'>65537</memory>", 63}, {"<memory unit='MiB'>18446744073709551615</memory>", 0}};
	char error[900], xml[400];
	int code;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vmdef *def;

		snprintf(xml, sizeof(xml), "<domain type='qemu'><name>x</name>%s" OS "</domain>", rows[i].memory);
		def = parse(xml, &code, error, sizeof(error));
		assert_int_equal(def ? def->memory_mib : 0, rows[i].mib);
		vmdef_free(def);
	}
}

/* A good text with bytes changed, dropped and doubled. */
static void survives_damage(void **state)
{
	static const char good[] =
		DOMAIN("<metadata><a:b xmlns:a='urn:a'/></metadata>" OS "<vcpu>2</vcpu><cpu><topology sockets='2'/></cpu>"
		       "<devices><disk type='file'><source file='/d'/><target dev='vda'/></disk><serial type='pty'/></devices>");
	char text[sizeof(good) * 2], error[900];
	uint32_t random = 12345;
	unsigned taken = 0;
	int code;

	for (unsigned round = 0; round < 4000; round++) {
		size_t n = sizeof(good) - 1;

		memcpy(text, good, sizeof(good));
		for (unsigned i = 0; i < 1 + round % 3; i++) {
			size_t at;

			random = random * 1664525 + 1013904223;
			at = (random >> 8) % n;
			switch (random >> 30) {
			case 0: text[at] = (char)(random >> 3 & 0x7f) ? (char)(random >> 3 & 0x7f) : '<'; break;
			case 1: memmove(text + at, text + at + 1, n-- - at); break;
			case 2:
				if (n < sizeof(text) - 2)
					memmove(text + at + 1, text + at, ++n - at);
				break;
			default: text[at] = (char)(0x80 | random >> 5); break;
			}
			text[n] = '\0';
		}
		struct vmdef *def = parse(text, &code, error, sizeof(error));
		if (def) {
			char *again = format(def);

			assert_non_null(again);
			free(again);
			taken++;
		}
		vmdef_free(def);
	}
	assert_in_range(taken, 1, 3999);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_back), cmocka_unit_test(ways_to_the_host),     cmocka_unit_test(sysinfo_both_ways),
		cmocka_unit_test(keys_are_filled), cmocka_unit_test(loses_no_key),
		cmocka_unit_test(firmware_has_variables), cmocka_unit_test(firmware_has_a_boot_menu),
		cmocka_unit_test(refuses_by_path),
		cmocka_unit_test(sizes_have_units), cmocka_unit_test(survives_damage),
	};

	return cmocka_run_group_tests_name("libvirt_xml", tests, NULL, NULL);
}
