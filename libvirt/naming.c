/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The names of a disk. Two guests that have one name in common can't both have the disk, so each
 * disk is locked under all the names to which its spelling leads, on this host and on others;
 * docs/libvirt.md explains the choice.
 *
 * A file has the SHA-256 of its path as it is spelled, which is what virtlockd's driver and older
 * releases of this one lock, and those of the paths that paths.c and mounts.c find. Mostly they are
 * all the same, and then it is one lock. A file with hard links also has a name that is valid on
 * this host only.
 *
 * A block device is not named by where its links lead: /dev/dm-3 is a different device on each host
 * and after each boot. It has its spelling and the name that the device mapper gives it, or
 * otherwise one that is valid on this host only. If the configuration says so, a logical volume is
 * named by its UUID and any other device by its WWN, and by nothing else. All of that is read from
 * sysfs: no LVM command is run inside libvirtd.
 *
 * A disk that can't be examined is not taken for a different one: see naming_disk. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

const char *naming_sysfs = "/sys";
const char *naming_boot = "/proc/sys/kernel/random/boot_id";

#define LVM_PREFIX "LVM-"
#define LVM_UUID 32 /* of the volume group, then of the volume */

static int hash(const char *text, char out[DLMLOCK_NAME_MAX + 1])
{
	static const char digits[] = "0123456789abcdef";
	unsigned char sum[DLMLOCK_NAME_MAX / 2];

	if (gnutls_hash_fast(GNUTLS_DIG_SHA256, text, strlen(text), sum) < 0) {
		errno = ENOSYS;
		return -1;
	}
	for (size_t i = 0; i < sizeof(sum); i++) {
		out[2 * i] = digits[sum[i] >> 4];
		out[2 * i + 1] = digits[sum[i] & 15];
	}
	out[DLMLOCK_NAME_MAX] = '\0';
	return 0;
}

static int add_name(struct disk_names *out, const char *lockspace, const char *resource)
{
	for (size_t i = 0; i < out->count; i++) {
		if (strcmp(out->list[i].lockspace, lockspace) == 0 && strcmp(out->list[i].resource, resource) == 0)
			return 0;
	}
	out->list[out->count].lockspace = lockspace;
	strcpy(out->list[out->count++].resource, resource);
	return 0;
}

/* Adds the name that is the SHA-256 of a text. */
static int add_text(const struct config *c, const char *text, struct disk_names *out)
{
	char sum[DLMLOCK_NAME_MAX + 1];

	return hash(text, sum) < 0 ? -1 : add_name(out, c->lockspace, sum);
}

/* The errors of drivers for an attribute that a device lacks. */
static bool lacks(int error)
{
	return error == EINVAL || error == ENXIO || error == ENODEV || error == ENODATA || error == EOPNOTSUPP;
}

/* Reads a file into out, without white space at its end. Returns 0 if it does not exist or is
 * empty. */
static int read_text(const char *path, char *out, size_t size)
{
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
	n = read(fd, out, size - 1);
	error = errno;
	close(fd);
	errno = error;
	if (n < 0)
		return lacks(errno) ? 0 : -1;
	while (n > 0 && strchr(" \t\n", out[n - 1]))
		n--;
	out[n] = '\0';
	return n > 0;
}

/* Reads an attribute of a block device. Returns 0 if the device has none, and -1 if that can't be
 * told. */
static int attribute(dev_t device, const char *name, char *out, size_t size)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/dev/block/%u:%u/%s", naming_sysfs, major(device), minor(device), name);
	return read_text(path, out, size);
}

/* Parts of volumes (-cow, -real, ... of snapshots) have longer names and no UUID of their own. */
static int volume_uuid(dev_t device, char out[DLMLOCK_NAME_MAX + 1])
{
	char uuid[256];
	int r = attribute(device, "dm/uuid", uuid, sizeof(uuid));

	if (r <= 0)
		return r;
	if (strncmp(uuid, LVM_PREFIX, strlen(LVM_PREFIX)) != 0 ||
	    strlen(uuid) != strlen(LVM_PREFIX) + 2 * (size_t)LVM_UUID)
		return 0;
	strcpy(out, uuid + strlen(LVM_PREFIX) + LVM_UUID);
	return 1;
}

/* Finds the name of a SCSI device in the notation of scsi_id, which multipath also uses, so that
 * hosts with and without multipath agree: a digit for the kind of name, and underscores for white
 * space. */
static int scsi_id(dev_t device, const char *attr, char *out, size_t size)
{
	static const struct { const char *kernel; char digit; } kinds[] = {
		{ "naa.", '3' }, { "eui.", '2' }, { "t10.", '1' },
	};
	char id[512];
	size_t n = 0;
	int r = attribute(device, attr, id, sizeof(id));

	if (r <= 0)
		return r;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (strncmp(id, kinds[i].kernel, 4) != 0)
			continue;
		out[n++] = kinds[i].digit;
		for (const char *s = id + 4; *s && n + 1 < size; s++) {
			if (*s != ' ' && *s != '\t')
				out[n++] = *s;
			else if (out[n - 1] != '_')
				out[n++] = '_';
		}
		out[n] = '\0';
		return 1;
	}
	snprintf(out, size, "%s", id);
	return 1;
}

/* The marks in the device mapper's UUIDs of multipath devices and their partitions
 * ("part1-mpath-..."). */
#define MULTIPATH "mpath-"

static const char *multipath(const char *uuid)
{
	const char *at = strstr(uuid, MULTIPATH);

	return at && (at == uuid || strncmp(uuid, "part", 4) == 0) ? at : NULL;
}

/* Finds the world wide name of a device, or of the device of which it is a partition. NVMe devices
 * have the name themselves, and multipath uses it unchanged. */
static int wwn(dev_t device, char *out, size_t size)
{
	char id[512], part[32], name[512];
	const char *at;
	int r = attribute(device, "dm/uuid", id, sizeof(id));

	if (r < 0)
		return -1;
	if (r > 0) {
		at = multipath(id);
		if (!at)
			return 0;
		if (at == id)
			snprintf(out, size, "%s", at + strlen(MULTIPATH));
		else
			snprintf(out, size, "%s-%.*s", at + strlen(MULTIPATH), (int)(at - id - 1), id);
		return 1;
	}
	r = attribute(device, "partition", part, sizeof(part));
	if (r < 0)
		return -1;
	if (r > 0) {
		r = scsi_id(device, "../device/wwid", name, sizeof(name));
		if (r == 0)
			r = attribute(device, "../wwid", name, sizeof(name));
		if (r > 0)
			snprintf(out, size, "%s-part%s", name, part);
		return r;
	}
	r = scsi_id(device, "device/wwid", out, size);
	return r == 0 ? attribute(device, "wwid", out, size) : r;
}

/* Adds a name that is valid on this host only, until its next boot. */
static int add_local(const struct config *c, const char *what, struct disk_names *out)
{
	char boot[64], text[256];
	int r = read_text(naming_boot, boot, sizeof(boot));

	if (r <= 0) {
		errno = r == 0 ? ENOENT : errno;
		return -1;
	}
	snprintf(text, sizeof(text), "dlmlock %s %s", boot, what);
	return add_text(c, text, out);
}

/* Adds what all spellings of a device have in common. Hosts may name the same multipath device
 * differently, but its UUID is the same. */
static int add_device(const struct config *c, dev_t device, struct disk_names *out)
{
	char id[512], text[600];
	int r = attribute(device, "dm/uuid", id, sizeof(id));

	if (r > 0 && multipath(id)) {
		snprintf(text, sizeof(text), "/dev/disk/by-id/dm-uuid-%s", id);
		return add_text(c, text, out);
	}
	if (r >= 0)
		r = attribute(device, "dm/name", id, sizeof(id));
	if (r < 0)
		return -1;
	if (r > 0) {
		snprintf(text, sizeof(text), "/dev/mapper/%s", id);
		return add_text(c, text, out);
	}
	snprintf(text, sizeof(text), "block %u:%u", major(device), minor(device));
	return add_local(c, text, out);
}

/* Is the device in sysfs at all? Otherwise nothing can be said about it. */
static int in_sysfs(dev_t device)
{
	char path[4096];
	struct stat st;

	snprintf(path, sizeof(path), "%s/dev/block/%u:%u", naming_sysfs, major(device), minor(device));
	return stat(path, &st);
}

int naming_device(const struct config *c, const char *path, dev_t device, struct disk_names *out)
{
	char id[640], name[DLMLOCK_NAME_MAX + 1];
	int r = in_sysfs(device);

	out->count = 0;
	if (r == 0 && c->lvm_lockspace[0]) {
		r = volume_uuid(device, name);
		if (r > 0)
			return add_name(out, c->lvm_lockspace, name);
	}
	if (r == 0 && c->scsi_lockspace[0]) {
		r = wwn(device, id, sizeof(id));
		if (r > 0 && (strlen(id) > DLMLOCK_NAME_MAX || strpbrk(id, " \t")))
			return hash(id, name) < 0 ? -1 : add_name(out, c->scsi_lockspace, name);
		if (r > 0)
			return add_name(out, c->scsi_lockspace, id);
	}
	if (r < 0)
		return -1;
	return naming_text(c, path, out) < 0 ? -1 : add_device(c, device, out);
}

int naming_text(const struct config *c, const char *path, struct disk_names *out)
{
	char spelled[PATH_MAX];

	out->count = 0;
	if (add_text(c, path, out) < 0)
		return -1;
	if (*path != '/')
		return 0;
	return paths_spelled(path, spelled) < 0 ? -1 : add_text(c, spelled, out);
}

struct more {
	const struct config *config;
	struct disk_names *out;
};

/* Adds a path through another mount. There may be many; some have to be enough. */
static int add_mount(void *p, const char *path)
{
	struct more *m = p;

	if (m->out->count == DLMLOCK_NAMES_MAX - 1) /* one is kept for hard links */
		return 1;
	return add_text(m->config, path, m->out);
}

static int add_file(const struct config *c, const char *path, const struct stat *st, struct disk_names *out)
{
	struct paths p;
	char text[128];

	if (*path != '/')
		return 0;
	if (paths_of(path, &p) < 0)
		return -1;
	for (size_t i = 0; i < p.count; i++) {
		if (add_text(c, p.path[i], out) < 0)
			return -1;
	}
	if (st && p.count == 3 && mounts_paths(p.path[2], add_mount, &(struct more){ c, out }) < 0)
		return -1;
	if (!st || !S_ISREG(st->st_mode) || st->st_nlink < 2)
		return 0;
	out->links = st->st_nlink;
	snprintf(text, sizeof(text), "file %u:%u %llu", major(st->st_dev), minor(st->st_dev),
		 (unsigned long long)st->st_ino);
	return add_local(c, text, out);
}

int naming_disk(const struct config *c, const char *path, struct disk_names *out)
{
	struct stat st;
	int r = stat(path, &st);

	out->unseen = 0;
	out->links = 0;
	if (r < 0 && (c->lvm_lockspace[0] || c->scsi_lockspace[0]))
		return -1;
	if (r == 0 && S_ISBLK(st.st_mode))
		return naming_device(c, path, st.st_rdev, out);
	if (r < 0)
		out->unseen = errno;
	if (naming_text(c, path, out) < 0)
		return -1;
	if ((r == 0 || out->unseen == ENOENT || out->unseen == ENOTDIR) &&
	    add_file(c, path, r == 0 ? &st : NULL, out) == 0)
		return 0;
	if (r == 0)
		out->unseen = errno;
	errno = out->unseen;
	return errno == EACCES || errno == EPERM ? 0 : -1;
}

int naming_plain(const struct config *c, const char *path, struct disk_names *out)
{
	/* The kernel answers EAGAIN if it would have to ask the storage. */
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_CACHED };
	char spelled[PATH_MAX];
	struct statx st;
	int fd, r;

	if (*path != '/' || strstr(path, "/..") || paths_spelled(path, spelled) < 0 || strcmp(spelled, path) != 0)
		return 0;
	fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
	if (fd < 0)
		return 0;
	r = statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_NLINK | STATX_MNT_ID, &st);
	close(fd);
	if (r < 0 || !(st.stx_mask & STATX_MNT_ID) || !S_ISREG(st.stx_mode) || st.stx_nlink != 1 ||
	    !mounts_alone(st.stx_mnt_id))
		return 0;
	*out = (struct disk_names){ 0 };
	return add_text(c, path, out) == 0;
}
