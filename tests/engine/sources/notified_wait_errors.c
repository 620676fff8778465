/* wait_errors, for tests without BPF. */
#include "notified_clock.h"
#include "wait_errors.c"
