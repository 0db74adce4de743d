/* Keys of a definition around the machine: its console. */
#include "proto/vmdef_private.h"

#include <stdlib.h>

#define AT(member) offsetof(struct vmdef, member)

const struct field vmdef_console_fields[VMDEF_CONSOLE_FIELDS] = {
	{.key = "scrollback_kib", .type = FIELD_COUNT, .offset = AT(console.scrollback_kib), .min = 4, .max = VMDEF_SCROLLBACK_MAX_KIB,
	 .what = "how much of its output is kept for those who come later; 256 when absent"},
	{.key = "log", .type = FIELD_PATH, .offset = AT(console.log), .what = "a file that gets its output too"},
	{.key = "log_kib", .type = FIELD_COUNT, .offset = AT(console.log_kib), .min = 4, .max = VMDEF_CONSOLE_LOG_MAX_KIB,
	 .what = "how large that file may become before its older half goes; 2048 when absent"},
	{.key = "log_append", .type = FIELD_BOOL, .offset = AT(console.log_append), .what = "a start adds to that file; else it begins anew"},
};

void vmdef_free_system(struct vmdef *def)
{
	free(def->console.log);
}
