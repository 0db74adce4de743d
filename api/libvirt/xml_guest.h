/* <channel> and <memballoon> of domain XML, both ways. */
#ifndef API_LIBVIRT_XML_GUEST_H
#define API_LIBVIRT_XML_GUEST_H

#include <json-c/json.h>
#include <libxml/tree.h>
#include <stdbool.h>

struct vmdef;

/* Whether a <channel> is one that the machine has: a UNIX socket behind virtio. */
bool lv_channel_is_ours(const xmlNode *e);
/* Whether a <console> is hvc0. */
bool lv_console_is_virtio(const xmlNode *e);
/* Puts what such an element says into a definition. 0, or -EINVAL: *ret_code is the VIR_ERR_*, error names the element. */
int lv_guest_parse(const xmlNode *e, json_object *definition, int *ret_code, char *error, size_t error_size);
/* Brings the children of <devices> up to date. agent_state: connected or disconnected; NULL: it does not run. */
void lv_guest_write(xmlNode *devices, const struct vmdef *def, const char *agent_state);

#endif
