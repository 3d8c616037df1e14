//go:build pins

// The module whose files are read and whose code is not.
package main

import _ "github.com/c2sp/wycheproof"
