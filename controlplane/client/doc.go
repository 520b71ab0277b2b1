// Package client is the API of a control plane as Go sees it: the JSON
// documents, of which this is the only form, and the calls.
//
//	c, err := client.New(client.Config{Servers: servers, Credential: cred})
//	defer c.Close()
//	t, err := c.Submit(ctx, client.Submit{Image: "docker.io/library/busybox:1.36", CPUs: "1"})
//	for err == nil && !t.Terminal() {
//		t, err = c.WaitTask(ctx, t.ID, t.Revision, 30*time.Second)
//	}
//
// Who asks is shown by the credential's certificate, or by a token, which is
// sent to nobody but verified replicas of the fleet (Config.Token, Config.Pin).
//
// A call asks one server after another, follows the way to the leader and
// waits through an election. A request that changes something is sent a second
// time only when the first cannot have had an effect.
//
// Errors are a *Problem, which a replica wrote, or an *UnreachableError. Both
// say what went wrong and what to do next.
package client
