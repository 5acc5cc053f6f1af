/*
 * unlock-value: an unlock without LKF_VALBLK of a lock whose last conversion had it writes the value
 * block: libdlm sends uninitialised memory, and the kernel adds the flags of the lock to those of the
 * unlock. A reader on any node sees bytes of this program's stack.
 *
 *	cc -o unlock-value unlock-value.c -ldlm_lt
 *	dlm_tool join bugs; ./unlock-value bugs
 *
 * One node is enough. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <libdlm.h>

static dlm_lshandle_t ls;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void lock(struct dlm_lksb *lksb, int mode, uint32_t flags)
{
	if (dlm_ls_lock_wait(ls, mode, lksb, flags, "value", 5, 0, NULL, NULL, NULL) || lksb->sb_status)
		die("dlm_ls_lock_wait");
}

/* What an ordinary program's stack may hold: a secret. */
static void __attribute__((noinline)) use_stack(void)
{
	volatile char stack[4096];

	for (size_t i = 0; i < sizeof stack; i++)
		stack[i] = 'S';
}

int main(int argc, char **argv)
{
	char written[32], seen[32];
	struct dlm_lksb writer = { .sb_lvbptr = written }, reader = { .sb_lvbptr = seen };

	if (argc != 2 || !(ls = dlm_open_lockspace(argv[1])))
		die("usage: unlock-value LOCKSPACE");
	memset(written, 'A', sizeof written);
	lock(&reader, LKM_NLMODE, 0); /* keeps the resource */
	lock(&writer, LKM_EXMODE, 0);
	lock(&writer, LKM_EXMODE, LKF_CONVERT | LKF_VALBLK);
	use_stack();
	if (dlm_ls_unlock_wait(ls, writer.sb_lkid, 0, &writer))
		die("dlm_ls_unlock_wait");
	lock(&reader, LKM_PRMODE, LKF_CONVERT | LKF_VALBLK);
	if (!memcmp(written, seen, sizeof seen)) {
		puts("absent: the value is the one that was written");
		return 0;
	}
	printf("present: the value has become");
	for (size_t i = 0; i < sizeof seen; i++)
		printf(" %02x", (unsigned char)seen[i]);
	puts("");
	return 1;
}
