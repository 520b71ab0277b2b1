package registrar

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealLen is the size of the checksum that goes with an entry, in the place
// that Raft keeps for such things. The log's own checksums are looked at only
// when its newest file is opened.
const sealLen = 4

// seal makes a log entry of data with its checksum.
func seal(data []byte) raft.Log {
	return raft.Log{Data: data, Extensions: binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli))}
}

// sound refuses an entry that is not what was proposed. Entries of the first
// version have no checksum.
func sound(l *raft.Log) error {
	if l.Type != raft.LogCommand || len(l.Extensions) != sealLen {
		return nil
	}
	if crc32.Checksum(l.Data, castagnoli) != binary.BigEndian.Uint32(l.Extensions) {
		return fmt.Errorf("%w: entry %d has another checksum than when it was written", errDamaged, l.Index)
	}
	return nil
}
