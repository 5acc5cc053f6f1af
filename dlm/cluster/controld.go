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

// The protocol of dlm_controld's query socket (dlm_controld/dlm_controld.h). Numbers are in the
// machine's byte order.
const (
	magic   = 0xD13CD13C
	version = 0x00010001

	// cmdDumpStatus is the only query that this package makes: dlm_controld answers it with
	// MSG_NOSIGNAL. It answers a query about a lockspace without, so a client that is killed or
	// gives up in the meantime ends dlm_controld with SIGPIPE, and with it every lockspace of the
	// node, unless dlm_controld was started with that signal ignored. systemd starts it so,
	// Pacemaker does not.
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

// maxText is the largest text and data that follow a state (DLMC_STATE_MAXSTR).
const maxText = 4096

// controldWait is how long dlm_controld may take to answer.
const controldWait = 2 * time.Second

// connect connects to the first socket that accepts connections. The error is that of the first
// socket that exists.
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

// DaemonRuns reports whether dlm_controld answers queries. An accepted connection proves nothing,
// because a forwarder accepts it first.
func (h *Host) DaemonRuns(ctx context.Context) bool {
	_, err := h.status(ctx)
	return err == nil
}

// status is what dlm_controld says about the cluster.
type status struct {
	quorate bool
	fencing []int32 // nodes that have to be fenced before anything is granted
}

// status queries the status (DLMC_CMD_DUMP_STATUS, which is what dlm_tool status shows).
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

// keys parses "key=value key=value".
func keys(text string) map[string]string {
	m := make(map[string]string)
	for _, f := range strings.Fields(text) {
		if k, v, ok := strings.Cut(f, "="); ok {
			m[k] = v
		}
	}
	return m
}
