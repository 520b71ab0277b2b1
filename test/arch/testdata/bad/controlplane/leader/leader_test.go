package leader

import "time"

var now = time.Now() // tests may
