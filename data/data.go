// Package data holds what gets installed as it is, for the programs and tests
// that need it at run time: the D-Bus interface, the bus policy and the
// activation file.
//
// It owns the text of these files and nothing else, and refuses to know who
// reads them.
//
// Concurrency: constants only.
package data

import _ "embed"

// Introspection is org.example.DlmLock.xml: the D-Bus interface, documented
// member by member. It is the source of the contract; the service returns it
// from Introspect unchanged.
//
//go:embed org.example.DlmLock.xml
var Introspection string

// LockIntrospection, RequestIntrospection and LockspaceIntrospection are the
// interfaces of the objects below the root object, which Introspect of such an
// object returns unchanged.
//
//go:embed org.example.DlmLock.Lock.xml
var LockIntrospection string

// RequestIntrospection: see LockIntrospection.
//
//go:embed org.example.DlmLock.Request.xml
var RequestIntrospection string

// LockspaceIntrospection: see LockIntrospection.
//
//go:embed org.example.DlmLock.Lockspace.xml
var LockspaceIntrospection string

// LogControlIntrospection is the interface of the object that systemctl asks
// about the log.
//
//go:embed org.freedesktop.LogControl1.xml
var LogControlIntrospection string

// BusPolicy is org.example.DlmLock.conf: who may own the bus name, send to it
// and receive its signals (dbus-daemon(1), "policy").
//
//go:embed org.example.DlmLock.conf
var BusPolicy string

// Activation is org.example.DlmLock.service: how the bus starts the service
// when somebody calls it (D-Bus specification, "Message Bus Starting Services").
//
//go:embed org.example.DlmLock.service
var Activation string

// Varlink is org.example.DlmLock.varlink: the Varlink interface, documented member
// by member. It is the source of that contract; the service returns it from
// GetInterfaceDescription unchanged.
//
//go:embed org.example.DlmLock.varlink
var Varlink string

// ServiceVarlink and SystemdServiceVarlink are the interfaces that every Varlink
// service, and every service of systemd, has.
//
//go:embed org.varlink.service.varlink
var ServiceVarlink string

// SystemdServiceVarlink: see ServiceVarlink.
//
//go:embed io.systemd.service.varlink
var SystemdServiceVarlink string
