// Command crosscheck judges a ledger's proofs, notes and tiles with other people's code.
//
// It reads cases as JSON from standard input and writes a verdict for each to standard output. It does not know
// what is expected: the test that wrote the cases compares. Where two libraries can judge the same thing (the
// Merkle proofs of transparency-dev and of the Go checksum database), both do, and their disagreement is an error of its own.
//
//	crosscheck judge < cases.json > verdicts.json
//	crosscheck make  < orders.json > made.json     (notes and proofs made by Go, for the ledger to read)
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
)

// A oneCase is what one verdict is about; which fields count depends on the kind.
type oneCase struct {
	Name string `json:"name"`
	Kind string `json:"kind"`

	Note   string   `json:"note,omitempty"`
	Origin string   `json:"origin,omitempty"`
	LogKey string   `json:"log_key,omitempty"`
	Keys   []string `json:"keys,omitempty"`

	Leaf    []byte   `json:"leaf,omitempty"`
	Index   uint64   `json:"index,omitempty"`
	Size    uint64   `json:"size,omitempty"`
	OldSize uint64   `json:"old_size,omitempty"`
	Root    []byte   `json:"root,omitempty"`
	OldRoot []byte   `json:"old_root,omitempty"`
	Path    [][]byte `json:"path,omitempty"`

	Folder string `json:"folder,omitempty"`
	Level  uint64 `json:"level,omitempty"`
	Width  uint64 `json:"width,omitempty"`
	Text   string `json:"text,omitempty"`
	Entry  []byte `json:"entry,omitempty"`
}

type verdict struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Why  string `json:"why,omitempty"`
}

var judges = map[string]func(oneCase) error{
	"checkpoint":  judgeCheckpoint,
	"inclusion":   judgeInclusion,
	"consistency": judgeConsistency,
	"tiles":       judgeTiles,
	"tile-path":   judgeTilePath,
	"tlog-proof":  judgeProofText,
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: crosscheck judge|make")
	}
	switch os.Args[1] {
	case "judge":
		var cases []oneCase
		read(&cases)
		verdicts := make([]verdict, 0, len(cases))
		for _, item := range cases {
			verdicts = append(verdicts, judge(item))
		}
		write(verdicts)
	case "make":
		var wanted []order
		read(&wanted)
		made := make([]product, 0, len(wanted))
		for _, item := range wanted {
			made = append(made, produce(item))
		}
		write(made)
	default:
		log.Fatalf("unknown command %q", os.Args[1])
	}
}

func judge(item oneCase) verdict {
	known, found := judges[item.Kind]
	if !found {
		log.Fatalf("case %q is of an unknown kind %q", item.Name, item.Kind)
	}
	if err := guarded(known, item); err != nil {
		return verdict{item.Name, false, err.Error()}
	}
	return verdict{Name: item.Name, OK: true}
}

// guarded turns a panic of a library into a refusal, so that one hostile case cannot hide the others.
func guarded(known func(oneCase) error, item oneCase) (err error) {
	defer func() {
		if told := recover(); told != nil {
			err = fmt.Errorf("panic: %v", told)
		}
	}()
	return known(item)
}

func read(into any) {
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		log.Fatal(err)
	}
}

func write(from any) {
	if err := json.NewEncoder(os.Stdout).Encode(from); err != nil {
		log.Fatal(err)
	}
}
