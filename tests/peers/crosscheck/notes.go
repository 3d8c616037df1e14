package main

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/transparency-dev/formats/log"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// judgeCheckpoint wants the log's signature and that of every key named, and, where given, the size and root.
func judgeCheckpoint(item oneCase) error {
	checkpoint, err := openCheckpoint(item, []byte(item.Note))
	if err != nil {
		return err
	}
	if item.Root != nil && (checkpoint.Size != item.Size || !bytes.Equal(checkpoint.Hash, item.Root)) {
		return errors.New("the checkpoint names another tree")
	}
	return nil
}

func openCheckpoint(item oneCase, text []byte) (*log.Checkpoint, error) {
	logKey, err := note.NewVerifier(item.LogKey)
	if err != nil {
		return nil, fmt.Errorf("log key: %w", err)
	}
	others := make([]note.Verifier, 0, len(item.Keys))
	for _, text := range item.Keys {
		key, err := formats.NewVerifier(text)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", text, err)
		}
		others = append(others, key)
	}
	checkpoint, rest, opened, err := log.ParseCheckpoint(text, item.Origin, logKey, others...)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("the checkpoint has extension lines")
	}
	if len(opened.Sigs) != len(others)+1 {
		return nil, fmt.Errorf("%d of %d keys signed", len(opened.Sigs), len(others)+1)
	}
	return checkpoint, nil
}
