// Package story plays stories: text files in which callers ask the service for locks
// while daemons are killed, nodes crash and clocks are set back, together with what
// each command prints. There is one grammar, and a story can be played in two places:
// on the embedded engine's simulated cluster, in one process (package embedded below
// this one; go test ./lockd -run Stories/NAME), and on the nodes of the lab, with the
// kernel's DLM (package lab; make test-lab). A story is played in both unless its
// header says otherwise.
//
// It owns the grammar, the parser, the player and the way answers are printed. It
// refuses to know how a place carries out a command: that is a Backend's business.
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
// A file consists of blocks, separated by an empty line. A block is commands, a line
// "----", and what the commands print; or it is a comment alone. A line that
// begins with # is a comment. The comment at the top is the header. Each of its
// fields begins on a line of its own and may continue on the next ones:
//
//	# Guards WHAT              the first line: which promise or which bug (or "Shows")
//	# Nodes: N                 how many nodes there are; the default is 1
//	# Nodes: N, fenced         and lost nodes are powered off
//	# Only embedded: WHY       why it can't be played on nodes
//	# Only nodes: WHY          why it can't be played with the embedded engine
//	# Kernel: 6.12             the lab plays it only on this kernel
//	# Last: WHY                the lab plays it last: it wears the nodes out
//
// # A command
//
//	[&JOB] [until /PATTERN/ | until-not /PATTERN/] [[CALLER@]nN] VERB [ARGUMENT]... [OPTION=VALUE]...
//
// n2 names the node. bob@n2 is the caller bob there; without a name the caller is
// root. Each caller has its own connection to the service of each node. A word that
// contains blanks is quoted as in Go: label="web server".
//
//	&JOB                  start the command and go on; "wait JOB" prints its result
//	until /PATTERN/       repeat the command until the regular expression matches its
//	                      output; print only the match
//	until-not /PATTERN/   repeat it until nothing matches; print the whole output
//
// A pattern ends at a slash followed by a blank. "until" is how a story waits for
// something on nodes. With the embedded engine the clock stands still while anything
// moves, and each command starts when everything has come to rest. Only jobs of one
// connection that follow each other are handed over without a pause.
//
// # What is printed
//
// An answer begins with the node or the caller, and its rows with two blanks. An error
// is its kind and its message. In the expected output "..." stands for any text within
// a line: a story is about what happens, and the wording of messages is tested
// elsewhere. A lockid is printed as a letter: the same letter means the same lock under
// the same lockid. A fencing token is printed as a comparison with the last one that
// the node got for the resource or, with tokens=all, that any node got.
//
// go test -update writes the actual output into the files, and keeps the lines that
// match. Read what it writes.
//
// # The verbs
//
// Those that only one place has are marked: (embedded), (nodes).
//
// About the cluster and the story, without a node before them:
//
//	sleep DURATION
//	        wait
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
//	        hold back the power-off of any node until allow-fencing (nodes)
//	allow-fencing
//	        let fencing proceed (nodes)
//	fenced
//	        print which nodes were powered off for others (nodes)
//	stop-lockspace LOCKSPACE REASON...
//	        stop a lockspace on all nodes (embedded)
//	resume-lockspace LOCKSPACE
//	        undo that (embedded)
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
//	        start a process that does nothing; pid-of gives it the pid of one that has ended (embedded)
//	end-process NAME
//	        kill that process
//	set-clock DURATION
//	        move the wall clock, forward or (-1h) back
//	dlm-join LOCKSPACE
//	        make a lockspace from another program
//	dlm-leave LOCKSPACE
//	        leave it from another program
//	dlm-lockspaces
//	        print the lockspaces that the node is in
//	dlm-unlock LOCKSPACE LOCK
//	        unlock a lock of the daemon from another program (embedded)
//	leave-orphan LOCKSPACE/RESOURCE MODE
//	        take a persistent lock in a process, which is then killed
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
//	        suspend it with SIGSTOP (nodes)
//	resume-controld
//	        let it continue (nodes)
//	remove-address NODE
//	        remove another node's address, as dlm_controld does if that node is lost (nodes)
//	lockdown
//	        lock the kernel down, as Secure Boot does (nodes)
//	hide-debugfs
//	        unmount debugfs (nodes)
//	hide-processes
//	        make every look at a process fail with EMFILE (embedded)
//	show-processes
//	        undo that (embedded)
//	watched-processes
//	        print how many processes are held for calls and watched for locks (embedded)
//	disk FULL|BROKEN|OK
//	        make writes of the state file fail, or work again (embedded)
//	configure [lockspaces=A,B] [raw=A,B] [locks-per-uid=N] [waiting-per-uid=N]
//	        change the configuration that the next daemon reads
//	start-daemon
//	        start the daemon and wait until it answers
//	stop-daemon
//	        stop it in order
//	kill-daemon
//	        kill it with SIGKILL
//	pause-daemon
//	        suspend it with SIGSTOP (nodes)
//	resume-daemon
//	        let it continue (nodes)
//	log
//	        print the log of the daemons of the node in this story
//	state
//	        print the contents of the state file
//	save-state
//	        put a copy of the state file aside
//	put-state
//	        put it back
//	lose-state
//	        remove the state directory
//	requests N LOCKSPACE/RESOURCE MODE
//	        make N Requests that wait, on one connection (nodes)
//	end-requests
//	        close that connection (nodes)
//	threads MOST
//	        check that the daemon has no more threads (nodes)
//	next-bus
//	        give the next daemon another message bus (embedded)
//	reload [LOCKSPACE]... [locks-per-uid=N]
//	        change settings of the running daemon (embedded)
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
//	        withdraw the acquire of a job with wait=forever
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
//	        start listening to the signals of the service
//	heard [KIND]
//	        print the signals since the last heard, or those of one kind
//	vanish
//	        close the caller's connection
//	position JOB
//	        print its place in the queue (embedded)
//	watch on|off
//	        include single locks in what listen hears (embedded)
//	snapshot
//	        list the locks that were granted (embedded)
//	sessions
//	        print the callers whose connections end locks (embedded)
//	idle
//	        print the reason why the daemon would not exit when idle (embedded)
//
// # Other notations
//
// The scripts of cmd/dlmlockctl and the walk of the lab run programs, not calls of the
// service. The first are in the notation of testscript
// (github.com/rogpeppe/go-internal/testscript), the second is a transcript of what an
// administrator types in a shell (lab/walk_test.go).
//
// # Goroutines
//
// Concurrency: a story is played by one goroutine, which alone uses the Backend. Jobs
// use a Service from goroutines of their own.
package story
