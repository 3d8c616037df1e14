package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	samples    = 64
)

// judgeTiles reads a static log as two clients would: the checksum database's, which authenticates every tile
// against the checkpoint, and Tessera's, which builds proofs from tiles and reads the entry bundles.
func judgeTiles(item oneCase) error {
	ctx := context.Background()
	files := client.FileFetcher{Root: item.Folder}
	text, err := files.ReadCheckpoint(ctx)
	if err != nil {
		return err
	}
	head, err := openCheckpoint(item, text)
	if err != nil {
		return err
	}
	leaves, err := entryHashes(ctx, files, head.Size)
	if err != nil {
		return err
	}
	if err := authenticated(files, head.Size, head.Hash, leaves); err != nil {
		return err
	}
	return proven(ctx, files, head.Size, head.Hash, leaves)
}

// judgeTilePath wants a tile, or its bundle of entries at level 0, to lie where Tessera would look for it.
func judgeTilePath(item oneCase) error {
	width := uint8(item.Width) // 256 wraps to Tessera's 0, a full tile
	for _, wanted := range []string{
		layout.TilePath(item.Level, item.Index, width),
		layout.EntriesPath(item.Index, width),
	} {
		if item.Text == wanted {
			return nil
		}
	}
	return fmt.Errorf("Tessera has it at %s", layout.TilePath(item.Level, item.Index, width))
}

func entryHashes(ctx context.Context, files client.FileFetcher, size uint64) ([][]byte, error) {
	leaves := make([][]byte, 0, size)
	for number := uint64(0); number*layout.EntryBundleWidth < size; number++ {
		bundle, err := client.GetEntryBundle(ctx, files.ReadEntryBundle, number, size)
		if err != nil {
			return nil, err
		}
		for _, entry := range bundle.Entries {
			leaves = append(leaves, rfc6962.DefaultHasher.HashLeaf(entry))
		}
	}
	if uint64(len(leaves)) != size {
		return nil, fmt.Errorf("the bundles hold %d entries, the checkpoint says %d", len(leaves), size)
	}
	return leaves, nil
}

// authenticated has the checksum database's client fetch every leaf through tiles it checks, and rebuild the root.
func authenticated(files client.FileFetcher, size uint64, root []byte, leaves [][]byte) error {
	tree := tlog.Tree{N: int64(size), Hash: tlog.Hash(root)}
	reader := tlog.TileHashReader(tree, tileReader{files})
	rebuilt, err := tlog.TreeHash(tree.N, reader)
	if err != nil {
		return err
	}
	if rebuilt != tree.Hash {
		return errors.New("the tiles give another root")
	}
	places := make([]int64, len(leaves))
	for number := range leaves {
		places[number] = tlog.StoredHashIndex(0, int64(number))
	}
	found, err := reader.ReadHashes(places)
	if err != nil {
		return err
	}
	for number, leaf := range leaves {
		if !bytes.Equal(found[number][:], leaf) {
			return fmt.Errorf("entry %d does not hash to its leaf", number)
		}
	}
	return nil
}

func proven(ctx context.Context, files client.FileFetcher, size uint64, root []byte, leaves [][]byte) error {
	builder, err := client.NewProofBuilder(ctx, size, files.ReadTile)
	if err != nil {
		return err
	}
	step := max(1, size/samples)
	for index := uint64(0); index < size; index += step {
		path, err := builder.InclusionProof(ctx, index)
		if err != nil {
			return err
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaves[index], path, root); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
	}
	return nil
}

// A tileReader gives the checksum database's client tiles that lie where C2SP tlog-tiles puts them.
type tileReader struct{ files client.FileFetcher }

func (tileReader) Height() int { return tileHeight }

func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, 0, len(tiles))
	for _, tile := range tiles {
		width := uint8(tile.W) // 256, a full tile, wraps to Tessera's 0
		data, err := r.files.ReadTile(context.Background(), uint64(tile.L), uint64(tile.N), width)
		if err != nil {
			return nil, err
		}
		if len(data) < tile.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %d/%d is short", tile.L, tile.N)
		}
		found = append(found, data[:tile.W*tlog.HashSize])
	}
	return found, nil
}
