// Package notify tells a service manager how this process fares: the protocol
// of sd_notify(3), one datagram of lines to the socket that NOTIFY_SOCKET names.
// It is so little that a library for it would be more to know than it is.
//
//	n := notify.Open(os.Getenv)         // does nothing where nobody listens
//	defer n.Stopping()
//	n.Ready()                           // once the daemon does its work
//	n.Status("connected, 3 tasks")      // at each turn of the loop that may hang:
//	n.Alive()                           // it is sent as often as the watchdog wants
package notify

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier sends to the service manager. It is safe for concurrent use, and a
// nil one does nothing.
type Notifier struct {
	socket string
	every  time.Duration // between signs of life; 0: none is wanted

	mu     sync.Mutex
	status string
	alive  time.Time
}

// Open reads how to reach the service manager from the environment.
func Open(getenv func(string) string) *Notifier {
	n := &Notifier{socket: getenv("NOTIFY_SOCKET")}
	if strings.HasPrefix(n.socket, "@") { // of the abstract namespace
		n.socket = "\x00" + n.socket[1:]
	}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	pid := getenv("WATCHDOG_PID")
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		// Half of what is allowed is what sd_watchdog_enabled(3) advises; a third
		// leaves room for a machine that is busy.
		n.every = time.Duration(usec) * time.Microsecond / 3
	}
	return n
}

// Watchdog is how often Alive must be called at least; 0 when nobody watches.
func (n *Notifier) Watchdog() time.Duration {
	if n == nil {
		return 0
	}
	return n.every
}

// Ready says that the start is over, or the reload that Reloading began.
func (n *Notifier) Ready() { n.send("READY=1") }

// Stopping says that the process ends.
func (n *Notifier) Stopping() { n.send("STOPPING=1\nSTATUS=stopping") }

// Reloading says that settings are read anew; Ready must follow.
func (n *Notifier) Reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it exists on every Linux
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Extend asks for more time to start, from now.
func (n *Notifier) Extend(d time.Duration) {
	n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Status is one line for people; it is sent when it differs from the last one.
func (n *Notifier) Status(text string) {
	if n == nil {
		return
	}
	text = strings.ReplaceAll(text, "\n", " ")
	n.mu.Lock()
	same := text == n.status
	n.status = text
	n.mu.Unlock()
	if !same {
		n.send("STATUS=" + text)
	}
}

// Alive is a sign of life. It may be called far more often than it is sent.
func (n *Notifier) Alive() {
	if n == nil || n.every == 0 {
		return
	}
	now := time.Now()
	n.mu.Lock()
	due := now.Sub(n.alive) >= n.every
	if due {
		n.alive = now
	}
	n.mu.Unlock()
	if due {
		n.send("WATCHDOG=1")
	}
}

// send drops what cannot be sent: a daemon works without its manager, too.
func (n *Notifier) send(text string) {
	if n == nil || n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // a datagram was sent or not
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte(text))
}
