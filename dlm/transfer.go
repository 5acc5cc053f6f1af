package dlm

// Transfer says which way the lock value block goes when a lock gets a mode
// with ValueBlock.
type Transfer uint8

// The three ways. Stays: the block is neither read nor written.
const (
	Stays Transfer = iota
	Reads
	Writes
)

// transfers is dlm_lvb_operations of fs/dlm/lock.c: the row is the granted
// mode, the column the one that is asked for.
var transfers = [len(Modes)][len(Modes)]Transfer{
	//   NL      CR      CW      PR      PW      EX
	NL: {Reads, Reads, Reads, Reads, Reads, Reads},
	CR: {Stays, Reads, Reads, Reads, Reads, Reads},
	CW: {Stays, Stays, Reads, Reads, Reads, Reads},
	PR: {Stays, Stays, Stays, Reads, Reads, Reads},
	PW: {Writes, Writes, Writes, Writes, Writes, Reads},
	EX: {Writes, Writes, Writes, Writes, Writes, Writes},
}

// TransferOf tells what a conversion from the granted mode from to to does
// with the block. A new lock, which is one from None, reads.
func TransferOf(from, to Mode) Transfer {
	switch {
	case !to.Valid():
		return Stays
	case !from.Valid():
		return Reads
	}
	return transfers[from][to]
}
