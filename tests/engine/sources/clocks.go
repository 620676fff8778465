// clocks SOURCE: read one clock as Go programs do and print "seconds fraction".
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func clockGettime(clock int) {
	var now syscall.Timespec
	_, _, refused := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&now)), 0)
	if refused != 0 {
		fmt.Println(refused)
		os.Exit(1)
	}
	fmt.Println(now.Sec, now.Nsec)
}

func main() {
	source, id, _ := strings.Cut(os.Args[1], ":")
	switch source {
	case "now":
		fmt.Println(time.Now().Unix(), 0)
	case "thread":
		done := make(chan int64)
		go func() {
			runtime.LockOSThread()
			done <- time.Now().Unix()
		}()
		fmt.Println(<-done, 0)
	case "gettimeofday":
		var now syscall.Timeval
		syscall.Gettimeofday(&now)
		fmt.Println(now.Sec, now.Usec)
	case "time":
		var now syscall.Time_t
		syscall.Time(&now)
		fmt.Println(now, 0)
	case "clock_gettime":
		clock, _ := strconv.Atoi(id)
		clockGettime(clock)
	}
}
