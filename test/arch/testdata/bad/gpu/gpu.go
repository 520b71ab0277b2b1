// Package gpu may name a context, and nothing else.
package gpu

import (
	_ "context"
	_ "os"
)
