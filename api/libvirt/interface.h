/* <interface> of domain XML, for reading and writing whole domains and for changes to one NIC. */
#ifndef API_LIBVIRT_INTERFACE_H
#define API_LIBVIRT_INTERFACE_H

#include "api/libvirt/xml.h"
#include "proto/vmdef.h"

#include <json-c/json.h>

/*
 * An entry of a definition's `nics`, for the caller to put. -EINVAL: *ret_code is the VIR_ERR_*, error names the element by
 * its path. What only a definition's check finds (an address that is none) is not looked at.
 */
int lv_interface_parse(const xmlNode *e, json_object **ret_nic, int *ret_code, char *error, size_t error_size);
/* The entry with every key as vmdef_to_json writes it, with that address if mac is not NULL. NULL: error (or NULL) says why. */
json_object *lv_interface_canonical(json_object *nic, const char *mac, char *error);
/* A definition's own, the same way; for the caller to put. */
json_object *lv_interface_of(const struct vmdef *def, unsigned number);
/* Whether it asks for another model than virtio, which it gets nevertheless. */
bool lv_interface_other_model(const xmlNode *e);
/* Brings the children <interface> of <devices> up to date with a definition. live: with devices and aliases. */
void lv_interfaces_write(xmlNode *devices, const struct vmdef *def, bool live);
/* What calls about a running VM's NIC name it by, besides its address: a network device of the host, or nic0 and so on. */
void lv_interface_device(const struct vmdef_nic *nic, unsigned number, char ret_name[VMDEF_INTERFACE_BYTES]);
/*
 * From vm.stats (NULL: 0): a disk's ("blk") or interface's ("net") counter, whichever bus it is on: machine.virtio_blk0_reads,
 * machine.xen_net0_rx_bytes. (stats.c)
 */
uint64_t lv_device_counter(json_object *stats, const char *kind, unsigned number, const char *counter);
/* Bytes, frames, errors and drops, first what the guest received, from vm.stats (NULL: zeros). */
#define LV_NIC_COUNTERS 8
void lv_interface_counters(json_object *stats, unsigned number, uint64_t ret[LV_NIC_COUNTERS]);
/* Keys of a NIC that its element cannot say, for the caller to put; NULL: none. */
json_object *lv_interface_unsaid(const struct vmdef *def, unsigned number);
void lv_interface_add_unsaid(json_object *nic, json_object *unsaid);


struct lv_call;
struct vm;
/* nic.c: an <interface> for a running VM's NIC, of which only what may change while it runs may be new. Ends the call. */
void lv_interface_update_live(struct lv_call *call, struct vm *vm, const char *xml, void (*then)(struct lv_call *call));

#endif
