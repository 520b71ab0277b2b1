package registrar

// SmallSegments makes the log's files so small that compaction removes some:
// entries stay readable in the newest file even when they have been deleted.
func SmallSegments(c *Config) { c.segment = 8 << 10 }

// FirstLog is the oldest entry that the log still has.
func (r *Raft) FirstLog() uint64 {
	i, err := r.stores.log.FirstIndex()
	if err != nil {
		panic(err)
	}
	return i
}

// Applied is the last entry that the state holds.
func (r *Raft) Applied() uint64 {
	r.m.mu.RLock()
	defer r.m.mu.RUnlock()
	return r.m.applied
}
