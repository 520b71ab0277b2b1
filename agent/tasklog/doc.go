// Package tasklog keeps what tasks print: two files per task, stdout.log and
// stderr.log, raw as the task wrote them.
//
// A writer is a process of its own, started by the container's shim, so that
// it outlives the agent and a dead agent never blocks a task. The agent's
// binary is that process too, under a hidden subcommand:
//
//	os.Exit(tasklog.Main(args))           // args: what Writer returned
//
// The agent reads, while the task runs or later:
//
//	d := tasklog.Dir(root)
//	err := d.Read(ctx, id, tasklog.Options{Follow: true, Ended: ended}, emit)
//	err = d.Remove(id)
//
// A file that reaches its limit becomes stdout.log.1 and a new one begins; one
// old file is kept. A full disk costs log lines and never stops the task.
package tasklog
