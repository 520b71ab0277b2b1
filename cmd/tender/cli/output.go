package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tenderfleet/tender/controlplane/client"
)

// print writes doc as JSON, or calls table.
func (a *app) print(doc any, table func(w io.Writer)) error {
	if !a.settings.json {
		table(a.Out)
		return nil
	}
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	_, err = fmt.Fprintf(a.Out, "%s\n", escapeC1(data))
	return err
}

// escapeC1 escapes the control characters that encoding/json leaves alone and
// that a terminal would obey.
func escapeC1(data []byte) []byte {
	if !bytes.ContainsFunc(data, isC1) {
		return data
	}
	var b bytes.Buffer
	for _, r := range string(data) {
		if isC1(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
			continue
		}
		b.WriteRune(r)
	}
	return b.Bytes()
}

func isC1(r rune) bool { return r >= 0x7f && r <= 0x9f }

// clean makes text of other machines safe for a terminal: what does not print
// is shown as an escape.
func clean(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			quoted := strconv.QuoteRuneToGraphic(r)
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// table writes rows in columns under a head. Empty cells show as "-".
func table(w io.Writer, head string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	columns := strings.Fields(head)
	for i := range columns {
		columns[i] = strings.ReplaceAll(columns[i], "_", " ")
	}
	line(t, columns)
	for _, r := range rows {
		line(t, r)
	}
	_ = t.Flush() // the reader of stdout is gone: nobody to tell
}

func line(t io.Writer, cells []string) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t, "\t")
		}
		fmt.Fprint(t, cmp.Or(clean(c), "-"))
	}
	fmt.Fprintln(t)
}

// fields writes names and values below each other, leaving out empty ones.
func fields(w io.Writer, pairs ...string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", pairs[i], clean(pairs[i+1]))
		}
	}
	_ = t.Flush()
}

// ago says how long before or after now t is.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	if d < 0 {
		return "in " + span(-d)
	}
	return span(d) + " ago"
}

// span is a duration in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// mem writes an amount of MiB with its unit.
func mem(a client.Amount) string {
	mib, err := strconv.ParseFloat(string(a), 64)
	switch {
	case err != nil:
		return string(a)
	case mib == 0:
		return "0"
	case mib < 1024:
		return string(a) + "M"
	default:
		return strconv.FormatFloat(float64(int(mib/1024*10+0.5))/10, 'f', -1, 64) + "G"
	}
}

// labels writes k=v pairs in order.
func labels(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
