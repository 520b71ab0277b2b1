package wire

// The plugin has the version that go.mod pins; protoc itself leaves its
// version in the generated file's head (3.21.12).
//
//go:generate go install google.golang.org/protobuf/cmd/protoc-gen-go
//go:generate protoc -I pb --go_out=pb --go_opt=paths=source_relative wire.proto
