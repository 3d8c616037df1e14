package main

import (
	"crypto/sha256"
	stdlog "log"

	"github.com/transparency-dev/formats/log"
	formats "github.com/transparency-dev/formats/note"
	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"
)

// An order asks for a log of these entries, signed and cosigned by Go, and a proof of one entry.
type order struct {
	Origin    string   `json:"origin"`
	Entries   [][]byte `json:"entries"`
	Index     uint64   `json:"index"`
	Witnesses []string `json:"witnesses"`
	Extra     []byte   `json:"extra"`
}

type product struct {
	Note    string   `json:"note"`
	LogKey  string   `json:"log_key"`
	Keys    []string `json:"keys"`
	Proof   string   `json:"proof"`
	OldRoot []byte   `json:"old_root"`
	OldSize uint64   `json:"old_size"`
	Path    [][]byte `json:"path"`
}

// produce makes what the ledger is to read: every second witness signs with ML-DSA-44, the others with Ed25519.
func produce(item order) product {
	tree := testonly.New(rfc6962.DefaultHasher)
	tree.AppendData(item.Entries...)
	secret, public, err := note.GenerateKey(nil, item.Origin)
	check(err)
	signer, err := note.NewSigner(secret)
	check(err)
	signers, keys := []note.Signer{signer}, []string{}
	for number, name := range item.Witnesses {
		cosigner, key := witness(name, number%2 == 1)
		signers, keys = append(signers, cosigner), append(keys, key)
	}
	head := log.Checkpoint{Origin: item.Origin, Size: tree.Size(), Hash: tree.Hash()}
	signed, err := note.Sign(&note.Note{Text: string(head.Marshal())}, signers...)
	check(err)
	path, err := tree.InclusionProof(item.Index, tree.Size())
	check(err)
	old := max(1, tree.Size()/2)
	longer, err := tree.ConsistencyProof(old, tree.Size())
	check(err)
	proof := tlogproof.TLogProof{Index: item.Index, Checkpoint: signed, ExtraData: item.Extra}
	for _, hash := range path {
		proof.Hashes = append(proof.Hashes, [sha256.Size]byte(hash))
	}
	return product{string(signed), public, keys, string(proof.Marshal()), tree.HashAt(old), old, longer}
}

func witness(name string, isMLDSA bool) (note.Signer, string) {
	if isMLDSA {
		secret, public, err := formats.GenerateMLDSAKey(name)
		check(err)
		signer, err := formats.NewSignerForCosignatureV1(secret)
		check(err)
		return signer, public
	}
	secret, public, err := note.GenerateKey(nil, name)
	check(err)
	signer, err := formats.NewSignerForCosignatureV1(secret)
	check(err)
	verifier, err := formats.VKeyToCosignatureV1(public)
	check(err)
	return signer, verifier
}

func check(err error) {
	if err != nil {
		stdlog.Fatal(err)
	}
}
