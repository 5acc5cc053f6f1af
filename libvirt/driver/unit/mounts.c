/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * mounts.c with a table of mounts that changes while it is read:
 *
 *   mounts unescape TEXT    TEXT as mounts.c understands it
 *   mounts read CHANGES     reads the table, which changes after each of the first CHANGES reads, once in
 *                           the middle of a line; prints the mount points, or "error TEXT" */
#define _GNU_SOURCE
#include <poll.h>
#include <unistd.h>

static int changes;	/* that are still to come */
static int version;	/* of the table */
static int reported;	/* the version that poll knows */

static int fake_poll(struct pollfd *p, nfds_t n, int timeout);
static ssize_t fake_pread(int fd, void *to, size_t size, off_t at);

#define poll fake_poll
#define pread fake_pread
#include "../../mounts.c"

static int fake_poll(struct pollfd *p, nfds_t n, int timeout)
{
	int news = version != reported;

	(void)p, (void)n, (void)timeout;
	reported = version;
	return news;
}

/* Returns the table piece by piece, each from the version that is current by then. */
static ssize_t fake_pread(int fd, void *to, size_t size, off_t at)
{
	char text[256];
	int length = snprintf(text, sizeof(text), "21 1 8:1 / /v%d rw\n22 1 8:1 /images\\040%d /mnt%d rw\n", version,
			      version,
			      version);
	size_t piece = length > at ? (size_t)(length - at) : 0;

	(void)fd;
	piece = piece > 30 ? 30 : piece;
	piece = piece > size ? size : piece;
	memcpy(to, text + at, piece);
	if (at == 0 && changes > 0) {
		changes--;
		version++;
	}
	return (ssize_t)piece;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "unescape") == 0) {
		unescape(argv[2]);
		printf("%s\n", argv[2]);
		return 0;
	}
	if (argc == 3 && strcmp(argv[1], "read") == 0) {
		struct table *t;

		changes = atoi(argv[2]);
		t = take();
		if (!t)
			printf("error %s\n", strerror(errno));
		for (size_t i = 0; t && i < t->count; i++)
			printf("%s %s\n", t->list[i].root, t->list[i].point);
		give_back(t);
		mounts_close();
		return 0;
	}
	return 2;
}
