package local

import "github.com/dlmlock/dlmlockd/dlm"

// transfer says which way the lock value block goes when a lock changes its
// mode with ValueBlock.
type transfer int8

const (
	nothing transfer = iota
	reads
	writes
)

// transfers is dlm_lvb_operations of fs/dlm/lock.c: the row is the granted
// mode, the column the one that is asked for.
var transfers = [len(dlm.Modes)][len(dlm.Modes)]transfer{
	//        NL       CR       CW       PR       PW       EX
	dlm.NL: {reads, reads, reads, reads, reads, reads},
	dlm.CR: {nothing, reads, reads, reads, reads, reads},
	dlm.CW: {nothing, nothing, reads, reads, reads, reads},
	dlm.PR: {nothing, nothing, nothing, reads, reads, reads},
	dlm.PW: {writes, writes, writes, writes, writes, reads},
	dlm.EX: {writes, writes, writes, writes, writes, writes},
}

// transferOf looks up a change of mode; a new lock (from None) reads.
func transferOf(from, to dlm.Mode) transfer {
	if from == dlm.None {
		return reads
	}
	return transfers[from][to]
}
