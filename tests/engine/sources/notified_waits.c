/* waits, for tests without BPF. */
#include "notified_clock.h"
#include "waits.c"
