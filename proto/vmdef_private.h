/* Between the files that check and print definitions: the table of keys, the disks and the nics in files of their own. */
#ifndef PROTO_VMDEF_PRIVATE_H
#define PROTO_VMDEF_PRIVATE_H

#include "proto/vmdef.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum field_type {
	FIELD_NAME,   /* char[VMDEF_NAME_MAX + 1] */
	FIELD_UUID,   /* char[VMDEF_UUID_BYTES] */
	FIELD_WORD,   /* char[VMDEF_WORD_MAX + 1] */
	FIELD_UINT,   /* unsigned, min..max */
	FIELD_COUNT,  /* the same; 0 where it is left out */
	FIELD_BOOL,   /* bool */
	FIELD_TRI,    /* enum vmdef_tristate: true, false or "auto" */
	FIELD_WISH,   /* enum vmdef_tristate that is left out where it is auto */
	FIELD_ENUM,   /* int-sized enum, by `names` */
	FIELD_PATH,   /* char *, absolute */
	FIELD_TEXT,   /* char *, at most `max` bytes */
	FIELD_PROSE,  /* the same; line ends and tabs are allowed */
	FIELD_OBJECT, /* `fields` within the same structure */
	FIELD_SOCKET, /* char *: absolute path, or "" for true; NULL for false */
	FIELD_DISKS,
	FIELD_MODULES,
	FIELD_NICS,
	FIELD_CHANNELS,
	FIELD_VSOCK,
	FIELD_SHARES,
	FIELD_PCI,
	FIELD_GUESTINFO,
	FIELD_OEM,
	FIELD_WEIGHT, /* double, 0..1000 */
	FIELD_SET,    /* unsigned: 1 << place in `names` */
	FIELD_MAC,    /* char[VMDEF_MAC_BYTES] */
	FIELD_IPV4,   /* char[VMDEF_IPV4_BYTES] */
	FIELD_INTERFACE, /* char[VMDEF_INTERFACE_BYTES]: a network device of the host */
	FIELD_SUBNET, /* char[VMDEF_SUBNET_BYTES]: an IPv4 network with its prefix length */
};

struct field {
	const char *key;
	enum field_type type;
	size_t offset;
	unsigned min, max;
	const char *const *names;
	const struct field *fields;
	size_t field_count;
	bool required;
	const char *what; /* for the schema */
};

/* Writes "path: text" to ret_error (VMDEF_ERROR_BYTES); -EINVAL. */
__attribute__((format(printf, 3, 4))) int vmdef_refuse(char *ret_error, const char *path, const char *format, ...);
/* What a value is instead, for messages. */
const char *vmdef_type_of(struct json_object *value);
/* Checks an object's keys against `fields` and stores their values in the structure at `base`. 0, -EINVAL, -ENOMEM. */
int vmdef_parse_object(struct json_object *json, const char *path, const struct field *fields, size_t count, void *base,
		       char *ret_error);
/* Adds and consumes `value`; false when it is NULL or memory ran out. */
bool vmdef_add(struct json_object *to, const char *key, struct json_object *value);
struct json_object *vmdef_object_to_json(const void *base, const struct field *fields, size_t count);
struct json_object *vmdef_object_schema(const struct field *fields, size_t count);

/* ---- diskdef.c ---- */
int vmdef_parse_disks(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
struct json_object *vmdef_disks_to_json(const struct vmdef *def);
struct json_object *vmdef_disks_item_schema(void);
void vmdef_free_disks(struct vmdef *def);

/* ---- displaydef.c ---- */
#define VMDEF_DISPLAY_FIELDS 3
extern const struct field vmdef_display_fields[VMDEF_DISPLAY_FIELDS];
/* What no single key shows; a display that is only described is there. */
int vmdef_check_display(struct vmdef *def, char *ret_error);
/* ---- systemdef.c ---- */
#define VMDEF_CONSOLE_FIELDS 4
extern const struct field vmdef_console_fields[VMDEF_CONSOLE_FIELDS];
#define VMDEF_SMBIOS_FIELDS 5
extern const struct field vmdef_smbios_fields[VMDEF_SMBIOS_FIELDS];
int vmdef_parse_oem(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
struct json_object *vmdef_oem_to_json(const struct vmdef *def);
#define VMDEF_CLOUD_FIELDS 6
extern const struct field vmdef_cloud_fields[VMDEF_CLOUD_FIELDS];
void vmdef_free_system(struct vmdef *def);

/* ---- guestdef.c ---- */
#define VMDEF_BALLOON_FIELDS 4
extern const struct field vmdef_balloon_fields[VMDEF_BALLOON_FIELDS];
int vmdef_parse_channels(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
int vmdef_check_guest(const struct vmdef *def, char *ret_error);
struct json_object *vmdef_channels_to_json(const struct vmdef *def);
struct json_object *vmdef_channels_item_schema(void);
void vmdef_free_channels(struct vmdef *def);

/* ---- nicdef.c ---- */
int vmdef_parse_nics(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
int vmdef_parse_address(struct json_object *value, const char *path, const struct field *f, char *ret, char *ret_error);
const char *vmdef_address_pattern(enum field_type type);
int vmdef_check_nics(const struct vmdef *def, char *ret_error);
/* Gives an address to each NIC that has none; the same for the same VM and place. */
void vmdef_fill_macs(struct vmdef *def);
struct json_object *vmdef_nics_to_json(const struct vmdef *def);
struct json_object *vmdef_nics_item_schema(void);
void vmdef_free_nics(struct vmdef *def);

/* ---- sharedef.c ---- */
int vmdef_parse_vsock(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
/* Gives a guest with a vsock that has no address one; the same for the same VM. */
void vmdef_fill_cid(struct vmdef *def);
struct json_object *vmdef_vsock_to_json(const struct vmdef *def);
/* Its alternatives. */
struct json_object *vmdef_vsock_schema(void);
int vmdef_parse_shares(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
struct json_object *vmdef_shares_to_json(const struct vmdef *def);
struct json_object *vmdef_shares_item_schema(void);
/* The vsock's too. */
void vmdef_free_shares(struct vmdef *def);
/* ---- tooldef.c ---- */
int vmdef_parse_guestinfo(struct json_object *value, const char *path, struct vmdef *def, char *ret_error);
struct json_object *vmdef_guestinfo_to_json(const struct vmdef *def);
void vmdef_free_guestinfo(struct vmdef *def);

#endif
