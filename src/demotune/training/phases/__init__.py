"""The phases of a stage, one a file: `run(stage)` does it, `work(plan)` counts beforehand what that takes.

Files lie between phases, so any of them can be taken up again. A method (training/methods/) is a list of them.
"""
