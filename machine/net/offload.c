/* Checksums and TCP segmentation in software, for a side that cannot take a frame as the other one gives it. */
#include <arpa/inet.h>
#include <string.h>

#include "machine/net/net.h"

#define ETHER_BYTES 14u
#define VLAN_BYTES 4u
#define ETHERTYPE_V4 0x0800u
#define ETHERTYPE_V6 0x86ddu
#define ETHERTYPE_VLAN 0x8100u
#define IPV4_BYTES 20u
#define IPV6_BYTES 40u
#define TCP_BYTES 20u
#define PROTOCOL_TCP 6u

#define TCP_FLAGS 13
#define TCP_CHECKSUM 16
#define TCP_FIN_PSH 0x09u
#define TCP_CWR 0x80u

#define GSO_KIND(header) ((header)->gso_type & ~VIRTIO_NET_HDR_GSO_ECN)

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

static void put16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, (uint16_t)(value >> 16));
	put16(at + 2, (uint16_t)value);
}

/* ---- checksums (RFC 1071) ---------------------------------------------------------- */

/* The sum of 16-bit words in memory order, not folded to 16 bits yet; an odd last byte is padded with 0. */
static uint64_t sum_words(uint64_t sum, const uint8_t *at, size_t n)
{
	while (n >= 8) {
		uint32_t low, high;

		memcpy(&low, at, 4);
		memcpy(&high, at + 4, 4);
		sum += (uint64_t)low + high;
		at += 8;
		n -= 8;
	}
	while (n >= 2) {
		uint16_t word;

		memcpy(&word, at, 2);
		sum += word;
		at += 2;
		n -= 2;
	}
	if (n > 0) {
		const uint8_t last[2] = {at[0], 0};
		uint16_t word;

		memcpy(&word, last, 2);
		sum += word;
	}
	return sum;
}

/* In memory order, as it is stored. */
static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

void net_checksum(struct virtio_net_hdr *header, uint8_t *frame, size_t n)
{
	uint16_t sum;

	if (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return;
	/* The field holds the pseudo header's sum already. */
	sum = (uint16_t)~fold(sum_words(0, frame + header->csum_start, n - header->csum_start));
	/* 0 means "none" to UDP; TCP does not mind. */
	if (sum == 0)
		sum = 0xffff;
	memcpy(frame + header->csum_start + header->csum_offset, &sum, sizeof(sum));
	header->flags &= (uint8_t)~VIRTIO_NET_HDR_F_NEEDS_CSUM;
	header->csum_start = 0;
	header->csum_offset = 0;
}

/* ---- large segments ------------------------------------------------------------------- */

/* Where the headers of a TCP segment are. */
struct tcp_frame {
	size_t ip, tcp, payload; /* offsets in the frame */
	bool v6;
};

static bool find_tcp(const struct virtio_net_hdr *header, const uint8_t *frame, size_t n, struct tcp_frame *ret)
{
	size_t ip = ETHER_BYTES, tcp, tcp_bytes;
	uint16_t type;

	if (n < ETHER_BYTES + VLAN_BYTES)
		return false;
	type = get16(frame + 12);
	if (type == ETHERTYPE_VLAN) {
		type = get16(frame + 16);
		ip += VLAN_BYTES;
	}
	if (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || header->csum_offset != TCP_CHECKSUM)
		return false;
	tcp = header->csum_start;
	if (n < tcp + TCP_BYTES)
		return false;
	if (type == ETHERTYPE_V4 && GSO_KIND(header) == VIRTIO_NET_HDR_GSO_TCPV4) {
		if (tcp < ip + IPV4_BYTES || tcp != ip + (frame[ip] & 15u) * 4u || frame[ip + 9] != PROTOCOL_TCP)
			return false;
	} else if (type == ETHERTYPE_V6 && GSO_KIND(header) == VIRTIO_NET_HDR_GSO_TCPV6) {
		/* Extension headers stay as they are, whatever they say. */
		if (tcp < ip + IPV6_BYTES)
			return false;
	} else {
		return false;
	}
	tcp_bytes = (size_t)(frame[tcp + 12] >> 4) * 4;
	if (tcp_bytes < TCP_BYTES || tcp + tcp_bytes >= n)
		return false;
	*ret = (struct tcp_frame){.ip = ip, .tcp = tcp, .payload = tcp + tcp_bytes, .v6 = type == ETHERTYPE_V6};
	return true;
}

bool net_header_valid(const struct virtio_net_hdr *header, const uint8_t *frame, size_t n)
{
	struct tcp_frame at;

	if (n < ETHER_BYTES || n > NET_FRAME_MAX)
		return false;
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM &&
	    (header->csum_start < ETHER_BYTES || (size_t)header->csum_start + header->csum_offset + 2 > n))
		return false;
	if (header->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	return header->gso_size != 0 && find_tcp(header, frame, n, &at);
}

static uint64_t pseudo_header(const uint8_t *frame, const struct tcp_frame *at, size_t tcp_bytes)
{
	const uint8_t *ip = frame + at->ip;
	const uint8_t rest[4] = {0, PROTOCOL_TCP, (uint8_t)(tcp_bytes >> 8), (uint8_t)tcp_bytes};
	uint64_t sum = at->v6 ? sum_words(0, ip + 8, 32) : sum_words(0, ip + 12, 8);

	return sum_words(sum, rest, sizeof(rest));
}

static void finish_ip(uint8_t *frame, const struct tcp_frame *at, size_t n, unsigned number)
{
	uint8_t *ip = frame + at->ip;
	uint16_t sum;

	if (at->v6) {
		put16(ip + 4, (uint16_t)(n - at->ip - IPV6_BYTES));
		return;
	}
	put16(ip + 2, (uint16_t)(n - at->ip));
	put16(ip + 4, (uint16_t)(get16(ip + 4) + number));
	put16(ip + 10, 0);
	sum = (uint16_t)~fold(sum_words(0, ip, at->tcp - at->ip));
	memcpy(ip + 10, &sum, sizeof(sum));
}

bool net_segment(const struct virtio_net_hdr *header, const uint8_t *frame, size_t n, uint8_t *scratch,
		 void (*fn)(void *opaque, const uint8_t *frame, size_t n), void *opaque)
{
	struct tcp_frame at;
	size_t step = header->gso_size;
	uint32_t sequence;

	if (n > NET_FRAME_MAX || step == 0 || !find_tcp(header, frame, n, &at))
		return false;
	sequence = get32(frame + at.tcp + 4);
	memcpy(scratch, frame, at.payload);
	for (size_t done = 0, number = 0; done < n - at.payload; done += step, number++) {
		size_t take = n - at.payload - done < step ? n - at.payload - done : step, bytes = at.payload + take;
		uint8_t *tcp = scratch + at.tcp;
		bool last = done + take == n - at.payload;
		uint16_t sum;

		memcpy(scratch + at.ip, frame + at.ip, at.payload - at.ip);
		memcpy(scratch + at.payload, frame + at.payload + done, take);
		put32(tcp + 4, sequence + (uint32_t)done);
		if (!last)
			tcp[TCP_FLAGS] &= (uint8_t)~TCP_FIN_PSH;
		if (number > 0)
			tcp[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
		finish_ip(scratch, &at, bytes, (unsigned)number);
		put16(tcp + TCP_CHECKSUM, 0);
		sum = (uint16_t)~fold(sum_words(pseudo_header(scratch, &at, bytes - at.tcp), tcp, bytes - at.tcp));
		memcpy(tcp + TCP_CHECKSUM, &sum, sizeof(sum));
		fn(opaque, scratch, bytes);
	}
	return true;
}
