// Package story plays stories: files in which callers ask the service for locks
// while daemons are killed, nodes crash and clocks are set back, with what each
// command prints. There is one grammar, and there are two places in which a story
// can happen: the embedded engine's simulated cluster in one process
// (internal/story/embedded, go test ./internal/story/embedded), and the nodes of
// the lab with the kernel's DLM (package lab, make test-lab). A story that says
// nothing else happens in both.
//
// It owns the grammar, the parser, the player and how answers are printed. It
// refuses to know how a place does what a command says: that is a Backend.
//
// # A story
//
//	# Guards the refusal on another node, which names the holder.
//	# Nodes: 2
//	n1 start-daemon
//	n2 start-daemon
//	calm
//	----
//
//	# Somebody waits on node 2 while node 1 holds the lock.
//	n1 acquire vms/disk1 EX owner=vm1 label=web1
//	n2 acquire vms/disk1 EX owner=vm2
//	&wait n2 acquire vms/disk1 EX owner=vm2 wait=100s
//	until /waiting node 2/ n1 inspect vms/disk1
//	n1 release vms/disk1 owner=vm1
//	wait wait
//	----
//	n1: granted lkid=A, token larger
//	n2: WouldBlock: acquire vms/disk1 EX: ...held by node 1 (EX, "web1")
//	waiting node 2
//	n1: released
//	n2: granted lkid=B, token larger
//
// A file is blocks with an empty line between them. A block is commands, a line
// "----", and what the commands print; or it is a comment alone. A line that
// begins with # is a comment. The comment at the top is the header. Each part of
// it begins on a line of its own and may go on over the next ones:
//
//	# Guards WHAT              the first line: which promise or which bug (or "Shows")
//	# Nodes: N                 how many nodes there are; 1 if it says nothing
//	# Nodes: N, fenced         and lost ones are powered off
//	# Only embedded: WHY       why it can't happen on nodes
//	# Only nodes: WHY          why it can't happen with the embedded engine
//	# Kernel: 6.12             the lab plays it on this kernel alone
//	# Last: WHY                the nodes are not fit for other stories afterwards
//
// # A command
//
//	[&JOB] [until /PATTERN/ | until-not /PATTERN/] [[CALLER@]nN] VERB [ARGUMENT]... [OPTION=VALUE]...
//
// n2 says on which node. bob@n2 is the caller bob there; without a name the caller
// is root. Each caller has a connection of its own to the service of each node. A
// word with blanks in it is quoted as in Go: label="web server".
//
//	&JOB                  begin the command and go on; "wait JOB" prints what comes of it
//	until /PATTERN/       repeat the command until the regular expression matches what it
//	                      prints; prints the match alone
//	until-not /PATTERN/   repeat it until nothing matches; prints everything
//
// A pattern ends at a slash before a blank. It is how a story waits for something
// on nodes. The embedded engine has a clock that stands still while anything
// moves, and each command begins when everything has come to rest; except that the
// jobs of one connection that follow each other are handed over without a pause.
//
// # What is printed
//
// Answers begin with who asked, rows below them with two blanks. An error is the
// kind and the message. In what is expected "..." stands for any text within a
// line; a story holds what happens and leaves the wording to it. A lockid is a
// letter: the same letter is the same lock under the same lockid. Of a fencing
// token it is printed what it did since the last one that the node got for the
// resource, or with tokens=all any node.
//
// go test -update writes what was printed into the files; it keeps lines that fit.
// Read what it writes.
//
// # The verbs
//
// Those that only one place has are marked: (embedded), (nodes).
//
// About the cluster and the story, without a node before them:
//
//	sleep DURATION
//	        let time pass
//	caller NAME [uid=N] [pid=N]
//	        introduce a client; root is there already
//	calm
//	        wait until each daemon that runs sees its lockspaces ready and not stopped
//	wait JOB [within=DURATION]
//	        wait for the end of a job and print what it printed
//	waits JOB
//	        check that a job has not ended
//	partition NODES NODES...
//	        cut the network, as in 1,2 3 (nodes)
//	heal
//	        mend the network (nodes)
//	hold-fencing
//	        let no node be powered off until allow-fencing (nodes)
//	allow-fencing
//	        let fencing go on (nodes)
//	fenced
//	        print which nodes were powered off for others (nodes)
//	stop-lockspace LOCKSPACE REASON...
//	        stop a lockspace on all nodes (embedded)
//	resume-lockspace LOCKSPACE
//	        end that (embedded)
//	quorum YES|NO
//	        say whether the cluster has quorum (embedded)
//
// About a node:
//
//	boot
//	        start a node that is off and let it join the cluster
//	crash
//	        pull the plug
//	off
//	        wait until the node is off
//	members ID...
//	        wait until the node sees exactly these
//	isolate
//	        cut a node off from the others (nodes)
//	process NAME [uid=N] [pid-of=NAME]
//	        start a process that does nothing, perhaps with a pid that was another's
//	end-process NAME
//	        kill it
//	set-clock DURATION
//	        move the wall clock, forward or (-1h) back
//	dlm-join LOCKSPACE
//	        make a lockspace, as another program does
//	dlm-leave LOCKSPACE
//	        leave it, as another program does
//	dlm-lockspaces
//	        print the lockspaces that the node is in
//	dlm-unlock LOCKSPACE LOCK
//	        unlock a lock of the daemon, as another program can (embedded)
//	leave-orphan LOCKSPACE/RESOURCE MODE
//	        take a persistent lock in a process that is killed then
//	hold LOCKSPACE/RESOURCE MODE
//	        take a lock in a process of another program
//	end-hold
//	        kill that process
//	dlm-tool ARG...
//	        run dlm_tool and print what it prints (nodes)
//	stop-controld [force]
//	        stop dlm_controld, or kill it (nodes)
//	start-controld
//	        start it (nodes)
//	pause-controld
//	        stop it with SIGSTOP (nodes)
//	resume-controld
//	        continue it (nodes)
//	lockdown
//	        lock the kernel down, as Secure Boot does (nodes)
//	hide-debugfs
//	        unmount debugfs (nodes)
//	hide-processes
//	        let looking at any process fail with EMFILE (embedded)
//	show-processes
//	        end that (embedded)
//	watched-processes
//	        print how many processes are held for calls and watched for locks (embedded)
//	disk FULL|BROKEN|OK
//	        let writing the state file fail (embedded)
//	configure [lockspaces=A,B] [raw=A,B] [locks-per-uid=N] [waiting-per-uid=N]
//	        set what the next daemon reads at its start
//	start-daemon
//	        start the daemon and wait until it answers
//	stop-daemon
//	        stop it in order
//	kill-daemon
//	        kill it with SIGKILL
//	pause-daemon
//	        stop it with SIGSTOP (nodes)
//	resume-daemon
//	        continue it (nodes)
//	log
//	        print what the daemons of the node have logged in this story
//	state
//	        print what the state file says
//	save-state
//	        put a copy of the state file aside
//	put-state
//	        put it back
//	lose-state
//	        remove the state directory
//	requests N LOCKSPACE/RESOURCE MODE
//	        let one connection make N Requests that wait (nodes)
//	end-requests
//	        close that connection (nodes)
//	threads MOST
//	        check that the daemon has no more threads (nodes)
//	next-bus
//	        let the next daemon find another message bus (embedded)
//	reload [LOCKSPACE]... [locks-per-uid=N]
//	        let the daemon read changed settings (embedded)
//
// Calls of the service:
//
//	acquire [LOCKSPACE/RESOURCE MODE]... [owner=] [label=] [lifetime=] [process=NAME] [start=N]
//	    [value=] [wait=DURATION|forever] [tokens=all]
//	        take locks, all or none
//	acquire-all ROUNDS LOCKSPACE/RESOURCE...
//	        take all of them in EX and release them, again and again
//	convert LOCKSPACE/RESOURCE MODE [owner=] [lock=] [value=] [wait=DURATION] [tokens=all]
//	        change the mode of a lock
//	release LOCKSPACE/RESOURCE [owner=] [lock=]
//	        release one lock
//	release-owner OWNER [in=LOCKSPACE]
//	        release all that an owner holds
//	release-many OWNER [LOCKSPACE/RESOURCE]... [label=]
//	        release what an owner holds of these resources, or with that label
//	cancel JOB
//	        withdraw an acquire with wait=forever
//	join LOCKSPACE
//	        join a lockspace
//	leave LOCKSPACE [force=yes]
//	        leave it
//	orphans LOCKSPACE
//	        list the orphans
//	adopt LOCKSPACE RESOURCE [owner=] [label=]
//	        adopt the orphans of a resource
//	purge LOCKSPACE
//	        remove the orphans that were listed last
//	list
//	        list the locks
//	lockspaces
//	        list the lockspaces
//	inspect LOCKSPACE/RESOURCE
//	        print all that is known of a resource
//	status PROPERTY...
//	        print properties of the service
//	listen
//	        listen to what the service says unasked
//	heard [KIND]
//	        print what was heard, of one kind or of all, since it was printed last
//	vanish
//	        close the caller's connection
//	position JOB
//	        print the place of an acquire with wait=forever in the queue (embedded)
//	watch on|off
//	        let listen hear of single locks, too (embedded)
//	snapshot
//	        list the locks that were granted (embedded)
//	sessions
//	        print the callers that locks are bound to (embedded)
//	idle
//	        print what keeps the daemon from ending by itself (embedded)
//
// # Other notations
//
// The scripts of cmd/dlmlockctl and the walk of the lab run programs and shells, not
// calls: they are testscript's (github.com/rogpeppe/go-internal/testscript) and a
// transcript of what an administrator types (lab/walk_test.go).
//
// # Goroutines
//
// Concurrency: a story is played by one goroutine, which alone uses the Backend. Jobs
// use a Service from goroutines of their own.
package story
