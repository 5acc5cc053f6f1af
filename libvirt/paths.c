/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The paths that lead to one file: the spelling without redundant parts ("//", "/./", "X/.."), the
 * path with the links of its last component followed, and the path without any link.
 * docs/libvirt.md explains why a disk is locked under all of them.
 *
 * Everything here looks at the file system and may take forever if that does not answer; look.c
 * sees to it that nobody waits for it. A missing component is an answer (ENOENT: no file has that
 * name, so none has a second one); any other failure is returned. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MAX 40 /* as the kernel's MAXSYMLINKS */

static bool absent(int error)
{
	return error == ENOENT || error == ENOTDIR;
}

static int append(char out[PATH_MAX], const char *component, size_t size)
{
	size_t n = strlen(out);

	if (n + 1 + size >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	out[n] = '/';
	memcpy(out + n + 1, component, size);
	out[n + 1 + size] = '\0';
	return 0;
}

/* Goes to the parent directory, which for a link is that of its target. */
static int go_up(char out[PATH_MAX])
{
	char real[PATH_MAX];
	struct stat st;

	if (!*out)
		return 0;
	if (lstat(out, &st) < 0) {
		if (!absent(errno))
			return -1;
	} else if (S_ISLNK(st.st_mode)) {
		if (realpath(out, real))
			strcpy(out, real);
		else if (!absent(errno))
			return -1;
	}
	*strrchr(out, '/') = '\0';
	return 0;
}

/* Writes path without redundant parts. With look set, "X/.." is left out, too. */
static int clean(const char *path, char out[PATH_MAX], bool look)
{
	out[0] = '\0';
	for (const char *s = path; *s;) {
		size_t n = strcspn(s, "/");
		bool up = n == 2 && strncmp(s, "..", n) == 0;

		if (n > 0 && !(n == 1 && *s == '.') && (up && look ? go_up(out) : append(out, s, n)) < 0)
			return -1;
		s += n + (s[n] == '/');
	}
	if (!*out)
		strcpy(out, "/");
	return 0;
}

int paths_spelled(const char *path, char out[PATH_MAX])
{
	return clean(path, out, false);
}

/* Follows the link at path once. Returns 0 if it is not a link. */
static int follow(char path[PATH_MAX])
{
	char target[PATH_MAX], whole[2 * PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	size_t dir = 0;

	if (n < 0)
		return errno == EINVAL || absent(errno) ? 0 : -1;
	target[n] = '\0';
	if (target[0] != '/') {
		dir = (size_t)(strrchr(path, '/') - path) + 1;
		memcpy(whole, path, dir);
	}
	strcpy(whole + dir, target);
	return clean(whole, path, true) < 0 ? -1 : 1;
}

/* Resolves the links in the directory of path, whose last component is not a link. Returns 0 if
 * there is no such directory. */
static int resolve(const char *path, char out[PATH_MAX])
{
	const char *base = strrchr(path, '/');
	char dir[PATH_MAX];

	memcpy(dir, path, (size_t)(base - path));
	dir[base - path] = '\0';
	if (!realpath(*dir ? dir : "/", out))
		return absent(errno) ? 0 : -1;
	if (out[1] == '\0')
		out[0] = '\0';
	return append(out, base + 1, strlen(base + 1)) < 0 ? -1 : 1;
}

int paths_of(const char *path, struct paths *out)
{
	int r, links = 0;

	out->count = 0;
	if (clean(path, out->path[0], true) < 0)
		return -1;
	strcpy(out->path[1], out->path[0]);
	while ((r = follow(out->path[1])) > 0) {
		if (++links > LINKS_MAX) {
			errno = ELOOP;
			return -1;
		}
	}
	if (r < 0 || (r = resolve(out->path[1], out->path[2])) < 0)
		return -1;
	out->count = r > 0 ? 3 : 2;
	return 0;
}
