package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// varlink is the transport over Varlink. A call has a connection for itself while it
// lasts, and so does a lock of lifetime "connection".
type varlink struct {
	pool     *varlinkPool // shared by all copies with other settings
	settings              // of the calls that this copy makes
}

func newVarlink(path string) *varlink {
	p := &varlinkPool{path: path}
	p.life, p.end = context.WithCancel(context.Background())
	return &varlink{pool: p}
}

func (v *varlink) with(s settings) transport { return &varlink{v.pool, s} }

func (v *varlink) close() error {
	v.pool.close()
	return nil
}

func (v *varlink) done() <-chan struct{} { return v.pool.life.Done() }

// parameters are those of a call. A nil pointer in the constructor is a string that
// can't be sent.
type parameters map[string]any

// put adds a parameter unless it is zero.
func put[T comparable](p parameters, key string, v T) {
	var zero T
	if v != zero {
		p[key] = v
	}
}

// call makes a call with one reply, which is stored in out unless that is nil.
func (v *varlink) call(ctx context.Context, op, method string, p parameters, out any) error {
	return v.each(ctx, op, method, p, false, func(text json.RawMessage) error {
		if out == nil {
			return nil
		}
		return json.Unmarshal(text, out)
	})
}

// each makes a call and gives the parameters of each reply to next.
func (v *varlink) each(ctx context.Context, op, method string, p parameters, more bool,
	next func(json.RawMessage) error) error {
	if err := checkStrings(p); err != nil {
		return &Error{Op: op, Kind: InvalidArgs, Message: err.Error()}
	}
	c, err := v.pool.get(ctx)
	if err != nil {
		return varlinkError(op, err)
	}
	if err := v.on(ctx, c, op, method, p, more, next); err != nil {
		var e *Error
		if errors.As(err, &e) && e.Name != "" {
			v.pool.put(c) // it was answered
		} else {
			_ = c.sock.Close() // which also withdraws the call, if it waits
		}
		return err
	}
	v.pool.put(c)
	return nil
}

// on is each on one connection, which it leaves to the caller.
func (v *varlink) on(ctx context.Context, c *varlinkConn, op, method string, p parameters, more bool,
	next func(json.RawMessage) error) error {
	err := v.pool.exchange(ctx, c, method, p, more, func(r *varlinkReply) error {
		if r.Error != "" {
			return replyError(op, r)
		}
		return next(r.Parameters)
	})
	return varlinkError(op, err)
}

// checkStrings looks for a string that can't be sent. encoding/json would replace what is
// not UTF-8, and the lock would be another one than the caller wants.
func checkStrings(v any) error {
	switch v := v.(type) {
	case parameters:
		for key, element := range v {
			if err := checkStrings(element); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	case []parameters:
		for _, element := range v {
			if err := checkStrings(element); err != nil {
				return err
			}
		}
	case string:
		if !carriable(v) {
			return errors.New("it has bytes that are not UTF-8, or U+0000, and can't be sent over Varlink")
		}
	}
	return nil
}

// varlinkErrors are the errors of the standard interfaces.
var varlinkErrors = map[string]Kind{
	"org.varlink.service.InvalidParameter":         InvalidArgs,
	"org.varlink.service.PermissionDenied":         AccessDenied,
	"org.varlink.service.InterfaceNotFound":        Unknown,
	"org.varlink.service.MethodNotFound":           Unknown,
	"org.varlink.service.MethodNotImplemented":     Unknown,
	"io.systemd.InteractiveAuthenticationRequired": InteractionRequired,
	Name + ".Internal":                             Failed,
	"io.systemd.System":                            Failed,
	"org.varlink.service.ExpectedMore":             Failed,
}

// replyError makes an Error of a reply that is one.
func replyError(op string, r *varlinkReply) error {
	var d struct {
		Message    string      `json:"message"`
		Parameter  string      `json:"parameter"`
		Candidates []lockReply `json:"candidates"`
	}
	_ = json.Unmarshal(r.Parameters, &d) // without a message the name has to do
	e := &Error{Op: op, Name: r.Error, Message: d.Message}
	var which []string
	for _, c := range d.Candidates {
		which = append(which, c.candidate())
	}
	if len(which) > 0 {
		e.Message += ": " + strings.Join(which, "; ")
	}
	kind, own := strings.CutPrefix(r.Error, Name+".")
	switch k, known := varlinkErrors[r.Error]; {
	case known:
		e.Kind = k
	case own:
		e.Kind = Kind(kind)
	default:
		e.Kind = Failed
	}
	if e.Message == "" {
		e.Message = strings.TrimSuffix(r.Error+" "+d.Parameter, " ")
	}
	return e
}

// varlinkError makes an Error of what went wrong with a connection; nil stays nil.
func varlinkError(op string, err error) error {
	var e *Error
	var d *dialError
	switch {
	case err == nil, errors.As(err, &e):
		return err
	case errors.Is(err, context.Canceled):
		return &Error{Op: op, Kind: Canceled, Message: "canceled", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Op: op, Kind: NoAnswer, Message: "the service did not answer in time", Err: err}
	case errors.Is(err, os.ErrPermission): // before dialError: the service may run, but not for this user
		return &Error{Op: op, Kind: AccessDenied, Message: err.Error(), Err: err}
	case errors.As(err, &d):
		return &Error{Op: op, Kind: NotRunning, Message: err.Error(), Err: err}
	case isCut(err):
		return &Error{Op: op, Kind: NoAnswer, Message: "the service ended during the call", Err: err}
	}
	return &Error{Op: op, Kind: Failed, Message: err.Error(), Err: err}
}

// lockPrefix is what the bus has in front of a lock's number. Names are the same over both
// transports, so a program may take a lock over one and release it over the other.
const lockPrefix = string(Path) + "/lock/"

// named is the name of a lock from its number on Varlink.
func named(number string) LockName { return LockName(lockPrefix + number) }

// number is the inverse of named.
func number(l LockName) string { return strings.TrimPrefix(string(l), lockPrefix) }

// seesPIDs looks at the process at the other end: whoever made the listening socket,
// which is systemd or the service. If it has one pid only, and that is known here, it
// is in this pid namespace.
func (v *varlink) seesPIDs(ctx context.Context) bool {
	c, err := v.pool.get(ctx)
	if err != nil {
		return false
	}
	defer v.pool.put(c)
	pid, err := c.peer()
	if err != nil || pid == 0 {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(pids)) == 1
		}
	}
	return false
}

// peer is the pid of the process at the other end; 0 if it has none here.
func (c *varlinkConn) peer() (pid int32, err error) {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return cred.Pid, nil
}

// view is about a message bus, which is not used here.
func (v *varlink) view(context.Context) (BusView, error) {
	return BusView{}, &Error{Op: "View", Kind: NotSupported,
		Message: "the service is used over Varlink, and no message bus was asked"}
}

// closed reports whether the client was closed.
func (v *varlink) closed() bool { return v.pool.life.Err() != nil }
