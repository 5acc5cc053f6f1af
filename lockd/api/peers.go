package api

// NodeView is what this node knows of one node of the cluster, as somebody whom it can ask.
type NodeView struct {
	ID   uint32
	Name string // "" if it has none, or it is not known
	Self bool   // this node
	// Answers says that the service there can be asked; else Missing says why not, for people.
	Answers bool
	Missing string
	Version string // of the service there; "" if it is not known
}

// Peers asks the services of other nodes. Answers are of a moment that has passed, and only for
// people: nothing may be decided by them. Every error is an *Error of kind ClusterUnavailable or
// LimitExceeded, or the one that the other service has given. done is called exactly once, within
// some seconds, on any goroutine.
type Peers interface {
	// Nodes lists the nodes that this one knows of, by number, itself included.
	Nodes(done func([]NodeView, error))
	// List is Service.List of the service on another node. Refs are that service's.
	List(node uint32, f Filter, done func(Page, error))
	// Inspect is Service.Inspect on another node.
	Inspect(node uint32, lockspace, resource string, done func(Inspection, error))
}
