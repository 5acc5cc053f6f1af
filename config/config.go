package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"time"
)

// DefaultPath is the usual path of the file, which may be missing.
const DefaultPath = "/etc/dlmlockd.toml"

// The engines that the file or --engine can name.
const (
	EngineDLM   = "dlm"
	EngineLocal = "local"
)

// Config is the contents of the file, with defaults for everything that it leaves out.
type Config struct {
	// Engine is EngineDLM or EngineLocal.
	Engine string
	// Lockspaces are joined at every start, in this order.
	Lockspaces []string
	// RawValueLockspaces are those whose lock value blocks belong to the clients.
	RawValueLockspaces []string
	// Group is the group whose members may change locks; "" means only root.
	Group string
	// OpTimeout bounds one request to the lock manager that may not queue; 0 stands for the
	// service's default.
	OpTimeout time.Duration
	LogLevel  slog.Level
	// ExitOnIdle is how long after the last call the service ends if nobody needs it; 0 stands for
	// never.
	ExitOnIdle time.Duration
	// MetricsFile is the absolute path of the file to which the counters are written; "" for none.
	MetricsFile string
	Limits      Limits
	// AllNodes says that the service answers those of other nodes, and asks them.
	AllNodes bool
	// OnLost holds the helpers that a lock may name, by name; nil if there are none.
	OnLost    map[string]OnLost
	Virtlockd Virtlockd
	// Source says where the values stand; nil if there is no file.
	Source *Source
}

// Virtlockd is the table [virtlockd]: how libvirt's own lock driver is served.
type Virtlockd struct {
	// Socket is the absolute path that the service listens at; "": none, unless
	// --virtlockd names one, or systemd passes one on.
	Socket string
	// Lockspace is that of disks which are locked by their path.
	Lockspace string
	// Lockspaces are those of the lockspace directories in qemu-lockd.conf, by
	// directory; nil for none.
	Lockspaces map[string]string
	// Timeout bounds each call.
	Timeout time.Duration
	// Helper is the table [on-lost.NAME] whose helper is run for a guest that loses a
	// lock; "" for none.
	Helper string
}

// The defaults of Virtlockd.
const (
	DefaultVirtlockdLockspace = "libvirt"
	DefaultVirtlockdTimeout   = 5 * time.Second
)

// OnLost is a helper: a program that is run when a lock is lost that names it.
type OnLost struct {
	Command []string // an absolute path and arguments; nil after a mistake
	Timeout time.Duration
	// UIDs and the members of Group ("" for none) may name it. Root always may.
	UIDs  []uint32
	Group string
}

// DefaultOnLostTimeout is how long a helper may run unless the file says otherwise.
const DefaultOnLostTimeout = 30 * time.Second

// Limits bound what one caller can make the service keep. 0 stands for the service's default; the
// file can't contain 0.
type Limits struct {
	LocksPerUID   int // locks of one uid
	LocksPerCall  int // locks of one AcquireMany
	WaitingPerUID int // requests of one uid that are waiting in the DLM
	Processes     int // processes to which locks of one uid are tied
	OwnerBytes    int // length of an owner
	LabelBytes    int // length of a label
	PageSize      int // locks in one answer of a listing
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{Engine: EngineDLM, LogLevel: slog.LevelInfo, AllNodes: true,
		Virtlockd: Virtlockd{Lockspace: DefaultVirtlockdLockspace, Timeout: DefaultVirtlockdTimeout}}
}

// Load reads the file at path, without waiting for anything, and only if nobody but root and the
// user of this process can write to it. The error is an *Error, which wraps fs.ErrNotExist if there
// is no file, or an Errors with the mistakes in it, as Parse returns them.
func Load(path string) (Config, error) {
	data, err := read(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, data)
}

// LoadDefault reads the file at DefaultPath, which may be missing.
func LoadDefault() (Config, error) {
	c, err := Load(DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	return c, err
}

// ParseLevel parses a log level: debug, info, warn or error. warning is the same as warn, because
// "systemctl service-log-level" uses that name.
func ParseLevel(s string) (l slog.Level, ok bool) {
	switch s {
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn", "warning":
		return slog.LevelWarn, true
	case "error":
		return slog.LevelError, true
	}
	return 0, false
}

// ValidEngine reports whether s names an engine.
func ValidEngine(s string) bool { return s == EngineDLM || s == EngineLocal }
