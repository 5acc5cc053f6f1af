/*
 * toss-reader: reads the list of unused resources of a lockspace (LOCKSPACE_toss in debugfs) while
 * the kernel frees resources in it. The reader holds references to entries of the list, which the
 * kernel does not expect. The kernel complains of a "tossed rsb in use", and drops one reference too
 * many; some seconds or minutes later its tables are damaged, and it crashes.
 *
 *	cc -o toss-reader toss-reader.c -ldlm_lt
 *	mount -t debugfs none /sys/kernel/debug
 *	echo 1 >/sys/kernel/config/dlm/cluster/toss_secs
 *	echo 1 >/sys/kernel/config/dlm/cluster/scan_secs
 *	dlm_tool join bugs
 *	./toss-reader bugs 60		for 60 seconds; look at the console
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <libdlm.h>

#define NAMES 500

static dlm_lshandle_t ls;
static int ended;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void completed(void *arg)
{
	(void)arg;
	ended++;
}

/* Uses each resource once. */
static void use(void)
{
	static struct dlm_lksb lksb[NAMES];
	char name[16];
	int i;

	for (i = ended = 0; i < NAMES; i++) {
		snprintf(name, sizeof name, "toss-%d", i);
		if (dlm_ls_lock(ls, LKM_NLMODE, &lksb[i], 0, name, strlen(name), 0, completed, &lksb[i], NULL, NULL))
			die("dlm_ls_lock");
	}
	while (ended < NAMES)
		dlm_dispatch(dlm_ls_get_fd(ls));
	for (i = ended = 0; i < NAMES; i++)
		if (dlm_ls_unlock(ls, lksb[i].sb_lkid, 0, &lksb[i], &lksb[i]))
			die("dlm_ls_unlock");
	while (ended < NAMES)
		dlm_dispatch(dlm_ls_get_fd(ls));
}

int main(int argc, char **argv)
{
	char file[256], text[65536];
	time_t end = time(NULL) + (argc > 2 ? atoi(argv[2]) : 60);
	pid_t reader;
	int fd;

	if (argc < 2 || !(ls = dlm_open_lockspace(argv[1])))
		die("usage: toss-reader LOCKSPACE [SECONDS]");
	snprintf(file, sizeof file, "/sys/kernel/debug/dlm/%s_toss", argv[1]);
	if ((reader = fork()) == 0) {
		for (;;) {
			if ((fd = open(file, O_RDONLY)) < 0)
				die(file);
			while (read(fd, text, sizeof text) > 0)
				;
			close(fd);
		}
	}
	while (time(NULL) < end) {
		use();
		sleep(3); /* the kernel frees them */
	}
	kill(reader, SIGKILL);
	return 0;
}
