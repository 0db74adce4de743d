/* libvirt's RPC packets: a length, six words of header, a payload. */
#include "api/libvirt/packet.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

static uint32_t word(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, 4);
	return be32toh(value);
}

ssize_t lv_packet_length(const void *first_word)
{
	uint32_t length = word(first_word);

	return length < LV_HEADER_BYTES || length > LV_PACKET_MAX ? -EBADMSG : (ssize_t)length;
}

ssize_t lv_packet_parse(const void *data, size_t bytes, struct lv_packet *ret_packet)
{
	const unsigned char *at = data;
	ssize_t length;

	if (bytes < 4)
		return 0;
	length = lv_packet_length(at);
	if (length < 0)
		return length;
	if (bytes < (size_t)length)
		return 0;
	*ret_packet = (struct lv_packet){
		.program = word(at + 4),
		.version = word(at + 8),
		.procedure = (int32_t)word(at + 12),
		.type = (int32_t)word(at + 16),
		.serial = word(at + 20),
		.status = (int32_t)word(at + 24),
		.payload = at + LV_HEADER_BYTES,
		.payload_bytes = (size_t)length - LV_HEADER_BYTES,
	};
	return length;
}

void lv_packet_header(const struct lv_packet *packet, unsigned char header[LV_HEADER_BYTES])
{
	const uint32_t words[] = {(uint32_t)packet->payload_bytes + LV_HEADER_BYTES,
				  packet->program,
				  packet->version,
				  (uint32_t)packet->procedure,
				  (uint32_t)packet->type,
				  packet->serial,
				  (uint32_t)packet->status};

	for (size_t i = 0; i < 7; i++) {
		uint32_t value = htobe32(words[i]);

		memcpy(header + i * 4, &value, 4);
	}
}
