/*
 * stuck-lookup: a request is canceled while it looks for the master of its resource, and the node
 * that was asked fails. The recovery ends the request, but not its role as the one that the others
 * wait for: every other request for that resource on this node waits in "Lookup Queue" forever,
 * also with LKF_NOQUEUE.
 *
 *	cc -o stuck-lookup stuck-lookup.c -ldlm_lt
 *	node 1, 2:  dlm_tool join bugs
 *	node 1:     ./stuck-lookup bugs		press Enter when node 2 is cut off from node 1, and
 *						wait until the cluster goes on without node 2
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
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
static int ended_first, ended_second;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void completed(void *arg)
{
	struct dlm_lksb *lksb = arg;

	if (lksb >= first && lksb < first + NAMES)
		ended_first++;
	else
		ended_second++;
}

static void request(struct dlm_lksb *lksb, int mode, uint32_t flags, int i)
{
	char name[16];

	snprintf(name, sizeof name, "lookup-%d", i);
	if (dlm_ls_lock(ls, mode, lksb, flags, name, strlen(name), 0, completed, lksb, NULL, NULL))
		die("dlm_ls_lock");
}

/* Reads completions until the last one, or until none has come for ms milliseconds. */
static void dispatch(int ms)
{
	struct pollfd p = { .fd = dlm_ls_get_fd(ls), .events = POLLIN };

	while (ended_first + ended_second < 2 * NAMES && poll(&p, 1, ms) > 0)
		dlm_dispatch(p.fd);
}

int main(int argc, char **argv)
{
	int i;

	if (argc != 2 || !(ls = dlm_open_lockspace(argv[1])))
		die("usage: stuck-lookup LOCKSPACE");
	puts("ready");
	fflush(stdout);
	getchar(); /* node 2 does not answer from here on */
	for (i = 0; i < NAMES; i++) {
		request(&first[i], LKM_NLMODE, 0, i);
		dlm_ls_unlock(ls, first[i].sb_lkid, LKF_CANCEL, &first[i], &first[i]); /* fails if it is granted */
		request(&second[i], LKM_NLMODE, LKF_NOQUEUE, i);
	}
	dispatch(30000);
	if (ended_first < NAMES)
		die("a request that was canceled has not ended: the cluster has not recovered?");
	if (ended_second == NAMES) {
		puts("absent: all requests have ended");
		return 0;
	}
	printf("present: %d of %d requests never end\n", NAMES - ended_second, NAMES);
	return 1;
}
