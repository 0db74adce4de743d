/* XDR (RFC 4506) as libvirt's protocol uses it: layouts are short strings, one reader checks and decodes by them. */
#ifndef API_LIBVIRT_XDR_H
#define API_LIBVIRT_XDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A layout is a row of elements without separators:
 *     i u      32 bits signed, unsigned (also XDR's bool, char and short)
 *     I U d    64 bits signed, unsigned, IEEE double
 *     s        string: no NULs, UTF-8, at most 4 MiB
 *     G        16 raw bytes: a UUID
 *     o        bytes with their length
 *     T        typed parameter: name, type, value
 *     D N P V E H S   domain {s G i}, network {s G}, pool {s G}, volume {s s s}, interface {s s}, node device {s},
 *              secret {G i s}
 *     {...}    a structure
 * Each may be followed by ? (optional), <n> (array or bytes with at most n elements) or [n] (exactly n, no count).
 */

/* What an element was. Texts are NUL-terminated. */
struct xdr_value {
	bool present; /* false: an optional one that was left out */
	union {
		int64_t i; /* also of unsigned 32-bit ones; unsigned 64-bit ones by their bits */
		uint64_t u;
		double d;
	};
	const char *text;              /* s, G (16 bytes), o; NULL when absent */
	size_t bytes;                  /* of text */
	const struct xdr_value *items; /* a structure's members, an array's elements; T: {name, type, value} */
	unsigned count;
};

/* Types of typed parameters. */
enum xdr_param_type {
	XDR_PARAM_INT = 1,
	XDR_PARAM_UINT,
	XDR_PARAM_LLONG,
	XDR_PARAM_ULLONG,
	XDR_PARAM_DOUBLE,
	XDR_PARAM_BOOLEAN,
	XDR_PARAM_STRING,
};

#define XDR_STRING_MAX ((size_t)4 << 20)
#define XDR_ARGUMENTS_MAX 16

/* Memory of one decoded message: freed as a whole. Zero-initialise. */
struct xdr_arena {
	struct xdr_block *blocks;
};
void xdr_arena_free(struct xdr_arena *arena);
/* NULL: out of memory. */
void *xdr_arena_alloc(struct xdr_arena *arena, size_t bytes);

/*
 * Decodes `bytes` by the layout into `values` (XDR_ARGUMENTS_MAX of them). Bytes behind the last element are ignored,
 * as libvirt does. -EBADMSG with *ret_why (static text): short, too long an array, not UTF-8, a NUL. -ENOMEM.
 */
int xdr_decode(const char *layout, const void *data, size_t bytes, struct xdr_arena *arena, struct xdr_value *values,
	       const char **ret_why);
/* Whether `data` is one value of the layout and nothing behind it. */
bool xdr_matches(const char *layout, const void *data, size_t bytes);

/* ---- writing ---- */

/* A growing buffer. Zero-initialise; after a failed allocation it stays `failed` and takes nothing more. */
struct xdr_writer {
	unsigned char *data;
	size_t used, size;
	bool failed;
};
void xdr_writer_finish(struct xdr_writer *writer);
void xdr_put_u32(struct xdr_writer *writer, uint32_t value);
static inline void xdr_put_i32(struct xdr_writer *writer, int32_t value)
{
	xdr_put_u32(writer, (uint32_t)value);
}
void xdr_put_u64(struct xdr_writer *writer, uint64_t value);
void xdr_put_double(struct xdr_writer *writer, double value);
/* NULL is written as "". */
void xdr_put_string(struct xdr_writer *writer, const char *text);
/* NULL is written as absent. */
void xdr_put_optional(struct xdr_writer *writer, const char *text);
void xdr_put_opaque(struct xdr_writer *writer, const void *data, size_t bytes);
/* Without a length: exactly these bytes, padded. */
void xdr_put_fixed(struct xdr_writer *writer, const void *data, size_t bytes);
/* Overwrites a number written before, at offset `at` (a count that was not known yet). */
void xdr_patch_u32(struct xdr_writer *writer, size_t at, uint32_t value);

#endif
