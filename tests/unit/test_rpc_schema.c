/* Parameter tables: what they let in, what they refuse and by which name, and what they describe. */
#include "api/jsonrpc/private.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const char *const colours[] = {"red", "green", NULL};
static const struct rpc_field point[] = {
	{"x", RPC_INTEGER, RPC_REQUIRED, -10, 10, .summary = "across"},
	{"y", RPC_NUMBER, RPC_NULLABLE, .summary = "up"},
	{.name = NULL},
};
static const struct rpc_field point_item[] = {{"point", RPC_OBJECT, 0, .fields = point}};
static const struct rpc_field fields[] = {
	{"name", RPC_STRING, RPC_REQUIRED, 1, 5, .summary = "a name"},
	{"colour", RPC_STRING, 0, .values = colours},
	{"points", RPC_ARRAY, 0, .fields = point_item},
	{"flag", RPC_BOOLEAN, .flags = 0},
	{"free", RPC_OBJECT, .flags = 0},
	{"any", RPC_ANY, .flags = 0},
	{.name = NULL},
};

/* "" when the parameters are taken, else the message. */
static const char *verdict(const char *text)
{
	static char error[1024];
	json_object *params = json_tokener_parse(text), *checked = NULL;

	error[0] = '\0';
	assert_non_null(params);
	if (!rpc_check_params(fields, params, &checked, error, sizeof(error)))
		assert_string_equal(error, "");
	else
		assert_null(checked);
	json_object_put(checked);
	json_object_put(params);
	return error;
}

static void taken(void **state)
{
	static const char *const good[] = {
		"{\"name\":\"a\"}",
		"[\"a\"]",
		"[\"a\",\"red\",[{\"x\":1},{\"x\":-10,\"y\":null},{\"x\":10,\"y\":1.5}],true,{\"deep\":[1]},null]",
		"{\"name\":\"abcde\",\"any\":[1,\"x\",null]}",
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_string_equal(verdict(good[i]), "");
}

static void refused(void **state)
{
	static const struct {
		const char *params, *word;
	} bad[] = {
		{"{}", "name: missing (a name)"},
		{"[]", "name: missing"},
		{"{\"name\":1}", "name: expected a string, found int"},
		{"{\"name\":null}", "name: expected a string, found null"},
		{"{\"name\":\"\"}", "name: too short"},
		{"{\"name\":\"abcdef\"}", "name: 6 bytes are too long"},
		{"{\"name\":\"a\\u0000\"}", "name: a NUL"},
		{"{\"name\":\"a\",\"colour\":\"blue\"}", "\"blue\" is not one of red, green"},
		{"{\"name\":\"a\",\"points\":{}}", "points: expected an array"},
		{"{\"name\":\"a\",\"points\":[{\"x\":1},{\"x\":11}]}", "points[1].x: 11 is not within -10 to 10"},
		{"{\"name\":\"a\",\"points\":[{\"y\":1}]}", "points[0].x: missing"},
		{"{\"name\":\"a\",\"points\":[{\"x\":1,\"z\":1}]}", "points[0].z: unknown; known here: x, y"},
		{"{\"name\":\"a\",\"points\":[{\"x\":1.5}]}", "points[0].x: expected an integer"},
		{"{\"name\":\"a\",\"flag\":1}", "flag: expected a boolean"},
		{"{\"name\":\"a\",\"free\":[]}", "free: expected an object"},
		{"{\"name\":\"a\",\"nam\":1}", "nam: unknown"},
		{"[\"a\",\"red\",[],true,{},1,2]", "7 values, but the method takes 6"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (!strstr(verdict(bad[i].params), bad[i].word))
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].params, verdict(bad[i].params), bad[i].word);
}

static void no_parameters(void **state)
{
	json_object *checked = NULL, *one = json_tokener_parse("{\"x\":1}");
	char error[200];

	assert_int_equal(rpc_check_params(NULL, NULL, &checked, error, sizeof(error)), 0);
	assert_int_equal(json_object_object_length(checked), 0);
	json_object_put(checked);
	assert_int_equal(rpc_check_params(NULL, one, &checked, error, sizeof(error)), -EINVAL);
	assert_non_null(strstr(error, "x: unknown"));
	json_object_put(one);
}

static void described(void **state)
{
	const struct rpc_field whole = {"whole", RPC_OBJECT, 0, .fields = fields};
	json_object *schema = rpc_schema(&whole);
	json_object *expected = json_tokener_parse(
		"{\"type\":\"object\",\"properties\":{"
		"\"name\":{\"description\":\"a name\",\"type\":\"string\",\"minLength\":1,\"maxLength\":5},"
		"\"colour\":{\"type\":\"string\",\"enum\":[\"red\",\"green\"]},"
		"\"points\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
		"\"x\":{\"description\":\"across\",\"type\":\"integer\",\"minimum\":-10,\"maximum\":10},"
		"\"y\":{\"description\":\"up\",\"type\":[\"number\",\"null\"]}},\"required\":[\"x\"],"
		"\"additionalProperties\":false}},"
		"\"flag\":{\"type\":\"boolean\"},\"free\":{\"type\":\"object\"},\"any\":{}},"
		"\"required\":[\"name\"],\"additionalProperties\":false}");

	assert_non_null(expected);
	if (!json_object_equal(schema, expected))
		fail_msg("%s", json_object_to_json_string(schema));
	json_object_put(schema);
	json_object_put(expected);
}

/* The real table: names in order to be found, summaries to be read, required parameters before optional ones. */
static void the_methods(void **state)
{
	assert_true(rpc_method_at(0) && rpc_method_at(1));
	for (size_t i = 0; rpc_method_at(i); i++) {
		const struct rpc_method *method = rpc_method_at(i);
		bool optional = false;

		assert_ptr_equal(rpc_method_find(method->name), method);
		assert_true(method->summary && strlen(method->summary) > 5);
		assert_non_null(method->handle);
		assert_string_equal(method->result.name, "result");
		for (const struct rpc_field *f = method->params; f && f->name; f++) {
			assert_non_null(f->summary);
			if (f->flags & RPC_REQUIRED)
				assert_false(optional);
			else
				optional = true;
		}
	}
	assert_null(rpc_method_find("vm.nothing"));
	for (int code = 0; code < DAEMON_ERROR_COUNT; code++) {
		bool found = false;

		for (size_t i = 0; i < rpc_error_count; i++)
			found |= rpc_errors[i].code == rpc_error_code((enum daemon_error_code)code);
		assert_true(found);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(taken),     cmocka_unit_test(refused),     cmocka_unit_test(no_parameters),
		cmocka_unit_test(described), cmocka_unit_test(the_methods),
	};

	return cmocka_run_group_tests_name("rpc_schema", tests, NULL, NULL);
}
