/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the parts of the lock driver share. See README.md for how they fit. */
#ifndef DLMLOCK_PLUGIN_H
#define DLMLOCK_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DLMLOCK_NAME_MAX 64 /* bytes of a lockspace's or resource's name: the kernel's DLM_RESNAME_MAXLEN */

/* config.c: qemu-dlmlock.conf */

enum readonly_policy { READONLY_SHARED, READONLY_IGNORE };
enum missing_policy { MISSING_REFUSE, MISSING_ALLOW };

struct config {
	char lockspace[DLMLOCK_NAME_MAX + 1];      /* where disks are locked by path */
	char lvm_lockspace[DLMLOCK_NAME_MAX + 1];  /* where logical volumes are locked by UUID; "": by path */
	char scsi_lockspace[DLMLOCK_NAME_MAX + 1]; /* where other block devices are locked by WWN; "": by path */
	char on_lost[DLMLOCK_NAME_MAX + 1]; /* the service's helper for lost locks; "": none */
	bool auto_disk_leases;
	bool require_lease_for_disks;
	enum readonly_policy readonly_disks;
	enum missing_policy on_service_missing;
	uint64_t timeout_usec; /* bounds everything that libvirtd waits for */
};

/* Reads the file; one that does not exist means the defaults. On a mistake it
 * writes "FILE:LINE: what" to why and returns -1. */
int config_load(struct config *c, const char *path, char *why, size_t why_size);

/* naming.c: which name two hosts give the same disk */

struct disk_name {
	const char *lockspace; /* in the config */
	char resource[DLMLOCK_NAME_MAX + 1];
};

/* Where sysfs is mounted. Only tests change it. */
extern const char *naming_sysfs;

/* Names the disk at path. Returns -1 with errno if a block device that ought to
 * have a UUID or WWN can't be looked at. */
int naming_disk(const struct config *c, const char *path, struct disk_name *out);
/* naming_device is naming_disk for a block device whose number is known. */
int naming_device(const struct config *c, const char *path, dev_t device, struct disk_name *out);

/* bus.c: the calls of org.example.DlmLock */

struct resource {
	char lockspace[DLMLOCK_NAME_MAX + 1];
	char name[DLMLOCK_NAME_MAX + 1];
	const char *mode; /* "EX" or "PR" */
	char *label;      /* for people: domain and path */
	char *path;       /* for errors: the disk or the lease */
};

enum outcome {
	OUTCOME_OK,
	OUTCOME_BUSY,    /* somebody else has a lock that is in the way */
	OUTCOME_MISSING, /* bus or service are not there */
	OUTCOME_NO_LOCKSPACE, /* the node has not joined it, so nothing is held in it */
	OUTCOME_FAILED,
};

struct request {
	const char *owner;
	uint32_t pid; /* whose end ends the locks */
	const char *on_lost, *on_lost_data; /* the helper for lost locks and what it is told; NULL: none */
	const struct resource *resources;
	size_t count;
	uint64_t timeout_usec;
};

/* Both may be called from any thread, and again after a failure: they ask for a
 * state, not for a change. what is the service's explanation of a failure. */
enum outcome bus_acquire(const struct request *r, char *what, size_t what_size);
enum outcome bus_release(const struct request *r, char *what, size_t what_size);
/* Closes the connections that are kept for the next call. */
void bus_close(void);

/* report.c: errors the way libvirt shows them */

enum report_code { REPORT_INTERNAL = 1, REPORT_FAILED = 9, REPORT_BUSY = 87 };

/* Makes the calling thread's libvirt error. */
void report_at(enum report_code code, const char *file, const char *func, size_t line, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
#define report(code, ...) report_at(code, __FILE__, __func__, __LINE__, __VA_ARGS__)

#endif
