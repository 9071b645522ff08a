"""Reinforcement learning from zero on open-ended prompts, and an honest account of its transfer."""

__version__ = "0.1.0"
