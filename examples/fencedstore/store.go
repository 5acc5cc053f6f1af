package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
)

// TokenHeader is the header that carries the fencing token of the lock under
// which a client writes.
const TokenHeader = "Fencing-Token"

// maxBlock is the size of the largest block, in bytes.
const maxBlock = 64 << 20

// Store keeps blocks as files: eight bytes with the largest token seen, big-endian, and then the
// data. Both are in one file, so a crash can't separate them.
type Store struct {
	dir *os.Root
	mu  sync.Mutex // held while a token is checked and the write that it allows is done
}

// OpenStore opens the store in a directory.
func OpenStore(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Store{dir: root}, nil
}

// StaleError refuses a write under a token that is not the newest.
type StaleError struct{ Token, Seen uint64 }

func (e *StaleError) Error() string {
	return fmt.Sprintf("token %d is stale, %d has been seen: the lock has had another holder since; acquire it again",
		e.Token, e.Seen)
}

// Write replaces a block. The token must not be smaller than any that was seen for the block; the
// same one may come again, because a holder writes more than once. The largest token is on disk
// before Write returns, and the check and the write are one step: otherwise an older write could
// come in between.
func (s *Store) Write(name string, token uint64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, _, err := s.load(name)
	if err != nil {
		return err
	}
	if token < seen {
		return &StaleError{token, seen}
	}
	return s.replace(name, append(binary.BigEndian.AppendUint64(nil, token), data...))
}

// Read returns a block and the token under which it was written, or nothing and 0 if there is none.
func (s *Store) Read(name string) (data []byte, token uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, data, err = s.load(name)
	return data, token, err
}

// ReadUnder is Read for a holder that is going to write what it has read with a change. It
// records the token as Write does: otherwise a holder before it, which does not know yet that it
// has lost the lock, could still write after this read, and its change would be overwritten.
func (s *Store) ReadUnder(name string, token uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, data, err := s.load(name)
	if err != nil || token == seen {
		return data, err
	}
	if token < seen {
		return nil, &StaleError{token, seen}
	}
	return data, s.replace(name, append(binary.BigEndian.AppendUint64(nil, token), data...))
}

func (s *Store) load(name string) (seen uint64, data []byte, err error) {
	text, err := s.dir.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil, nil
	case err != nil:
		return 0, nil, err
	case len(text) < 8:
		return 0, nil, fmt.Errorf("block %s is damaged: %d bytes", name, len(text))
	}
	return binary.BigEndian.Uint64(text), text[8:], nil
}

// replace writes the file so that after a crash it is either the old or the new one.
func (s *Store) replace(name string, text []byte) error {
	f, err := s.dir.Create(name + "~")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := s.dir.Rename(name+"~", name); err != nil {
		return err
	}
	d, err := s.dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Handler serves PUT and GET of /blocks/NAME.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /blocks/{name}", s.put)
	mux.HandleFunc("GET /blocks/{name}", s.get)
	return mux
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)

func (s *Store) put(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	token, err := strconv.ParseUint(r.Header.Get(TokenHeader), 10, 64)
	switch {
	case !goodName.MatchString(name):
		http.Error(w, "a block's name has 1 to 64 of letters, digits, '_', '.' and '-'", http.StatusBadRequest)
		return
	case err != nil || token == 0:
		// A writer without a token is not fenced, so nobody may write without one.
		http.Error(w, TokenHeader+" must be the token that Acquire has returned", http.StatusPreconditionRequired)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBlock))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	if err := s.Write(name, token, data); err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if stale := (*StaleError)(nil); errors.As(err, &stale) {
		status = http.StatusPreconditionFailed
	}
	http.Error(w, err.Error(), status)
}

func (s *Store) get(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !goodName.MatchString(name) {
		http.NotFound(w, r)
		return
	}
	if r.Header.Get(TokenHeader) != "" {
		s.getUnder(w, r, name)
		return
	}
	data, token, err := s.Read(name)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case token == 0:
		http.NotFound(w, r)
	default:
		w.Header().Set(TokenHeader, strconv.FormatUint(token, 10))
		w.Write(data)
	}
}

// getUnder serves a read that comes with the token of a lock.
func (s *Store) getUnder(w http.ResponseWriter, r *http.Request, name string) {
	token, err := strconv.ParseUint(r.Header.Get(TokenHeader), 10, 64)
	if err != nil || token == 0 {
		http.Error(w, TokenHeader+" must be the token that Acquire has returned", http.StatusPreconditionRequired)
		return
	}
	data, err := s.ReadUnder(name, token)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set(TokenHeader, strconv.FormatUint(token, 10))
	w.Write(data)
}
