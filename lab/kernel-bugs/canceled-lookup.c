/*
 * canceled-lookup: a request is canceled while it looks for the master of its resource, and the node
 * that was asked fails. The recovery ends the request, and leaves the resource without a master in
 * the list of unused resources. The next request for it on this node makes the kernel panic.
 *
 *	cc -o canceled-lookup canceled-lookup.c -ldlm_lt
 *	node 1, 2:  dlm_tool join bugs
 *	node 1:     ./canceled-lookup bugs	press Enter when node 2 is cut off from node 1, and
 *						wait until the cluster goes on without node 2
 *	            ./canceled-lookup bugs 20	the same, with a pause of 20 seconds before the next requests
 *	            ./canceled-lookup bugs 0 exit	ends instead of canceling; then run it again without "exit"
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
static struct dlm_lksb lksb[NAMES];
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

static void request(int i, uint32_t flags)
{
	char name[16];

	snprintf(name, sizeof name, "canceled-%d", i);
	if (dlm_ls_lock(ls, LKM_NLMODE, &lksb[i], flags, name, strlen(name), 0, completed, &lksb[i], NULL, NULL))
		die("dlm_ls_lock");
}

/* Reads completions until all requests have ended. */
static void dispatch(void)
{
	struct pollfd p = { .fd = dlm_ls_get_fd(ls), .events = POLLIN };

	for (ended = 0; ended < NAMES; dlm_dispatch(p.fd))
		if (poll(&p, 1, 60000) != 1)
			die("a request has not ended: the cluster has not recovered?");
}

int main(int argc, char **argv)
{
	int i;

	if (argc < 2 || !(ls = dlm_open_lockspace(argv[1])))
		die("usage: canceled-lookup LOCKSPACE [SECONDS [exit]]");
	puts("ready");
	fflush(stdout);
	getchar(); /* node 2 does not answer from here on */
	for (i = 0; i < NAMES; i++) {
		request(i, 0);
		if (argc < 4)
			dlm_ls_unlock(ls, lksb[i].sb_lkid, LKF_CANCEL, &lksb[i], &lksb[i]); /* fails if it has been granted */
	}
	if (argc > 3)
		return 0;
	dispatch();
	puts("canceled");
	fflush(stdout);
	sleep(argc > 2 ? atoi(argv[2]) : 1);
	for (i = 0; i < NAMES; i++)
		request(i, LKF_NOQUEUE); /* here the kernel panics */
	dispatch();
	puts("absent: all requests have ended");
	return 0;
}
