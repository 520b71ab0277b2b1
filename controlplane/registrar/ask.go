package registrar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tenderfleet/tender/transport"
	"github.com/tenderfleet/tender/transport/fleet"
)

// askKind is a stream with one question to another member and its answer, both
// JSON, which the caller understands (Config.Answer).
const askKind = transport.StreamKind("ask")

const (
	// askTime leaves room for a sealed key to be opened on a slow machine.
	askTime = 20 * time.Second
	maxAsk  = 16 << 10
)

// Ask puts a question to another member, or to this one, and decodes the answer
// into a value. Who asks and who answers is known by certificate: both are
// members.
func (r *Raft) Ask(ctx context.Context, id fleet.ReplicaID, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	data, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("asking replica %s: %w", id, err)
	}
	if id == r.cfg.ID {
		return decodeAnswer(id, r.answerTo(ctx, id, data), answer)
	}
	if r.layer == nil {
		return errors.New("no sessions to ask over")
	}
	st, _, err := r.layer.stream(ctx, r.addrOf(id), askKind)
	if err != nil {
		return fmt.Errorf("asking replica %s: %w", id, err)
	}
	defer st.Reset()
	if end, ok := ctx.Deadline(); ok {
		_ = st.SetDeadline(end)
	}
	if _, err := st.Write(data); err != nil {
		return fmt.Errorf("asking replica %s: %w", id, err)
	}
	var raw json.RawMessage
	if err := json.NewDecoder(io.LimitReader(st, maxAsk)).Decode(&raw); err != nil {
		return fmt.Errorf("asking replica %s: %w", id, err)
	}
	return decodeAnswer(id, raw, answer)
}

func decodeAnswer(id fleet.ReplicaID, data []byte, answer any) error {
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("asking replica %s: %w", id, err)
	}
	return nil
}

func (r *Raft) answerTo(ctx context.Context, from fleet.ReplicaID, question []byte) []byte {
	if r.cfg.Answer == nil {
		return []byte("{}")
	}
	return r.cfg.Answer(ctx, from, question)
}

// answer implements members.
func (r *Raft) answer(from string, st transport.Stream) {
	ctx, cancel := context.WithTimeout(r.ctx, askTime)
	defer cancel()
	_ = st.SetDeadline(time.Now().Add(askTime))
	var question json.RawMessage
	if err := json.NewDecoder(io.LimitReader(st, maxAsk)).Decode(&question); err != nil {
		st.Reset()
		return
	}
	if _, err := st.Write(r.answerTo(ctx, fleet.ReplicaID(from), question)); err != nil {
		st.Reset()
		return
	}
	_ = st.Close()
}
