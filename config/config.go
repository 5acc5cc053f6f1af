package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"time"
)

// DefaultPath is where the file is looked for; it may be absent.
const DefaultPath = "/etc/dlmlockd.toml"

// The engines that a file or --engine can name.
const (
	EngineDLM   = "dlm"
	EngineLocal = "local"
)

// Config is what the file says, with the defaults for what it leaves out.
type Config struct {
	// Engine is EngineDLM or EngineLocal.
	Engine string
	// Lockspaces are joined at every start, in this order.
	Lockspaces []string
	// RawValueLockspaces are those whose lock value blocks are the clients'.
	RawValueLockspaces []string
	// Group is the group whose members may change locks; "" means only root.
	Group string
	// OpTimeout bounds one request to the lock manager that is not allowed to
	// queue; 0 means the service's default.
	OpTimeout time.Duration
	LogLevel  slog.Level
	// ExitOnIdle is after how long without a call a service that nobody needs
	// ends; 0: never.
	ExitOnIdle time.Duration
	// MetricsFile is the absolute path of the file that what is counted is
	// written into; "": none.
	MetricsFile string
	Limits      Limits
	// OnLost are the helpers that a lock may name, by name; nil for none.
	OnLost map[string]OnLost
}

// OnLost is a program that is run when a lock is lost that names it.
type OnLost struct {
	Command []string // an absolute path and arguments
	Timeout time.Duration
	// UIDs may name it, and the members of Group ("" for none). Root always may.
	UIDs  []uint32
	Group string
}

// DefaultOnLostTimeout is how long a helper may run where the file says nothing.
const DefaultOnLostTimeout = 30 * time.Second

// Limits bound what one caller can make the service keep. 0 means the
// service's default; the file can't say 0.
type Limits struct {
	LocksPerUID   int // locks of one uid
	LocksPerCall  int // locks of one AcquireMany
	WaitingPerUID int // requests of one uid that wait in the DLM
	Processes     int // processes that locks of one uid hang on
	OwnerBytes    int // length of an owner
	LabelBytes    int // length of a label
	PageSize      int // locks in one answer of a listing
}

// Default is the configuration of a file that says nothing.
func Default() Config {
	return Config{Engine: EngineDLM, LogLevel: slog.LevelInfo}
}

// Load reads the file at path, without waiting for anything, and only if nobody
// can write to it but root and the user of this process. The error is an *Error,
// which wraps fs.ErrNotExist if there is no file, or for mistakes in it an Errors.
func Load(path string) (Config, error) {
	data, err := read(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, data)
}

// LoadDefault reads the file at DefaultPath, which may be absent.
func LoadDefault() (Config, error) {
	c, err := Load(DefaultPath)
	if errors.Is(err, fs.ErrNotExist) {
		return Default(), nil
	}
	return c, err
}

// ParseLevel reads a log level: debug, info, warn or error.
func ParseLevel(s string) (l slog.Level, ok bool) {
	switch s {
	case "debug":
		return slog.LevelDebug, true
	case "info":
		return slog.LevelInfo, true
	case "warn":
		return slog.LevelWarn, true
	case "error":
		return slog.LevelError, true
	}
	return 0, false
}

// ValidEngine reports whether s names an engine.
func ValidEngine(s string) bool { return s == EngineDLM || s == EngineLocal }
