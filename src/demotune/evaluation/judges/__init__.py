"""Judges of answers: a reward, a function, a server."""
