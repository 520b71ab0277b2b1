package install

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ReadForeign reads a small file of another user for root: path leads from a
// directory of that user, whose parent is root's, to the file.
func ReadForeign(dir string, path ...string) ([]byte, error) {
	f, err := openForeign(dir, path...)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened to read
	return io.ReadAll(io.LimitReader(f, maxRequest+1))
}

// openForeign opens a regular file that belongs to the directory's owner. No link
// is followed, symbolic or hard, and nothing waits, as a pipe would.
func openForeign(dir string, path ...string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Open(dir, flags|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	var owner, st unix.Stat_t
	if err := unix.Fstat(fd, &owner); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for i, name := range path {
		how := flags
		if i < len(path)-1 {
			how |= unix.O_DIRECTORY
		}
		next, err := unix.Openat(int(f.Fd()), name, how, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		f = os.NewFile(uintptr(next), name)
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Uid != owner.Uid {
		return nil, errors.Join(fmt.Errorf("%s is no plain file of the directory's owner", f.Name()), f.Close())
	}
	return f, nil
}
