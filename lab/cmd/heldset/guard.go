package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	guardTime = 500 * time.Millisecond // how often etcd is asked
	firstTTL  = 5 * time.Second        // of the lease, before etcd has said it
)

// guard does for a lock of etcdctl what dlmlockctl run --on-lost=kill does, which
// etcdctl has no option for: it kills the command when the lease of the lock has ended,
// or when no member of etcd has said for the lease's whole time that it has not.
func guard(argv []string) error {
	_, text, ok := strings.Cut(os.Getenv("ETCD_LOCK_KEY"), "/")
	lease, err := strconv.ParseInt(text, 16, 64)
	if !ok || err != nil {
		return fmt.Errorf("ETCD_LOCK_KEY=%q: %w", os.Getenv("ETCD_LOCK_KEY"), err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	members := strings.Split(os.Getenv("ETCDCTL_ENDPOINTS"), ",")
	for seen, granted := time.Now(), firstTTL; ; {
		select {
		case err := <-ended:
			return err
		case <-time.After(guardTime):
		}
		asked := time.Now()
		l, err := askLease(members, lease)
		switch {
		case err == nil && l.gone:
			_ = cmd.Process.Kill()
			return errors.New("the lock is lost")
		case err == nil:
			seen, granted = asked, l.granted
		case time.Since(seen) > granted:
			_ = cmd.Process.Kill()
			return fmt.Errorf("nobody knows of the lock: %w", err)
		}
	}
}

// lease is what etcd says about one.
type lease struct {
	gone    bool
	granted time.Duration // its whole time
}

// askLease asks the members, in turn, for one that answers.
func askLease(members []string, id int64) (l lease, err error) {
	web := http.Client{Timeout: time.Second}
	for _, member := range members {
		var resp *http.Response
		resp, err = web.Post("http://"+member+"/v3/lease/timetolive", "application/json",
			strings.NewReader(fmt.Sprintf(`{"ID":"%d"}`, id)))
		if err != nil {
			continue
		}
		var answer struct {
			TTL     int64 `json:",string"`
			Granted int64 `json:"grantedTTL,string"`
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode == http.StatusOK {
			// etcd answers -1 for a lease that it does not have, and leaves 0 out.
			return lease{answer.TTL <= 0, time.Duration(answer.Granted) * time.Second}, nil
		}
		err = errors.Join(err, fmt.Errorf("%s: %s", member, resp.Status))
	}
	return l, err
}
