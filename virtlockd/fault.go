package virtlockd

import (
	"encoding/binary"
	"fmt"
)

// code is libvirt's number of an error (virErrorNumber).
type code uint32

// The codes that the door answers with.
const (
	codeInternal         code = 1
	codeInvalidArg       code = 8
	codeOperationFailed  code = 9
	codeOperationDenied  code = 29
	codeRPC              code = 39
	codeOperationInvalid code = 55
	codeResourceBusy     code = 87
)

// domain is the part of libvirt that an error comes from (virErrorDomain).
type domain uint32

// The domains that the door answers with.
const (
	domainRPC       domain = 7
	domainLockspace domain = 51
)

// fault is an error that goes to the client. Only the message, with the prefix
// that its code has in libvirt, is shown to a person.
type fault struct {
	code    code
	domain  domain
	message string // whole, with the prefix
	// template, text and numbers are what libvirt makes the message of; nobody shows
	// them.
	template, text string
	numbers        uint32
}

func (f *fault) Error() string { return f.message }

// newFault makes a fault with the text behind the prefix that its code has in
// libvirt's virErrorMsg.
func newFault(c code, d domain, text string) *fault {
	template := templates[c]
	return &fault{code: c, domain: d, template: template, message: template[:len(template)-len("%s")] + text,
		text: text, numbers: ^uint32(0)}
}

// flagsFault is libvirt's error for flags that a function does not know
// (virCheckFlags), which tells the function and the argument.
func flagsFault(unknown uint32, function string) *fault {
	return &fault{code: codeInvalidArg, domain: domainRPC, template: function, text: "flags",
		message: fmt.Sprintf("unsupported flags (0x%x) in function %s", unknown, function)}
}

var templates = map[code]string{
	codeInternal:         "internal error: %s",
	codeOperationFailed:  "operation failed: %s",
	codeOperationDenied:  "operation forbidden: %s",
	codeRPC:              "%s",
	codeOperationInvalid: "Requested operation is not valid: %s",
	codeResourceBusy:     "resource busy: %s",
}

// levelError is VIR_ERR_ERROR.
const levelError uint32 = 2

// maxFaultText bounds what is said, far below the longest string of the protocol.
const maxFaultText = 8192

// append encodes virNetMessageError of src/rpc/virnetprotocol.x.
func (f *fault) append(b []byte) []byte {
	word := func(v uint32) { b = binary.BigEndian.AppendUint32(b, v) }
	text := func(s string) {
		s = s[:min(len(s), maxFaultText)]
		word(1)
		word(uint32(len(s)))
		b = append(b, s...)
		b = append(b, make([]byte, -len(s)&3)...)
	}
	word(uint32(f.code))
	word(uint32(f.domain))
	text(f.message)
	word(levelError)
	word(0) // no domain
	text(f.template)
	text(f.text)
	word(0) // no third string
	word(f.numbers)
	word(f.numbers)
	word(0) // no network
	return b
}
