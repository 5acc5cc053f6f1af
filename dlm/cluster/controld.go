package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The protocol of dlm_controld's query socket (dlm_controld/dlm_controld.h).
// Numbers are in the machine's own byte order.
const (
	magic   = 0xD13CD13C
	version = 0x00010001

	cmdLockspaceInfo = 3
	cmdDumpStatus    = 13

	stateDaemon = 1 // DLMC_STATE_DAEMON
	stateNode   = 2 // DLMC_STATE_DAEMON_NODE

	flagKernelStopped = 0x4 // DLMC_LF_KERNEL_STOPPED
)

// header is struct dlmc_header.
type header struct {
	Magic, Version, Command, Option, Length uint32
	Data, Flags, Unused                     int32
	Name                                    [dlm.MaxLockspaceName]byte
}

// change is struct dlmc_change: who comes and goes.
type change struct {
	Members, Joined, Removed, Failed int32
	Wait                             int32 // DLMC_LS_WAIT_*, or how many messages are needed
	WaitMessages                     int32
	Seq, CombinedSeq                 uint32
}

// lockspaceInfo is struct dlmc_lockspace.
type lockspaceInfo struct {
	Previous, Next change
	Flags, ID      uint32
	Name           [dlm.MaxLockspaceName + 1]byte
	_              [3]byte
}

// state is struct dlmc_state; text and binary data follow it.
type state struct {
	Type, Flags    uint32
	Node           int32
	Data32, Data64 uint32
	Text, Binary   uint32
}

// maxText bounds what a state brings along (DLMC_STATE_MAXSTR).
const maxText = 4096

// controldWait is how long dlm_controld may take for an answer.
const controldWait = 2 * time.Second

// connect connects to the first socket that takes connections. The error is
// that of the first that is there.
func (h *Host) connect(ctx context.Context) (net.Conn, error) {
	var first error
	for _, name := range h.sockets {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", name)
		if err == nil {
			return conn, nil
		}
		if first == nil || errors.Is(first, os.ErrNotExist) {
			first = err
		}
	}
	return nil, first
}

// dial sends one query.
func (h *Host) dial(ctx context.Context, command uint32, lockspace string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, controldWait)
	defer cancel()
	conn, err := h.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(controldWait))
	q := header{Magic: magic, Version: version, Command: command, Length: uint32(binary.Size(header{}))}
	copy(q.Name[:], lockspace)
	if err := binary.Write(conn, binary.NativeEndian, &q); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// DaemonRuns tells whether dlm_controld answers queries. That a connection is
// taken proves nothing, because a forwarder takes it first.
func (h *Host) DaemonRuns(ctx context.Context) bool {
	_, err := h.status(ctx)
	return err == nil
}

// lockspaceInfo asks how dlm_controld sees a lockspace (dlmc_lockspace_info).
func (h *Host) lockspaceInfo(ctx context.Context, lockspace string) (*lockspaceInfo, error) {
	conn, err := h.dial(ctx, cmdLockspaceInfo, lockspace)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var answer struct {
		Header header
		Info   lockspaceInfo
	}
	if err := binary.Read(conn, binary.NativeEndian, &answer); err != nil {
		return nil, err
	}
	switch {
	case answer.Header.Magic != magic || answer.Header.Version>>16 != version>>16:
		return nil, errors.New("dlm_controld speaks another version of its protocol")
	case answer.Header.Data < 0:
		return nil, syscall.Errno(-answer.Header.Data)
	}
	return &answer.Info, nil
}

// status is what dlm_controld knows about the cluster.
type status struct {
	quorate bool
	fencing []int32 // nodes that have to be fenced before anything is granted
}

// status asks for it (DLMC_CMD_DUMP_STATUS, what dlm_tool status shows).
func (h *Host) status(ctx context.Context) (*status, error) {
	conn, err := h.dial(ctx, cmdDumpStatus, "")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return readStatus(conn)
}

func readStatus(in io.Reader) (*status, error) {
	var st status
	known := false
	for {
		var s state
		err := binary.Read(in, binary.NativeEndian, &s)
		switch {
		case err == io.EOF && known:
			return &st, nil
		case err != nil:
			return nil, err
		case s.Text > maxText || s.Binary > maxText:
			return nil, fmt.Errorf("dlm_controld sent a state of %d bytes", uint64(s.Text)+uint64(s.Binary))
		}
		data := make([]byte, s.Text+s.Binary)
		if _, err := io.ReadFull(in, data); err != nil {
			return nil, err
		}
		text := keys(string(bytes.TrimRight(data[:s.Text], "\x00")))
		switch s.Type {
		case stateDaemon:
			st.quorate, known = text["quorate"] == "1", true
		case stateNode:
			if text["need_fencing"] == "1" {
				st.fencing = append(st.fencing, s.Node)
			}
		}
	}
}

// keys reads "key=value key=value".
func keys(text string) map[string]string {
	m := make(map[string]string)
	for _, f := range strings.Fields(text) {
		if k, v, ok := strings.Cut(f, "="); ok {
			m[k] = v
		}
	}
	return m
}

// What a lockspace waits for (DLMC_LS_WAIT_*).
const (
	waitRing    = 1
	waitQuorum  = 2
	waitFencing = 3
	waitFS      = 4
)

// reason puts into words why a lockspace is stopped.
func reason(c change, st *status) string {
	switch {
	case c.WaitMessages != 0:
		return fmt.Sprintf("waiting for the messages of %d nodes", c.Wait)
	case c.Wait == waitRing:
		return "waiting for corosync to settle its membership"
	case c.Wait == waitQuorum:
		return "no quorum"
	case c.Wait == waitFencing:
		return fencingReason(st)
	case c.Wait == waitFS:
		return "waiting for a file system to stop"
	case st != nil && !st.quorate:
		return "no quorum"
	case st != nil && len(st.fencing) > 0:
		return fencingReason(st)
	}
	return "nodes are joining or leaving"
}

func fencingReason(st *status) string {
	if st == nil || len(st.fencing) == 0 {
		return "fencing a node"
	}
	names := make([]string, len(st.fencing))
	for i, n := range st.fencing {
		names[i] = fmt.Sprint(n)
	}
	if len(names) == 1 {
		return "fencing node " + names[0]
	}
	return "fencing nodes " + strings.Join(names, ", ")
}
