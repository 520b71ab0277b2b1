// Package wire is the edge where the fleet's nouns become bytes. Messages are
// plain structs made of the types of packages fleet and gpu; their protobuf
// form stays inside this package.
//
// A Conn carries messages over one stream, each in a frame: the length in four
// bytes, big endian, then an envelope that says which message it is. The
// length is refused before anything is allocated for it, the repeated fields
// are counted before they are decoded, and Recv returns only messages whose
// ids, amounts and sizes are within the limits; what it returns needs no
// second look. Send holds its messages to the same rules, so a mistake shows
// where it is made.
//
// The caller's loop on a control stream:
//
//	c := wire.NewConn(stream, wire.MaxHello)
//	c.Send(wire.Hello{Capability: wire.Capability, Agent: id, ...})
//	switch m, err := c.Recv(); m := m.(type) {
//	case wire.Welcome:
//		c.SetLimit(wire.MaxControl)
//	case wire.Refusal: // m.Code says what to do
//	}
//	for {
//		m, err := c.Recv()
//		if errors.Is(err, wire.ErrUnknownMessage) {
//			continue // a newer peer; the frame is over, the stream goes on
//		}
//		if err != nil {
//			return err // io.EOF when the peer ended between two frames
//		}
//		handle(m)
//	}
//
// Who speaks which message:
//
//	control (the agent opens)   Hello -> Welcome | Refusal, then
//	                            agent: Pull Report CapacityChanged Readings Beat
//	                            KeyStored Leave
//	                            replica: DesiredSet Acks Led Ask Observed Goaway Bundle
//	                            Upgrade
//	renew (the agent opens)     RenewRequest -> Certificate | Refusal, then, where
//	                            the key is new, KeyStored -> KeyStored
//	logs (the replica opens)    LogsRequest -> LogChunk* LogEnd | Refusal
//	package (the agent opens)   PackageRequest -> PackageChunk* | Refusal
package wire
