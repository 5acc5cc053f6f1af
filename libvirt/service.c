/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * The two calls of org.example.DlmLock, AcquireMany and ReleaseMany, over Varlink (varlink.c) or
 * D-Bus (bus.c): connections, deadlines, asking again.
 *
 * Every call has a connection of its own: no mutex is held during a call, and nobody waits for an
 * answer to somebody else. Unused connections are kept for the next call, but only few: libvirtd
 * has a thread for each guest, and a bus allows one user 256 connections. All waits together have
 * one deadline, including those for connections.
 *
 * A call that does not get its answer in time is withdrawn by closing the connection: the service
 * cancels the unanswered calls of a client that has disconnected.
 *
 * If the service ends during a call, nobody knows whether it has carried the call out. The call is
 * repeated until the deadline, also the other way than the first time, because both calls ask for a
 * state, not for a change:
 *
 *   AcquireMany  Its locks belong to the owner, UUID/PID/START TIME of the guest's QEMU, whichever
 *                way they were acquired. What the lost answer has granted is granted again, as the
 *                same locks. If the driver gives up instead, such locks stay until a release, or
 *                until that QEMU ends; libvirtd kills it when its start is refused.
 *   ReleaseMany  What is released already is not found any more, which is no error.
 *
 * Both need one daemon behind both ways, which is so unless varlink_socket names another one. */
#define _GNU_SOURCE
#include "service.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RETRY_USEC 50000
#define IDLE_MAX 8

/* Taken and given back without a mutex, which a forked child might find locked. */
static _Atomic(struct connection *) idle[IDLE_MAX];

uint64_t clock_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t clock_left(uint64_t deadline)
{
	uint64_t now = clock_usec();

	return now < deadline ? deadline - now : 0;
}

static void disconnect(struct connection *c)
{
	varlink_disconnect(c);
	bus_disconnect(c);
}

/* Returns a connection that nobody else uses; it may not be open yet. */
static struct connection *take_connection(void)
{
	struct connection *c;

	for (size_t i = 0; i < IDLE_MAX; i++) {
		c = atomic_exchange(&idle[i], NULL);
		if (c && c->process == getpid())
			return c;
		/* Otherwise it belongs to the parent, and this child only forgets it: whatever it sends there would
		 * be taken for the parent's, and it would take the parent's answers. exec closes the descriptor. */
	}
	c = calloc(1, sizeof(*c));
	if (c) {
		c->process = getpid();
		c->fd = -1;
	}
	return c;
}

static void free_connection(struct connection *c)
{
	disconnect(c);
	free(c->buffer.data);
	free(c);
}

static void give_back(struct connection *c)
{
	for (size_t i = 0; (c->bus || c->fd >= 0) && i < IDLE_MAX; i++) {
		struct connection *none = NULL;

		if (atomic_compare_exchange_strong(&idle[i], &none, c))
			return;
	}
	free_connection(c);
}

void service_close(void)
{
	for (size_t i = 0; i < IDLE_MAX; i++) {
		struct connection *c = atomic_exchange(&idle[i], NULL);

		if (c)
			free_connection(c);
	}
}

/* Calls once. Where nobody can be reached over Varlink, "auto" goes over D-Bus. */
static void call_once(struct connection *c, enum method method, const struct request *q, struct answer *a)
{
	char why[256];
	bool may_be_there;

	if (q->config->transport == TRANSPORT_DBUS) {
		bus_call(c, method, q, a);
		return;
	}
	varlink_call(c, method, q, a);
	if (q->config->transport == TRANSPORT_VARLINK || a->fate != FATE_UNREACHABLE)
		return;
	may_be_there = a->outcome != OUTCOME_MISSING;
	snprintf(why, sizeof(why), " (over Varlink: %.200s)", a->what);
	bus_call(c, method, q, a);
	if (a->fate != FATE_UNREACHABLE && a->fate != FATE_GONE)
		return;
	if (may_be_there)
		a->outcome = OUTCOME_FAILED;
	snprintf(a->what + strlen(a->what), sizeof(a->what) - strlen(a->what), "%s", why);
}

static enum outcome call(enum method method, const struct request *q, char *what, size_t what_size)
{
	struct connection *c = take_connection();
	struct answer a = { .outcome = OUTCOME_FAILED };

	if (!c) {
		snprintf(what, what_size, "out of memory");
		return OUTCOME_FAILED;
	}
	for (;;) {
		call_once(c, method, q, &a);
		/* The last attempt needs time for an answer, too. */
		if ((a.fate != FATE_UNREACHABLE && a.fate != FATE_GONE) ||
		    clock_left(q->deadline) <= q->timeout_usec / 4 + RETRY_USEC)
			break;
		usleep(RETRY_USEC);
	}
	if (a.fate != FATE_ANSWERED)
		disconnect(c); /* which withdraws the call */
	give_back(c);
	if (a.fate == FATE_SILENT)
		snprintf(a.what, sizeof(a.what), "dlmlockd has not answered for %u s; it hangs, or the cluster is "
			 "recovering: see 'dlmlockctl status'", (unsigned)(q->timeout_usec / 1000000));
	snprintf(what, what_size, "%s", a.what);
	return a.outcome;
}

enum outcome service_acquire(const struct request *r, char *what, size_t what_size)
{
	return call(ACQUIRE_MANY, r, what, what_size);
}

enum outcome service_release(const struct request *r, char *what, size_t what_size)
{
	return call(RELEASE_MANY, r, what, what_size);
}
