// Package api is what people and programs see of the control plane: HTTPS with
// JSON, in the documents of package client. It is thin: each handler reads the
// replicated state, asks the leader's soft state, or proposes one command.
//
// A replica serves it twice:
//
//	h := api.Handler(backend, api.Options{Log: log})
//	go api.NewServer(h, log).Serve(tlsListener)     // pki.ServerTLS, h2 and http/1.1
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
//	GET  /agents, /agents/ID   ?after=REVISION&wait=30s waits for its drain
//	POST /agents/ID/revoke     ban its identity
//	POST /agents/ID/drain      {"max_grace": "30s", "mark_gone": false}
//	POST /agents/ID/deactivate, /agents/ID/reactivate, /agents/ID/gone
//	POST /agents/ID/reserve, /agents/ID/unreserve
//	                           {"role": "a", "resources": {"cpus": 2, "gpus": 1}};
//	                           409 for more than tasks leave free
//	GET  /maintenance          POST /maintenance
//	                           {"agents": ["a1"], "start": TIME, "duration": "2h"}
//	POST /maintenance/clear    {"agents": ["a1"]}
//	GET  /offers               the offers and inverse offers that are out
//	GET  /roles                weight, quota, what is consumed, dominant share
//	PUT  /roles/ROLE/weight    {"weight": 2.5}; a ROLE may have slashes
//	PUT  /quota                {"quotas": [{"role": "a", "guarantee": {"cpus": 10},
//	                           "limit": {"mem": "64G"}}], "force": false}: all or
//	                           none; 409 for guarantees beyond the fleet, 422 for
//	                           what cannot be
//	DELETE /quota/ROLE         ends a role's quota
//	GET  /frameworks           ?all=; schedulers, built in and outside
//	GET  /frameworks/ID        POST /frameworks/ID/teardown
//	GET  /frameworks/ID/why    what keeps offers from it, by reason
//	GET  /tokens               POST /tokens, DELETE /tokens/ID
//	GET  /principals           POST /principals, POST /principals/ID/revoke
//	GET  /audit                ?limit= &by=; who asked for what
//	GET  /upgrade              packages of tender-agent, release keys, the last rollout
//	POST /upgrade/keys         {"key": "RW..."}; DELETE /upgrade/keys/ID
//	POST /upgrade/packages     the file; its signature, in base64, is the header
//	                           Tender-Signature. DELETE /upgrade/packages/VERSION
//	POST /upgrade/start        {"version": "0.2.0", "rings": ["canary=site:lab",
//	                           "rest"], "soak": "10m", "healthy": 100,
//	                           "max_failures": 0, "at_once": 10}
//	POST /upgrade/pause, /upgrade/resume, /upgrade/abort
//	GET  /whoami               who the asker is taken for
//	GET  /replicas, /version   answered by every replica
//	GET  /healthz              200 while a leader is known
//
// Over TLS a request shows a client certificate or "Authorization: Bearer
// TOKEN"; /healthz alone needs neither. Package access says who may do what: a
// request that shows nothing good gets 401, one that may not 403, both with the
// reason. What is refused so does not enter Raft, or strangers could fill it.
//
// What is not said to be every replica's is the leader's: a follower answers 307 with the leader's
// address, or passes the request on where that is set up. Errors are problem
// documents: what went wrong, and what to do next.
package api
