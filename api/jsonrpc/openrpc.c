/* The methods' table as an OpenRPC document (rpc.discover) and as Markdown (docs/api.md). */
#include "api/jsonrpc/private.h"
#include "proto/vmdef.h"

#include <string.h>

#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

static json_object *text(const char *s)
{
	return json_object_new_string(s ? s : "");
}

static json_object *describe_params(const struct rpc_field *fields)
{
	json_object *params = json_object_new_array();

	for (; fields && fields->name; fields++) {
		json_object *param = json_object_new_object();

		json_object_object_add(param, "name", text(fields->name));
		if (fields->summary)
			json_object_object_add(param, "summary", text(fields->summary));
		json_object_object_add(param, "required",
				       json_object_new_boolean(fields->flags & RPC_REQUIRED ? 1 : 0));
		json_object_object_add(param, "schema", rpc_schema(fields));
		json_object_array_add(params, param);
	}
	return params;
}

static json_object *describe_method(const struct rpc_method *method)
{
	json_object *object = json_object_new_object(), *result = json_object_new_object();

	json_object_object_add(object, "name", text(method->name));
	json_object_object_add(object, "summary", text(method->summary));
	json_object_object_add(object, "paramStructure", text("either"));
	json_object_object_add(object, "params", describe_params(method->params));
	json_object_object_add(result, "name", text("result"));
	json_object_object_add(result, "schema", rpc_schema(&method->result));
	json_object_object_add(object, "result", result);
	return object;
}

json_object *rpc_openrpc(void)
{
	json_object *document = json_object_new_object(), *info = json_object_new_object();
	json_object *methods = json_object_new_array(), *schemas = json_object_new_object();
	json_object *components = json_object_new_object(), *errors = json_object_new_object();
	json_object *notifications = json_object_new_array();

	json_object_object_add(info, "title", text("trivisor"));
	json_object_object_add(info, "version", text(PACKAGE_VERSION));
	json_object_object_add(
		info, "description",
		text("The JSON-RPC API of trivisord: newline-delimited JSON-RPC 2.0 over a UNIX socket."));
	for (size_t i = 0; rpc_method_at(i); i++)
		json_object_array_add(methods, describe_method(rpc_method_at(i)));
	json_object_object_add(schemas, "definition", vmdef_schema());
	for (size_t i = 0; i < rpc_error_count; i++) {
		json_object *error = json_object_new_object();

		json_object_object_add(error, "code", json_object_new_int(rpc_errors[i].code));
		json_object_object_add(error, "message", text(rpc_errors[i].meaning));
		json_object_object_add(errors, rpc_errors[i].name, error);
	}
	for (size_t i = 0; i < rpc_notification_count; i++) {
		json_object *row = json_object_new_object();

		json_object_object_add(row, "name", text(rpc_notifications[i].name));
		json_object_object_add(row, "summary", text(rpc_notifications[i].summary));
		json_object_object_add(row, "params", rpc_schema(&rpc_notifications[i].params));
		json_object_array_add(notifications, row);
	}
	json_object_object_add(components, "schemas", schemas);
	json_object_object_add(components, "errors", errors);
	json_object_object_add(document, "openrpc", text("1.2.6"));
	json_object_object_add(document, "info", info);
	json_object_object_add(document, "methods", methods);
	json_object_object_add(document, "components", components);
	/* OpenRPC has no word for what a server sends unasked; "x-" members are extensions. */
	json_object_object_add(document, "x-notifications", notifications);
	return document;
}

/* ---- Markdown ------------------------------------------------------------------- */

static const char *kind(const struct rpc_field *field)
{
	static const char *const names[] = {
		[RPC_STRING] = "string",         [RPC_INTEGER] = "integer", [RPC_NUMBER] = "number",
		[RPC_BOOLEAN] = "boolean",       [RPC_OBJECT] = "object",   [RPC_ARRAY] = "array",
		[RPC_DEFINITION] = "definition", [RPC_ANY] = "any",
	};

	return names[field->type];
}

static void print_fields(FILE *to, const struct rpc_field *fields, unsigned depth)
{
	for (; fields && fields->name; fields++) {
		fprintf(to, "%*s- `%s` (%s%s%s)", (int)depth * 2, "", fields->name, kind(fields),
			fields->flags & RPC_REQUIRED ? "" : ", optional",
			fields->flags & RPC_NULLABLE ? ", or null" : "");
		if (fields->values) {
			fprintf(to, ", one of");
			for (const char *const *v = fields->values; *v; v++)
				fprintf(to, "%s `%s`", v == fields->values ? "" : ",", *v);
		}
		if (fields->summary)
			fprintf(to, ": %s", fields->summary);
		fprintf(to, "\n");
		if (fields->type == RPC_OBJECT)
			print_fields(to, fields->fields, depth + 1);
		else if (fields->type == RPC_ARRAY && fields->fields && fields->fields->fields)
			print_fields(to, fields->fields->fields, depth + 1);
	}
}

static void print_result(FILE *to, const struct rpc_field *result)
{
	fprintf(to, "\nResult: %s%s%s\n\n", kind(result), result->summary ? ", " : "",
		result->summary ? result->summary : "");
	if (result->type == RPC_ARRAY && result->fields)
		print_fields(to, result->fields->fields, 0);
	else
		print_fields(to, result->fields, 0);
}

static void print_definition(FILE *to)
{
	json_object *schema = vmdef_schema();

	fprintf(to,
		"\n## A VM's definition\n\nIts JSON Schema, from the table that checks it; unknown keys are refused by "
		"name.\n\n"
		"```json\n%s\n```\n",
		json_object_to_json_string_ext(schema, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
							       JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(schema);
}

void rpc_print_markdown(FILE *to)
{
	fprintf(to, "# The JSON-RPC API of trivisord\n\n"
		    "<!-- Made by `trivisord --print-api` from api/jsonrpc/methods_*.c; do not edit. -->\n\n"
		    "Newline-delimited JSON-RPC 2.0 over a UNIX socket; batches (up to 1000 requests) and "
		    "notifications work, a\n"
		    "message has at most 16 MiB. Parameters go by name or by position, in the order below. Answers "
		    "come when they\n"
		    "are ready, not in the order of the requests. `rpc.discover` gives the same as an OpenRPC "
		    "document, and\n"
		    "`trictl call METHOD [JSON]` calls any of it.\n\n## Methods\n");
	for (size_t i = 0; rpc_method_at(i); i++) {
		const struct rpc_method *method = rpc_method_at(i);

		fprintf(to, "\n### %s\n\n%s\n\n", method->name, method->summary);
		if (method->params) {
			fprintf(to, "Parameters:\n\n");
			print_fields(to, method->params, 0);
		} else {
			fprintf(to, "No parameters.\n");
		}
		print_result(to, &method->result);
	}
	fprintf(to, "\n## Notifications from the daemon\n");
	for (size_t i = 0; i < rpc_notification_count; i++) {
		fprintf(to, "\n### %s\n\n%s\n\n", rpc_notifications[i].name, rpc_notifications[i].summary);
		print_fields(to, rpc_notifications[i].params.fields, 0);
	}
	fprintf(to, "\n## Errors\n\n| code | `data.name` | meaning |\n| --- | --- | --- |\n");
	for (size_t i = 0; i < rpc_error_count; i++)
		fprintf(to, "| %d | `%s` | %s |\n", rpc_errors[i].code, rpc_errors[i].name, rpc_errors[i].meaning);
	print_definition(to);
}

void rpc_print_openrpc(FILE *to)
{
	json_object *document = rpc_openrpc();

	fprintf(to, "%s\n",
		json_object_to_json_string_ext(document, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
								 JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(document);
}
