/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * Measures a protocol, without a lock driver:
 *
 *   driver raw SOCKET varlink|virtlockd|virtlockd=DIRECTORY WORKERS SECONDS
 *
 * virtlockd locks a file by its path, as with libvirt's defaults, or a name in the DIRECTORY of
 * file_lockspace_dir. Each worker is a thread with a connection that it keeps, and with a guest (a
 * process that sleeps), for which it acquires and releases one lock without pause. Printed is what
 * bench.c prints. */
#define _GNU_SOURCE
#include "driver.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES (1 << 20)
#define REPLY_LENGTH 28 /* of virtlockd's good replies */

struct message {
	unsigned char bytes[1024];
	size_t length;
};

struct worker {
	const char *socket;
	const char *directory; /* NULL: none */
	bool varlink;
	int index, fd;
	pid_t guest;
	pthread_t thread;
	struct message acquire, release;
	uint64_t pairs;
	size_t samples;
	uint32_t *usec;
};

static atomic_int stop;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* virtlockd's messages: XDR (RFC 4506). */

static void number(struct message *m, uint32_t n)
{
	n = htonl(n);
	memcpy(m->bytes + m->length, &n, sizeof(n));
	m->length += sizeof(n);
}

static void text(struct message *m, const char *s)
{
	size_t n = strlen(s);

	number(m, (uint32_t)n);
	memcpy(m->bytes + m->length, s, n);
	m->length += (n + 3) / 4 * 4;
}

static void begin(struct message *m, uint32_t procedure)
{
	memset(m, 0, sizeof(*m));
	number(m, 0); /* the length, see end */
	number(m, 0x0EA7BEEF);
	number(m, 1);
	number(m, procedure);
	number(m, 0);
	number(m, 0);
	number(m, 0);
}

static void end(struct message *m)
{
	uint32_t n = htonl((uint32_t)m->length);

	memcpy(m->bytes, &n, sizeof(n));
}

static void call(struct worker *w, const struct message *m)
{
	unsigned char reply[4096];
	size_t got = 0;

	if (send(w->fd, m->bytes, m->length, MSG_NOSIGNAL) != (ssize_t)m->length)
		die("send");
	do {
		ssize_t n = recv(w->fd, reply + got, sizeof(reply) - got, 0);

		if (n <= 0)
			die("recv");
		got += (size_t)n;
	} while (w->varlink ? reply[got - 1] != '\0' : got < REPLY_LENGTH);
	if (w->varlink ? memmem(reply, got, "\"error\"", 7) != NULL : reply[27] != 0) {
		fprintf(stderr, "refused: %.*s\n", (int)got, reply);
		exit(1);
	}
}

/* The file that a worker's guest uses. */
static void image(const struct worker *w, char *path, size_t size)
{
	snprintf(path, size, "/dev/shm/lockdriver-raw-%d-%d.img", (int)getpid(), w->index);
}

static void prepare_virtlockd(struct worker *w)
{
	struct message m;
	char path[80];

	begin(&m, 1);
	m.bytes[m.length] = 0xbe;
	m.bytes[m.length + 15] = (unsigned char)w->index;
	m.length += 16;
	text(&m, "raw");
	number(&m, 1);
	number(&m, (uint32_t)w->guest);
	number(&m, 0);
	end(&m);
	call(w, &m);
	image(w, path, sizeof(path));
	fclose(fopen(path, "we"));
	if (w->directory) {
		begin(&m, 8);
		text(&m, w->directory);
		end(&m);
		call(w, &m);
		snprintf(path, sizeof(path), "%063d%d", (int)getpid(), w->index % 10);
	}
	begin(&w->acquire, 6);
	text(&w->acquire, w->directory ? w->directory : "");
	text(&w->acquire, path);
	number(&w->acquire, w->directory ? 2 : 0); /* the driver has its file made then */
	end(&w->acquire);
	begin(&w->release, 7);
	text(&w->release, w->directory ? w->directory : "");
	text(&w->release, path);
	number(&w->release, 0);
	end(&w->release);
}

static void prepare_varlink(struct worker *w)
{
	w->acquire.length = 1 + (size_t)snprintf((char *)w->acquire.bytes, sizeof(w->acquire.bytes),
		"{\"method\":\"org.example.DlmLock.Acquire\",\"parameters\":{\"lockspace\":\"libvirt\",\"resource\":"
		"\"raw%d\",\"mode\":\"ex\",\"owner\":\"raw/%d\",\"label\":\"raw: /img/%d\",\"lifetime\":\"process\","
		"\"processId\":%d}}", w->index, (int)w->guest, w->index, (int)w->guest);
	w->release.length = 1 + (size_t)snprintf((char *)w->release.bytes, sizeof(w->release.bytes),
		"{\"method\":\"org.example.DlmLock.Release\",\"parameters\":{\"lockspace\":\"libvirt\",\"resource\":"
		"\"raw%d\",\"select\":{\"owner\":\"raw/%d\"}}}", w->index, (int)w->guest);
}

static void start(struct worker *w)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	w->guest = fork();
	if (w->guest == 0) {
		for (;;)
			pause();
	}
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", w->socket);
	w->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	w->usec = calloc(SAMPLES, sizeof(*w->usec));
	if (w->guest < 0 || !w->usec || w->fd < 0 || connect(w->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die(w->socket);
	if (w->varlink)
		prepare_varlink(w);
	else
		prepare_virtlockd(w);
}

static void *work(void *p)
{
	struct worker *w = p;

	while (!stop) {
		uint64_t began = now();

		call(w, &w->acquire);
		if (w->samples < SAMPLES)
			w->usec[w->samples++] = (uint32_t)(now() - began);
		call(w, &w->release);
		w->pairs++;
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void finish(struct worker *workers, int count, double seconds)
{
	uint32_t *all = calloc((size_t)count * SAMPLES, sizeof(*all));
	uint64_t pairs = 0;
	size_t n = 0;

	if (!all)
		die("memory");
	for (int i = 0; i < count; i++) {
		struct worker *w = &workers[i];
		char path[64];

		pairs += w->pairs;
		memcpy(all + n, w->usec, w->samples * sizeof(*all));
		n += w->samples;
		free(w->usec);
		close(w->fd);
		image(w, path, sizeof(path));
		unlink(path);
		kill(w->guest, SIGKILL);
		waitpid(w->guest, NULL, 0);
	}
	qsort(all, n, sizeof(*all), compare);
	if (n > 0)
		printf("%.0f %u %u %u\n", (double)pairs / seconds, all[n / 2], all[n - 1 - n / 100], all[n - 1]);
	free(all);
}

int raw(int argc, char **argv)
{
	struct worker *workers;
	uint64_t began;
	int count;

	if (argc != 6) {
		fprintf(stderr, "usage: %s raw SOCKET varlink|virtlockd|virtlockd=DIRECTORY WORKERS SECONDS\n", argv[0]);
		return 2;
	}
	count = atoi(argv[4]);
	workers = calloc((size_t)count, sizeof(*workers));
	if (!workers)
		die("memory");
	for (int i = 0; i < count; i++) {
		workers[i] = (struct worker){ .socket = argv[2], .varlink = strcmp(argv[3], "varlink") == 0, .index = i };
		if (strncmp(argv[3], "virtlockd=", 10) == 0)
			workers[i].directory = argv[3] + 10;
		start(&workers[i]);
	}
	began = now();
	for (int i = 0; i < count; i++) {
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			die("thread");
	}
	usleep((useconds_t)(atof(argv[5]) * 1e6));
	stop = 1;
	for (int i = 0; i < count; i++)
		pthread_join(workers[i].thread, NULL);
	finish(workers, count, (double)(now() - began) / 1e6);
	free(workers);
	return 0;
}
