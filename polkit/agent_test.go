package polkit

import (
	"os"
	"sync"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// agent is an authentication agent (polkit's D-Bus API, "The Authentication
// Agent") for this process. Being root it can say that somebody authenticated,
// as polkit's set-uid helper does.
type agent struct {
	conn  *godbus.Conn
	reply func(*agent, question) *godbus.Error

	mu       sync.Mutex
	canceled map[string]chan struct{}
	asked    chan question
}

// question is what a dialog would show.
type question struct {
	Action, Message, Icon string
	Details               map[string]string
	Cookie                string
	Identities            []subject
}

// newAgent registers an agent for everything that this process connects.
func newAgent(t *testing.T, bus *testbus.Bus, reply func(*agent, question) *godbus.Error) *agent {
	t.Helper()
	a := &agent{conn: bus.Dial(t), reply: reply, canceled: map[string]chan struct{}{}, asked: make(chan question, 16)}
	const path = "/test/Agent"
	require.NoError(t, a.conn.ExportMethodTable(map[string]any{
		"BeginAuthentication": a.begin, "CancelAuthentication": a.cancel,
	}, path, "org.freedesktop.PolicyKit1.AuthenticationAgent"))
	who := subject{"unix-process", map[string]godbus.Variant{
		"pid": godbus.MakeVariant(uint32(os.Getpid())), "start-time": godbus.MakeVariant(uint64(0))}}
	require.NoError(t, a.conn.Object(authorityName, authorityPath).
		Call(authorityIface+".RegisterAuthenticationAgent", 0, who, "C", path).Err)
	return a
}

func (a *agent) begin(action, message, icon string, details map[string]string, cookie string,
	ids []subject) *godbus.Error {
	q := question{action, message, icon, details, cookie, ids}
	a.waiter(cookie)
	a.asked <- q
	return a.reply(a, q)
}

func (a *agent) cancel(cookie string) *godbus.Error {
	close(a.waiter(cookie))
	return nil
}

// waiter is closed when the dialog of the cookie is canceled.
func (a *agent) waiter(cookie string) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.canceled[cookie] == nil {
		a.canceled[cookie] = make(chan struct{})
	}
	return a.canceled[cookie]
}

// authenticate types the right password.
func authenticate(a *agent, q question) *godbus.Error {
	err := a.conn.Object(authorityName, authorityPath).
		Call(authorityIface+".AuthenticationAgentResponse2", 0, uint32(0), q.Cookie, q.Identities[0]).Err
	if err != nil {
		return godbus.MakeFailedError(err)
	}
	return nil
}

// dismiss closes the dialog.
func dismiss(*agent, question) *godbus.Error {
	return godbus.NewError("org.freedesktop.PolicyKit1.Error.Cancelled", []any{"dismissed"})
}

// ponder leaves the dialog open until it is canceled.
func ponder(a *agent, q question) *godbus.Error {
	<-a.waiter(q.Cookie)
	return dismiss(a, q)
}
