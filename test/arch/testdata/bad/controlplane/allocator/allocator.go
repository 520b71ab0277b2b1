// Package allocator rounds.
package allocator

func share(a, b int64) bool {
	return float64(a)/float64(b) > 0.5
}
