package cpg

import (
	"context"
	"log/slog"
	"net"
	"syscall"
)

const (
	// Group is the group of the services.
	Group = "dlmlockd"
	// Library is what libcpg is called. The number is that of its ABI.
	Library = "libcpg.so.4"

	// failed begins the packet that says why the connection ends.
	failed = 'E'
)

// Serve copies for one connection after the other, until ctx ends.
func Serve(ctx context.Context, l *net.UnixListener, library string, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	loaded := false
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if !loaded { // again for each connection: corosync may be installed later
			err = load(library)
			loaded = err == nil
		}
		if err == nil {
			err = serveOne(ctx, conn)
		}
		if err != nil {
			log.Info("the relay has ended a connection", "err", err)
			_, _ = conn.Write(append([]byte{failed}, err.Error()...))
		}
		_ = conn.Close()
	}
}

func serveOne(ctx context.Context, conn *net.UnixConn) error {
	file, err := conn.File() // a copy, which blocks: the other one belongs to Go's poller
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	raw, err := file.SyscallConn() // which, unlike Fd, may be used while the file is being closed
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
	})
	defer stop()
	return relay(file, Group)
}
