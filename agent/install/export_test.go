package install

// OnStep has the steps of an installation told.
func (m *Machine) OnStep(f func(name string)) { m.step = f }

// DecodeRequest, for the fuzzer.
var DecodeRequest, EncodeRequest = decodeRequest, encodeRequest
