/*
 * VMware's backdoor: two I/O ports through which guest tools (open-vm-tools, unmodified) talk with the machine. Ports and
 * commands as open-vm-tools' backdoor_def.h and guest_msg_def.h have them.
 *
 * Any program of the guest may use it, as under VMware: what it says is a claim, not a fact. Nothing that it can say does
 * more than change what is told about the guest, and everything it may leave here is bounded.
 */
#ifndef MACHINE_VMWARE_VMWARE_H
#define MACHINE_VMWARE_VMWARE_H

#include "machine/types.h"

struct machine;

#define VMWARE_PORT 0x5658u
#define VMWARE_PORT_DATA 0x5659u /* whole messages, by rep ins and rep outs */
#define VMWARE_MAGIC 0x564d5868u /* "VMXh", in eax */

/* ---- for an engine ------------------------------------------------------------------------------------------- */

enum { VMWARE_AX, VMWARE_BX, VMWARE_CX, VMWARE_DX, VMWARE_SI, VMWARE_DI, VMWARE_BP, VMWARE_REGISTERS };

/* The machine has it. Constant once it has been made. [lock-free] */
bool machine_has_backdoor(const struct machine *machine);
/*
 * An access of 4 bytes to VMWARE_PORT with VMWARE_MAGIC in eax: by any privilege, whatever the I/O permissions say. The low
 * halves of the registers, as they are and as they become. Takes the machine lock.
 */
void machine_backdoor(struct machine *machine, uint32_t r[VMWARE_REGISTERS]);
/*
 * rep insb or rep outsb at VMWARE_PORT_DATA, the same conditions. begin: how many bytes of a message are to be moved now
 * (0: refused, and the registers say so); then `move` for each piece, ascending; end says how it went in the registers.
 * A piece that does not come leaves the message unfinished, and another begin starts where it was.
 */
uint32_t machine_backdoor_data_begin(struct machine *machine, uint32_t r[VMWARE_REGISTERS], bool to_guest);
bool machine_backdoor_data_move(struct machine *machine, const uint32_t r[VMWARE_REGISTERS], bool to_guest, void *bytes,
				uint32_t n);
void machine_backdoor_data_end(struct machine *machine, uint32_t r[VMWARE_REGISTERS], bool to_guest);

/* ---- for the VM's process: any thread, takes the machine lock -------------------------------------------------- */

#define VMWARE_NAME_MAX 256u		      /* of a variable, without "guestinfo." */
#define VMWARE_VALUE_MAX (64u << 10)	      /* of one that a guest sets; the host's may be longer */
#define VMWARE_VARIABLES_MAX 512u
#define VMWARE_VARIABLES_BYTES_MAX (2u << 20) /* all of them */
#define VMWARE_REPORT_MAX (64u << 10)
#define VMWARE_TEXT_MAX 256u

enum vmware_power { VMWARE_POWER_NONE, VMWARE_POWER_HALT, VMWARE_POWER_REBOOT };

/* What tools in the guest have told of it. */
struct vmware_guest {
	bool present;	  /* tools answer: they have asked for commands a moment ago */
	uint32_t version; /* as they number it; 0: not told */
	char hostname[VMWARE_TEXT_MAX], os[VMWARE_TEXT_MAX], os_id[VMWARE_TEXT_MAX];
	uint64_t uptime_s; /* as of uptime_at, in the machine's time; 0: not told */
	uint64_t uptime_at;
};

/* Reports that are kept as they came; vmware_report_copy. */
enum vmware_report {
	VMWARE_REPORT_NICS,  /* GuestNicProto in XDR (open-vm-tools, nicinfo.x) */
	VMWARE_REPORT_DISKS, /* JSON */
	VMWARE_REPORT_DETAILED, /* text: key='value' … of the operating system */
	VMWARE_REPORTS
};

struct vmware_config {
	uint8_t uuid[16];
	bool data_port; /* the engine serves VMWARE_PORT_DATA */
	/* Under the machine lock; must only note it. `text` ends with NUL, has printable characters only. */
	void (*on_log)(void *opaque, const char *text);
	/* What a command to the tools came to. */
	void (*on_power)(void *opaque, enum vmware_power power, bool accepted);
	void *opaque;
};

/* Before boot. 0 or -ENOMEM. */
int machine_add_vmware(struct machine *machine, const struct vmware_config *config);
/* False: the machine has none of it. */
bool vmware_guest_state(struct machine *machine, struct vmware_guest *ret);
/* An allocated copy, or NULL: not reported. */
char *vmware_report_copy(struct machine *machine, enum vmware_report which, size_t *ret_bytes);
/* "guestinfo.NAME". value NULL: takes it away. 0, -ENOSPC (a limit above), -EINVAL (a name with spaces), -ENOTSUP. */
int vmware_variable_set(struct machine *machine, const char *name, const char *value, size_t bytes);
/* An allocated copy with a NUL behind it, or NULL. */
char *vmware_variable_copy(struct machine *machine, const char *name, size_t *ret_bytes);
/* Calls fn for each, under the machine lock. */
void vmware_variables_each(struct machine *machine,
			   void (*fn)(void *opaque, const char *name, const char *value, size_t bytes), void *opaque);
/* Asks the tools to shut the guest down; on_power tells what they say. -ENOTSUP, -EAGAIN: no tools answer. */
int vmware_power_ask(struct machine *machine, enum vmware_power power);
/* Asks them to set the guest's clock to the host's, once. The same. */
int vmware_time_sync(struct machine *machine);

#define VMWARE_NIC_ADDRESSES 16u
struct vmware_address {
	bool v6;
	uint8_t prefix, bytes[16];
};
struct vmware_nic {
	char mac[18];
	unsigned address_count;
	struct vmware_address addresses[VMWARE_NIC_ADDRESSES];
};
/* VMWARE_REPORT_NICS; how many were in it, up to the first that is broken. Addresses of other kinds are left out. */
unsigned vmware_nics_decode(const void *data, size_t bytes, struct vmware_nic *ret_nics, unsigned max);

#endif
