/* Lists of typed parameters whose length is known at their end. */
#ifndef API_LIBVIRT_PARAMS_H
#define API_LIBVIRT_PARAMS_H

#include "api/libvirt/xdr.h"

struct lv_params {
	struct xdr_writer *out;
	size_t at;
	uint32_t n;
};

struct lv_params lv_params_begin(struct xdr_writer *out);
void lv_params_end(struct lv_params *p);
/* A parameter's name and type; its value is written behind. */
__attribute__((format(printf, 3, 4))) void lv_params_head(struct lv_params *p, enum xdr_param_type type, const char *format, ...);

/* Name (a format and what it wants) last. */
#define LV_PUT_U64(p, value, ...) (lv_params_head(p, XDR_PARAM_ULLONG, __VA_ARGS__), xdr_put_u64((p)->out, value))
#define LV_PUT_I64(p, value, ...) (lv_params_head(p, XDR_PARAM_LLONG, __VA_ARGS__), xdr_put_u64((p)->out, value))
#define LV_PUT_U32(p, value, ...) (lv_params_head(p, XDR_PARAM_UINT, __VA_ARGS__), xdr_put_u32((p)->out, value))
#define LV_PUT_I32(p, value, ...) (lv_params_head(p, XDR_PARAM_INT, __VA_ARGS__), xdr_put_i32((p)->out, value))
#define LV_PUT_TEXT(p, value, ...) (lv_params_head(p, XDR_PARAM_STRING, __VA_ARGS__), xdr_put_string((p)->out, value))

#endif
