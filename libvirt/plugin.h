/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What the parts of the lock driver share. README.md explains how they fit together. */
#ifndef DLMLOCK_PLUGIN_H
#define DLMLOCK_PLUGIN_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DLMLOCK_NAME_MAX 64 /* bytes of a lockspace's or resource's name: the kernel's DLM_RESNAME_MAXLEN */

#define DLMLOCK_SOCKET_MAX 107 /* bytes of the path of a socket: sun_path of unix(7), without the zero byte */

/* config.c: qemu-dlmlock.conf */

enum readonly_policy { READONLY_SHARED, READONLY_IGNORE };
enum missing_policy { MISSING_REFUSE, MISSING_ALLOW };
enum transport { TRANSPORT_AUTO, TRANSPORT_VARLINK, TRANSPORT_DBUS };

struct config {
	char lockspace[DLMLOCK_NAME_MAX + 1];      /* where disks are locked by path */
	char lvm_lockspace[DLMLOCK_NAME_MAX + 1];  /* where logical volumes are locked by UUID; "": by path */
	char scsi_lockspace[DLMLOCK_NAME_MAX + 1]; /* where other block devices are locked by WWN; "": by path */
	char on_lost[DLMLOCK_NAME_MAX + 1]; /* the service's helper for lost locks; "": none */
	bool auto_disk_leases;
	bool require_lease_for_disks;
	enum readonly_policy readonly_disks;
	enum missing_policy on_service_missing;
	enum transport transport; /* how the service is called; auto: over Varlink where somebody listens */
	char varlink_socket[DLMLOCK_SOCKET_MAX + 1];
	uint64_t timeout_usec; /* bounds everything that libvirtd waits for */
};

/* Reads the file; a missing one means the defaults. On a mistake it writes "FILE:LINE: what" to why
 * and returns -1. */
int config_load(struct config *c, const char *path, char *why, size_t why_size);

/* paths.c: the paths that lead to one file */

struct paths {
	size_t count;
	char path[3][PATH_MAX]; /* cleaned, behind its last component's links, without links */
};

/* Writes an absolute path without "//" and "/./"; does not look at the file system. */
int paths_spelled(const char *path, char out[PATH_MAX]);
/* Looks at the file system. Returns -1 with errno if a component can't be examined; a missing one
 * is no failure. */
int paths_of(const char *path, struct paths *out);

/* mounts.c: where else a file is mounted */

/* Calls fn with each other path of the file at path, which must not contain links, through other
 * mounts of its file system, until fn returns something other than 0, and returns that; or -1 with
 * errno. */
int mounts_paths(const char *path, int (*fn)(void *p, const char *path), void *p);
/* Is the mount with this id the only one of its file system? False if that can't be told. */
bool mounts_alone(uint64_t id);
/* Frees what is kept for the next call. */
void mounts_close(void);

/* naming.c: the names of a disk */

#define DLMLOCK_NAMES_MAX 8

struct disk_name {
	const char *lockspace; /* in the config */
	char resource[DLMLOCK_NAME_MAX + 1];
};

struct disk_names {
	size_t count;
	struct disk_name list[DLMLOCK_NAMES_MAX];
	int unseen;          /* errno: the file is not there, or must not be looked at; 0: it was seen */
	unsigned long links; /* how many hard links the file has, if more than one; else 0 */
};

/* Where sysfs is mounted, and the file that distinguishes this boot of this host from all others.
 * Only tests change them. */
extern const char *naming_sysfs, *naming_boot;

/* Names the disk at path. A disk that does not exist, or must not be examined (EACCES: on NFS root
 * may be nobody), has only the names that follow from its spelling, and unseen says why. Returns -1
 * with errno for any other failure, and if a block device that should have a UUID or WWN can't be
 * examined. */
int naming_disk(const struct config *c, const char *path, struct disk_names *out);
/* naming_plain is naming_disk for the usual disk: a file without links, whose path has no redundant
 * parts, on a file system that is mounted once. It never waits for storage. Returns 1 if it has
 * named the disk, 0 if naming_disk has to. */
int naming_plain(const struct config *c, const char *path, struct disk_names *out);
/* naming_device is naming_disk for a block device whose number is known. */
int naming_device(const struct config *c, const char *path, dev_t device, struct disk_names *out);
/* naming_text adds the names that follow from the spelling; it does not look at the file system. */
int naming_text(const struct config *c, const char *path, struct disk_names *out);

/* look.c: examines disks without waiting longer than allowed */

struct seen {
	char *path;
	const char *of;          /* the transient disk that it is below of, or NULL */
	bool write;              /* the guest writes it */
	struct disk_names names; /* what was seen, if error is 0 */
	int error;               /* errno of naming_disk */
	bool in_use;             /* the process has it open */
};

/* Examines disks, and unless pid is 0 also whether that process has them open. Returns -1 with
 * errno ETIMEDOUT at the deadline (of clock_usec), or with the reason why it could not begin. */
int look_at(const struct config *c, struct seen *disks, size_t count, uint32_t pid, uint64_t deadline);

/* process.c */

/* Where proc is mounted. Only tests change it. */
extern const char *process_root;

/* Finds the start time of a process, in clock ticks since the boot (proc(5), field 22 of stat).
 * Returns -1 with errno; only ESRCH means that there is no such process. */
int process_start_time(uint32_t pid, uint64_t *start);

/* service.c: the calls of org.example.DlmLock */

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
	OUTCOME_HELD,    /* the owner has it already, in another mode */
	OUTCOME_MISSING, /* the service is not there, or nothing that leads to it */
	OUTCOME_NO_LOCKSPACE, /* the node has not joined it, so nothing is held in it */
	OUTCOME_FAILED,
};

struct request {
	const struct config *config; /* how to reach the service */
	const char *owner;
	uint32_t pid; /* whose end ends the locks */
	uint64_t start; /* its start time here: the service refuses if it is another there */
	const char *on_lost, *on_lost_data; /* the helper for lost locks and what it is told; NULL: none */
	const struct resource *resources;
	size_t count;
	uint64_t timeout_usec, deadline; /* how long is waited in all, and until when (of clock_usec) */
};

/* CLOCK_MONOTONIC in microseconds. */
uint64_t clock_usec(void);

/* Both may be called from any thread, and again after a failure: they ask for a state, not for a
 * change. what is the service's explanation of a failure. */
enum outcome service_acquire(const struct request *r, char *what, size_t what_size);
/* Also releases what the owner holds with the labels of the resources. */
enum outcome service_release(const struct request *r, char *what, size_t what_size);
/* Closes the connections that are kept for the next call. */
void service_close(void);

/* disks.c: from the disks of a domain to its locks */

struct disk {
	char *path;
	bool write; /* locked exclusively; otherwise shared */
};

/* What is known about one manager: one domain in one operation. */
struct domain {
	char uuid[37];
	char *name;
	char *uri; /* of the libvirtd that we are in; may be NULL */
	uint32_t pid;
	bool has_writable_disks;
	struct disk *disks;
	size_t disk_count;
	struct resource *resources;
	size_t count;
	size_t bases; /* where in resources the bases of transient disks begin; 0: there are none */
};

/* All of these return -1 after a failure, which they have reported. */

int disks_add(struct domain *d, const char *path, bool write);
/* Adds a lock to the list, with the label of the disk or lease "of". A domain may have a disk more
 * than once: then the stronger mode counts. */
int disks_lock(struct domain *d, const char *lockspace, const char *name, const char *mode, const char *path,
	       const char *of);
/* Adds the names of all disks to the list. */
int disks_name(struct domain *d, const struct config *c, uint64_t deadline);
/* Adds to the list what may be held for the disks, as far as it can be examined, but not what the
 * process pid still has open; that is not checked if pid is 0. */
int disks_name_held(struct domain *d, const struct config *c, uint32_t pid, uint64_t deadline);
/* Is the disk the image that the process reads below a transient disk? If so, the caller owns the
 * path of that disk. */
bool disks_below_transient(const struct domain *d, const struct config *c, uint32_t pid, uint64_t deadline,
			   char **overlay);
void disks_free(struct domain *d);

/* report.c: errors the way libvirt shows them */

enum report_code { REPORT_INTERNAL = 1, REPORT_FAILED = 9, REPORT_BUSY = 87 };

/* Sets libvirt's error of the calling thread. */
void report_at(enum report_code code, const char *file, const char *func, size_t line, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
#define report(code, ...) report_at(code, __FILE__, __func__, __LINE__, __VA_ARGS__)

#endif
