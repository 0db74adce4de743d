/* Parameter and result tables: checking values against them, and describing them as JSON Schema. */
#include "api/jsonrpc/private.h"
#include "proto/vmdef.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const type_names[] = {
	[RPC_STRING] = "string", [RPC_INTEGER] = "integer", [RPC_NUMBER] = "number",     [RPC_BOOLEAN] = "boolean",
	[RPC_OBJECT] = "object", [RPC_ARRAY] = "array",     [RPC_DEFINITION] = "object", [RPC_ANY] = "any value",
};

static int refuse(char *error, size_t size, const char *path, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int refuse(char *error, size_t size, const char *path, const char *format, ...)
{
	int n = snprintf(error, size, "%s: ", path);
	va_list args;

	if (n < 0 || (size_t)n >= size)
		return -EINVAL;
	va_start(args, format);
	vsnprintf(error + n, size - (size_t)n, format, args);
	va_end(args);
	return -EINVAL;
}

static bool type_fits(enum rpc_type type, json_object *value)
{
	switch (type) {
	case RPC_STRING: return json_object_is_type(value, json_type_string);
	case RPC_INTEGER: return json_object_is_type(value, json_type_int);
	case RPC_NUMBER:
		return json_object_is_type(value, json_type_int) ||
		       (json_object_is_type(value, json_type_double) && isfinite(json_object_get_double(value)));
	case RPC_BOOLEAN: return json_object_is_type(value, json_type_boolean);
	case RPC_OBJECT:
	case RPC_DEFINITION: return json_object_is_type(value, json_type_object);
	case RPC_ARRAY: return json_object_is_type(value, json_type_array);
	case RPC_ANY: return true;
	}
	return false;
}

static const char *article(const char *noun)
{
	return strchr("aeiou", noun[0]) ? "an" : "a";
}

static int check_string(const struct rpc_field *field, json_object *value, const char *path, char *error, size_t size)
{
	const char *text = json_object_get_string(value);
	size_t bytes = (size_t)json_object_get_string_len(value);

	if (strlen(text) != bytes)
		return refuse(error, size, path, "a NUL character at byte %zu", strlen(text));
	if (field->max > 0 && (double)bytes > field->max)
		return refuse(error, size, path, "%zu bytes are too long; at most %.0f", bytes, field->max);
	if ((double)bytes < field->min)
		return refuse(error, size, path, "too short; at least %.0f bytes", field->min);
	if (field->values) {
		char known[200] = "";

		for (const char *const *v = field->values; *v; v++) {
			size_t used = strlen(known);

			if (!strcmp(*v, text))
				return 0;
			snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", *v);
		}
		return refuse(error, size, path, "\"%.60s\" is not one of %s", text, known);
	}
	return 0;
}

static int check_number(const struct rpc_field *field, json_object *value, const char *path, char *error, size_t size)
{
	double number = json_object_get_double(value);

	if ((field->min != 0 || field->max != 0) && (number < field->min || number > field->max))
		return refuse(error, size, path, "%s is not within %.15g to %.15g", json_object_get_string(value),
			      field->min, field->max);
	return 0;
}

static const struct rpc_field *find_field(const struct rpc_field *fields, const char *name)
{
	for (; fields && fields->name; fields++)
		if (!strcmp(fields->name, name))
			return fields;
	return NULL;
}

static void join(char *to, size_t size, const char *path, const char *name)
{
	/* A name too long to show whole is cut: it is only for a message. */
	snprintf(to, size, "%s%s%.80s", path, path[0] ? "." : "", name);
}

static int check_members(const struct rpc_field *fields, bool open, json_object *value, const char *path, char *error,
			 size_t size)
{
	char member[256];

	json_object_object_foreach(value, key, child)
	{
		const struct rpc_field *field = find_field(fields, key);

		join(member, sizeof(member), path, key);
		if (!field) {
			char known[300] = "";

			if (open)
				continue;
			for (const struct rpc_field *f = fields; f && f->name; f++) {
				size_t used = strlen(known);

				snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", f->name);
			}
			return known[0] ? refuse(error, size, member, "unknown; known here: %s", known)
					: refuse(error, size, member, "unknown; nothing is expected here");
		}
		if (rpc_check(field, child, member, error, size))
			return -EINVAL;
	}
	for (const struct rpc_field *f = fields; f && f->name; f++) {
		if (f->flags & RPC_REQUIRED && !json_object_object_get_ex(value, f->name, NULL)) {
			join(member, sizeof(member), path, f->name);
			return refuse(error, size, member, "missing (%s)", f->summary ? f->summary : "required");
		}
	}
	return 0;
}

static int check_items(const struct rpc_field *item, json_object *value, const char *path, char *error, size_t size)
{
	char place[256];

	for (size_t i = 0; item && i < json_object_array_length(value); i++) {
		snprintf(place, sizeof(place), "%.200s[%zu]", path, i);
		if (rpc_check(item, json_object_array_get_idx(value, i), place, error, size))
			return -EINVAL;
	}
	return 0;
}

int rpc_check(const struct rpc_field *field, json_object *value, const char *path, char *error, size_t error_size)
{
	if (!value && (field->flags & RPC_NULLABLE || field->type == RPC_ANY))
		return 0;
	if (!type_fits(field->type, value)) {
		const char *wanted = type_names[field->type];

		return refuse(error, error_size, path, "expected %s %s, found %s", article(wanted), wanted,
			      json_type_to_name(json_object_get_type(value)));
	}
	switch (field->type) {
	case RPC_STRING: return check_string(field, value, path, error, error_size);
	case RPC_INTEGER:
	case RPC_NUMBER: return check_number(field, value, path, error, error_size);
	case RPC_OBJECT:
		return field->fields
			       ? check_members(field->fields, field->flags & RPC_OPEN, value, path, error, error_size)
			       : 0;
	case RPC_ARRAY: return check_items(field->fields, value, path, error, error_size);
	default: return 0; /* a definition is checked by who takes it, with messages of its own */
	}
}

int rpc_check_params(const struct rpc_field *fields, json_object *params, json_object **ret_params, char *error,
		     size_t error_size)
{
	json_object *object = NULL;

	if (json_object_is_type(params, json_type_array)) {
		const struct rpc_field *f = fields;
		size_t n = json_object_array_length(params);

		object = json_object_new_object();
		for (size_t i = 0; i < n; i++, f++) {
			if (!f || !f->name) {
				snprintf(error, error_size, "params: %zu values, but the method takes %zu", n, i);
				json_object_put(object);
				return -EINVAL;
			}
			json_object_object_add(object, f->name, json_object_get(json_object_array_get_idx(params, i)));
		}
	} else {
		object = params ? json_object_get(params) : json_object_new_object();
	}
	if (check_members(fields, false, object, "", error, error_size)) {
		json_object_put(object);
		return -EINVAL;
	}
	*ret_params = object;
	return 0;
}

/* ---- description ---------------------------------------------------------------- */

static void put_string(json_object *to, const char *key, const char *text)
{
	if (text)
		json_object_object_add(to, key, json_object_new_string(text));
}

static void put_number(json_object *to, const char *key, double number)
{
	json_object_object_add(to, key,
			       number == floor(number) ? json_object_new_int64((int64_t)number)
						       : json_object_new_double(number));
}

static void describe_members(json_object *schema, const struct rpc_field *field)
{
	json_object *properties = json_object_new_object(), *required = json_object_new_array();

	for (const struct rpc_field *f = field->fields; f && f->name; f++) {
		json_object_object_add(properties, f->name, rpc_schema(f));
		if (f->flags & RPC_REQUIRED)
			json_object_array_add(required, json_object_new_string(f->name));
	}
	json_object_object_add(schema, "properties", properties);
	if (json_object_array_length(required))
		json_object_object_add(schema, "required", required);
	else
		json_object_put(required);
	json_object_object_add(schema, "additionalProperties",
			       json_object_new_boolean(field->flags & RPC_OPEN ? 1 : 0));
}

json_object *rpc_schema(const struct rpc_field *field)
{
	json_object *schema, *values;

	if (field->type == RPC_DEFINITION) {
		schema = json_object_new_object();
		put_string(schema, "$ref", "#/components/schemas/definition");
		return schema;
	}
	schema = json_object_new_object();
	put_string(schema, "description", field->summary);
	if (field->type != RPC_ANY) {
		if (field->flags & RPC_NULLABLE) {
			json_object *types = json_object_new_array();

			json_object_array_add(types, json_object_new_string(type_names[field->type]));
			json_object_array_add(types, json_object_new_string("null"));
			json_object_object_add(schema, "type", types);
		} else {
			put_string(schema, "type", type_names[field->type]);
		}
	}
	if (field->values) {
		values = json_object_new_array();
		for (const char *const *v = field->values; *v; v++)
			json_object_array_add(values, json_object_new_string(*v));
		json_object_object_add(schema, "enum", values);
	}
	if (field->min != 0 || field->max != 0) {
		bool text = field->type == RPC_STRING;

		put_number(schema, text ? "minLength" : "minimum", field->min);
		put_number(schema, text ? "maxLength" : "maximum", field->max);
	}
	if (field->type == RPC_OBJECT && field->fields)
		describe_members(schema, field);
	if (field->type == RPC_ARRAY && field->fields)
		json_object_object_add(schema, "items", rpc_schema(field->fields));
	return schema;
}
