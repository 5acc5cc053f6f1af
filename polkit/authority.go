package polkit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// ActionPrefix and an api.Action make the id of a polkit action.
const ActionPrefix = "org.example.DlmLock."

// polkitd on the bus (polkit's D-Bus API, "The Authority").
const (
	authorityName                    = "org.freedesktop.PolicyKit1"
	authorityPath  godbus.ObjectPath = "/org/freedesktop/PolicyKit1/Authority"
	authorityIface                   = "org.freedesktop.PolicyKit1.Authority"

	// allowUserInteraction is CheckAuthorizationFlags.AllowUserInteraction.
	allowUserInteraction uint32 = 1
)

// How long a question may take.
const (
	// DefaultTimeout is for what polkitd answers from its rules alone. A rule
	// may run a program, which polkitd ends after 10 s (polkit(8),
	// polkit.spawn); one or two of them fit.
	DefaultTimeout = 25 * time.Second
	// DefaultInteraction is for a person to find and type a password.
	DefaultInteraction = 2 * time.Minute
)

// Config is what an Authority needs. Conn is required.
type Config struct {
	// Conn is a connection to the bus that the callers are on, as root:
	// polkitd takes details from nobody else.
	Conn *godbus.Conn
	// Fallback decides while there is no polkitd, and for callers that polkitd can't
	// be asked about: they are not on the bus, and their process is not known. nil:
	// only root may change anything.
	Fallback    api.Authorizer
	Log         *slog.Logger  // nil: nothing is logged
	Timeout     time.Duration // of a question to the rules; 0: DefaultTimeout
	Interaction time.Duration // of a question to a person; 0: DefaultInteraction
}

// Authority asks polkitd. It implements api.Authorizer.
type Authority struct {
	obj      godbus.BusObject
	cfg      Config
	log      *slog.Logger
	question atomic.Uint64 // number of the last one: its cancellation id
	absent   atomic.Bool   // polkitd was not there when last asked
}

// New makes an Authority. It asks nothing yet, and polkitd need not be there.
func New(cfg Config) *Authority {
	if cfg.Fallback == nil {
		cfg.Fallback = api.GroupAuthorizer{}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Interaction <= 0 {
		cfg.Interaction = DefaultInteraction
	}
	a := &Authority{obj: cfg.Conn.Object(authorityName, authorityPath), cfg: cfg, log: cfg.Log}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	return a
}

// Authorize asks polkitd whether s may do it, with details for its rules and
// messages (lockspace, resource, mode, owner). A person is asked only if the
// subject allows that. Root is never a question. The error is an *api.Error
// of kind AccessDenied, InteractionRequired (it needs a person and none may be
// asked) or Canceled (the context ended first).
func (a *Authority) Authorize(ctx context.Context, s api.Subject, act api.Action, details map[string]string) error {
	if s.UID == 0 {
		return nil
	}
	who, ok := subjectOf(s)
	if !ok {
		return a.cfg.Fallback.Authorize(ctx, s, act, details)
	}
	for k, v := range details {
		if !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0 {
			// Escaping it could make it look like another name to a rule.
			return denied(act, details, fmt.Sprintf("the %s is not UTF-8 text, so no polkit rule can be asked about it",
				k), nil)
		}
	}
	if err := unchanged(s, act, details); err != nil {
		return err
	}
	ans, err := a.ask(ctx, s.Interactive, who, act, details)
	if isAbsent(err) {
		a.note(true)
		return a.cfg.Fallback.Authorize(ctx, s, act, details)
	}
	if err == nil {
		a.note(false)
		if err = ans.verdict(s, act, details); err == nil {
			err = unchanged(s, act, details)
		}
	} else {
		err = a.failed(ctx, act, details, err)
	}
	a.decided(s, act, details, err)
	return err
}

// answer is an AuthorizationResult: (bba{ss}).
type answer struct {
	Authorized bool
	Challenge  bool
	Details    map[string]string
}

// ask puts the question once more if polkitd went away over it.
func (a *Authority) ask(ctx context.Context, interactive bool, who subject, act api.Action,
	details map[string]string) (answer, error) {
	limit := a.cfg.Timeout
	if interactive {
		limit = a.cfg.Interaction
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ans, err := a.check(ctx, interactive, who, act, details)
	if isNamed(err, "org.freedesktop.DBus.Error.NoReply") {
		ans, err = a.check(ctx, interactive, who, act, details)
	}
	return ans, err
}

// check is CheckAuthorization. When the context ends it takes the question
// back, so that no dialog stays open that nobody waits for.
func (a *Authority) check(ctx context.Context, interactive bool, who subject, act api.Action,
	details map[string]string) (ans answer, err error) {
	var flags uint32
	if interactive {
		flags = allowUserInteraction
	}
	if details == nil {
		details = map[string]string{}
	}
	id := strconv.FormatUint(a.question.Add(1), 10)
	err = a.obj.CallWithContext(ctx, authorityIface+".CheckAuthorization", 0,
		who, ActionPrefix+string(act), details, flags, id).Store(&ans)
	if err != nil && ctx.Err() != nil {
		a.obj.Go(authorityIface+".CancelCheckAuthorization", godbus.FlagNoReplyExpected, nil, id)
		err = ctx.Err()
	}
	return ans, err
}

// verdict is what an answer means for the caller.
func (ans answer) verdict(s api.Subject, act api.Action, details map[string]string) error {
	id := ActionPrefix + string(act)
	switch {
	case ans.Authorized:
		return nil
	case ans.Challenge && !s.Interactive:
		e := denied(act, details, "polkit wants an administrator to authenticate ("+id+
			"); call again and allow interactive authorization, or have a polkit rule allow it", nil)
		e.Kind = api.InteractionRequired
		return e
	case ans.Challenge:
		return denied(act, details, "polkit wants an administrator to authenticate ("+id+
			") and finds no authentication agent to ask; start one (pkttyagent), or have a polkit rule allow it", nil)
	case ans.Details["polkit.dismissed"] != "":
		return denied(act, details, "the authentication was dismissed", nil)
	}
	return denied(act, details,
		"polkit refuses "+id+"; an administrator can allow it by a rule in /etc/polkit-1/rules.d", nil)
}

// failed is a question without an answer. Nobody is let in without one.
func (a *Authority) failed(ctx context.Context, act api.Action, details map[string]string, err error) error {
	switch {
	case ctx.Err() != nil:
		e := denied(act, details, "the caller went away before polkit had answered", ctx.Err())
		e.Kind = api.Canceled
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return denied(act, details, "polkit did not answer in time; see the log of polkit.service", err)
	case isNamed(err, "org.freedesktop.PolicyKit1.Error.Failed"):
		return denied(act, details, "polkit can't decide ("+err.Error()+
			"); is org.example.DlmLock.policy in /usr/share/polkit-1/actions?", err)
	}
	return denied(act, details, "polkit can't be asked ("+err.Error()+"); see the log of polkit.service", err)
}

func denied(act api.Action, details map[string]string, text string, cause error) *api.Error {
	return &api.Error{Op: string(act), Lockspace: details["lockspace"], Resource: details["resource"],
		Mode: dlm.None, Kind: api.AccessDenied, Text: text, Err: cause}
}

// isAbsent reports whether there is no polkitd: not on the bus, and nothing
// that could be started. One that is installed and fails is not absent, and
// then nobody is let in.
func isAbsent(err error) bool {
	return isNamed(err,
		"org.freedesktop.DBus.Error.ServiceUnknown",
		"org.freedesktop.DBus.Error.NameHasNoOwner",
		// What the bus passes on from systemd about polkit.service.
		"org.freedesktop.systemd1.NoSuchUnit",
		"org.freedesktop.systemd1.UnitMasked")
}

// isNamed reports whether err is a D-Bus error of one of the names.
func isNamed(err error, names ...string) bool {
	var e godbus.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range names {
		if e.Name == n {
			return true
		}
	}
	return false
}

// note logs that polkitd has gone or has come.
func (a *Authority) note(absent bool) {
	if a.absent.Swap(absent) == absent {
		return
	}
	if absent {
		a.log.Warn(msgNoPolkit.String())
	} else {
		a.log.Info("polkit is on the bus: it decides")
	}
}

// decided logs one decision.
func (a *Authority) decided(s api.Subject, act api.Action, details map[string]string, err error) {
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("action", string(act)), slog.String("sender", s.BusName),
		slog.Uint64("uid", uint64(s.UID))}
	if s.BusName == "" {
		attrs[1] = slog.Uint64("pid", uint64(s.PID))
	}
	for _, k := range [...]string{"lockspace", "resource", "mode", "owner"} {
		if v, ok := details[k]; ok {
			attrs = append(attrs, slog.String(k, v))
		}
	}
	msg := "authorized"
	if err != nil {
		level, msg = slog.LevelInfo, "not authorized"
		attrs = append(attrs, slog.Any("err", err))
	}
	a.log.LogAttrs(context.Background(), level, msg, attrs...)
}
