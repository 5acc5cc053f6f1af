package peers

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

func inBubble(t *testing.T, n int, do func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, n)
		do(t, r)
		r.stop()
	})
}

func TestLocksOfAnotherNode(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		page, err := r.nodes[0].list(3, api.Filter{})
		require.NoError(t, err)
		require.Equal(t, r.nodes[2].locks, page.Locks)

		f := api.Filter{Lockspace: "vms", Resource: "a\xff", Owner: "", HasOwner: true, UID: 0, HasUID: true, Mode: dlm.NL,
			HasMode: true, State: api.Held, After: 7, Limit: 3}
		_, err = r.nodes[0].list(2, f)
		require.NoError(t, err)
		require.Equal(t, f, r.nodes[1].listed[0], "each part of a filter arrives")

		_, err = r.nodes[0].list(2, api.Filter{Lockspace: "unknown"})
		require.ErrorIs(t, err, api.NoSuchLockspace)
		require.ErrorContains(t, err, "node 2: not joined")
	})
}

func TestManyLocksComeInPages(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		s := r.nodes[1].service
		s.locks = nil
		for i := range 3000 {
			s.locks = append(s.locks, api.LockInfo{Ref: api.Ref(i + 1), Resource: fmt.Sprint(i), Wanted: dlm.None,
				State: api.Held, Label: strings.Repeat("l", i%500)})
		}
		var got []api.LockInfo
		pages := 0
		for f := (api.Filter{}); ; pages++ {
			page, err := r.nodes[0].list(2, f)
			require.NoError(t, err)
			got = append(got, page.Locks...)
			if f.After = page.Next; f.After == 0 {
				break
			}
		}
		require.Equal(t, s.locks, got)
		require.Greater(t, pages, 3000/maxPage, "pages end where a message does, too")
	})
}

func TestNodesSayWhyTheyCannotBeAsked(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		require.Equal(t, []api.NodeView{
			{ID: 1, Name: "alpha", Self: true, Answers: true, Version: "build1"},
			{ID: 2, Name: "beta", Answers: true, Version: "build2"},
			{ID: 3, Name: "gamma", Missing: "it is not a member of the cluster now: it is down, or cut off"},
		}, r.nodes[0].views())

		r.all = []uint32{1, 2, 3} // an older service: a member of the cluster that is not in the group
		require.Equal(t, noService, r.nodes[0].views()[2].Missing)
		_, err := r.nodes[0].list(3, api.Filter{})
		require.ErrorIs(t, err, api.ClusterUnavailable)
		require.ErrorContains(t, err, "older")

		r.start(t, 3)
		synctest.Wait()
		require.Equal(t, "build3", r.nodes[0].views()[2].Version)
		require.Equal(t, "build1", r.nodes[2].views()[0].Version, "those who were there tell the new one")
	})
}

func TestSilentNode(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		r.group.lose(func(_, to Member, _ []byte) bool { return to.Node == 2 })
		begin := time.Now()
		_, err := r.nodes[0].list(2, api.Filter{})
		require.ErrorIs(t, err, api.ClusterUnavailable)
		require.ErrorContains(t, err, "does not answer")
		require.Equal(t, patience, time.Since(begin))
		_, err = r.nodes[0].list(3, api.Filter{})
		require.NoError(t, err, "others do")

		r.group.lose(nil)
		r.nodes[1].hang.Store(true) // its service does not answer it
		_, err = r.nodes[0].list(2, api.Filter{})
		require.ErrorIs(t, err, api.ClusterUnavailable)
	})
}

func TestNodeThatIsCutOff(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, r *rig) {
		r.group.lose(func(_, to Member, _ []byte) bool { return to.Node == 2 })
		begin := time.Now()
		time.AfterFunc(time.Second, func() { r.group.cut(2, 1) })
		_, err := r.nodes[0].list(2, api.Filter{})
		require.ErrorContains(t, err, "has left the cluster")
		require.Equal(t, time.Second, time.Since(begin), "nobody waits for a node that has gone")

		r.group.lose(nil)
		r.group.cut(2, 0)
		synctest.Wait()
		_, err = r.nodes[0].list(2, api.Filter{})
		require.NoError(t, err)
	})
}

func TestLinkThatEnds(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		r.group.lose(func(Member, Member, []byte) bool { return true })
		time.AfterFunc(time.Second, func() { r.group.end(1) })
		_, err := r.nodes[0].list(2, api.Filter{})
		require.ErrorContains(t, err, "the link has ended")
		r.group.lose(nil)
		_, err = r.nodes[0].list(2, api.Filter{})
		require.ErrorIs(t, err, api.ClusterUnavailable)
		require.Equal(t, "the link has ended", r.nodes[0].views()[1].Missing)
		time.Sleep(redial)
		synctest.Wait()
		_, err = r.nodes[0].list(2, api.Filter{})
		require.NoError(t, err)
	})
}

// A service may be newer or older. The newer one's question gets an answer that an older one
// understands, and the other way round.
func TestVersions(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		r.group.lose(func(from, _ Member, data []byte) bool {
			if from.Node == 1 && kind(data[3]) == ask {
				data[2] = version + 1
			}
			return false
		})
		_, err := r.nodes[0].list(2, api.Filter{})
		require.ErrorIs(t, err, api.NotSupported)
		require.ErrorContains(t, err, "older")

		r.group.lose(func(_, _ Member, data []byte) bool {
			if kind(data[3]) == ask {
				copy(data[headerSize:], `{"lost":{}}           `)
			}
			return false
		})
		_, err = r.nodes[0].list(2, api.Filter{})
		require.ErrorContains(t, err, "node 2")
	})
}

func TestFloods(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		failed, answered := 0, 0
		results := make(chan error, 1000)
		for range 1000 {
			r.nodes[0].Peers.List(2, api.Filter{}, func(_ api.Page, err error) { results <- err })
		}
		for range 1000 {
			if err := <-results; err != nil {
				failed++
			} else {
				answered++
			}
		}
		require.Positive(t, answered)
		require.LessOrEqual(t, answered, maxOpen)
		require.LessOrEqual(t, len(r.nodes[1].listed), maxOpen)
		_, err := r.nodes[0].list(2, api.Filter{})
		require.NoError(t, err, "afterwards it goes on")

		// Another member sends what nobody has asked for.
		l, err := r.group.dial(Member{2, 999})(t.Context())
		require.NoError(t, err)
		go func() {
			for err := error(nil); err == nil; {
				_, err = l.Receive()
			}
		}()
		for i := range 100 {
			for _, m := range []message{
				{version: version, kind: answer, to: Member{1, 101}, id: uint64(i), body: []byte(`{"locks":[]}`)},
				{version: version, kind: hello, body: []byte(`{"build":"` + strings.Repeat("x", 1000) + `"}`)},
				{version: 9, kind: 99, body: nil},
			} {
				require.NoError(t, l.Send(m.encode()))
			}
			require.NoError(t, l.Send([]byte("rubbish")))
			synctest.Wait()
		}
		page, err := r.nodes[0].list(2, api.Filter{})
		require.NoError(t, err)
		require.Equal(t, r.nodes[1].locks, page.Locks)
		require.Len(t, r.nodes[0].open, 0)
		require.NoError(t, l.Close())
	})
}

func TestInspectionOfAnotherNode(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		in := api.Inspection{Lockspace: "vms", Resource: "a\xff", HasQueues: true, Missing: []string{"something"},
			Locks: r.nodes[1].locks,
			Queues: dlm.Queues{Master: 2, Complete: true,
				Granted:    []dlm.Held{{LockID: 1, Node: 2, Mode: dlm.EX, Wanted: dlm.None}},
				Converting: []dlm.Held{{LockID: 2, Node: 1, Mode: dlm.NL, Wanted: dlm.PR}},
				Waiting:    []dlm.Held{{LockID: 3, Node: 1, Mode: dlm.None, Wanted: dlm.PR}}},
			Waits: []api.Wait{{Waiter: api.Party{Node: 1, LockID: 3, Mode: dlm.PR, Who: "b"},
				For: api.Party{Node: 2, LockID: 1, Mode: dlm.EX, Who: "a"}}}}
		r.nodes[1].inspect = func() (api.Inspection, error) { return in, nil }
		got, err := r.nodes[0].inspectOn(2)
		require.NoError(t, err)
		require.Equal(t, in, got)

		// One that is too large for a message is cut, and says so.
		for range 5000 {
			in.Queues.Waiting = append(in.Queues.Waiting, in.Queues.Waiting[0])
			in.Locks = append(in.Locks, in.Locks[0])
			in.Locks[0].Label = strings.Repeat("x", 200)
		}
		got, err = r.nodes[0].inspectOn(2)
		require.NoError(t, err)
		require.Len(t, got.Queues.Waiting, maxQueue)
		require.Contains(t, got.Missing[1], "do not fit")
	})
}

// However a question fails, its error names what was called: inspecting is not listing.
func TestErrorsNameTheQuestion(t *testing.T) {
	inBubble(t, 2, func(t *testing.T, r *rig) {
		r.nodes[1].inspect = func() (api.Inspection, error) {
			return api.Inspection{}, &api.Error{Op: "inspect", Kind: api.NoSuchLockspace, Text: "not joined"}
		}
		_, err := r.nodes[0].inspectOn(2)
		require.EqualError(t, err, "inspect: node 2: not joined")
		_, err = r.nodes[0].list(2, api.Filter{Lockspace: "unknown"})
		require.EqualError(t, err, "list: node 2: not joined")

		_, err = r.nodes[0].inspectOn(3)
		require.EqualError(t, err, "inspect: node 3 can't be asked: "+noService)
		_, err = r.nodes[0].list(3, api.Filter{})
		require.EqualError(t, err, "list: node 3 can't be asked: "+noService)

		r.group.lose(func(_, to Member, _ []byte) bool { return to.Node == 2 })
		_, err = r.nodes[0].inspectOn(2)
		require.EqualError(t, err, "inspect: node 2 can't be asked: it does not answer within 3s")
		time.AfterFunc(time.Second, func() { r.group.end(1) })
		_, err = r.nodes[0].inspectOn(2)
		require.EqualError(t, err, "inspect: node 2 can't be asked: the link has ended")
	})
}

// FuzzMessages gives a member any message from another one.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("rubbish"), uint8(ask))
	f.Add([]byte(`{"list":{"mode":"EX"}}`), uint8(ask))
	f.Add([]byte(`{"locks":[{}],"next":1}`), uint8(answer))
	f.Fuzz(func(t *testing.T, body []byte, k uint8) {
		p := New(Config{Service: &service{inspect: func() (api.Inspection, error) { return api.Inspection{}, nil }}})
		p.membership0(Member{1, 1}, Member{2, 2})
		done := make(chan error, 1)
		p.open[1] = &open{to: Member{2, 2}, done: func(r *reply, err error) {
			if err == nil {
				_, err = infos(r.Locks)
			}
			done <- err
		}, timer: time.NewTimer(time.Hour)}
		m := message{version: version, kind: kind(k), id: 1, body: body}
		p.receive(Member{2, 2}, m.encode())
		p.receive(Member{2, 2}, body)
		for len(p.asked) > 0 {
			a := <-p.asked
			require.NotNil(t, p.answerTo(t.Context(), &a))
		}
	})
}

func (p *Peers) membership0(self Member, others ...Member) {
	p.self, p.members, p.why = self, append([]Member{self}, others...), ""
}
