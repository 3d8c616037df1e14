package main

import (
	"bytes"
	"errors"
	"fmt"

	tlogproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

var errDisagree = errors.New("the two Go libraries disagree")

func judgeInclusion(item oneCase) error {
	first := proof.VerifyInclusion(rfc6962.DefaultHasher, item.Index, item.Size, item.Leaf, item.Path, item.Root)
	hashes, err := hashesOf(append([][]byte{item.Leaf, item.Root}, item.Path...))
	if err != nil || item.Size >= 1<<62 {
		return errors.Join(first, err)
	}
	second := tlog.CheckRecord(hashes[2:], int64(item.Size), hashes[1], int64(item.Index), hashes[0])
	return agreed(first, second)
}

func judgeConsistency(item oneCase) error {
	first := proof.VerifyConsistency(
		rfc6962.DefaultHasher, item.OldSize, item.Size, item.Path, item.OldRoot, item.Root)
	hashes, err := hashesOf(append([][]byte{item.OldRoot, item.Root}, item.Path...))
	// The checksum database has no proofs from the empty tree.
	if err != nil || item.Size >= 1<<62 || item.OldSize == 0 {
		return errors.Join(first, err)
	}
	second := tlog.CheckTree(hashes[2:], int64(item.Size), hashes[1], int64(item.OldSize), hashes[0])
	return agreed(first, second)
}

// judgeProofText follows "verifying a tlog proof": leaf hash, checkpoint signature, inclusion.
func judgeProofText(item oneCase) error {
	var read tlogproof.TLogProof
	if err := read.Unmarshal([]byte(item.Text)); err != nil {
		return err
	}
	if !bytes.Equal(read.Marshal(), []byte(item.Text)) {
		return errors.New("the library would spell this proof in another way")
	}
	if !bytes.Contains(read.ExtraData, item.Entry) {
		return errors.New("the extra data does not hold the entry")
	}
	checkpoint, err := openCheckpoint(item, read.Checkpoint)
	if err != nil {
		return err
	}
	path := make([][]byte, 0, len(read.Hashes))
	for _, hash := range read.Hashes {
		path = append(path, hash[:])
	}
	return judgeInclusion(oneCase{
		Leaf:  rfc6962.DefaultHasher.HashLeaf(item.Entry),
		Index: read.Index,
		Size:  checkpoint.Size,
		Path:  path,
		Root:  checkpoint.Hash,
	})
}

func agreed(first, second error) error {
	if (first == nil) != (second == nil) {
		return fmt.Errorf("%w: transparency-dev says %v, the checksum database %v", errDisagree, first, second)
	}
	return first
}

func hashesOf(items [][]byte) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, 0, len(items))
	for _, item := range items {
		if len(item) != tlog.HashSize {
			return nil, fmt.Errorf("a hash of %d bytes", len(item))
		}
		hashes = append(hashes, tlog.Hash(item))
	}
	return hashes, nil
}
