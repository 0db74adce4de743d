/* What reading and writing domain XML share. */
#ifndef API_LIBVIRT_XML_H
#define API_LIBVIRT_XML_H

#include <libxml/tree.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmdef;

/* The element in <metadata> that says what domain XML has no words for; its attributes are the definition's own keys, "debug-exit" for debug_exit. */
#define LV_XML_NAMESPACE "urn:trivisor:domain:1"

/* Where Debian, Fedora and others put SeaBIOS: a domain without kernel and loader boots it. */
extern const char *const lv_xml_seabios[];

/* Parses without network, entities or DTD. NULL: *ret_line and error (may be 0) tell. */
xmlDoc *lv_xml_read(const char *text, char *error, size_t error_size);
/* The first child element of that name (NULL: any), or the next sibling's. */
xmlNode *lv_xml_child(const xmlNode *parent, const char *name);
xmlNode *lv_xml_next(const xmlNode *node, const char *name);
bool lv_xml_is(const xmlNode *node, const char *name);
/* An attribute's value, to be freed with xmlFree; NULL: absent. */
char *lv_xml_attribute(const xmlNode *node, const char *name);
/* Whether an attribute has this value. */
bool lv_xml_attribute_is(const xmlNode *node, const char *name, const char *value);
/* Whether it has the attribute. */
bool lv_xml_attribute_has(const xmlNode *node, const char *name);
/* The element's text without white space around it, malloc'd; NULL: out of memory. */
char *lv_xml_text(const xmlNode *node);
/* A size: its text times its unit attribute, `otherwise` bytes without one. False: it is none. */
bool lv_xml_bytes(const xmlNode *node, uint64_t otherwise, uint64_t *ret_bytes);
/* "/domain/devices/disk[2]": up to size. */
void lv_xml_path(const xmlNode *node, char *path, size_t size);
/* Whether a key of definitions goes into our element of <metadata>, because domain XML has no words for it. */
bool lv_xml_is_own_key(const char *key);
/* The document's text, malloc'd; NULL: out of memory. */
char *lv_xml_print(xmlNode *node, bool indented);

/* What an element of a domain means here. */
enum lv_xml_effect {
	LV_XML_UNKNOWN,  /* refused */
	LV_XML_MAPPED,   /* its own key in the definition */
	LV_XML_KEPT,     /* true of every machine here, or only for tools */
	LV_XML_NO_EFFECT, /* kept and shown, but the machine has no such thing yet */
	LV_XML_REFUSED,  /* the guest would miss it */
};
/* Of a child of <domain>, <os> or <devices>. */
enum lv_xml_effect lv_xml_effect_of(const xmlNode *element);

#endif
