"""Evaluation: the same prompts, sampling and scores as in training, with honest intervals."""
