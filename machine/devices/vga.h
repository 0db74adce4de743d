/* A VGA with Bochs' VBE extension (PCI 1234:1111): what PC firmware, boot loaders and kernels drive without further ado. */
#ifndef MACHINE_DEVICES_VGA_H
#define MACHINE_DEVICES_VGA_H

#include "machine/machine.h"

struct boot_params;
struct machine;
struct vga;

/*
 * The picture that a kernel started without firmware finds: text, 80 by 25, the font of the card's BIOS loaded; as a BIOS
 * would leave it. Under no lock, before the guest runs. False: this machine has no screen.
 */
bool vga_text_mode(struct machine *machine);
/* Its BIOS for firmware to run; *ret_bytes 0: there is no screen. Owned by the card. */
const uint8_t *vga_rom(const struct machine *machine, uint32_t *ret_bytes);

#endif
