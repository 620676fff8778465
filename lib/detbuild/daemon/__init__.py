# SPDX-License-Identifier: MIT
"""The root daemon of the eBPF engine: it loads the BPF programs, and holds the sessions of every user."""
