/* <vsock> and <filesystem> of a domain, both ways. */
#ifndef API_LIBVIRT_SHARE_H
#define API_LIBVIRT_SHARE_H

#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"

/* Adds what a <vsock> or <filesystem> says to the definition. False: *ret_code (VIR_ERR_*) and error tell. */
bool lv_share_parse(const xmlNode *e, json_object *definition, int *ret_code, char *error, size_t error_size);
/* Makes <devices> say what the definition does. live: with aliases. */
void lv_shares_write(xmlNode *devices, const struct vmdef *def, bool live);

#endif
