package mesosv1

import (
	"errors"
	"strconv"
	"strings"
)

// pathError is an error in the field that path leads to.
type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string { return e.path + ": " + e.err.Error() }
func (e *pathError) Unwrap() error { return e.err }

// within puts the name of a field before the path of an error inside it.
func within(name string, err error) error {
	if err == nil {
		return nil
	}
	if inner, ok := errors.AsType[*pathError](err); ok {
		return &pathError{path: join(name, inner.path), err: inner.err}
	}
	return &pathError{path: name, err: err}
}

func join(outer, inner string) string {
	if outer == "" || inner == "" || strings.HasPrefix(inner, "[") {
		return outer + inner
	}
	return outer + "." + inner
}

// index and key are the parts of a path that lead into lists and maps.
func index(i int) string { return "[" + strconv.Itoa(i) + "]" }

func key(k string) string { return "[" + strconv.Quote(k[:min(len(k), 40)]) + "]" }
