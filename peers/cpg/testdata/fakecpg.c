// A libcpg with a group of one member, and with faults: FAKE_CPG names the file that says which.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct name { uint32_t length; char value[128]; };
struct address { uint32_t nodeid, pid, reason; };
struct callbacks {
	void (*deliver)(uint64_t, const struct name *, uint32_t, uint32_t, void *, size_t);
	void (*confchg)(uint64_t, const struct name *, const struct address *, size_t, const struct address *, size_t,
			const struct address *, size_t);
};

static struct callbacks cb;
static struct name group;
static int pipes[2], busy, handles;
static char last[1 << 20];
static size_t last_length;

static int fault(const char *what)
{
	char text[64] = "";
	FILE *f = fopen(getenv("FAKE_CPG"), "r");

	if (f) {
		if (!fgets(text, sizeof(text), f))
			text[0] = 0;
		fclose(f);
	}
	return strcmp(text, what) == 0;
}

int cpg_initialize(uint64_t *h, struct callbacks *c)
{
	if (fault("down"))
		return 2;
	if (handles++) // the one before was not finalized
		abort();
	cb = *c;
	*h = 7;
	return pipe(pipes) ? 2 : 1;
}

int cpg_finalize(uint64_t h)
{
	close(pipes[0]);
	close(pipes[1]);
	handles--;
	return 1;
}

int cpg_fd_get(uint64_t h, int *fd) { *fd = pipes[0]; return 1; }
int cpg_local_get(uint64_t h, unsigned int *id) { *id = 5; return 1; }

int cpg_join(uint64_t h, const struct name *n)
{
	group = *n;
	return write(pipes[1], "C", 1) == 1 ? 1 : 2;
}

int cpg_mcast_joined(uint64_t h, int type, const struct iovec *v, unsigned int n)
{
	if (fault("busy") && busy++ % 3)
		return 6;
	memcpy(last, v->iov_base, v->iov_len);
	last_length = v->iov_len;
	return write(pipes[1], "M", 1) == 1 ? 1 : 2;
}

int cpg_dispatch(uint64_t h, int flags)
{
	struct address me = {5, (uint32_t)getpid(), 0}, two[] = {{5, (uint32_t)getpid(), 0}, {6, 66, 0}};
	char what;

	if (fault("ended"))
		return 2;
	if (read(pipes[0], &what, 1) != 1)
		return 2;
	if (what == 'C')
		cb.confchg(h, &group, two, 2, NULL, 0, &me, 1);
	else
		cb.deliver(h, &group, 5, (uint32_t)getpid(), last, last_length);
	return 1;
}
