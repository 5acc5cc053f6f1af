/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The lock driver "dlmlock" of libvirt: the table of functions that libvirtd takes from dlmlock.so,
 * and what each of them does with the locks.
 *
 * libvirtd makes a manager for every operation on a domain, adds the disks and leases, calls
 * Acquire or Release once, and frees it. Nothing is kept in between: the service knows what is
 * held, under an owner that consists of the domain's UUID, the pid of its QEMU and that process's
 * start time. Both sides of a migration have the same UUID; with the UUID alone as the owner, the
 * end of the source would release the destination's disks. The end of the process ends the locks
 * (lifetime "process"), because libvirtd makes no call when a guest dies.
 *
 * The ABI is that of libvirt's src/locking/lock_driver.h, version 1.0.0, which has not changed from
 * libvirt 9.0 to 12.8. It is repeated here so that the driver needs none of libvirt's headers or
 * libraries. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#define ABI_VERSION 1000000
#define EXPORT __attribute__((visibility("default")))

enum { ACQUIRE_REGISTER_ONLY = 1 << 0, ACQUIRE_RESTRICT = 1 << 1 };
enum { RESOURCE_READONLY = 1 << 0, RESOURCE_SHARED = 1 << 1 };
/* The values of the domain's <on_lockfailure>. */
enum { ACTION_DEFAULT, ACTION_POWEROFF, ACTION_RESTART, ACTION_PAUSE, ACTION_IGNORE };
enum { OBJECT_DOMAIN = 0 };
enum { RESOURCE_DISK = 0, RESOURCE_LEASE = 1 };
enum param_type { PARAM_STRING, PARAM_CSTRING, PARAM_INT, PARAM_LONG, PARAM_UINT, PARAM_ULONG, PARAM_DOUBLE,
		 PARAM_UUID };

struct driver;

struct manager {
	struct driver *driver;
	void *private;
};

struct param {
	int type; /* enum param_type */
	const char *key;
	union {
		int i;
		long long l;
		unsigned int ui;
		unsigned long long ul;
		double d;
		char *str;
		const char *cstr;
		unsigned char uuid[16];
	} value;
};

struct driver {
	unsigned int version;
	unsigned int flags;
	int (*init)(unsigned int version, const char *config_file, unsigned int flags);
	int (*deinit)(void);
	int (*new)(struct manager *m, unsigned int type, size_t nparams, struct param *params, unsigned int flags);
	void (*free)(struct manager *m);
	int (*add_resource)(struct manager *m, unsigned int type, const char *name, size_t nparams, struct param *params,
			    unsigned int flags);
	int (*acquire)(struct manager *m, const char *state, unsigned int flags, int action, int *fd);
	int (*release)(struct manager *m, char **state, unsigned int flags);
	int (*inquire)(struct manager *m, char **state, unsigned int flags);
};

_Static_assert(sizeof(struct param) == 32, "libvirt's virLockManagerParam");
_Static_assert(sizeof(struct driver) == 72, "libvirt's virLockDriver");

static struct config config; /* written by init alone, before anything else is called */

static int drv_init(unsigned int version, const char *config_file, unsigned int flags)
{
	char why[512];

	(void)flags;
	if (version / 1000000 != ABI_VERSION / 1000000) {
		report(REPORT_INTERNAL, "this libvirt has version %u of the lock driver interface, dlmlock has %u", version,
		       ABI_VERSION);
		return -1;
	}
	/* libvirtd must start even without the service. */
	if (config_load(&config, config_file, why, sizeof(why)) < 0) {
		report(REPORT_INTERNAL, "%s", why);
		return -1;
	}
	return 0;
}

static int drv_deinit(void)
{
	service_close();
	mounts_close();
	return 0;
}

static void drv_free(struct manager *m)
{
	struct domain *d = m->private;

	m->private = NULL;
	if (!d)
		return;
	disks_free(d);
	free(d->name);
	free(d->uri);
	free(d);
}

static int out_of_memory(void)
{
	report(REPORT_INTERNAL, "out of memory");
	return -1;
}

static void format_uuid(const unsigned char u[16], char out[37])
{
	snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3],
		 u[4], u[5], u[6],
		 u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static int drv_new(struct manager *m, unsigned int type, size_t nparams, struct param *params, unsigned int flags)
{
	struct domain *d;

	(void)flags;
	m->private = NULL;
	if (type != OBJECT_DOMAIN) {
		report(REPORT_INTERNAL, "dlmlock can't lock objects of type %u, only domains", type);
		return -1;
	}
	d = m->private = calloc(1, sizeof(*d));
	if (!d)
		return out_of_memory();
	for (size_t i = 0; i < nparams; i++) {
		const struct param *p = &params[i];

		if (strcmp(p->key, "uuid") == 0 && p->type == PARAM_UUID)
			format_uuid(p->value.uuid, d->uuid);
		else if (strcmp(p->key, "name") == 0 && p->type == PARAM_STRING && p->value.str && !d->name)
			d->name = strdup(p->value.str);
		else if (strcmp(p->key, "pid") == 0 && p->type == PARAM_UINT)
			d->pid = p->value.ui;
		else if (strcmp(p->key, "uri") == 0 && p->type == PARAM_CSTRING && p->value.cstr && !d->uri)
			d->uri = strdup(p->value.cstr);
		/* id, and what later releases add, are not needed. */
	}
	if (!d->uuid[0] || !d->name) {
		report(REPORT_INTERNAL, "libvirt has not told the domain's uuid and name");
		drv_free(m);
		return -1;
	}
	return 0;
}

static int add_disk(struct domain *d, const char *path, unsigned int flags)
{
	bool write = !(flags & (RESOURCE_READONLY | RESOURCE_SHARED));

	d->has_writable_disks |= write;
	if (!config.auto_disk_leases || ((flags & RESOURCE_READONLY) && config.readonly_disks == READONLY_IGNORE))
		return 0;
	return disks_add(d, path, write);
}

static const char *text_param(size_t nparams, const struct param *params, const char *key)
{
	for (size_t i = 0; i < nparams; i++) {
		if (strcmp(params[i].key, key) == 0 && (params[i].type == PARAM_STRING || params[i].type == PARAM_CSTRING))
			return params[i].value.cstr;
	}
	return NULL;
}

static int add_lease(struct domain *d, const char *key, size_t nparams, const struct param *params,
		     unsigned int flags)
{
	const char *lockspace = text_param(nparams, params, "lockspace");
	char path[2 * DLMLOCK_NAME_MAX + 2];

	if (!lockspace || !*lockspace)
		lockspace = config.lockspace;
	if (strlen(lockspace) > DLMLOCK_NAME_MAX || strlen(key) > DLMLOCK_NAME_MAX || !*key) {
		report(REPORT_FAILED, "the lease '%s' of domain '%s': lockspace and key have 1 to %d bytes each", key, d->name,
		       DLMLOCK_NAME_MAX);
		return -1;
	}
	snprintf(path, sizeof(path), "%s/%s", lockspace, key);
	return disks_lock(d, lockspace, key, flags & (RESOURCE_READONLY | RESOURCE_SHARED) ? "PR" : "EX", path, path);
}

static int drv_add_resource(struct manager *m, unsigned int type, const char *name, size_t nparams,
			    struct param *params, unsigned int flags)
{
	struct domain *d = m->private;

	switch (type) {
	case RESOURCE_DISK:
		return add_disk(d, name, flags);
	case RESOURCE_LEASE:
		return add_lease(d, name, nparams, params, flags);
	}
	report(REPORT_INTERNAL, "dlmlock can't lock resources of type %u of domain '%s'", type, d->name);
	return -1;
}

/* The owner of a domain's locks. */
struct owner {
	char name[128];
	uint64_t start;
};

/* Makes the owner. Returns -1 with errno; only ESRCH means that there is no such process. */
static int find_owner(const struct domain *d, struct owner *o)
{
	if (process_start_time(d->pid, &o->start) < 0)
		return -1;
	snprintf(o->name, sizeof(o->name), "%s/%u/%llu", d->uuid, d->pid, (unsigned long long)o->start);
	return 0;
}

/* Finds the disk that the service's message is about, so that a person reads a path instead of a
 * hash. */
static const char *culprit(const struct domain *d, const char *what)
{
	for (size_t i = 0; i < d->count; i++) {
		if (strstr(what, d->resources[i].name))
			return d->resources[i].path;
	}
	return d->resources[0].path;
}

static int refused(const struct domain *d, enum outcome o, const char *what)
{
	switch (o) {
	case OUTCOME_BUSY:
	case OUTCOME_HELD:
		report(REPORT_BUSY, "domain '%s' can't have '%s', it is in use: %s; "
		       "stop the guest that has it first, or wait until it has released it",
		       d->name, culprit(d, what), what);
		return -1;
	case OUTCOME_MISSING:
		if (config.on_service_missing == MISSING_ALLOW) {
			syslog(LOG_DAEMON | LOG_WARNING, "dlmlock: domain %s runs WITHOUT LOCKS on its disks (on_service_missing): %s",
			       d->name, what);
			return 0;
		}
		break;
	case OUTCOME_OK:
	case OUTCOME_NO_LOCKSPACE:
	case OUTCOME_FAILED:
		break;
	}
	report(REPORT_FAILED, "the disks of domain '%s' can't be locked: %s", d->name, what);
	return -1;
}

/* Names the helper that acts if a lock is lost. Its data says what the domain wants and where the
 * domain is: "ACTION URI". */
static void guard(struct request *r, const struct domain *d, int action, char *data, size_t size)
{
	static const char *const words[] = {
		[ACTION_DEFAULT] = "default", [ACTION_POWEROFF] = "poweroff", [ACTION_RESTART] = "restart",
			[ACTION_PAUSE] = "pause",
	};

	if (!config.on_lost[0] || action == ACTION_IGNORE)
		return;
	if (action < 0 || (size_t)action >= sizeof(words) / sizeof(*words))
		action = ACTION_DEFAULT;
	snprintf(data, size, "%s %s", words[action], d->uri ? d->uri : "qemu:///system");
	r->on_lost = config.on_lost;
	r->on_lost_data = data;
}

/* Acquires what is named in the domain, and the images below its transient disks. While libvirt
 * attaches such a disk, the guest still has the image below it exclusively: then it stays so until
 * libvirt releases it (keep_base). */
static int acquire(struct domain *d, struct request *r)
{
	char what[1024];
	enum outcome o;

	r->resources = d->resources;
	r->count = d->count;
	o = service_acquire(r, what, sizeof(what));
	if (o == OUTCOME_HELD && d->bases) {
		r->count = d->bases;
		o = service_acquire(r, what, sizeof(what));
	}
	return o == OUTCOME_OK ? 0 : refused(d, o, what);
}

static int drv_acquire(struct manager *m, const char *state, unsigned int flags, int action, int *fd)
{
	struct domain *d = m->private;
	struct request r = {
		.config = &config, .pid = d->pid, .timeout_usec = config.timeout_usec,
		.deadline = clock_usec() + config.timeout_usec,
	};
	struct owner own;
	char data[512];

	(void)state;
	if (fd)
		*fd = -1;
	/* The call of the forked child. The process is watched from the first real acquire on; there is
	 * nothing to tell the service yet. */
	if (flags & ACQUIRE_REGISTER_ONLY)
		return 0;
	if (d->count == 0 && d->disk_count == 0 && d->has_writable_disks && config.require_lease_for_disks) {
		report(REPORT_FAILED, "domain '%s' has disks that it may write, and no lease; add a <lease>, or set "
		       "auto_disk_leases or require_lease_for_disks in qemu-dlmlock.conf", d->name);
		return -1;
	}
	if (d->count == 0 && d->disk_count == 0)
		return 0;
	if (find_owner(d, &own) < 0) {
		if (errno == ESRCH)
			report(REPORT_FAILED, "domain '%s' has no process that could hold locks (pid %u)", d->name, d->pid);
		else
			report(REPORT_FAILED, "the process of domain '%s' (pid %u) can't be examined: %s", d->name, d->pid,
			       strerror(errno));
		return -1;
	}
	if (disks_name(d, &config, r.deadline) < 0)
		return -1;
	r.owner = own.name;
	r.start = own.start;
	guard(&r, d, action, data, sizeof(data));
	return acquire(d, &r);
}

/* libvirt releases the image below a transient disk, which the guest goes on reading: it stays
 * locked, shared. */
static void keep_base(const struct domain *d, struct request *r)
{
	struct domain again = { .name = d->name, .uri = d->uri, .pid = d->pid };
	char *overlay, data[512];

	if (!disks_below_transient(d, &config, d->pid, r->deadline, &overlay))
		return;
	r->pid = d->pid;
	guard(r, d, ACTION_DEFAULT, data, sizeof(data));
	if (disks_add(&again, overlay, true) < 0 || disks_name(&again, &config, r->deadline) < 0 || acquire(&again, r) < 0)
		syslog(LOG_DAEMON | LOG_WARNING, "dlmlock: domain %s reads '%s', the image below '%s', without a lock on it",
		       d->name,
		       d->disks[0].path, overlay);
	disks_free(&again);
	free(overlay);
}

static int drv_release(struct manager *m, char **state, unsigned int flags)
{
	struct domain *d = m->private;
	struct request r = {
		.config = &config, .timeout_usec = config.timeout_usec, .deadline = clock_usec() + config.timeout_usec,
	};
	bool one = !state; /* a disk that is detached, and not all that a guest has which is paused */
	struct owner own;
	char what[1024];
	enum outcome o;

	(void)flags;
	if (state)
		*state = NULL;
	if (d->count == 0 && d->disk_count == 0)
		return 0;
	if (find_owner(d, &own) < 0) {
		if (errno == ESRCH)
			return 0; /* The locks have gone with it. */
		report(REPORT_FAILED, "the process of domain '%s' (pid %u) can't be examined, so its locks stay: %s",
		       d->name, d->pid, strerror(errno));
		return -1;
	}
	if (disks_name_held(d, &config, one ? d->pid : 0, r.deadline - r.timeout_usec / 2) < 0)
		return -1;
	if (d->count == 0)
		return 0;
	r.owner = own.name;
	r.resources = d->resources;
	r.count = d->count;
	r.start = own.start;
	o = service_release(&r, what, sizeof(what));
	if (o == OUTCOME_OK && one)
		keep_base(d, &r);
	if (o == OUTCOME_OK || o == OUTCOME_NO_LOCKSPACE)
		return 0;
	if (o == OUTCOME_MISSING && config.on_service_missing == MISSING_ALLOW) {
		syslog(LOG_DAEMON | LOG_WARNING, "dlmlock: the locks of domain %s are not released before its QEMU ends: %s",
		       d->name, what);
		return 0;
	}
	report(REPORT_FAILED, "the locks on the disks of domain '%s' can't be released: %s", d->name, what);
	return -1;
}

static int drv_inquire(struct manager *m, char **state, unsigned int flags)
{
	(void)m;
	(void)flags;
	if (state)
		*state = NULL;
	return 0;
}

EXPORT struct driver virLockDriverImpl = {
	.version = ABI_VERSION,
	.flags = 0,
	.init = drv_init,
	.deinit = drv_deinit,
	.new = drv_new,
	.free = drv_free,
	.add_resource = drv_add_resource,
	.acquire = drv_acquire,
	.release = drv_release,
	.inquire = drv_inquire,
};
