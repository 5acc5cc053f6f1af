/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Identifies the guest's QEMU: by its pid, and the start time that makes it unique. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

const char *process_root = "/proc";

/* The name of a program may contain blanks and parentheses, so the fields are counted from its end.
 * Returns 0 if the line is not as in proc(5). */
static uint64_t field_22(const char *line)
{
	unsigned long long start = 0;
	const char *s = strrchr(line, ')');

	for (int field = 2; s && field < 22; field++)
		s = strchr(s + 1, ' ');
	return s && sscanf(s, "%llu", &start) == 1 ? start : 0;
}

/* The process does not exist if the kernel says so. A missing file is not enough: /proc may be
 * hidden, or not mounted. */
static int absent(uint32_t pid)
{
	if (kill((pid_t)pid, 0) == 0 || errno != ESRCH)
		errno = ENOENT;
	return -1;
}

int process_start_time(uint32_t pid, uint64_t *start)
{
	char path[128], line[1024];
	int error = 0;
	FILE *f;

	if (pid == 0 || pid > INT32_MAX) {
		errno = ESRCH;
		return -1;
	}
	snprintf(path, sizeof(path), "%s/%u/stat", process_root, pid);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT || errno == ESRCH ? absent(pid) : -1;
	errno = 0;
	if (!fgets(line, sizeof(line), f))
		error = errno ? errno : EPROTO;
	fclose(f);
	if (error == ESRCH)
		return absent(pid);
	*start = error ? 0 : field_22(line);
	errno = error ? error : EPROTO;
	return *start ? 0 : -1;
}
