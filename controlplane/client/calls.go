package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

func get(path string, query url.Values) request {
	return request{method: http.MethodGet, path: path, query: query}
}

func post(path string) request { return request{method: http.MethodPost, path: path} }

func taskPath(id string, more string) string { return "/v1/tasks/" + url.PathEscape(id) + more }

// Submit queues a task and returns it.
func (c *Client) Submit(ctx context.Context, s Submit) (Task, error) {
	return fetch[Task](ctx, c, post("/v1/tasks"), s)
}

// TaskFilter chooses tasks; empty fields choose all. Without All only those
// that have not ended are listed.
type TaskFilter struct {
	All         bool
	Role, Agent string
	Limit       int
}

// Tasks lists tasks, the newest first.
func (c *Client) Tasks(ctx context.Context, f TaskFilter) (TaskList, error) {
	q := url.Values{}
	if f.All {
		q.Set("all", "true")
	}
	if f.Role != "" {
		q.Set("role", f.Role)
	}
	if f.Agent != "" {
		q.Set("agent", f.Agent)
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return fetch[TaskList](ctx, c, get("/v1/tasks", q), nil)
}

// Task returns one task.
func (c *Client) Task(ctx context.Context, id string) (Task, error) {
	return fetch[Task](ctx, c, get(taskPath(id, ""), nil), nil)
}

// WaitTask returns the task once its revision is not after any more, and in
// any case after wait.
func (c *Client) WaitTask(ctx context.Context, id, after string, wait time.Duration) (Task, error) {
	r := get(taskPath(id, ""), url.Values{"after": {after}, "wait": {wait.String()}})
	r.limit = wait + callTime
	return fetch[Task](ctx, c, r, nil)
}

// StopTask asks for the end of a task and returns it as it is then.
func (c *Client) StopTask(ctx context.Context, id string, s Stop) (Task, error) {
	return fetch[Task](ctx, c, post(taskPath(id, "/stop")), s)
}

// Why says what each agent lacks for a waiting task.
func (c *Client) Why(ctx context.Context, id string) (Why, error) {
	return fetch[Why](ctx, c, get(taskPath(id, "/why"), nil), nil)
}

// LogOptions say which output of a task to read. Tail is the number of last
// lines to begin with, -1 for everything.
type LogOptions struct {
	Follow         bool
	Tail           int
	Stdout, Stderr bool
}

// Logs hands a task's output to emit until it is complete or emit fails. A
// stream that broke off gives a *StreamError.
func (c *Client) Logs(ctx context.Context, id string, o LogOptions, emit func(stderr bool, data []byte) error) error {
	r := get(taskPath(id, "/logs"), url.Values{
		"follow": {strconv.FormatBool(o.Follow)}, "tail": {strconv.Itoa(o.Tail)},
		"stdout": {strconv.FormatBool(o.Stdout)}, "stderr": {strconv.FormatBool(o.Stderr)},
	})
	return c.send(ctx, r, func(body io.Reader) error { return readLogs(body, emit) })
}

func readLogs(body io.Reader, emit func(stderr bool, data []byte) error) error {
	dec := json.NewDecoder(body)
	for {
		var f LogFrame
		if err := dec.Decode(&f); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &StreamError{fmt.Errorf("read logs: %w", err)}
		}
		switch {
		case f.Error != nil:
			return &StreamError{f.Error}
		case f.End:
			return nil
		case len(f.Data) > 0:
			if err := emit(f.Stream == "stderr", f.Data); err != nil {
				return err
			}
		}
	}
}

// StreamError is a stream that ended before its output did, by a broken
// connection or a *Problem inside.
type StreamError struct{ Err error }

func (e *StreamError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *StreamError) Unwrap() error { return e.Err }

// Agents lists the agents by id.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	l, err := fetch[AgentList](ctx, c, get("/v1/agents", nil), nil)
	return l.Agents, err
}

// Agent returns one agent.
func (c *Client) Agent(ctx context.Context, id string) (Agent, error) {
	return fetch[Agent](ctx, c, get("/v1/agents/"+url.PathEscape(id), nil), nil)
}

// RevokeAgent bans an agent for good and ends its tasks.
func (c *Client) RevokeAgent(ctx context.Context, id string) (Agent, error) {
	return fetch[Agent](ctx, c, post("/v1/agents/"+url.PathEscape(id)+"/revoke"), nil)
}

// Offers lists the offers and inverse offers that are out.
func (c *Client) Offers(ctx context.Context) (OfferList, error) {
	return fetch[OfferList](ctx, c, get("/v1/offers", nil), nil)
}

// Replicas tells how the replica that answers sees the control plane.
func (c *Client) Replicas(ctx context.Context) (Replicas, error) {
	return fetch[Replicas](ctx, c, get("/v1/replicas", nil), nil)
}

// CreateToken makes a join token. The answer alone holds the join line.
func (c *Client) CreateToken(ctx context.Context, t CreateToken) (Token, error) {
	return fetch[Token](ctx, c, post("/v1/tokens"), t)
}

// Tokens lists the join tokens, the oldest first.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	l, err := fetch[TokenList](ctx, c, get("/v1/tokens", nil), nil)
	return l.Tokens, err
}

// DeleteToken ends a join token, named by the first digits of its id.
func (c *Client) DeleteToken(ctx context.Context, id string) error {
	r := request{method: http.MethodDelete, path: "/v1/tokens/" + url.PathEscape(id), limit: callTime}
	return c.send(ctx, r, func(io.Reader) error { return nil })
}

// ServerVersion tells what the replica that answers was built from.
func (c *Client) ServerVersion(ctx context.Context) (Version, error) {
	return fetch[Version](ctx, c, get("/v1/version", nil), nil)
}
