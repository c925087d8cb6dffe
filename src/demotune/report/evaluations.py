"""The reader of evaluations, under the name that this package imports it by."""

from demotune.runs.evaluation import Comparison, Evaluation, Measure, read_evaluation

__all__ = ["Comparison", "Evaluation", "Measure", "read_evaluation"]
