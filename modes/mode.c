/* The modes of this build. */
#include "modes/mode.h"

#include <string.h>

static const struct mode_ops *const modes[] = {
	&bt_mode,
	&hvm_mode,
	&pv_mode,
};

const struct mode_ops *mode_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(modes[i]->name, name))
			return modes[i];
	return NULL;
}

void mode_names(char *ret_text, size_t bytes)
{
	size_t n = 0;
	ret_text[0] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(modes) && n < bytes; i++)
		n += (size_t)snprintf(ret_text + n, bytes - n, "%s%s", i ? ", " : "", modes[i]->name);
}
