/* Xen's public interface, from Debian's libxen-dev: numbers and layouts only. */
#ifndef PV_XEN_ABI_H
#define PV_XEN_ABI_H

#include <stdint.h>

#define __XEN_INTERFACE_VERSION__ 0x00040d00

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <xen/xen.h>
#include <xen/callback.h>
#include <xen/elfnote.h>
#include <xen/errno.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/io/console.h>
#include <xen/io/xs_wire.h>
#include <xen/memory.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>
#pragma GCC diagnostic pop

/* What we say we are: the version whose interface this is. */
#define PV_XEN_MAJOR 4
#define PV_XEN_MINOR 17

/* In a page-table entry, where Xen keeps which mappings are the guest kernel's own (the others are global). */
#define PV_PTE_GUEST_KERNEL (1ull << 52)

#endif
