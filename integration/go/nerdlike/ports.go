package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/go-cni"
)

// Ports are in no annotation: nerdctl keeps them in a file beside the container's state.
type networkConfig struct {
	PortMappings []cni.PortMapping `json:"portMappings"`
}

func writePorts(stateDir string, ports []string) error {
	var config networkConfig
	for _, text := range ports {
		port, err := parsePort(text)
		if err != nil {
			return err
		}
		config.PortMappings = append(config.PortMappings, port)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(stateDir, "network-config.json"), text, 0o600)
}

func parsePort(text string) (cni.PortMapping, error) {
	numbers, protocol, found := strings.Cut(text, "/")
	if !found {
		protocol = "tcp"
	}
	port := cni.PortMapping{HostIP: "0.0.0.0", Protocol: protocol}
	last := strings.LastIndex(numbers, ":")
	if last < 0 {
		return port, fmt.Errorf("port %q: write HOST:CONTAINER", text)
	}
	host, inside := numbers[:last], numbers[last+1:]
	if cut := strings.LastIndex(host, ":"); cut >= 0 {
		port.HostIP, host = strings.Trim(host[:cut], "[]"), host[cut+1:]
	}
	outer, err := strconv.ParseUint(host, 10, 16)
	if err != nil {
		return port, fmt.Errorf("port %q: %w", text, err)
	}
	inner, err := strconv.ParseUint(inside, 10, 16)
	if err != nil {
		return port, fmt.Errorf("port %q: %w", text, err)
	}
	port.HostPort, port.ContainerPort = int32(outer), int32(inner)
	return port, nil
}

// reserve holds the published ports by a process that listens on them until the container stops.
func (c hooked) reserve() error {
	if len(c.ports) == 0 {
		return nil
	}
	holder := exec.Command("sleep", "infinity")
	for _, port := range c.ports {
		file, err := listen(port)
		if err != nil {
			fmt.Fprintf(os.Stderr, "nerdlike: port %d is not reserved: %v\n", port.HostPort, err)
			continue
		}
		defer file.Close()
		holder.ExtraFiles = append(holder.ExtraFiles, file)
	}
	if err := holder.Start(); err != nil {
		return fmt.Errorf("cannot start the holder of ports: %w", err)
	}
	path := c.holder()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strconv.Itoa(holder.Process.Pid)), 0o600)
}

func listen(port cni.PortMapping) (*os.File, error) {
	address := net.JoinHostPort(port.HostIP, strconv.Itoa(int(port.HostPort)))
	if strings.HasPrefix(port.Protocol, "udp") {
		socket, err := net.ListenPacket("udp4", address)
		if err != nil {
			return nil, err
		}
		return socket.(*net.UDPConn).File()
	}
	socket, err := net.Listen("tcp4", address)
	if err != nil {
		return nil, err
	}
	return socket.(*net.TCPListener).File()
}

func (c hooked) holder() string {
	return filepath.Join("/run/nerdctl", c.state.Annotations[labelNamespace], c.state.ID, "port-reserver.pid")
}

func (c hooked) release() {
	text, err := os.ReadFile(c.holder())
	if err != nil {
		return
	}
	if pid, err := strconv.Atoi(string(text)); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = os.RemoveAll(filepath.Dir(c.holder()))
}
