# SPDX-License-Identifier: MIT
"""What enforces a session. Engines obey the table in ``policy`` and answer alike."""
