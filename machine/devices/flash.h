/* A NOR flash of the firmware's variables: Intel's command set (JEDEC JEP137, CFI ID 1), 8 bits wide, in a file. */
#ifndef MACHINE_DEVICES_FLASH_H
#define MACHINE_DEVICES_FLASH_H

#include "machine/types.h"

struct machine;

#define FLASH_BLOCK_BYTES 4096u /* what one erase command erases */

/*
 * Maps the file's contents at `base`, which with the file's size is a multiple of FLASH_BLOCK_BYTES. Reads are the
 * engine's own, as of ROM, until a command is written. What a guest programs is in the file when the flash is back in
 * read-array mode, and on the disk when the machine is reset or destroyed; a failure to write is
 * MACHINE_EVENT_NVRAM_ERROR. Takes fd over, also when it fails. Before the first vCPU runs. 0 or -errno.
 */
int flash_create(struct machine *machine, int fd, gpa_t base, uint64_t bytes);

#endif
