/* Base64 (RFC 4648, section 4), for bytes in JSON. */
#include "proto/base64.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const unsigned char *data, size_t n)
{
	char *text = malloc((n + 2) / 3 * 4 + 1), *to = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)data[i] << 16 | (i + 1 < n ? (uint32_t)data[i + 1] << 8 : 0) |
			     (i + 2 < n ? data[i + 2] : 0);

		*to++ = alphabet[v >> 18];
		*to++ = alphabet[v >> 12 & 63];
		*to++ = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
		*to++ = i + 2 < n ? alphabet[v & 63] : '=';
	}
	*to = '\0';
	return text;
}

ssize_t base64_decode(const char *text, size_t n, unsigned char *data)
{
	size_t pad = 0, used = 0;

	if (n % 4)
		return -EINVAL;
	while (pad < 2 && pad < n && text[n - 1 - pad] == '=')
		pad++;
	for (size_t i = 0; i < n; i += 4) {
		uint32_t v = 0;

		for (size_t j = 0; j < 4; j++) {
			const char *found = text[i + j] ? strchr(alphabet, text[i + j]) : NULL;

			if (i + j >= n - pad)
				found = alphabet;
			if (!found)
				return -EINVAL;
			v = v << 6 | (uint32_t)(found - alphabet);
		}
		data[used++] = (unsigned char)(v >> 16);
		data[used++] = (unsigned char)(v >> 8);
		data[used++] = (unsigned char)v;
	}
	return (ssize_t)(used - pad);
}
