/* SPDX-License-Identifier: MIT */
/* The oldest kernel that has all helpers that our programs call. No program depends on a newer one. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
