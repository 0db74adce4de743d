/* Base64 (RFC 4648, section 4), for bytes in JSON. */
#ifndef PROTO_BASE64_H
#define PROTO_BASE64_H

#include <stddef.h>
#include <sys/types.h>

/* A string for the caller to free; NULL: out of memory. */
char *base64_encode(const unsigned char *data, size_t n);
/* How many bytes, or -EINVAL when it is no base64. `data` has room for 3 bytes for every 4 characters. */
ssize_t base64_decode(const char *text, size_t n, unsigned char *data);

#endif
