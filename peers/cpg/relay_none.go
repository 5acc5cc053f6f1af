//go:build !cgo

package cpg

import (
	"errors"
	"os"
)

// Supported reports whether this build can load libcpg.
const Supported = false

func load(string) error {
	return errors.New("this build has no cgo, without which libcpg can't be loaded")
}

func relay(*os.File, string) error { return errors.ErrUnsupported }
