// Command tessera times durable appends to a Tessera log on POSIX files and prints them as JSON.
//
// An append counts once Tessera has given the entry its index, which its POSIX storage does after the entry's
// bundle is synced and integrated. Entries are unsigned. "published" waits as well until a signed checkpoint
// covers the entry, which is what a receipt needs; Tessera publishes ten times a second at most.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

type figures struct {
	PerSecond float64 `json:"per_s"`
	P50       float64 `json:"p50_ms,omitempty"`
	P95       float64 `json:"p95_ms,omitempty"`
	Entries   int     `json:"entries"`
}

type report struct {
	Peer      string  `json:"peer"`
	Version   string  `json:"version"`
	Durable   bool    `json:"durable"`
	Signed    bool    `json:"signed"`
	Single    figures `json:"single"`
	Published figures `json:"single_published"`
	Batched   figures `json:"batched"`
	LogKey    string  `json:"log_key"` // of the log in the folder "batched"
}

type opened struct {
	appender *tessera.Appender
	awaiter  *tessera.PublicationAwaiter
	close    func(context.Context) error
	key      string
}

const (
	batchSize       = 1024
	publishInterval = 100 * time.Millisecond // the shortest that Tessera accepts
)

func main() {
	folder := flag.String("dir", "", "empty folder to work in")
	singles := flag.Int("singles", 200, "appends of the single writer")
	entries := flag.Int("entries", 50000, "entries appended in batches")
	size := flag.Int("size", 256, "bytes of an entry")
	flag.Parse()
	if *folder == "" {
		log.Fatal("-dir is missing")
	}
	ctx := context.Background()
	out := report{Peer: "Tessera POSIX", Version: "v1.0.4", Durable: true}
	out.Single = single(ctx, open(ctx, filepath.Join(*folder, "single"), 1), *singles, *size, false)
	out.Published = single(ctx, open(ctx, filepath.Join(*folder, "published"), 1), max(5, *singles/10), *size, true)
	filled := open(ctx, filepath.Join(*folder, "batched"), batchSize)
	out.LogKey = filled.key
	out.Batched = batched(ctx, filled, *entries, *size)
	check(json.NewEncoder(os.Stdout).Encode(out))
}

func open(ctx context.Context, folder string, batch uint) opened {
	secret, public, err := note.GenerateKey(rand.Reader, "bench.example/log")
	check(err)
	signer, err := note.NewSigner(secret)
	check(err)
	driver, err := posix.New(ctx, posix.Config{Path: folder})
	check(err)
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(publishInterval).
		WithBatching(batch, 5*time.Millisecond).
		WithPushback(1 << 20)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	check(err)
	awaiter := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 10*time.Millisecond)
	return opened{appender, awaiter, shutdown, public}
}

func single(ctx context.Context, target opened, count, size int, published bool) figures {
	defer func() { check(target.close(ctx)) }()
	times := make([]time.Duration, 0, count)
	started := time.Now()
	for range count {
		begun := time.Now()
		future := target.appender.Add(ctx, tessera.NewEntry(entry(size)))
		var err error
		if published {
			_, _, err = target.awaiter.Await(ctx, future)
		} else {
			_, err = future()
		}
		check(err)
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

func batched(ctx context.Context, target opened, count, size int) figures {
	defer func() { check(target.close(ctx)) }()
	futures := make([]tessera.IndexFuture, 0, count)
	started := time.Now()
	for range count {
		futures = append(futures, target.appender.Add(ctx, tessera.NewEntry(entry(size))))
	}
	for _, future := range futures {
		_, err := future()
		check(err)
	}
	return figures{PerSecond: float64(count) / time.Since(started).Seconds(), Entries: count}
}

func entry(size int) []byte {
	data := make([]byte, size)
	_, err := rand.Read(data[:32])
	check(err)
	return data
}

func milliseconds(spent time.Duration) float64 { return float64(spent.Microseconds()) / 1000 }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
