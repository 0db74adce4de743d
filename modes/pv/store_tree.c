/* The store's tree. */
#include "modes/pv/store_tree.h"

#include <errno.h>
#include <string.h>

static struct store_node *node_new(const char *name, size_t n)
{
	struct store_node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node->name = strndup(name, n);
	if (!node->name) {
		free(node);
		return NULL;
	}
	return node;
}

static void node_free(struct store_tree *tree, struct store_node *node)
{
	while (node->child) {
		struct store_node *next = node->child->next;

		node_free(tree, node->child);
		node->child = next;
	}
	tree->nodes--;
	tree->bytes -= node->bytes + strlen(node->name);
	free(node->name);
	free(node->value);
	free(node);
}

int store_tree_init(struct store_tree *ret_tree)
{
	struct store_tree tree = {.root = node_new("", 0), .nodes = 1};

	if (!tree.root)
		return -ENOMEM;
	tree.root->permission[0] = (struct store_permission){'r', 0};
	tree.root->permissions = 1;
	*ret_tree = tree;
	return 0;
}

void store_tree_finish(struct store_tree *tree)
{
	if (tree->root)
		node_free(tree, tree->root);
	tree->root = NULL;
}

static struct store_node *node_copy(const struct store_node *from)
{
	struct store_node *node = node_new(from->name, strlen(from->name)), **end;

	if (!node)
		return NULL;
	memcpy(node->permission, from->permission, sizeof(node->permission));
	node->permissions = from->permissions;
	node->bytes = from->bytes;
	node->value = from->bytes ? malloc(from->bytes) : NULL;
	if (from->bytes && !node->value)
		goto fail;
	if (from->bytes)
		memcpy(node->value, from->value, from->bytes);
	end = &node->child;
	for (const struct store_node *c = from->child; c; c = c->next) {
		*end = node_copy(c);
		if (!*end)
			goto fail;
		end = &(*end)->next;
	}
	return node;
fail:;
	struct store_tree partial = {.nodes = STORE_NODES_MAX, .bytes = STORE_BYTES_MAX};

	node_free(&partial, node);
	return NULL;
}

int store_tree_copy(struct store_tree *ret_copy, const struct store_tree *from)
{
	struct store_node *root = node_copy(from->root);

	if (!root)
		return -ENOMEM;
	*ret_copy = (struct store_tree){.root = root, .nodes = from->nodes, .bytes = from->bytes};
	return 0;
}

/* ---- paths ----------------------------------------------------------------------------- */

bool store_path_ok(const char *path)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@:";
	size_t n = strlen(path);

	if (path[0] != '/' || n > STORE_PATH_MAX || strspn(path, allowed) != n || strstr(path, "//"))
		return false;
	return n == 1 || path[n - 1] != '/';
}

static struct store_node *child_of(const struct store_node *node, const char *name, size_t n)
{
	for (struct store_node *c = node->child; c; c = c->next)
		if (!strncmp(c->name, name, n) && !c->name[n])
			return c;
	return NULL;
}

/* The deepest node on the way; *ret_rest is what of the path is not there. */
static struct store_node *descend(const struct store_tree *tree, const char *path, const char **ret_rest)
{
	struct store_node *node = tree->root, *next;

	path++;
	while (*path) {
		size_t n = strcspn(path, "/");

		next = child_of(node, path, n);
		if (!next)
			break;
		node = next;
		path += n + (path[n] == '/');
	}
	*ret_rest = path;
	return node;
}

struct store_node *store_find(const struct store_tree *tree, const char *path)
{
	const char *rest;
	struct store_node *node = descend(tree, path, &rest);

	return *rest ? NULL : node;
}

struct store_node *store_nearest(const struct store_tree *tree, const char *path)
{
	const char *rest;

	return descend(tree, path, &rest);
}

struct store_node *store_make(struct store_tree *tree, const char *path, int *ret_rc)
{
	const char *rest;
	struct store_node *node = descend(tree, path, &rest), **end;

	while (*rest) {
		size_t n = strcspn(rest, "/");
		struct store_node *c = tree->nodes < STORE_NODES_MAX && tree->bytes + n < STORE_BYTES_MAX ? node_new(rest, n) : NULL;

		if (!c) {
			*ret_rc = tree->nodes < STORE_NODES_MAX ? -ENOMEM : -ENOSPC;
			return NULL;
		}
		memcpy(c->permission, node->permission, sizeof(c->permission));
		c->permissions = node->permissions;
		for (end = &node->child; *end; end = &(*end)->next)
			;
		*end = c;
		tree->nodes++;
		tree->bytes += n;
		node = c;
		rest += n + (rest[n] == '/');
	}
	return node;
}

int store_set_value(struct store_tree *tree, struct store_node *node, const void *value, size_t n)
{
	char *copy = n ? malloc(n) : NULL;

	if (n && !copy)
		return -ENOMEM;
	if (tree->bytes - node->bytes + n > STORE_BYTES_MAX) {
		free(copy);
		return -ENOSPC;
	}
	if (n)
		memcpy(copy, value, n);
	free(node->value);
	tree->bytes += n - node->bytes;
	node->value = copy;
	node->bytes = n;
	return 0;
}

void store_remove(struct store_tree *tree, const char *path)
{
	char parent_path[STORE_PATH_MAX + 1];
	const char *name = strrchr(path, '/') + 1;
	struct store_node *parent, **at, *node;

	snprintf(parent_path, sizeof(parent_path), "%.*s", name - path > 1 ? (int)(name - path - 1) : 1, path);
	parent = store_find(tree, parent_path);
	for (at = parent ? &parent->child : NULL; at && *at; at = &(*at)->next) {
		if (strcmp((*at)->name, name))
			continue;
		node = *at;
		*at = node->next;
		node_free(tree, node);
		return;
	}
}

/* ---- permissions ------------------------------------------------------------------------ */

bool store_may(const struct store_node *node, uint32_t domain, bool write)
{
	char letter = node->permission[0].letter;

	if (domain == 0 || node->permission[0].domain == domain)
		return true;
	for (unsigned i = 1; i < node->permissions; i++)
		if (node->permission[i].domain == domain)
			letter = node->permission[i].letter;
	return letter == 'b' || letter == (write ? 'w' : 'r');
}
