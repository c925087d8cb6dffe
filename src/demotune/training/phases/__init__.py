"""The phases of a stage: sample, score, train, check. Files lie between them, so any of them can be taken up again.

Each phase looks whether its output is there, makes it if not, publishes it, and then states that it is done.
"""
