/* libvirt's RPC packets: a length, six words of header, a payload. */
#ifndef API_LIBVIRT_PACKET_H
#define API_LIBVIRT_PACKET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LV_PROGRAM_REMOTE 0x20008086u
#define LV_PROGRAM_QEMU 0x20008087u
#define LV_PROGRAM_KEEPALIVE 0x6b656570u
#define LV_PROGRAM_VERSION 1u

enum lv_packet_type { LV_CALL, LV_REPLY, LV_MESSAGE, LV_STREAM, LV_CALL_WITH_FDS, LV_REPLY_WITH_FDS, LV_STREAM_HOLE };
enum lv_packet_status { LV_OK, LV_ERROR, LV_CONTINUE };

#define LV_HEADER_BYTES 28u
/* The protocol allows 32 MiB; nothing that is answered here needs so much. */
#define LV_PACKET_MAX (16u << 20)
/* Peers of any age take stream data in pieces of at most 262120 bytes. */
#define LV_STREAM_CHUNK 65536u

struct lv_packet {
	uint32_t program, version;
	int32_t procedure, type;
	uint32_t serial;
	int32_t status;
	const unsigned char *payload; /* within what was parsed */
	size_t payload_bytes;
};

/* Of the packet that starts with these 4 bytes: its whole length, or -EBADMSG when no packet is so short or so long. */
ssize_t lv_packet_length(const void *first_word);
/* The packet that starts at data: its length, 0 when there is not all of it yet, or -EBADMSG. */
ssize_t lv_packet_parse(const void *data, size_t bytes, struct lv_packet *ret_packet);
/* Writes a header for a payload of that size. */
void lv_packet_header(const struct lv_packet *packet, unsigned char header[LV_HEADER_BYTES]);

#endif
