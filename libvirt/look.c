/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Examines the disks of a guest without waiting longer than allowed. If a file server does not
 * answer, a look at one of its paths takes until it does, and can't be interrupted; libvirtd has
 * the guest locked meanwhile, and every "virsh list" would wait for it. So a thread does it, on
 * copies of its own, which are freed by the last of the two to finish. Plain files, as most disks
 * are, are named without a thread: for them the kernel need not ask the storage. */
#define _GNU_SOURCE
#include "plugin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct look {
	atomic_int users;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool done;
	const struct config *config;
	uint32_t pid;
	size_t count;
	struct seen *disks;
};

/* Is the file that a process has open this one? This asks no file server. */
static bool same_file(int fds, const char *name, const struct statx *want)
{
	struct statx have;

	if (statx(fds, name, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &have) < 0 ||
	    (have.stx_mode & S_IFMT) != (want->stx_mode & S_IFMT))
		return false;
	if (S_ISBLK(want->stx_mode))
		return have.stx_rdev_major == want->stx_rdev_major && have.stx_rdev_minor == want->stx_rdev_minor;
	return have.stx_ino == want->stx_ino && have.stx_dev_major == want->stx_dev_major &&
	       have.stx_dev_minor == want->stx_dev_minor;
}

/* Does the process have this descriptor open for writing? proc(5), fdinfo. */
static bool written(uint32_t pid, const char *name)
{
	char path[64], line[256];
	unsigned int flags = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%u/fdinfo/%.20s", pid, name);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && sscanf(line, "flags: %o", &flags) != 1)
		;
	if (f)
		fclose(f);
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* Does the guest's QEMU still have a disk open in a way that needs the lock? This is asked when
 * libvirt has taken a disk away, because another disk of the guest may be the same file. An image
 * that is no longer written to and is read on as a backing file is not locked. A disk that can't be
 * examined is not in use: then it counts that libvirt has taken the disk away. */
static bool in_use(uint32_t pid, const struct seen *disk)
{
	struct statx want;
	struct dirent *e;
	char path[64];
	bool found = false;
	DIR *fds;

	if (statx(AT_FDCWD, disk->path, 0, STATX_TYPE | STATX_INO, &want) < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%u/fd", pid);
	fds = opendir(path);
	while (fds && !found && (e = readdir(fds)))
		found = same_file(dirfd(fds), e->d_name, &want) && (!disk->write || written(pid, e->d_name));
	if (fds)
		closedir(fds);
	return found;
}

static void put(struct look *l)
{
	if (atomic_fetch_sub(&l->users, 1) > 1)
		return;
	for (size_t i = 0; l->disks && i < l->count; i++)
		free(l->disks[i].path);
	free(l->disks);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->mutex);
	free(l);
}

static void *look(void *p)
{
	struct look *l = p;

	for (size_t i = 0; i < l->count; i++) {
		struct seen *d = &l->disks[i];

		d->error = naming_disk(l->config, d->path, &d->names) < 0 ? errno : 0;
		d->in_use = l->pid && in_use(l->pid, d);
	}
	pthread_mutex_lock(&l->mutex);
	l->done = true;
	pthread_cond_signal(&l->changed);
	pthread_mutex_unlock(&l->mutex);
	put(l);
	return NULL;
}

static struct look *prepare(const struct config *c, const struct seen *disks, size_t count, uint32_t pid)
{
	struct look *l = calloc(1, sizeof(*l));
	pthread_condattr_t clock;

	if (!l)
		return NULL;
	l->users = 1;
	l->config = c;
	l->pid = pid;
	pthread_mutex_init(&l->mutex, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&l->changed, &clock);
	pthread_condattr_destroy(&clock);
	l->disks = calloc(count, sizeof(*l->disks));
	for (; l->disks && l->count < count; l->count++) {
		l->disks[l->count] = disks[l->count];
		l->disks[l->count].path = strdup(disks[l->count].path);
		if (!l->disks[l->count].path)
			break;
	}
	if (l->count == count)
		return l;
	put(l);
	return NULL;
}

/* Starts the thread with all signals blocked, because they are meant for libvirtd. */
static int start(struct look *l)
{
	pthread_attr_t attr;
	sigset_t all, before;
	pthread_t thread;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	atomic_fetch_add(&l->users, 1);
	error = pthread_create(&thread, &attr, look, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (error)
		put(l);
	return error;
}

/* Waits until the thread has examined everything, or for the deadline. */
static int wait_for(struct look *l, uint64_t deadline)
{
	struct timespec until = {
		.tv_sec = (time_t)(deadline / 1000000), .tv_nsec = (long)(deadline % 1000000) * 1000,
	};
	int error = 0;

	pthread_mutex_lock(&l->mutex);
	while (!l->done && error == 0)
		error = pthread_cond_timedwait(&l->changed, &l->mutex, &until);
	if (l->done)
		error = 0;
	pthread_mutex_unlock(&l->mutex);
	return error;
}

/* Names disks that are plain files, which takes no time; most are. */
static bool all_plain(const struct config *c, struct seen *disks, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (naming_plain(c, disks[i].path, &disks[i].names) != 1)
			return false;
	}
	return true;
}

int look_at(const struct config *c, struct seen *disks, size_t count, uint32_t pid, uint64_t deadline)
{
	struct look *l;
	int error;

	if (count == 0 || (pid == 0 && all_plain(c, disks, count)))
		return 0;
	l = prepare(c, disks, count, pid);
	if (!l) {
		errno = ENOMEM;
		return -1;
	}
	error = start(l);
	if (!error)
		error = wait_for(l, deadline);
	for (size_t i = 0; !error && i < count; i++) {
		disks[i].names = l->disks[i].names;
		disks[i].error = l->disks[i].error;
		disks[i].in_use = l->disks[i].in_use;
	}
	put(l);
	errno = error;
	return error ? -1 : 0;
}
