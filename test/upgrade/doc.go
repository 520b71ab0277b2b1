// Package upgrade proves that an upgrade leaves a machine with an agent that
// works, whatever ends it and when: it runs the shell scripts that see to that,
// agent-start and the package's preinst, in a directory that looks like a
// machine, and kills them at each of their steps. Package packages does the same
// to whole machines, at fewer points.
package upgrade
