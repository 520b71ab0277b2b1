package agent

import (
	"time"

	"github.com/tenderfleet/tender/agent/linkpolicy"
)

// Link is what the link to the control plane may cost. The zero value has the
// defaults of package linkpolicy and no budget.
type Link struct {
	// Policy is the month's budget and the quiet hours.
	Policy linkpolicy.Policy
	// ReadingsEvery is how often readings are looked at, and sent if they have
	// changed noticeably; zero is linkpolicy.ReadingsEvery.
	ReadingsEvery time.Duration
	// Keepalive is the longest time between two signs of life, from 15 s to
	// 60 s; zero is linkpolicy.Default. A replica notices 5 s after it that an
	// agent is lost.
	Keepalive time.Duration
}
