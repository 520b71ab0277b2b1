package bed

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Quality is how a cable carries frames, each way.
type Quality struct {
	// Delay is every frame's; up to Jitter is added. Frames stay in order.
	Delay, Jitter time.Duration
	// Percentages of frames that are lost, come twice, or overtake those before
	// them by not being delayed.
	Loss, Duplicate, Reorder int
	// Down is a cable that carries nothing while both ends see it plugged in.
	Down bool
}

// Cable stands between a node and its switch, in this process: the kernels that
// the tests run on may have no netem.
type Cable struct {
	b          *Bed
	node       Node
	near, far  *os.File // frames of the node's side, and of the switch's
	wg         sync.WaitGroup
	mu         sync.Mutex
	quality    Quality
	closing    chan struct{}
	stopOnce   sync.Once
	directions [2]*direction
}

// Cable puts one in, as good as none until Set. It is taken out by Close, or
// with the bed.
func (b *Bed) Cable(ctx context.Context, node string) (*Cable, error) {
	n, err := b.Node(node)
	if err != nil {
		return nil, err
	}
	c := &Cable{b: b, node: n, closing: make(chan struct{})}
	at, bridge := n.plugged()
	if c.near, err = b.tap(at, node+"-near"); err != nil {
		return nil, err
	}
	if c.far, err = b.tap(at, node+"-far"); err != nil {
		return nil, errors.Join(err, c.near.Close())
	}
	// A switch of its own for the node's end: what a cable of the kernel leaves
	// to the network card (checksums, segments) is done on the way.
	if err := b.ip(ctx, at, "link add "+node+"-x type bridge", "link set "+node+"-x up",
		"link set "+node+"-near master "+node+"-x up", "link set "+node+"-far master "+bridge+" up",
		"link set "+node+" master "+node+"-x"); err != nil {
		return nil, errors.Join(err, c.near.Close(), c.far.Close())
	}
	c.directions = [2]*direction{newDirection(c, c.near, c.far), newDirection(c, c.far, c.near)}
	for _, d := range c.directions {
		c.wg.Go(d.read)
		c.wg.Go(d.send)
	}
	b.cables = append(b.cables, c)
	return c, nil
}

// tap makes a network device whose frames this process reads and writes.
func (b *Bed) tap(node, name string) (file *os.File, err error) {
	err = b.In(node, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("make a cable: open /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("make a cable: device %s: %w", name, err), unix.Close(fd))
		}
		// Not before: who polls it while it is no device yet is never woken.
		file = os.NewFile(uintptr(fd), name)
		return nil
	})
	return file, err
}

// Set changes the quality; frames on their way keep theirs.
func (c *Cable) Set(q Quality) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quality = q
}

// Close connects the node directly again.
func (c *Cable) Close(ctx context.Context) error {
	at, bridge := c.node.plugged()
	c.b.cables = slices.DeleteFunc(c.b.cables, func(x *Cable) bool { return x == c })
	c.stop() // its devices go with it
	return c.b.ip(ctx, at, "link set "+c.node.Name+" master "+bridge, "link del "+c.node.Name+"-x")
}

func (c *Cable) stop() {
	c.stopOnce.Do(func() {
		close(c.closing)
		_, _ = c.near.Close(), c.far.Close() // ends the readers
		c.wg.Wait()
	})
}

// maxFrames bounds what is on its way in one direction; more is lost.
const maxFrames = 8192

// direction is one way through a cable.
type direction struct {
	c       *Cable
	in, out *os.File
	mu      sync.Mutex
	frames  frames
	last    time.Time // when the last frame that kept its place is due
	count   uint64
	wake    chan struct{}
}

type frame struct {
	due    time.Time
	number uint64
	data   []byte
}

func newDirection(c *Cable, in, out *os.File) *direction {
	return &direction{c: c, in: in, out: out, wake: make(chan struct{}, 1)}
}

func (d *direction) read() {
	buf := make([]byte, 64<<10)
	for {
		n, err := d.in.Read(buf)
		if err != nil {
			return
		}
		d.c.mu.Lock()
		q := d.c.quality
		d.c.mu.Unlock()
		if q.Down || percent(q.Loss) {
			continue
		}
		copies := 1
		if percent(q.Duplicate) {
			copies = 2
		}
		for range copies {
			d.take(q, slices.Clone(buf[:n]))
		}
	}
}

func percent(n int) bool { return rand.IntN(100) < n }

func (d *direction) take(q Quality, data []byte) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.frames) >= maxFrames {
		return
	}
	f := frame{due: now, number: d.count, data: data}
	d.count++
	if !percent(q.Reorder) {
		f.due = now.Add(q.Delay + rand.N(q.Jitter+1))
		if f.due.Before(d.last) {
			f.due = d.last
		}
		d.last = f.due
	}
	heap.Push(&d.frames, f)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *direction) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		wait := time.Hour
		var ready []frame
		for len(d.frames) > 0 {
			if wait = time.Until(d.frames[0].due); wait > 0 {
				break
			}
			ready = append(ready, heap.Pop(&d.frames).(frame)) //nolint:errcheck // only frames are pushed
			wait = time.Hour
		}
		d.mu.Unlock()
		for _, f := range ready {
			_, _ = d.out.Write(f.data) // as lost as on any cable
		}
		timer.Reset(wait)
		select {
		case <-d.c.closing:
			return
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// frames is a heap: the one that is due next is the first.
type frames []frame

func (f frames) Len() int { return len(f) }

func (f frames) Less(i, j int) bool {
	if f[i].due.Equal(f[j].due) {
		return f[i].number < f[j].number
	}
	return f[i].due.Before(f[j].due)
}

func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }

// Push is for package heap.
func (f *frames) Push(x any) { *f = append(*f, x.(frame)) } //nolint:errcheck // only frames are pushed

// Pop is for package heap.
func (f *frames) Pop() any {
	old := *f
	x := old[len(old)-1]
	*f = old[:len(old)-1]
	return x
}
