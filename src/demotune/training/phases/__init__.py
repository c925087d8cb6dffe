"""The phases of a stage, one a file: `run(stage)` does it, `work(plan)` counts beforehand what that takes.

Phases leave files for each other, so any of them can be resumed. A method (training/methods/) is a list of them.
"""
