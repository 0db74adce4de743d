/* The store's tree: nodes by path, their permissions, copies of it for transactions. No locks of its own. */
#ifndef PV_STORE_TREE_H
#define PV_STORE_TREE_H

#include "machine/types.h"

#define STORE_PATH_MAX 3072u /* XENSTORE_ABS_PATH_MAX */
#define STORE_PERMISSIONS_MAX 8u
#define STORE_NODES_MAX 8192u
#define STORE_BYTES_MAX (4u << 20) /* of values and names */

struct store_permission {
	char letter; /* n r w b; of the first: what everybody else may */
	uint32_t domain; /* of the first: the owner */
};

struct store_node {
	char *name;
	char *value;
	size_t bytes;
	struct store_permission permission[STORE_PERMISSIONS_MAX];
	unsigned permissions;
	struct store_node *child, *next; /* children in the order in which they came */
};

struct store_tree {
	struct store_node *root;
	unsigned nodes;
	size_t bytes;
};

/* A tree with a root that domain 0 owns. -ENOMEM. */
int store_tree_init(struct store_tree *ret_tree);
void store_tree_finish(struct store_tree *tree);
int store_tree_copy(struct store_tree *ret_copy, const struct store_tree *from);

/* An absolute path: what a node's may be. */
bool store_path_ok(const char *path);
struct store_node *store_find(const struct store_tree *tree, const char *path);
/* The node, made with its parents if need be, each with its parent's permissions. NULL: no memory, or too many (*ret_rc). */
struct store_node *store_make(struct store_tree *tree, const char *path, int *ret_rc);
int store_set_value(struct store_tree *tree, struct store_node *node, const void *value, size_t n);
/* With all below it. Never the root. */
void store_remove(struct store_tree *tree, const char *path);
/* The node itself, or the nearest one above it that there is. */
struct store_node *store_nearest(const struct store_tree *tree, const char *path);
bool store_may(const struct store_node *node, uint32_t domain, bool write);

#endif
