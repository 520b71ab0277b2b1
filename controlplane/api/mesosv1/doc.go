// Package mesosv1 lets Mesos schedulers connect to a replica unchanged: it is
// the edge where the Mesos v1 scheduler HTTP API becomes values. The messages
// are those of package pb, in protobuf or in Mesos's JSON; DecodeCall returns
// only calls that are within the limits and valid as far as that can be told
// without state, a Server translates them into events of the leader, and what
// the leader answers leaves as records of a RecordIO stream.
//
// A replica has one Server, on its HTTPS port, and each term of the leader one
// Hub:
//
//	server := mesosv1.New(mesosv1.Config{Lead: func() *mesosv1.Hub { ... }, ...})
//	mux.Handle(mesosv1.Path, server)          // other replicas redirect
//	serve(loopback, server.Local(principal))  // no TLS, no redirection
//
//	hub := mesosv1.NewHub(ctx.Done(), step)   // step runs events in the loop
//	for _, act := range core.Step(now, event) {
//		hub.Perform(act)                      // never blocks
//	}
//
// A stream lasts until the scheduler, the term or the principal ends, another
// instance of the scheduler subscribes, or so much waits that it cannot be
// reading. Nothing is lost by that: unacknowledged updates come again.
//
// Where Mesos leaves a choice, or runs tasks that this fleet cannot:
//
//   - a failover_timeout of 0, set or not, is a week; see describe.
//   - a task is a container of its own and its own executor. Without an image
//     it runs in one that the replica's settings name. Custom executors and what
//     no container here has (see specification) end in TASK_ERROR with a reason;
//     labels that cannot be labels here, and discovery, are left out.
//   - GPUs are named devices: an offer says how many and describes each in its
//     attributes (see attributes), and a task gets the first ones left.
//   - an agent's site and labels are attributes, REGION and ZONE in constraints
//     its labels region and zone. Its url has the address that its session comes
//     from and port 0: nothing listens there.
//   - operations are done at once or not at all. One with an id that is not done
//     is answered with OPERATION_ERROR.
//
// The records and messages can be used without a Server:
//
//	call, err := mesosv1.DecodeCall(r.Header.Get("Content-Type"), body) // or a Refusal
//	enc, err := mesosv1.Negotiate(r.Header.Values("Accept"))            // or a Refusal
//	record, err := enc.Append(nil, event)
//	err = mesosv1.NewRecordWriter(w).WriteRecord(record)
//
// A client does the same the other way round, with Encoding.Append, a
// RecordReader and Encoding.Unmarshal.
//
// Mesos's JSON is not that of package protojson: keys are the schema's names,
// 64-bit numbers are numbers, unset fields with a default are written out, and
// the name of an enum's value that is not known counts as unset. Where Mesos
// takes either of two readings, this package refuses: a key that stands twice,
// two fields of a oneof, null in an array.
//
// What a call says need not make sense: amounts may be NaN or negative, ids
// empty, frameworks unknown. That is for those who know the state to judge.
package mesosv1
