package registrar

import (
	"sync"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements raft.Transport.
func (t *tracker) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	w := &pipeline{AppendPipeline: p, done: make(chan raft.AppendFuture), over: make(chan struct{})}
	go w.deliver()
	return w, nil
}

// pipeline ends with the first answer that is no success. Raft reads no answer
// after that one, and one that nobody reads blocks a pipeline's sender for ever,
// who is to end it (raft 1.8.0, pipelineReplicate): a follower that could not
// write for a moment would never be sent anything again.
type pipeline struct {
	raft.AppendPipeline
	done chan raft.AppendFuture
	once sync.Once
	over chan struct{} // closed by Close
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.over) })
	return p.AppendPipeline.Close()
}

// deliver hands answers on until the pipeline ends.
func (p *pipeline) deliver() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			select {
			case p.done <- f:
			case <-p.over:
				return
			}
			if f.Error() != nil || !f.Response().Success || f.Response().Term > f.Request().Term {
				_ = p.Close() // the sender finds it closed
				return
			}
		case <-p.over:
			return
		}
	}
}
