package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tenderfleet/tender/agent/upgrade"
	"github.com/tenderfleet/tender/transport/fleet"
)

// Dir is root's own directory.
const Dir = "/var/lib/tender/install"

// Names below the agent's state directory.
const (
	packagesDir = "packages"
	askDir      = "install"
	askName     = "request"
	answerName  = "answer"
)

// maxRequest bounds a request or an answer: its signature is the most of it.
const maxRequest = 4 * fleet.MaxSignature

// request is a request as it is written.
type request struct {
	Rollout   string `json:"rollout"`
	Version   string `json:"version"`
	Arch      string `json:"arch"`
	SHA256    string `json:"sha256"`
	Size      int64  `json:"size"`
	Signature string `json:"signature"`
}

// answer is an answer as it is written. Without Done it counts how often the
// installation was begun.
type answer struct {
	Rollout   string `json:"rollout"`
	Version   string `json:"version"`
	SHA256    string `json:"sha256"`
	Done      bool   `json:"done"`
	Installed bool   `json:"installed"`
	Text      string `json:"text,omitempty"`
	Tries     int    `json:"tries"`
}

// PackageFile is where what has been fetched of a package lies.
func PackageFile(stateDir, sha256 string) string {
	return filepath.Join(stateDir, packagesDir, packageName(sha256))
}

func packageName(sha256 string) string { return sha256 + ".part" }

func encodeRequest(r upgrade.Request) ([]byte, error) {
	p := r.Package
	return json.Marshal(request{string(r.Rollout), r.Version, p.Arch, p.SHA256, p.Size, p.Signature})
}

// decodeRequest reads a request from whoever wrote it.
func decodeRequest(data []byte) (upgrade.Request, error) {
	var q request
	if len(data) > maxRequest {
		return upgrade.Request{}, fmt.Errorf("it has more than %d bytes", maxRequest)
	}
	if err := json.Unmarshal(data, &q); err != nil {
		return upgrade.Request{}, errors.New("it is no request") // and quoted nowhere
	}
	r := upgrade.Request{
		Rollout: fleet.RolloutID(q.Rollout), Version: q.Version,
		Package: fleet.Package{Arch: q.Arch, SHA256: q.SHA256, Size: q.Size, Signature: q.Signature},
	}
	if !word(q.Rollout) || !word(q.Version) || !word(q.Arch) {
		return upgrade.Request{}, errors.New("it names no rollout, version or architecture that could be one")
	}
	return r, r.Package.Check()
}

// word reports whether a text can be a name or a version.
func word(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != '~' && c != '_' && c != ':' {
			return false
		}
	}
	return true
}

// Ask asks root to install a package. It is durable when Ask returns.
func Ask(stateDir string, r upgrade.Request) error {
	data, err := encodeRequest(r)
	if err == nil {
		err = os.MkdirAll(filepath.Join(stateDir, askDir), 0o700)
	}
	if err == nil {
		err = replace(filepath.Join(stateDir, askDir), askName, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("ask for an installation: %w", err)
	}
	return nil
}

// Asked is the request that has no answer yet, and since when.
func Asked(stateDir string) (upgrade.Request, time.Time, error) {
	path := filepath.Join(stateDir, askDir, askName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return upgrade.Request{}, time.Time{}, nil
	}
	if err != nil {
		return upgrade.Request{}, time.Time{}, fmt.Errorf("read the request to install: %w", err)
	}
	r, err := decodeRequest(data)
	if err != nil {
		return upgrade.Request{}, time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	at := time.Time{}
	if info, err := os.Stat(path); err == nil {
		at = info.ModTime()
	}
	return r, at, nil
}

// ReadAnswer is root's last answer, the zero value when there is none.
func ReadAnswer(dir string) (upgrade.Answer, error) {
	a, err := readAnswer(dir)
	if err != nil || !a.Done {
		return upgrade.Answer{}, err
	}
	return upgrade.Answer{Rollout: fleet.RolloutID(a.Rollout), Version: a.Version, SHA256: a.SHA256, Installed: a.Installed, Text: a.Text}, nil
}

func readAnswer(dir string) (answer, error) {
	var a answer
	data, err := os.ReadFile(filepath.Join(dir, answerName))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		return answer{}, fmt.Errorf("read how the last installation went: %w", err)
	}
	return a, nil
}

// replace writes a file of a directory whole, or not at all.
func replace(dir, name string, data []byte, mode os.FileMode) error {
	path := filepath.Join(dir, name)
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(dir)
}
