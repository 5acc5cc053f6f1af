// Package table is the heart of the lock service: who holds which lock, and what
// has to happen, in which order, when somebody wants one. It is a pure state
// machine. Events go in through the methods of Table, and ordered Actions come
// out of EndTurn.
//
// It owns every decision: the order of events of each operation, with what a crash
// leaves after each step; the order of the calls of one session; the limits; what
// becomes of records and lockspaces at a start; and when something that failed is
// tried again.
//
// It refuses to know handles of the engine, callbacks of front ends, clocks,
// goroutines, files and logs. Lockspaces, calls, appends and looks are numbers, of
// which the driver (package lockd) keeps what belongs to them. The time comes with
// SetTime. internal/conventions holds the package to that: it may import nothing
// that blocks, waits or tells the time.
//
// The states of a lock (lock.go), with what has to come for the next one. In flight
// are those in capitals; an operation of the lock manager is under way then.
//
//	                            Acquire
//	                               |
//	  refused, or undone      acquiring <---+
//	+---------------------------|   |       |
//	|                     Lock  |   |Convert| granted, or the
//	|                           v   v       | conversion has ended
//	|                     LOCKING   PERSISTING
//	|                           |       |
//	|                           +-------+   "held" is written
//	|                                   +---------------------> held
//	|     start: a record                                      ^  |  |
//	|            |       adopted, and it was held              |  |  |
//	|        recorded -----------------------------------------+  |  |
//	|            |  |                                          |  |  |
//	|            |  | adopted, and it was not      mode written|  |  |Convert
//	|            |  v                                          |  |  v
//	+--------> releasing <--------------------------------+  changing <--+
//	             |  ^  Release: "releasing" is written    |      |       | ended
//	      Unlock |  | ended, or failed: tried again       |      v       |
//	             v  |                                     +--- held   CONVERTING
//	          UNLOCKING
//	             |
//	             v "gone" is written: the lock leaves the table
//
// A lock that somebody else ends, or whose lockspace goes away, leaves the table
// from held and recorded as a lost lock. From any other state its call sees at its
// next step that it has no mode any more, and ends it. Without an open handle, held
// is recorded.
//
// The states of a lockspace (lockspace.go), with what has to come for the next one. In
// capitals: an operation of the engine is in flight. Between quotes: that is being
// written.
//
//	       start, Join, next attempt
//	                  |
//	                  v     there is no such lockspace
//	               OPENING --------------------------> claiming "creating"
//	                  | opened                             |
//	                  v                                    v
//	 our anchor    PROVING                             CREATING
//	+--------------+  |                                    |
//	|                 | not there                          |
//	|                 v        a recorded lock, or empty   v
//	|             examining -------------------------> ANCHORING "joined"
//	|                 | anchors of earlier instances    ^  |
//	|                 v                                 |  |
//	|            TAKING OVER ---> reclaiming "creating" +  |
//	|                                                      |
//	+---------> ADOPTING <---------------------------------+
//	             |   ^ | a record could not be adopted
//	         all |   | +--> stalled -----------+
//	             v   +---------+               | Leave
//	           ready                           |
//	           |  ^ | the anchor has ended     |
//	           |  | +--> REANCHORING "joined"  |
//	     Leave |  +------------+               |
//	           v                               |
//	        checking <-------------------------+
//	        |      | refused: as before
//	        v      +--> ready, stalled
//	      leaving "leaving"    rechecking <--- PROVING, if "leaving" is recorded,
//	        |                      |           and stalled, if REMOVING has failed
//	        v                      |
//	     REMOVING <----------------+ refused: ready, stalled, or ANCHORING, ADOPTING
//	        |
//	        v
//	      left "left": the lockspace leaves the table, or is OPENING for who wants it
//
// Without a handle, because something has failed:
//
//	failed ---> OPENING after a time, or for a Join; a foreign lockspace only for a Join
//	  | Leave
//	  v
//	leaving unopened "leaving" ---> OPENING, PROVING, rechecking
//
// Every state with an operation in flight may end in failed. If somebody else removes the
// lockspace, its locks are lost, and it is failed as well; but where an operation is in flight
// that ends by itself (Open, Create, Remove, an append), that end is waited for first
// (lockspace.gone).
//
// Concurrency: a Table is not safe for concurrent use. The driver does one turn
// after another: SetTime, one method that takes an event, EndTurn; and it carries
// out the actions of a turn before it begins the next one.
package table
