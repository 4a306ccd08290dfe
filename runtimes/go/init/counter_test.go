package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// A function is a program that answers lines: give it some, and take what it answers beside its hello.
func answers(t *testing.T, messages ...string) []string {
	program := t.TempDir() + "/program"
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	command := exec.Command(program)
	command.Stdin = strings.NewReader(strings.Join(messages, "\n") + "\n")
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, line := range bytes.Split(bytes.TrimSpace(output), []byte("\n")) {
		if !bytes.HasPrefix(line, []byte(`{"hello"`)) {
			found = append(found, string(line))
		}
	}
	return found
}

func same(t *testing.T, found string, expected map[string]any) {
	t.Helper()
	var frame map[string]any
	if err := json.Unmarshal([]byte(found), &frame); err != nil {
		t.Fatal(err)
	}
	one, _ := json.Marshal(frame)
	other, _ := json.Marshal(expected)
	if string(one) != string(other) {
		t.Errorf("%s, not %s", one, other)
	}
}

func TestEachCallAddsToTheState(t *testing.T) {
	found := answers(t,
		`{"id":"1","ctx":{"handler":"add","key":"k"},"message":2}`,
		`{"id":"2","ctx":{"handler":"add","key":"k"},"message":null,"state":{"count":2}}`)
	same(t, found[0], map[string]any{"id": "1", "response": 2, "state": map[string]any{"count": 2}})
	same(t, found[1], map[string]any{"id": "2", "response": 3, "state": map[string]any{"count": 3}})
}

func TestHalfIsRefused(t *testing.T) {
	found := answers(t, `{"id":"1","ctx":{"handler":"add","key":"k"},"message":0.5,"state":{"count":3}}`)
	if !strings.Contains(found[0], `"status":422`) || strings.Contains(found[0], `"state"`) {
		t.Error(found[0])
	}
}
