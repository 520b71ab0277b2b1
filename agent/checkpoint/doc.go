// Package checkpoint is the agent's durable record: one bbolt file with the
// generation it holds, its last contact, and a record for each task it answers for.
//
//	cp, err := checkpoint.Open(path)
//	head, records, err := cp.Load()
//	life, err := cp.Begin()        // once a process: orders its sessions after older ones
//	err = cp.Write(changes)        // all of them or none, on the disk when it returns
//
// The file is locked: two agents on one directory are refused.
//
// An upgrade may be rolled back (package gate), so what a version writes, the
// version before must be able to read. A new format takes two releases: the first
// reads it and writes the old one, the second writes it. A file of a newer format
// is refused, named, and left as it is.
package checkpoint
