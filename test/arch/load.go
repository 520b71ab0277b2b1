package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Module is a parsed Go module. Import paths inside it start with "./"; the
// package in its root is ".".
type Module struct {
	Dir      string
	Path     string
	Requires []Require
	Packages []Package
	fset     *token.FileSet
}

// Require is one line of go.mod.
type Require struct {
	Path     string
	Indirect bool
}

// Package is one directory of Go files.
type Package struct {
	Path  string
	Files []File   // of every platform, tests too
	Links []string // every package that it is built from
}

// File is one parsed file.
type File struct {
	Path      string // inside the module
	Test      bool
	Generated bool
	Lines     int
	Imports   []string
	AST       *ast.File
}

// Load reads the module whose go.mod is in dir. What does not compile is
// loaded as far as it parses.
func Load(dir string) (*Module, error) {
	m := &Module{Dir: dir, fset: token.NewFileSet()}
	out, err := run(dir, "go", "mod", "edit", "-json")
	if err != nil {
		return nil, err
	}
	var mod struct {
		Module  struct{ Path string }
		Require []Require
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return nil, fmt.Errorf("read go.mod: %w", err)
	}
	m.Path, m.Requires = mod.Module.Path, mod.Require

	out, err = run(dir, "go", "list", "-e", "-json=ImportPath,Dir,Deps", "./...")
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l struct {
			ImportPath, Dir string
			Deps            []string
		}
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return m, nil
		} else if err != nil {
			return nil, fmt.Errorf("read go list: %w", err)
		}
		p := Package{Path: m.local(l.ImportPath)}
		for _, d := range l.Deps {
			p.Links = append(p.Links, m.local(d))
		}
		if p.Files, err = m.parse(l.Dir); err != nil {
			return nil, err
		}
		m.Packages = append(m.Packages, p)
	}
}

// parse reads every Go file in dir, whatever its build constraints: files of
// other platforms obey the same rules.
func (m *Module) parse(dir string) ([]File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []File
	for _, name := range names {
		src, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // an editor's lock file, or one just renamed
		} else if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(m.Dir, name)
		if err != nil {
			return nil, err
		}
		tree, err := parser.ParseFile(m.fset, rel, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		f := File{
			Path:      rel,
			Test:      strings.HasSuffix(name, "_test.go"),
			Generated: ast.IsGenerated(tree),
			Lines:     bytes.Count(src, []byte("\n")),
			AST:       tree,
		}
		for _, i := range tree.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return nil, err
			}
			f.Imports = append(f.Imports, m.local(path))
		}
		files = append(files, f)
	}
	return files, nil
}

// local turns an import path of the module into a path inside it.
func (m *Module) local(path string) string {
	if path == m.Path {
		return "."
	}
	if inside, ok := strings.CutPrefix(path, m.Path+"/"); ok {
		return "./" + inside
	}
	return path
}

// at says where a node is.
func (m *Module) at(n ast.Node) string {
	p := m.fset.Position(n.Pos())
	return p.Filename + ":" + strconv.Itoa(p.Line)
}

// find returns the package, or nil.
func (m *Module) find(path string) *Package {
	i := slices.IndexFunc(m.Packages, func(p Package) bool { return p.Path == path })
	if i < 0 {
		return nil
	}
	return &m.Packages[i]
}

func run(dir, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// matches reports whether path is one of the patterns: "a/b" is that package,
// "a/b/..." that one and all below it.
func matches(path string, patterns ...string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if dir, ok := strings.CutSuffix(p, "/..."); ok {
			return path == dir || strings.HasPrefix(path, dir+"/")
		}
		return path == p
	})
}
