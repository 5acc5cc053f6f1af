//go:build !cgo || !libdlm

package libdlm

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Supported reports whether this build can drive the kernel's DLM.
const Supported = false

// New fails, because this build is without libdlm. The error is a *dlm.Error that wraps
// dlm.ErrUnsupported and says how to make a build with it.
func New(*slog.Logger) (*Engine, error) {
	return nil, &dlm.Error{Op: "start", Err: dlm.ErrUnsupported,
		Advice: "this program was built without libdlm: install libdlm-dev and a C compiler, and build again with " +
			"make, or with CGO_ENABLED=1 go build -tags libdlm"}
}
