package fleet

import "strings"

// Descends reports whether r is of or one of its descendants in the role tree:
// "a/b" and "a/b/c" descend from "a/b", "a" and "a/bc" do not. The default role
// "*" is one role like any other, and no pattern.
func (r Role) Descends(of Role) bool {
	rest, ok := strings.CutPrefix(string(r), string(of))
	return ok && (rest == "" || rest[0] == '/')
}

// Parent is the role above r, empty for a top-level role.
func (r Role) Parent() Role {
	if i := strings.LastIndexByte(string(r), '/'); i >= 0 {
		return r[:i]
	}
	return ""
}
