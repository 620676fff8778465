"""Plays the part of OE-Core's library of this name, as far as the epoch goes."""

BBIMPORTS = ["reproducible"]
