/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * What service.c shares with the two ways to the service, varlink.c and bus.c. */
#ifndef DLMLOCK_SERVICE_H
#define DLMLOCK_SERVICE_H

#include "json.h"
#include "plugin.h"

#define SERVICE "org.example.DlmLock"

enum method { ACQUIRE_MANY, RELEASE_MANY };

/* A connection that one thread has, or that waits for the next call. */
struct connection {
	pid_t process;      /* that has made it; a forked child must leave its parent's alone */
	struct sd_bus *bus; /* NULL: not connected */

	int fd;                /* of the Varlink socket; -1: not connected */
	uint64_t patience;     /* the socket's time limits, in microseconds */
	struct writing buffer; /* the call, and then its reply */
};

/* How a call went. */
enum fate {
	FATE_ANSWERED,
	FATE_UNREACHABLE, /* there is no connection to the service, so it has not seen the call */
	FATE_GONE,        /* the service went away during the call, which may have been carried out */
	FATE_SILENT,      /* there was no answer before the deadline */
	FATE_FAULT,       /* the call could not be made, or the answer is not one */
};

struct answer {
	enum fate fate;
	enum outcome outcome; /* what it means for the guest if the call is not repeated */
	char what[1024];      /* why; not for OUTCOME_OK */
};

/* How much time is left, in microseconds. */
uint64_t clock_left(uint64_t deadline);

/* Both connect where that is needed, call once, and wait until the deadline. */
void varlink_call(struct connection *c, enum method method, const struct request *q, struct answer *a);
void bus_call(struct connection *c, enum method method, const struct request *q, struct answer *a);

void varlink_disconnect(struct connection *c);
void bus_disconnect(struct connection *c);

#endif
