/* GDB's remote protocol: framing, escapes and hexadecimal numbers. */
#include "vm/gdb_packet.h"

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static enum gdb_event idle(struct gdb_parser *p, uint8_t byte)
{
	switch (byte) {
	case '$':
		p->state = GDB_BODY;
		p->bytes = 0;
		p->sum = 0;
		p->escaped = p->too_long = false;
		return GDB_NOTHING;
	case 3: return GDB_INTERRUPT;
	case '+': return GDB_ACK;
	case '-': return GDB_NAK;
	default: return GDB_NOTHING;
	}
}

static void body(struct gdb_parser *p, uint8_t byte)
{
	p->sum = (uint8_t)(p->sum + byte);
	if (byte == '}' && !p->escaped) {
		p->escaped = true;
		return;
	}
	if (p->bytes == GDB_PACKET_MAX) {
		p->too_long = true;
		return;
	}
	p->text[p->bytes++] = (char)(p->escaped ? byte ^ 0x20 : byte);
	p->escaped = false;
}

enum gdb_event gdb_parse(struct gdb_parser *p, uint8_t byte)
{
	int d;

	switch (p->state) {
	case GDB_IDLE: return idle(p, byte);
	case GDB_BODY:
		if (byte == '$') /* never within one: the packet before was cut off */
			return idle(p, byte);
		if (byte == '#')
			p->state = GDB_SUM1;
		else
			body(p, byte);
		return GDB_NOTHING;
	case GDB_SUM1:
	case GDB_SUM2:
		d = digit((char)byte);
		if (d < 0) {
			p->state = GDB_IDLE;
			return GDB_BAD;
		}
		if (p->state == GDB_SUM1) {
			p->given = (uint8_t)(d << 4);
			p->state = GDB_SUM2;
			return GDB_NOTHING;
		}
		p->state = GDB_IDLE;
		p->text[p->bytes] = 0;
		return (p->given | d) == p->sum && !p->too_long && !p->escaped ? GDB_PACKET : GDB_BAD;
	}
	return GDB_NOTHING;
}

static const char digits[] = "0123456789abcdef";

size_t gdb_frame(char *out, const char *payload, size_t bytes)
{
	uint8_t sum = 0;
	size_t n = 0;

	out[n++] = '$';
	for (size_t i = 0; i < bytes; i++) {
		char c = payload[i];
		if (c == '$' || c == '#' || c == '}' || c == '*') {
			out[n++] = '}';
			c ^= 0x20;
		}
		out[n++] = c;
	}
	for (size_t i = 1; i < n; i++)
		sum = (uint8_t)(sum + (uint8_t)out[i]);
	out[n++] = '#';
	out[n++] = digits[sum >> 4];
	out[n++] = digits[sum & 15];
	return n;
}

void gdb_hex(char *out, const void *bytes, size_t n)
{
	const uint8_t *b = bytes;

	for (size_t i = 0; i < n; i++) {
		*out++ = digits[b[i] >> 4];
		*out++ = digits[b[i] & 15];
	}
	*out = 0;
}

size_t gdb_unhex(const char **text, void *out, size_t max)
{
	uint8_t *to = out;
	size_t n = 0;
	int hi, lo;

	while (n < max && (hi = digit((*text)[0])) >= 0 && (lo = digit((*text)[1])) >= 0) {
		to[n++] = (uint8_t)(hi << 4 | lo);
		*text += 2;
	}
	return n;
}

bool gdb_number(const char **text, uint64_t *ret)
{
	uint64_t value = 0;
	unsigned n = 0;

	for (; digit(**text) >= 0; (*text)++, n++)
		value = value << 4 | (unsigned)digit(**text);
	if (!n || n > 16)
		return false;
	*ret = value;
	return true;
}

bool gdb_skip(const char **text, char c)
{
	if (**text != c)
		return false;
	(*text)++;
	return true;
}
