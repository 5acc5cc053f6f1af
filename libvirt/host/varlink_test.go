package host_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// A host without a message bus: guests start and are refused, are suspended and resumed, libvirtd and
// the service restart, and a lost lock pauses the guest.
func TestNoBus(t *testing.T) {
	r := start(t)
	h := r.host("alpha", "on_lost = \"libvirt\"\ntimeout = 30\n")
	guardedBy(r, h, "")
	r.leaveBus()
	a := r.image("a.img")
	h.define("web", host.Disk{Path: a})
	h.define("db", host.Disk{Path: a})
	h.virsh("start", "web")
	require.Equal(t, []string{"web: " + a + " ex"}, r.overVarlink())
	refusal := h.refused("start", "db")
	require.Contains(t, refusal, "domain 'db' can't have '"+a+"', it is in use")
	require.Contains(t, refusal, "web: "+a)
	h.virsh("suspend", "web")
	require.Empty(t, r.overVarlink())
	h.virsh("resume", "web")
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		h.StopLibvirtd(s)
		h.StartLibvirtd()
		r.killDaemon()
		refused := h.try("start", "db") // which waits for the service
		r.leaveBus()
		got := <-refused
		require.Error(t, got.err)
		require.Contains(t, got.out, "it is in use")
		require.Equal(t, []string{"web: " + a + " ex"}, r.overVarlink())
	}

	_, failed := r.callVarlink("LeaveLockspace", `{"lockspace":"libvirt","force":true}`)
	require.Empty(t, failed)
	_, failed = r.callVarlink("JoinLockspace", `{"lockspace":"libvirt"}`)
	require.Empty(t, failed)
	h.becomes("web", "paused")
	h.virsh("resume", "web")
	require.Equal(t, []string{"web: " + a + " ex"}, r.overVarlink())
	h.virsh("destroy", "web")
	r.until("the locks end with the guest", func() bool { return len(r.overVarlink()) == 0 })
	h.virsh("start", "db")
	require.Equal(t, []string{"db: " + a + " ex"}, r.overVarlink())
}

// leaveBus starts the service again, without a message bus.
func (r *rig) leaveBus() {
	r.t.Helper()
	if r.daemon != nil {
		require.NoError(r.t, r.client.Close())
	}
	r.killDaemon()
	log, err := os.OpenFile(filepath.Join(r.dir, "dlmlockd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(r.t, err)
	defer log.Close()
	r.daemon = exec.Command(built.daemon, "--config", filepath.Join(r.dir, "dlmlockd.toml"), "--state-dir",
		filepath.Join(r.dir, "state"), "--bus=none", "--varlink", r.socket)
	r.daemon.Stderr = log
	r.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(r.t, r.daemon.Start())
	r.until("dlmlockd listens", func() bool {
		c, err := net.Dial("unix", r.socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// overVarlink are "LABEL MODE" of what is held, sorted.
func (r *rig) overVarlink() []string {
	replies, failed := r.callVarlink("ListLocks", "{}")
	if failed != "" {
		require.Equal(r.t, "org.example.DlmLock.NoSuchLock", failed)
	}
	held := []string{}
	for _, one := range replies {
		var p struct {
			Lock struct{ Label, Mode string }
		}
		require.NoError(r.t, json.Unmarshal(one, &p))
		held = append(held, fmt.Sprintf("%s %s", p.Lock.Label, p.Lock.Mode))
	}
	slices.Sort(held)
	return held
}

// callVarlink calls a method of the service. It returns the parameters of its replies, and the error.
func (r *rig) callVarlink(method, parameters string) (replies []json.RawMessage, failed string) {
	r.t.Helper()
	c, err := net.Dial("unix", r.socket)
	require.NoError(r.t, err)
	defer c.Close()
	require.NoError(r.t, c.SetDeadline(time.Now().Add(patience)))
	more := strings.HasPrefix(method, "List")
	_, err = fmt.Fprintf(c, `{"method":"org.example.DlmLock.%s","parameters":%s,"more":%v}`+"\x00", method, parameters,
		more)
	require.NoError(r.t, err)
	for in := bufio.NewReader(c); ; {
		text, err := in.ReadBytes(0)
		require.NoError(r.t, err)
		var reply struct {
			Error      string
			Continues  bool
			Parameters json.RawMessage
		}
		require.NoError(r.t, json.Unmarshal(text[:len(text)-1], &reply))
		if reply.Error != "" {
			return replies, reply.Error
		}
		replies = append(replies, reply.Parameters)
		if !reply.Continues {
			return replies, ""
		}
	}
}
