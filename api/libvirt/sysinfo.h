/* <sysinfo> of a domain and <smbios> in its <os>, both ways. */
#ifndef API_LIBVIRT_SYSINFO_H
#define API_LIBVIRT_SYSINFO_H

#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"

/* Adds what <sysinfo> says to the definition, where <os><smbios mode="sysinfo"/> wants it. False: *ret_code (VIR_ERR_*) and error tell. */
bool lv_sysinfo_parse(const xmlNode *domain, json_object *definition, int *ret_code, char *error, size_t error_size);
/* Makes both say what the definition does; kept: the domain as it was given, or NULL. <sysinfo> goes before <os>. */
void lv_sysinfo_write(xmlNode *root, xmlNode *os, const xmlNode *kept, const struct vmdef *def);

#endif
