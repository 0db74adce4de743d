/* The methods of vm about its screen and its keyboard. */
#include "api/jsonrpc/methods.h"

static void handle_screenshot(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_SCREENSHOT, 0);
}

static void handle_send_key(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_SEND_KEY, 0);
}

static void handle_send_text(struct rpc_call *call, json_object *params)
{
	rpc_inspect(call, params, DAEMON_SEND_TEXT, 0);
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

static const struct rpc_field key_item[] = {{"key", RPC_ANY, .summary = "a key"}};
static const struct rpc_field send_key_params[] = {
	VM_FIELD,
	{"keys", RPC_ARRAY, RPC_REQUIRED, .fields = key_item,
	 .summary = "1 to 16 that go down in this order: names such as \"KEY_ENTER\" or \"ctrl\", or Linux's numbers"},
	{"hold_ms", RPC_INTEGER, 0, 0, 60000, .summary = "how long they are held (default: 100)"},
	END,
};
static const struct rpc_field send_text_params[] = {
	VM_FIELD,
	{"text", RPC_STRING, RPC_REQUIRED, 1, 4096, .summary = "what to type, as on a US keyboard; line ends are Enter"},
	END,
};

const struct rpc_method rpc_screen_methods[] = {
	{"vm.screenshot",
	 "A picture of what a running VM's screen shows.",
	 screenshot_params, RESULT(screenshot_fields, "the picture"), handle_screenshot},
	{"vm.send_key",
	 "Presses keys of a running VM's keyboard together. Strokes wait for each other; the answer does not wait for them.",
	 send_key_params, NOTHING, handle_send_key},
	{"vm.send_text",
	 "Types a text on a running VM's keyboard.",
	 send_text_params, NOTHING, handle_send_text},
	{.name = NULL},
};
