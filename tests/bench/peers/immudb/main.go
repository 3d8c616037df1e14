// Command immudb times durable appends to the embedded store of immudb and prints them as JSON.
//
// Every store is opened synced: a commit returns once its bytes survive loss of power. Entries are unsigned, so
// a rate here holds no signature check. The single writer waits for immudb's sync timer, so it is measured with the
// default of 20 ms and with a timer so short that only the disk is left; both are told.
//
// immudb is under the Business Source Licence: it is measured beside the ledger, and nothing depends on it.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"flag"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/codenotary/immudb/embedded/logger"
	"github.com/codenotary/immudb/embedded/store"
)

type figures struct {
	PerSecond float64 `json:"per_s"`
	P50       float64 `json:"p50_ms,omitempty"`
	P95       float64 `json:"p95_ms,omitempty"`
	Entries   int     `json:"entries"`
}

type report struct {
	Peer          string  `json:"peer"`
	Version       string  `json:"version"`
	Durable       bool    `json:"durable"`
	Signed        bool    `json:"signed"`
	Single        figures `json:"single"`
	SingleDefault figures `json:"single_default"`
	Concurrent    figures `json:"concurrent"`
	Batched       figures `json:"batched"`
}

const (
	keysPerTx    = 1000
	shortestSync = 100 * time.Microsecond // shorter ones gave the same rate
)

func main() {
	folder := flag.String("dir", "", "empty folder to work in")
	singles := flag.Int("singles", 200, "appends of the single writer")
	entries := flag.Int("entries", 50000, "entries appended in groups")
	size := flag.Int("size", 256, "bytes of an entry")
	writers := flag.Int("writers", 256, "concurrent writers of one-entry transactions")
	flag.Parse()
	if *folder == "" {
		log.Fatal("-dir is missing")
	}
	out := report{Peer: "immudb embedded", Version: "v1.9.7", Durable: true}
	out.SingleDefault = single(open(*folder, "default", store.DefaultSyncFrequency), *singles, *size)
	out.Single = single(open(*folder, "single", shortestSync), *singles, *size)
	out.Concurrent = concurrent(open(*folder, "concurrent", store.DefaultSyncFrequency), *entries/10, *size, *writers)
	out.Batched = batched(open(*folder, "batched", store.DefaultSyncFrequency), *entries, *size)
	check(json.NewEncoder(os.Stdout).Encode(out))
}

func open(folder, name string, frequency time.Duration) *store.ImmuStore {
	options := store.DefaultOptions().
		WithSynced(true).
		WithSyncFrequency(frequency).
		WithMaxConcurrency(300).
		WithMaxActiveTransactions(1000).
		WithLogger(logger.NewSimpleLoggerWithLevel("immudb", io.Discard, logger.LogError))
	opened, err := store.Open(filepath.Join(folder, name), options)
	check(err)
	return opened
}

func single(opened *store.ImmuStore, count, size int) figures {
	defer opened.Close()
	times := make([]time.Duration, 0, count)
	started := time.Now()
	for number := range count {
		begun := time.Now()
		commit(opened, number, 1, size)
		times = append(times, time.Since(begun))
	}
	spent := time.Since(started)
	slices.Sort(times)
	return figures{
		PerSecond: float64(count) / spent.Seconds(),
		P50:       milliseconds(times[count/2]),
		P95:       milliseconds(times[count*95/100]),
		Entries:   count,
	}
}

func concurrent(opened *store.ImmuStore, count, size, writers int) figures {
	defer opened.Close()
	var group sync.WaitGroup
	numbers := make(chan int)
	started := time.Now()
	for range writers {
		group.Go(func() {
			for number := range numbers {
				commit(opened, number, 1, size)
			}
		})
	}
	for number := range count {
		numbers <- number
	}
	close(numbers)
	group.Wait()
	return figures{PerSecond: float64(count) / time.Since(started).Seconds(), Entries: count}
}

func batched(opened *store.ImmuStore, count, size int) figures {
	defer opened.Close()
	var group sync.WaitGroup
	groups := make(chan int)
	started := time.Now()
	for range 8 {
		group.Go(func() {
			for number := range groups {
				commit(opened, number*keysPerTx, keysPerTx, size)
			}
		})
	}
	total := max(1, count/keysPerTx)
	for number := range total {
		groups <- number
	}
	close(groups)
	group.Wait()
	return figures{PerSecond: float64(total*keysPerTx) / time.Since(started).Seconds(), Entries: total * keysPerTx}
}

func commit(opened *store.ImmuStore, first, count, size int) {
	ctx := context.Background()
	transaction, err := opened.NewWriteOnlyTx(ctx)
	check(err)
	for number := range count {
		key := binary.BigEndian.AppendUint64(nil, uint64(first+number))
		value := make([]byte, size)
		_, err = rand.Read(value[:32])
		check(err)
		check(transaction.Set(key, nil, value))
	}
	// Not waiting for the index favours immudb: the entry is durable and provable without it.
	_, err = transaction.AsyncCommit(ctx)
	check(err)
}

func milliseconds(spent time.Duration) float64 { return float64(spent.Microseconds()) / 1000 }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
