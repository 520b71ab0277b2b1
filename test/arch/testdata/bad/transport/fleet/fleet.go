package fleet

import "example.org/bad/pki"

type Exported struct{ pki.Kind }

func (Exported) Method() {}

func (Exported) String() string { return "" }

func (hidden) Method() {}

type hidden struct{}

// State is an enumeration.
type State int

const (
	One State = iota
	Two
)

const Lonely = 1

var (
	Alone = 1
	With  = 2 // a comment
)

func Function() {}
