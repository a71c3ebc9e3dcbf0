package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Labels that nerdctl gives a container; all but the user's own are annotations of its OCI specification too.
const (
	labelNamespace = "nerdctl/namespace"
	labelName      = "nerdctl/name"
	labelHostname  = "nerdctl/hostname"
	labelStateDir  = "nerdctl/state-dir"
	labelNetworks  = "nerdctl/networks"
	labelIP        = "nerdctl/ip"
	labelIP6       = "nerdctl/ip6"
	labelMAC       = "nerdctl/mac-address"
)

// sharedPrefix begins a --net that names a container whose network is shared.
const sharedPrefix = "container:"

const deadline = 60 * time.Second

// list is a flag that may be given several times.
type list []string

func (l *list) String() string         { return strings.Join(*l, ",") }
func (l *list) Set(value string) error { *l = append(*l, value); return nil }

// wish is what the caller of run asks for.
type wish struct {
	ports, networks, labels list
	name, ip, ip6, mac      string
	image                   string
	command                 []string
}

func parse(args []string) (wish, error) {
	var w wish
	set := flag.NewFlagSet("run", flag.ContinueOnError)
	set.Var(&w.ports, "p", "published port, HOST:CONTAINER[/PROTO] or IP:HOST:CONTAINER[/PROTO]")
	set.Var(&w.networks, "net", "network, by name; or none, host, container:ID")
	set.Var(&w.labels, "label", "label of the container, KEY=VALUE")
	set.StringVar(&w.name, "name", "", "name")
	set.StringVar(&w.ip, "ip", "", "fixed IPv4 address")
	set.StringVar(&w.ip6, "ip6", "", "fixed IPv6 address")
	set.StringVar(&w.mac, "mac-address", "", "fixed MAC")
	if err := set.Parse(args); err != nil {
		return w, err
	}
	if set.NArg() < 2 {
		return w, errors.New("run: an image and a command are needed")
	}
	w.image, w.command = set.Arg(0), set.Args()[1:]
	if len(w.networks) == 0 {
		w.networks = list{"bridge"}
	}
	return w, nil
}

func run(s settings, args []string) error {
	w, err := parse(args)
	if err != nil {
		return err
	}
	c, ctx, cancel, err := connect(s)
	if err != nil {
		return err
	}
	defer cancel()
	id, err := newID()
	if err != nil {
		return err
	}
	if w.name == "" {
		w.name = id[:12]
	}
	if err := writePorts(s.stateDir(id), w.ports); err != nil {
		return err
	}
	container, err := create(ctx, c, s, id, w)
	if err == nil {
		err = startTask(ctx, container)
	}
	if err != nil {
		return errors.Join(err, removeContainer(ctx, c, s, id))
	}
	fmt.Println(id)
	return nil
}

func create(ctx context.Context, c *client.Client, s settings, id string, w wish) (client.Container, error) {
	image, err := c.GetImage(ctx, w.image)
	if err != nil {
		return nil, fmt.Errorf("no image %s: %w", w.image, err)
	}
	annotations, err := w.annotations(s, id)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for _, label := range w.labels {
		key, value, _ := strings.Cut(label, "=")
		labels[key] = value
	}
	for key, value := range annotations {
		labels[key] = value
	}
	hooks, err := hooksOf(s)
	if err != nil {
		return nil, err
	}
	options := []oci.SpecOpts{
		oci.WithImageConfig(image), oci.WithProcessArgs(w.command...), oci.WithHostname(id[:12]),
		oci.WithAnnotations(annotations), hooks, withoutOOMScore,
	}
	if w.networks[0] == "host" {
		options = append(options, oci.WithHostNamespace(specs.NetworkNamespace))
	}
	if other, shared := strings.CutPrefix(w.networks[0], sharedPrefix); shared {
		namespace, err := namespaceOf(ctx, c, other)
		if err != nil {
			return nil, err
		}
		options = append(options, oci.WithLinuxNamespace(namespace))
	}
	return c.NewContainer(ctx, id, client.WithContainerLabels(labels), client.WithImage(image),
		client.WithNewSnapshot(id, image), client.WithNewSpec(options...))
}

// namespaceOf is the network namespace of a container that runs.
func namespaceOf(ctx context.Context, c *client.Client, id string) (specs.LinuxNamespace, error) {
	namespace := specs.LinuxNamespace{Type: specs.NetworkNamespace}
	container, err := c.LoadContainer(ctx, id)
	if err != nil {
		return namespace, err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return namespace, err
	}
	namespace.Path = fmt.Sprintf("/proc/%d/ns/net", task.Pid())
	return namespace, nil
}

// hooksOf names this program, with the settings of now, as the hooks of the container, before and after its process.
func hooksOf(s settings) (oci.SpecOpts, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	call := func(event string) []specs.Hook {
		args := append(append([]string{self}, s.flags()...), "oci-hook", event)
		return []specs.Hook{{Path: self, Args: args, Env: os.Environ()}}
	}
	return func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
		spec.Hooks = &specs.Hooks{CreateRuntime: call("createRuntime"), Poststop: call("postStop")}
		return nil
	}, nil
}

// A machine without CAP_SYS_RESOURCE may not lower the score.
func withoutOOMScore(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
	spec.Process.OOMScoreAdj = nil
	return nil
}

func (w wish) annotations(s settings, id string) (map[string]string, error) {
	networks, err := json.Marshal(w.networks)
	if err != nil {
		return nil, err
	}
	all := map[string]string{
		labelNamespace: s.namespace, labelName: w.name, labelHostname: id[:12], labelStateDir: s.stateDir(id),
		labelNetworks: string(networks), labelIP: w.ip, labelIP6: w.ip6, labelMAC: w.mac,
	}
	for key, value := range all {
		if value == "" {
			delete(all, key)
		}
	}
	return all, nil
}

// startTask ends with the hooks done: runc calls createRuntime inside NewTask, before the process exists.
func startTask(ctx context.Context, container client.Container) error {
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return fmt.Errorf("cannot create the task of %s: %w", container.ID(), err)
	}
	return task.Start(ctx)
}

func start(s settings, id string) error {
	c, ctx, cancel, err := connect(s)
	if err != nil {
		return err
	}
	defer cancel()
	container, err := c.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	return startTask(ctx, container)
}

func stop(s settings, id string) error {
	c, ctx, cancel, err := connect(s)
	if err != nil {
		return err
	}
	defer cancel()
	container, err := c.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	return stopTask(ctx, container)
}

// stopTask deletes the task, so that runc calls postStop.
func stopTask(ctx context.Context, container client.Container) error {
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Kill(ctx, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	<-exit
	_, err = task.Delete(ctx)
	return err
}

func remove(s settings, id string) error {
	c, ctx, cancel, err := connect(s)
	if err != nil {
		return err
	}
	defer cancel()
	return removeContainer(ctx, c, s, id)
}

func removeContainer(ctx context.Context, c *client.Client, s settings, id string) error {
	container, err := c.LoadContainer(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil {
		if err := stopTask(ctx, container); err != nil {
			return err
		}
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.stateDir(id))
}

func pid(s settings, id string) error {
	c, ctx, cancel, err := connect(s)
	if err != nil {
		return err
	}
	defer cancel()
	container, err := c.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Println(task.Pid())
	return nil
}

func connect(s settings) (*client.Client, context.Context, context.CancelFunc, error) {
	c, err := client.New(s.address)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot reach containerd at %s: %w", s.address, err)
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), s.namespace), deadline)
	return c, ctx, func() { cancel(); c.Close() }, nil
}

func newID() (string, error) {
	var bytes [32]byte
	if _, err := rand.Read(bytes[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(bytes[:]), nil
}
