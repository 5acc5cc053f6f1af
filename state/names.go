package state

import "fmt"

// The file's names of the enumerations' values, indexed by the value.
var (
	phaseNames      = [...]string{Granted: "granted", Held: "held", Releasing: "releasing", Gone: "gone", Lost: "lost"}
	lifetimeNames   = [...]string{Persistent: "persistent", Connection: "connection", Process: "process"}
	spacePhaseNames = [...]string{Creating: "creating", Joined: "joined", Leaving: "leaving", Left: "left"}
)

// String returns the name of the phase in the file.
func (p Phase) String() string { return nameOf("Phase", phaseNames[:], uint8(p)) }

// String returns the name of the lifetime in the file and on the bus.
func (l Lifetime) String() string { return nameOf("Lifetime", lifetimeNames[:], uint8(l)) }

// String returns the name of the phase in the file.
func (p SpacePhase) String() string { return nameOf("SpacePhase", spacePhaseNames[:], uint8(p)) }

// ParseLifetime is the inverse of Lifetime.String; ok is false for an unknown name.
func ParseLifetime(s string) (l Lifetime, ok bool) {
	for i, n := range lifetimeNames {
		if n == s {
			return Lifetime(i), true
		}
	}
	return 0, false
}

func nameOf(kind string, names []string, v uint8) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", kind, v)
}
