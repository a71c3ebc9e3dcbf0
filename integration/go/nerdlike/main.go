// Command nerdlike runs containers as nerdctl does, as far as networks can tell: a container record whose labels say what
// it is, hooks in its OCI specification that call this program again, and CNI by go-cni inside those hooks. It has no
// images, names or logs of its own.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const usage = `usage: nerdlike [--address A] [--namespace N] [--data-root D] [--cni-path P] [--cni-netconfpath C] COMMAND
  run [-p HOST:CONTAINER[/PROTO]] [--net NAME|none|host|container:ID] [--ip A] [--ip6 A] [--mac-address M] [--label K=V] [--name N] IMAGE COMMAND...
                       makes and starts a container; prints its id
  stop ID | start ID   ends its process; starts it anew
  rm ID                removes it by force
  pid ID               prints the process id of its task
  oci-hook EVENT       what runc calls: createRuntime or postStop, the state on stdin`

// settings are what nerdctl bakes into the hooks of a container when it makes it.
type settings struct {
	address, namespace, dataRoot, cniPath, netconfPath string
}

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nerdlike:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	s := settings{
		address:     "/run/containerd/containerd.sock",
		namespace:   "default",
		dataRoot:    "/var/lib/nerdctl",
		cniPath:     "/opt/cni/bin",
		netconfPath: "/etc/cni/net.d",
	}
	args, err := s.take(args)
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return errors.New(usage)
	}
	word, rest := args[0], args[1:]
	switch word {
	case "run":
		return run(s, rest)
	case "start":
		return start(s, rest[0])
	case "stop":
		return stop(s, rest[0])
	case "rm":
		return remove(s, rest[0])
	case "pid":
		return pid(s, rest[0])
	case "oci-hook":
		return hook(s, rest[0], os.Stdin)
	default:
		return fmt.Errorf("no command %q\n%s", word, usage)
	}
}

// take reads the global flags and returns what follows them.
func (s *settings) take(args []string) ([]string, error) {
	flags := map[string]*string{
		"--address":         &s.address,
		"--namespace":       &s.namespace,
		"--data-root":       &s.dataRoot,
		"--cni-path":        &s.cniPath,
		"--cni-netconfpath": &s.netconfPath,
	}
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		value, known := flags[args[0]]
		if !known || len(args) < 2 {
			return nil, fmt.Errorf("flag %s: unknown, or without its value\n%s", args[0], usage)
		}
		*value, args = args[1], args[2:]
	}
	return args, nil
}

// flags are the settings as arguments, for the hooks.
func (s settings) flags() []string {
	return []string{
		"--address", s.address, "--namespace", s.namespace, "--data-root", s.dataRoot,
		"--cni-path", s.cniPath, "--cni-netconfpath", s.netconfPath,
	}
}

func (s settings) stateDir(id string) string {
	return filepath.Join(s.dataRoot, "containers", s.namespace, id)
}
