// Package reports keeps the status updates of one task between the moment the
// agent sees a state and the moment the trio has committed it: numbered,
// in order, resent until acknowledged.
//
// The caller adds a status, checkpoints the queue, and then sends:
//
//	u := q.Add(status)          // numbered; make it durable before sending
//	send(q.Due(now))            // new ones, and old ones whose time has come
//	changed := q.Ack(update)    // committed: never sent again
//
// Results of checks may come for as long as a task runs. Of those that were
// never sent only the last is kept, and only so many are sent ahead of their
// acknowledgements, so that a queue stays short however long an agent is alone.
//
// Resends wait 10 s, doubling to 10 min, as Mesos's status update manager; a
// new session resends everything at once.
package reports
