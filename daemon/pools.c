/* Storage pools: directories with names, for tools that look for disk images there. Kept in the state directory. */
#include "daemon/pools.h"

#include "daemon/log.h"
#include "proto/file.h"
#include "proto/line.h"
#include "proto/paths.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define FILE_MAX ((size_t)4 << 20)

struct pools {
	char file[PATH_MAX];
	struct pool *first;
};

static void pool_free(struct pool *pool)
{
	if (pool)
		free(pool->path);
	free(pool);
}

static bool is_directory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static const char *text_of(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(object, key, &value) && json_object_is_type(value, json_type_string)
		       ? json_object_get_string(value)
		       : "";
}

static bool flag_of(json_object *object, const char *key)
{
	json_object *value = NULL;

	return json_object_object_get_ex(object, key, &value) && json_object_get_boolean(value);
}

static void append(struct pools *pools, struct pool *pool)
{
	struct pool **at = &pools->first;

	while (*at)
		at = &(*at)->next;
	*at = pool;
}

static void load_one(struct pools *pools, json_object *row)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	char why[VMDEF_ERROR_BYTES];

	if (!pool)
		return;
	snprintf(pool->name, sizeof(pool->name), "%s", text_of(row, "name"));
	snprintf(pool->uuid, sizeof(pool->uuid), "%s", text_of(row, "uuid"));
	pool->path = strdup(text_of(row, "path"));
	pool->autostart = flag_of(row, "autostart");
	pool->active = (pool->autostart || flag_of(row, "active")) && pool->path && is_directory(pool->path);
	if (pool->path && pool->path[0] == '/' && vmdef_name_valid(pool->name, why) && vmdef_uuid_valid(pool->uuid))
		append(pools, pool);
	else
		pool_free(pool);
}

struct pools *pools_open(const char *state_dir)
{
	struct pools *pools = calloc(1, sizeof(*pools));
	json_object *rows = NULL;
	const char *why = NULL;
	char *text = NULL;
	size_t bytes;
	int rc;

	if (!pools || paths_join(pools->file, sizeof(pools->file), state_dir, "pools.json")) {
		free(pools);
		return NULL;
	}
	rc = file_read(pools->file, FILE_MAX, &text, &bytes);
	if (!rc && (line_parse_json(text, bytes, &rows, &why) || !json_object_is_type(rows, json_type_array)))
		log_error("%s: %s; storage pools are left out", pools->file, why ? why : "no array");
	else if (rc && rc != -ENOENT)
		log_error("%s: %s; storage pools are left out", pools->file, strerror(-rc));
	for (size_t i = 0; json_object_is_type(rows, json_type_array) && i < json_object_array_length(rows); i++)
		load_one(pools, json_object_array_get_idx(rows, i));
	json_object_put(rows);
	free(text);
	return pools;
}

void pools_close(struct pools *pools)
{
	while (pools && pools->first) {
		struct pool *pool = pools->first;

		pools->first = pool->next;
		pool_free(pool);
	}
	free(pools);
}

struct pool *pools_first(const struct pools *pools)
{
	return pools->first;
}

struct pool *pools_find_name(const struct pools *pools, const char *name)
{
	struct pool *pool = pools->first;

	while (pool && strcmp(pool->name, name))
		pool = pool->next;
	return pool;
}

struct pool *pools_find_uuid(const struct pools *pools, const char *uuid)
{
	struct pool *pool = pools->first;

	while (pool && strcasecmp(pool->uuid, uuid))
		pool = pool->next;
	return pool;
}

struct pool *pools_find_path(const struct pools *pools, const char *path)
{
	struct pool *pool = pools->first;

	while (pool && strcmp(pool->path, path))
		pool = pool->next;
	return pool;
}

static json_object *pool_json(const struct pool *pool)
{
	json_object *row = json_object_new_object();

	json_object_object_add(row, "name", json_object_new_string(pool->name));
	json_object_object_add(row, "uuid", json_object_new_string(pool->uuid));
	json_object_object_add(row, "path", json_object_new_string(pool->path));
	json_object_object_add(row, "active", json_object_new_boolean(pool->active));
	json_object_object_add(row, "autostart", json_object_new_boolean(pool->autostart));
	json_object_object_add(row, "transient", json_object_new_boolean(pool->transient));
	return row;
}

json_object *pools_json(const struct pools *pools)
{
	json_object *rows = json_object_new_array();

	for (const struct pool *pool = pools->first; pool; pool = pool->next)
		json_object_array_add(rows, pool_json(pool));
	return rows;
}

int pools_save(const struct pools *pools)
{
	json_object *rows = json_object_new_array();
	const char *text;
	size_t bytes;
	int rc;

	for (const struct pool *pool = pools->first; pool; pool = pool->next) {
		if (!pool->transient)
			json_object_array_add(rows, pool_json(pool));
	}
	text = json_object_to_json_string_length(rows, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
	rc = text ? file_write_atomic(pools->file, text, bytes, 0600) : -ENOMEM;
	json_object_put(rows);
	return rc;
}

/* 0: a new one may be made, or *ret_same be changed. */
static int check(struct pools *pools, const char *name, const char *uuid, const char *path, struct pool **ret_same,
		 char *error, size_t error_size)
{
	struct pool *named = pools_find_name(pools, name), *same = uuid[0] ? pools_find_uuid(pools, uuid) : NULL,
		    *there = pools_find_path(pools, path);
	char why[VMDEF_ERROR_BYTES] = "";
	int rc = -EINVAL;

	if (!vmdef_name_valid(name, why))
		snprintf(error, error_size, "%s", why);
	else if (uuid[0] && !vmdef_uuid_valid(uuid))
		snprintf(error, error_size, "\"%.60s\" is no UUID", uuid);
	else if (path[0] != '/' || strlen(path) >= PATH_MAX - 256)
		snprintf(error, error_size, "\"%.200s\" is no absolute path", path);
	else
		rc = -EEXIST;
	if (rc == -EINVAL)
		return rc;
	if (named && named != same)
		snprintf(error, error_size, "pool '%s' already exists with uuid %s", name, named->uuid);
	else if (same && strcmp(same->name, name))
		snprintf(error, error_size, "pool '%s' is already defined with uuid %s", same->name, same->uuid);
	else if (there && there != same)
		snprintf(error, error_size, "pool '%s' has this directory already", there->name);
	else
		rc = 0;
	*ret_same = same;
	return rc;
}

int pools_define(struct pools *pools, const char *name, const char *uuid, const char *path, bool transient,
		 struct pool **ret_pool, char *error, size_t error_size)
{
	char *copy = strndup(path, strlen(path) > 1 && path[strlen(path) - 1] == '/' ? strlen(path) - 1 : strlen(path));
	struct pool *pool = NULL, *fresh = NULL;
	int rc = copy ? check(pools, name, uuid, copy, &pool, error, error_size) : -ENOMEM;

	if (!rc && !pool) {
		fresh = pool = calloc(1, sizeof(*pool));
		rc = pool ? 0 : -ENOMEM;
	}
	if (!rc && fresh) {
		snprintf(pool->name, sizeof(pool->name), "%s", name);
		snprintf(pool->uuid, sizeof(pool->uuid), "%s", uuid);
		pool->transient = transient;
		rc = uuid[0] ? 0 : vmdef_uuid_generate(pool->uuid);
	}
	if (rc) {
		if (rc != -EINVAL && rc != -EEXIST)
			snprintf(error, error_size, "%s", strerror(-rc));
		free(copy);
		free(fresh);
		return rc;
	}
	free(pool->path);
	pool->path = copy;
	pool->transient = pool->transient && transient;
	if (fresh)
		append(pools, pool);
	rc = transient ? 0 : pools_save(pools);
	if (rc) {
		snprintf(error, error_size, "%s: %s", pools->file, strerror(-rc));
		if (fresh)
			pools_remove(pools, pool);
		return rc;
	}
	*ret_pool = pool;
	return 0;
}

int pools_remove(struct pools *pools, struct pool *pool)
{
	struct pool **at = &pools->first;
	bool kept = !pool->transient;

	while (*at != pool)
		at = &(*at)->next;
	*at = pool->next;
	pool_free(pool);
	return kept ? pools_save(pools) : 0;
}
