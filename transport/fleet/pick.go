package fleet

// Pick takes the flat resources want out of r, whatever its classes: what is
// reserved first, then what anybody may use, revocable resources last. The
// result has the classes of what it was taken from; ok is false where r has
// less. The caller leaves out of r what must not be used.
func (r Resources) Pick(want Resources) (got Resources, ok bool) {
	if len(r.Parts) == 0 { // the rule
		return want, r.Contains(want)
	}
	var classes []Class
	for _, p := range r.Parts {
		if !p.Class.Revocable {
			classes = append(classes, p.Class)
		}
	}
	classes = append(classes, Class{})
	for _, p := range r.Parts {
		if p.Class.Revocable {
			classes = append(classes, p.Class)
		}
	}
	for _, c := range classes {
		some := r.Part(c).Overlap(want)
		want = want.Sub(some)
		got = got.Add(some.In(c))
	}
	return got, want.IsZero()
}

// Overlap returns what both r and o have, parts left out.
func (r Resources) Overlap(o Resources) Resources {
	out := Resources{
		CPUs: min(r.CPUs, o.CPUs), Mem: min(r.Mem, o.Mem), Disk: min(r.Disk, o.Disk),
		GPUs:   without(r.GPUs, without(r.GPUs, o.GPUs, compareUUID), compareUUID),
		Ports:  r.Ports.Sub(r.Ports.Sub(o.Ports)),
		Mounts: without(r.Mounts, without(r.Mounts, o.Mounts, Mount.compare), Mount.compare),
	}
	for _, a := range r.Custom {
		if n := min(a.Amount, o.Amount(a.Name)); n > 0 {
			out.Custom = append(out.Custom, Amount{a.Name, n})
		}
	}
	return out
}
