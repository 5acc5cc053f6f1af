/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * JSON (RFC 8259) as the driver needs it: it writes calls, and reads a few fields of replies. */
#ifndef DLMLOCK_JSON_H
#define DLMLOCK_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A text that is being written. After a failure it stays failed, so only its end is checked. */
struct writing {
	char *data;
	size_t length, size;
	int error; /* 0, ENOMEM, or EILSEQ: a text was not UTF-8 */
};

/* Writes bytes as they are. */
void json_raw(struct writing *w, const char *bytes, size_t n);
#define json_literal(w, text) json_raw((w), "" text, sizeof(text) - 1)
/* Writes a string, with its quotes. */
void json_text(struct writing *w, const char *text);
void json_number(struct writing *w, uint64_t n);
/* Makes room for n bytes more. Returns where they go, or NULL. */
char *json_room(struct writing *w, size_t n);

/* What is being read. Nothing is allocated, and no more than the bytes up to end is read. */
struct reading {
	const char *at, *end;
};

/* All of these read one thing and move behind it. They return -1 if there is something else, or
 * something that is not JSON. */

/* Reads the '{' of an object. */
int json_object(struct reading *r);
/* Reads the key of the next member and its ':'. Returns 1, or 0 at the end of the object. first says
 * that none was read yet. A longer key than fits comes out empty. */
int json_member(struct reading *r, bool first, char *key, size_t size);
/* Reads a string. What does not fit is left out, and no character is cut. A zero byte is refused. */
int json_string(struct reading *r, char *out, size_t size);
/* Reads any value. */
int json_value(struct reading *r);
/* Reads an array, and returns how many elements it has. */
long json_array(struct reading *r);
/* Is nothing left but white space? */
bool json_end(struct reading *r);

#endif
