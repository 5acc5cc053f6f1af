/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * libvirt's lock driver interface, seen from libvirtd's side (see ../plugin.c for
 * the other one). */
#ifndef DLMLOCK_DRIVER_H
#define DLMLOCK_DRIVER_H

#include <stddef.h>

enum { ACQUIRE_REGISTER_ONLY = 1 << 0, ACQUIRE_RESTRICT = 1 << 1 };
enum { OBJECT_DOMAIN = 0 };
enum { RESOURCE_DISK = 0, RESOURCE_LEASE = 1 };
enum { PARAM_STRING = 0, PARAM_CSTRING = 1, PARAM_UINT = 4, PARAM_ULONG = 5, PARAM_UUID = 7 };

struct manager {
	void *driver;
	void *private;
};

struct param {
	int type;
	const char *key;
	union {
		unsigned int ui;
		unsigned long long ul;
		const char *str;
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

/* What a guest is to the lock driver. */
struct guest {
	unsigned char uuid[16];
	const char *name;
	unsigned int pid;
};

/* Loads a lock driver; ends the program if that can't be done. */
struct driver *driver_load(const char *so);
/* Makes a manager as libvirtd does. */
int driver_new(struct driver *d, struct manager *m, const struct guest *g);

/* The last error that the driver has reported in this thread, or "". */
const char *last_error(void);
void clear_error(void);

/* bench.c */
int bench(int argc, char **argv);

/* raw.c */
int raw(int argc, char **argv);

#endif
