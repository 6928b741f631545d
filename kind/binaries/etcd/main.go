// etcd, unchanged: its own main package sits in a module with replace directives, which `go build` refuses from outside.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
