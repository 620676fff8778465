# SPDX-License-Identifier: MIT
"""The ground floor: kernel interfaces by their kernel names, without any policy."""
