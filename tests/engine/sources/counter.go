// Recovers from a fault: the runtime makes a panic of SIGSEGV.
package main

import "fmt"

func main() {
	defer func() { fmt.Println(recover() != nil) }()
	var nowhere *int
	fmt.Println(*nowhere)
}
