/* SPDX-License-Identifier: MIT */
/* The few headers that BCC wants before it compiles anything. Our programs read kernel memory by offsets alone, so
 * these stand in for the running kernel's own, which need not be installed. */
#define CONFIG_BPF_SYSCALL 1
