/* What pci.c, pci_msix.c and the host bridge share. */
#ifndef MACHINE_DEVICES_PCI_PRIVATE_H
#define MACHINE_DEVICES_PCI_PRIVATE_H

#include "machine/devices/pci.h"

/* Recomputes the line and the status bit from what the device wishes and the guest allows. */
void pci_intx_update(struct pci_device *dev);
/* Where the configuration space of bus 0 shows in memory (PCIEXBAR). */
void pci_ecam_set(struct pci_bus *bus, bool enabled, gpa_t base);
void pci_msix_config_written(struct pci_device *dev);
void pci_msix_reset(struct pci_device *dev);
void pci_msix_finish(struct pci_device *dev);

#endif
