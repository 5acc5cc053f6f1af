package queue_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/internal/queue"
)

// Everything that is added arrives once, in the order of each writer, and no
// reader that waits for Wake is left asleep.
func TestQueueLosesNothing(t *testing.T) {
	const writers, each = 8, 2000
	q := queue.New[[2]int](0)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if !q.Add([2]int{w, i}) {
					t.Error("an open queue without limit refused an item")
				}
			}
		})
	}
	go func() { wg.Wait(); q.Close() }()

	var next [writers]int
	var spare []([2]int)
	for {
		b := q.Take(spare)
		spare = b.Items
		for _, v := range b.Items {
			require.Equal(t, next[v[0]], v[1], "writer %d", v[0])
			next[v[0]]++
		}
		if b.Closed {
			break
		}
		if len(b.Items) == 0 {
			<-q.Wake()
		}
	}
	for w, n := range next {
		require.Equal(t, each, n, "writer %d", w)
	}
	require.False(t, q.Add([2]int{}), "a closed queue takes nothing")
}

// A model of one slice and a flag tells what each call has to return, and when
// there must be a token.
func TestQueueAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(0, 5).Draw(t, "limit")
		q := queue.New[int](limit)
		var items, spare []int
		dropped, closed := 0, false
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				v := rapid.Int().Draw(t, "v")
				full := limit > 0 && len(items) >= limit
				require.Equal(t, !closed && !full, q.Add(v))
				switch {
				case closed:
				case full:
					dropped++
				default:
					items = append(items, v)
				}
			},
			"take": func(t *rapid.T) {
				b := q.Take(spare)
				require.Equal(t, append([]int{}, items...), append([]int{}, b.Items...))
				require.Equal(t, dropped, b.Dropped)
				require.Equal(t, closed, b.Closed)
				items, spare, dropped = nil, b.Items, 0
			},
			"wait": func(t *rapid.T) {
				if len(items) == 0 {
					return
				}
				select {
				case <-q.Wake():
					b := q.Take(nil)
					require.Equal(t, items, b.Items)
					items, dropped = nil, 0
				default:
					require.Fail(t, "items and no token")
				}
			},
			"close": func(*rapid.T) {
				q.Close()
				closed = true
			},
		})
	})
}

func BenchmarkAddTake(b *testing.B) {
	q := queue.New[int](0)
	var spare []int
	b.ReportAllocs()
	for b.Loop() {
		q.Add(1)
		spare = q.Take(spare).Items
	}
}
