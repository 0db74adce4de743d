/* GDB's remote protocol: framing, escapes and hexadecimal numbers. Pure functions over bytes a stranger sent. */
#ifndef VM_GDB_PACKET_H
#define VM_GDB_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GDB_PACKET_MAX 0x4000u /* payload, in either direction */
#define GDB_FRAME_MAX (2 * GDB_PACKET_MAX + 4)

enum gdb_event {
	GDB_NOTHING,   /* more bytes are needed, or noise between packets */
	GDB_PACKET,    /* parser.text holds one, NUL-terminated; valid until the next byte */
	GDB_BAD,       /* a packet with a wrong checksum, or too long: to be asked for again */
	GDB_INTERRUPT, /* ^C */
	GDB_ACK,
	GDB_NAK,
};

struct gdb_parser {
	enum { GDB_IDLE, GDB_BODY, GDB_SUM1, GDB_SUM2 } state;
	char text[GDB_PACKET_MAX + 1]; /* escapes resolved */
	size_t bytes;
	uint8_t sum, given;
	bool escaped, too_long;
};

/* All zeros is a fresh parser. */
enum gdb_event gdb_parse(struct gdb_parser *p, uint8_t byte);

/* `$payload#sum` into out[GDB_FRAME_MAX], special bytes escaped. bytes <= GDB_PACKET_MAX. How long it is. */
size_t gdb_frame(char *out, const char *payload, size_t bytes);

/* Two digits a byte; out has 2n + 1. */
void gdb_hex(char *out, const void *bytes, size_t n);
/* How many bytes came out of the digits at *text (at most max), which moves behind them. */
size_t gdb_unhex(const char **text, void *out, size_t max);
/* A number of one to 16 digits; *text moves behind it. False: there is none, or it is longer. */
bool gdb_number(const char **text, uint64_t *ret);
/* *text moves behind the character if it is there. */
bool gdb_skip(const char **text, char c);

#endif
