// Package bed helps tests.
package bed
