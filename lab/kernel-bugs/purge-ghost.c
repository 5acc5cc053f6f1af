/*
 * purge-ghost: a persistent request that still waits when its process ends, and then dlm_ls_purge.
 * The kernel's lists are corrupt afterwards ("list_del corruption", "kernel BUG").
 *
 *	cc -o purge-ghost purge-ghost.c -ldlm_lt
 *	dlm_tool join bugs; ./purge-ghost bugs NODEID
 *
 * One node is enough. The node has to be restarted after this. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#include <libdlm.h>

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void completed(void *arg)
{
}

static dlm_lshandle_t open_lockspace(const char *name)
{
	dlm_lshandle_t ls = dlm_open_lockspace(name);

	if (!ls)
		die("dlm_open_lockspace");
	return ls;
}

/* Waits for a lock that the parent has, until the parent kills it. */
static void wait_for_lock(const char *lockspace, int ready)
{
	static struct dlm_lksb lksb;
	dlm_lshandle_t ls = open_lockspace(lockspace);

	if (dlm_ls_lock(ls, LKM_EXMODE, &lksb, LKF_PERSISTENT, "ghost", 5, 0, completed, &lksb, NULL, NULL))
		die("dlm_ls_lock");
	if (write(ready, "", 1) != 1)
		die("write");
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	struct dlm_lksb lksb = { 0 };
	dlm_lshandle_t ls;
	int ready[2];
	pid_t child;
	char c;

	if (argc != 3) {
		fprintf(stderr, "usage: purge-ghost LOCKSPACE NODEID\n");
		return 2;
	}
	ls = open_lockspace(argv[1]);
	if (dlm_ls_lock_wait(ls, LKM_EXMODE, &lksb, 0, "ghost", 5, 0, NULL, NULL, NULL) || lksb.sb_status)
		die("dlm_ls_lock_wait");
	if (pipe(ready))
		die("pipe");
	child = fork();
	if (!child)
		wait_for_lock(argv[1], ready[1]);
	if (child < 0 || read(ready[0], &c, 1) != 1)
		die("the waiting process");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (dlm_ls_unlock_wait(ls, lksb.sb_lkid, 0, &lksb))
		die("dlm_ls_unlock_wait");
	if (dlm_ls_purge(ls, atoi(argv[2]), 0)) /* here */
		die("dlm_ls_purge");
	puts("absent: the purge came back");
	return 0;
}
