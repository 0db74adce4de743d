/* Opens the tray of a CD-ROM drive, for tests/guests/media.py: busybox has no eject. */
#include <fcntl.h>
#include <linux/cdrom.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "/dev/sr0", O_RDONLY | O_NONBLOCK);

	if (fd < 0 || ioctl(fd, CDROMEJECT, 0) < 0) {
		perror("eject");
		return 1;
	}
	return 0;
}
