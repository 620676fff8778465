# SPDX-License-Identifier: MIT
"""Presenters: each shows a finished comparison in one form, and computes nothing."""
