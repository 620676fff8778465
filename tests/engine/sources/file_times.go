// file_times PATH: print the modification time of a file, and of its open descriptor, as Go programs see it.
package main

import (
	"fmt"
	"os"
)

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	for _, stat := range []func() (os.FileInfo, error){
		func() (os.FileInfo, error) { return os.Stat(os.Args[1]) },
		func() (os.FileInfo, error) { return os.Lstat(os.Args[1]) },
		file.Stat,
	} {
		info, err := stat()
		if err != nil {
			panic(err)
		}
		fmt.Printf("%d.%09d\n", info.ModTime().Unix(), info.ModTime().Nanosecond())
	}
}
