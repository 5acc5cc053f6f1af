/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The name of a disk, which must be the same on every host that can write it.
 *
 * By default it is the SHA-256 of the path, as with virtlockd: for image files
 * that all hosts mount at the same place. Block devices may have another path on
 * each host; where the configuration says so, a logical volume is named by its
 * UUID and another device by its WWN. Both are read from sysfs: no LVM command is
 * run inside libvirtd. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

const char *naming_sysfs = "/sys";

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

/* Reads an attribute of a block device. Returns false if it has none. */
static bool attribute(dev_t device, const char *name, char *out, size_t size)
{
	char path[4096];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/dev/block/%u:%u/%s", naming_sysfs, major(device), minor(device), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, out, size - 1);
	close(fd);
	if (n <= 0)
		return false;
	while (n > 0 && strchr(" \t\n", out[n - 1]))
		n--;
	out[n] = '\0';
	return n > 0;
}

/* Parts of volumes (snapshots' -cow, -real, ...) have longer names and no UUID
 * of their own. */
static bool volume_uuid(dev_t device, char out[DLMLOCK_NAME_MAX + 1])
{
	char uuid[256];

	if (!attribute(device, "dm/uuid", uuid, sizeof(uuid)) || strncmp(uuid, LVM_PREFIX, strlen(LVM_PREFIX)) != 0 ||
	    strlen(uuid) != strlen(LVM_PREFIX) + 2 * (size_t)LVM_UUID)
		return false;
	strcpy(out, uuid + strlen(LVM_PREFIX) + LVM_UUID);
	return true;
}

/* Finds the name of a SCSI device in the notation of scsi_id, in which multipath
 * names its devices too, so that hosts with and without multipath agree: a digit
 * for the kind of name, and underscores for white space. */
static bool scsi_id(dev_t device, const char *attr, char *out, size_t size)
{
	static const struct { const char *kernel; char digit; } kinds[] = { { "naa.", '3' }, { "eui.", '2' }, { "t10.", '1' } };
	char id[512];
	size_t n = 0;

	if (!attribute(device, attr, id, sizeof(id)))
		return false;
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
		return true;
	}
	snprintf(out, size, "%s", id);
	return true;
}

/* Finds the world wide name of a device, or of the one that it is a partition
 * of. NVMe devices have it themselves, and multipath takes it as it is. */
static bool wwn(dev_t device, char *out, size_t size)
{
	static const char multipath[] = "mpath-";
	char id[512], part[32], name[512];
	const char *at;

	if (attribute(device, "dm/uuid", id, sizeof(id))) {
		at = strstr(id, multipath);
		if (!at || (at != id && strncmp(id, "part", 4) != 0))
			return false;
		if (at == id)
			snprintf(out, size, "%s", at + strlen(multipath));
		else
			snprintf(out, size, "%s-%.*s", at + strlen(multipath), (int)(at - id - 1), id);
		return true;
	}
	if (attribute(device, "partition", part, sizeof(part))) {
		if (!scsi_id(device, "../device/wwid", name, sizeof(name)) && !attribute(device, "../wwid", name, sizeof(name)))
			return false;
		snprintf(out, size, "%s-part%s", name, part);
		return true;
	}
	return scsi_id(device, "device/wwid", out, size) || attribute(device, "wwid", out, size);
}

int naming_device(const struct config *c, const char *path, dev_t device, struct disk_name *out)
{
	char id[640];

	if (c->lvm_lockspace[0] && volume_uuid(device, out->resource)) {
		out->lockspace = c->lvm_lockspace;
		return 0;
	}
	if (c->scsi_lockspace[0] && wwn(device, id, sizeof(id))) {
		out->lockspace = c->scsi_lockspace;
		if (strlen(id) > DLMLOCK_NAME_MAX || strpbrk(id, " \t"))
			return hash(id, out->resource);
		strcpy(out->resource, id);
		return 0;
	}
	out->lockspace = c->lockspace;
	return hash(path, out->resource);
}

int naming_disk(const struct config *c, const char *path, struct disk_name *out)
{
	struct stat st;

	if (c->lvm_lockspace[0] || c->scsi_lockspace[0]) {
		if (stat(path, &st) < 0)
			return -1;
		if (S_ISBLK(st.st_mode))
			return naming_device(c, path, st.st_rdev, out);
	}
	out->lockspace = c->lockspace;
	return hash(path, out->resource);
}
