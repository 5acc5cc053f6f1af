/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * json.c and the replies of varlink.c, for tests. Standard input has frames:
 *
 *   a byte: 'A' a reply to AcquireMany, 'R' one to ReleaseMany, 'T' a text to write
 *   four bytes each, in the byte order of this machine: how many locks were asked for; how long what follows is
 *   the reply, or the text
 *
 * Each is answered by four bytes, a length, and so many bytes: "bad"; or what a reply has, '0' or '1'
 * (what was asked for is there), the error, a zero byte and the message; or the text as JSON. */
#define _GNU_SOURCE
#include "../../varlink.c"

static uint64_t now;

uint64_t clock_left(uint64_t deadline)
{
	return deadline - now;
}

static void answer(const char *bytes, size_t n)
{
	uint32_t length = (uint32_t)n;

	if (fwrite(&length, sizeof(length), 1, stdout) != 1 || (n && fwrite(bytes, n, 1, stdout) != 1) ||
	    fflush(stdout) != 0)
		exit(1);
}

static void answer_reply(struct reading r, enum method method, uint32_t count)
{
	struct request q = { .count = count };
	struct reply reply;
	char out[2048];
	int n;

	if (read_reply(r, method, &q, &reply) < 0) {
		answer("bad", 3);
		return;
	}
	n = snprintf(out, sizeof(out), "%d%s%c%s", reply.done, reply.error, 0, reply.message);
	answer(out, (size_t)n);
}

static void answer_text(const char *text)
{
	struct writing w = { 0 };

	json_text(&w, text);
	if (w.error)
		answer("bad", 3);
	else
		answer(w.data, w.length);
	free(w.data);
}

int main(void)
{
	uint32_t count, length;
	int kind;

	while ((kind = getchar()) != EOF) {
		char *bytes;

		if (fread(&count, sizeof(count), 1, stdin) != 1 || fread(&length, sizeof(length), 1, stdin) != 1)
			return 1;
		/* As long as the reply, so that the sanitizer sees who reads behind it. */
		bytes = malloc(length + (kind == 'T'));
		if (!bytes || (length && fread(bytes, length, 1, stdin) != 1))
			return 1;
		if (kind == 'T') {
			bytes[length] = '\0';
			answer_text(bytes);
		} else {
			answer_reply((struct reading){ bytes, bytes + length }, kind == 'A' ? ACQUIRE_MANY : RELEASE_MANY, count);
		}
		free(bytes);
	}
	return 0;
}
