package mesosv1

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tenderfleet/tender/controlplane/api/mesosv1/pb"
)

// DecodeCall reads the body of a request whose header Content-Type is given,
// empty when it has none, and validates the call. The error is a *Refusal:
//
//	400  no Content-Type, a body that cannot be read, an invalid call
//	413  a body over MaxCall, MaxElements or MaxDepth
//	415  another Content-Type
//	501  a call of type UNKNOWN
func DecodeCall(contentType string, body []byte) (*pb.Call, error) {
	e, err := bodyEncoding(contentType)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxCall {
		return nil, &Refusal{http.StatusRequestEntityTooLarge, fmt.Sprintf("the call is larger than %d bytes", MaxCall)}
	}
	c := &pb.Call{}
	if err := e.unmarshal(body, c); err != nil {
		status := http.StatusBadRequest
		if errors.Is(err, errTooMuch) {
			status = http.StatusRequestEntityTooLarge
		}
		return nil, &Refusal{status, "the call cannot be read: " + err.Error()}
	}
	if err := validate(c); err != nil {
		return nil, err
	}
	return c, nil
}

// validate holds a call against what can be told without knowing any state.
func validate(c *pb.Call) error {
	if c.Type == nil {
		return invalid("the call has no type, or one that is not known here")
	}
	if c.GetType() == pb.Call_UNKNOWN {
		return &Refusal{http.StatusNotImplemented, "calls of type UNKNOWN mean nothing"}
	}
	if f := payload(c.GetType()); f != nil && !c.ProtoReflect().Has(f) {
		return invalid("a call of type %s must have the field %s", c.GetType(), f.Name())
	}
	if c.FrameworkId == nil && c.GetType() != pb.Call_SUBSCRIBE {
		return invalid("a call of type %s must have the field framework_id: it is in the event SUBSCRIBED", c.GetType())
	}
	switch c.GetType() {
	case pb.Call_SUBSCRIBE:
		return validateSubscribe(c)
	case pb.Call_UPDATE_FRAMEWORK:
		if id := c.GetUpdateFramework().GetFrameworkInfo().GetId(); id != nil && !proto.Equal(id, c.GetFrameworkId()) {
			return invalid("update_framework.framework_info.id is not the call's framework_id")
		}
	case pb.Call_ACKNOWLEDGE:
		return validateUUID("acknowledge", c.GetAcknowledge().GetUuid())
	case pb.Call_ACKNOWLEDGE_OPERATION_STATUS:
		return validateUUID("acknowledge_operation_status", c.GetAcknowledgeOperationStatus().GetUuid())
	default:
	}
	return nil
}

// payload is the field that a call of type t must have: it has the type's name.
// TEARDOWN has none, and without theirs REVIVE and SUPPRESS are about all roles.
func payload(t pb.Call_Type) protoreflect.FieldDescriptor {
	if t == pb.Call_REVIVE || t == pb.Call_SUPPRESS {
		return nil
	}
	fields := (&pb.Call{}).ProtoReflect().Descriptor().Fields()
	return fields.ByName(protoreflect.Name(strings.ToLower(t.String())))
}

func validateSubscribe(c *pb.Call) error {
	outer, inner := c.GetFrameworkId(), c.GetSubscribe().GetFrameworkInfo().GetId()
	switch {
	case outer == nil && inner != nil:
		return invalid("subscribe.framework_info.id is set and framework_id is not: a framework that subscribes again sets both")
	case outer != nil && inner == nil:
		return invalid("framework_id is set and subscribe.framework_info.id is not: a framework that subscribes again sets both")
	case outer.GetValue() != inner.GetValue():
		return invalid("framework_id and subscribe.framework_info.id are not the same")
	}
	return nil
}

func validateUUID(field string, uuid []byte) error {
	const size = 16
	if len(uuid) != size {
		return invalid("%s.uuid has %d bytes: send the %d of the status as they are", field, len(uuid), size)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &Refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}
