package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/go-cni"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// hook is nerdctl's OCI hook: one lock for the whole node, then CNI in nerdctl's order and with its arguments.
func hook(s settings, event string, stdin io.Reader) error {
	var state specs.State
	if err := json.NewDecoder(stdin).Decode(&state); err != nil {
		return fmt.Errorf("cannot read the state on stdin: %w", err)
	}
	unlock, err := lock(s.netconfPath)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := newContainer(s, state)
	if err != nil {
		return err
	}
	switch event {
	case "createRuntime":
		return c.createRuntime()
	case "postStop":
		return c.postStop()
	default:
		return fmt.Errorf("no event %q", event)
	}
}

func lock(netconfPath string) (func(), error) {
	if err := os.MkdirAll(netconfPath, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(netconfPath, ".cni-concurrency.lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// hooked is a container as its hook sees it.
type hooked struct {
	state    specs.State
	fullID   string
	networks cni.CNI // nil where CNI has no part: none, host, and another container's
	options  []cni.NamespaceOpts
	ports    []cni.PortMapping
}

func newContainer(s settings, state specs.State) (hooked, error) {
	c := hooked{state: state, fullID: state.Annotations[labelNamespace] + "-" + state.ID}
	var names []string
	if err := json.Unmarshal([]byte(state.Annotations[labelNetworks]), &names); err != nil {
		return c, fmt.Errorf("annotation %s: %w", labelNetworks, err)
	}
	if names[0] == "none" || names[0] == "host" || strings.HasPrefix(names[0], sharedPrefix) {
		return c, nil
	}
	text, err := os.ReadFile(filepath.Join(state.Annotations[labelStateDir], "network-config.json"))
	if err != nil {
		return c, err
	}
	var config networkConfig
	if err := json.Unmarshal(text, &config); err != nil {
		return c, err
	}
	c.ports = config.PortMappings
	c.options = namespaceOptions(state.Annotations, c.ports)
	c.networks, err = load(s, names)
	return c, err
}

func namespaceOptions(annotations map[string]string, ports []cni.PortMapping) []cni.NamespaceOpts {
	options := []cni.NamespaceOpts{cni.WithLabels(map[string]string{"IgnoreUnknown": "1"})}
	if len(ports) > 0 {
		options = append(options, cni.WithCapabilityPortMap(ports))
	}
	if ip := annotations[labelIP]; ip != "" {
		options = append(options, cni.WithArgs("IP", ip))
	}
	if mac := annotations[labelMAC]; mac != "" {
		options = append(options, cni.WithArgs("MAC", mac))
	}
	if ip6 := annotations[labelIP6]; ip6 != "" {
		options = append(options, cni.WithCapability("ips", []string{ip6}))
	}
	return append(options, cni.WithArgs("NERDCTL_CNI_DHCP_HOSTNAME", annotations[labelHostname]))
}

// load finds each network's file by the name inside it, and gives go-cni the files in the order of --net.
func load(s settings, names []string) (cni.CNI, error) {
	options := []cni.Opt{cni.WithPluginDir([]string{s.cniPath}), cni.WithInterfacePrefix("eth")}
	for _, name := range names {
		text, err := conflist(s.netconfPath, name)
		if err != nil {
			return nil, err
		}
		options = append(options, cni.WithConfListBytes(text))
	}
	return cni.New(options...)
}

func conflist(folder, name string) ([]byte, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.conflist"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var head struct{ Name string }
		if json.Unmarshal(text, &head) == nil && head.Name == name {
			return text, nil
		}
	}
	return nil, fmt.Errorf("no network %q in %s", name, folder)
}

func (c hooked) createRuntime() (err error) {
	if c.networks == nil {
		return nil
	}
	if err := c.reserve(); err != nil {
		return err
	}
	netns := fmt.Sprintf("/proc/%d/ns/net", c.state.Pid)
	ctx := context.Background()
	// Every start begins with a removal whose answer counts for nothing; its namespace is empty.
	_ = c.networks.Remove(ctx, c.fullID, "", c.options...)
	if _, err := c.networks.Setup(ctx, c.fullID, netns, c.options...); err != nil {
		_ = c.networks.Remove(ctx, c.fullID, netns, c.options...)
		c.release()
		return errors.Join(fmt.Errorf("cannot set up the networks of %s: %w", c.fullID, err), c.mark())
	}
	return nil
}

// postStop leaves a container alone whose createRuntime failed: that one has already cleaned up.
func (c hooked) postStop() error {
	if c.networks == nil {
		return nil
	}
	if os.Remove(c.failure()) == nil {
		return nil
	}
	if err := c.networks.Remove(context.Background(), c.fullID, "", c.options...); err != nil {
		return fmt.Errorf("cannot remove the networks of %s: %w", c.fullID, err)
	}
	c.release()
	return nil
}

func (c hooked) failure() string {
	return filepath.Join(c.state.Annotations[labelStateDir], "create-error")
}

func (c hooked) mark() error {
	return os.WriteFile(c.failure(), nil, 0o600)
}
