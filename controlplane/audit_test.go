package controlplane_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/test/cluster"
	"github.com/tenderfleet/tender/transport/transporttest"
)

// The operator whose certificate `tenderd init` made has a record like all
// others, and who joins is in the audit log with the token that admitted it.
// What the leader does by itself is not.
func TestWhoJoinsIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := cluster.New(t, transporttest.NewNet(t, time.Millisecond))
		f.Up(1)
		a := f.Agent("edge-1")
		var admin *state.Principal
		var log []state.AuditEntry
		f.Leader().Stale(func(st *state.State) {
			admin = st.Principals["admin"]
			log, _ = st.Audit.Last(10, func(state.AuditEntry) bool { return true })
		})
		if admin == nil || admin.Kind != state.KindOperator || !admin.AllRoles || !admin.Ended(time.Now()).IsZero() || !admin.Ended(admin.CertNotAfter).Equal(admin.CertNotAfter) {
			t.Errorf("the first operator is %+v", admin)
		}
		if len(log) != 1 || !strings.HasPrefix(log[0].By, "token/") || len(log[0].By) != len("token/")+12 ||
			log[0].Action != "agent.join" || log[0].Target != "agent/"+string(a.ID) || log[0].Refused != "" {
			t.Errorf("the audit log holds %+v", log)
		}
	})
}
