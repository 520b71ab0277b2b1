// Command cmd writes a test image as an OCI archive:
//
//	go run ./test/image/cmd -o busybox.tar -name example.org/tests/busybox:1
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/tenderfleet/tender/test/image"
)

func main() {
	var o image.Options
	out := flag.String("o", "image.tar", "the file to write")
	flag.StringVar(&o.Name, "name", image.DefaultName, "the full reference of the image")
	flag.StringVar(&o.Arch, "arch", "", "the architecture the image says it is for (default: this machine's)")
	flag.Func("env", "NAME=VALUE to add to the image's environment; may be repeated", func(s string) error {
		o.Env = append(o.Env, s)
		return nil
	})
	flag.Func("file", "a file of this machine to add, as FILE or FILE=PATH with its path in the image; may be repeated", func(s string) error {
		file, path, other := strings.Cut(s, "=")
		if !other {
			path = file
		}
		st, err := os.Stat(file)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if o.Files == nil {
			o.Files = map[string]image.File{}
		}
		o.Files[path] = image.File{Mode: int64(st.Mode().Perm()), Data: data}
		return nil
	})
	flag.Parse()
	if err := write(*out, o); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func write(path string, o image.Options) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := image.Write(f, o); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
