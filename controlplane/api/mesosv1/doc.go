// Package mesosv1 lets Mesos schedulers connect to a replica unchanged: it is
// the edge where the Mesos v1 scheduler HTTP API becomes values. The messages
// are those of package pb, in protobuf or in Mesos's JSON; DecodeCall returns
// only calls that are within the limits and valid as far as that can be told
// without state, and events leave as records of a RecordIO stream.
//
// The caller's loop for a request to POST /api/v1/scheduler:
//
//	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mesosv1.MaxCall))
//	call, err := mesosv1.DecodeCall(r.Header.Get("Content-Type"), body)
//	if refusal, ok := errors.AsType[*mesosv1.Refusal](err); ok {
//		http.Error(w, refusal.Text, refusal.Status)
//		return
//	}
//	if call.GetType() != pb.Call_SUBSCRIBE {
//		handle(call)
//		w.WriteHeader(http.StatusAccepted)
//		return
//	}
//	enc, err := mesosv1.Negotiate(r.Header.Values("Accept")) // or a Refusal
//	w.Header().Set("Content-Type", enc.ContentType())
//	records := mesosv1.NewRecordWriter(w)
//	for event := range subscribe(call) {
//		record, err := enc.Append(record[:0], event)
//		if err := records.WriteRecord(record); err != nil {
//			return // the scheduler is gone
//		}
//	}
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
