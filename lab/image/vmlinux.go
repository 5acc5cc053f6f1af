package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func (k kernel) vmlinux() string { return filepath.Join(k.tree, "boot", "vmlinux-"+k.release) }

// unpackVmlinuz returns the path of the kernel as an ELF file, which QEMU starts
// at its PVH entry (Debian's have one). That saves an emulated machine from
// decompressing it, one to four seconds of each boot.
func unpackVmlinuz(ctx context.Context, k kernel) (string, error) {
	if _, err := os.Stat(k.vmlinux()); err == nil {
		return k.vmlinux(), nil
	}
	file, err := os.ReadFile(k.vmlinuz())
	if err != nil {
		return "", err
	}
	packed, err := payload(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", k.vmlinuz(), err)
	}
	unpack, err := unpacker(packed)
	if err != nil {
		return "", fmt.Errorf("%s: %w", k.vmlinuz(), err)
	}
	cmd := exec.CommandContext(ctx, unpack, "-dc")
	cmd.Stdin = bytes.NewReader(packed)
	elf, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", unpack, k.vmlinuz(), err)
	}
	unfinished := k.vmlinux() + ".new"
	if err := os.WriteFile(unfinished, elf, 0o644); err != nil {
		return "", err
	}
	return k.vmlinux(), os.Rename(unfinished, k.vmlinux())
}

// Where a bzImage says what is in it (Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1
	headerMagic   = 0x202 // "HdrS"
	payloadOffset = 0x248
	payloadLength = 0x24c
	headerEnd     = 0x250
	sector        = 512
)

// payload returns the compressed kernel in a bzImage.
func payload(file []byte) ([]byte, error) {
	if len(file) < headerEnd || string(file[headerMagic:headerMagic+4]) != "HdrS" {
		return nil, errors.New("no kernel")
	}
	setup := int64(file[setupSectors])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*sector + int64(binary.LittleEndian.Uint32(file[payloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(file[payloadLength:]))
	// Its last four bytes are the size of what comes out.
	if end > int64(len(file)) || end < start+4 {
		return nil, errors.New("a kernel that is cut short")
	}
	return file[start : end-4], nil
}

// unpacker is the program for the compression that Debian chose.
func unpacker(packed []byte) (string, error) {
	switch {
	case bytes.HasPrefix(packed, []byte("\xfd7zXZ\x00")):
		return "xz", nil
	case bytes.HasPrefix(packed, []byte("\x28\xb5\x2f\xfd")):
		return "zstd", nil
	}
	return "", fmt.Errorf("a compression that the lab does not know: %x", packed[:min(len(packed), 6)])
}
