/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where else a file's file system is mounted on this host, so that a bind mount
 * does not turn a disk into a different one. mountinfo in proc(5) lists the mounts:
 * each shows a directory (root) of a file system (device) at a mount point.
 *
 * Reading the list costs more than everything else, so a table is kept with the
 * file that it was read from: poll says whether mounts have changed since. Tables
 * are taken and given back without a mutex, like the connections in bus.c. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOUNTINFO "/proc/self/mountinfo"
#define IDLE_MAX 4
#define READS_MAX 20 /* a read takes less than a millisecond */

struct mount {
	unsigned int id, major, minor;
	char *root, *point;
};

struct table {
	int fd;
	pid_t owner; /* poll reports a change only once, so a forked child needs its own table */
	char *text;
	struct mount *list;
	size_t count;
};

static _Atomic(struct table *) idle[IDLE_MAX];

static void empty(struct table *t)
{
	free(t->text);
	free(t->list);
	t->text = NULL;
	t->list = NULL;
	t->count = 0;
}

static void drop(struct table *t)
{
	if (!t)
		return;
	empty(t);
	if (t->fd >= 0)
		close(t->fd);
	free(t);
}

void mounts_close(void)
{
	for (size_t i = 0; i < IDLE_MAX; i++)
		drop(atomic_exchange(&idle[i], NULL));
}

static void give_back(struct table *t)
{
	for (size_t i = 0; t && i < IDLE_MAX; i++) {
		struct table *none = NULL;

		if (atomic_compare_exchange_strong(&idle[i], &none, t))
			return;
	}
	drop(t);
}

static bool octal(char c)
{
	return c >= '0' && c <= '7';
}

/* Replaces the escapes of blanks, backslashes and the like: exactly three octal digits (mangle_path
 * in fs/seq_file.c). */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && octal(s[2]) && octal(s[3])) {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

/* Parses a line: id, parent, device, root, mount point and more. */
static bool parse(char *line, struct mount *m)
{
	char *rest = line, *id = strsep(&rest, " "), *parent = strsep(&rest, " "), *device = strsep(&rest, " ");

	m->root = strsep(&rest, " ");
	m->point = strsep(&rest, " ");
	if (!parent || !m->point || sscanf(id, "%u", &m->id) != 1 || sscanf(device, "%u:%u", &m->major, &m->minor) != 2)
		return false;
	unescape(m->root);
	unescape(m->point);
	return true;
}

/* Has anything been mounted, unmounted or moved since this was last asked, or since the file was
 * opened? */
static bool changed(const struct table *t)
{
	struct pollfd p = { .fd = t->fd, .events = POLLPRI };

	return poll(&p, 1, 0) != 0;
}

/* Reads all of the file into t->text. */
static int slurp(struct table *t)
{
	size_t size = 0, n = 0;
	ssize_t got = 1;

	while (got > 0) {
		if (size - n < 4096) {
			char *more = realloc(t->text, size += 16384);

			if (!more)
				return -1;
			t->text = more;
		}
		got = pread(t->fd, t->text + n, size - n - 1, (off_t)n);
		n += got > 0 ? (size_t)got : 0;
	}
	t->text[n] = '\0';
	return got < 0 ? -1 : 0;
}

/* Reads the table. If the mounts change between two reads of the file, lines may be missing or torn, so
 * everything is read again. */
static int fill(struct table *t)
{
	int tries = READS_MAX;

	do {
		if (tries-- == 0) {
			errno = EAGAIN;
			return -1;
		}
		empty(t);
		if (slurp(t) < 0)
			return -1;
	} while (changed(t));
	for (char *rest = t->text, *line; (line = strsep(&rest, "\n")) && *line;) {
		struct mount *more = t->count % 64 ? t->list : reallocarray(t->list, t->count + 64, sizeof(*more));

		if (!more)
			return -1;
		t->list = more;
		t->count += parse(line, &t->list[t->count]);
	}
	return 0;
}

/* Opens a new table. */
static struct table *begin(void)
{
	struct table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->owner = getpid();
	t->fd = open(MOUNTINFO, O_RDONLY | O_CLOEXEC);
	if (t->fd >= 0 && fill(t) == 0)
		return t;
	drop(t);
	return NULL;
}

/* Returns a table of the mounts as they are now, or NULL with errno. */
static struct table *take(void)
{
	struct table *t = NULL;

	for (size_t i = 0; !t && i < IDLE_MAX; i++) {
		t = atomic_exchange(&idle[i], NULL);
		if (t && t->owner != getpid())
			t = NULL; /* the parent's, which this child only forgets */
	}
	if (!t)
		return begin();
	if (!changed(t) || fill(t) == 0)
		return t;
	drop(t);
	return NULL;
}

static const struct mount *find(const struct table *t, uint64_t id)
{
	for (size_t i = 0; i < t->count; i++) {
		if (t->list[i].id == id)
			return &t->list[i];
	}
	return NULL;
}

/* Returns what follows a directory in a path, "" or "/...", or NULL if the path is
 * not in it. */
static const char *below(const char *path, const char *dir)
{
	size_t n = strcmp(dir, "/") == 0 ? 0 : strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '/' || !path[n]) ? path + n : NULL;
}

/* Joins a directory and what follows it. */
static bool join(char out[PATH_MAX], const char *dir, const char *rest)
{
	int n = snprintf(out, PATH_MAX, "%s%s", strcmp(dir, "/") == 0 && *rest ? "" : dir, rest);

	return n > 0 && n < PATH_MAX;
}

static bool same_file(const struct statx *a, const struct statx *b)
{
	return a->stx_ino == b->stx_ino && a->stx_dev_major == b->stx_dev_major && a->stx_dev_minor == b->stx_dev_minor;
}

#define WANT (STATX_TYPE | STATX_INO | STATX_MNT_ID)

/* Calls fn with each path through another mount of the file system, as long as fn
 * returns 0. The device in mountinfo identifies the file system; that of a file
 * may be the one of a subvolume. */
static int others(const struct table *t, const struct statx *st, const struct mount *own, const char *where,
		  int (*fn)(void *p, const char *path), void *p)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < t->count; i++) {
		const struct mount *m = &t->list[i];
		char path[PATH_MAX];
		struct statx other;
		const char *rest;

		if (m == own || m->major != own->major || m->minor != own->minor || !(rest = below(where, m->root)) ||
		    !join(path, m->point, rest))
			continue;
		/* Only if nothing else is mounted over it. */
		if (statx(AT_FDCWD, path, 0, WANT, &other) == 0 && same_file(st, &other) && other.stx_mnt_id == m->id)
			r = fn(p, path);
	}
	return r;
}

int mounts_paths(const char *path, int (*fn)(void *p, const char *path), void *p)
{
	const struct mount *own;
	char where[PATH_MAX];
	const char *rest;
	struct table *t;
	struct statx st;
	int r = 0;

	if (statx(AT_FDCWD, path, 0, WANT, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	if (!(st.stx_mask & STATX_MNT_ID))
		return 0; /* before Linux 5.8 */
	t = take();
	if (!t)
		return -1;
	own = find(t, st.stx_mnt_id);
	if (own && (rest = below(path, own->point)) && join(where, own->root, rest))
		r = others(t, &st, own, where, fn, p);
	give_back(t);
	return r;
}

bool mounts_alone(uint64_t id)
{
	struct table *t = take();
	const struct mount *own = t ? find(t, id) : NULL;
	bool alone = own != NULL;

	for (size_t i = 0; alone && i < t->count; i++)
		alone = &t->list[i] == own || t->list[i].major != own->major || t->list[i].minor != own->minor;
	give_back(t);
	return alone;
}
