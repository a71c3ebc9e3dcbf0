// Command cri speaks CRI to a container runtime, as crictl does: any call of RuntimeService with its request and its
// response as JSON, and exec with the streams and the exit code of the command. It knows nothing of networks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const usage = `usage: cri SOCKET call METHOD < REQUEST.json     a call of runtime.v1.RuntimeService; its response on stdout
       cri SOCKET exec CONTAINER COMMAND...      runs a command in a container; ends with its exit code`

const (
	deadline = 60 * time.Second
	service  = "runtime.v1.RuntimeService"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) < 3 {
		return 0, errors.New(usage)
	}
	conn, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, fmt.Errorf("cannot use socket %s: %w", args[0], err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	switch {
	case args[1] == "call" && len(args) == 3:
		return 0, call(ctx, conn, args[2])
	case args[1] == "exec" && len(args) > 3:
		return exec(ctx, conn, args[2], args[3:])
	default:
		return 0, errors.New(usage)
	}
}

// call finds the messages of a method in the descriptors, so that every call of the interface is there.
func call(ctx context.Context, conn *grpc.ClientConn, method string) error {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	descriptor, is := found.(protoreflect.MethodDescriptor)
	if err != nil || !is || descriptor.IsStreamingServer() {
		return fmt.Errorf("%s is no unary call of %s", method, service)
	}
	request, err := message(descriptor.Input())
	if err != nil {
		return err
	}
	response, err := message(descriptor.Output())
	if err != nil {
		return err
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	if err := protojson.Unmarshal(text, request); err != nil {
		return fmt.Errorf("the request is no %s: %w", descriptor.Input().FullName(), err)
	}
	if err := conn.Invoke(ctx, "/"+service+"/"+method, request, response); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	text, err = protojson.Marshal(response)
	if err != nil {
		return fmt.Errorf("cannot print the response: %w", err)
	}
	_, err = fmt.Println(string(text))
	return err
}

func message(descriptor protoreflect.MessageDescriptor) (proto.Message, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		return nil, err
	}
	return kind.New().Interface(), nil
}

func exec(ctx context.Context, conn *grpc.ClientConn, container string, command []string) (int, error) {
	request := &cri.ExecSyncRequest{ContainerId: container, Cmd: command, Timeout: int64(deadline.Seconds())}
	response, err := cri.NewRuntimeServiceClient(conn).ExecSync(ctx, request)
	if err != nil {
		return 0, fmt.Errorf("ExecSync in %s: %w", container, err)
	}
	os.Stdout.Write(response.Stdout)
	os.Stderr.Write(response.Stderr)
	return int(response.ExitCode), nil
}
