// Package packages proves the Debian packages on a machine that runs systemd: it
// boots one in a container of its own, behind a NAT, installs the packages, joins
// a running trio, and does to it what happens to machines that nobody can visit.
//
//	TENDER_DEBS=$PWD/bin/debs go test ./test/packages    (as make test-packages does)
//
// $TENDER_DEBS holds two builds of the packages, in old/ and new/. The machine's
// root is made once by debootstrap and kept in the user's cache; a machine is an
// overlay over it and booted by systemd-nspawn in less than a second. The host
// needs no systemd of its own. What its kernel cannot show is shown on a virtual
// machine; see package vm.
package packages
