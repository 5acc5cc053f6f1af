package dlm

// Transfer is the direction in which the lock value block is copied when a lock gets a mode with
// ValueBlock.
type Transfer uint8

// The three directions. Stays: the block is neither read nor written.
const (
	Stays Transfer = iota
	Reads
	Writes
)

// transfers is dlm_lvb_operations of fs/dlm/lock.c: the row is the granted mode, the column the
// requested one.
var transfers = [len(Modes)][len(Modes)]Transfer{
	//   NL      CR      CW      PR      PW      EX
	NL: {Reads, Reads, Reads, Reads, Reads, Reads},
	CR: {Stays, Reads, Reads, Reads, Reads, Reads},
	CW: {Stays, Stays, Reads, Reads, Reads, Reads},
	PR: {Stays, Stays, Stays, Reads, Reads, Reads},
	PW: {Writes, Writes, Writes, Writes, Writes, Reads},
	EX: {Writes, Writes, Writes, Writes, Writes, Writes},
}

// TransferOf returns what a conversion from the granted mode from to the mode to does with the
// block. A new lock, which is a conversion from None, reads.
func TransferOf(from, to Mode) Transfer {
	switch {
	case !to.Valid():
		return Stays
	case !from.Valid():
		return Reads
	}
	return transfers[from][to]
}
