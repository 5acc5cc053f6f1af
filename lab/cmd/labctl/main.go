// Command labctl runs a lab cluster by hand: labctl up boots one and stays in
// the foreground, the other commands talk to it.
//
// It owns nothing but its command line; package lab does the work.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := root().ExecuteContext(ctx)
	stop()
	if failed, ok := errors.AsType[*agent.ExitError](err); ok {
		if failed.Signal != 0 {
			os.Exit(128 + int(failed.Signal))
		}
		os.Exit(failed.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "labctl:", err)
		os.Exit(125) // as other programs that run programs do
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "labctl",
		Short:         "Run a cluster of real DLM nodes on this machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(up(), prepare(), execute(), push())
	verbs := []struct{ use, short string }{
		{"status", "Tell which nodes are up"},
		{"down", "Switch the cluster off"},
		{"join", "Start corosync and dlm_controld on all nodes"},
		{"heal", "Make all network links good again"},
		{"isolate NODE", "Cut a node off from the others"},
		{"crash NODE", "Pull a node's plug"},
		{"poweroff NODE", "Switch a node off"},
		{"restart NODE", "Boot a node again"},
		{"rejoin NODE", "Start corosync and dlm_controld on one node"},
		{"pause NODE", "Stop a node in the middle of what it does"},
		{"resume NODE", "Let a paused node go on"},
	}
	for _, v := range verbs {
		cmd.AddCommand(verb(v.use, v.short))
	}
	return cmd
}

func up() *cobra.Command {
	var config lab.Config
	var join bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Boot a cluster and stay until Ctrl-C or labctl down",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
			return runUp(cmd.Context(), config, join)
		},
	}
	f := cmd.Flags()
	f.StringVar(&config.Kernel, "kernel", "6.12", "kernel series, 6.1 or 6.12")
	f.IntVar(&config.Nodes, "nodes", 2, "number of nodes")
	f.BoolVar(&config.Systemd, "systemd", false, "systemd as process 1")
	f.BoolVar(&config.Fencing, "fencing", false, "dlm_controld fences lost nodes")
	f.DurationVar(&config.Token, "token", 0, "corosync's token timeout (default 5s)")
	f.IntVar(&config.MemoryMB, "memory", 0, "memory of a node in MiB (default 768)")
	f.StringVar(&config.Artefacts, "artefacts", "", "directory for consoles and logs")
	f.BoolVar(&config.Concurrent, "concurrent", false, "don't wait for another lab to end")
	f.BoolVar(&join, "join", true, "start corosync and dlm_controld")
	return cmd
}

func runUp(ctx context.Context, config lab.Config, join bool) error {
	cluster, err := lab.Boot(ctx, config)
	if err != nil {
		return err
	}
	defer cluster.Close()
	if join {
		if err := cluster.JoinDLM(ctx); err != nil {
			return err
		}
	}
	socket, err := lab.ControlSocket()
	if err != nil {
		return err
	}
	// The lab's lock is ours, so a socket that is there has no owner.
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Printf("ready: %d nodes, artefacts in %s\n", config.Nodes, cluster.Artefacts())
	return cluster.ServeControl(ctx, l)
}

func prepare() *cobra.Command {
	return &cobra.Command{
		Use:       "prepare [SERIES...]",
		Short:     "Download the kernels and build the images, without booting",
		ValidArgs: image.Series(),
		Args:      cobra.OnlyValidArgs,
		RunE: func(cmd *cobra.Command, series []string) error {
			if len(series) == 0 {
				series = image.Series()
			}
			return lab.Prepare(cmd.Context(), series...)
		},
	}
}

func execute() *cobra.Command {
	var dir string
	var env []string
	cmd := &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARG...]",
		Short: "Run a command in a node, with this input, output and exit status",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := node(args[0])
			if err != nil {
				return err
			}
			_, _, err = client.Run(cmd.Context(), agent.Command{
				Argv: command(args[1:]), Env: env, Dir: dir, Stdout: os.Stdout, Stderr: os.Stderr,
			}, os.Stdin)
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&dir, "dir", "C", "", "working directory in the node")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "NAME=value for the command")
	return cmd
}

// command drops the "--" between the node and its command: the node ends the
// flags already, and cobra leaves what follows as it is.
func command(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}

func push() *cobra.Command {
	return &cobra.Command{
		Use:   "push NODE FILE [PATH]",
		Short: "Copy a file of this machine into a node (default PATH: /run/NAME)",
		Args:  cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := node(args[0])
			if err != nil {
				return err
			}
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return err
			}
			path := filepath.Join("/run", filepath.Base(args[1]))
			if len(args) == 3 {
				path = args[2]
			}
			return client.Put(cmd.Context(), path, info.Mode(), f)
		},
	}
}

func verb(use, short string) *cobra.Command {
	args := cobra.NoArgs
	if len(use) > 5 && use[len(use)-5:] == " NODE" {
		args = cobra.ExactArgs(1)
	}
	return &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			remote, err := attach()
			if err != nil {
				return err
			}
			text, err := remote.Do(cmd.Context(), cmd.Name(), args...)
			if text != "" {
				fmt.Println(text)
			}
			return err
		},
	}
}

func attach() (*lab.Remote, error) {
	socket, err := lab.ControlSocket()
	if err != nil {
		return nil, err
	}
	return lab.Attach(socket), nil
}

func node(number string) (*agent.Client, error) {
	id, err := strconv.Atoi(number)
	if err != nil {
		return nil, fmt.Errorf("%q is no node number", number)
	}
	remote, err := attach()
	if err != nil {
		return nil, err
	}
	return remote.Agent(id), nil
}
