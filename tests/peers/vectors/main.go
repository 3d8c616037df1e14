// Command vectors writes other people's results as JSON: from transparency-dev/merkle the constants of the Certificate
// Transparency reference tests, and the proofs of its in-memory tree for every entry and size up to a limit; and from
// a BLAKE3 written in Go the digests of every short input.
//
// The other modules pinned here (see pins.go) carry vectors as JSON files, which are read where the modules lie.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"lukechampine.com/blake3"
)

const (
	largest      = 40
	longestInput = 2200 // past two chunks
)

type inclusion struct {
	Index uint64   `json:"index"`
	Size  uint64   `json:"size"`
	Path  [][]byte `json:"path"`
}

type consistency struct {
	Old  uint64   `json:"old"`
	New  uint64   `json:"new"`
	Path [][]byte `json:"path"`
}

type results struct {
	Merkle merkle   `json:"merkle"`
	Blake3 [][]byte `json:"blake3"` // by length of the input, whose byte i is i mod 251
}

type merkle struct {
	Inputs      [][]byte      `json:"inputs"`
	InputRoots  [][]byte      `json:"input_roots"`
	InputNodes  [][][]byte    `json:"input_nodes"`
	Entries     [][]byte      `json:"entries"`
	Roots       [][]byte      `json:"roots"`
	Inclusion   []inclusion   `json:"inclusion"`
	Consistency []consistency `json:"consistency"`
}

func main() {
	check(json.NewEncoder(os.Stdout).Encode(results{trees(), digests()}))
}

func digests() [][]byte {
	input := make([]byte, longestInput)
	for number := range input {
		input[number] = byte(number % 251)
	}
	out := make([][]byte, 0, longestInput+1)
	for length := range longestInput + 1 {
		digest := blake3.Sum256(input[:length])
		out = append(out, digest[:])
	}
	return out
}

func trees() merkle {
	out := merkle{
		Inputs:     testonly.LeafInputs(),
		InputRoots: testonly.RootHashes(),
		InputNodes: testonly.NodeHashes(),
	}
	tree := testonly.New(rfc6962.DefaultHasher)
	out.Roots = append(out.Roots, tree.HashAt(0))
	for size := uint64(1); size <= largest; size++ {
		entry := []byte{byte(size), byte(size * 7)}
		out.Entries = append(out.Entries, entry)
		tree.AppendData(entry)
		out.Roots = append(out.Roots, tree.HashAt(size))
		for index := range size {
			path, err := tree.InclusionProof(index, size)
			check(err)
			out.Inclusion = append(out.Inclusion, inclusion{index, size, path})
		}
		for old := uint64(1); old <= size; old++ {
			path, err := tree.ConsistencyProof(old, size)
			check(err)
			out.Consistency = append(out.Consistency, consistency{old, size, path})
		}
	}
	return out
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
