package mesosv1

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/tenderfleet/tender/transport/fleet"
)

// taskID is what the fleet calls a framework's task. Frameworks' ids are unique
// within the framework only and may hold any character: what people recognise
// of the id stands in front, and 12 hex digits of SHA-256 over both ids tell it
// from all others.
func taskID(f fleet.FrameworkID, foreign string) fleet.TaskID {
	sum := sha256.Sum256([]byte(string(f) + "\x00" + foreign))
	mark := hex.EncodeToString(sum[:6])
	word := clean(foreign)
	word = word[:min(len(word), fleet.MaxIDLen-len(mark)-1)]
	return fleet.TaskID(word + "-" + mark)
}

// clean makes an id of any text, "task" of one that has nothing to use.
func clean(text string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(text[:min(len(text), 4*fleet.MaxIDLen)]) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', strings.ContainsRune("-_.", c):
			b.WriteRune(c)
		default:
			b.WriteByte('-')
		}
	}
	word := strings.Trim(b.String(), "-_.")
	if word == "" {
		return "task"
	}
	return strings.TrimRight(word[:min(len(word), fleet.MaxIDLen)], "-_.")
}

// newUUID draws a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
