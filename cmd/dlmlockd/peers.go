package main

import (
	"context"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/peers"
)

// buildPeers makes the way to the services of other nodes, where there is one: in a cluster, unless
// all-nodes is off. It comes after the service is made and before callers are admitted.
func (d *daemon) buildPeers() {
	members, ok := d.engine.(dlm.MemberLooker)
	if !ok || d.engine.Name() != config.EngineDLM || !d.opts.AllNodes {
		return
	}
	d.core.SetPeers(peers.New(peers.Config{Service: d.service, Members: members.Members,
		Dial: peers.DialRelay(peers.RelaySocket), Build: thisBuild().Version, Log: d.log}))
}

// runPeers asks and answers the other nodes until ctx ends.
func (d *daemon) runPeers(ctx context.Context) {
	if p, ok := d.core.Peers().(*peers.Peers); ok {
		p.Run(ctx)
	}
}
