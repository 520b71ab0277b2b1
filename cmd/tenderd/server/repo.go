package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// repoConns bounds the connections to the repository: apt opens one.
	repoConns = 128
	// repoPatience is how long a reader may take for one piece of a file. A link
	// of 10 kB/s takes 3 s for one of 32 kB.
	repoPatience = 2 * time.Minute
)

// serveRepo serves an apt repository, as 'make repo' makes it, to machines that
// reach no other, until ctx ends. What is in it is signed, so that it goes by
// plain HTTP. A replica does not fail for want of it: what is wrong is logged.
func serveRepo(ctx context.Context, dir, addr string, log *slog.Logger) {
	if dir == "" {
		return
	}
	log = log.With("repo", dir, "addr", addr)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		log.Error("the apt repository is not served", "error", err)
		return
	}
	if _, err := os.Stat(filepath.Join(dir, "InRelease")); err != nil {
		log.Warn("there is no signed apt repository yet; make one with: make repo", "error", err)
	}
	srv := &http.Server{
		Handler: repoHandler(dir), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	log.Info("serving an apt repository")
	if err := srv.Serve(netutil.LimitListener(l, repoConns)); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the apt repository is served no more", "error", err)
	}
}

// repoHandler gives out what a flat apt repository consists of, and nothing else
// that may lie beside it. The directory is opened anew each time: a newer one may
// have taken its place.
func repoHandler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			http.NotFound(w, req)
			return
		}
		defer root.Close() //nolint:errcheck // only read
		name := strings.TrimPrefix(path.Clean(req.URL.Path), "/")
		info, err := root.Stat(name)
		if !ofRepo(path.Base(name)) || err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, req)
			return
		}
		http.ServeFileFS(&patient{w, http.NewResponseController(w)}, req, root.FS(), name)
	})
}

func ofRepo(name string) bool {
	return slices.Contains([]string{"InRelease", "Release", "Release.gpg", "Packages", "Packages.gz", "Packages.xz"}, name) ||
		strings.HasSuffix(name, ".deb") || strings.HasSuffix(name, "-keyring.gpg")
}

// patient gives each piece of an answer its own time, so that a thin link may
// take hours for a package, and one that stands still is given up.
type patient struct {
	http.ResponseWriter
	c *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.c.SetWriteDeadline(time.Now().Add(repoPatience)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}
