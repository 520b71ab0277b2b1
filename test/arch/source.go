package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// Purity finds what makes a core package depend on more than its arguments.
func Purity(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		if !matches(p.Path, core...) {
			continue
		}
		for _, f := range p.product() {
			for _, i := range f.Imports {
				found = append(found, impureImport(p.Path, f.Path, i)...)
			}
			ast.Inspect(f.AST, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					found = append(found, m.at(n)+": starts a goroutine: a core has one caller at a time")
				case *ast.SelectorExpr:
					if name, ok := clock(f, n); ok {
						found = append(found, fmt.Sprintf("%s: uses time.%s: take the time as an argument", m.at(n), name))
					}
				}
				return true
			})
		}
	}
	return found
}

func impureImport(pkg, file, path string) []string {
	for _, b := range impure {
		if matches(path, b.what) && !matches(pkg, b.except...) {
			return []string{fmt.Sprintf("%s: imports %s: %s", file, path, b.why)}
		}
	}
	if first, _, _ := strings.Cut(path, "/"); path != "." && first != "." && strings.Contains(first, ".") {
		return []string{fmt.Sprintf("%s: imports %s: a core needs nobody's module", file, path)}
	}
	return nil
}

// clock returns the function of package time that an expression names, if it
// is one that a core must not call.
func clock(f File, e *ast.SelectorExpr) (string, bool) {
	x, ok := e.X.(*ast.Ident)
	if !ok || x.Name != importName(f.AST, "time") {
		return "", false
	}
	return e.Sel.Name, slices.Contains(clocks, e.Sel.Name)
}

// importName is what a file calls a package, "" if it does not import it.
func importName(f *ast.File, pkg string) string {
	for _, i := range f.Imports {
		if i.Path.Value != `"`+pkg+`"` {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return path.Base(pkg)
	}
	return ""
}

// Floats finds floating point where shares are computed.
func Floats(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		if !matches(p.Path, integral...) {
			continue
		}
		for _, f := range p.product() {
			ast.Inspect(f.AST, func(n ast.Node) bool {
				is := false
				switch n := n.(type) {
				case *ast.Ident:
					is = n.Name == "float64" || n.Name == "float32"
				case *ast.BasicLit:
					is = n.Kind == token.FLOAT
				}
				if is {
					found = append(found, m.at(n)+": floating point: replicas would disagree about shares")
				}
				return true
			})
		}
	}
	return found
}

// Sizes finds files that have become two.
func Sizes(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		for _, f := range p.product() {
			limit, what := maxLines, "a file"
			if path.Base(f.Path) == "main.go" && strings.HasPrefix(f.Path, "cmd/") {
				limit, what = maxMainLines, "a main"
			}
			if f.Lines > limit {
				found = append(found, fmt.Sprintf("%s: %d lines, %s has at most %d", f.Path, f.Lines, what, limit))
			}
		}
	}
	return found
}

// Docs finds packages without a comment, and exported names without one where
// every name must have it.
func Docs(m *Module) []string {
	var found []string
	for _, p := range m.Packages {
		files := p.product()
		if len(files) > 0 && !slices.ContainsFunc(files, hasPackageDoc) {
			found = append(found, p.Path+": no comment on the package: begin doc.go with \"// Package "+files[0].AST.Name.Name+" \" and its contract")
		}
		if !matches(p.Path, documented...) {
			continue
		}
		for _, f := range files {
			for _, d := range f.AST.Decls {
				found = append(found, m.undocumented(d)...)
			}
		}
	}
	return found
}

func hasPackageDoc(f File) bool {
	text := f.AST.Doc.Text()
	if f.AST.Name.Name == "main" {
		return strings.HasPrefix(text, "Command ")
	}
	return strings.HasPrefix(text, "Package "+f.AST.Name.Name+" ")
}

// undocumented finds the exported names of one declaration that have no
// comment, neither their own nor their group's. The values of an enumeration
// may go without: their type has one.
func (m *Module) undocumented(d ast.Decl) []string {
	var found []string
	report := func(name *ast.Ident) {
		if name.IsExported() {
			found = append(found, fmt.Sprintf("%s: %s has no comment", m.at(name), name.Name))
		}
	}
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && !contractual(d) {
			report(d.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Doc == nil && s.Comment == nil && d.Doc == nil {
					report(s.Name)
				}
			case *ast.ValueSpec:
				if s.Doc == nil && s.Comment == nil && d.Doc == nil && !enumeration(d) {
					for _, n := range s.Names {
						report(n)
					}
				}
			}
		}
	}
	return found
}

// enumeration reports a group of constants of a type.
func enumeration(d *ast.GenDecl) bool {
	return d.Tok == token.CONST && d.Lparen.IsValid() && slices.ContainsFunc(d.Specs, func(s ast.Spec) bool {
		v, ok := s.(*ast.ValueSpec)
		return ok && v.Type != nil
	})
}

// contractual reports a method that needs no comment: one of a type that is
// not exported, and one whose contract is somewhere else.
func contractual(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	if name, ok := t.(*ast.Ident); ok && !name.IsExported() {
		return true
	}
	switch d.Name.Name {
	case "String", "Error", "Unwrap", "Is", "Len", "Less", "Swap", "Push", "Pop",
		"MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON":
		return true
	}
	return false
}

// product are the files that people wrote and that are not tests.
func (p Package) product() []File {
	return slices.DeleteFunc(slices.Clone(p.Files), func(f File) bool { return f.Test || f.Generated })
}
