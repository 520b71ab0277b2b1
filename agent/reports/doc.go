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
// News that leaves a task's state as it is may come for as long as the task
// lives: results of its checks, restarts, why a start is put off. Of what was
// never sent only some is kept: the last one of results in a row, and of the
// rest the first and the newest (keepPassing in all, results of checks going
// first; a restart carries the count of all). Updates after one that was dropped move up, which is safe as
// long as nobody has seen them. A state is never dropped. Only so many are
// sent ahead of their acknowledgements. So a queue stays short however long
// an agent is alone, and however often its process is restarted meanwhile.
//
// Resends wait 10 s, doubling to 10 min, as Mesos's status update manager; a
// new session resends everything at once.
package reports
