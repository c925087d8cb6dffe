"""The tables and figures of arXiv 2405.17888, each as a sweep with its evaluation and its page."""
