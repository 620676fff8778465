# SPDX-License-Identifier: MIT
"""The BPF programs of the eBPF engine, and the Python mirror of what they share with user space."""
