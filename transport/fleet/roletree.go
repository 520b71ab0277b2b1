package fleet

import "strings"

// Within reports whether r is of or one of of's descendants in the role tree:
// "a/b" and "a/b/c" are within "a/b", "a" and "a/bc" are not. The default role
// "*" is one role like any other, and no pattern.
func (r Role) Within(of Role) bool {
	rest, ok := strings.CutPrefix(string(r), string(of))
	return ok && (rest == "" || rest[0] == '/')
}
