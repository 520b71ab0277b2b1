// Package arch holds the shape of the code as tests: who may import whom and
// why not, which packages are pure, what is documented, how big a file may be.
//
//	go test -count=1 ./test/arch
//
// The tests read the tree in ways that go test does not see; without -count=1
// it would answer from its cache after the tree has changed.
//
// Every check is a function from a Module to findings. Its test demands none in
// this module, and each one that testdata/bad, a module that breaks every rule
// on purpose, says it must find.
package arch
