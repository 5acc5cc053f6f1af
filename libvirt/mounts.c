/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Where else a file's file system is mounted on this host, so that a bind mount
 * does not make another disk of it. proc(5) tells of the mounts: each shows a
 * directory (root) of a file system (device) at a mount point. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOUNTINFO "/proc/self/mountinfo"

struct mount {
	unsigned int id, major, minor;
	char root[PATH_MAX], point[PATH_MAX];
};

/* Undoes the octal escapes of blanks and the like. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; to++) {
		unsigned int c;

		if (*s == '\\' && sscanf(s + 1, "%3o", &c) == 1) {
			*to = (char)c;
			s += 4;
		} else {
			*to = *s++;
		}
	}
	*to = '\0';
}

/* Reads a line of mountinfo. A mount point that is too long is passed over. */
static bool parse(const char *line, struct mount *m)
{
	int end = 0;

	if (sscanf(line, "%u %*u %u:%u %4095s %4095s%n", &m->id, &m->major, &m->minor, m->root, m->point, &end) != 5 ||
	    line[end] != ' ')
		return false;
	unescape(m->root);
	unescape(m->point);
	return true;
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

/* Finds the mount that a file is seen in, and its place in the file system: the
 * root of that mount, and what follows. Returns 0 if there is none. */
static int place(FILE *f, const char *path, const struct statx *st, struct mount *m, char out[PATH_MAX])
{
	char *line = NULL;
	size_t size = 0;
	int found = 0;

	while (!found && getline(&line, &size, f) > 0) {
		const char *rest;

		if (parse(line, m) && m->id == st->stx_mnt_id && (rest = below(path, m->point)))
			found = join(out, m->root, rest);
	}
	free(line);
	return ferror(f) ? -1 : found;
}

/* Tells fn of each path through another mount of the file system, as long as it
 * returns 0. It is known by the device in mountinfo; a file's own may be that of a
 * subvolume. */
static int others(FILE *f, const struct statx *st, const struct mount *own, const char *where,
		  int (*fn)(void *p, const char *path), void *p)
{
	char path[PATH_MAX], *line = NULL;
	struct statx other;
	struct mount m;
	size_t size = 0;
	int r = 0;

	while (r == 0 && getline(&line, &size, f) > 0) {
		const char *rest;

		if (!parse(line, &m) || m.id == own->id || m.major != own->major || m.minor != own->minor ||
		    !(rest = below(where, m.root)) || !join(path, m.point, rest))
			continue;
		/* Not if something else is mounted over it. */
		if (statx(AT_FDCWD, path, 0, WANT, &other) == 0 && same_file(st, &other) && other.stx_mnt_id == m.id)
			r = fn(p, path);
	}
	free(line);
	return ferror(f) ? -1 : r;
}

int mounts_paths(const char *path, int (*fn)(void *p, const char *path), void *p)
{
	char where[PATH_MAX];
	struct mount own;
	struct statx st;
	FILE *f;
	int r;

	if (statx(AT_FDCWD, path, 0, WANT, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	if (!(st.stx_mask & STATX_MNT_ID))
		return 0; /* before Linux 5.8 */
	f = fopen(MOUNTINFO, "re");
	if (!f)
		return -1;
	r = place(f, path, &st, &own, where);
	if (r > 0) {
		rewind(f);
		r = others(f, &st, &own, where, fn, p);
	}
	fclose(f);
	return r;
}
