/* A VM's definition: what users write as JSON, checked, and back again. */
#ifndef PROTO_VMDEF_H
#define PROTO_VMDEF_H

#include "proto/cpu_features.h"
#include "proto/pci_address.h"
#include "proto/smbios.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

#define VMDEF_NAME_MAX 64
#define VMDEF_UUID_BYTES 37
#define VMDEF_WORD_MAX 32
#define VMDEF_DISKS_MAX 16
#define VMDEF_SERIAL_MAX 20 /* virtio 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES */
#define VMDEF_MODULES_MAX 64
#define VMDEF_SHARES_MAX 8
#define VMDEF_TAG_MAX 35 /* virtio 1.2, 5.11.4: 36 bytes; Linux wants an end in them */
#define VMDEF_PASSTHROUGH_MAX 8
#define VMDEF_NICS_MAX 8
#define VMDEF_VARIABLES_MAX 256
#define VMDEF_VARIABLE_NAME_MAX 256
#define VMDEF_FORWARDS_MAX 64
#define VMDEF_CHANNELS_MAX 8
#define VMDEF_CHANNEL_NAME_MAX 63
#define VMDEF_AGENT_CHANNEL "org.qemu.guest_agent.0"
#define VMDEF_STATS_SECONDS_MAX 86400
#define VMDEF_LIMIT_KIB_MAX (1 << 30)
#define VMDEF_VLAN_MAX 4094
#define VMDEF_VNC_PASSWORD_MAX 8 /* RFC 6143, 7.2.2: a DES key */
#define VMDEF_UPLINKS_MAX 8
#define VMDEF_INTERFACE_BYTES 16
#define VMDEF_MAC_BYTES 18
#define VMDEF_IPV4_BYTES 16
#define VMDEF_SUBNET_BYTES 20
#define VMDEF_VCPUS_MAX 16
#define VMDEF_MEMORY_MIN_MIB 16
#define VMDEF_MEMORY_MAX_MIB (1024 * 1024)
#define VMDEF_CMDLINE_MAX 2047 /* Linux: COMMAND_LINE_SIZE on x86 is 2048 with its NUL */
#define VMDEF_BOOT_MENU_MAX_MS 65535 /* SeaBIOS reads 16 bits */
#define VMDEF_TITLE_MAX 255
#define VMDEF_DESCRIPTION_MAX (64u << 10)
#define VMDEF_LIBVIRT_XML_MAX (512u << 10)
#define VMDEF_SCROLLBACK_KIB 256
#define VMDEF_SCROLLBACK_MAX_KIB 65536
#define VMDEF_CONSOLE_LOG_KIB 2048
#define VMDEF_CONSOLE_LOG_MAX_KIB (4 << 20)
#define VMDEF_ERROR_BYTES 512
#define VMDEF_JSON_MAX ((size_t)1 << 20)

enum vmdef_mode { VMDEF_MODE_AUTO, VMDEF_MODE_BT, VMDEF_MODE_HVM, VMDEF_MODE_PV };
enum vmdef_tristate { VMDEF_AUTO, VMDEF_NO, VMDEF_YES };
enum vmdef_serial {
	VMDEF_SERIAL_CONSOLE, /* COM1 is the VM's console stream */
	VMDEF_SERIAL_NONE,    /* what the guest writes there is dropped */
};
/* Whose guest tools find what they look for. */
enum vmdef_tools { VMDEF_TOOLS_NONE, VMDEF_TOOLS_VMWARE };
enum vmdef_on_reboot {
	VMDEF_ON_REBOOT_RESTART,
	VMDEF_ON_REBOOT_SHUTDOWN, /* a reset ends the VM */
};

enum vmdef_display_type { VMDEF_DISPLAY_NONE, VMDEF_DISPLAY_VGA };

enum vmdef_gdb_architecture { VMDEF_GDB_AUTO, VMDEF_GDB_I8086, VMDEF_GDB_I386, VMDEF_GDB_X86_64 };

enum vmdef_isolation {
	VMDEF_ISOLATION_VM,     /* VMs are kept apart from each other and from the host */
	VMDEF_ISOLATION_KERNEL, /* the guest's kernel is kept from its own programs too, speculation included */
};

/* What a user can weigh: a share of the work for each measure of the policy, in their order. */
enum vmdef_weight {
#define MEASURE(name, operation, native) VMDEF_WEIGHT_##name,
#include "proto/measures.def"
#undef MEASURE
	VMDEF_WEIGHTS
};

/* Of an image: who reads it. All but raw take qemu-nbd. */
enum vmdef_format {
	VMDEF_FORMAT_RAW,
	VMDEF_FORMAT_QCOW2,
	VMDEF_FORMAT_VDI,
	VMDEF_FORMAT_VMDK,
	VMDEF_FORMAT_VPC,
	VMDEF_FORMAT_VHDX,
};
enum vmdef_cache {
	VMDEF_CACHE_WRITEBACK,
	VMDEF_CACHE_WRITETHROUGH,
	VMDEF_CACHE_DIRECT,
	VMDEF_CACHE_DIRECTSYNC,
	VMDEF_CACHE_UNSAFE,
};
enum vmdef_discard { VMDEF_DISCARD_UNMAP, VMDEF_DISCARD_IGNORE };
enum vmdef_disk_device { VMDEF_DEVICE_DISK, VMDEF_DEVICE_CDROM };
enum vmdef_on_error { VMDEF_ERROR_REPORT, VMDEF_ERROR_PAUSE, VMDEF_ERROR_PAUSE_FULL };

struct vmdef_disk {
	char *path; /* "": a CD-ROM drive without a disc */
	enum vmdef_disk_device device;
	enum vmdef_format format;
	bool readonly;
	bool snapshot; /* writes are lost in the end */
	enum vmdef_cache cache;
	enum vmdef_discard discard;
	enum vmdef_on_error on_error;
	char *serial; /* or NULL */
};

/* What guest tools read as guestinfo.NAME. */
struct vmdef_variable {
	char *name, *value;
};

struct vmdef_module {
	char *path;
	char *cmdline; /* or NULL */
};

/* Streams between programs of the guest and of the host. */
struct vmdef_vsock {
	bool present;
	unsigned cid;
	char *path; /* NULL: in the VM's directory */
};

/* A folder of the host, as virtiofs. */
struct vmdef_share {
	char *path, *tag;
	bool readonly;
};

enum vmdef_nic_type {
	VMDEF_NIC_USER,   /* libslirp in the VM's process */
	VMDEF_NIC_SWITCH, /* a virtual switch between the VMs of this host */
	VMDEF_NIC_TAP,    /* a network device of the host, or a tap made for it on a bridge */
	VMDEF_NIC_MACVTAP, /* one made for it on a network device of the host */
	VMDEF_NIC_TEAM,   /* several of them as one */
};

/* Connections to a port of the host go to a port of the guest. */
struct vmdef_forward {
	enum { VMDEF_FORWARD_TCP, VMDEF_FORWARD_UDP } protocol;
	char host_address[VMDEF_IPV4_BYTES]; /* "": the loopback */
	unsigned host_port;
	char guest_address[VMDEF_IPV4_BYTES]; /* "": the one that DHCP gives first */
	unsigned guest_port;
};

/* How much may pass on average, and at once. */
struct vmdef_limit {
	unsigned kib_per_second; /* 0: no limit */
	unsigned burst_kib;      /* 0: made up */
};

struct vmdef_nic {
	enum vmdef_nic_type type;
	char mac[VMDEF_MAC_BYTES]; /* lower case */
	unsigned mtu;              /* 0: the largest that the network carries */
	enum { VMDEF_LINK_UP, VMDEF_LINK_DOWN } link;
	struct vmdef_limit receive, transmit; /* as the guest sees it */
	bool own_mac_only; /* the guest may send from its own address alone */
	/* user */
	char subnet[VMDEF_SUBNET_BYTES]; /* "": 10.0.2.0/24 */
	bool restricted, hide_host;
	char hostname[VMDEF_WORD_MAX + 1];
	struct vmdef_forward *forwards;
	unsigned forward_count;
	/* switch */
	char network[VMDEF_NAME_MAX + 1];
	unsigned vlan;            /* of frames without a tag; 0: 1 */
	bool has_trunk, trunk_all; /* tagged frames of these VLANs too */
	uint64_t trunk[(VMDEF_VLAN_MAX + 1) / 64 + 1];
	/* tap, macvtap */
	char bridge[VMDEF_INTERFACE_BYTES]; /* "": the tap is there */
	char device[VMDEF_INTERFACE_BYTES];
	enum { VMDEF_MACVTAP_BRIDGE, VMDEF_MACVTAP_VEPA, VMDEF_MACVTAP_PRIVATE, VMDEF_MACVTAP_PASSTHRU } mode;
	/* tap, team */
	char uplinks[VMDEF_UPLINKS_MAX][VMDEF_INTERFACE_BYTES];
	unsigned uplink_count;
	enum { VMDEF_TEAM_ACTIVE_BACKUP, VMDEF_TEAM_BALANCE } policy;
	bool mirror;              /* it gets a copy of everything, and sends nothing */
};

/* A stream between a program in the guest and one of the host. */
struct vmdef_channel {
	char *name;
	char *path; /* NULL: in the VM's directory */
};

enum vmdef_balloon { VMDEF_BALLOON_VIRTIO, VMDEF_BALLOON_NONE };

enum vmdef_cloud_file {
	VMDEF_CLOUD_USER_DATA,
	VMDEF_CLOUD_META_DATA,
	VMDEF_CLOUD_NETWORK_CONFIG,
	VMDEF_CLOUD_VENDOR_DATA,
	VMDEF_CLOUD_FILES
};

/* All strings are owned by the definition; NULL where absent. */
struct vmdef {
	char name[VMDEF_NAME_MAX + 1];
	char uuid[VMDEF_UUID_BYTES]; /* lower case */
	enum vmdef_mode mode;
	unsigned memory_mib;
	unsigned current_memory_mib; /* what the balloon leaves of it; 0: all */
	unsigned vcpus;
	char workload[VMDEF_WORD_MAX + 1]; /* a hint for the policy, "" when not declared */
	struct {
		char *kernel, *initrd, *cmdline, *firmware;
		struct {
			char *path, *template;
		} nvram;
		unsigned menu_ms; /* how long the firmware waits for the key that opens its boot menu; 0: it has none */
		struct vmdef_module modules[VMDEF_MODULES_MAX];
		unsigned module_count;
	} boot;
	struct vmdef_disk disks[VMDEF_DISKS_MAX];
	unsigned disk_count;
	char passthrough[VMDEF_PASSTHROUGH_MAX][PCI_ADDRESS_BYTES]; /* as sysfs has them */
	unsigned passthrough_count;
	struct vmdef_nic nics[VMDEF_NICS_MAX];
	unsigned nic_count;
	struct {
		enum vmdef_display_type type;
		char *rom; /* NULL: SeaBIOS's */
		struct {
			char *socket; /* NULL: none; a path, or "" for one in the VM's directory */
			char address[VMDEF_IPV4_BYTES];
			unsigned port;
			bool autoport;
			char *password;
		} vnc;
	} display;
	struct vmdef_vsock vsock;
	struct vmdef_share shares[VMDEF_SHARES_MAX];
	unsigned share_count;
	enum vmdef_serial serial;
	bool virtio_console; /* hvc0, beside the serial port */
	bool guest_agent;    /* a channel for it, which is ours */
	struct vmdef_channel channels[VMDEF_CHANNELS_MAX];
	unsigned channel_count;
	struct {
		enum vmdef_balloon device;
		bool free_page_reporting, deflate_on_oom;
		unsigned stats_seconds;
	} balloon;
	struct {
		char *text[SMBIOS_TEXTS];
		char *oem[SMBIOS_OEM_MAX];
		unsigned oem_count;
	} smbios;
	struct {
		char *file[VMDEF_CLOUD_FILES];
		enum vmdef_disk_device device;
		bool enabled;
	} cloud_init;
	struct {
		unsigned scrollback_kib; /* 0: VMDEF_SCROLLBACK_KIB */
		char *log;               /* NULL: none */
		unsigned log_kib;        /* 0: VMDEF_CONSOLE_LOG_KIB */
		bool log_append;
	} console;
	enum vmdef_tristate paravirt;
	enum vmdef_tools tools;
	struct vmdef_variable *guestinfo;
	unsigned guestinfo_count;
	enum vmdef_on_reboot on_reboot;
	bool autostart;     /* started with the host */
	char *title, *description; /* for people */
	char *libvirt_xml;  /* the domain XML it was defined with, for what has no key of its own */
	char *gdb;          /* NULL: no debugger at the start; a path, or "" for one in the VM's directory */
	enum vmdef_gdb_architecture gdb_architecture;
	bool start_paused;  /* the first instruction waits for a resume, or for the debugger */
	struct {
		double weights[VMDEF_WEIGHTS];    /* all 0: the workload decides */
		unsigned require, forbid;         /* 1 << enum vmdef_mode; require 0: any */
		enum vmdef_isolation isolation;
		bool passthrough, nested, migratable;
	} policy;
	enum vmdef_tristate cpu_feature[CPU_FEATURE_COUNT];
	bool perf_map;      /* perf(1) can name translated code, once vm.perf_map has written the names */
	bool debug_exit;    /* port 0xf4 ends the VM, for test kernels */
	bool debug_console; /* port 0xe9 writes to the console stream too */
};

/*
 * Checks `json` and fills a new definition; missing keys get their defaults and a missing uuid a random one.
 * -EINVAL: ret_error (VMDEF_ERROR_BYTES long) names the key by its full path, what is wrong, and what is allowed.
 * -ENOMEM. Files are not looked at: they may come later.
 */
int vmdef_from_json(struct json_object *json, struct vmdef **ret_def, char *ret_error);
/* The same from text (a definition.json). */
int vmdef_from_text(const char *text, size_t bytes, struct vmdef **ret_def, char *ret_error);
/* Every key, defaults included, so that reading it back gives the same definition. NULL: out of memory. */
struct json_object *vmdef_to_json(const struct vmdef *def);
void vmdef_free(struct vmdef *def);

/* JSON Schema of a definition, made from the table that checks it. The caller puts it. NULL: out of memory. */
struct json_object *vmdef_schema(void);

/* Whether viewers can connect to its screen. */
bool vmdef_has_vnc(const struct vmdef *def);
/* One disk by itself, as vmdef_from_json; vmdef_disk_finish frees what it owns. */
int vmdef_disk_from_json(struct json_object *json, struct vmdef_disk *ret_disk, char *ret_error);
struct json_object *vmdef_disk_to_json(const struct vmdef_disk *disk);
void vmdef_disk_finish(struct vmdef_disk *disk);
/* "auto", "bt", "hvm", "pv". */
const char *vmdef_mode_name(enum vmdef_mode mode);
/* "raw", "qcow2" and so on: qemu's names. */
const char *vmdef_format_name(enum vmdef_format format);
/* Whether `name` can name a VM; otherwise false and ret_error says why. */
bool vmdef_name_valid(const char *name, char *ret_error);
bool vmdef_uuid_valid(const char *uuid);
/* "all", or an array of VLANs. The caller puts it. NULL: out of memory. */
struct json_object *vmdef_trunk_to_json(const struct vmdef_nic *nic);
/*
 * The host's network device of a NIC that has one: as it is named, or the name that one that is made for it gets, which
 * follows from its address. "": it has none (user, switch), or several (team).
 */
void vmdef_nic_device(const struct vmdef_nic *nic, char ret_name[VMDEF_INTERFACE_BYTES]);
/* The six bytes of a MAC as a definition has it. */
void vmdef_mac_bytes(const char *mac, unsigned char ret_bytes[6]);
/* A user NIC's network as a number (10.0.2.0 is 0x0a000200), and its prefix length. */
unsigned vmdef_subnet(const struct vmdef_nic *nic, unsigned *ret_bits);
/* Whether the VM gets a disk for cloud-init. */
bool vmdef_has_seed(const struct vmdef *def);
/* A random (version 4) UUID. 0 or -errno. */
int vmdef_uuid_generate(char ret_uuid[VMDEF_UUID_BYTES]);

#endif
