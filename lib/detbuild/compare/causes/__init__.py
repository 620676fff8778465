# SPDX-License-Identifier: MIT
"""The causes: one module each. docs/causes.md says how to add one."""
