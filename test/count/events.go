package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one line of go test -json; `go doc test2json` describes it.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output, instead of Package
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// counter follows one run of go test.
type counter struct {
	out      io.Writer
	strict   bool
	counts   counts
	packages map[string]*pkg
	builds   map[string][]string // what the compiler said, by import path
}

// pkg is a package under test.
type pkg struct {
	counts
	tests  map[string]*test
	output []string // outside any test
}

type test struct {
	output  []string
	parent  bool // it has subtests, which are counted instead
	failing bool // it, or one below it, failed
}

// read takes events until the last.
func (c *counter) read(r io.Reader) error {
	c.packages, c.builds = map[string]*pkg{}, map[string][]string{}
	for dec := json.NewDecoder(r); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read go test -json: %w", err)
		}
		switch {
		case e.Action == "build-output":
			c.builds[e.ImportPath] = append(c.builds[e.ImportPath], e.Output)
		case e.Package == "":
		case e.Test == "":
			c.pkgEvent(c.pkg(e.Package), e)
		default:
			c.testEvent(c.pkg(e.Package), e)
		}
	}
}

func (c *counter) pkg(name string) *pkg {
	if c.packages[name] == nil {
		c.packages[name] = &pkg{tests: map[string]*test{}}
	}
	return c.packages[name]
}

func (c *counter) testEvent(p *pkg, e event) {
	t := p.tests[e.Test]
	if t == nil {
		t = &test{}
		p.tests[e.Test] = t
	}
	above := p.above(e.Test)
	switch e.Action {
	case "run":
		if above != nil {
			above.parent = true
		}
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "skip", "fail":
		c.ended(p, t, above, e)
		delete(p.tests, e.Test)
	}
}

func (c *counter) ended(p *pkg, t, above *test, e event) {
	switch {
	case e.Action == "fail":
		if above != nil {
			above.failing = true
		}
		// A parent fails with its subtests; it counts if it failed alone.
		if !t.failing {
			p.Failed++
		}
		c.print(t.output)
	case t.parent:
	case e.Action == "skip":
		p.Skipped++
		c.print(t.output)
	default:
		p.Passed++
	}
}

// above returns the running test that a subtest belongs to, nil for a test.
func (p *pkg) above(name string) *test {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return nil
	}
	return p.tests[name[:i]]
}

func (c *counter) pkgEvent(p *pkg, e event) {
	switch e.Action {
	case "output":
		p.output = append(p.output, e.Output)
	case "fail":
		c.print(c.builds[e.FailedBuild])
		// A panic or a time-out ends the tests that ran, unsaid.
		for _, t := range p.tests {
			c.print(t.output)
			p.Failed++
		}
		if p.Failed == 0 {
			p.Failed++ // it did not compile, or failed outside any test
		}
		c.print(p.output)
		c.report("FAIL", p, e)
	case "pass":
		c.report("ok  ", p, e)
	case "skip": // no test files
	}
}

func (c *counter) report(word string, p *pkg, e event) {
	c.counts = c.counts.plus(p.counts)
	fmt.Fprintf(c.out, "%s  %s  %d passed", word, e.Package, p.Passed)
	if p.Failed > 0 {
		fmt.Fprintf(c.out, ", %d failed", p.Failed)
	}
	if p.Skipped > 0 {
		fmt.Fprintf(c.out, ", %d skipped", p.Skipped)
	}
	fmt.Fprintf(c.out, "  %.1fs\n", e.Elapsed)
}

func (c *counter) print(lines []string) {
	for _, l := range lines {
		// RUN, PAUSE, CONT and NAME: who ran when is no news.
		if !strings.HasPrefix(l, "=== ") {
			fmt.Fprint(c.out, l)
		}
	}
}
