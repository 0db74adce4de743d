/* The methods of vm about its screen and its keyboard. */
#include "api/jsonrpc/methods.h"

static void handle_screenshot(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_SCREENSHOT, 0);
}

/* clang-format off: tables, a row for each field and method */

static const char *const formats[] = {"png", "ppm", NULL};
static const struct rpc_field screenshot_params[] = {
	VM_FIELD,
	{"format", RPC_STRING, 0, .values = formats, .summary = "default: png"},
	END,
};
static const struct rpc_field screenshot_fields[] = {
	{"format", RPC_STRING, RPC_REQUIRED, .values = formats, .summary = "of the file"},
	{"width", RPC_INTEGER, RPC_REQUIRED, .summary = "pixels"},
	{"height", RPC_INTEGER, RPC_REQUIRED, .summary = "pixels"},
	{"data", RPC_STRING, RPC_REQUIRED, .summary = "the file, in base64"},
	END,
};

const struct rpc_method rpc_screen_methods[] = {
	{"vm.screenshot",
	 "A picture of what a running VM's screen shows.",
	 screenshot_params, RESULT(screenshot_fields, "the picture"), handle_screenshot},
	{.name = NULL},
};
