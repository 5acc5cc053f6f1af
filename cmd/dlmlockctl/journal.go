package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The ids of the messages that the history is made of (lockd/table/messages.go).
const (
	msgAcquired   = "88b55be4318a4bf681188156fc4cd800"
	msgConverted  = "de7cca23b8864813bc621b6a3aba21c6"
	msgReleased   = "ef92d1c22543477e8b2e9eba918c314f"
	msgLost       = "2f2fea20ee4043e2b85455e2a5854cec"
	msgWaited     = "8fde445a8af34b339b4ace0684b310ac"
	msgAdopted    = "d4370cb10c4e41c19d5d1fd0c797c328"
	msgIncomplete = "31dea5a6dbbd4ea3b2cb71eb28939283"
)

// journalFields are the fields that the history reads.
var journalFields = []string{
	"MESSAGE_ID", "_HOSTNAME", "_BOOT_ID", "DLM_LOCKSPACE", "DLM_RESOURCE", "DLM_MODE", "DLM_LKID", "DLM_OWNER",
	"CALLER_UID",
	"DLM_ERROR", "DLMLOCKD_LABEL", "DLMLOCKD_WAITED", "DLMLOCKD_LINES",
}

// entry is one message of the service in the journal.
type entry struct {
	at     time.Time
	fields map[string]string
}

// journalQuery selects entries of the journal.
type journalQuery struct {
	lockspace, resource string
	since, until        string // as journalctl takes them
	directory           string // "": the journal of this host
	latest              int    // only so many entries; 0: all
}

// bounds returns the options that limit the time.
func (q *journalQuery) bounds() []string {
	var args []string
	if q.since != "" {
		args = append(args, "--since="+q.since)
	}
	if q.until != "" {
		args = append(args, "--until="+q.until)
	}
	return args
}

// command returns the command that reads the entries. Only root can write what the
// service writes: journald itself fills in _UID.
func (q *journalQuery) command(ctx context.Context) *exec.Cmd {
	args := []string{"--output=json", "--all", "--quiet", "--no-pager", "--output-fields=" + strings.Join(journalFields,
		",")}
	if q.directory != "" {
		args = append(args, "--directory="+q.directory)
	}
	if q.latest > 0 {
		args = append(args, fmt.Sprintf("--lines=%d", q.latest))
	}
	args = append(args, q.bounds()...)
	args = append(args, "SYSLOG_IDENTIFIER=dlmlockd", "_UID=0")
	if q.lockspace != "" {
		args = append(args, "DLM_LOCKSPACE="+q.lockspace)
	}
	if q.resource != "" {
		args = append(args, "DLM_RESOURCE="+api.Printable(q.resource)) // as the service logs it
	}
	for _, id := range []string{msgAcquired, msgConverted, msgReleased, msgLost, msgWaited, msgAdopted} {
		args = append(args, "MESSAGE_ID="+id)
	}
	if q.lockspace == "" {
		args = append(args, "MESSAGE_ID="+msgIncomplete)
	}
	return exec.CommandContext(ctx, "journalctl", args...)
}

// read calls each for every entry, the oldest first.
func (q *journalQuery) read(ctx context.Context, each func(entry)) error {
	cmd := q.command(ctx)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return exitWith(exitUnavailable, fmt.Errorf("the journal can't be read: %w", err))
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	var bad error
	for lines.Scan() {
		e, err := parseEntry(lines.Bytes())
		if err != nil {
			bad = err // the rest must be read, or journalctl never ends
			continue
		}
		each(e)
	}
	err = errors.Join(lines.Err(), bad, cmd.Wait())
	if text := strings.TrimSpace(complaint.String()); err != nil && text != "" {
		err = errors.New(text)
	}
	if err != nil {
		return exitWith(exitUnavailable, fmt.Errorf("the journal can't be read: %w", err))
	}
	return nil
}

// knowsLocks reports whether the journal has an entry about any lock, at any time. It has not where
// the service logs elsewhere. Without an answer it is true, which claims nothing.
func (q *journalQuery) knowsLocks(ctx context.Context) bool {
	found := false
	err := (&journalQuery{directory: q.directory, latest: 1}).read(ctx, func(entry) { found = true })
	return found || err != nil
}

// timeForms are examples of what journalctl reads as a time (systemd.time(7)).
const timeForms = `use for example today, yesterday, -2h, "2 days ago", "2026-01-02 03:04" or @UNIXTIME`

// why finds out whether reading failed for err because of --since or --until, and
// returns a usage error then; otherwise it returns err.
func (q *journalQuery) why(ctx context.Context, err error) error {
	empty, tempErr := os.MkdirTemp("", "dlmlockctl-")
	if tempErr != nil {
		return err
	}
	defer func() { _ = os.Remove(empty) }()
	// A journal without entries leaves journalctl nothing to fail for but its options.
	refused := func(q journalQuery) bool {
		args := append([]string{"--quiet", "--no-pager", "--directory=" + empty}, q.bounds()...)
		var exit *exec.ExitError
		return errors.As(exec.CommandContext(ctx, "journalctl", args...).Run(), &exit) && exit.Exited()
	}
	switch {
	case refused(journalQuery{}):
		return err
	case q.since != "" && refused(journalQuery{since: q.since}):
		return wrongUsage("--since=%s: not a time; %s", q.since, timeForms)
	case q.until != "" && refused(journalQuery{until: q.until}):
		return wrongUsage("--until=%s: not a time; %s", q.until, timeForms)
	case refused(*q):
		return wrongUsage("--since=%s is later than --until=%s", q.since, q.until)
	}
	return err
}

// parseEntry reads a line of "journalctl --output=json".
func parseEntry(line []byte) (entry, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return entry{}, fmt.Errorf("journalctl wrote %q: %w", line, err)
	}
	e := entry{fields: map[string]string{}}
	for name, v := range raw {
		e.fields[name] = journalText(v)
	}
	usec, err := strconv.ParseInt(e.fields["__REALTIME_TIMESTAMP"], 10, 64)
	if err != nil {
		return entry{}, fmt.Errorf("journalctl wrote no time: %w", err)
	}
	e.at = time.UnixMicro(usec)
	return e, nil
}

// journalText reads the value of a field: a text, an array of bytes if it is not
// UTF-8, or an array of those if the field is there more than once.
func journalText(v json.RawMessage) string {
	var text string
	if json.Unmarshal(v, &text) == nil {
		return text
	}
	var numbers []byte
	var codes []uint16
	if json.Unmarshal(v, &codes) == nil {
		for _, c := range codes {
			numbers = append(numbers, byte(c))
		}
		return string(numbers)
	}
	var several []json.RawMessage
	if json.Unmarshal(v, &several) == nil && len(several) > 0 {
		return journalText(several[0])
	}
	return "" // null: longer than journalctl shows
}
