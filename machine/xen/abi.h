/* Xen's public interface to devices, from Debian's libxen-dev: numbers and layouts only. */
#ifndef MACHINE_XEN_ABI_H
#define MACHINE_XEN_ABI_H

#include <stdint.h>

#define __XEN_INTERFACE_VERSION__ 0x00040d00

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <xen/xen.h>
#include <xen/io/ring.h>
#include <xen/io/blkif.h>
#include <xen/io/netif.h>
#include <xen/io/xenbus.h>
#pragma GCC diagnostic pop

#endif
