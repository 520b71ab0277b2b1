// Package other is called otherwise.
package surprise
