package table

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Looked is what a LookAction has found.
type Looked struct {
	// The locks of the resource, where one was asked for.
	Queues    dlm.Queues
	HasQueues bool
	Many      []dlm.Queues // of Question.Resources, in their order; empty: could not be looked at
	// The orphans of the lockspace, where no resource was asked for.
	Orphans    []dlm.Orphan
	HasOrphans bool
	OrphansErr error      // why not; wraps errNoTables where there is nothing to look at
	Users      []dlm.User // other processes
	UsersErr   error      // why they are not known
	Health     dlm.Health
	HasHealth  bool
	// What could not be looked at, for people.
	Missing []string
}

// Looker is a dlm.Looker whose methods give up in time.
type Looker interface {
	Queues(lockspace, resource string) (dlm.Queues, error)
	QueuesOf(lockspace string, resources []string) ([]dlm.Queues, error)
	Orphans(lockspace string) ([]dlm.Orphan, error)
	Users(lockspace string) ([]dlm.User, error)
	Health(lockspace string) (dlm.Health, error)
}

// LookAt carries out a LookAction for the driver, on a goroutine of the driver's
// that may block. looker is nil where the engine shows nothing.
func LookAt(looker Looker, a LookAction) (k Looked) {
	if looker == nil {
		err := errors.New("this engine shows no lock tables")
		return Looked{Missing: []string{err.Error()}, OrphansErr: err, UsersErr: err}
	}
	var err error
	switch {
	case len(a.Resources) > 0:
		k.Many, err = looker.QueuesOf(a.Name, a.Resources)
	case a.Resource == "":
		k.Orphans, err = looker.Orphans(a.Name)
		k.HasOrphans, k.OrphansErr = err == nil, lookError(err)
	default:
		k.Queues, err = looker.Queues(a.Name, a.Resource)
		k.HasQueues = err == nil
		if err == nil && k.Queues.Missing != "" {
			k.Missing = append(k.Missing, k.Queues.Missing)
		}
	}
	if err != nil {
		k.Missing = append(k.Missing, err.Error())
	}
	if a.Users {
		k.Users, k.UsersErr = looker.Users(a.Name)
	}
	if !a.Brief && len(a.Resources) == 0 {
		if h, err := looker.Health(a.Name); err == nil {
			k.Health, k.HasHealth = h, true
		}
	}
	return k
}

// RemoveUnused carries out a RemoveAction for the driver: it has remove called if
// no other process uses the lockspace, as far as can be seen immediately before.
// An error that is an *api.Error says that removing was not even tried.
func RemoveUnused(looker Looker, name string, remove func(name string) error) error {
	if looker == nil {
		return inUse(name, nil, errors.New("this engine shows no users"))
	}
	users, err := looker.Users(name)
	if err != nil && errors.Is(err, dlm.ErrNoLockspace) {
		return err
	}
	if err != nil || len(users) > 0 {
		return inUse(name, users, err)
	}
	return remove(name)
}

// errNoTables is the cause where the lock manager's tables are not there at all:
// debugfs is not mounted, or the kernel is locked down.
var errNoTables = noTables{}

type noTables struct{}

func (noTables) Error() string { return "there are no lock tables" }

// lookError makes the error of a look at orphans tell whether there is anything to
// look at.
func lookError(err error) error {
	if errors.Is(err, dlm.ErrNoLockspace) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("%w: %w", errNoTables, err)
	}
	return err
}
