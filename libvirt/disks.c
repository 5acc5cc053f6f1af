/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * From the disks of a domain to its locks: each disk has some names (naming.c), which all carry its
 * label and are locked in one call. So a release finds everything by the label, even if a link has
 * changed since, or an older driver took the locks. */
#define _GNU_SOURCE
#include "plugin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

/* For a <transient/> disk IMG libvirt makes the guest write to IMG.TRANSIENT-NAME, a file that it
 * creates and removes itself. It does not say that the guest reads IMG. */
#define TRANSIENT ".TRANSIENT-"

static int out_of_memory(void)
{
	report(REPORT_INTERNAL, "out of memory");
	return -1;
}

int disks_lock(struct domain *d, const char *lockspace, const char *name, const char *mode, const char *path,
	       const char *of)
{
	struct resource r = { .mode = mode }, *more;

	for (size_t i = 0; i < d->count; i++) {
		struct resource *have = &d->resources[i];

		if (strcmp(have->lockspace, lockspace) != 0 || strcmp(have->name, name) != 0)
			continue;
		if (strcmp(mode, "EX") == 0)
			have->mode = mode;
		return 0;
	}
	more = reallocarray(d->resources, d->count + 1, sizeof(*more));
	if (!more)
		return out_of_memory();
	d->resources = more;
	strcpy(r.lockspace, lockspace);
	strcpy(r.name, name);
	r.path = strdup(path);
	if (!r.path || asprintf(&r.label, "%s: %s", d->name, of) < 0) {
		free(r.path);
		return out_of_memory();
	}
	d->resources[d->count++] = r;
	return 0;
}

int disks_add(struct domain *d, const char *path, bool write)
{
	struct disk *more = reallocarray(d->disks, d->disk_count + 1, sizeof(*more)), new = { .write = write };

	if (!more)
		return out_of_memory();
	d->disks = more;
	new.path = strdup(path);
	if (!new.path)
		return out_of_memory();
	d->disks[d->disk_count++] = new;
	return 0;
}

void disks_free(struct domain *d)
{
	for (size_t i = 0; i < d->count; i++) {
		free(d->resources[i].label);
		free(d->resources[i].path);
	}
	for (size_t i = 0; i < d->disk_count; i++)
		free(d->disks[i].path);
	free(d->resources);
	free(d->disks);
}

static int lock_names(struct domain *d, const struct disk_names *names, const char *mode, const char *path,
		      const char *of)
{
	for (size_t i = 0; i < names->count; i++) {
		if (disks_lock(d, names->list[i].lockspace, names->list[i].resource, mode, path, of) < 0)
			return -1;
	}
	return 0;
}

/* Makes the path of the image that the guest reads below a transient disk. NULL: there is none. */
static char *base_of(const struct domain *d, const char *path)
{
	size_t n = strlen(path), end = strlen(TRANSIENT) + strlen(d->name);

	if (n <= end || strncmp(path + n - end, TRANSIENT, strlen(TRANSIENT)) != 0 ||
	    strcmp(path + n - strlen(d->name), d->name) != 0)
		return NULL;
	return strndup(path, n - end);
}

/* Warns the administrator about what the names can't cover. */
static void warn(const struct domain *d, const struct seen *s)
{
	if (s->names.links)
		syslog(LOG_DAEMON | LOG_WARNING,
		       "dlmlock: domain %s: '%s' is a file with %lu names (hard links): a guest that uses another of "
		       "them is refused on this host, but not on other hosts", d->name, s->path, s->names.links);
	if (s->names.unseen)
		syslog(LOG_DAEMON | LOG_WARNING,
		       "dlmlock: domain %s: '%s' can't be examined (%s), so it is locked only under its path as spelled", d->name,
		       s->path, strerror(s->names.unseen));
}

static int cannot(const struct domain *d, const char *path, int error, uint64_t timeout_usec)
{
	if (error == ETIMEDOUT)
		report(REPORT_FAILED, "the disks of domain '%s' can't be examined: their storage has not answered for %u s",
		       d->name, (unsigned)(timeout_usec / 1000000));
	else
		report(REPORT_FAILED, "the disk '%s' of domain '%s' can't be identified: %s", path, d->name,
		       strerror(error));
	return -1;
}

/* What is examined: the disks, followed by the images below the transient ones. */
struct views {
	struct seen *list;
	size_t count;
};

static void views_free(struct views *v)
{
	for (size_t i = 0; v->list && i < v->count; i++)
		free(v->list[i].path);
	free(v->list);
}

static int views_make(const struct domain *d, struct views *v)
{
	v->count = 0;
	v->list = calloc(2 * d->disk_count + 1, sizeof(*v->list));
	if (!v->list)
		return out_of_memory();
	for (size_t i = 0; i < d->disk_count; i++) {
		v->list[i].write = d->disks[i].write;
		v->list[i].path = strdup(d->disks[i].path);
		v->count++;
		if (!v->list[i].path)
			return out_of_memory();
	}
	for (size_t i = 0; i < d->disk_count; i++) {
		char *base = base_of(d, d->disks[i].path);

		if (!base)
			continue;
		v->list[v->count].path = base;
		v->list[v->count++].of = d->disks[i].path;
	}
	return 0;
}

static int take_names(struct domain *d, const struct views *v)
{
	for (size_t i = 0; i < v->count; i++) {
		const struct seen *s = &v->list[i];
		bool base = s->of != NULL;

		if (s->error)
			return cannot(d, s->path, s->error, 0);
		warn(d, s);
		if (base && !d->bases)
			d->bases = d->count;
		if (lock_names(d, &s->names, s->write ? "EX" : "PR", s->path, base ? s->of : s->path) < 0)
			return -1;
	}
	return 0;
}

int disks_name(struct domain *d, const struct config *c, uint64_t deadline)
{
	struct views v;
	int r = views_make(d, &v);

	if (r == 0 && (r = look_at(c, v.list, v.count, 0, deadline)) < 0)
		cannot(d, d->disks[0].path, errno, c->timeout_usec);
	if (r == 0)
		r = take_names(d, &v);
	views_free(&v);
	return r;
}

int disks_name_held(struct domain *d, const struct config *c, uint32_t pid, uint64_t deadline)
{
	struct disk_names text;
	struct views v;
	bool looked;
	int r = views_make(d, &v);

	looked = r == 0 && look_at(c, v.list, v.count, pid, deadline) == 0;
	for (size_t i = 0; r == 0 && i < v.count; i++) {
		const struct seen *s = &v.list[i];
		const struct disk_names *names = &s->names;

		if (looked && s->in_use && !s->of) {
			syslog(LOG_DAEMON | LOG_INFO,
			       "dlmlock: domain %s keeps its lock on '%s', which its QEMU still has open", d->name,
			       s->path);
			continue;
		}
		if (!looked || s->error) {
			if (naming_text(c, s->path, &text) < 0)
				continue; /* the label finds it */
			names = &text;
		}
		r = lock_names(d, names, s->write ? "EX" : "PR", s->path, s->of ? s->of : s->path);
	}
	views_free(&v);
	return r;
}

bool disks_below_transient(const struct domain *d, const struct config *c, uint32_t pid, uint64_t deadline,
			   char **overlay)
{
	struct seen s = { .write = true };
	bool is;

	*overlay = NULL;
	if (d->disk_count != 1 || asprintf(&s.path, "%s" TRANSIENT "%s", d->disks[0].path, d->name) < 0)
		return false;
	is = look_at(c, &s, 1, pid, deadline) == 0 && s.in_use;
	if (is)
		*overlay = s.path;
	else
		free(s.path);
	return is;
}
