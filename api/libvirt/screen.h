/* A domain's screen in its XML: <graphics type='vnc'>, <video>, and the definition's "display". */
#ifndef API_LIBVIRT_SCREEN_H
#define API_LIBVIRT_SCREEN_H

#include "api/libvirt/xml.h"

#include <json-c/json.h>

/*
 * Takes one element of <devices>, if it is of a screen, into *display (made when it is NULL). 0, or -EINVAL: *ret_code is the
 * VIR_ERR_*, error names the element by its path.
 */
int lv_screen_parse(const xmlNode *e, json_object **display, int *ret_code, char *error, size_t error_size);
/* The elements as the definition says, in place of what says otherwise. dir: of a running one (NULL: none); secure: passwords too. */
void lv_screen_write(xmlNode *devices, const struct vmdef *def, const char *dir, bool secure);
/* What XML has no words for, for the caller to put; NULL: nothing. */
json_object *lv_screen_unsaid(const struct vmdef *def);
/* A video model that is not what the guest gets. */
bool lv_screen_other_model(const xmlNode *e);
/* Whether such an element (graphics, video, input) stands for something that is there. */
bool lv_screen_is_real(const xmlNode *e);

#endif
