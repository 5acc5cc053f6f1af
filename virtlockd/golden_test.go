package virtlockd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "record the golden files anew, from the virtlockd that is installed")

// patience bounds every wait for another process.
const patience = time.Minute

// goldenFile is what virtlockd of a release answers to probes.txt.
func goldenFile(release string) string { return "testdata/virtlockd-" + release + ".golden" }

// inRoot is a command in the root file system that VIRTLOCKD_ROOT names, where a
// golden file is recorded of another virtlockd than this machine's.
func inRoot(argv ...string) []string {
	if root := os.Getenv("VIRTLOCKD_ROOT"); root != "" {
		return append([]string{"chroot", root}, argv...)
	}
	return argv
}

// pidMark is what stands in the golden file for the pid of guest n.
func pidMark(n int) []byte { return binary.BigEndian.AppendUint32(nil, 0x6d000000+uint32(n)) }

// guestUUID is the UUID of guest n.
func guestUUID(n int) (u uuid) {
	for i := range u {
		u[i] = byte(n<<4 + n)
	}
	return u
}

// client is a connection of a test, in a story.
type client struct {
	net.Conn
	in     *bufio.Reader
	serial uint32
}

// xdr encodes strings and words for a test.
func xdr(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		case uuid:
			b = append(b, v[:]...)
		case []byte:
			b = append(b, v...)
		case string:
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
			b = append(b, make([]byte, -len(v)&3)...)
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	return b
}

// request makes the bytes of a line of probes.txt.
func (c *client) request(t testing.TB, words []string) []byte {
	number := func(i int) int {
		n, err := strconv.Atoi(words[i])
		require.NoError(t, err)
		return n
	}
	text := func(i int) string { return strings.Trim(words[i], `"`) }
	call := func(procedure uint32, values ...any) []byte {
		h := header{Program: programLock, Version: protocolVersion, Procedure: procedure, Serial: c.serial}
		c.serial++
		return appendMessage(nil, h, xdr(values...))
	}
	resource := func(procedure uint32) []byte { return call(procedure, text(1), text(2), number(3)) }
	switch words[0] {
	case "register":
		return call(procRegister, guestUUID(number(1)), text(2), number(3), pidMark(number(1)), number(4))
	case "restrict":
		return call(procRestrict, number(1))
	case "new":
		return call(procNew, text(1), number(2))
	case "create":
		return resource(procCreateResource)
	case "delete":
		return resource(procDeleteResource)
	case "acquire":
		return resource(procAcquireResource)
	case "release":
		return resource(procReleaseResource)
	case "lockspace":
		return call(procCreateLockspace, text(1))
	case "bytes":
		b, err := hex.DecodeString(strings.Join(words[1:], ""))
		require.NoError(t, err)
		return b
	case "raw":
		var out []byte
		for part := range strings.SplitSeq(strings.Join(words[1:], ""), ";") {
			b, err := hex.DecodeString(part)
			require.NoError(t, err)
			out = append(binary.BigEndian.AppendUint32(out, uint32(len(b)+4)), b...)
		}
		return out
	}
	t.Fatalf("unknown word %q", words[0])
	return nil
}

// answers reads what is answered: as many messages as there are, up to the next
// pause or the end of the connection, of which "end" tells.
func (c *client) answers(t testing.TB, pause time.Duration) (all []byte, end bool) {
	wait := patience // for the first
	for {
		var head [4]byte
		require.NoError(t, c.SetReadDeadline(time.Now().Add(wait)))
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return all, !isTimeout(err)
		}
		b := append(head[:], make([]byte, binary.BigEndian.Uint32(head[:])-4)...)
		_, err := io.ReadFull(c.in, b[4:])
		require.NoError(t, err)
		all = append(all, b...)
		wait = pause
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// exchange is one step of a story: what was said, and answered.
type exchange struct {
	connection string
	line       string
	request    []byte
	answer     []byte
	ends       bool // the connection
}

// story is a part of the golden file.
type story struct {
	name  string
	steps []exchange
}

// readStories reads probes.txt, or a golden file of it.
func readStories(t testing.TB, path string) (all []*story) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		var at *exchange
		if n := len(all); n > 0 && len(all[n-1].steps) > 0 {
			at = &all[n-1].steps[len(all[n-1].steps)-1]
		}
		switch {
		case word == "##":
			all = append(all, &story{name: rest})
		case word == "" || word == "#":
		case word == ">":
			if at.request != nil { // another one on the same connection
				steps := &all[len(all)-1].steps
				*steps = append(*steps, exchange{connection: at.connection, line: at.line})
				at = &(*steps)[len(*steps)-1]
			}
			at.request = unhex(rest)
		case word == "<":
			at.answer = append(at.answer, unhex(rest)...)
		case word == "end":
			at.ends = true
		default:
			s := all[len(all)-1]
			s.steps = append(s.steps, exchange{connection: word, line: rest})
		}
	}
	return all
}

func stories(t testing.TB) []*story { return readStories(t, goldenFile("9.0.0")) }

// record plays the stories of probes.txt to virtlockd, and writes what it answers.
func record(t testing.TB) {
	argv := inRoot("virtlockd", "--version")
	version, err := exec.Command(argv[0], argv[1:]...).Output()
	require.NoError(t, err, "the package libvirt-daemon")
	words := strings.Fields(string(version))
	release := words[len(words)-1]
	var out bytes.Buffer
	fmt.Fprintf(&out, "# What virtlockd %s answers to probes.txt; recorded with \"go test -run TestGolden -update\".\n",
		release)
	for _, s := range readStories(t, "testdata/probes.txt") {
		// One for each story: locks of a connection that is closed go later.
		socket, stop := startVirtlockd(t)
		fmt.Fprintf(&out, "\n## %s\n", s.name)
		clients := map[string]*client{}
		pids := sleepers(t, 3)
		for _, step := range s.steps {
			c := clients[step.connection]
			if c == nil {
				c = dial(t, socket)
				clients[step.connection] = c
			}
			request := c.request(t, strings.Fields(step.line))
			_, err := c.Write(pids.put(request))
			require.NoError(t, err)
			answer, end := c.answers(t, 100*time.Millisecond)
			fmt.Fprintf(&out, "%s %s\n> %x\n", step.connection, step.line, request)
			for len(answer) > 0 {
				n := binary.BigEndian.Uint32(answer)
				fmt.Fprintf(&out, "< %x\n", answer[:n])
				answer = answer[n:]
			}
			if end {
				out.WriteString("end\n")
			}
		}
		for _, c := range clients {
			require.NoError(t, c.Close())
		}
		pids.end(t)
		stop()
	}
	require.NoError(t, os.WriteFile(goldenFile(release), out.Bytes(), 0o644))
}

// processes are those of the guests of a story, from 1.
type processes []*exec.Cmd

func sleepers(t testing.TB, n int) processes {
	p := make(processes, n)
	for i := range p {
		p[i] = exec.Command("sleep", "infinity")
		p[i].SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, p[i].Start())
	}
	return p
}

// put puts the pids of the guests where the golden file has their marks.
func (p processes) put(request []byte) []byte {
	for i, c := range p {
		request = bytes.ReplaceAll(request, pidMark(i+1), binary.BigEndian.AppendUint32(nil, uint32(c.Process.Pid)))
	}
	return request
}

func (p processes) end(t testing.TB) {
	for _, c := range p {
		require.NoError(t, c.Process.Kill())
		_ = c.Wait()
	}
}

func dial(t testing.TB, socket string) *client {
	c, err := net.Dial("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &client{Conn: c, in: bufio.NewReader(c)}
}

// startVirtlockd starts the real virtlockd in a mount namespace of its own, and
// returns the path of its socket from here.
func startVirtlockd(t testing.TB) (socket string, stop func()) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "virtlockd.conf")
	require.NoError(t, os.WriteFile(conf, []byte("log_level = 4\nmax_clients = 1024\n"), 0o644))
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-ec", `mount -t tmpfs tmpfs /run
mkdir /run/disk /run/spaces
touch /run/disk/a /run/disk/b
[ -z "$0" ] || for dir in dev proc sys run tmp; do mount --rbind /$dir "$0/$dir"; done
exec "$@"`, os.Getenv("VIRTLOCKD_ROOT")},
		inRoot("virtlockd", "--config", conf, "--pid-file", "/run/virtlockd.pid")...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start(), "the package libvirt-daemon")
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	socket = fmt.Sprintf("/proc/%d/root/run/libvirt/virtlockd-sock", cmd.Process.Pid)
	require.Eventually(t, func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, patience, 5*time.Millisecond, "virtlockd")
	return socket, stop
}

// difference is what the door answers otherwise than virtlockd, on purpose.
type difference struct {
	code    code // 0: good
	message string
}

// differences are by story and line of probes.txt.
var differences = map[string]difference{
	// The text names domain and node.
	"a disk that another guest has: B acquire /run/disk/a 0": {codeResourceBusy,
		"resource busy: '/run/disk/a' is in use by domain 'web' on node 1 (this one); stop that domain first, or wait " +
			"until it has ended"},
	"a disk that another guest has: B acquire /run/disk/a 1": {codeResourceBusy,
		"resource busy: '/run/disk/a' is in use by domain 'web' on node 1 (this one); stop that domain first, or wait " +
			"until it has ended"},
	"lockspaces: B acquire /run/spaces/files x 3": {codeResourceBusy,
		"resource busy: '/run/spaces/files/x' is in use by domain 'web' on node 1 (this one); stop that domain first, " +
			"or wait until it has ended"},
	"a shared disk: B acquire /run/disk/a 0": {codeResourceBusy,
		"resource busy: '/run/disk/a' is locked by domain 'db' itself, but not in the mode (shared or exclusive) that " +
			"is asked for now"},
	"a shared disk: B acquire /run/disk/a 1 again": {codeResourceBusy,
		"resource busy: '/run/disk/a' is in use by domain 'web' on node 1 (this one); stop that domain first, or wait " +
			"until it has ended"},
	"the same disk again: A acquire /run/disk/a 1": {codeResourceBusy,
		"resource busy: '/run/disk/a' is locked by domain 'web' itself, but not in the mode (shared or exclusive) " +
			"that is asked for now"},
	// Asking again is good.
	"the same disk again: A acquire /run/disk/a 0 again": {},
	"lockspaces: A acquire /run/spaces/files x 2 again":  {},
	// A lockspace directory needs no CREATE_LOCKSPACE.
	"lockspaces: A acquire /run/spaces/files x 2": {},
	// To release what is not held is good, also if another guest holds it.
	"a disk that another guest has: B release /run/disk/a 0": {},
	"release of nothing: A release /run/disk/a 0":            {},
	"release of nothing: A release /run/spaces/nothing x 0":  {},
	"the same disk again: A release /run/disk/a 0 again":     {},
}

// TestGolden holds the door to what virtlockd answers, byte for byte, but for
// what it does better on purpose. Of later releases it does not copy the placeholder in
// a field of errors that nobody shows.
func TestGolden(t *testing.T) {
	if *update {
		record(t)
	}
	for _, release := range []string{"9.0.0", "11.3.0", "12.8.0"} {
		for _, s := range readStories(t, goldenFile(release)) {
			t.Run(release+"/"+s.name, func(t *testing.T) { replay(t, s) })
		}
	}
}

// TestLibvirtd plays to the door what libvirtd has said to virtlockd (TestStockSays in
// libvirt/host records it): every answer is the same.
func TestLibvirtd(t *testing.T) {
	recordings, err := filepath.Glob("testdata/libvirtd-*.golden")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(recordings), 3)
	for _, recording := range recordings {
		answers := 0
		for _, s := range readStories(t, recording) {
			t.Run(filepath.Base(recording)+"/"+s.name, func(t *testing.T) { replay(t, s) })
			answers += len(s.steps)
		}
		require.Greater(t, answers, 10)
	}
}

// oldTemplates makes answers with the placeholder that libvirt's errors have since
// 9.1 ("%1$s") such with that which they had before ("%s").
func oldTemplates(answers []byte) (all []byte) {
	for in := bytes.NewReader(answers); ; {
		m, err := readMessage(in)
		if err != nil {
			return all
		}
		body := m.body
		if m.Status == statusError {
			a := arguments{rest: m.body}
			f := &fault{code: code(a.word()), domain: domain(a.word())}
			a.take(4)
			f.message = a.text()
			a.take(4 + 4 + 4) // the level, no domain, a template
			f.template = strings.Replace(a.text(), "%1$s", "%s", 1)
			a.take(4)
			f.text = a.text()
			a.take(4)
			f.numbers = a.word()
			body = f.append(nil)
		}
		all = appendMessage(all, m.header, body)
	}
}

// replay plays a story to the door.
func replay(t testing.TB, s *story) {
	h := start(t, Settings{Directories: map[string]string{"/run/spaces/files": "leases",
		"/dev/shm/virtlockd-golden/files": "libvirt"}})
	clients, said := map[string]*client{}, map[string]bool{}
	pids := sleepers(t, 3)
	defer pids.end(t)
	for _, step := range s.steps {
		c := clients[step.connection]
		if c == nil {
			c = dial(t, h.socket)
			clients[step.connection] = c
		}
		_, err := c.Write(pids.put(step.request))
		require.NoError(t, err)
		line := step.connection + " " + step.line
		key := s.name + ": " + strings.ReplaceAll(line, `"" `, "")
		if said[key] {
			key += " again"
		}
		said[key] = true
		want, differs := differences[key]
		if !differs {
			answer := oldTemplates(step.answer)
			got, end := c.read(t, len(answer), step.ends)
			require.Equal(t, fmt.Sprintf("%q", answer), fmt.Sprintf("%q", got), line)
			require.Equal(t, step.ends, end, line)
			continue
		}
		got, message := c.reply(t)
		require.Equal(t, want, difference{got, message}, line)
	}
}

// read reads as many bytes, and with ends the end of the connection.
func (c *client) read(t testing.TB, n int, ends bool) (b []byte, end bool) {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	b = make([]byte, n)
	got, _ := io.ReadFull(c.in, b)
	if ends {
		_, err := c.in.ReadByte()
		end = err == io.EOF
	}
	return b[:got], end
}

// readMessage reads one message.
func readMessage(in io.Reader) (message, error) {
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(in, b); err != nil {
		return message{}, err
	}
	size, err := messageSize(b)
	if err != nil {
		return message{}, err
	}
	b = append(b, make([]byte, size-headerSize)...)
	_, err = io.ReadFull(in, b[headerSize:])
	return parseMessage(b), err
}

// reply reads an answer and returns its code and message; 0 for a good one.
func (c *client) reply(t testing.TB) (code, string) {
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	m, err := readMessage(c.in)
	require.NoError(t, err)
	require.Equal(t, kindReply, m.Kind)
	if m.Status == statusOK {
		require.Empty(t, m.body)
		return 0, ""
	}
	a := arguments{rest: m.body}
	number := code(a.word())
	a.word()
	require.Equal(t, uint32(1), a.word())
	return number, a.text()
}
