// Package api is what people and programs see of the control plane: HTTPS with
// JSON, in the documents of package client. It is thin: each handler reads the
// replicated state, asks the leader's soft state, or proposes one command.
//
// A replica serves it twice:
//
//	h := api.Handler(backend, api.Options{Log: log, Allow: allow})
//	go api.NewServer(h, log).Serve(tlsListener)     // pki.ServerTLS, operators
//	l := api.Handler(backend, api.Options{Log: log, Local: true, Forward: toLeader})
//	go api.NewServer(l, log).Serve(unixListener)    // mode 0600
//
// The routes, all below /v1 but the last:
//
//	POST /tasks                submit a task that runs once
//	GET  /tasks                ?all= &role= &agent= &limit=
//	GET  /tasks/ID             ?after=REVISION&wait=30s waits for a change
//	POST /tasks/ID/stop        {"grace": "10s"}
//	GET  /tasks/ID/why         what each agent lacks for a waiting task
//	GET  /tasks/ID/logs        ?follow= &tail= &stdout= &stderr=; JSON lines
//	GET  /agents, /agents/ID   POST /agents/ID/revoke
//	GET  /offers               the offers that are out
//	GET  /tokens               POST /tokens, DELETE /tokens/ID
//	GET  /replicas, /version   answered by every replica
//	GET  /healthz              200 while a leader is known
//
// Everything else is the leader's: a follower answers 307 with the leader's
// address, or passes the request on where that is set up. Errors are problem
// documents: what went wrong, and what to do next.
package api
