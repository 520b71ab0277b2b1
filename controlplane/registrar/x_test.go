package registrar
func (r *Raft) XStats() map[string]string { return r.raft.Stats() }
