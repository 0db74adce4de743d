/* The screen of a VM's definition, and who may look at it. */
#include <string.h>

#include "proto/vmdef_private.h"

#define AT(member) offsetof(struct vmdef, display.member)

static const char *const type_names[] = {"none", "vga", NULL};

static const struct field vnc_fields[] = {
	{.key = "socket", .type = FIELD_SOCKET, .offset = AT(vnc.socket),
	 .what = "a UNIX socket: a path, or true for one in the VM's directory"},
	{.key = "address", .type = FIELD_IPV4, .offset = AT(vnc.address),
	 .what = "of the loopback, where the port is; 127.0.0.1 when absent"},
	{.key = "port", .type = FIELD_COUNT, .offset = AT(vnc.port), .min = 1, .max = 65535, .what = "5900 is VNC's display 0"},
	{.key = "autoport", .type = FIELD_BOOL, .offset = AT(vnc.autoport), .what = "the first free port from 5900 on"},
	{.key = "password", .type = FIELD_TEXT, .offset = AT(vnc.password), .max = VMDEF_VNC_PASSWORD_MAX,
	 .what = "what viewers are asked for; VNC looks at no more than 8 characters"},
};

const struct field vmdef_display_fields[] = {
	{.key = "type", .type = FIELD_ENUM, .offset = AT(type), .names = type_names,
	 .what = "vga: with Bochs' VBE, which is also what any other key here stands for"},
	{.key = "rom", .type = FIELD_PATH, .offset = AT(rom), .what = "its BIOS; SeaBIOS's vgabios-stdvga.bin when absent"},
	{.key = "vnc", .type = FIELD_OBJECT, .fields = vnc_fields, .field_count = COUNT(vnc_fields),
	 .what = "viewers: on a UNIX socket, or a port of the loopback"},
};
_Static_assert(COUNT(vmdef_display_fields) == VMDEF_DISPLAY_FIELDS, "vmdef_private.h");

bool vmdef_has_vnc(const struct vmdef *def)
{
	return def->display.vnc.socket || def->display.vnc.port || def->display.vnc.autoport;
}

int vmdef_check_display(struct vmdef *def, char *ret_error)
{
	bool tcp = def->display.vnc.port || def->display.vnc.autoport;

	if (def->display.vnc.port && def->display.vnc.autoport)
		return vmdef_refuse(ret_error, "display.vnc", "port and autoport exclude each other");
	if (def->display.vnc.socket && tcp)
		return vmdef_refuse(ret_error, "display.vnc", "socket and port exclude each other");
	if (def->display.vnc.address[0] && !tcp)
		return vmdef_refuse(ret_error, "display.vnc.address", "an address needs port or autoport");
	if (def->display.vnc.address[0] && strncmp(def->display.vnc.address, "127.", 4) != 0)
		return vmdef_refuse(ret_error, "display.vnc.address", "%s is not of the loopback (127.0.0.1): VNC has no encryption; viewers from "
				    "elsewhere come through ssh -L", def->display.vnc.address);
	if (def->display.vnc.password && !vmdef_has_vnc(def))
		return vmdef_refuse(ret_error, "display.vnc.password", "a password needs socket, port or autoport");
	if (def->display.vnc.password && !def->display.vnc.password[0])
		return vmdef_refuse(ret_error, "display.vnc.password", "an empty password lets everybody in: leave it out, or choose one");
	if (vmdef_has_vnc(def) || def->display.rom)
		def->display.type = VMDEF_DISPLAY_VGA;
	return 0;
}
