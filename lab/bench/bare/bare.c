/*
 * bare: the floor of the benchmarks in the lab, the same work as the service
 * and the engine do, with nothing but libdlm_lt.
 *
 *	bare pairs LOCKSPACE N		lock EX, unlock
 *	bare grants LOCKSPACE N		lock EX, convert in place with PERSISTENT and
 *					the value block, convert to NL, unlock: what
 *					the service asks for one Acquire and Release
 *	bare leave LOCKSPACE N		take N persistent locks and end: N orphans
 *	bare adopt LOCKSPACE N		adopt them
 *	bare unlock LOCKSPACE N		adopt and unlock them
 *
 * It prints the nanoseconds that the N of them took, without opening the
 * lockspace. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <libdlm.h>

static dlm_lshandle_t ls;
static int completed;

static void die(const char *what)
{
	fprintf(stderr, "bare: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void ast(void *arg) { completed = 1; }

static void bast(void *arg) { }

/* Waits for the end of the operation under way and checks how it went. */
static void end(struct dlm_lksb *lksb, int status)
{
	struct pollfd p = { .fd = dlm_ls_get_fd(ls), .events = POLLIN };

	while (!completed) {
		if (poll(&p, 1, -1) < 0)
			die("poll");
		if (dlm_dispatch(p.fd))
			die("dlm_dispatch");
	}
	if (lksb->sb_status != status) {
		errno = lksb->sb_status;
		die("status");
	}
}

static void request(struct dlm_lksb *lksb, int mode, uint32_t flags, const char *name)
{
	completed = 0;
	if (dlm_ls_lock(ls, mode, lksb, flags, name, strlen(name), 0, ast, lksb, bast, NULL))
		die("dlm_ls_lock");
	end(lksb, 0);
}

static void unlock(struct dlm_lksb *lksb)
{
	completed = 0;
	if (dlm_ls_unlock(ls, lksb->sb_lkid, 0, lksb, lksb))
		die("dlm_ls_unlock");
	end(lksb, EUNLOCK);
}

static void adopt(struct dlm_lksb *lksb, const char *name)
{
	if (dlm_ls_lock(ls, LKM_EXMODE, lksb, LKF_PERSISTENT | LKF_ORPHAN, name, strlen(name), 0,
			ast, lksb, bast, NULL))
		die("adopt");
}

static char *numbered(char *name, int i)
{
	sprintf(name, "disk-%d", i);
	return name;
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
	char name[32], value[DLM_LVB_LEN] = "token and holder";
	const char *what = argc > 1 ? argv[1] : "";
	int n = argc > 3 ? atoi(argv[3]) : 0;
	struct dlm_lksb *all;
	uint64_t began;

	if (n <= 0) {
		fprintf(stderr, "usage: bare pairs|grants|leave|adopt|unlock LOCKSPACE N\n");
		return 2;
	}
	ls = dlm_open_lockspace(argv[2]);
	if (!ls)
		die("dlm_open_lockspace");
	all = calloc(n, sizeof(*all));
	if (!all)
		die("calloc");
	began = now();
	for (int i = 0; i < n; i++) {
		struct dlm_lksb *lksb = &all[i];

		lksb->sb_lvbptr = value;
		if (!strcmp(what, "pairs")) {
			request(lksb, LKM_EXMODE, 0, "disk");
			unlock(lksb);
		} else if (!strcmp(what, "grants")) {
			request(lksb, LKM_EXMODE, LKF_VALBLK, "disk");
			request(lksb, LKM_EXMODE, LKF_CONVERT | LKF_PERSISTENT | LKF_VALBLK, "disk");
			request(lksb, LKM_NLMODE, LKF_CONVERT | LKF_VALBLK, "disk");
			unlock(lksb);
		} else if (!strcmp(what, "leave")) {
			request(lksb, LKM_EXMODE, LKF_PERSISTENT | LKF_NOQUEUE, numbered(name, i));
		} else if (!strcmp(what, "adopt")) {
			adopt(lksb, numbered(name, i));
		} else if (!strcmp(what, "unlock")) {
			adopt(lksb, numbered(name, i));
			unlock(lksb);
		}
	}
	printf("%llu\n", (unsigned long long)(now() - began));
	return 0;
}
