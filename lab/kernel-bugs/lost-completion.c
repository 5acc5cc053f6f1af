/*
 * lost-completion: a process ends while a conversion of its persistent lock is under way to another
 * node. The reply marks the orphan as a lock that is none, and whoever adopts it gets no completion.
 *
 *	cc -o lost-completion lost-completion.c -ldlm_lt
 *	node 2:  ./lost-completion keep bugs		becomes the master, and stays
 *	node 2:  tc qdisc add dev eth0 root netem delay 2s
 *	node 1:  ./lost-completion convert bugs		ends with the conversion under way
 *	node 2:  tc qdisc del dev eth0 root
 *	node 1:  sleep 3; ./lost-completion adopt bugs
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
static char value[32] = "value";
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

/* Returns whether the operation under way has completed within ms milliseconds. */
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
	if (dlm_ls_lock(ls, mode, &lksb, flags, "lost", 4, 0, completed, &lksb, NULL, NULL))
		die("dlm_ls_lock");
}

int main(int argc, char **argv)
{
	if (argc != 3 || !(ls = dlm_open_lockspace(argv[2])))
		die("usage: lost-completion keep|convert|adopt LOCKSPACE");
	lksb.sb_lvbptr = value;
	if (!strcmp(argv[1], "keep")) {
		lock(LKM_NLMODE, 0);
		wait_completion(-1);
		puts("ready");
		fflush(stdout);
		for (;;)
			pause();
	}
	if (!strcmp(argv[1], "convert")) {
		lock(LKM_EXMODE, 0);
		wait_completion(-1);
		puts("ready");
		fflush(stdout);
		getchar(); /* the network is slow from here on */
		lock(LKM_EXMODE, LKF_CONVERT | LKF_PERSISTENT | LKF_VALBLK);
		_exit(0);
	}
	lock(LKM_EXMODE, LKF_PERSISTENT | LKF_ORPHAN | LKF_VALBLK); /* an adoption has no completion */
	if (dlm_ls_unlock(ls, lksb.sb_lkid, 0, &lksb, &lksb))
		die("dlm_ls_unlock");
	puts(wait_completion(30000) ? "absent: the unlock has completed" : "present: no completion of the unlock");
	return !done;
}
