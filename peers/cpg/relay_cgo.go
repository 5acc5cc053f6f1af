//go:build cgo

package cpg

/*
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

// The parts of corosync/cpg.h and corosync/corotypes.h that are used. They are the ABI of
// libcpg.so.4, which has not changed since corosync 2.0; with them no header is needed to build.
typedef uint64_t cpg_handle;
struct cpg_name { uint32_t length; char value[128]; };
struct cpg_address { uint32_t nodeid, pid, reason; };
struct cpg_callbacks {
	void (*deliver)(cpg_handle, const struct cpg_name *, uint32_t nodeid,
			uint32_t pid, void *msg, size_t length);
	void (*confchg)(cpg_handle, const struct cpg_name *,
			const struct cpg_address *members, size_t,
			const struct cpg_address *left, size_t,
			const struct cpg_address *joined, size_t);
};
enum { CS_OK = 1, CS_ERR_LIBRARY = 2, CS_ERR_TRY_AGAIN = 6, CS_ERR_ACCESS = 11 };
enum { CS_DISPATCH_ALL = 2, CPG_TYPE_AGREED = 2 };

static int (*initialize)(cpg_handle *, struct cpg_callbacks *);
static int (*finalize)(cpg_handle);
static int (*fd_get)(cpg_handle, int *);
static int (*dispatch)(cpg_handle, int);
static int (*join)(cpg_handle, const struct cpg_name *);
static int (*mcast)(cpg_handle, int, const struct iovec *, unsigned int);
static int (*local_get)(cpg_handle, unsigned int *);

// load finds libcpg. It returns NULL, or why it is not there.
static const char *load(const char *library)
{
	void *lib = dlopen(library, RTLD_NOW | RTLD_LOCAL);

	if (!lib)
		return dlerror();
	// One function that is missing is reported like the library.
#define FIND(f) if (!(*(void **)&f = dlsym(lib, "cpg_" #f))) return dlerror()
	FIND(initialize);
	FIND(finalize);
	FIND(fd_get);
	FIND(dispatch);
	FIND(join);
	*(void **)&mcast = dlsym(lib, "cpg_mcast_joined");
	if (!mcast)
		return dlerror();
	FIND(local_get);
	return NULL;
}

enum { MAX_MESSAGE = 64 << 10, MAX_MEMBERS = 1024 };

// The one connection.
static struct {
	int client;
	unsigned int nodeid;
	int lost; // a change of the membership could not be passed on
} now;

// pass sends a packet to the service without waiting. One that it does not read
// would fill corosync's memory.
static int pass(char kind, const void *head, size_t head_length, const void *body,
		size_t body_length)
{
	struct iovec parts[] = {
		{&kind, 1}, {(void *)head, head_length}, {(void *)body, body_length},
	};
	struct msghdr m = {.msg_iov = parts, .msg_iovlen = 3};

	return sendmsg(now.client, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static void deliver(cpg_handle h, const struct cpg_name *group, uint32_t nodeid,
		    uint32_t pid, void *msg, size_t length)
{
	uint32_t from[] = {nodeid, pid};

	if (length <= MAX_MESSAGE)
		pass('M', from, sizeof(from), msg, length);
}

static void confchg(cpg_handle h, const struct cpg_name *group,
		    const struct cpg_address *members, size_t n,
		    const struct cpg_address *left, size_t nleft,
		    const struct cpg_address *joined, size_t njoined)
{
	static uint32_t list[2 + 2 * MAX_MEMBERS];
	size_t i;

	list[0] = now.nodeid;
	list[1] = (uint32_t)getpid();
	if (n > MAX_MEMBERS)
		n = MAX_MEMBERS;
	for (i = 0; i < n; i++) {
		list[2 + 2 * i] = members[i].nodeid;
		list[3 + 2 * i] = members[i].pid;
	}
	if (pass('C', list, (2 + 2 * n) * sizeof(list[0]), NULL, 0))
		now.lost = 1;
}

// pump copies until either side ends. It returns 0 if that was the service's, else
// an error of corosync, or -1 if the service does not read.
static int pump(cpg_handle h, int fd)
{
	static char buffer[MAX_MESSAGE + 1];
	size_t pending = 0;
	int tries = 0;

	for (;;) {
		struct pollfd on[] = {
			{fd, POLLIN, 0}, {now.client, pending ? 0 : POLLIN, 0},
		};
		int r;

		if (pending) {
			struct iovec part = {buffer, pending};

			r = mcast(h, CPG_TYPE_AGREED, &part, 1);
			// corosync is busy, or forms a membership: for 10 s
			if (r != CS_ERR_TRY_AGAIN || ++tries > 500) {
				if (r != CS_OK && r != CS_ERR_TRY_AGAIN)
					return r;
				pending = 0;
				tries = 0;
				continue;
			}
		}
		if (poll(on, 2, pending ? 20 : -1) < 0 && errno != EINTR)
			return 0;
		if (on[0].revents) {
			r = dispatch(h, CS_DISPATCH_ALL);
			if (r != CS_OK && r != CS_ERR_TRY_AGAIN)
				return r;
			if (now.lost)
				return -1;
		}
		if (on[1].revents & (POLLHUP | POLLERR))
			return 0;
		if (on[1].revents & POLLIN) {
			ssize_t n = recv(now.client, buffer, sizeof(buffer),
					 MSG_DONTWAIT);

			if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
				return 0;
			if (n > 0 && n <= MAX_MESSAGE)
				pending = n;
		}
	}
}

// relay is in the group for as long as the service is connected. The result is that
// of pump, with the step that has failed.
static int relay(int client, const char *group, const char **step)
{
	struct cpg_callbacks callbacks = {deliver, confchg};
	struct cpg_name name = {0};
	cpg_handle h;
	int fd, r, tries;

	now.client = client;
	now.lost = 0;
	*step = "reach corosync";
	r = initialize(&h, &callbacks);
	if (r != CS_OK)
		return r;
	name.length = strlen(group);
	memcpy(name.value, group, name.length);
	*step = "ask corosync for this node";
	if ((r = local_get(h, &now.nodeid)) != CS_OK || (r = fd_get(h, &fd)) != CS_OK)
		goto out;
	*step = "join the group";
	for (tries = 0; (r = join(h, &name)) == CS_ERR_TRY_AGAIN && tries < 50; tries++)
		usleep(100000);
	if (r != CS_OK)
		goto out;
	*step = "exchange messages";
	r = pump(h, fd);
out:
	finalize(h);
	return r;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"
)

// Supported reports whether this build can load libcpg.
const Supported = true

func load(library string) error {
	name := C.CString(library)
	defer C.free(unsafe.Pointer(name))
	if why := C.load(name); why != nil {
		return fmt.Errorf("libcpg, which comes with corosync, can't be loaded: %s", C.GoString(why))
	}
	return nil
}

// relay serves one connection.
func relay(client *os.File, group string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name := C.CString(group)
	defer C.free(unsafe.Pointer(name))
	var step *C.char
	switch r := C.relay(C.int(client.Fd()), name, &step); r {
	case 0:
		return nil
	case -1:
		return errors.New("the service does not read what the relay passes on")
	case C.CS_ERR_LIBRARY:
		return fmt.Errorf("corosync does not run, or has ended (%s)", C.GoString(step))
	case C.CS_ERR_ACCESS:
		return fmt.Errorf("corosync does not let this process in (%s)", C.GoString(step))
	default:
		return fmt.Errorf("corosync has refused to %s: error %d", C.GoString(step), r)
	}
}
