package state

// Capability is the newest command and record that this version can apply. A
// replica that meets an entry or a snapshot of a higher one stops: going on
// without it would give it another state than its peers. So a leader proposes
// what needs capability N only when every voter has it.
//
// 1: the first.
// 2: replicas say what they run (NoteReplica); restored states (Settle).
// 3: agents change their keys (Rekey, Confirm), copies are noted (Cloned);
// the trust roots and intermediates change (SetBundle, Rotate, NoteIssuer); tasks have policies for crashes and lost
// links, and are replaced (Replace); agents are upgraded (PutReleaseKey,
// PutPackage, StartRollout and what goes with them).
//
// Whoever adds a kind of command, or a field to a command or to a record,
// raises it here, names the kind or field in Needs, and marks the field
// `cbor:",omitempty"`: what is not used is then written as it was before, and
// an older replica reads it.
const Capability = 3

// Needs returns the capability that a replica must have to apply the command.
func (c *Command) Needs() uint64 {
	switch {
	case c.PutReleaseKey != nil, c.DropReleaseKey != nil, c.PutPackage != nil, c.DropPackages != nil,
		c.StartRollout != nil, c.SteerRollout != nil, c.AdvanceRollout != nil:
		return 3
	case c.Rekey != nil, c.Confirm != nil, c.Cloned != nil, c.SetBundle != nil, c.Replace != nil, c.Rotate != nil, c.NoteIssuer != nil:
		return 3
	case c.Certified != nil && c.Certified.Root != "", c.PutReplica != nil && (c.PutReplica.Round != 0 || c.PutReplica.RootKey):
		return 3
	case c.Submit != nil && c.Submit.Spec.Policies():
		return 3
	case c.NoteReplica != nil, c.Settle != nil:
		return 2
	case c.PutReplica != nil && (c.PutReplica.Version != "" || c.PutReplica.Capability != 0):
		return 2
	}
	return 1
}

// note records what a replica runs.
func (s *State) note(c *NoteReplica) Result {
	old := s.Replicas[c.ID]
	if old == nil {
		return refuse(NotFound, "no replica %s", c.ID)
	}
	r := *old
	r.Version, r.Capability = c.Version, c.Capability
	s.Replicas[r.ID] = &r
	return Result{}
}

// putReplica keeps what a replica said that it runs, unless it says so anew.
func (s *State) putReplica(r Replica) Result {
	if old := s.Replicas[r.ID]; old != nil && r.Capability == 0 {
		r.Version, r.Capability = old.Version, old.Capability
	}
	s.Replicas[r.ID] = &r
	return Result{}
}
