package controlplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenderfleet/tender/transport/fleet"
)

// Scenes of replicas over time. A replica is written ID:FLAGS, with
//
//	L leads, v voter, l learner, j has joined and is no member, r its record is
//	gone, . answers, x does not, b lags behind, d its disk is full
//
// Each line is held for a number of seconds; what is wanted is what the
// autopilot does, in order, with each change carried out at once.
func TestAutopilot(t *testing.T) {
	for name, tc := range map[string]struct {
		patience int
		scene    []string
		want     string
	}{
		"at rest":                              {1, []string{"120 a:Lv b:v c:v"}, ""},
		"a trio forms at once":                 {1, []string{"3 a:Lv b:j c:j"}, "0 add b, 1 promote b, 2 add c, 3 promote c"},
		"who does not answer is not added":     {1, []string{"60 a:Lv b:jx"}, ""},
		"who lags gets no vote":                {1, []string{"60 a:Lv b:lb"}, ""},
		"a fourth waits to be stable":          {1, []string{"30 a:Lv b:v c:v d:j"}, "0 add d, 11 promote d"},
		"unstable for a moment":                {1, []string{"9 a:Lv b:v c:v d:l", "1 a:Lv b:v c:v d:lb", "30 a:Lv b:v c:v d:l"}, "20 promote d"},
		"patience":                             {3, []string{"60 a:Lv b:v c:v d:l"}, "30 promote d"},
		"a dead one alone stays":               {1, []string{"3600 a:Lv b:v c:vx"}, ""},
		"a dead one is replaced":               {1, []string{"100 a:Lv b:v c:vx d:j"}, "0 add d, 11 promote d, 60 remove c"},
		"a restart is not death":               {1, []string{"59 a:Lv b:v c:vx d:v", "3600 a:Lv b:v c:v d:v"}, ""},
		"who lags is not dead":                 {1, []string{"3600 a:Lv b:v c:vb d:v"}, ""},
		"five with two dead stay five":         {1, []string{"3600 a:Lv b:v c:v d:vx e:vx"}, ""},
		"six with two dead lose one":           {1, []string{"3600 a:Lv b:v c:v d:v e:vx f:vx"}, "60 remove e"},
		"never without a majority of the rest": {1, []string{"3600 a:Lv b:vx c:vx d:vx"}, ""},
		"never below three":                    {1, []string{"3600 a:Lv b:vx"}, ""},
		"a removal that was begun is finished": {1, []string{"5 a:Lv b:v c:vr"}, "0 remove c"},
		"the leader's disk is full":            {1, []string{"5 a:Lvd b:vd c:v"}, "0 hand over c"},
		"it tries again":                       {1, []string{"25 a:Lvd b:v c:vx"}, "0 hand over b, 10 hand over b, 20 hand over b"},
		"all disks are full":                   {1, []string{"60 a:Lvd b:vd c:vd"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAutopilot(tc.patience)
			now, second := time.Unix(1_800_000_000, 0), 0
			done := map[fleet.ReplicaID]string{}
			var got []string
			for _, line := range tc.scene {
				parts := strings.Fields(line)
				var seconds int
				fmt.Sscan(parts[0], &seconds)
				for ; seconds >= 0; seconds-- {
					var all []observed
					for _, p := range parts[1:] {
						if o, there := scene(p, done); there {
							all = append(all, o)
						}
					}
					if c := a.step(now, all); c != nil {
						got = append(got, fmt.Sprintf("%d %s %s", second, c.do, c.id))
						done[c.id] = c.do
					}
					now, second = now.Add(time.Second), second+1
				}
				second-- // lines share their ends
				now = now.Add(-time.Second)
			}
			if s := strings.Join(got, ", "); s != tc.want {
				t.Errorf("it did:  %s\nwant:    %s", s, tc.want)
			}
		})
	}
}

// scene reads one replica and what has been done about it.
func scene(s string, done map[fleet.ReplicaID]string) (observed, bool) {
	id, flags, _ := strings.Cut(s, ":")
	has := func(c string) bool { return strings.Contains(flags, c) }
	o := observed{
		ID: fleet.ReplicaID(id), Addr: id + ":7443", Self: has("L"), Known: !has("r"),
		Member: !has("j"), Voter: has("v"), Answers: !has("x"), BadDisk: has("d"),
	}
	if has("x") {
		o.Contact = time.Hour
	}
	if has("b") {
		o.Lag = healthyLag + 1
	}
	switch done[o.ID] {
	case addLearner:
		o.Member = true
	case promote:
		o.Member, o.Voter = true, true
	case remove:
		return o, false
	}
	return o, true
}
