package dlm

import (
	"fmt"
	"strings"
)

// Mode is the strength of a lock. The values are the kernel's (include/uapi/linux/dlmconstants.h,
// DLM_LOCK_*), in order of strength.
type Mode int8

// The six modes, and None for "no mode", which is the granted mode of a lock that waits for its
// first grant (the kernel's DLM_LOCK_IV).
const (
	None Mode = -1
	NL   Mode = 0 // null: compatible with everything
	CR   Mode = 1 // concurrent read
	CW   Mode = 2 // concurrent write
	PR   Mode = 3 // protected read: shared
	PW   Mode = 4 // protected write: a writer beside concurrent readers
	EX   Mode = 5 // exclusive
)

// Modes lists the six modes from weak to strong.
var Modes = [...]Mode{NL, CR, CW, PR, PW, EX}

// compatible is the matrix of fs/dlm/lock.c (__dlm_compat_matrix) without the
// rows for unlocked and for PD:
//
//	         NL     CR     CW     PR     PW     EX
//	NL      yes    yes    yes    yes    yes    yes
//	CR      yes    yes    yes    yes    yes     no
//	CW      yes    yes    yes     no     no     no
//	PR      yes    yes     no    yes     no     no
//	PW      yes    yes     no     no     no     no
//	EX      yes     no     no     no     no     no
var compatible = [6][6]bool{
	NL: {true, true, true, true, true, true},
	CR: {true, true, true, true, true, false},
	CW: {true, true, true, false, false, false},
	PR: {true, true, false, true, false, false},
	PW: {true, true, false, false, false, false},
	EX: {true, false, false, false, false, false},
}

// Valid reports whether m is one of the six modes.
func (m Mode) Valid() bool { return m >= NL && m <= EX }

// Compatible reports whether two locks of one resource may be granted in the modes a and b at the
// same time. It is symmetric. None is compatible with everything, because nothing is held.
func Compatible(a, b Mode) bool {
	if !a.Valid() || !b.Valid() {
		return true
	}
	return compatible[a][b]
}

// String returns the two letters of the mode; None is "--", as in the kernel's
// debugfs.
func (m Mode) String() string {
	switch m {
	case NL:
		return "NL"
	case CR:
		return "CR"
	case CW:
		return "CW"
	case PR:
		return "PR"
	case PW:
		return "PW"
	case EX:
		return "EX"
	case None:
		return "--"
	}
	return fmt.Sprintf("Mode(%d)", int8(m))
}

// ParseMode reads a mode as people write it: the two letters in any case, or
// "shared" for PR and "exclusive" for EX. The error wraps ErrMode.
func ParseMode(s string) (Mode, error) {
	switch upperASCII(s) {
	case "NL":
		return NL, nil
	case "CR":
		return CR, nil
	case "CW":
		return CW, nil
	case "PR", "SHARED":
		return PR, nil
	case "PW":
		return PW, nil
	case "EX", "EXCLUSIVE":
		return EX, nil
	}
	return None, fmt.Errorf("%w: %q is not one of NL, CR, CW, PR (shared), PW, EX (exclusive)", ErrMode, s)
}

// Canonical returns the two letters of a mode that ParseMode reads, and any other text as it is.
func Canonical(s string) string {
	if m, err := ParseMode(s); err == nil {
		return m.String()
	}
	return s
}

// upperASCII is strings.ToUpper, but leaves letters of other scripts alone that would become ASCII
// letters, such as the long s.
func upperASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, s)
}

// Stronger reports whether a excludes everything that b excludes, and more.
func Stronger(a, b Mode) bool {
	if a == b {
		return false
	}
	for _, m := range Modes {
		if Compatible(a, m) && !Compatible(b, m) {
			return false
		}
	}
	return true
}
