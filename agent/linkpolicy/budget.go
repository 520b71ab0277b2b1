package linkpolicy

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Mode is what may travel.
type Mode int

// The modes, from the freest to the strictest.
const (
	// Normal: everything.
	Normal Mode = iota
	// Quiet: it is one of the quiet hours. States, kills and what keeps the link
	// alive travel; readings, logs and images wait.
	Quiet
	// Over: the month's budget is used up. The same travels as in Quiet.
	Over
)

// String is the mode as readings carry it; Normal is empty.
func (m Mode) String() string {
	return [...]string{Normal: "", Quiet: "quiet hours", Over: "over budget"}[m]
}

// Policy is what a site's owner has set.
type Policy struct {
	// PerMonth is the budget in bytes of payload on the socket; 0 is none.
	PerMonth int64
	Quiet    Hours
}

// Mode decides at a time, in the site's own zone, after what the month has
// used so far. The budget comes first: it ends later.
func (p Policy) Mode(now time.Time, used fleet.LinkUse) Mode {
	switch {
	case p.PerMonth > 0 && used.Total() >= p.PerMonth:
		return Over
	case p.Quiet.Has(now):
		return Quiet
	}
	return Normal
}

// Why says what holds something back in a mode, and what to do; now is in the
// site's own zone.
func (p Policy) Why(m Mode, now time.Time, used fleet.LinkUse) string {
	switch m {
	case Over:
		return fmt.Sprintf("the link has used %s of its %s for %s; it is free again on %s, or raise link.budget_per_month on the agent",
			Bytes(used.Total()), Bytes(p.PerMonth), used.Month, nextMonth(now))
	case Quiet:
		return fmt.Sprintf("the link has quiet hours (%s, the agent's time); try again after %s, or change link.quiet_hours on the agent",
			p.Quiet, p.Quiet.end())
	case Normal:
	}
	return ""
}

// Month names the month that a time counts for; months are those of UTC.
func Month(now time.Time) string { return now.UTC().Format("2006-01") }

func nextMonth(now time.Time) string {
	y, m, _ := now.UTC().Date()
	return time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC).Format("2 January, 00:00 UTC")
}

// Hours are a part of each day, to the minute. It may go over midnight. The
// zero value is no part of it.
type Hours struct{ from, to int } // minutes since midnight

const dayMinutes = 24 * 60

// ParseHours reads "22:00-06:00"; empty is none.
func ParseHours(text string) (Hours, error) {
	if text == "" {
		return Hours{}, nil
	}
	a, b, ok := strings.Cut(text, "-")
	from, err := minute(a)
	to, err2 := minute(b)
	if !ok || err != nil || err2 != nil || from == to {
		return Hours{}, fmt.Errorf("%q: write FROM-TO such as 06:00-22:00, from 00:00 to 24:00; the two differ", text)
	}
	return Hours{from, to}, nil
}

func minute(text string) (int, error) {
	h, m, ok := strings.Cut(strings.TrimSpace(text), ":")
	hours, err := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	n := int(hours)*60 + int(minutes)
	if !ok || err != nil || err2 != nil || minutes > 59 || n > dayMinutes {
		return 0, fmt.Errorf("%q is no time of day", text)
	}
	return n, nil
}

// Has reports whether a time is in the hours, by its own zone.
func (h Hours) Has(t time.Time) bool {
	n := t.Hour()*60 + t.Minute()
	if h.from < h.to {
		return n >= h.from && n < h.to
	}
	return h.from != h.to && (n >= h.from || n < h.to)
}

// String is what ParseHours reads.
func (h Hours) String() string {
	if h == (Hours{}) {
		return ""
	}
	return clock(h.from) + "-" + clock(h.to)
}

func (h Hours) end() string { return clock(h.to) }

func clock(n int) string { return fmt.Sprintf("%02d:%02d", n/60, n%60) }

// Units of a budget are decimal, as those of contracts are.
var units = []struct {
	name string
	size int64
}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1}}

// ParseBytes reads "500MB" or "2 GB"; empty is 0.
func ParseBytes(text string) (int64, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, nil
	}
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n <= 0 || n > 1<<62/u.size {
			break
		}
		return n * u.size, nil
	}
	return 0, fmt.Errorf("%q: write a whole number and a unit, such as 500MB or 2GB", text)
}

// Bytes is n for people, in decimal units with one digit after the point.
func Bytes(n int64) string {
	for _, u := range units[:3] {
		if n >= u.size {
			tenths := n / (u.size / 10)
			return fmt.Sprintf("%d.%d %s", tenths/10, tenths%10, u.name)
		}
	}
	return fmt.Sprintf("%d kB", (n+999)/1000)
}
