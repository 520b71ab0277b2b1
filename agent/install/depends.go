package install

import (
	"context"
	"fmt"
	"strings"
)

// shelf is what is installed on a machine: versions by name, "" for what another
// package provides.
type shelf map[string][]string

// shelf asks dpkg what is installed.
func (d Dpkg) shelf(ctx context.Context) (shelf, error) {
	list, err := d.list(ctx, "dpkg-query", "--show", "--showformat=${db:Status-Status}\t${Package}\t${Version}\t${Provides}\n")
	if err != nil {
		return nil, err
	}
	s := shelf{}
	for line := range strings.Lines(list) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 4 || f[0] != "installed" {
			continue
		}
		s[f[1]] = append(s[f[1]], f[2])
		for p := range strings.SplitSeq(f[3], ",") {
			if name, _, _ := strings.Cut(strings.TrimSpace(p), " "); name != "" {
				s[name] = append(s[name], "")
			}
		}
	}
	return s, nil
}

// missing is the part of a package's dependencies (deb-control(5)) that the
// machine lacks, "" when nothing is. dpkg itself would find out only when it has
// unpacked the new version, and leave the machine with one that is not set up.
func (d Dpkg) missing(ctx context.Context, depends string) (string, error) {
	if depends == "" {
		return "", nil
	}
	s, err := d.shelf(ctx)
	if err != nil {
		return "", err
	}
	var lacks []string
	for clause := range strings.SplitSeq(depends, ",") {
		clause = strings.TrimSpace(clause)
		if clause == "" {
			continue
		}
		met := false
		for alternative := range strings.SplitSeq(clause, "|") {
			ok, err := d.meets(ctx, s, strings.TrimSpace(alternative))
			if err != nil {
				return "", err
			}
			met = met || ok
		}
		if !met {
			lacks = append(lacks, clause)
		}
	}
	return strings.Join(lacks, ", "), nil
}

// meets decides about one alternative: NAME, or NAME (RELATION VERSION).
func (d Dpkg) meets(ctx context.Context, s shelf, alternative string) (bool, error) {
	name, rest, versioned := strings.Cut(alternative, "(")
	name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
	have := s[name]
	if !versioned {
		return len(have) > 0, nil
	}
	rest = strings.TrimSuffix(strings.TrimSpace(rest), ")")
	at := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("<>=", r) })
	if at <= 0 {
		return false, fmt.Errorf("dependency %.80q is not understood", alternative)
	}
	for _, v := range have {
		if v == "" {
			continue // what is only provided has no version
		}
		ok, err := d.compare(ctx, v, rest[:at], strings.TrimSpace(rest[at:]))
		if ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}
