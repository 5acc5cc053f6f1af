package filetype

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestName(t *testing.T) {
	for m, want := range map[fs.FileMode]string{
		0: "regular file", fs.ModeDir: "directory", fs.ModeSymlink: "symbolic link", fs.ModeNamedPipe: "fifo",
		fs.ModeSocket: "socket", fs.ModeDevice: "device", fs.ModeDevice | fs.ModeCharDevice: "device",
	} {
		require.Equal(t, want, Name(m|0o600))
	}
}
