package dlmtest_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
)

func TestEventsTakesTheFirstThatMatches(t *testing.T) {
	e := dlmtest.NewEvents(time.Second)
	e.Sink(dlm.Event{Kind: dlm.Completed, Cookie: 1, LockID: 7})
	e.Sink(dlm.Event{Kind: dlm.Blocking, Cookie: 2, Mode: dlm.PR})
	e.Sink(dlm.Event{Kind: dlm.Blocking, Cookie: 1, Mode: dlm.CR})
	e.Sink(dlm.Event{Kind: dlm.Blocking, Cookie: 1, Mode: dlm.EX})

	require.Equal(t, dlm.CR, e.Blocking(t, 1).Mode)
	require.EqualValues(t, 7, e.Completed(t, 1).LockID)
	require.Len(t, e.Untaken(1), 1)
	require.Equal(t, dlm.EX, e.Blocking(t, 1).Mode)
	require.Empty(t, e.Untaken(1))
	require.Len(t, e.Untaken(2), 1)
	require.Len(t, e.All(), 4)
}

func TestEventsWaitsForWhatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dlmtest.NewEvents(time.Minute)
		go func() {
			e.Sink(dlm.Event{Kind: dlm.Completed, Cookie: 2})
			time.Sleep(59 * time.Second)
			e.Sink(dlm.Event{Kind: dlm.Completed, Cookie: 1, LockID: 7})
		}()
		require.EqualValues(t, 7, e.Completed(t, 1).LockID)
	})
}

// refusal is a test that notes why it was ended.
type refusal struct {
	testing.TB
	why string
}

func (r *refusal) Helper() {}
func (r *refusal) Fatalf(format string, args ...any) {
	r.why = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestEventsEndsTheTestWhenNothingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dlmtest.NewEvents(time.Minute)
		e.Sink(dlm.Event{Kind: dlm.Blocking, Cookie: 1, Mode: dlm.PR})
		r := &refusal{TB: t}
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.Completed(r, 1)
		}()
		<-done
		require.Equal(t, time.Minute, time.Since(start))
		require.Contains(t, r.why, "no completed event of cookie 1")
		require.Contains(t, r.why, "blocking", "what did come")
	})
}
