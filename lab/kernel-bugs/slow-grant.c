/*
 * slow-grant: measures the last step of a recovery after node 2 has left with a lock on 2,500 or on all
 * of 10,000 resources, whose master is node 1. With all, a step that passes each resource once takes up
 * to 4 times as long; one that begins at the first resource for each, 16 times or (caches) longer.
 *
 *	cc -o slow-grant slow-grant.c -ldlm_lt
 *	node 1:  ./slow-grant grants keep	prints "ready" and, when node 2 is done, the times
 *	node 2:  ./slow-grant grants share	the lockspace is made and left by the program
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include <libdlm.h>

enum { FEW = 2500, MANY = 4 * FEW, ROUNDS = 3 };

static int ended;
static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void completed(void *arg)
{
	ended++;
}

/* Joins the lockspace, and locks the last n resources, which are the first in node 1's list. */
static dlm_lshandle_t join(const char *space, int n, uint32_t flags)
{
	static struct dlm_lksb lksb[MANY];
	dlm_lshandle_t ls = dlm_create_lockspace(space, 0600);
	char name[32];
	int i;

	if (!ls)
		die("dlm_create_lockspace");
	for (i = MANY - n, ended = 0; i < MANY; i++) {
		snprintf(name, sizeof name, "grant-%d", i);
		if (dlm_ls_lock(ls, LKM_PRMODE, &lksb[i], flags, name, strlen(name), 0, completed, &lksb[i], NULL, NULL))
			die("dlm_ls_lock");
	}
	while (ended < n)
		dlm_dispatch(dlm_ls_get_fd(ls));
	return ls;
}

/* Returns the microseconds between two messages, by the clock of the kernel's messages. */
static long long last_step(int kmsg, const char *space, int *locks)
{
	char record[1024], ours[80], *text;
	long long stamp, began = 0;

	snprintf(ours, sizeof ours, ";dlm: %s: dlm_recover", space);
	for (*locks = 0;;) {
		memset(record, 0, sizeof record);
		if (read(kmsg, record, sizeof record - 1) < 0 /* some are lost */ || !(text = strstr(record, ours)) ||
		    sscanf(record, "%*[^,],%*[^,],%lld", &stamp) != 1)
			continue;
		sscanf(text + strlen(ours), "_purge %d locks", locks); /* of the node that has left */
		if (strstr(text, "dlm_recover_rsbs "))
			began = stamp;
		else if (strstr(text, " done: ") && *locks)
			return stamp - began;
	}
}

int main(int argc, char **argv)
{
	long long took, best[2] = { 1LL << 60, 1LL << 60 };
	int i, kmsg, locks;

	for (i = 0; argc > 2 && !strcmp(argv[2], "share") && i < 2 * ROUNDS; sleep(1), i++)
		if (dlm_release_lockspace(argv[1], join(argv[1], i % 2 ? MANY : FEW, LKF_PERSISTENT), 1))
			die("dlm_release_lockspace");
	if (i)
		return 0;
	if (argc < 3 || !join(argv[1], MANY, 0))
		die("usage: slow-grant LOCKSPACE keep|share");
	if ((kmsg = open("/dev/kmsg", O_RDONLY)) < 0 || lseek(kmsg, 0, SEEK_END) < 0)
		die("/dev/kmsg");
	dprintf(1, "ready\n");
	for (i = 0; i < 2 * ROUNDS; i++)
		if ((took = last_step(kmsg, argv[1], &locks)) < best[locks == MANY])
			best[locks == MANY] = took;
	if (best[0] < 100)
		return fprintf(stderr, "the clock of the messages stood still\n"), 2;
	i = best[1] >= 8 * best[0];
	printf("%s: %lld us for %d locks, %lld us for %d\n", i ? "present" : "absent", best[0], FEW, best[1], MANY);
	return i;
}
