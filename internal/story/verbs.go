package story

import (
	"fmt"
	"slices"
	"strings"
)

// scope is what a verb is about.
type scope uint8

const (
	ofCluster scope = iota + 1 // written alone
	ofNode                     // written after a node, n1
	ofCaller                   // written after a node or a caller there, bob@n1
)

// verb is one word of the grammar. Its usage is what doc.go shows; parsing
// takes the number of arguments and the names of the options from it.
type verb struct {
	name   string
	scope  scope
	usage  string // arguments and options
	places Place
	does   string
}

// verbs are all that there is. The table in doc.go is made from it.
var verbs = []verb{
	{"sleep", ofCluster, "DURATION", Both, "wait"},
	{"caller", ofCluster, "NAME [uid=N] [pid=N]", Both, "introduce a client; root is there already"},
	{"calm", ofCluster, "", Both, "wait until each daemon that runs sees its lockspaces ready and not stopped"},
	{"wait", ofCluster, "JOB [within=DURATION]", Both, "wait for the end of a job and print what it printed"},
	{"waits", ofCluster, "JOB", Both, "check that a job has not ended"},
	{"partition", ofCluster, "NODES NODES...", Nodes, "cut the network, as in 1,2 3"},
	{"heal", ofCluster, "", Nodes, "mend the network"},
	{"hold-fencing", ofCluster, "", Nodes, "hold back the power-off of any node until allow-fencing"},
	{"allow-fencing", ofCluster, "", Nodes, "let fencing proceed"},
	{"fenced", ofCluster, "", Nodes, "print which nodes were powered off for others"},
	{"stop-lockspace", ofCluster, "LOCKSPACE REASON...", Embedded, "stop a lockspace on all nodes"},
	{"resume-lockspace", ofCluster, "LOCKSPACE", Embedded, "undo that"},
	{"quorum", ofCluster, "YES|NO", Embedded, "say whether the cluster has quorum"},

	{"boot", ofNode, "", Both, "start a node that is off and let it join the cluster"},
	{"crash", ofNode, "", Both, "pull the plug"},
	{"off", ofNode, "", Both, "wait until the node is off"},
	{"members", ofNode, "ID...", Both, "wait until the node sees exactly these"},
	{"isolate", ofNode, "", Nodes, "cut a node off from the others"},
	{"process", ofNode, "NAME [uid=N] [pid-of=NAME]", Both,
		"start a process that does nothing; pid-of gives it the pid of one that has ended (embedded)"},
	{"end-process", ofNode, "NAME", Both, "kill that process"},
	{"set-clock", ofNode, "DURATION", Both, "move the wall clock, forward or (-1h) back"},
	{"dlm-join", ofNode, "LOCKSPACE", Both, "make a lockspace from another program"},
	{"dlm-leave", ofNode, "LOCKSPACE", Both, "leave it from another program"},
	{"dlm-lockspaces", ofNode, "", Both, "print the lockspaces that the node is in"},
	{"dlm-unlock", ofNode, "LOCKSPACE LOCK", Embedded, "unlock a lock of the daemon from another program"},
	{"leave-orphan", ofNode, "LOCKSPACE/RESOURCE MODE", Both,
		"take a persistent lock in a process, which is then killed"},
	{"hold", ofNode, "LOCKSPACE/RESOURCE MODE", Both, "take a lock in a process of another program"},
	{"end-hold", ofNode, "", Both, "kill that process"},
	{"dlm-tool", ofNode, "ARG...", Nodes, "run dlm_tool and print what it prints"},
	{"stop-controld", ofNode, "[force]", Nodes, "stop dlm_controld, or kill it"},
	{"start-controld", ofNode, "", Nodes, "start it"},
	{"pause-controld", ofNode, "", Nodes, "suspend it with SIGSTOP"},
	{"resume-controld", ofNode, "", Nodes, "let it continue"},
	{"remove-address", ofNode, "NODE", Nodes, "remove another node's address, as dlm_controld does if that node is lost"},
	{"lockdown", ofNode, "", Nodes, "lock the kernel down, as Secure Boot does"},
	{"hide-debugfs", ofNode, "", Nodes, "unmount debugfs"},
	{"hide-processes", ofNode, "", Embedded, "make every look at a process fail with EMFILE"},
	{"show-processes", ofNode, "", Embedded, "undo that"},
	{"watched-processes", ofNode, "", Embedded,
		"print how many processes are held for calls and watched for locks"},
	{"disk", ofNode, "FULL|BROKEN|OK", Embedded, "make writes of the state file fail, or work again"},

	{"configure", ofNode, "[lockspaces=A,B] [raw=A,B] [locks-per-uid=N] [waiting-per-uid=N]", Both,
		"change the configuration that the next daemon reads"},
	{"start-daemon", ofNode, "", Both, "start the daemon and wait until it answers"},
	{"stop-daemon", ofNode, "", Both, "stop it in order"},
	{"kill-daemon", ofNode, "", Both, "kill it with SIGKILL"},
	{"pause-daemon", ofNode, "", Nodes, "suspend it with SIGSTOP"},
	{"resume-daemon", ofNode, "", Nodes, "let it continue"},
	{"log", ofNode, "", Both, "print the log of the daemons of the node in this story"},
	{"state", ofNode, "", Both, "print the contents of the state file"},
	{"save-state", ofNode, "", Both, "put a copy of the state file aside"},
	{"put-state", ofNode, "", Both, "put it back"},
	{"lose-state", ofNode, "", Both, "remove the state directory"},
	{"requests", ofNode, "N LOCKSPACE/RESOURCE MODE", Nodes, "make N Requests that wait, on one connection"},
	{"end-requests", ofNode, "", Nodes, "close that connection"},
	{"threads", ofNode, "MOST", Nodes, "check that the daemon has no more threads"},
	{"next-bus", ofNode, "", Embedded, "give the next daemon another message bus"},
	{"reload", ofNode, "[LOCKSPACE]... [locks-per-uid=N]", Embedded, "change settings of the running daemon"},

	{"acquire", ofCaller, "[LOCKSPACE/RESOURCE MODE]... [owner=] [label=] [lifetime=] [process=NAME] [start=N]" +
		" [value=] [wait=DURATION|forever] [tokens=all]", Both,
		"take locks, all or none"},
	{"acquire-all", ofCaller, "ROUNDS LOCKSPACE/RESOURCE...", Both,
		"take all of them in EX and release them, again and again"},
	{"convert", ofCaller, "LOCKSPACE/RESOURCE MODE [owner=] [lock=] [value=] [wait=DURATION] [tokens=all]", Both,
		"change the mode of a lock"},
	{"release", ofCaller, "LOCKSPACE/RESOURCE [owner=] [lock=]", Both, "release one lock"},
	{"release-owner", ofCaller, "OWNER [in=LOCKSPACE]", Both, "release all that an owner holds"},
	{"release-many", ofCaller, "OWNER [LOCKSPACE/RESOURCE]... [label=]", Both,
		"release what an owner holds of these resources, or with that label"},
	{"cancel", ofCaller, "JOB", Both, "withdraw the acquire of a job with wait=forever"},
	{"join", ofCaller, "LOCKSPACE", Both, "join a lockspace"},
	{"leave", ofCaller, "LOCKSPACE [force=yes]", Both, "leave it"},
	{"orphans", ofCaller, "LOCKSPACE", Both, "list the orphans"},
	{"adopt", ofCaller, "LOCKSPACE RESOURCE [owner=] [label=]", Both, "adopt the orphans of a resource"},
	{"purge", ofCaller, "LOCKSPACE", Both, "remove the orphans that were listed last"},
	{"list", ofCaller, "", Both, "list the locks"},
	{"lockspaces", ofCaller, "", Both, "list the lockspaces"},
	{"inspect", ofCaller, "LOCKSPACE/RESOURCE", Both, "print all that is known of a resource"},
	{"status", ofCaller, "PROPERTY...", Both, "print properties of the service"},
	{"listen", ofCaller, "", Both, "start listening to the signals of the service"},
	{"heard", ofCaller, "[KIND]", Both,
		"print the signals since the last heard, or those of one kind"},
	{"vanish", ofCaller, "", Both, "close the caller's connection"},
	{"position", ofCaller, "JOB", Embedded, "print its place in the queue"},
	{"watch", ofCaller, "on|off", Embedded, "include single locks in what listen hears"},
	{"snapshot", ofCaller, "", Embedded, "list the locks that were granted"},
	{"sessions", ofCaller, "", Embedded, "print the callers whose connections end locks"},
	{"idle", ofCaller, "", Embedded, "print the reason why the daemon would not exit when idle"},
}

// verbOf finds a verb by its name.
func verbOf(name string) *verb {
	i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == name })
	if i < 0 {
		return nil
	}
	return &verbs[i]
}

// bounds are how many arguments a verb takes; most is -1 for any number.
func (v *verb) bounds() (least, most int) {
	words := strings.Fields(v.usage)
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case strings.Contains(word, "="):
		case strings.HasPrefix(word, "[") && strings.HasSuffix(word, "..."):
			most = -1
		case strings.HasPrefix(word, "[") && !strings.HasSuffix(word, "]"):
			i++ // a pair, [LOCKSPACE/RESOURCE MODE]...
			most = -1
		case strings.HasPrefix(word, "["):
			most++
		default:
			least++
			if strings.HasSuffix(word, "...") {
				most = -1
			} else if most >= 0 {
				most++
			}
		}
	}
	return least, most
}

// options are the names of the options that a verb takes.
func (v *verb) options() []string {
	var names []string
	for word := range strings.FieldsSeq(v.usage) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(word, "["), "="); ok {
			names = append(names, name)
		}
	}
	return names
}

// check tells what is wrong with a command, or "".
func (v *verb) check(c *Command) string {
	switch {
	case v.scope == ofCluster && c.Node != 0:
		return fmt.Sprintf("%s is about the cluster: leave n%d out", v.name, c.Node)
	case v.scope != ofCluster && c.Node == 0:
		return fmt.Sprintf("%s needs a node before it, as in \"n1 %s\"", v.name, v.name)
	case v.scope == ofNode && c.Caller != rootName:
		return fmt.Sprintf("%s is nobody's call: write n%d in place of %s@n%d", v.name, c.Node, c.Caller, c.Node)
	}
	least, most := v.bounds()
	if n := len(c.Args); n < least || most >= 0 && n > most {
		return fmt.Sprintf("%d arguments; it is %q", n, strings.TrimSpace(v.name+" "+v.usage))
	}
	for name := range c.Options {
		if !slices.Contains(v.options(), name) {
			return fmt.Sprintf("%s has no option %s; it is %q", v.name, name, strings.TrimSpace(v.name+" "+v.usage))
		}
	}
	return v.checkResources(c)
}

// checkResources looks at arguments that name resources.
func (v *verb) checkResources(c *Command) string {
	first := strings.Index(v.usage, "LOCKSPACE/RESOURCE")
	if first < 0 {
		return ""
	}
	at := len(strings.Fields(v.usage[:first]))
	if v.usage[first-min(first, 1):first] == "[" {
		at = len(strings.Fields(strings.TrimSuffix(v.usage[:first], "[")))
	}
	pairs := strings.Contains(v.usage, "MODE]...")
	if pairs && len(c.Args)%2 != 0 {
		return fmt.Sprintf("each resource needs a mode; it is %q", v.name+" "+v.usage)
	}
	for i := at; i < len(c.Args); i++ {
		if pairs && (i-at)%2 == 1 || strings.Contains(v.usage, "MODE") && !pairs && i > at {
			continue
		}
		if !strings.Contains(c.Args[i], "/") {
			return fmt.Sprintf("%q is not LOCKSPACE/RESOURCE", c.Args[i])
		}
	}
	return ""
}
