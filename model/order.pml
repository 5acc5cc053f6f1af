/*
 * The order of events of docs/design.md, section 4, as a model for spin(1): Acquire,
 * AcquireMany, Convert and Release of one owner on each of one or two nodes, the start that
 * follows a crash, a state file that can't be written, and requests that wait and are
 * cancelled. The service may be killed before each step. README.md says what is checked,
 * and what is left out.
 *
 * STEP(line, action) is a step: the line of the table in the head comment of that file of
 * lockd/table, and what Step() of the action returns. The tests of this directory hold both
 * against the code. BROKEN(name) is true where the model is to have a mistake that there was
 * once, or could be; mutations.txt lists them.
 */

#ifndef NODES
#define NODES 2
#endif
#ifndef RESOURCES
#define RESOURCES 2
#endif
/* How much happens: calls of each client; kills of the service, and writes and deadlines that
   fail, of node 0. The nodes are alike, and meet in the kernels' DLM alone. */
#ifndef CALLS
#define CALLS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef FAILURES
#define FAILURES 1
#endif
#ifndef BUG
#define BUG none
#endif

#define none 0
#define persistentAtOnce 1
#define repliedUnmarked 2
#define unmarkedKept 3
#define undoneWithMarks 4
#define releasedUnmarked 5
#define releasedUnwritten 6
#define modeUnwritten 7
#define modeNotTakenBack 8
#define timeoutUnasked 9
#define blockTakenBack 10
#define notRepublished 11
#define sharedTokenKept 12
#define askedAtOnce 13
#define cancelBelieved 14
#define recordBelieved 15
#define sharedTokenRestored 16
#define tokenNotTakenBack 17
#define BROKEN(bug) (BUG == bug)

/* Modes. NONE is no lock; CR, CW and PW would order nothing that these don't. */
#define NONE 0
#define NL 1
#define PR 2
#define EX 3

/* Phases of a record. VOID is no record. */
#define VOID 0
#define GRANTED 1
#define HELD 2
#define RELEASING 3

#define AT(n, r) ((n) * RESOURCES + (r))
#define SLOTS (NODES * RESOURCES)

/* The kernels: granted modes, which of them outlive their process, and the token in the
   value block of each resource. */
byte mode[SLOTS];
bool persistent[SLOTS];
byte block[RESOURCES];

/* The state files: the record, and whether its last change is still to be written. */
byte phase[SLOTS];
byte recorded[SLOTS];
byte recordedToken[SLOTS];
bool owed[SLOTS];

/* The services: the tokens of their locks. The rest of their memory is in Service. */
byte token[SLOTS];

/* The clients: what they were told, with which token, and the call that has no answer yet, as the set of its
   resources and the mode that it asks for. */
byte told[SLOTS];
byte toldToken[SLOTS];
byte asked[NODES];
byte wanted[NODES];
/* The resource that a call waits for, + 1. */
byte waits[NODES];

/* The largest fencing token that was given with an exclusive lock, and to whom. */
byte given[RESOURCES];
byte givenTo[RESOURCES];

/* The promises. These are never true: spin names them where an assertion is violated. */
hidden byte toldIsTrue, outlivesTheService, writtenDown, nothingForgotten, wholeOrNothing, nothingLost;
hidden byte tokensGrow, tokensAreTold, readersAreCurrent, blockRemembers, noCircle;
#define PROMISE(name, condition) assert(name || (condition))

#define IN(set, r) (((set) >> (r)) & 1)
#define ALL ((1 << RESOURCES) - 1)
/* Only the other node can be in the way, because each has one owner. */
#if NODES == 1
#define GRANTS(n, r, m) true
#else
#define OTHER(n, r) mode[AT(1 - (n), r)]
#define GRANTS(n, r, m) (OTHER(n, r) <= NL || m <= NL || (OTHER(n, r) == PR && m == PR))
#endif

/* The process is killed before the step, or does it. */
#define STEP(line, action) if :: true :: crashes > 0 -> crashes--; goto dead fi
/* A write to the state file is done, or fails. */
#define WRITE(ok) if :: ok = true :: failures > 0 -> failures--; ok = false fi
/* What happens for each resource of a set. */
#define EACH(set) r = 0; do :: r == RESOURCES -> r = 0; break :: r < RESOURCES -> if :: IN(set, r) ->
#define DONE :: else fi; r++ od

/* A conversion in place, a conversion downward and an unlock write the value block. */
#define PUBLISH(n, r) if :: mode[AT(n, r)] == EX -> block[r] = token[AT(n, r)] :: else fi

/* Two clients never wait for each other because of two calls that are both under way. */
inline mayWait() {
#if NODES == 2 && RESOURCES == 2
	PROMISE(noCircle, !(waits[0] && waits[1] && waits[0] != waits[1] &&
		mode[AT(0, waits[1] - 1)] && !told[AT(0, waits[1] - 1)] &&
		mode[AT(1, waits[0] - 1)] && !told[AT(1, waits[0] - 1)]))
#else
	skip
#endif
}

/* A lock is granted, and its value block read with it. */
#define GRANT(n, r, m) mode[AT(n, r)] = m; seen = block[r]; ok = true

/* The DLM's answer to a request for mode m. It is refused where another lock is in the way,
   or waits there, and may be cancelled. late: grant and cancel have passed each other. */
inline await(n, r, m) {
	atomic {
		ok = false; late = false;
		if
		:: GRANTS(n, r, m) -> GRANT(n, r, m)
		:: !GRANTS(n, r, m)
		:: !GRANTS(n, r, m) -> waits[n] = r + 1; mayWait()
		fi
	};
	if
	:: waits[n] != 0 ->
		if
		:: atomic { GRANTS(n, r, m) -> GRANT(n, r, m); waits[n] = 0 }
		:: true ->
			STEP(lateError, cancel);
			atomic {
				waits[n] = 0;
				if :: GRANTS(n, r, m) -> GRANT(n, r, m); late = true :: true fi
			}
		fi
	:: else
	fi
}

/* A client reads that it has r in mode m. */
inline answered(n, r, m) {
	if
	:: m == EX && (givenTo[r] != n || token[AT(n, r)] != given[r]) ->
		PROMISE(tokensGrow, token[AT(n, r)] > given[r]);
		given[r] = token[AT(n, r)]; givenTo[r] = n
	:: else
	fi;
	PROMISE(readersAreCurrent, m != PR || token[AT(n, r)] >= given[r]);
	told[AT(n, r)] = m; toldToken[AT(n, r)] = token[AT(n, r)]
}

/* What a client was told is true: the lock is granted, outlives the process, and is written
   down as it is. What it was not told of is not there. */
inline promises(n) {
	EACH(ALL)
		PROMISE(toldIsTrue, told[AT(n, r)] == mode[AT(n, r)]);
		PROMISE(tokensAreTold, mode[AT(n, r)] == NONE || token[AT(n, r)] == toldToken[AT(n, r)]);
		PROMISE(outlivesTheService, mode[AT(n, r)] == NONE || persistent[AT(n, r)]);
		PROMISE(nothingForgotten, mode[AT(n, r)] == NONE || phase[AT(n, r)] == HELD);
		PROMISE(writtenDown, mode[AT(n, r)] == NONE || recorded[AT(n, r)] == mode[AT(n, r)] || owed[AT(n, r)]);
		PROMISE(nothingForgotten, mode[AT(n, r)] != NONE || phase[AT(n, r)] == VOID || owed[AT(n, r)]);
		PROMISE(blockRemembers, block[r] >= given[r]);
		PROMISE(tokensGrow, mode[AT(n, r)] != EX || token[AT(n, r)] >= given[r]);
		PROMISE(readersAreCurrent, mode[AT(n, r)] != PR || token[AT(n, r)] >= given[r])
	DONE
}

/* Acquire; with more than one resource, AcquireMany. */
inline acquire(n, set, m) {
	taken = 0; written = false; failed = false;
	r = (BROKEN(askedAtOnce) -> n % RESOURCES : 0);
	count = 0;
	do
	:: count == RESOURCES || failed -> r = 0; break
	:: count < RESOURCES && !failed ->
		if
		:: IN(set, r) ->
			STEP(start, lock);
			await(n, r, m);
			atomic {
				if
				:: ok ->
					persistent[AT(n, r)] = BROKEN(persistentAtOnce);
					token[AT(n, r)] = (m == EX -> seen + 1 : seen);
					if :: late && BROKEN(cancelBelieved) :: else -> taken = taken | (1 << r) fi
				:: else -> failed = true
				fi;
				if :: late -> failed = true :: else fi
			}
		:: else
		fi;
		count++; r = (r + 1) % RESOURCES
	od;

	if
	:: !failed ->
		STEP(locked, append-granted);
		atomic {
			WRITE(ok);
			if
			:: ok -> written = true;
				EACH(set)
					phase[AT(n, r)] = GRANTED; recorded[AT(n, r)] = m; recordedToken[AT(n, r)] = token[AT(n, r)]
				DONE
			:: else -> failed = true
			fi
		}
	:: else
	fi;
	if
	:: !failed ->
		EACH(set)
			STEP(recordWritten, convert);
			atomic { persistent[AT(n, r)] = true; PUBLISH(n, r) }
		DONE;
		if
		:: BROKEN(repliedUnmarked) -> atomic { EACH(set) answered(n, r, m) DONE; asked[n] = 0 }
		:: else
		fi;
		STEP(persisted, append-held);
		atomic {
			WRITE(ok);
			if
			:: ok -> EACH(set) phase[AT(n, r)] = HELD DONE
			:: else -> failed = true
			fi;
			/* The deadline may have passed meanwhile. */
			if :: true :: ok && failures > 0 -> failures--; failed = true fi
		};
		if
		:: failed && !BROKEN(undoneWithMarks) ->
			/* Until the marks are taken back, the locks stay and nobody has an answer. */
			STEP(unmark, append-releasing);
			atomic { EACH(set) phase[AT(n, r)] = RELEASING DONE }
		:: else
		fi
	:: else
	fi;

	if
	:: failed ->
		EACH(taken)
			STEP(undo, unlock);
			atomic {
				if :: written -> PUBLISH(n, r) :: else fi;
				mode[AT(n, r)] = NONE; persistent[AT(n, r)] = false
			}
		DONE;
		if
		:: written ->
			STEP(forget, append-gone);
			atomic { WRITE(ok); EACH(set) if :: ok -> phase[AT(n, r)] = VOID :: else -> owed[AT(n, r)] = true fi DONE }
		:: else
		fi;
		STEP(endUndone, reply);
		asked[n] = 0
	:: else ->
		STEP(marked, reply);
		atomic { if :: asked[n] -> EACH(set) answered(n, r, m) DONE; asked[n] = 0 :: else fi }
	fi
}

/* The conversion upward is undone: it can't be written down, or its caller has given up. */
inline takeBack(n, r) {
	if
	/* The new mode is written, or may still be. */
	:: published ->
		STEP(goBack, append-mark);
		atomic {
			WRITE(ok);
			if
			:: ok -> recorded[AT(n, r)] = from; recordedToken[AT(n, r)] = before; owed[AT(n, r)] = false
			:: else -> owed[AT(n, r)] = true
			fi
		}
	:: else
	fi;
	STEP(goBack, convert);
	atomic {
		/* The value block gets the token that it had. */
		if
		:: mode[AT(n, r)] == EX -> block[r] = (seen > before && !BROKEN(blockTakenBack) -> seen : before)
		:: else
		fi;
		if :: BROKEN(tokenNotTakenBack) :: else -> token[AT(n, r)] = before fi;
		mode[AT(n, r)] = from; failed = true
	}
}

inline convert(n, x, to) {
	from = mode[AT(n, x)]; before = token[AT(n, x)]; failed = false; published = false;
	STEP(start, convert);
	if
	:: to <= from -> atomic {
			PUBLISH(n, x); mode[AT(n, x)] = to; ok = true; late = false;
			/* The answer of another node may take longer than the caller waits. */
			if :: true :: failures > 0 -> failures--; late = true fi
		}
	:: to > from -> await(n, x, to);
		atomic {
			if
			:: ok && to == EX -> token[AT(n, x)] = seen + 1
			:: ok && to == PR && token[AT(n, x)] < seen && !BROKEN(sharedTokenKept) -> token[AT(n, x)] = seen
			:: ok && (to < PR || to == PR && (token[AT(n, x)] >= seen || BROKEN(sharedTokenKept)))
			:: else -> failed = true
			fi
		}
	fi;
	if
	:: late && ok && BROKEN(timeoutUnasked) -> failed = true
	:: else
	fi;
	if
	/* The caller has been told of a timeout, because the DLM's answer took too long. */
	:: late && ok && to > from -> takeBack(n, x)
	/* Or it was granted before he was told. */
	:: ok -> late = false;
		if
		:: to == EX && from < EX ->
			STEP(converted, convert);
			atomic { PUBLISH(n, x) }
		:: else
		fi;
		STEP(published, append-mark);
		atomic {
			published = true;
			WRITE(ok);
			if
			:: BROKEN(modeUnwritten)
			:: ok && !BROKEN(modeUnwritten) -> recorded[AT(n, x)] = to; recordedToken[AT(n, x)] = token[AT(n, x)]
			:: !ok && to <= from && !BROKEN(modeUnwritten) -> owed[AT(n, x)] = true; ok = true
			:: !ok && to > from && !BROKEN(modeUnwritten)
			fi;
			/* The deadline may have passed meanwhile. */
			if :: true :: ok && to > from && failures > 0 -> failures--; late = true fi
		};
		if
		:: (!ok || late && to > from) && !BROKEN(modeNotTakenBack) -> takeBack(n, x)
		:: (!ok || late && to > from) && BROKEN(modeNotTakenBack) -> failed = true
		:: ok && !(late && to > from)
		fi
	:: !ok
	fi;
	STEP(written, reply);
	atomic { if :: failed :: !failed -> answered(n, x, to) fi; asked[n] = 0 }
}

/* Release; with more than one resource, ReleaseMany or ReleaseOwner. */
inline release(n, set) {
	ok = true;
	if
	:: !BROKEN(releasedUnmarked) ->
		STEP(start, append-releasing);
		atomic {
			WRITE(ok);
			if :: ok -> EACH(set) phase[AT(n, r)] = RELEASING DONE :: else fi
		}
	:: else
	fi;
	if
	:: ok || BROKEN(releasedUnwritten) ->
		EACH(set)
			STEP(unlock, unlock);
			atomic { PUBLISH(n, r); mode[AT(n, r)] = NONE; persistent[AT(n, r)] = false }
		DONE;
		STEP(forget, append-gone);
		atomic { WRITE(ok); EACH(set) if :: ok -> phase[AT(n, r)] = VOID :: else -> owed[AT(n, r)] = true fi DONE };
		STEP(end, reply);
		atomic { EACH(set) told[AT(n, r)] = NONE DONE; asked[n] = 0 }
	:: else -> asked[n] = 0 /* "the lock is still held" */
	fi
}

/* What the next start does with each record. */
inline activate(n) {
	EACH(ALL)
		if
		:: phase[AT(n, r)] != VOID ->
			STEP(adoptAll, adopt);
			atomic {
				if
				:: mode[AT(n, r)] == NONE ->
					/* A held lock that is not there is reported as lost: there is no such loss here. */
					PROMISE(nothingLost, phase[AT(n, r)] != HELD);
					phase[AT(n, r)] = VOID
				:: else ->
					token[AT(n, r)] = recordedToken[AT(n, r)];
					PROMISE(nothingLost, !BROKEN(recordBelieved) || recorded[AT(n, r)] == mode[AT(n, r)]);
					if :: BROKEN(unmarkedKept) && phase[AT(n, r)] == GRANTED -> phase[AT(n, r)] = HELD :: else fi
				fi
			};
			if
			:: phase[AT(n, r)] == HELD && mode[AT(n, r)] > recorded[AT(n, r)] ->
				if
				:: mode[AT(n, r)] == EX && !BROKEN(notRepublished) ->
					token[AT(n, r)] = block[r] + 1;
					STEP(renew, convert);
					atomic { PUBLISH(n, r) }
				:: mode[AT(n, r)] == PR && token[AT(n, r)] < block[r] && !BROKEN(sharedTokenRestored) ->
					token[AT(n, r)] = block[r]
				:: else
				fi
			:: else
			fi;
			if
			:: phase[AT(n, r)] != VOID && mode[AT(n, r)] != recorded[AT(n, r)] ->
				STEP(match, append-mark);
				atomic { recorded[AT(n, r)] = mode[AT(n, r)]; recordedToken[AT(n, r)] = token[AT(n, r)] }
			:: else
			fi
		:: else
		fi
	DONE;
	EACH(ALL)
		if
		:: phase[AT(n, r)] == GRANTED || phase[AT(n, r)] == RELEASING ->
			STEP(finishCalls, unlock);
			atomic { PUBLISH(n, r); mode[AT(n, r)] = NONE; persistent[AT(n, r)] = false };
			STEP(forget, append-gone);
			phase[AT(n, r)] = VOID
		:: else
		fi
	DONE
}

/* A client that had no answer looks at what is there: its call is wholly done or wholly undone. */
inline settle(n) {
	done = true; undone = true;
	EACH(asked[n])
		if :: mode[AT(n, r)] != wanted[n] -> done = false :: else fi;
		if :: mode[AT(n, r)] != told[AT(n, r)] -> undone = false :: else fi
	DONE;
	PROMISE(wholeOrNothing, done || undone);
	EACH(asked[n]) answered(n, r, mode[AT(n, r)]) DONE;
	asked[n] = 0
}

proctype Service(byte n, crashes, failures) {
	byte r, count, taken, seen, before, from, x, set, m, calls = CALLS;
	bool ok, late, failed, written, published, done, undone;

begin:	activate(n);
	atomic { settle(n); promises(n) };

	do
	:: calls > 0 ->
		/* What is owed is written as soon as it can be, before the next call at the latest. */
		atomic {
			calls--;
			EACH(ALL)
				if
				:: owed[AT(n, r)] ->
					owed[AT(n, r)] = false;
					if
					:: mode[AT(n, r)] == NONE -> phase[AT(n, r)] = VOID
					:: else -> recorded[AT(n, r)] = mode[AT(n, r)]; recordedToken[AT(n, r)] = token[AT(n, r)]
					fi
				:: else
				fi
			DONE;
			select(x : 0 .. RESOURCES - 1);
			set = 1 << x;
			if :: true :: set = ALL fi;
			select(m : NL .. EX);
			done = true; undone = true;
			EACH(set)
				if :: told[AT(n, r)] == NONE -> done = false :: else -> undone = false fi
			DONE;
			asked[n] = set; wanted[n] = m
		};
		if
		:: undone -> acquire(n, set, m)
		:: done -> wanted[n] = NONE; release(n, set)
		:: done && set == 1 << x && m != told[AT(n, x)] -> convert(n, x, m)
		:: else -> asked[n] = 0
		fi;
		atomic { promises(n) }
	:: true -> break
	od;
	goto ended;

dead:	/* The kernel keeps what is persistent, and nothing else. */
	atomic {
		waits[n] = 0;
		r = 0;
		do
		:: r == RESOURCES -> r = 0; break
		:: r < RESOURCES ->
			if
			:: !persistent[AT(n, r)] -> mode[AT(n, r)] = NONE
			:: else
			fi;
			owed[AT(n, r)] = false; token[AT(n, r)] = 0; r++
		od;
		taken = 0; seen = 0; before = 0; from = 0; count = 0; ok = false; late = false; failed = false; written = false;
		published = false
	};
	goto begin;

ended:	skip
}

init {
	atomic {
		run Service(0, CRASHES, FAILURES);
#if NODES == 2
		run Service(1, 0, 0)
#endif
	}
}
