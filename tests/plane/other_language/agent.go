// An agent in another language, made from proto/exeat/v1 alone: it enforces nothing, and keeps the protocol.
//
// What it is told it prints, a line of JSON each; a test reads them. It ends when its standard input does.
package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	v1 "exeat.dev/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var (
	endpoint  = flag.String("endpoint", "", "host:port of the plane")
	ca        = flag.String("ca", "", "file with the plane's authority")
	cert      = flag.String("certificate", "", "file")
	key       = flag.String("key", "", "file")
	node      = flag.String("node", "", "who this is")
	labels    = flag.String("labels", "", "a=b,c=d")
	publicKey = flag.String("public-key", "", "file with the key that manifests must be signed by")
	refuse    = flag.String("refuse", "", "a policy whose document has this text is answered with a NACK")
	verdicts  = flag.Uint64("verdicts", 0, "how many to report, all but the first batch twice")
)

// codec: Debian's gRPC would write messages with an older library than the one that they are generated for.
type codec struct{}

func (codec) Marshal(message interface{}) ([]byte, error) {
	return proto.Marshal(message.(proto.Message))
}

func (codec) Unmarshal(data []byte, message interface{}) error {
	return proto.Unmarshal(data, message.(proto.Message))
}

func (codec) Name() string { return "proto" }

var printing sync.Mutex

func say(what string, fields map[string]interface{}) {
	printing.Lock()
	defer printing.Unlock()
	fields["said"] = what
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func fail(what string, err error) {
	say("end", map[string]interface{}{"where": what, "error": err.Error()})
	os.Exit(1)
}

type agent struct {
	signer ed25519.PublicKey
	held   map[string]string // documents by revision
	force  *v1.Manifest      // nil: nothing yet
	done   map[string]*v1.CommandResult
}

func main() {
	flag.Parse()
	encoding.RegisterCodec(codec{})
	connection, err := grpc.Dial(*endpoint, grpc.WithTransportCredentials(credentials.NewTLS(tlsOf())))
	if err != nil {
		fail("dial", err)
	}
	context, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	plane := v1.NewPlaneClient(connection)
	go func() {
		bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(0)
	}()
	one := &agent{signer: signerOf(), held: map[string]string{}, done: map[string]*v1.CommandResult{}}
	one.sync(context, plane)
}

func (one *agent) sync(context context.Context, plane v1.PlaneClient) {
	stream, err := plane.Sync(context)
	if err != nil {
		fail("sync", err)
	}
	now := timestamppb.Now()
	hello := &v1.Hello{Node: *node, Labels: map[string]string{}, Version: "go-1", Protocol: 1, Kernel: "none",
		Features: []string{"nothing"}, Start: fmt.Sprint(os.Getpid()), Started: now, Now: now}
	for _, label := range strings.Split(*labels, ",") {
		if parts := strings.SplitN(label, "=", 2); len(parts) == 2 {
			hello.Labels[parts[0]] = parts[1]
		}
	}
	send := func(request *v1.SyncRequest) {
		if err := stream.Send(request); err != nil && err != io.EOF { // the answer tells why
			fail("send", err)
		}
	}
	send(&v1.SyncRequest{Said: &v1.SyncRequest_Hello{Hello: hello}})
	for {
		response, err := stream.Recv()
		if err != nil {
			fail("sync", err)
		}
		switch said := response.Said.(type) {
		case *v1.SyncResponse_Welcome:
			say("welcome", map[string]interface{}{"plane": said.Welcome.Plane, "protocol": said.Welcome.Protocol})
			if *verdicts > 0 {
				go report(context, plane)
			}
			send(&v1.SyncRequest{Said: &v1.SyncRequest_Workloads{Workloads: &v1.WorkloadNews{IsAll: true,
				Workloads: []*v1.WorkloadState{{Name: "gopher", Cgroup: "/gopher", Mode: v1.Mode_MODE_ENFORCE,
					Source: "registration", Since: now}}}}})
		case *v1.SyncResponse_Push:
			send(&v1.SyncRequest{Said: &v1.SyncRequest_Answer{Answer: one.take(said.Push)}})
		case *v1.SyncResponse_Command:
			send(&v1.SyncRequest{Said: &v1.SyncRequest_Result{Result: one.obey(said.Command)}})
		case *v1.SyncResponse_Beat:
			beat := &v1.AgentBeat{Now: timestamppb.Now(), Serial: one.force.GetSerial(), Workloads: 1}
			send(&v1.SyncRequest{Said: &v1.SyncRequest_Beat{Beat: beat}})
		} // anything else is of a newer plane, and passed over
	}
}

// take judges a push and answers it.
func (one *agent) take(push *v1.PolicyPush) *v1.PolicyAnswer {
	answer := &v1.PolicyAnswer{Nonce: push.Nonce, Serial: one.force.GetSerial()}
	nack := func(policy string, text string) *v1.PolicyAnswer {
		say("nack", map[string]interface{}{"nonce": push.Nonce, "why": text})
		answer.Faults = append(answer.Faults, &v1.PolicyFault{Policy: policy, Text: text})
		return answer
	}
	manifest := &v1.Manifest{}
	if !one.isSigned("exeat manifest v1\x00", push.Manifest) {
		return nack("", "the manifest is not signed by the key that this agent knows")
	}
	if err := proto.Unmarshal(push.Manifest.Content, manifest); err != nil {
		return nack("", err.Error())
	}
	if manifest.Node != *node || manifest.Serial < one.force.GetSerial() || manifest.Expires.AsTime().Before(time.Now()) {
		return nack("", "the manifest is another node's, or too old")
	}
	for _, document := range push.Documents {
		sum := sha256.Sum256([]byte(document.Text))
		if hex.EncodeToString(sum[:]) != document.Revision {
			return nack("", "a document is not what its revision says")
		}
		if *refuse != "" && strings.Contains(document.Text, *refuse) {
			return nack("", "go:1: this agent refuses what says "+*refuse)
		}
		one.held[document.Revision] = document.Text
	}
	names := []string{}
	for _, policy := range manifest.Policies {
		if _, held := one.held[policy.Revision]; !held {
			answer.WantsAll = true
			return nack(policy.Name, "its document is missing")
		}
		names = append(names, policy.Name)
	}
	one.force = manifest
	say("push", map[string]interface{}{"nonce": push.Nonce, "serial": manifest.Serial, "policies": names,
		"documents": len(push.Documents), "signed": len(push.Manifest.Signature) > 0})
	answer.IsAccepted, answer.Serial = true, manifest.Serial
	return answer
}

// obey does a command once.
func (one *agent) obey(signed *v1.Signed) *v1.CommandResult {
	command := &v1.Command{}
	if err := proto.Unmarshal(signed.Content, command); err != nil {
		fail("command", err)
	}
	if result := one.done[command.Id]; result != nil {
		return result
	}
	result := &v1.CommandResult{Id: command.Id}
	if !one.isSigned("exeat command v1\x00", signed) || command.Node != *node {
		result.Refusal = "the command is not signed by the key that this agent knows, or another node's"
	}
	what := "other"
	switch command.What.(type) {
	case *v1.Command_SetMode:
		what = "set_mode"
	case *v1.Command_Allow:
		what, result.Allowance = "allow", "go-1"
	}
	one.done[command.Id] = result
	say("command", map[string]interface{}{"id": command.Id, "what": what, "by": command.By, "refusal": result.Refusal})
	return result
}

func (one *agent) isSigned(context string, signed *v1.Signed) bool {
	return one.signer == nil || ed25519.Verify(one.signer, append([]byte(context), signed.Content...), signed.Signature)
}

// report sends verdicts in batches of 100; all but the first one twice, as after a break.
func report(context context.Context, plane v1.PlaneClient) {
	stream, err := plane.Report(context)
	if err != nil {
		fail("report", err)
	}
	hello := &v1.ReportHello{Node: *node, Log: "go-log", After: 0}
	if err := stream.Send(&v1.ReportRequest{Said: &v1.ReportRequest_Hello{Hello: hello}}); err != nil {
		fail("report", err)
	}
	response, err := stream.Recv()
	if err != nil {
		fail("report", err)
	}
	welcome := response.GetWelcome()
	say("report", map[string]interface{}{"through": welcome.Through, "batch_max": welcome.BatchMax})
	for first := welcome.Through + 1; first <= *verdicts; first += 100 {
		batch := &v1.VerdictBatch{First: first, Through: first + 99}
		for number := first; number < first+100; number++ {
			batch.Verdicts = append(batch.Verdicts, &v1.NumberedVerdict{Number: number, Verdict: verdict(number)})
		}
		for times := 0; times < 2 && (first > 100 || times < 1); times++ {
			if err := stream.Send(&v1.ReportRequest{Said: &v1.ReportRequest_Batch{Batch: batch}}); err != nil && err != io.EOF {
				fail("report", err)
			}
			response, err := stream.Recv()
			if err != nil {
				fail("report", err)
			}
			say("ack", map[string]interface{}{"through": response.GetAck().Through})
		}
	}
	stream.CloseSend()
}

func verdict(number uint64) *v1.VerdictRecord {
	return &v1.VerdictRecord{Time: timestamppb.Now(), Verdict: v1.Verdict_VERDICT_DROPPED,
		Reason: v1.Reason_REASON_ADDRESS_NOT_ALLOWED, Hook: "connect", Workload: "/gopher", Policy: "gophers",
		Process:  &v1.Process{Pid: 7, Comm: "gopher", Uid: 1000},
		Protocol: 6, Destination: &v1.Endpoint{Address: []byte{203, 0, 113, byte(number % 250)}, Port: 443}, Count: 1}
}

func tlsOf() *tls.Config {
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		fail("certificate", err)
	}
	text, err := os.ReadFile(*ca)
	if err != nil {
		fail("ca", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func signerOf() ed25519.PublicKey {
	if *publicKey == "" {
		return nil
	}
	text, err := os.ReadFile(*publicKey)
	if err != nil {
		fail("public key", err)
	}
	block, _ := pem.Decode(text)
	found, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		fail("public key", err)
	}
	return found.(ed25519.PublicKey)
}
