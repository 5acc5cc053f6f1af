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
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The protocol of dlm_controld's query socket (dlm_controld/dlm_controld.h).
// Numbers are in the machine's own byte order.
const (
	magic   = 0xD13CD13C
	version = 0x00010001

	// cmdDumpStatus is the only query that is made: dlm_controld answers it with
	// MSG_NOSIGNAL. The answer to a query about a lockspace is written without,
	// so that a client which is killed or gives up in the meantime ends
	// dlm_controld with SIGPIPE, and with it every lockspace of the node, unless
	// it was started with that signal ignored. systemd does so, Pacemaker does
	// not.
	cmdDumpStatus = 13

	stateDaemon = 1 // DLMC_STATE_DAEMON
	stateNode   = 2 // DLMC_STATE_DAEMON_NODE
)

// header is struct dlmc_header.
type header struct {
	Magic, Version, Command, Option, Length uint32
	Data, Flags, Unused                     int32
	Name                                    [dlm.MaxLockspaceName]byte
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

// dial sends the query.
func (h *Host) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, controldWait)
	defer cancel()
	conn, err := h.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(controldWait))
	q := header{Magic: magic, Version: version, Command: cmdDumpStatus, Length: uint32(binary.Size(header{}))}
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

// status is what dlm_controld knows about the cluster.
type status struct {
	quorate bool
	fencing []int32 // nodes that have to be fenced before anything is granted
}

// status asks for it (DLMC_CMD_DUMP_STATUS, what dlm_tool status shows).
func (h *Host) status(ctx context.Context) (*status, error) {
	conn, err := h.dial(ctx)
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
