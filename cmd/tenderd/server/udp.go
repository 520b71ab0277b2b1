package server

import (
	"log/slog"
	"net"

	"golang.org/x/sys/unix"
)

// wantedBuffer is what QUIC needs of a UDP socket's buffers to keep up with a
// fleet that comes back at once: what quic-go asks for, 7 MiB.
const wantedBuffer = 7 << 20

// checkBuffers warns of a machine whose kernel gives UDP sockets less than that.
// The kernel is asked by a socket: a hardened unit does not see /proc/sys.
func checkBuffers(log *slog.Logger) {
	got, err := receiveBuffer(wantedBuffer)
	if err != nil {
		log.Debug("the buffers of UDP sockets are not known", "error", err)
		return
	}
	if got < wantedBuffer {
		log.Warn("UDP sockets of this machine have small buffers: packets are lost when many agents come at once; "+
			"the package's /usr/lib/sysctl.d/60-tender.conf raises them, as does: sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000",
			"bytes", got, "wanted", wantedBuffer)
	}
}

// receiveBuffer asks for a buffer of so many bytes and returns what it gets.
func receiveBuffer(want int) (got int, err error) {
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	if err := conn.SetReadBuffer(want); err != nil {
		return 0, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) { got, optErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) })
	if err == nil {
		err = optErr
	}
	return got / 2, err // socket(7): the kernel doubles it for its own needs
}
