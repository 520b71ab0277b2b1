// Package release reads what an operator brings to upgrade agents: a Debian
// package of tender-agent, its signature, and the public keys that count.
//
//	key, err := release.ParseKey(text)                // FILE.pub
//	checked, err := release.Check(file, signature, keys)
//	about, err := release.Read(file)                  // only now is it decoded
//
// Signatures are minisign's (jedisct1.github.io/minisign), in its default form,
// which signs a digest: a package need not be held in memory.
//
// Of a package, deb(5), only the control fields are read, with bounds on
// everything: it may be hostile, though a release key has signed it.
package release
