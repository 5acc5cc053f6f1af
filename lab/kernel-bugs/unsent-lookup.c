/*
 * unsent-lookup: a request looks for the master of its resource, and the kernel can't send to the
 * directory node, because that node is gone: dlm_controld has just removed its address and has not
 * stopped the lockspace yet. The kernel ignores that error: the request is not in the list of those
 * that wait for an answer, so no recovery sends the lookup again, and every request of this node for
 * that resource waits in "Lookup Queue" forever, even with LKF_NOQUEUE. When the program ends, the
 * kernel panics.
 *
 *	cc -o unsent-lookup unsent-lookup.c -ldlm_lt
 *	node 1, 2:  dlm_tool join bugs
 *	node 1:     ./unsent-lookup bugs 2	removes the address itself; press Enter when the cluster
 *						has lost node 2 and goes on without it
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include <libdlm.h>

#define NAMES 8 /* node 2 is the directory node of about half of them */

static dlm_lshandle_t ls;
static struct dlm_lksb first[NAMES], second[NAMES];
static int asked, ended;

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

/* ENOBUFS: the message was not sent, and the program knows. That is no fault. */
static void request(struct dlm_lksb *lksb, uint32_t flags, int i)
{
	char name[16];

	snprintf(name, sizeof name, "unsent-%d", i);
	if (!dlm_ls_lock(ls, LKM_NLMODE, lksb, flags, name, strlen(name), 0, completed, lksb, NULL, NULL))
		asked++;
	else if (errno != ENOBUFS)
		die("dlm_ls_lock");
}

/* Reads completions until the last one, or until none has come for ms milliseconds. */
static void dispatch(int ms)
{
	struct pollfd p = { .fd = dlm_ls_get_fd(ls), .events = POLLIN };

	while (ended < asked && poll(&p, 1, ms) > 0)
		dlm_dispatch(p.fd);
}

int main(int argc, char **argv)
{
	char comm[64];
	int i;

	if (argc != 3 || !(ls = dlm_open_lockspace(argv[1])))
		die("usage: unsent-lookup LOCKSPACE NODE");
	snprintf(comm, sizeof comm, "/sys/kernel/config/dlm/cluster/comms/%d", atoi(argv[2]));
	if (rmdir(comm)) /* as dlm_controld does first */
		die(comm);
	for (i = 0; i < NAMES; i++)
		request(&first[i], 0, i);
	puts("ready");
	fflush(stdout);
	getchar(); /* the cluster has recovered from here on */
	for (i = 0; i < NAMES; i++)
		request(&second[i], LKF_NOQUEUE, i);
	dispatch(30000);
	if (ended == asked) {
		puts("absent: all requests have ended");
		return 0;
	}
	printf("present: %d of %d requests never end\n", asked - ended, asked);
	fflush(stdout);
	sleep(1); /* the kernel panics when this process ends */
	return 1;
}
