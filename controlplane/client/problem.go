package client

import (
	"fmt"
	"net/http"
)

// Code tells problems apart for programs.
type Code string

// The codes of problems.
const (
	CodeBadRequest  Code = "bad_request"
	CodeInvalid     Code = "invalid" // well formed, but asks for what cannot be
	CodeNotFound    Code = "not_found"
	CodeConflict    Code = "conflict"
	CodeNotStarted  Code = "not_started" // the task is not on an agent yet
	CodeNoIdentity  Code = "no_identity" // neither a certificate nor a token that holds
	CodeForbidden   Code = "forbidden"
	CodeTooLarge    Code = "too_large"
	CodeNotLeader   Code = "not_leader"  // ask the leader
	CodeNoLeader    Code = "no_leader"   // nobody leads now; nothing was changed
	CodeUnknown     Code = "unknown"     // the outcome is not known
	CodeUnavailable Code = "unavailable" // the agent does not answer now
	CodeBusy        Code = "busy"
	CodeTimeout     Code = "timeout"
	CodeInternal    Code = "internal"
)

var statuses = map[Code]int{
	CodeBadRequest: http.StatusBadRequest, CodeInvalid: http.StatusUnprocessableEntity,
	CodeNotFound: http.StatusNotFound, CodeConflict: http.StatusConflict, CodeNotStarted: http.StatusConflict,
	CodeNoIdentity: http.StatusUnauthorized, CodeForbidden: http.StatusForbidden,
	CodeTooLarge: http.StatusRequestEntityTooLarge, CodeNotLeader: http.StatusTemporaryRedirect,
	CodeNoLeader: http.StatusServiceUnavailable, CodeUnknown: http.StatusGatewayTimeout,
	CodeUnavailable: http.StatusServiceUnavailable, CodeBusy: http.StatusServiceUnavailable,
	CodeTimeout: http.StatusGatewayTimeout,
}

// Problem is the answer to a request that was not granted.
type Problem struct {
	Title  string `json:"title"`
	Detail string `json:"detail"`         // what went wrong
	Next   string `json:"next,omitempty"` // what to do
	Code   Code   `json:"code"`
	// State and Reason are set when a task was refused for what it is.
	State  string `json:"state,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// NewProblem makes a problem from its code, cause and next step.
func NewProblem(code Code, next, format string, args ...any) *Problem {
	p := &Problem{Code: code, Next: next, Detail: fmt.Sprintf(format, args...)}
	p.Title = http.StatusText(p.Status())
	return p
}

// Status is the HTTP status that goes with the code.
func (p *Problem) Status() int {
	if s, ok := statuses[p.Code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Error returns the cause, after the task's state if one was given.
func (p *Problem) Error() string {
	if p.State != "" {
		return p.State + ": " + p.Detail
	}
	return p.Detail
}
