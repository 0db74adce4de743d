/* Storage pools that are directories, and the raw images in them. */
#include "api/libvirt/handlers.h"
#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"
#include "daemon/pools.h"
#include "proto/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static struct pools *pools_of(const struct lv_call *call)
{
	return daemon_pools(call->daemon);
}

static void put_pool(struct xdr_writer *out, const struct pool *pool)
{
	unsigned char uuid[16];

	lv_uuid_bytes(pool->uuid, uuid);
	xdr_put_string(out, pool->name);
	xdr_put_fixed(out, uuid, sizeof(uuid));
}

static void reply_pool(struct lv_call *call, const struct pool *pool)
{
	put_pool(&call->out, pool);
	lv_reply(call);
}

/* Of a P argument; NULL: the call was failed. */
static struct pool *find_pool(struct lv_call *call)
{
	char uuid[VMDEF_UUID_BYTES];
	struct pool *pool;

	lv_uuid_text(call->args[0].items[1].text, uuid);
	pool = pools_find_uuid(pools_of(call), uuid);
	if (!pool)
		lv_fail(call, VIR_ERR_NO_STORAGE_POOL, "no storage pool with matching uuid '%s' (%.100s)", uuid,
			call->args[0].items[0].text);
	return pool;
}

static struct pool *find_active_pool(struct lv_call *call)
{
	struct pool *pool = find_pool(call);

	if (!pool || pool->active)
		return pool;
	lv_fail(call, VIR_ERR_OPERATION_INVALID, "storage pool '%s' is not active", pool->name);
	return NULL;
}

/* ---- finding pools -------------------------------------------------------------------- */

void lv_storage_pool_lookup_by_name(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = pools_find_name(pools_of(call), call->args[0].text);

	if (pool)
		reply_pool(call, pool);
	else
		lv_fail(call, VIR_ERR_NO_STORAGE_POOL, "no storage pool with matching name '%.200s'", call->args[0].text);
}

void lv_storage_pool_lookup_by_uuid(struct lv_call *call, struct vm *vm)
{
	char uuid[VMDEF_UUID_BYTES];
	struct pool *pool;

	lv_uuid_text(call->args[0].text, uuid);
	pool = pools_find_uuid(pools_of(call), uuid);
	if (pool)
		reply_pool(call, pool);
	else
		lv_fail(call, VIR_ERR_NO_STORAGE_POOL, "no storage pool with matching uuid '%s'", uuid);
}

void lv_storage_pool_lookup_by_target_path(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = pools_find_path(pools_of(call), call->args[0].text);

	if (pool && pool->active)
		reply_pool(call, pool);
	else
		lv_fail(call, VIR_ERR_NO_STORAGE_POOL, "no storage pool with matching target path '%.300s'",
			call->args[0].text);
}

static bool listed(const struct pool *pool, uint64_t flags)
{
	static const struct {
		uint64_t yes, no;
	} pairs[] = {
		{VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE, VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE},
		{VIR_CONNECT_LIST_STORAGE_POOLS_PERSISTENT, VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT},
		{VIR_CONNECT_LIST_STORAGE_POOLS_AUTOSTART, VIR_CONNECT_LIST_STORAGE_POOLS_NO_AUTOSTART},
	};
	const bool is[] = {pool->active, !pool->transient, pool->autostart};
	uint64_t kinds = flags & ~(uint64_t)0x3f;

	for (size_t i = 0; i < 3; i++) {
		uint64_t both = flags & (pairs[i].yes | pairs[i].no);

		if (both && !(both & (is[i] ? pairs[i].yes : pairs[i].no)))
			return false;
	}
	return !kinds || kinds & VIR_CONNECT_LIST_STORAGE_POOLS_DIR;
}

void lv_connect_list_all_storage_pools(struct lv_call *call, struct vm *vm)
{
	size_t at = call->out.used;
	uint32_t n = 0;

	if (!lv_flags(call, call->args[1].u, 0xfffff))
		return;
	xdr_put_u32(&call->out, 0);
	for (struct pool *pool = pools_first(pools_of(call)); pool; pool = pool->next) {
		if (!listed(pool, call->args[1].u))
			continue;
		n++;
		if (call->args[0].i)
			put_pool(&call->out, pool);
	}
	if (call->args[0].i)
		xdr_patch_u32(&call->out, at, n);
	xdr_put_u32(&call->out, n);
	lv_reply(call);
}

static void reply_names(struct lv_call *call, bool active, bool count_only)
{
	size_t at = call->out.used;
	int64_t n = 0;

	xdr_put_u32(&call->out, 0);
	for (struct pool *pool = pools_first(pools_of(call)); pool; pool = pool->next) {
		if (pool->active != active || (!count_only && n >= call->args[0].i))
			continue;
		n++;
		if (!count_only)
			xdr_put_string(&call->out, pool->name);
	}
	xdr_patch_u32(&call->out, at, (uint32_t)n);
	lv_reply(call);
}

void lv_connect_num_of_storage_pools(struct lv_call *call, struct vm *vm)
{
	reply_names(call, true, true);
}

void lv_connect_list_storage_pools(struct lv_call *call, struct vm *vm)
{
	reply_names(call, true, false);
}

void lv_connect_num_of_defined_storage_pools(struct lv_call *call, struct vm *vm)
{
	reply_names(call, false, true);
}

void lv_connect_list_defined_storage_pools(struct lv_call *call, struct vm *vm)
{
	reply_names(call, false, false);
}

/* ---- making and ending them -------------------------------------------------------------- */

struct pool_xml {
	char *name, *uuid, *path;
};

static void pool_xml_free(struct pool_xml *x)
{
	free(x->name);
	free(x->uuid);
	free(x->path);
}

/* False: the call was failed. */
static bool parse_pool(struct lv_call *call, const char *text, struct pool_xml *ret)
{
	char error[500];
	xmlDoc *doc = lv_xml_read(text, error, sizeof(error));
	xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL, *name = root ? lv_xml_child(root, "name") : NULL,
		*uuid = root ? lv_xml_child(root, "uuid") : NULL,
		*path = root ? lv_xml_child(lv_xml_child(root, "target"), "path") : NULL;
	bool ok = false;

	*ret = (struct pool_xml){0};
	if (!doc)
		lv_fail(call, VIR_ERR_XML_DETAIL, "%s", error);
	else if (!lv_xml_is(root, "pool"))
		lv_fail(call, VIR_ERR_XML_ERROR, "unknown root element '%.60s' for storage pool", (const char *)root->name);
	else if (!lv_xml_attribute_is(root, "type", "dir"))
		lv_fail(call, VIR_ERR_CONFIG_UNSUPPORTED, "/pool: only pools of type dir are possible");
	else if (!name || !path)
		lv_fail(call, VIR_ERR_XML_ERROR, "%s is missing", name ? "/pool/target/path" : "/pool/name");
	else
		ok = true;
	if (ok) {
		ret->name = lv_xml_text(name);
		ret->uuid = uuid ? lv_xml_text(uuid) : strdup("");
		ret->path = lv_xml_text(path);
		ok = ret->name && ret->uuid && ret->path;
		if (!ok)
			lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
	}
	xmlFreeDoc(doc);
	if (!ok)
		pool_xml_free(ret);
	return ok;
}

static void define(struct lv_call *call, bool transient)
{
	struct pool *pool = NULL;
	char error[VMDEF_ERROR_BYTES] = "";
	struct pool_xml x;
	struct stat st;
	int rc;

	if (!parse_pool(call, call->args[0].text, &x))
		return;
	rc = pools_define(pools_of(call), x.name, x.uuid, x.path, transient, &pool, error, sizeof(error));
	pool_xml_free(&x);
	if (rc) {
		lv_fail(call, rc == -EINVAL ? VIR_ERR_XML_ERROR : rc == -EEXIST ? VIR_ERR_OPERATION_FAILED : VIR_ERR_SYSTEM_ERROR,
			"%s", error);
		return;
	}
	if (transient && (stat(pool->path, &st) < 0 || !S_ISDIR(st.st_mode))) {
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot open path '%.300s': %s", pool->path, strerror(ENOTDIR));
		pools_remove(pools_of(call), pool);
		return;
	}
	pool->active = pool->active || transient;
	lv_events_pool(call->conn->server, pool->name, pool->uuid,
		       transient ? VIR_STORAGE_POOL_EVENT_STARTED : VIR_STORAGE_POOL_EVENT_DEFINED);
	reply_pool(call, pool);
}

void lv_storage_pool_define_xml(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, VIR_STORAGE_POOL_DEFINE_VALIDATE))
		define(call, false);
}

void lv_storage_pool_create_xml(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, 0xf))
		define(call, true);
}

/* After the change: kept, told, answered. */
static void changed(struct lv_call *call, const struct pool *pool, int event)
{
	int rc = pools_save(pools_of(call));

	if (event >= 0)
		lv_events_pool(call->conn->server, pool->name, pool->uuid, event);
	if (rc)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "the change cannot be kept: %s", strerror(-rc));
	else
		lv_reply(call);
}

void lv_storage_pool_create(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = lv_flags(call, call->args[1].u, 0x7) ? find_pool(call) : NULL;
	struct stat st;
	int rc = 0;

	if (!pool)
		return;
	if (pool->active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "storage pool '%s' is already active", pool->name);
		return;
	}
	if (call->args[1].u & VIR_STORAGE_POOL_CREATE_WITH_BUILD)
		rc = file_make_dirs(pool->path, 0711);
	if (rc || stat(pool->path, &st) < 0 || !S_ISDIR(st.st_mode)) {
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot open directory '%.300s': %s", pool->path,
			strerror(rc ? -rc : errno ? errno : ENOTDIR));
		return;
	}
	pool->active = true;
	changed(call, pool, VIR_STORAGE_POOL_EVENT_STARTED);
}

void lv_storage_pool_build(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = lv_flags(call, call->args[1].u, 0xf) ? find_pool(call) : NULL;
	int rc = pool ? file_make_dirs(pool->path, 0711) : 0;

	if (rc)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot create path '%.300s': %s", pool->path, strerror(-rc));
	else if (pool)
		lv_reply(call);
}

void lv_storage_pool_destroy(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_active_pool(call);

	if (!pool)
		return;
	pool->active = false;
	if (pool->transient) {
		lv_events_pool(call->conn->server, pool->name, pool->uuid, VIR_STORAGE_POOL_EVENT_STOPPED);
		pools_remove(pools_of(call), pool);
		lv_reply(call);
	} else {
		changed(call, pool, VIR_STORAGE_POOL_EVENT_STOPPED);
	}
}

void lv_storage_pool_undefine(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_pool(call);
	int rc;

	if (pool && pool->active) {
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "storage pool '%s' is still active", pool->name);
	} else if (pool) {
		lv_events_pool(call->conn->server, pool->name, pool->uuid, VIR_STORAGE_POOL_EVENT_UNDEFINED);
		rc = pools_remove(pools_of(call), pool);
		if (rc)
			lv_fail(call, VIR_ERR_SYSTEM_ERROR, "the change cannot be kept: %s", strerror(-rc));
		else
			lv_reply(call);
	}
}

/* Only an empty directory: what is in it was put there by somebody. */
void lv_storage_pool_delete(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = lv_flags(call, call->args[1].u, VIR_STORAGE_POOL_DELETE_ZEROED) ? find_pool(call) : NULL;

	if (pool && pool->active)
		lv_fail(call, VIR_ERR_OPERATION_INVALID, "storage pool '%s' is still active", pool->name);
	else if (pool && rmdir(pool->path) < 0)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "failed to remove pool '%.300s': %s", pool->path, strerror(errno));
	else if (pool)
		lv_reply(call);
}

/* Directories are looked at each time. */
void lv_storage_pool_refresh(struct lv_call *call, struct vm *vm)
{
	if (lv_flags(call, call->args[1].u, 0) && find_active_pool(call))
		lv_reply(call);
}

void lv_storage_pool_set_autostart(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_pool(call);

	if (pool && pool->transient) {
		lv_fail(call, VIR_ERR_INVALID_ARG, "pool has no config file");
	} else if (pool) {
		pool->autostart = call->args[1].i != 0;
		changed(call, pool, -1);
	}
}

/* ---- what is known of them ------------------------------------------------------------------ */

static void reply_int(struct lv_call *call, int32_t value)
{
	xdr_put_i32(&call->out, value);
	lv_reply(call);
}

void lv_storage_pool_is_active(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_pool(call);

	if (pool)
		reply_int(call, pool->active);
}

void lv_storage_pool_is_persistent(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_pool(call);

	if (pool)
		reply_int(call, !pool->transient);
}

void lv_storage_pool_get_autostart(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_pool(call);

	if (pool)
		reply_int(call, pool->autostart);
}

struct space {
	uint64_t capacity, allocation, available;
};

static struct space space_of(const struct pool *pool)
{
	struct space space = {0};
	struct statvfs st;

	if (pool->active && statvfs(pool->path, &st) == 0) {
		space.capacity = (uint64_t)st.f_blocks * st.f_frsize;
		space.available = (uint64_t)st.f_bavail * st.f_frsize;
		space.allocation = space.capacity - (uint64_t)st.f_bfree * st.f_frsize;
	}
	return space;
}

void lv_storage_pool_get_info(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_pool(call);
	struct space space;

	if (!pool)
		return;
	space = space_of(pool);
	xdr_put_i32(&call->out, pool->active ? VIR_STORAGE_POOL_RUNNING : VIR_STORAGE_POOL_INACTIVE);
	xdr_put_u64(&call->out, space.capacity);
	xdr_put_u64(&call->out, space.allocation);
	xdr_put_u64(&call->out, space.available);
	lv_reply(call);
}

static xmlNode *add(xmlNode *parent, const char *name, const char *text)
{
	return xmlNewTextChild(parent, NULL, (const xmlChar *)name, (const xmlChar *)text);
}

static void add_bytes(xmlNode *parent, const char *name, uint64_t bytes)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
	xmlSetProp(add(parent, name, text), (const xmlChar *)"unit", (const xmlChar *)"bytes");
}

static void reply_xml(struct lv_call *call, xmlDoc *doc)
{
	char *text = lv_xml_print(xmlDocGetRootElement(doc), true);

	xmlFreeDoc(doc);
	if (text) {
		xdr_put_string(&call->out, text);
		free(text);
		lv_reply(call);
	} else {
		lv_fail(call, VIR_ERR_NO_MEMORY, "out of memory");
	}
}

static xmlNode *new_document(const char *name, const char *type)
{
	xmlDoc *doc = xmlNewDoc((const xmlChar *)"1.0");
	xmlNode *root = xmlNewDocNode(doc, NULL, (const xmlChar *)name, NULL);

	xmlDocSetRootElement(doc, root);
	xmlSetProp(root, (const xmlChar *)"type", (const xmlChar *)type);
	return root;
}

void lv_storage_pool_get_xml_desc(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = lv_flags(call, call->args[1].u, VIR_STORAGE_XML_INACTIVE) ? find_pool(call) : NULL;
	struct space space;
	xmlNode *root;

	if (!pool)
		return;
	space = space_of(pool);
	root = new_document("pool", "dir");
	add(root, "name", pool->name);
	add(root, "uuid", pool->uuid);
	add_bytes(root, "capacity", space.capacity);
	add_bytes(root, "allocation", space.allocation);
	add_bytes(root, "available", space.available);
	add(root, "source", NULL);
	add(add(root, "target", NULL), "path", pool->path);
	reply_xml(call, root->doc);
}

/* ---- volumes ------------------------------------------------------------------------------------ */

struct volume {
	const struct pool *pool;
	char name[256], path[PATH_MAX];
	struct stat st;
};

/* A regular file of that name in an active pool. */
static bool look_at(const struct pool *pool, const char *name, struct volume *ret)
{
	if (!pool->active || !name[0] || name[0] == '.' || strchr(name, '/') || strlen(name) >= sizeof(ret->name))
		return false;
	ret->pool = pool;
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	return snprintf(ret->path, sizeof(ret->path), "%s/%s", pool->path, name) < (int)sizeof(ret->path) &&
	       stat(ret->path, &ret->st) == 0 && S_ISREG(ret->st.st_mode);
}

static bool find_path(struct lv_call *call, const char *path, struct volume *ret)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];
	struct pool *pool;

	if (!slash || snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path) >= (int)sizeof(dir))
		return false;
	pool = pools_find_path(pools_of(call), slash == path ? "/" : dir);
	return pool && look_at(pool, slash + 1, ret);
}

/* Of a V argument: by its key, which is the path. False: the call was failed. */
static bool find_volume(struct lv_call *call, struct volume *ret)
{
	if (find_path(call, call->args[0].items[2].text, ret))
		return true;
	lv_fail(call, VIR_ERR_NO_STORAGE_VOL, "no storage vol with matching key '%.300s'", call->args[0].items[2].text);
	return false;
}

static void put_volume(struct xdr_writer *out, const struct volume *volume)
{
	xdr_put_string(out, volume->pool->name);
	xdr_put_string(out, volume->name);
	xdr_put_string(out, volume->path);
}

static void reply_volume(struct lv_call *call, const struct volume *volume)
{
	put_volume(&call->out, volume);
	lv_reply(call);
}

/* Every volume of the pool args[0]: into an array, or only counted. */
static uint32_t list_volumes(struct lv_call *call, const struct pool *pool, uint32_t max, bool objects)
{
	DIR *dir = opendir(pool->path);
	struct volume volume;
	struct dirent *entry;
	uint32_t n = 0;

	while (dir && n < max && (entry = readdir(dir))) {
		if (!look_at(pool, entry->d_name, &volume))
			continue;
		n++;
		if (objects)
			put_volume(&call->out, &volume);
		else if (call->procedure->result[0] == 's')
			xdr_put_string(&call->out, volume.name);
	}
	if (dir)
		closedir(dir);
	return n;
}

void lv_storage_pool_list_all_volumes(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = lv_flags(call, call->args[2].u, 0) ? find_active_pool(call) : NULL;
	size_t at = call->out.used;
	uint32_t n;

	if (!pool)
		return;
	xdr_put_u32(&call->out, 0);
	n = list_volumes(call, pool, 16384, call->args[1].i != 0);
	if (call->args[1].i)
		xdr_patch_u32(&call->out, at, n);
	xdr_put_u32(&call->out, n);
	lv_reply(call);
}

void lv_storage_pool_num_of_volumes(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_active_pool(call);

	if (pool)
		reply_int(call, (int32_t)list_volumes(call, pool, 16384, false));
}

void lv_storage_pool_list_volumes(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_active_pool(call);
	size_t at = call->out.used;
	int64_t max = call->args[1].i;
	uint32_t n;

	if (!pool)
		return;
	xdr_put_u32(&call->out, 0);
	n = list_volumes(call, pool, max < 0 ? 0 : max > 16384 ? 16384 : (uint32_t)max, false);
	xdr_patch_u32(&call->out, at, n);
	lv_reply(call);
}

void lv_storage_vol_lookup_by_name(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = find_active_pool(call);
	struct volume volume;

	if (pool && look_at(pool, call->args[1].text, &volume))
		reply_volume(call, &volume);
	else if (pool)
		lv_fail(call, VIR_ERR_NO_STORAGE_VOL, "no storage vol with matching name '%.200s'", call->args[1].text);
}

/* The key is the path. */
void lv_storage_vol_lookup_by_path(struct lv_call *call, struct vm *vm)
{
	struct volume volume;

	if (find_path(call, call->args[0].text, &volume))
		reply_volume(call, &volume);
	else
		lv_fail(call, VIR_ERR_NO_STORAGE_VOL, "no storage vol with matching path '%.300s'", call->args[0].text);
}

void lv_storage_pool_lookup_by_volume(struct lv_call *call, struct vm *vm)
{
	struct volume volume;

	if (find_volume(call, &volume))
		reply_pool(call, volume.pool);
}

void lv_storage_vol_get_path(struct lv_call *call, struct vm *vm)
{
	struct volume volume;

	if (!find_volume(call, &volume))
		return;
	xdr_put_string(&call->out, volume.path);
	lv_reply(call);
}

void lv_storage_vol_get_info(struct lv_call *call, struct vm *vm)
{
	struct volume volume;

	if ((call->args[1].present && !lv_flags(call, call->args[1].u, VIR_STORAGE_VOL_GET_PHYSICAL)) ||
	    !find_volume(call, &volume))
		return;
	xdr_put_i32(&call->out, VIR_STORAGE_VOL_FILE);
	xdr_put_u64(&call->out, (uint64_t)volume.st.st_size);
	xdr_put_u64(&call->out, call->args[1].present && call->args[1].u ? (uint64_t)volume.st.st_size
									   : (uint64_t)volume.st.st_blocks * 512);
	lv_reply(call);
}

/* Everything is raw to this machine; other formats are shown by name, so that nobody takes one for a raw image. */
static const char *format_of(const struct volume *volume)
{
	int fd = open(volume->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	unsigned char head[8] = {0};
	ssize_t n = fd >= 0 ? pread(fd, head, sizeof(head), 0) : 0;

	if (fd >= 0)
		close(fd);
	return n >= 4 && !memcmp(head, "QFI\xfb", 4) ? "qcow2" : "raw";
}

void lv_storage_vol_get_xml_desc(struct lv_call *call, struct vm *vm)
{
	struct volume volume;
	char mode[16], id[16];
	xmlNode *root, *target, *permissions;

	if (!lv_flags(call, call->args[1].u, 0) || !find_volume(call, &volume))
		return;
	root = new_document("volume", "file");
	add(root, "name", volume.name);
	add(root, "key", volume.path);
	add_bytes(root, "capacity", (uint64_t)volume.st.st_size);
	add_bytes(root, "allocation", (uint64_t)volume.st.st_blocks * 512);
	add_bytes(root, "physical", (uint64_t)volume.st.st_size);
	target = add(root, "target", NULL);
	add(target, "path", volume.path);
	xmlSetProp(add(target, "format", NULL), (const xmlChar *)"type", (const xmlChar *)format_of(&volume));
	permissions = add(target, "permissions", NULL);
	snprintf(mode, sizeof(mode), "%04o", (unsigned)volume.st.st_mode & 07777);
	add(permissions, "mode", mode);
	snprintf(id, sizeof(id), "%u", (unsigned)volume.st.st_uid);
	add(permissions, "owner", id);
	snprintf(id, sizeof(id), "%u", (unsigned)volume.st.st_gid);
	add(permissions, "group", id);
	reply_xml(call, root->doc);
}

/* ---- changing volumes ---------------------------------------------------------------------------- */

struct volume_xml {
	char *name;
	uint64_t capacity, allocation;
};

/* False: the call was failed. */
static bool parse_volume(struct lv_call *call, const char *text, struct volume_xml *ret)
{
	char error[500];
	xmlDoc *doc = lv_xml_read(text, error, sizeof(error));
	xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL, *name = root ? lv_xml_child(root, "name") : NULL,
		*capacity = root ? lv_xml_child(root, "capacity") : NULL,
		*allocation = root ? lv_xml_child(root, "allocation") : NULL,
		*format = root ? lv_xml_child(lv_xml_child(root, "target"), "format") : NULL;
	bool ok = false;

	*ret = (struct volume_xml){0};
	if (!doc)
		lv_fail(call, VIR_ERR_XML_DETAIL, "%s", error);
	else if (!lv_xml_is(root, "volume"))
		lv_fail(call, VIR_ERR_XML_ERROR, "unknown root element '%.60s' for storage vol", (const char *)root->name);
	else if (!name || !capacity)
		lv_fail(call, VIR_ERR_XML_ERROR, "%s is missing", name ? "/volume/capacity" : "/volume/name");
	else if (format && !lv_xml_attribute_is(format, "type", "raw"))
		lv_fail(call, VIR_ERR_CONFIG_UNSUPPORTED, "/volume/target/format: only raw is possible in this version");
	else if (lv_xml_child(root, "backingStore") && lv_xml_child(lv_xml_child(root, "backingStore"), "path"))
		lv_fail(call, VIR_ERR_CONFIG_UNSUPPORTED, "/volume/backingStore: not possible in this version");
	else if (!lv_xml_bytes(capacity, 1, &ret->capacity) || (allocation && !lv_xml_bytes(allocation, 1, &ret->allocation)))
		lv_fail(call, VIR_ERR_XML_ERROR, "a size that is none");
	else
		ok = (ret->name = lv_xml_text(name)) != NULL;
	xmlFreeDoc(doc);
	return ok;
}

void lv_storage_vol_create_xml(struct lv_call *call, struct vm *vm)
{
	struct pool *pool = lv_flags(call, call->args[2].u, VIR_STORAGE_VOL_CREATE_VALIDATE) ? find_active_pool(call) : NULL;
	struct volume volume;
	char path[PATH_MAX];
	struct volume_xml x;
	int fd, rc = 0;

	if (!pool || !parse_volume(call, call->args[1].text, &x))
		return;
	if (!x.name[0] || x.name[0] == '.' || strchr(x.name, '/') || strlen(x.name) >= sizeof(volume.name) ||
	    x.capacity > INT64_MAX || snprintf(path, sizeof(path), "%s/%s", pool->path, x.name) >= (int)sizeof(path)) {
		lv_fail(call, VIR_ERR_XML_ERROR, "\"%.100s\" cannot be a volume's name, or its size is too large", x.name);
		free(x.name);
		return;
	}
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == EEXIST) {
		lv_fail(call, VIR_ERR_STORAGE_VOL_EXIST, "storage volume '%.200s' exists already", x.name);
		free(x.name);
		return;
	}
	rc = fd < 0 || ftruncate(fd, (off_t)x.capacity) < 0 ? -errno : 0;
	/* Set aside where the file system can do so at once; elsewhere the image stays sparse. */
	if (!rc && x.allocation && fallocate(fd, 0, 0, (off_t)(x.allocation < x.capacity ? x.allocation : x.capacity)) < 0 &&
	    errno != EOPNOTSUPP)
		rc = -errno;
	if (fd >= 0)
		close(fd);
	if (rc && fd >= 0)
		unlink(path);
	if (rc)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot create %.300s: %s", path, strerror(-rc));
	else if (look_at(pool, x.name, &volume))
		reply_volume(call, &volume);
	else
		lv_fail(call, VIR_ERR_NO_STORAGE_VOL, "%.200s went right after it was made", x.name);
	free(x.name);
}

/* The name of a VM that runs with this image, NULL when none does. */
static const char *user_of(struct lv_call *call, const char *path)
{
	struct daemon_vm_info info;
	struct vm *vm = NULL;

	while ((vm = daemon_next(call->daemon, vm))) {
		daemon_vm_inspect(vm, &info);
		for (unsigned i = 0; info.running_def && i < info.running_def->disk_count; i++)
			if (!strcmp(info.running_def->disks[i].path, path))
				return info.name;
	}
	return NULL;
}

static bool find_free_volume(struct lv_call *call, struct volume *ret)
{
	const char *user;

	if (!find_volume(call, ret))
		return false;
	user = user_of(call, ret->path);
	if (user)
		lv_fail(call, VIR_ERR_RESOURCE_BUSY, "%.300s is a disk of the running domain '%s'", ret->path, user);
	return !user;
}

void lv_storage_vol_delete(struct lv_call *call, struct vm *vm)
{
	struct volume volume;

	if (!lv_flags(call, call->args[1].u, VIR_STORAGE_VOL_DELETE_WITH_SNAPSHOTS) || !find_free_volume(call, &volume))
		return;
	if (unlink(volume.path) < 0)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot unlink file '%.300s': %s", volume.path, strerror(errno));
	else
		lv_reply(call);
}

void lv_storage_vol_resize(struct lv_call *call, struct vm *vm)
{
	uint64_t wanted = call->args[1].u, flags = call->args[2].u;
	struct volume volume;

	if (!lv_flags(call, flags, VIR_STORAGE_VOL_RESIZE_ALLOCATE | VIR_STORAGE_VOL_RESIZE_DELTA | VIR_STORAGE_VOL_RESIZE_SHRINK) ||
	    !find_free_volume(call, &volume))
		return;
	if (strcmp(format_of(&volume), "raw")) {
		lv_fail(call, VIR_ERR_OPERATION_UNSUPPORTED, "only raw images can be resized in this version");
		return;
	}
	if (flags & VIR_STORAGE_VOL_RESIZE_DELTA)
		wanted = flags & VIR_STORAGE_VOL_RESIZE_SHRINK ? (uint64_t)volume.st.st_size - wanted
							       : (uint64_t)volume.st.st_size + wanted;
	if (wanted > INT64_MAX)
		lv_fail(call, VIR_ERR_INVALID_ARG, "the size is out of range");
	else if (wanted < (uint64_t)volume.st.st_size && !(flags & VIR_STORAGE_VOL_RESIZE_SHRINK))
		lv_fail(call, VIR_ERR_INVALID_ARG, "can't shrink capacity below current capacity unless shrink flag explicitly specified");
	else if (truncate(volume.path, (off_t)wanted) < 0)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot resize '%.300s': %s", volume.path, strerror(errno));
	else
		lv_reply(call);
}

void lv_storage_vol_upload(struct lv_call *call, struct vm *vm)
{
	struct volume volume;
	int fd;

	if (!lv_flags(call, call->args[3].u, 0) || !find_free_volume(call, &volume))
		return;
	fd = open(volume.path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot open '%.300s': %s", volume.path, strerror(errno));
	else
		lv_stream_file(call, fd, true, call->args[1].u, call->args[2].u);
}

void lv_storage_vol_download(struct lv_call *call, struct vm *vm)
{
	struct volume volume;
	int fd;

	if (!lv_flags(call, call->args[3].u, 0) || !find_volume(call, &volume))
		return;
	fd = open(volume.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		lv_fail(call, VIR_ERR_SYSTEM_ERROR, "cannot open '%.300s': %s", volume.path, strerror(errno));
	else
		lv_stream_file(call, fd, false, call->args[1].u, call->args[2].u);
}
