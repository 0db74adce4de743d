/* The guest's network interfaces as its tools report them: GuestNicProto, version 3 (open-vm-tools' nicinfo.x), in XDR. */
#include <string.h>

#include "machine/vmware/vmware.h"

#define VERSION_3 3u

enum { ADDRESS_IPV4 = 1, ADDRESS_IPV6 = 2 };

/* Every read checks what is left; after one that failed all others fail. */
struct xdr {
	const uint8_t *at;
	size_t left;
	bool failed;
};

static uint32_t u32(struct xdr *x)
{
	if (x->failed || x->left < 4) {
		x->failed = true;
		return 0;
	}
	const uint8_t *b = x->at;
	x->at += 4;
	x->left -= 4;
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Bytes with their length before them, padded to 4. NULL: failed, or none. */
static const uint8_t *opaque(struct xdr *x, uint32_t *ret_bytes)
{
	uint32_t n = u32(x), padded = (n + 3) & ~3u;
	const uint8_t *b = x->at;

	*ret_bytes = 0;
	if (x->failed || padded < n || padded > x->left) {
		x->failed = true;
		return NULL;
	}
	x->at += padded;
	x->left -= padded;
	*ret_bytes = n;
	return b;
}

static void skip_opaque(struct xdr *x)
{
	uint32_t n;

	opaque(x, &n);
}

static void skip_typed_address(struct xdr *x)
{
	u32(x);
	skip_opaque(x);
}

static void skip_optional(struct xdr *x, void (*skip)(struct xdr *x))
{
	if (u32(x))
		skip(x);
}

static void skip_list(struct xdr *x, void (*skip)(struct xdr *x))
{
	uint32_t n = u32(x);

	while (n-- && !x->failed)
		skip(x);
}

static void skip_dns(struct xdr *x)
{
	skip_optional(x, skip_opaque); /* host name */
	skip_optional(x, skip_opaque); /* domain */
	skip_list(x, skip_typed_address);
	skip_list(x, skip_opaque); /* search suffixes */
}

static void skip_wins(struct xdr *x)
{
	skip_typed_address(x);
	skip_typed_address(x);
}

static void skip_dhcp(struct xdr *x)
{
	u32(x);
	skip_opaque(x);
}

static void skip_u32(struct xdr *x) { u32(x); }

static void address(struct xdr *x, struct vmware_nic *nic)
{
	uint32_t type = u32(x), n;
	const uint8_t *bytes = opaque(x, &n);
	uint32_t prefix = u32(x);

	skip_optional(x, skip_u32); /* origin */
	skip_optional(x, skip_u32); /* status */
	bool v4 = type == ADDRESS_IPV4 && n == 4, v6 = type == ADDRESS_IPV6 && n == 16;
	if (x->failed || (!v4 && !v6) || prefix > (v4 ? 32 : 128) || nic->address_count == VMWARE_NIC_ADDRESSES)
		return;
	struct vmware_address *a = &nic->addresses[nic->address_count++];
	a->v6 = v6;
	a->prefix = (uint8_t)prefix;
	memcpy(a->bytes, bytes, n);
}

static void mac(struct xdr *x, struct vmware_nic *nic)
{
	uint32_t n;
	const uint8_t *text = opaque(x, &n);

	for (uint32_t i = 0; text && i < n && i + 1 < sizeof(nic->mac) && strchr("0123456789abcdefABCDEF:", text[i]) && text[i]; i++)
		nic->mac[i] = (char)text[i];
}

unsigned vmware_nics_decode(const void *data, size_t bytes, struct vmware_nic *ret_nics, unsigned max)
{
	struct xdr x = {data, bytes, false};
	unsigned count = 0;

	if (u32(&x) != VERSION_3 || !u32(&x))
		return 0;
	for (uint32_t n = u32(&x); n && !x.failed && count < max; n--) {
		struct vmware_nic nic = {0};

		mac(&x, &nic);
		for (uint32_t a = u32(&x); a && !x.failed; a--)
			address(&x, &nic);
		skip_optional(&x, skip_dns);
		skip_optional(&x, skip_wins);
		skip_optional(&x, skip_dhcp);
		skip_optional(&x, skip_dhcp);
		if (!x.failed)
			ret_nics[count++] = nic;
	}
	return count;
}
