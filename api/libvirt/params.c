/* Lists of typed parameters. */
#include "api/libvirt/params.h"

#include <stdarg.h>
#include <stdio.h>

struct lv_params lv_params_begin(struct xdr_writer *out)
{
	struct lv_params p = {.out = out, .at = out->used};

	xdr_put_u32(out, 0);
	return p;
}

void lv_params_end(struct lv_params *p)
{
	xdr_patch_u32(p->out, p->at, p->n);
}

void lv_params_head(struct lv_params *p, enum xdr_param_type type, const char *format, ...)
{
	char name[80];
	va_list args;

	va_start(args, format);
	vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	xdr_put_string(p->out, name);
	xdr_put_i32(p->out, type);
	p->n++;
}
