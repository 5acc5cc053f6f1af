/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Names disks:
 *
 *   naming device SYSFS BOOT MAJOR:MINOR PATH   a block device under a sysfs of the test's
 *   naming path PATH                            what is there
 *   naming paths                                the same for each line of input, with an empty line behind
 *   naming plain PATH                           the same, "no" if it is not plain
 *   naming start PROC PID                       the start time of a process
 *
 * Each name is printed as "LOCKSPACE NAME", then "unseen TEXT" and "links N" where
 * it is so; "error TEXT" if there is none. */
#include "../../plugin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

static int print(int r, const struct disk_names *n)
{
	if (r < 0) {
		printf("error %s\n", strerror(errno));
		return 0;
	}
	for (size_t i = 0; i < n->count; i++)
		printf("%s %s\n", n->list[i].lockspace, n->list[i].resource);
	if (n->unseen)
		printf("unseen %s\n", strerror(n->unseen));
	if (n->links)
		printf("links %lu\n", n->links);
	return 0;
}

int main(int argc, char **argv)
{
	struct config c = { .lockspace = "paths" };
	struct disk_names n = { 0 };
	unsigned int major, minor;
	uint64_t start;

	if (argc == 6 && strcmp(argv[1], "device") == 0 && sscanf(argv[4], "%u:%u", &major, &minor) == 2) {
		if (!getenv("PATHS_ONLY")) {
			strcpy(c.lvm_lockspace, "lvm");
			strcpy(c.scsi_lockspace, "scsi");
		}
		naming_sysfs = argv[2];
		naming_boot = argv[3];
		return print(naming_device(&c, argv[5], makedev(major, minor), &n), &n);
	}
	if (argc == 2 && strcmp(argv[1], "paths") == 0) {
		char line[PATH_MAX + 2];

		while (fgets(line, sizeof(line), stdin)) {
			line[strcspn(line, "\n")] = '\0';
			print(naming_disk(&c, line, &n), &n);
			printf("\n");
		}
		return 0;
	}
	if (argc == 3 && strcmp(argv[1], "plain") == 0) {
		if (naming_plain(&c, argv[2], &n) == 0)
			printf("no\n");
		return print(0, &n);
	}
	if (argc == 3 && strcmp(argv[1], "path") == 0)
		return print(naming_disk(&c, argv[2], &n), &n);
	if (argc == 4 && strcmp(argv[1], "start") == 0) {
		process_root = argv[2];
		if (process_start_time((uint32_t)strtoul(argv[3], NULL, 10), &start) < 0)
			printf("error %s\n", strerror(errno));
		else
			printf("%llu\n", (unsigned long long)start);
		return 0;
	}
	return 2;
}
