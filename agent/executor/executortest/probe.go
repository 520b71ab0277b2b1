package executortest

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/tenderfleet/tender/agent/executor"
	"github.com/tenderfleet/tender/transport/fleet"
)

func (s *scenario) prober() executor.Prober {
	s.t.Helper()
	p, ok := s.x.(executor.Prober)
	if !ok {
		s.t.Fatalf("%T is not an executor.Prober", s.x)
	}
	return p
}

func (s *scenario) exec(id fleet.TaskID, args []string) (int, error) {
	s.t.Helper()
	return s.prober().Exec(s.ctx, id, executor.Exec{Name: "suite", Args: args, Timeout: patience})
}

func execs(s *scenario) {
	task := s.task("asked", s.f.Polite)
	task.Spec.Env = map[string]string{"CODE": "5"}
	if err := s.x.Start(s.ctx, task); err != nil {
		s.t.Fatal(err)
	}
	for range 3 { // the name is free again
		for want := range 2 {
			if code, err := s.exec("asked", s.f.ExecExit(want)); err != nil || code != want {
				s.t.Errorf("code %d, error %v, want %d", code, err, want)
			}
		}
	}
	if code, err := s.exec("asked", s.f.ExecEnv); err != nil || code != 5 {
		s.t.Errorf("with the task's environment: code %d, error %v, want 5", code, err)
	}
	e := executor.Exec{Name: "env", Args: s.f.ExecEnv, Env: map[string]string{"CODE": "6"}, Timeout: patience}
	if code, err := s.prober().Exec(s.ctx, "asked", e); err != nil || code != 6 {
		s.t.Errorf("with one of its own: code %d, error %v, want 6", code, err)
	}
	if code, err := s.exec("asked", s.f.ExecLoud); err != nil || code != 0 {
		s.t.Errorf("a program that prints much: code %d, error %v", code, err)
	}
	_, err := s.exec("asked", s.f.Missing)
	s.wantErr("a program that is not there", err, executor.ErrCannotRun)
	s.wantRunning("asked")

	// After a restart of the agent, too.
	s.x = s.f.Reopen(s.t)
	if code, err := s.exec("asked", s.f.ExecExit(3)); err != nil || code != 3 {
		s.t.Errorf("after a restart: code %d, error %v, want 3", code, err)
	}
	ended := s.start("ended", s.f.Exit(0))
	s.wantExit(ended, executor.Exit{})
	for _, id := range []fleet.TaskID{ended, "nobody"} {
		_, err := s.exec(id, s.f.ExecExit(0))
		s.wantErr("in "+string(id), err, executor.ErrNotFound)
		_, err = s.prober().Dial(s.ctx, id, 8080)
		s.wantErr("dial "+string(id), err, executor.ErrNotFound)
	}
	s.remove("asked", ended)
}

func execTooLong(s *scenario) {
	id := s.startReady("asked", s.f.Polite)
	long := executor.Exec{Name: "suite", Args: s.f.ExecLong, Timeout: 300 * time.Millisecond}
	began := time.Now()
	_, err := s.prober().Exec(s.ctx, id, long)
	s.wantErr("at its time-out", err, context.DeadlineExceeded)
	if took := time.Since(began); took < long.Timeout || took > patience/2 {
		s.t.Errorf("it took %v", took)
	}
	if s.f.Alone != nil {
		s.f.Alone(s.t, id)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	time.AfterFunc(300*time.Millisecond, cancel)
	long.Timeout = patience
	_, err = s.prober().Exec(ctx, id, long)
	s.wantErr("when nobody waits any more", err, context.Canceled)
	if s.f.Alone != nil {
		s.f.Alone(s.t, id)
	}
	s.wantRunning(id)

	// One that still runs when its task is removed ends with it.
	done := make(chan error, 1)
	go func() {
		_, err := s.prober().Exec(s.ctx, id, long)
		done <- err
	}()
	s.wantRunning(id)
	s.remove(id)
	if err := <-done; errors.Is(err, context.DeadlineExceeded) {
		s.t.Errorf("after the end of its task: %v", err)
	}
	s.wantList(s.x)
}

func dial(s *scenario) {
	id := s.startReady("server", s.f.Serve(8080))
	var c net.Conn
	for { // it begins to listen when it likes
		var err error
		if c, err = s.prober().Dial(s.ctx, id, 8080); err == nil {
			break
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || s.ctx.Err() != nil {
			s.t.Fatalf("dial: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := c.Close(); err != nil {
		s.t.Error(err)
	}
	_, err := s.prober().Dial(s.ctx, id, 8081)
	if op := (*net.OpError)(nil); !errors.As(err, &op) {
		s.t.Errorf("a port where nobody listens: %v", err)
	}
	s.remove(id)
}
