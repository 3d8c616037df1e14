//go:build pins

// Modules whose files are read and whose code is not: Project Wycheproof, and the BLAKE3 vectors.
package main

import (
	_ "github.com/c2sp/wycheproof"
	_ "lukechampine.com/blake3"
)
