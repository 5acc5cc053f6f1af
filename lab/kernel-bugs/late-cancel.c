/*
 * late-cancel: a conversion is canceled too late; the next conversion is requested and canceled
 * before the reply to the first cancel arrives. That reply is taken for the reply to the second
 * cancel, and the result of the second conversion is dropped: it never ends.
 *
 *	cc -o late-cancel late-cancel.c -ldlm_lt
 *	node 2:  ./late-cancel keep bugs		becomes the master, and stays
 *	node 1:  ./late-cancel cancel bugs		press Enter when node 2 is slow:
 *	node 2:  tc qdisc add dev eth0 root netem delay 2s
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

static dlm_lshandle_t ls;
static struct dlm_lksb lksb;
static int done;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void completed(void *arg)
{
	done = 1;
}

static int wait_completion(int ms)
{
	struct pollfd p = { .fd = dlm_ls_get_fd(ls), .events = POLLIN };

	while (!done && poll(&p, 1, ms) > 0)
		dlm_dispatch(p.fd);
	return done;
}

static void lock(int mode, uint32_t flags)
{
	done = 0;
	if (dlm_ls_lock(ls, mode, &lksb, flags, "late", 4, 0, completed, &lksb, NULL, NULL))
		die("dlm_ls_lock");
}

static void cancel(void)
{
	if (dlm_ls_unlock(ls, lksb.sb_lkid, LKF_CANCEL, &lksb, &lksb))
		die("dlm_ls_unlock LKF_CANCEL");
}

int main(int argc, char **argv)
{
	if (argc != 3 || !(ls = dlm_open_lockspace(argv[2])))
		die("usage: late-cancel keep|cancel LOCKSPACE");
	lock(LKM_NLMODE, 0);
	wait_completion(-1);
	puts("ready");
	fflush(stdout);
	if (!strcmp(argv[1], "keep"))
		for (;;)
			pause();
	getchar(); /* replies of the master take two seconds from here on */
	lock(LKM_PRMODE, LKF_CONVERT);
	usleep(1500000);
	cancel(); /* granted already: too late */
	if (!wait_completion(30000))
		die("the first conversion");
	lock(LKM_EXMODE, LKF_CONVERT);
	usleep(250000);
	cancel(); /* the reply to the first cancel arrives after this */
	puts(wait_completion(30000) ? "absent: the second conversion has ended" :
				      "present: the second conversion never ends");
	return !done;
}
