package local

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// A hundred thousand resources are nothing unusual, and the allocator rounds up: one more field may
// cost sixteen bytes for each.
func TestSizeOfResources(t *testing.T) {
	require.LessOrEqual(t, unsafe.Sizeof(resource{}), uintptr(144))
	require.LessOrEqual(t, unsafe.Sizeof(lock{}), uintptr(64))
}
