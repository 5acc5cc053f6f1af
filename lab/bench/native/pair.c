/*
 * pair: the floor that the service is measured against: libdlm alone, in C, as
 * plainly as it can be used. Reads commands from standard input, one a line,
 * and answers each with one line, the nanoseconds that it took:
 *
 *	plain N		N times lock with NOQUEUE|PERSISTENT and unlock: the least
 *			that makes a persistent lock and lets go of it
 *	same N		N times what the service's engine asks of the kernel: lock
 *			without PERSISTENT and read the value block; convert in
 *			place with PERSISTENT, which writes it; convert down,
 *			which writes it again; unlock
 *	adopt N		adopt N orphans p0, p1, ...
 *	take N		take N persistent locks p0, p1, ... and keep them
 *	keep 1		take a null lock of the resource and keep it
 *
 * At the end of its input it ends, and what it has are orphans.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libdlm.h>

static dlm_lshandle_t ls;
static const char *resource;
static int completed;

static void done(void *arg)
{
	(void)arg;
	completed = 1;
}

static void die(const char *what)
{
	fprintf(stderr, "pair: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* finish waits for the end of one operation and checks its status. */
static void finish(const char *what, const struct dlm_lksb *lksb, int want)
{
	struct pollfd p = {.fd = dlm_ls_get_fd(ls), .events = POLLIN};

	while (!completed) {
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			die("poll");
		dlm_dispatch(p.fd);
	}
	completed = 0;
	if (lksb->sb_status != want) {
		errno = lksb->sb_status;
		die(what);
	}
}

static void lock(struct dlm_lksb *lksb, const char *name, uint32_t mode, uint32_t flags)
{
	if (dlm_ls_lock(ls, mode, lksb, flags, name, name ? strlen(name) : 0, 0, done, NULL, NULL, NULL))
		die("lock");
	finish("lock", lksb, 0);
}

static void unlock(struct dlm_lksb *lksb)
{
	if (dlm_ls_unlock(ls, lksb->sb_lkid, 0, lksb, NULL))
		die("unlock");
	finish("unlock", lksb, EUNLOCK);
}

static void plain(void)
{
	struct dlm_lksb lksb = {0};

	lock(&lksb, resource, LKM_EXMODE, LKF_NOQUEUE | LKF_PERSISTENT);
	unlock(&lksb);
}

static void same(void)
{
	char value[DLM_LVB_LEN] = "who holds it";
	struct dlm_lksb lksb = {.sb_lvbptr = value};

	lock(&lksb, resource, LKM_EXMODE, LKF_NOQUEUE | LKF_VALBLK);
	lock(&lksb, NULL, LKM_EXMODE, LKF_CONVERT | LKF_PERSISTENT | LKF_VALBLK);
	lock(&lksb, NULL, LKM_NLMODE, LKF_CONVERT | LKF_VALBLK);
	unlock(&lksb);
}

static void take(int i)
{
	static struct dlm_lksb lksb;
	char name[32];

	snprintf(name, sizeof(name), "p%d", i);
	memset(&lksb, 0, sizeof(lksb));
	lock(&lksb, name, LKM_EXMODE, LKF_NOQUEUE | LKF_PERSISTENT);
}

static void keep(void)
{
	static struct dlm_lksb lksb;

	lock(&lksb, resource, LKM_NLMODE, 0);
}

/* adopt is answered at once, and no completion follows. */
static void adopt(int i)
{
	struct dlm_lksb lksb = {0};
	char name[32];

	snprintf(name, sizeof(name), "p%d", i);
	if (dlm_ls_lock(ls, LKM_EXMODE, &lksb, LKF_PERSISTENT | LKF_ORPHAN, name, strlen(name), 0, done, NULL, NULL, NULL))
		die("adopt");
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	char command[16];
	int n;

	if (argc != 3) {
		fprintf(stderr, "usage: pair LOCKSPACE RESOURCE\n");
		return 2;
	}
	resource = argv[2];
	ls = dlm_open_lockspace(argv[1]);
	if (!ls)
		die(argv[1]);
	while (scanf("%15s %d", command, &n) == 2) {
		int64_t began = now();

		for (int i = 0; i < n; i++) {
			if (!strcmp(command, "plain"))
				plain();
			else if (!strcmp(command, "same"))
				same();
			else if (!strcmp(command, "take"))
				take(i);
			else if (!strcmp(command, "keep"))
				keep();
			else if (!strcmp(command, "adopt"))
				adopt(i);
			else
				return 2;
		}
		printf("%lld\n", (long long)(now() - began));
		fflush(stdout);
	}
	return 0;
}
