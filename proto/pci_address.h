/* How people name a PCI device of the host. */
#ifndef PROTO_PCI_ADDRESS_H
#define PROTO_PCI_ADDRESS_H

#include <stdbool.h>
#include <stdio.h>

#define PCI_ADDRESS_BYTES 13 /* 0000:03:00.0 */

/* As sysfs has it (0000:03:00.0), or without the domain when that is 0; as sysfs has it into ret. False: it is neither. */
static inline bool pci_address_parse(const char *text, char ret[PCI_ADDRESS_BYTES])
{
	unsigned domain = 0, bus, slot, function;
	int n = 0;

	if (sscanf(text, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &n) != 4 || text[n]) {
		domain = 0;
		n = 0;
		if (sscanf(text, "%2x:%2x.%1x%n", &bus, &slot, &function, &n) != 3 || text[n])
			return false;
	}
	if (slot > 31 || function > 7)
		return false;
	snprintf(ret, PCI_ADDRESS_BYTES, "%04x:%02x:%02x.%x", domain & 0xffff, bus & 0xff, slot, function & 7);
	return true;
}

#endif
