// Package install carries a package of the agent from the agent, which has no
// privileges, to root, who trusts nothing that the agent has touched.
//
// The agent:
//
//	keys, err := install.ReadKeys(install.KeysFile)
//	err = keys.Verify(file, pkg)                  // digest and signature
//	err = install.Ask(stateDir, request)          // a unit of systemd sees it
//	answer, err := install.ReadAnswer(install.Dir)
//
// Root, started by that unit:
//
//	err := (&install.Machine{...}).Install(ctx)   // nil: the request is answered
//
// The keys are those that the machine was told when it joined, and nobody but
// its administrator changes them afterwards: a control plane in wrong hands can
// hold an upgrade back, but not make one.
//
// Files, in the agent's state directory and in root's own:
//
//	packages/SHA256.part      what has been fetched of a package
//	install/request           what is asked of root; gone when it is answered
//	/var/lib/tender/install/  root's copy of the package, and answer
package install
