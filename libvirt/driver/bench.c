/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Measures a lock driver, driven as libvirtd drives it:
 *
 *   driver LOCKDRIVER.so bench CONFIG WORKERS DISKS SECONDS [PRELOAD.so]
 *
 * Each worker is a thread with a guest (a process that sleeps) and DISKS disks of
 * its own, which it acquires and releases without pause. Printed are pairs of
 * Acquire and Release per second, and the median, the 99th percentile and the
 * longest of the Acquires in microseconds. With "die" instead of SECONDS a further
 * guest with locks dies ten times a second meanwhile, for two seconds. */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES (1 << 20)

struct worker {
	struct driver *driver;
	struct guest guest;
	int index, disks;
	pthread_t thread;
	uint64_t pairs, samples;
	uint32_t *usec;
	int failed;
	char why[2600];
};

static atomic_int stop;
static const char *(*libvirt_error)(void); /* of libvirt's own driver */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* Where the images are: files, because a lock driver may examine them. */
static char images[] = "/dev/shm/lockdriver-XXXXXX";

static void image(int guest, int disk, char *path, size_t size)
{
	snprintf(path, size, "%s/guest%d-disk%d.img", images, guest, disk);
}

/* Creates the images of a guest, or removes them. */
static void each_image(int guest, int disks, bool make)
{
	for (int i = 0; i < disks; i++) {
		char path[64];
		FILE *f;

		image(guest, i, path, sizeof(path));
		if (!make)
			unlink(path);
		else if (!(f = fopen(path, "we")) || fclose(f) != 0)
			abort();
	}
}

enum verb { ACQUIRE, RELEASE, REGISTER };

/* One operation: New, AddResource for each disk, Acquire or Release, Free. */
static int operation(struct worker *w, enum verb verb)
{
	static int fd = -1; /* stays open, as in QEMU */
	struct manager m;
	char *state;
	int r = 0;

	if (driver_new(w->driver, &m, &w->guest) < 0)
		return -1;
	for (int i = 0; i < w->disks && r == 0; i++) {
		char path[64];

		image(w->index, i, path, sizeof(path));
		r = w->driver->add_resource(&m, RESOURCE_DISK, path, 0, NULL, 0);
	}
	/* Only the child that becomes QEMU requests lockd.so's connection. */
	if (r == 0 && verb == REGISTER)
		r = w->driver->acquire(&m, NULL, ACQUIRE_REGISTER_ONLY | ACQUIRE_RESTRICT, 0, &fd);
	else if (r == 0)
		r = verb == RELEASE ? w->driver->release(&m, &state, 0) : w->driver->acquire(&m, NULL, 0, 0, NULL);
	w->driver->free(&m);
	return r;
}

static void *work(void *p)
{
	struct worker *w = p;

	while (!stop && !w->failed) {
		uint64_t began = now(), took;

		w->failed = operation(w, ACQUIRE) < 0;
		took = now() - began;
		w->failed = w->failed || operation(w, RELEASE) < 0;
		if (w->failed)
			snprintf(w->why, sizeof(w->why), "%s%s", last_error(), libvirt_error ? libvirt_error() : "");
		if (w->samples < SAMPLES)
			w->usec[w->samples++] = (uint32_t)took;
		w->pairs++;
	}
	return NULL;
}

static unsigned int sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		for (;;)
			pause();
	}
	return (unsigned int)pid;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

#define DEATHS 20

/* A guest that dies. Its process registers itself when told to. */
struct mortal {
	struct worker worker;
	int told[2], done[2];
};

static struct mortal mortals[DEATHS];

/* Starts the guests that will die, before there are threads. */
static void prepare_deaths(struct driver *d, int disks)
{
	for (int i = 0; i < DEATHS; i++) {
		struct mortal *m = &mortals[i];
		struct worker *w = &m->worker;
		pid_t pid;
		char c;

		*w = (struct worker){ .driver = d, .index = 1000 + i, .disks = disks };
		w->guest.uuid[0] = 0xdd;
		w->guest.uuid[1] = (unsigned char)i;
		w->guest.name = "dies";
		each_image(w->index, disks, true);
		if (pipe(m->told) < 0 || pipe(m->done) < 0 || (pid = fork()) < 0)
			abort();
		w->guest.pid = (unsigned int)(pid ? pid : getpid());
		if (pid != 0)
			continue;
		if (read(m->told[0], &c, 1) == 1 && operation(w, REGISTER) == 0 && write(m->done[1], &c, 1) == 1)
			for (;;)
				pause();
		_exit(1);
	}
}

/* Lets a guest that holds locks die every tenth of a second, for two seconds. */
static void deaths(void)
{
	for (int i = 0; i < DEATHS; i++) {
		struct mortal *m = &mortals[i];
		char c = 'x';

		if (write(m->told[1], &c, 1) != 1 || read(m->done[0], &c, 1) != 1 || operation(&m->worker, ACQUIRE) < 0)
			fprintf(stderr, "acquire of the guest that dies: %s\n", last_error());
		kill((pid_t)m->worker.guest.pid, SIGKILL);
		usleep(2000); /* QEMU is nobody's child; init takes as long */
		waitpid((pid_t)m->worker.guest.pid, NULL, 0);
		usleep(98000);
	}
}

static void start(struct worker *w, struct driver *d, int index, int disks)
{
	memset(w, 0, sizeof(*w));
	w->driver = d;
	w->index = index;
	w->disks = disks;
	w->guest.uuid[0] = 0xbe;
	w->guest.uuid[15] = (unsigned char)index;
	w->guest.name = "bench";
	each_image(index, disks, true);
	w->guest.pid = sleeper();
	w->usec = calloc(SAMPLES, sizeof(*w->usec));
	if (!w->usec)
		abort();
}

static int finish(struct worker *workers, int count, double seconds)
{
	uint32_t *all = calloc((size_t)count * SAMPLES, sizeof(*all));
	uint64_t pairs = 0;
	size_t n = 0;
	int failed = !all;

	for (int i = 0; i < count; i++) {
		struct worker *w = &workers[i];

		if (w->failed)
			fprintf(stderr, "worker %d: %s\n", i, w->why);
		failed |= w->failed;
		pairs += w->pairs;
		if (all)
			memcpy(all + n, w->usec, w->samples * sizeof(*all));
		n += w->samples;
		free(w->usec);
		each_image(w->index, w->disks, false);
		kill((pid_t)w->guest.pid, SIGKILL);
		waitpid((pid_t)w->guest.pid, NULL, 0);
	}
	if (!failed && n > 0) {
		qsort(all, n, sizeof(*all), compare);
		printf("%.0f %u %u %u\n", (double)pairs / seconds, all[n / 2], all[n - 1 - n / 100], all[n - 1]);
	}
	free(all);
	return failed;
}

int bench(int argc, char **argv)
{
	struct worker *workers;
	struct driver *d;
	int count, disks, die;
	uint64_t began;

	if (argc < 7) {
		fprintf(stderr, "usage: %s LOCKDRIVER.so bench CONFIG WORKERS DISKS SECONDS|die [PRELOAD.so]\n", argv[0]);
		return 2;
	}
	count = atoi(argv[4]);
	disks = atoi(argv[5]);
	die = strcmp(argv[6], "die") == 0;
	if (argc > 7) {
		void *libvirt = dlopen(argv[7], RTLD_NOW | RTLD_GLOBAL);
		int (*initialize)(void) = NULL;

		if (!libvirt) {
			fprintf(stderr, "%s\n", dlerror());
			return 2;
		}
		*(void **)&initialize = dlsym(libvirt, "virInitialize");
		*(void **)&libvirt_error = dlsym(libvirt, "virGetLastErrorMessage");
		if (initialize)
			initialize();
	}
	d = driver_load(argv[1]);
	workers = calloc((size_t)count, sizeof(*workers));
	if (!workers || d->init(d->version, argv[3], 0) < 0) {
		fprintf(stderr, "init: %s\n", last_error());
		return 1;
	}
	if (!mkdtemp(images))
		abort();
	if (die)
		prepare_deaths(d, disks);
	for (int i = 0; i < count; i++)
		start(&workers[i], d, i, disks);
	began = now();
	for (int i = 0; i < count; i++) {
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			abort();
	}
	if (die)
		deaths();
	else
		usleep((useconds_t)(atof(argv[6]) * 1e6));
	stop = 1;
	for (int i = 0; i < count; i++)
		pthread_join(workers[i].thread, NULL);
	count = finish(workers, count, (double)(now() - began) / 1e6);
	free(workers);
	for (int i = 0; i < DEATHS && die; i++)
		each_image(mortals[i].worker.index, disks, false);
	rmdir(images);
	return count;
}
