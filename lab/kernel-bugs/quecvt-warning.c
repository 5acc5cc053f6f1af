/*
 * quecvt-warning: a conversion with LKF_QUECVT that can't wait is invalid, and since 6.2 the kernel
 * answers with a warning and a stack trace beside EINVAL. Any user who may open the lockspace's
 * device can do that, and with panic_on_warn it ends the node.
 *
 *	cc -o quecvt-warning quecvt-warning.c -ldlm_lt
 *	dlm_tool join bugs; ./quecvt-warning bugs; dmesg | tail
 *
 * One node is enough. SPDX-License-Identifier: LGPL-2.1-or-later
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <libdlm.h>

static void die(const char *what)
{
	perror(what);
	exit(2);
}

int main(int argc, char **argv)
{
	struct dlm_lksb lksb = { 0 };
	dlm_lshandle_t ls;

	if (argc != 2 || !(ls = dlm_open_lockspace(argv[1])))
		die("usage: quecvt-warning LOCKSPACE");
	if (dlm_ls_lock_wait(ls, LKM_EXMODE, &lksb, 0, "quecvt", 6, 0, NULL, NULL, NULL) || lksb.sb_status)
		die("dlm_ls_lock_wait");
	if (!dlm_ls_lock_wait(ls, LKM_NLMODE, &lksb, LKF_CONVERT | LKF_QUECVT, "quecvt", 6, 0, NULL, NULL, NULL) ||
	    errno != EINVAL)
		die("the conversion was not refused");
	puts("refused: dmesg tells whether the kernel warned");
	return 0;
}
