// Package filetype owns the names that messages use for the types of files.
//
// Concurrency: a function without state.
package filetype

import "io/fs"

// Name returns the type of a file with the mode m, as a noun for messages: "directory", "fifo".
func Name(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "regular file"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "fifo"
	case m&fs.ModeSocket != 0:
		return "socket"
	}
	return "device"
}
