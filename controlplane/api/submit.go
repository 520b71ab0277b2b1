package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tenderfleet/tender/controlplane/access"
	"github.com/tenderfleet/tender/controlplane/client"
	"github.com/tenderfleet/tender/controlplane/framework"
	"github.com/tenderfleet/tender/controlplane/state"
	"github.com/tenderfleet/tender/transport/fleet"
)

func (h *handler) submit(w http.ResponseWriter, r *http.Request) error {
	in, err := body[client.Submit](w, r, false)
	if err != nil {
		return err
	}
	c, err := submission(in)
	if err != nil {
		return invalidTask(err)
	}
	if err := access.From(r.Context()).CheckRole(c.Role); err != nil {
		return err
	}
	c.ID = fleet.TaskID(h.NewID(c.Spec.Name))
	if _, err := h.propose(r.Context(), state.Command{Submit: &c}); err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/tasks/"+string(c.ID))
	return h.answerTask(w, r, http.StatusCreated, c.ID)
}

// invalidTask refuses a task for what it is, as Mesos does: a fraction of a
// GPU gets Mesos's own words.
func invalidTask(err error) error {
	p := client.NewProblem(client.CodeInvalid, "", "%v", err)
	if errors.Is(err, fleet.ErrGPUFraction) {
		p.Detail = fleet.GPUFractionText
	}
	p.State, p.Reason = fleet.TaskError.String(), string(fleet.ReasonTaskInvalid)
	return p
}

// submission checks a document and makes the command of it, all but the id.
func submission(in client.Submit) (state.Submit, error) {
	c := state.Submit{Framework: framework.RunID, Role: fleet.Role(in.Role)}
	if c.Role == "" {
		c.Role = fleet.DefaultRole
	}
	c.Spec = fleet.TaskSpec{
		Name: in.Name, Image: in.Image, Command: in.Command, Env: in.Env, WorkDir: in.WorkDir, User: in.User,
		ReadOnly: in.ReadOnly, Network: fleet.Network(in.Network), PIDs: in.PIDs, KillGrace: time.Duration(in.KillGrace),
	}
	if c.Spec.Name == "" {
		c.Spec.Name = nameOf(in.Image)
	}
	c.Standing = fleet.Standing{Priority: in.Priority, Revocable: in.Revocable}
	need, err := needOf(in)
	if err != nil {
		return c, err
	}
	c.Need = need
	if err := lifeOf(in, &c.Spec); err != nil {
		return c, err
	}
	policiesOf(in, &c.Spec)
	for _, err := range []error{
		fleet.CheckRole(c.Role), fleet.CheckSpec(c.Spec), fleet.CheckNeed(c.Need), fleet.CheckTaskLimits(c.Spec.Limits, need.CPUs, need.Mem),
		fleet.CheckStanding(c.Standing), fleet.CheckPolicy(c.Spec, need),
	} {
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

func needOf(in client.Submit) (fleet.Need, error) {
	n := fleet.Need{Site: fleet.Site(in.Site), Agent: fleet.AgentID(in.Agent), Labels: in.Labels}
	n.GPU.Model = in.GPUModel
	var err error
	if n.CPUs, err = in.CPUs.Scalar(); err != nil {
		return n, fmt.Errorf("cpus: %w", err)
	}
	for _, m := range []struct {
		name string
		in   client.Amount
		out  *fleet.Scalar
	}{{"mem", in.Mem, &n.Mem}, {"disk", in.Disk, &n.Disk}} {
		if m.in == "" {
			continue
		}
		if *m.out, err = client.ParseMem(string(m.in)); err != nil {
			return n, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if in.GPUs != "" {
		if n.GPU.Count, err = fleet.GPUCount(string(in.GPUs)); err != nil {
			return n, err
		}
	}
	if in.GPUMemory != "" {
		v, err := client.ParseMem(string(in.GPUMemory))
		if err != nil {
			return n, fmt.Errorf("gpu_memory: %w", err)
		}
		n.GPU.MinMemoryMB = int64(v+999) / 1000
	}
	if len(in.GPUModel) > 128 {
		return n, errors.New("gpu_model is longer than 128 characters")
	}
	return n, nil
}

// nameOf makes a task's name from its image: "busybox" of
// "docker.io/library/busybox:1.36".
func nameOf(image string) string {
	image = image[strings.LastIndexByte(image, '/')+1:]
	image, _, _ = strings.Cut(image, "@")
	image, _, _ = strings.Cut(image, ":")
	image = strings.TrimLeft(strings.ToLower(image), "-_.")
	if len(image) > fleet.MaxIDLen {
		image = image[:fleet.MaxIDLen]
	}
	if fleet.CheckID("name", image) != nil {
		return "task" // CheckSpec has more to say about such an image
	}
	return image
}
