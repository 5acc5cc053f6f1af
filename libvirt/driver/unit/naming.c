/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Names block devices under a sysfs of the test's:
 * naming SYSFS MAJOR:MINOR PATH prints "LOCKSPACE NAME". */
#include "../../plugin.h"

#include <stdio.h>
#include <sys/sysmacros.h>

int main(int argc, char **argv)
{
	struct config c = { .lockspace = "paths", .lvm_lockspace = "lvm", .scsi_lockspace = "scsi" };
	struct disk_name n;
	unsigned int major, minor;

	if (argc != 4 || sscanf(argv[2], "%u:%u", &major, &minor) != 2)
		return 2;
	naming_sysfs = argv[1];
	if (naming_device(&c, argv[3], makedev(major, minor), &n) < 0)
		return 1;
	printf("%s %s\n", n.lockspace, n.resource);
	return 0;
}
