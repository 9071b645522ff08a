"""GRPO steps of this package and of TRL's GRPOTrainer on the same work, each in its own process."""
