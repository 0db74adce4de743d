/* The methods of image. */
#include "api/jsonrpc/methods.h"
#include "daemon/images.h"

#include <errno.h>

/* ---- handlers ------------------------------------------------------------------------ */

static void on_progress(void *opaque, unsigned number, double percent, double seconds)
{
	struct rpc_call *call = opaque;
	json_object *params;

	if (!call->conn)
		return;
	params = json_object_new_object();
	json_object_object_add(params, "operation", json_object_new_int64(number));
	json_object_object_add(params, "percent", percent < 0 ? NULL : json_object_new_double(percent));
	json_object_object_add(params, "seconds", json_object_new_double(seconds));
	rpc_conn_notify(call->conn, "image.progress", params);
}

/* The client is gone: nobody wants the image. */
static void cancel(struct rpc_call *call)
{
	daemon_image_cancel(call->cancel_data);
}

static void on_done(void *opaque, const struct daemon_error *error, json_object *result)
{
	struct rpc_call *call = opaque;

	call->cancel = NULL;
	rpc_done(call, error, result);
}

/* Absolute paths only: the daemon's directory is not the client's. */
static bool check_path(struct rpc_call *call, const char *key, const char *path)
{
	if (!path || path[0] == '/')
		return true;
	rpc_fail(call, RPC_INVALID_PARAMS, "%s: \"%.200s\" is not an absolute path", key, path);
	return false;
}

static void work(struct rpc_call *call, json_object *params, enum image_work which)
{
	json_object *size = NULL;
	struct image_wish wish = {.work = which,
				  .path = rpc_string(params, "path"),
				  .format = rpc_string(params, "format"),
				  .source = rpc_string(params, "source"),
				  .source_format = rpc_string(params, "source_format"),
				  .backing = rpc_string(params, "backing"),
				  .backing_format = rpc_string(params, "backing_format"),
				  .preallocation = rpc_string(params, "preallocation"),
				  .repair = rpc_string(params, "repair"),
				  .compress = rpc_boolean(params, "compress", false),
				  .shrink = rpc_boolean(params, "shrink", false)};
	struct image_job *job;

	if (!check_path(call, "path", wish.path) || !check_path(call, "source", wish.source) || !check_path(call, "backing", wish.backing))
		return;
	if (json_object_object_get_ex(params, "size", &size))
		wish.size = (uint64_t)json_object_get_int64(size);
	if (wish.backing && !wish.backing_format) {
		rpc_fail(call, RPC_INVALID_PARAMS, "backing_format: a backing file needs its format; it is never guessed");
		return;
	}
	if (which == IMAGE_CREATE && !wish.size && !wish.backing) {
		rpc_fail(call, RPC_INVALID_PARAMS, "size: an image without a backing file needs one");
		return;
	}
	call->cancel = NULL;
	job = daemon_image(call->conn->daemon, &wish, on_progress, on_done, call);
	if (!job)
		return;
	call->cancel = cancel;
	call->cancel_data = job;
}

static void handle_create(struct rpc_call *call, json_object *params) { work(call, params, IMAGE_CREATE); }
static void handle_convert(struct rpc_call *call, json_object *params) { work(call, params, IMAGE_CONVERT); }
static void handle_check(struct rpc_call *call, json_object *params) { work(call, params, IMAGE_CHECK); }
static void handle_resize(struct rpc_call *call, json_object *params) { work(call, params, IMAGE_RESIZE); }
static void handle_info(struct rpc_call *call, json_object *params) { work(call, params, IMAGE_INFO); }

static void handle_list(struct rpc_call *call, json_object *params)
{
	rpc_reply(call, daemon_image_list(call->conn->daemon));
}

/* clang-format off: tables, a row for each field and method */

#define SIZE_MAX_BYTES 9007199254740992.0 /* what JSON carries everywhere */

static const char *const formats[] = {"raw", "qcow2", "vdi", "vmdk", "vpc", "vhdx", NULL};
static const char *const preallocations[] = {"off", "metadata", "falloc", "full", NULL};
static const char *const repairs[] = {"leaks", "all", NULL};
static const struct rpc_field create_params[] = {
	{"path", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "where it is made; nothing may be there"},
	{"format", RPC_STRING, RPC_REQUIRED, .values = formats, .summary = "of the new image"},
	{"size", RPC_INTEGER, 0, 1, SIZE_MAX_BYTES, .summary = "bytes; a backing file's size when absent"},
	{"backing", RPC_STRING, 0, 1, 4095, .summary = "the image that is under it (qcow2)"},
	{"backing_format", RPC_STRING, 0, .values = formats, .summary = "of that image"},
	{"preallocation", RPC_STRING, 0, .values = preallocations, .summary = "what is taken from the host at once (default: off)"},
	END,
};
static const struct rpc_field convert_params[] = {
	{"source", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "the image to read"},
	{"source_format", RPC_STRING, RPC_REQUIRED, .values = formats, .summary = "of that; never guessed, since a guest may have written it"},
	{"path", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "where the new one is made; nothing may be there"},
	{"format", RPC_STRING, RPC_REQUIRED, .values = formats, .summary = "of the new one"},
	{"compress", RPC_BOOLEAN, 0, .summary = "compressed (qcow2, vmdk)"},
	END,
};
static const struct rpc_field check_params[] = {
	{"path", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "the image; no VM may run with it"},
	{"format", RPC_STRING, RPC_REQUIRED, .values = formats, .summary = "of it"},
	{"repair", RPC_STRING, 0, .values = repairs, .summary = "mend what is lost only (leaks), or what is wrong too (all)"},
	END,
};
static const struct rpc_field resize_params[] = {
	{"path", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "the image; no VM may run with it"},
	{"format", RPC_STRING, RPC_REQUIRED, .values = formats, .summary = "of it"},
	{"size", RPC_INTEGER, RPC_REQUIRED, 1, SIZE_MAX_BYTES, .summary = "its new size in bytes"},
	{"shrink", RPC_BOOLEAN, 0, .summary = "it may lose its end; refused without this"},
	{"preallocation", RPC_STRING, 0, .values = preallocations, .summary = "of what is added"},
	END,
};
static const struct rpc_field info_params[] = {
	{"path", RPC_STRING, RPC_REQUIRED, 1, 4095, .summary = "the image; a VM may run with it"},
	{"format", RPC_STRING, 0, .values = formats, .summary = "of it; what it looks like when absent"},
	END,
};
static const char *const states[] = {"clean", "leaks", "corrupt", NULL};
static const struct rpc_field done_fields[] = {
	{"operation", RPC_INTEGER, RPC_REQUIRED, .summary = "the number that image.progress named"},
	{"path", RPC_STRING, RPC_REQUIRED, .summary = "the image"},
	{"seconds", RPC_NUMBER, RPC_REQUIRED, .summary = "how long it took"},
	{"file_bytes", RPC_INTEGER, 0, .summary = "the file's length"},
	{"allocated_bytes", RPC_INTEGER, 0, .summary = "what it takes on the host's disk"},
	{"state", RPC_STRING, 0, .values = states, .summary = "of a check: leaks are lost space, corrupt is lost data"},
	{"report", RPC_OBJECT, 0, .summary = "of check and info: qemu-img's own"},
	END,
};
static const struct rpc_field running_fields[] = {
	{"operation", RPC_INTEGER, RPC_REQUIRED, .summary = "its number"},
	{"work", RPC_STRING, RPC_REQUIRED, .summary = "create, convert, check, resize or info"},
	{"path", RPC_STRING, RPC_REQUIRED, .summary = "the image"},
	{"percent", RPC_NUMBER, RPC_REQUIRED | RPC_NULLABLE, .summary = "how far it is; null where that is not known"},
	{"seconds", RPC_NUMBER, RPC_REQUIRED, .summary = "since its start"},
	END,
};
static const struct rpc_field running_row[] = {{"operation", RPC_OBJECT, 0, .fields = running_fields}};
const struct rpc_field rpc_progress_fields[] = {
	{"operation", RPC_INTEGER, RPC_REQUIRED, .summary = "its number; the answer has it too"},
	{"percent", RPC_NUMBER, RPC_REQUIRED | RPC_NULLABLE, .summary = "how far it is; null where that is not known"},
	{"seconds", RPC_NUMBER, RPC_REQUIRED, .summary = "since its start"},
	END,
};

#define CANCELS " Answers when it is done; until then there is image.progress, and the connection's end cancels it."

const struct rpc_method rpc_image_methods[] = {
	{"image.create", "Makes a disk image." CANCELS, create_params, RESULT(done_fields, "the new image"), handle_create},
	{"image.convert", "Copies a disk image into another format." CANCELS, convert_params, RESULT(done_fields, "the new image"), handle_convert},
	{"image.check", "Looks for errors in a disk image, and may repair it." CANCELS, check_params, RESULT(done_fields, "what was found"), handle_check},
	{"image.resize", "Makes a disk image larger or smaller." CANCELS, resize_params, RESULT(done_fields, "the image"), handle_resize},
	{"image.info", "Describes a disk image.", info_params, RESULT(done_fields, "the image"), handle_info},
	{"image.list", "The works on images that run.", NULL, ROWS(running_row, "each of them"), handle_list},
	{.name = NULL},
};
