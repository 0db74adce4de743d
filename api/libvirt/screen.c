/* A domain's screen: in its XML both ways, a picture of it as a stream, keys. (screen.h) */
#include "api/libvirt/screen.h"
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"
#include "proto/base64.h"
#include "proto/control.h"
#include "proto/file.h"
#include "proto/keys.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- from XML ------------------------------------------------------------------------- */

struct reader {
	const xmlNode *element;
	json_object *vnc;
	int *code;
	char *error;
	size_t error_size;
};

__attribute__((format(printf, 2, 3))) static bool refuse(struct reader *r, const char *format, ...)
{
	char path[300], why[300];
	va_list args;

	va_start(args, format);
	vsnprintf(why, sizeof(why), format, args);
	va_end(args);
	lv_xml_path(r->element, path, sizeof(path));
	snprintf(r->error, r->error_size, "%s: %s", path, why);
	*r->code = VIR_ERR_CONFIG_UNSUPPORTED;
	return false;
}

static void put(json_object *to, const char *key, const char *text)
{
	json_object_object_add(to, key, json_object_new_string(text));
}

/* listen='' or <listen type='address' address=''/>, which say the same. */
static bool take_address(struct reader *r)
{
	const xmlNode *listen = lv_xml_child(r->element, "listen");
	char *address = lv_xml_attribute(r->element, "listen");
	bool ok = true;

	if (!address && listen)
		address = lv_xml_attribute(listen, "address");
	if (address && strcmp(address, "localhost") && strncmp(address, "127.", 4))
		ok = refuse(r, "viewers can come by the loopback (127.0.0.1) or a UNIX socket, not by \"%.60s\": VNC has no encryption; ssh -L "
			       "brings them there from elsewhere", address);
	else if (address && strncmp(address, "127.", 4) == 0)
		put(r->vnc, "address", address);
	xmlFree(address);
	return ok;
}

static bool take_port(struct reader *r)
{
	char *port = lv_xml_attribute(r->element, "port"), *end = NULL;
	long number = port ? strtol(port, &end, 10) : -1;
	bool ok = true;

	if (port && (*end || end == port || number > 65535 || number < -1))
		ok = refuse(r, "port=\"%.20s\" is none", port);
	else if (number <= 0 || lv_xml_attribute_is(r->element, "autoport", "yes"))
		json_object_object_add(r->vnc, "autoport", json_object_new_boolean(1));
	else
		json_object_object_add(r->vnc, "port", json_object_new_int64(number));
	xmlFree(port);
	return ok && take_address(r);
}

static bool take_password(struct reader *r)
{
	char *password = lv_xml_attribute(r->element, "passwd");
	bool ok = true;

	if (password && strlen(password) > VMDEF_VNC_PASSWORD_MAX)
		ok = refuse(r, "VNC password is longer than %d characters, which is all that VNC looks at", VMDEF_VNC_PASSWORD_MAX);
	else if (password && password[0])
		put(r->vnc, "password", password);
	xmlFree(password);
	return ok;
}

static bool take_vnc(struct reader *r)
{
	const xmlNode *listen = lv_xml_child(r->element, "listen");
	char *path = lv_xml_attribute(r->element, "socket"), *kind = listen ? lv_xml_attribute(listen, "type") : NULL;
	bool ok;

	if (!path && kind && !strcmp(kind, "socket"))
		path = lv_xml_attribute(listen, "socket");
	if (kind && strcmp(kind, "address") && strcmp(kind, "socket"))
		ok = refuse(r, "listen type \"%.40s\" is not possible; address and socket are", kind);
	else if (lv_xml_attribute(r->element, "websocket"))
		ok = refuse(r, "websocket is not possible");
	else if (path)
		ok = (put(r->vnc, "socket", path), true);
	else if (kind && !strcmp(kind, "socket"))
		ok = json_object_object_add(r->vnc, "socket", json_object_new_boolean(1)) == 0;
	else
		ok = take_port(r);
	xmlFree(path);
	xmlFree(kind);
	return ok && take_password(r);
}

static bool is_vnc(const xmlNode *e) { return lv_xml_is(e, "graphics") && lv_xml_attribute_is(e, "type", "vnc"); }

static bool is_video(const xmlNode *e)
{
	xmlNode *model = lv_xml_child(e, "model");

	return lv_xml_is(e, "video") && !(model && lv_xml_attribute_is(model, "type", "none"));
}

int lv_screen_parse(const xmlNode *e, json_object **display, int *ret_code, char *error, size_t error_size)
{
	struct reader r = {.element = e, .code = ret_code, .error = error, .error_size = error_size};

	if (!is_vnc(e) && !is_video(e))
		return 0;
	if (!*display)
		*display = json_object_new_object();
	put(*display, "type", "vga");
	if (!is_vnc(e))
		return 0;
	if (json_object_object_get_ex(*display, "vnc", NULL)) {
		refuse(&r, "one <graphics> of this type is possible");
		return -EINVAL;
	}
	r.vnc = json_object_new_object();
	json_object_object_add(*display, "vnc", r.vnc);
	return take_vnc(&r) ? 0 : -EINVAL;
}

bool lv_screen_other_model(const xmlNode *e)
{
	xmlNode *model = lv_xml_child(e, "model");

	return is_video(e) && model && !lv_xml_attribute_is(model, "type", "vga");
}

bool lv_screen_is_real(const xmlNode *e)
{
	if (lv_xml_is(e, "graphics"))
		return is_vnc(e);
	if (lv_xml_is(e, "video"))
		return true;
	/* The PS/2 ones, which come with a screen. */
	return !lv_xml_attribute_is(e, "type", "tablet") && !lv_xml_attribute_is(e, "bus", "usb") &&
	       !lv_xml_attribute_is(e, "bus", "virtio") && !lv_xml_attribute_is(e, "type", "passthrough");
}

/* ---- to XML ----------------------------------------------------------------------------- */

json_object *lv_screen_unsaid(const struct vmdef *def)
{
	json_object *unsaid = def->display.rom ? json_object_new_object() : NULL;

	if (unsaid)
		put(unsaid, "rom", def->display.rom);
	return unsaid;
}

static void set(xmlNode *e, const char *name, const char *value)
{
	xmlSetProp(e, BAD_CAST name, BAD_CAST value);
}

static void drop(xmlNode *e)
{
	xmlUnlinkNode(e);
	xmlFreeNode(e);
}

static void drop_those(xmlNode *devices, bool (*which)(const xmlNode *e))
{
	xmlNode *next;

	for (xmlNode *e = lv_xml_child(devices, NULL); e; e = next) {
		next = lv_xml_next(e, NULL);
		if (which(e))
			drop(e);
	}
}

static xmlNode *find_or_add(xmlNode *devices, bool (*which)(const xmlNode *e), const char *name)
{
	for (xmlNode *e = lv_xml_child(devices, NULL); e; e = lv_xml_next(e, NULL))
		if (which(e))
			return e;
	return xmlNewChild(devices, NULL, BAD_CAST name, NULL);
}

/* Where viewers find a running one: its process says so. 0: nobody knows. */
static unsigned real_port(const char *dir)
{
	json_object *json, *vnc = NULL, *port = NULL;
	char path[PATH_MAX], *text = NULL;
	unsigned number = 0;
	size_t bytes;

	snprintf(path, sizeof(path), "%s/" CONTROL_FILE_DISPLAY, dir);
	if (file_read(path, 4096, &text, &bytes))
		return 0;
	json = json_tokener_parse(text);
	if (json_object_object_get_ex(json, "vnc", &vnc) && json_object_object_get_ex(vnc, "port", &port))
		number = (unsigned)json_object_get_int(port);
	json_object_put(json);
	free(text);
	return number;
}

static void write_port(xmlNode *e, const struct vmdef *def, const char *dir)
{
	const char *address = def->display.vnc.address[0] ? def->display.vnc.address : "127.0.0.1";
	unsigned real = dir ? real_port(dir) : 0, port = real ? real : def->display.vnc.port;
	xmlNode *listen;
	char number[16];

	snprintf(number, sizeof(number), "%d", port ? (int)port : -1);
	set(e, "port", number);
	set(e, "autoport", def->display.vnc.autoport ? "yes" : "no");
	set(e, "listen", address);
	listen = xmlNewChild(e, NULL, BAD_CAST "listen", NULL);
	set(listen, "type", "address");
	set(listen, "address", address);
}

static void write_socket(xmlNode *e, const struct vmdef *def, const char *dir)
{
	xmlNode *listen = xmlNewChild(e, NULL, BAD_CAST "listen", NULL);
	const char *path = def->display.vnc.socket;
	char own[PATH_MAX];

	set(listen, "type", "socket");
	if (!path[0] && dir) {
		snprintf(own, sizeof(own), "%s/" CONTROL_FILE_VNC, dir);
		path = own;
	}
	if (!path[0])
		return;
	set(e, "socket", path);
	set(listen, "socket", path);
}

static void write_vnc(xmlNode *e, const struct vmdef *def, const char *dir, bool secure)
{
	static const char *const ours[] = {"port", "autoport", "listen", "socket", "passwd", "websocket"};
	xmlNode *listen;

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		xmlUnsetProp(e, BAD_CAST ours[i]);
	while ((listen = lv_xml_child(e, "listen")))
		drop(listen);
	set(e, "type", "vnc");
	if (def->display.vnc.socket)
		write_socket(e, def, dir);
	else
		write_port(e, def, dir);
	if (secure && def->display.vnc.password)
		set(e, "passwd", def->display.vnc.password);
}

void lv_screen_write(xmlNode *devices, const struct vmdef *def, const char *dir, bool secure)
{
	xmlNode *video, *model;

	if (!vmdef_has_vnc(def))
		drop_those(devices, is_vnc);
	else
		write_vnc(find_or_add(devices, is_vnc, "graphics"), def, dir, secure);
	if (def->display.type == VMDEF_DISPLAY_NONE) {
		drop_those(devices, is_video);
		return;
	}
	video = find_or_add(devices, is_video, "video");
	if (lv_xml_child(video, "model"))
		return;
	model = xmlNewChild(video, NULL, BAD_CAST "model", NULL);
	set(model, "type", "vga");
	set(model, "vram", "16384");
	set(model, "heads", "1");
	set(model, "primary", "yes");
}

/* ---- a picture ------------------------------------------------------------------------------ */

/* A file without a name. -errno. */
static int picture_file(json_object *result, uint64_t *ret_bytes)
{
	json_object *data = NULL;
	unsigned char *bytes;
	ssize_t n = -EPROTO;
	int fd;

	json_object_object_get_ex(result, "data", &data);
	bytes = malloc((size_t)json_object_get_string_len(data) + 1);
	if (!bytes)
		return -ENOMEM;
	if (data)
		n = base64_decode(json_object_get_string(data), (size_t)json_object_get_string_len(data), bytes);
	fd = n <= 0 ? -EPROTO : memfd_create("screenshot", MFD_CLOEXEC);
	if (fd < 0 && n > 0)
		fd = -errno;
	for (ssize_t done = 0; fd >= 0 && done < n;) {
		ssize_t w = write(fd, bytes + done, (size_t)(n - done));

		if (w <= 0) {
			close(fd);
			fd = -EIO;
		}
		done += w;
	}
	free(bytes);
	*ret_bytes = n > 0 ? (uint64_t)n : 0;
	return fd;
}

static void on_picture(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct lv_call *call = opaque;
	uint64_t bytes;
	int fd;

	if (error || !call->conn) {
		lv_done(call, error, NULL);
		return;
	}
	fd = picture_file(result, &bytes);
	if (fd < 0) {
		lv_fail(call, VIR_ERR_OPERATION_FAILED, "the picture cannot be kept: %s", strerror(-fd));
		return;
	}
	xdr_put_optional(&call->out, "image/x-portable-pixmap");
	lv_stream_file(call, fd, false, 0, bytes);
}

static bool has_screen(struct lv_call *call, struct vm *vm)
{
	struct daemon_vm_info info;

	daemon_vm_inspect(vm, &info);
	if ((info.running_def ? info.running_def : info.def)->display.type != VMDEF_DISPLAY_NONE)
		return true;
	lv_fail(call, VIR_ERR_OPERATION_INVALID, "the domain has no screen: <video> or <graphics type='vnc'> gives it one");
	return false;
}

void lv_domain_screenshot(struct lv_call *call, struct vm *vm)
{
	json_object *params;

	if (!lv_flags(call, call->args[2].u, 0) || !has_screen(call, vm))
		return;
	if (call->args[1].u) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "there is one screen, number 0");
		return;
	}
	params = json_object_new_object();
	put(params, "format", "ppm");
	daemon_inspect(call->daemon, vm, DAEMON_SCREENSHOT, params, 0, on_picture, call);
}

/* ---- keys -------------------------------------------------------------------------------------- */

/* Linux's code; 0: there is none. Sets that nobody uses with a PC (Macs', win32's) are not known. */
static unsigned key_of(uint64_t codeset, uint64_t code)
{
	static const enum key_set sets[] = {
		[VIR_KEYCODE_SET_LINUX] = KEY_SET_LINUX, [VIR_KEYCODE_SET_XT] = KEY_SET_1,  [VIR_KEYCODE_SET_ATSET1] = KEY_SET_1,
		[VIR_KEYCODE_SET_ATSET2] = KEY_SET_2,	 [VIR_KEYCODE_SET_USB] = KEY_SET_USB, [VIR_KEYCODE_SET_QNUM] = KEY_SET_QNUM,
	};

	return key_from(sets[codeset], (unsigned)code);
}

static bool is_known_set(uint64_t codeset)
{
	return codeset == VIR_KEYCODE_SET_LINUX || codeset == VIR_KEYCODE_SET_XT || codeset == VIR_KEYCODE_SET_ATSET1 ||
	       codeset == VIR_KEYCODE_SET_ATSET2 || codeset == VIR_KEYCODE_SET_USB || codeset == VIR_KEYCODE_SET_QNUM;
}

void lv_domain_send_key(struct lv_call *call, struct vm *vm)
{
	const struct xdr_value *codes = &call->args[3];
	uint64_t codeset = call->args[1].u, hold = call->args[2].u;
	json_object *params, *keys;

	if (!lv_flags(call, call->args[4].u, 0) || !has_screen(call, vm))
		return;
	if (!is_known_set(codeset)) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "codeset %u is not known; linux, xt, atset1, atset2, usb and qnum are", (unsigned)codeset);
		return;
	}
	if (!codes->count || hold > 60000) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "1 to %u keys, held for a minute at most, are wanted", KEYS_AT_ONCE);
		return;
	}
	params = json_object_new_object();
	keys = json_object_new_array();
	json_object_object_add(params, "keys", keys);
	for (unsigned i = 0; i < codes->count; i++) {
		unsigned key = key_of(codeset, codes->items[i].u);

		if (!key) {
			json_object_put(params);
			lv_fail(call, VIR_ERR_INVALID_ARG, "cannot translate keycode %u of codeset %u: this keyboard has no such key",
				(unsigned)codes->items[i].u, (unsigned)codeset);
			return;
		}
		json_object_array_add(keys, json_object_new_int((int)key));
	}
	if (hold)
		json_object_object_add(params, "hold_ms", json_object_new_int64((int64_t)hold));
	daemon_inspect(call->daemon, vm, DAEMON_SEND_KEY, params, 0, lv_done, call);
}
