package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// strictSchema compiles a definition of data/dlmlockctl.schema.json. It also
// refuses properties that the schema does not describe, which readers of the
// schema must accept: the programs under test are not newer than it is.
func strictSchema(definition string) (*jsonschema.Schema, error) {
	text, err := os.ReadFile("../../data/dlmlockctl.schema.json")
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	closeObjects(doc)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("schema.json#/$defs/" + definition)
}

// closeObjects adds "additionalProperties": false to each object that has no word
// on them.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, open := v["additionalProperties"]; !open && v["properties"] != nil && v["type"] == "object" {
			v["additionalProperties"] = false
		}
		for _, child := range v {
			closeObjects(child)
		}
	case []any:
		for _, child := range v {
			closeObjects(child)
		}
	}
}

// conform checks each JSON value of a text against a definition of the schema.
func conform(definition, text string) error {
	schema, err := strictSchema(definition)
	if err != nil {
		return err
	}
	values := 0
	for dec := json.NewDecoder(strings.NewReader(text)); ; values++ {
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err == io.EOF && values > 0 {
			return nil
		} else if err != nil {
			return err
		}
		if err := schema.Validate(v); err != nil {
			return err
		}
	}
}

func requireConform(t *testing.T, definition, text string) {
	t.Helper()
	require.NoError(t, conform(definition, text), text)
}

// conforms is the command "json" of the scripts: json DEFINITION FILE.
func (s *stage) conforms(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json DEFINITION stdout|stderr|FILE")
	}
	ts.Check(conform(args[0], ts.ReadFile(args[1])))
}

// Each command that writes JSON has a definition under its name, and a script holds
// its output against that.
func TestEveryOutputIsInTheSchema(t *testing.T) {
	var checked strings.Builder
	scripts, err := filepath.Glob("testdata/script/*.txt")
	require.NoError(t, err)
	for _, name := range append(scripts, "terminal_test.go", "history_test.go") {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		checked.Write(text)
	}
	names := []string{"error"}
	for _, c := range new(app).root().Commands() {
		switch c.Name() {
		case "help", "completion", "run", "hold": // they write none
		default:
			names = append(names, c.Name())
		}
	}
	for _, name := range names {
		_, err := strictSchema(name)
		require.NoError(t, err)
		require.Regexp(t, regexp.MustCompile(`(?m)^json `+name+` |requireConform\(t, "`+name+`"`), checked.String(),
			"no test checks the JSON of %s", name)
	}
}

// What the schema is there for is found: what was written once for what is not
// known, and numbers that JSON readers round.
func TestTheSchemaFindsFaults(t *testing.T) {
	const lock = `[{"lock":"/a","lockspace":"s","resource":"r","lockid":1,"mode":"EX","state":"held",` +
		`"lifetime":"persistent","uid":0`
	require.NoError(t, conform("list", lock+`}]`))
	require.Error(t, conform("list", lock+`,"owner":""}]`))
	require.Error(t, conform("list", lock+`,"wanted":""}]`))
	require.Error(t, conform("list", lock+`,"token":0}]`))
	require.Error(t, conform("list", lock+`,"colour":"blue"}]`))
	require.Error(t, conform("list", `[{"lock":"/a"}]`))
	const status = `{"version":"1","engine":"dlm","lock_count":0,` +
		`"grant_latency":{"count":1,"sum_usec":1,"buckets":[{"count":1`
	require.NoError(t, conform("status", status+`,"le_usec":100}]}}`))
	require.Error(t, conform("status", status+`}]}}`))
	require.Error(t, conform("status", status+`,"le_usec":18446744073709551615}]}}`))
	require.Error(t, conform("status", `{"Version":"1","version":"1","engine":"dlm","lock_count":0}`))
	require.Error(t, conform("error", `{"error":"Usage"}`))
	require.Error(t, conform("list", ``))
}
