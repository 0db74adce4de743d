/* Changes to a domain's XML: its metadata elements, its devices. */
#include "api/libvirt/private.h"
#include "api/libvirt/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The stored definition as a document, or the one that runs. */
static xmlDoc *read_either(const struct daemon_vm_info *info, bool running, char *error, size_t error_size)
{
	char *xml = lv_xml_format(info, VIR_DOMAIN_XML_SECURE | (running ? 0 : VIR_DOMAIN_XML_INACTIVE));
	xmlDoc *doc = NULL;

	if (xml)
		doc = lv_xml_read(xml, error, error_size);
	else
		snprintf(error, error_size, "out of memory");
	free(xml);
	return doc;
}

static xmlDoc *read_domain(const struct daemon_vm_info *info, char *error, size_t error_size)
{
	return read_either(info, false, error, error_size);
}

/* ---- metadata ------------------------------------------------------------------------ */

static xmlNode *find_element(xmlNode *metadata, const char *uri)
{
	for (xmlNode *e = lv_xml_child(metadata, NULL); e; e = lv_xml_next(e, NULL))
		if (e->ns && !strcmp((const char *)e->ns->href, uri))
			return e;
	return NULL;
}

/* Elements of that namespace become ones of none. */
static void strip_namespace(xmlNode *node, const char *uri)
{
	xmlNs **at = &node->nsDef;

	for (xmlNode *e = lv_xml_child(node, NULL); e; e = lv_xml_next(e, NULL))
		strip_namespace(e, uri);
	if (node->ns && !strcmp((const char *)node->ns->href, uri))
		node->ns = NULL;
	while (*at) {
		xmlNs *ns = *at;

		if (strcmp((const char *)ns->href, uri)) {
			at = &ns->next;
			continue;
		}
		*at = ns->next;
		xmlFreeNs(ns);
	}
}

char *lv_xml_metadata_get(const struct daemon_vm_info *info, const char *uri, char *error, size_t error_size)
{
	xmlDoc *doc = read_domain(info, error, error_size), *alone = xmlNewDoc((const xmlChar *)"1.0");
	xmlNode *e = NULL, *copy;
	char *text = NULL;

	if (doc && alone) {
		error[0] = '\0';
		e = find_element(lv_xml_child(xmlDocGetRootElement(doc), "metadata"), uri);
	}
	copy = e ? xmlDocCopyNode(e, alone, 1) : NULL;
	if (copy) {
		xmlDocSetRootElement(alone, copy);
		strip_namespace(copy, uri);
		text = lv_xml_print(copy, true);
	}
	xmlFreeDoc(alone);
	xmlFreeDoc(doc);
	return text;
}

/* Elements of no namespace become ones of this. */
static void give_namespace(xmlNode *node, xmlNs *ns)
{
	for (xmlNode *e = lv_xml_child(node, NULL); e; e = lv_xml_next(e, NULL))
		give_namespace(e, ns);
	if (!node->ns)
		xmlSetNs(node, ns);
}

static bool insert_element(xmlDoc *doc, xmlNode *metadata, const char *uri, const char *key, const char *text,
			   char *error, size_t error_size)
{
	xmlDoc *given = lv_xml_read(text, error, error_size);
	xmlNode *copy = given ? xmlDocCopyNode(xmlDocGetRootElement(given), doc, 1) : NULL;
	xmlNs *ns = copy ? xmlNewNs(copy, (const xmlChar *)uri, (const xmlChar *)key) : NULL;

	xmlFreeDoc(given);
	if (!given)
		return false;
	if (!ns) {
		snprintf(error, error_size, "the prefix \"%.60s\" cannot be given to the element", key);
		xmlFreeNode(copy);
		return false;
	}
	give_namespace(copy, ns);
	xmlAddChild(metadata, copy);
	return true;
}

char *lv_xml_metadata_set(const struct daemon_vm_info *info, const char *uri, const char *key, const char *text,
			  char *error, size_t error_size)
{
	xmlDoc *doc = read_domain(info, error, error_size);
	xmlNode *root = doc ? xmlDocGetRootElement(doc) : NULL, *metadata = root ? lv_xml_child(root, "metadata") : NULL,
		*old = metadata ? find_element(metadata, uri) : NULL;
	char *result = NULL;

	if (!doc)
		return NULL;
	if (old) {
		xmlUnlinkNode(old);
		xmlFreeNode(old);
	}
	if (text && !metadata)
		metadata = xmlNewChild(root, NULL, (const xmlChar *)"metadata", NULL);
	if (!text || insert_element(doc, metadata, uri, key, text, error, error_size)) {
		result = lv_xml_print(root, false);
		if (!result)
			snprintf(error, error_size, "out of memory");
	}
	xmlFreeDoc(doc);
	return result;
}

/* ---- devices ------------------------------------------------------------------------------ */

/* Of a device: what tells it from others of its kind. */
static char *identity_of(const xmlNode *device)
{
	const xmlNode *target = lv_xml_child(device, "target"), *mac = lv_xml_child(device, "mac");

	if (lv_xml_is(device, "disk"))
		return lv_xml_attribute(target, "dev");
	if (lv_xml_is(device, "interface"))
		return lv_xml_attribute(mac, "address");
	return NULL;
}

static xmlNode *find_device(xmlNode *devices, const xmlNode *like)
{
	char *wanted = identity_of(like), *has;
	xmlNode *found = NULL;

	for (xmlNode *e = lv_xml_child(devices, (const char *)like->name); e && !found;
	     e = lv_xml_next(e, (const char *)like->name)) {
		has = identity_of(e);
		if (wanted && has && !strcmp(wanted, has))
			found = e;
		xmlFree(has);
	}
	xmlFree(wanted);
	return found;
}

static bool change(xmlDoc *doc, xmlNode *like, enum lv_device_change what, int *ret_code, char *error, size_t size)
{
	xmlNode *devices = lv_xml_child(xmlDocGetRootElement(doc), "devices"), *old = find_device(devices, like);
	char *identity = identity_of(like);
	bool ok = true;

	if (what == LV_DEVICE_ATTACH && old) {
		*ret_code = VIR_ERR_OPERATION_INVALID;
		snprintf(error, size, "target %.60s already exists", identity ? identity : "");
		ok = false;
	} else if (what != LV_DEVICE_ATTACH && !old) {
		*ret_code = VIR_ERR_DEVICE_MISSING;
		snprintf(error, size, "no %.60s with target '%.60s'", (const char *)like->name, identity ? identity : "");
		ok = false;
	} else if (what == LV_DEVICE_DETACH) {
		xmlUnlinkNode(old);
		xmlFreeNode(old);
	} else {
		xmlNode *copy = xmlDocCopyNode(like, doc, 1);

		if (copy && old) {
			xmlReplaceNode(old, copy);
			xmlFreeNode(old);
		} else if (copy) {
			xmlAddChild(devices, copy);
		}
	}
	xmlFree(identity);
	return ok;
}

char *lv_xml_change_device(const struct daemon_vm_info *info, bool running, const char *device, enum lv_device_change what,
			   int *ret_code, char *error, size_t error_size)
{
	xmlDoc *doc = read_either(info, running, error, error_size), *given = NULL;
	char *result = NULL;

	*ret_code = VIR_ERR_XML_DETAIL;
	if (doc)
		given = lv_xml_read(device, error, error_size);
	if (given && change(doc, xmlDocGetRootElement(given), what, ret_code, error, error_size)) {
		result = lv_xml_print(xmlDocGetRootElement(doc), false);
		if (!result)
			snprintf(error, error_size, "out of memory");
	}
	xmlFreeDoc(given);
	xmlFreeDoc(doc);
	return result;
}
