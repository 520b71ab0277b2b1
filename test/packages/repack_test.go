package packages

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// bench holds packages that were made from built ones: to build each anew would
// take longer than all that is done with them.
type bench struct {
	dir  string // bound to /bench on a machine
	root string // what the package holds
}

// unpack takes the agent's package of a build apart.
func unpack(t *testing.T, build string) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), root: filepath.Join(t.TempDir(), "root")}
	host(t, "dpkg-deb", "-R", deb(t, build, "tender-agent"), b.root)
	return b
}

var versionLine = regexp.MustCompile(`(?m)^Version: .*$`)

// pack makes a package of what edit has made of the contents, which are the same
// again afterwards. It returns its path on the machine.
func (b *bench) pack(t *testing.T, name, version string, edit func(root string)) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	host(t, "cp", "-al", b.root, root) // links: what edit replaces, it must remove first
	control := filepath.Join(root, "DEBIAN/control")
	data, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, control, versionLine.ReplaceAll(data, []byte("Version: "+version)), 0o644)
	edit(root)
	host(t, "dpkg-deb", "-Znone", "--root-owner-group", "-b", root, filepath.Join(b.dir, name+".deb"))
	return "/bench/" + name + ".deb"
}

// replace makes a file anew.
func replace(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

// compile makes a program, or with -shared a library, of a few lines of C.
func (b *bench) compile(t *testing.T, name, source string, flags ...string) (path string) {
	t.Helper()
	path = filepath.Join(b.dir, name)
	replace(t, path+".c", []byte(source), 0o644)
	host(t, append(append([]string{"gcc", "-O1", "-o", path, path + ".c"}, flags...), "-ldl")...)
	return path
}

// hangs is an agent that never gets ready.
const hangs = `#include <unistd.h>
int main(void) { for (;;) pause(); }
`

// stranger is an agent that shows every replica another identity: a stand-in for
// one that has broken how it makes itself known. It goes on as the real one.
const stranger = `#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
	(void)argc;
	setenv("TENDER_STATE", "/var/lib/tender/agent/stranger", 1);
	execv("/usr/libexec/tender/agent-real", argv);
	return 1;
}
`

// powercut counts the steps of dpkg that change what runs: each file that it
// puts in its place, each script that it begins. At the step KILL_AT everything
// of its process group is gone.
const powercut = `#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static void step(void) {
	struct stat st;
	const char *at = getenv("KILL_AT");
	int fd = open("/run/steps", O_WRONLY | O_APPEND | O_CREAT, 0600);
	if (!at || fd < 0) return;
	if (write(fd, ".", 1) != 1 || fstat(fd, &st)) _exit(99);
	close(fd);
	if (st.st_size >= atol(at)) kill(0, SIGKILL);
}
int rename(const char *from, const char *to) {
	int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
	if (strstr(to, "/bin/tender") || strstr(to, "/libexec/tender/") || strstr(to, "/systemd/system/tender")) step();
	return real(from, to);
}
int execvp(const char *file, char *const argv[]) {
	int (*real)(const char *, char *const[]) = (int (*)(const char *, char *const[]))dlsym(RTLD_NEXT, "execvp");
	const char *name = strrchr(file, '/');
	name = name ? name + 1 : file;
	if (strstr(name, "preinst") || strstr(name, "postinst") || strstr(name, "prerm") || strstr(name, "postrm")) step();
	return real(file, argv);
}
`
